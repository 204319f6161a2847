"""The 2014 paper's networks: sizes, first weights, limits of norms, maxout, dropout; their step in plain PyTorch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

import gansmith
from gansmith import Sampler, UserError, checkpoint, plan
from gansmith.build import Experiment, build, build_network, build_prior, derive_seed
from gansmith.data import Batch, load_images
from gansmith.exactness import compare as gansmith_compare
from gansmith.games.critique import Critique, theory
from gansmith.games.two_player import Alternating, Simultaneous
from gansmith.networks import gan2014
from gansmith.networks.gan2014 import ConvDiscriminator, Discriminator, FrontedGenerator, Generator, Maxout, MaxoutConv
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum
from gansmith.players import Player, sgd
from gansmith.priors import Uniform
from gansmith.recipe import Recipe
from gansmith.state import State

CPU = torch.device("cpu")
NAMES = [f"gan2014_{data}" for data in ("mnist", "tfd_pretrain", "tfd", "cifar10_fc", "cifar10_conv")]
LIMIT = 1.9365
Small = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def nets(recipe: Recipe, mean_image: Tensor | None = None) -> dict[str, nn.Module]:
    prior = build_prior(recipe)
    return {name: build_network(recipe, name, prior, mean_image) for name in recipe.networks}


def on_paper(name: str) -> dict[str, nn.Module]:
    """A recipe's networks at their full size, without the numbers in them."""
    with torch.device("meta"):
        return nets(plan(name).recipe)


def layers(net: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [m for m in net.modules() if isinstance(m, kinds)]


def train(what: str | Path, *, out: Path | None = None, **options: Any) -> Path:
    return gansmith.train(what, out=out, device="cpu", quiet=True, **options)


# ---- sizes ------------------------------------------------------------------------------------------------------

# The weights of every layer, units by inputs, and the parameters of G and of D in millions, from the authors' files.
LAYERS: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "gan2014_mnist": ([(1200, 100), (1200, 1200), (784, 1200)], [(240 * 5, 784), (240 * 5, 240), (1, 240)]),
    "gan2014_tfd_pretrain": (
        [(8000, 100), (8000, 8000), (2304, 8000)],
        [(1200 * 5, 2304), (1200 * 5, 1200), (1, 1200)],
    ),
    "gan2014_tfd": (
        [(8000, 100), (100, 8000), (8000, 100), (8000, 8000), (2304, 8000)],
        [(1200 * 5, 2304), (1200 * 5, 1200), (1, 1200)],
    ),
    "gan2014_cifar10_fc": (
        [(8000, 100), (8000, 8000), (3072, 8000)],
        [(1600 * 5, 3072), (1600 * 5, 1600), (1, 1600)],
    ),
    "gan2014_cifar10_conv": (
        [(8000, 100), (8000, 8000), (80, 3, 5, 5)],
        [(32 * 2, 3, 8, 8), (32 * 2, 32, 8, 8), (192 * 2, 32, 5, 5), (500 * 5, 192 * 25), (1, 500)],
    ),
}
MILLIONS = {
    "gan2014_mnist": (2.50, 1.23),
    "gan2014_tfd_pretrain": (83.25, 21.04),
    "gan2014_tfd": (84.86, 21.04),
    "gan2014_cifar10_fc": (89.40, 37.39),
    "gan2014_cifar10_conv": (64.83, 12.45),
}
ACTIVATIONS = {
    "gan2014_mnist": [nn.ReLU, nn.ReLU, nn.Sigmoid],
    "gan2014_tfd_pretrain": [nn.ReLU, nn.Sigmoid, nn.Sigmoid],
    "gan2014_tfd": [nn.ReLU, nn.Sigmoid, nn.ReLU, nn.Sigmoid, nn.Sigmoid],
    "gan2014_cifar10_fc": [nn.ReLU, nn.Sigmoid, nn.Identity],
    "gan2014_cifar10_conv": [nn.ReLU, nn.Sigmoid],
}


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_parameters_are_those_of_the_authors(name: str) -> None:
    made = on_paper(name)
    for net, shapes, millions in zip((made["G"], made["D"]), LAYERS[name], MILLIONS[name], strict=True):
        assert [tuple(p.shape) for n, p in net.named_parameters() if n.endswith("weight")] == shapes
        assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions
    found = [type(m) for m in layers(made["G"], nn.ReLU, nn.Sigmoid, nn.Identity)]
    assert found == ACTIVATIONS[name]
    assert not layers(made["D"], nn.ReLU, nn.Sigmoid)  # maxout alone, and a logit


def test_the_mnist_networks_to_the_last_parameter() -> None:
    made = on_paper("gan2014_mnist")
    assert [sum(p.numel() for p in made[name].parameters()) for name in ("G", "D")] == [2_503_984, 1_231_441]


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_on_the_input_of_every_layer_of_d_and_nowhere_in_g(name: str) -> None:
    made = on_paper(name)
    assert not layers(made["G"], nn.Dropout) and made["G"].training
    convolutional = name == "gan2014_cifar10_conv"
    parts = layers(made["D"], nn.Dropout, nn.Linear, nn.Conv2d)
    assert [type(m) for m in parts[::2]] == [nn.Dropout] * (5 if convolutional else 3)
    assert not any(isinstance(m, nn.Dropout) for m in parts[1::2]) and len(parts) % 2 == 0
    assert [1 - m.p for m in parts[::2]] == [0.8] + [0.5] * (len(parts) // 2 - 1)  # what is kept


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_the_authors(name: str) -> None:
    recipe = plan(name).recipe
    lr = {"mnist": 0.1, "tfd_pretrain": 0.05, "tfd": 0.05, "cifar10_fc": 0.025, "cifar10_conv": 0.004}
    for player in ("G", "D"):
        assert recipe.optimizers[player].name == "sgd"
        assert recipe.optimizers[player].args == {
            "lr": lr[name.removeprefix("gan2014_")],
            "momentum": 0.5,
            "weight_decay": 0.0,
        }
    assert [(c.name, dict(c.args)) for c in recipe.schedules] == [
        ("exponential", {"of": "lr", "factor": 1.000004, "floor": 1e-6}),
        ("linear", {"of": "momentum", "to": 0.7, "over": 249}),
    ]
    assert (recipe.game.name, recipe.batch_size) == ("simultaneous", 128 if name == "gan2014_cifar10_conv" else 100)
    assert recipe.objective is not None and recipe.objective.name == "non_saturating" and not recipe.penalties
    held_back = {"gan2014_mnist": 10_000, "gan2014_cifar10_fc": 10_000, "gan2014_cifar10_conv": 10_000}
    assert recipe.data.validation == held_back.get(name, 0)
    z = build_prior(recipe).sample(2000, torch.Generator().manual_seed(0))
    assert z.shape == (2000, 100)
    assert z.mean().abs() < 0.01 and abs(z.var().item() - 1) < 0.02  # unit variance, whichever shape
    bound = math.sqrt(3) if name == "gan2014_mnist" else 4.0
    assert (z.abs().max() <= bound) == (name == "gan2014_mnist") and z.abs().max() > 0.99 * bound


# ---- first weights ----------------------------------------------------------------------------------------------

# Small enough to be made in no time, large enough for statistics; ranges and biases are the recipes' own.
FEWER: dict[str, dict[str, Any]] = {
    "gan2014_mnist": {},
    "gan2014_tfd_pretrain": {"networks.G.widths": [400, 300], "networks.D.units": [60, 60]},
    "gan2014_tfd": {"networks.G.front": 400, "networks.G.widths": [400, 300], "networks.D.units": [60, 60]},
    "gan2014_cifar10_fc": {"networks.G.widths": [400, 300], "networks.D.units": [60, 60]},
    "gan2014_cifar10_conv": {"networks.G.width": 300, "networks.G.maps": 40, "networks.D.units": 20},
}
RANGES = {  # of G's layers; those of D are all the same
    "gan2014_mnist": [0.05, 0.05, 0.05],
    "gan2014_tfd_pretrain": [0.05, 0.05, None],
    "gan2014_tfd": [0.05, 0.05, 0.05, 0.05, 0.05],
    "gan2014_cifar10_fc": [0.05, 0.05, 0.5],
    "gan2014_cifar10_conv": [0.05, 0.05, 0.05],
}


def assert_uniform(w: Tensor, r: float) -> None:
    """U(-r, r): within the range and up to its ends, with its mean 0, variance r^2 / 3 and fourth moment r^4 / 5."""
    w, n = w.detach().double().flatten(), w.numel()
    assert w.abs().max() <= r and w.max() > r * (1 - 20 / n) and w.min() < -r * (1 - 20 / n)
    for power, mean, variance in ((1, 0, 1 / 3), (2, 1 / 3, 4 / 45), (4, 1 / 5, 16 / 225)):
        assert abs((w / r).pow(power).mean().item() - mean) < 5 * math.sqrt(variance / n)


@pytest.mark.parametrize("name", NAMES)
def test_weights_start_uniform_and_biases_at_zero(name: str) -> None:
    made = nets(plan(name, flags=FEWER[name]).recipe)
    weighted = layers(made["G"], nn.Linear, nn.ConvTranspose2d)
    for layer, r in zip(weighted, RANGES[name], strict=True):
        if r is not None:
            assert_uniform(layer.weight, r)
    for layer in layers(made["D"], nn.Linear, nn.Conv2d):
        assert_uniform(layer.weight, 0.005)
        assert layer.bias.abs().max() == 0
    biases = [p for n, p in made["G"].named_parameters() if n.endswith("bias")]
    at_start = {"gan2014_tfd_pretrain": {1: -2.0}, "gan2014_tfd": {1: -2.0}}.get(name, {})
    assert len(biases) == len(weighted)  # the untied one of the transposed convolution, too
    for i, bias in enumerate(biases):
        assert torch.equal(bias, torch.full_like(bias, at_start.get(i, 0.0)))


def test_every_sigmoid_layer_starts_at_its_bias_and_no_other() -> None:
    kinds = ("sigmoid", "relu", "sigmoid", "sigmoid")
    net = Generator(5, (1, 2, 2), None, widths=(3, 4, 5, 6), hidden=kinds, sigmoid_bias=-2.0)
    found = [layer.bias.tolist() for layer in layers(net, nn.Linear)]
    assert found == [[-2.0] * 3, [0.0] * 4, [-2.0] * 5, [-2.0] * 6, [0.0] * 4]


@pytest.mark.parametrize("n", [1, 100, 300])
def test_sparse_weights_are_n_normals_per_unit(n: int) -> None:
    net = Generator(8, (1, 20, 20), None, widths=(40, 300), sparse_out=n)
    weight = layers(net, nn.Linear)[-1].weight.detach().double()
    assert weight.shape == (400, 300)
    assert ((weight != 0).sum(1) == n).all()  # of each output unit's incoming weights, exactly
    values = weight[weight != 0]
    count = values.numel()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert abs(values.pow(power).mean().item() - mean) < 5 * math.sqrt(variance / count)
    used = (weight != 0).sum(0).double()  # by column: binomial(400, n / 300), every place as likely as the others
    p = n / 300
    assert (used - 400 * p).abs().max() <= 5 * math.sqrt(400 * p * (1 - p)) + 1
    if 1 < n < 300:
        assert len((weight != 0).unique(dim=0)) == 400  # no two units have the same places


def test_more_weights_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="sparse_out is 7; the nearest is 6, all weights of the last layer"):
        Generator(3, (1, 2, 2), None, widths=(5, 6), sparse_out=7)
    with pytest.raises(UserError, match=r"^networks\.G: sparse_out is 17; the nearest is 16"):
        nets(plan("gan2014_tfd_pretrain", flags={"networks.G.widths": [16, 16], "networks.G.sparse_out": 17}).recipe)


def made_of_mnist() -> Experiment:
    return build(plan("gan2014_mnist").recipe, CPU, say=lambda text: None, progress=False)


def test_gs_output_starts_at_the_logit_of_the_first_50000_images() -> None:
    images = load_images("mnist", img_size=28, channels=1).images[:50_000]
    mean = images.reshape(50_000, 784).mean(0, dtype=np.float64) / 255
    dead = images.reshape(50_000, 784).max(0) == 0
    assert dead.sum() == 67
    clipped = mean.clip(1e-7, 1 - 1e-7)
    expected = np.log(clipped / (1 - clipped))
    made = made_of_mnist()
    bias = layers(made.generator.net, nn.Linear)[-1].bias.detach().double().numpy()
    np.testing.assert_allclose(bias, expected, rtol=1e-6)
    assert np.round(bias[dead], 3).tolist() == [-16.118] * 67
    assert (bias[~dead] > -16.118 + 0.01).all() and bias.max() < 0.5
    # The 10,000 images that are held back have no part in it.
    all_of_them = load_images("mnist", img_size=28, channels=1).images.reshape(60_000, 784).mean(0) / 255
    assert np.abs(mean - all_of_them).max() > 1e-4
    # z = 0 passes through the layers without bias: the first picture is the mean one.
    with torch.no_grad():
        x = made.generator.net(torch.zeros(1, 100)).flatten().numpy()
    np.testing.assert_allclose(x, clipped, rtol=1e-5, atol=1e-9)
    made.stream.close()


def test_a_bias_from_data_needs_probabilities() -> None:
    with pytest.raises(UserError, match=r"^networks\.G: bias_from_data needs a sigmoid output"):
        nets(
            plan("gan2014_cifar10_fc", flags={**FEWER["gan2014_cifar10_fc"], "networks.G.bias_from_data": True}).recipe
        )
    mean = torch.rand(1, 2, 2)
    net = Generator(3, (1, 2, 2), mean, widths=(2, 2), bias_from_data=False)
    assert layers(net, nn.Linear)[-1].bias.abs().max() == 0


def test_the_ends_of_the_range_have_finite_logits() -> None:
    mean = torch.tensor([0.0, 1e-9, 0.25, 1.0], dtype=torch.float64).reshape(1, 2, 2)
    bias = layers(Generator(3, (1, 2, 2), mean, widths=(2, 2)), nn.Linear)[-1].bias
    far = math.log(1e-7 / (1 - 1e-7))
    torch.testing.assert_close(bias.double(), torch.tensor([far, far, -math.log(3), -far]).double(), rtol=1e-6, atol=0)


# ---- the limit of norms -----------------------------------------------------------------------------------------


def limited(w: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """The authors' rule, one unit after the other: w <- w clip(|w|, 0, c) / (1e-7 + |w|)."""
    rows = []
    for row in w:
        norm = math.sqrt(sum(float(v) ** 2 for v in row))
        rows.append([float(v) * min(norm, limit) / (1e-7 + norm) for v in row])
    return np.array(rows)


def of_all_lengths(net: nn.Module) -> None:
    """Scales every row to a length of its own, from a hundredth of the limit to ten times it."""
    with torch.no_grad():
        for layer in layers(net, nn.Linear):
            lengths = torch.logspace(-2, 1, len(layer.weight), dtype=torch.float64) * LIMIT
            w = torch.randn(layer.weight.shape, dtype=torch.float64)
            layer.weight.copy_(w / w.norm(dim=1, keepdim=True) * lengths[:, None])


CONSTRAINED: dict[str, Callable[[], Any]] = {
    "Generator": lambda: Generator(5, (1, 4, 4), None, widths=(9, 8), max_col_norm=LIMIT),
    "FrontedGenerator": lambda: FrontedGenerator(5, (1, 4, 4), front=9, inner_dim=7, widths=(9, 8), max_col_norm=LIMIT),
    "Discriminator": lambda: Discriminator((1, 4, 4), units=(6, 5), pieces=3, max_col_norm=LIMIT),
}


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_every_units_weights_stay_within_the_limit(kind: str) -> None:
    net = CONSTRAINED[kind]().double()
    of_all_lengths(net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net.constrain()
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(p, before[name])
            continue
        old, new = before[name].norm(dim=1), p.detach().norm(dim=1)
        assert (new <= LIMIT).all()
        np.testing.assert_allclose(p.detach().numpy(), limited(before[name].numpy(), LIMIT), rtol=1e-13, atol=0)
        cut = old > LIMIT
        if len(cut) > 1:  # some are cut to the limit, the others stay as they were but for the authors' 1e-7
            assert cut.any() and (~cut).any()
        torch.testing.assert_close(new[cut], torch.full_like(new[cut], LIMIT), rtol=1e-7, atol=0)
        torch.testing.assert_close(p[~cut], before[name][~cut], rtol=1e-7 / (0.01 * LIMIT), atol=0)
        direction = nn.functional.cosine_similarity(p, before[name], dim=1)
        torch.testing.assert_close(direction, torch.ones_like(direction), rtol=1e-12, atol=0)


def test_a_row_of_zeros_stays_and_is_finite() -> None:
    net = CONSTRAINED["Generator"]()
    with torch.no_grad():
        layers(net, nn.Linear)[0].weight.zero_()
    net.constrain()
    assert layers(net, nn.Linear)[0].weight.abs().max() == 0


def test_each_piece_of_a_maxout_unit_has_a_limit_of_its_own() -> None:
    """Of a unit with one long and two short pieces, the long one alone is cut."""
    net = Discriminator((1, 2, 2), units=(4,), pieces=3, dropout=(0, 0), max_col_norm=1.0).double()
    maxout = layers(net, Maxout)[0]
    with torch.no_grad():
        pieces = maxout.linear.weight.data.view(3, 4, 4)  # (pieces, units, inputs)
        pieces.fill_(0.0)
        pieces[0, 2, 0], pieces[1, 2, 1], pieces[2, 2, 2] = 5.0, 0.9, 0.5
    net.constrain()
    found = pieces[:, 2].norm(dim=1)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.9, 0.5]).double(), rtol=1e-6, atol=0)
    x = torch.eye(4).double().view(4, 1, 2, 2)
    torch.testing.assert_close(maxout(x.flatten(1))[:3, 2], found, rtol=1e-12, atol=0)  # these rows are unit 2's


def test_no_limit_changes_nothing() -> None:
    for net in (Generator(5, (1, 4, 4), None, widths=(9, 8)), Discriminator((1, 4, 4), units=(6, 5))):
        of_all_lengths(net)
        before = copy.deepcopy(net.state_dict())
        net.constrain()
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_players_step_ends_inside_the_limit() -> None:
    net = CONSTRAINED["Discriminator"]().double()
    of_all_lengths(net)
    player = Player("D", net, partial(sgd, lr=0.01))
    x = torch.randn(8, 1, 4, 4, dtype=torch.float64)
    grads = player.gradients(net(x).square().mean())
    free = {n: p.detach() - 0.01 * g for (n, p), g in zip(net.named_parameters(), grads.tensors, strict=True)}
    player.step(grads)
    for name, p in net.named_parameters():
        expected = limited(free[name].numpy(), LIMIT) if name.endswith("weight") else free[name].numpy()
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12, atol=1e-15)
    assert max(v.norm(dim=1).max() for n, v in free.items() if n.endswith("weight")) > LIMIT


@pytest.mark.parametrize("limit", [0.5, 0.0])
def test_training_keeps_every_row_within_the_limit(limit: float, pictures: Path, small: Small, tmp_path: Path) -> None:
    wide = {f"networks.{p}.max_col_norm": limit for p in "GD"} | {"networks.D.irange": 0.3}
    flags = small("gan2014_tfd_pretrain", **wide)
    run = train("gan2014_tfd_pretrain", data=pictures, out=tmp_path / "run", steps=12, overrides=flags)
    tree, _ = checkpoint.read(run / "checkpoints" / "00000012")
    for player in ("G", "D"):
        weights = [v for n, v in tree["players"][player]["net"].items() if n.endswith("weight")]
        longest = max(float(w.norm(dim=1).max()) for w in weights)
        assert len(weights) == 3 and (longest <= 0.5 + 1e-6 if limit else longest > 0.6)
    if limit:  # sparse weights begin far above it: they are at the limit after the first step
        last = tree["players"]["G"]["net"]["model.4.weight"].norm(dim=1)
        assert (last > 0.3).all()


# ---- maxout -----------------------------------------------------------------------------------------------------


def test_maxout_is_the_largest_piece_of_each_unit() -> None:
    net = Maxout(7, 4, 3, irange=1.0).double()
    nn.init.normal_(net.linear.bias)
    x = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    w, b = net.linear.weight.detach().numpy(), net.linear.bias.detach().numpy()
    y = net(x)
    assert y.shape == (6, 4)
    slope = torch.randn(6, 4, dtype=torch.float64)
    found = torch.autograd.grad((y * slope).sum(), [x, net.linear.weight, net.linear.bias])
    expected = [np.zeros_like(t.detach().numpy()) for t in (x, net.linear.weight, net.linear.bias)]
    rows_of = [[p * 4 + u for p in range(3)] for u in range(4)]
    winners = set()
    for i, row in enumerate(x.detach().numpy()):
        for u in range(4):
            pieces = [float(w[r] @ row + b[r]) for r in rows_of[u]]
            assert y[i, u].item() == pytest.approx(max(pieces), rel=1e-13)
            r = rows_of[u][pieces.index(max(pieces))]  # the gradient goes to the largest piece alone
            winners.add(pieces.index(max(pieces)))
            expected[0][i] += slope[i, u].item() * w[r]
            expected[1][r] += slope[i, u].item() * row
            expected[2][r] += slope[i, u].item()
    assert winners == {0, 1, 2}
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), e, rtol=1e-12, atol=1e-13)


def test_maxout_gradients_are_those_of_finite_differences() -> None:
    net = Maxout(4, 3, 5, irange=1.0).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(net, {"linear.weight": w}, (x,)), (
        x, net.linear.weight,
    ))  # fmt: skip


def test_pieces_of_one_are_a_linear_layer() -> None:
    net = Maxout(4, 3, 1, irange=1.0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x), net.linear(x))


def naive_maxout_conv(net: MaxoutConv, x: NDArray[np.float64], pool: int, stride: int) -> NDArray[np.float64]:
    """Convolution, maximum of neighbouring channels, pooling whose last windows hang over the edge, as defined."""
    w, b = net.conv.weight.detach().numpy(), net.conv.bias.detach().numpy()  # type: ignore[union-attr]
    kernel, padding = w.shape[-1], net.conv.padding[0]
    assert isinstance(padding, int)
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    side = padded.shape[-1] - kernel + 1
    h = np.empty((len(x), len(w), side, side))
    for i in range(side):
        for j in range(side):
            h[:, :, i, j] = np.einsum("nchw,ochw->no", padded[:, :, i : i + kernel, j : j + kernel], w) + b
    h = np.maximum(h[:, 0::2], h[:, 1::2])
    starts = [s for s in range(0, side, stride) if s == 0 or s - stride + pool < side]  # until all is covered
    rows = [[h[:, :, i : i + pool, j : j + pool].max((2, 3)) for j in starts] for i in starts]
    return np.stack([np.stack(row, -1) for row in rows], -2)


@pytest.mark.parametrize(
    ("side", "kernel", "padding", "pool", "stride", "after"),
    [(32, 8, 4, 4, 2, 16), (16, 8, 3, 4, 2, 7), (7, 5, 3, 2, 2, 5), (6, 3, 1, 2, 2, 3)],
)
def test_a_maxout_convolution_is_its_definition(
    side: int, kernel: int, padding: int, pool: int, stride: int, after: int
) -> None:
    net = MaxoutConv(2, 3, kernel, padding, pool, stride, pieces=2, irange=1.0).double()
    nn.init.normal_(net.conv.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 2, side, side, dtype=torch.float64)
    y = net(x).detach().numpy()
    assert y.shape == (2, 3, after, after)
    np.testing.assert_allclose(y, naive_maxout_conv(net, x.numpy(), pool, stride), rtol=1e-11, atol=1e-11)


def test_the_convolutional_d_goes_through_these_sizes() -> None:
    """33 -> 16 -> 15 -> 7 -> 9 -> 5: without ceil_mode the pools would give 15, 6 and 4."""
    with torch.device("meta"):
        net = nets(plan("gan2014_cifar10_conv").recipe)["D"]
        sides: list[int] = []
        for part in layers(net, MaxoutConv):
            for inner in (part.conv, part.pool):
                inner.register_forward_hook(lambda module, args, output: sides.append(output.shape[-1]))
        assert net(torch.empty(2, 3, 32, 32)).shape == (2,)
    assert sides == [33, 16, 15, 7, 9, 5]


def test_the_last_row_and_column_of_a_map_count() -> None:
    """Pooling covers the whole map: each value, if it is the largest, is in the output."""
    net = MaxoutConv(1, 1, 1, 0, pool=4, stride=2, pieces=2, irange=1.0)
    with torch.no_grad():
        net.conv.weight.fill_(1.0)
    for side in (33, 15):
        for i, j in ((side - 1, side - 1), (0, side - 1), (side - 1, 4), (7, 7)):
            x = torch.zeros(1, 1, side, side)
            x[0, 0, i, j] = 5.0
            assert net(x).max() == 5.0


# ---- the transposed convolution ---------------------------------------------------------------------------------


def test_the_convolutional_g_is_its_definition() -> None:
    """out[c, 3 i + k, 3 j + l] sums maps[m, i, j] w[m, c, k, l]; 3 * 9 + 5 = 32; one bias for every value."""
    net = gan2014.ConvGenerator(6, (3, 32, 32), width=7, maps=4).double()
    nn.init.normal_(net.bias)
    z = torch.randn(2, 6, dtype=torch.float64)
    relu, sigmoid, w = (m.weight.detach().numpy() for m in layers(net, nn.Linear, nn.ConvTranspose2d))
    h = np.maximum(z.numpy() @ relu.T, 0)
    maps = (1 / (1 + np.exp(-(h @ sigmoid.T)))).reshape(2, 4, 10, 10)
    out = np.zeros((2, 3, 32, 32)) + net.bias.detach().numpy()
    for i in range(10):
        for j in range(10):
            for k in range(5):
                for m in range(5):
                    out[:, :, 3 * i + k, 3 * j + m] += maps[:, :, i, j] @ w[:, :, k, m]
    np.testing.assert_allclose(net(z).detach().numpy(), out, rtol=1e-12, atol=1e-12)
    assert [p.shape for n, p in net.named_parameters() if n == "bias"] == [(3, 32, 32)]


def test_one_bias_moves_one_value() -> None:
    net = gan2014.ConvGenerator(6, (3, 32, 32), width=7, maps=4).double()
    z = torch.randn(2, 6, dtype=torch.float64)
    before = net(z)
    with torch.no_grad():
        net.bias[1, 30, 4] += 2.5
    moved = net(z) - before
    assert moved[:, 1, 30, 4].tolist() == pytest.approx([2.5, 2.5]) and (moved != 0).sum() == 2


@pytest.mark.parametrize("player", ["G", "D"])
def test_the_convolutional_networks_have_one_size(player: str) -> None:
    recipe = plan("gan2014_cifar10_conv", flags={**FEWER["gan2014_cifar10_conv"], "img_size": 28}).recipe
    with pytest.raises(UserError, match=rf"^networks\.{player}: img_size is 28; it must be 32$"):
        build_network(recipe, player, build_prior(recipe))


# ---- ranges of the output, and refusals -------------------------------------------------------------------------


def test_a_sigmoid_g_makes_probabilities_and_a_linear_one_anything() -> None:
    z = torch.randn(50, 5, dtype=torch.float64)
    for output in ("sigmoid", "linear"):
        net = Generator(5, (1, 4, 4), None, widths=(90, 80), output=output, bias_from_data=False).double()  # type: ignore[arg-type]
        x = net(z)
        with torch.no_grad():
            layers(net, nn.Linear)[-1].weight.mul_(1000)
        scaled = net(z)
        if output == "linear":
            torch.testing.assert_close(scaled, 1000 * x)
        else:
            assert scaled.min() >= 0 and scaled.min() < 0.01 and scaled.max() > 0.99 and scaled.max() <= 1
            torch.testing.assert_close(torch.logit(scaled, eps=1e-300), 1000 * torch.logit(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "flags", "text"),
    [
        ("gan2014_mnist", {"networks.G.hidden": ["relu"]}, r"^networks\.G: hidden names 1 activations for 2 layers"),
        (
            "gan2014_mnist",
            {"networks.D.dropout": [0.2]},
            r"^networks\.D: dropout is \[0.2\]; it must be 3 shares below 1",
        ),
        (
            "gan2014_mnist",
            {"networks.D.dropout": [0, 1, 0]},
            r"^networks\.D: dropout .*3 shares below 1, one per layer",
        ),
        ("gan2014_mnist", {"networks.D.units": [5] * 4}, r"^networks\.D: dropout .* must be 5 shares below 1"),
        ("gan2014_cifar10_conv", {"networks.D.maps": [3, 3]}, r"^networks\.D: maps is \[3, 3\]; .*three convolutions"),
        ("gan2014_cifar10_conv", {"networks.D.dropout": [0.5] * 4}, r"^networks\.D: dropout .*must be 5 shares"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, flags: dict[str, Any], text: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=text) as caught:
        nets(plan(name, flags=flags).recipe)
    assert "\n" not in str(caught.value)


# ---- dropout ----------------------------------------------------------------------------------------------------


def masks(net: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What goes into every dropout of a network and what comes out, as they are called."""
    seen: list[tuple[Tensor, Tensor]] = []
    for module in layers(net, nn.Dropout):
        module.register_forward_hook(lambda module, args, output: seen.append((args[0].detach(), output.detach())))
    return seen


def test_what_stays_is_scaled_up_and_the_mean_is_kept() -> None:
    net = Discriminator((1, 20, 20), units=(300, 200), pieces=2, irange=1.0).double()
    seen = masks(net)
    net(torch.rand(200, 1, 20, 20, dtype=torch.float64) + 0.5)
    assert len(seen) == 3
    for (before, after), keep in zip(seen, (0.8, 0.5, 0.5), strict=True):
        kept = after != 0
        torch.testing.assert_close(after[kept], before[kept] / keep, rtol=1e-14, atol=0)
        n = kept.numel()
        assert abs(kept.double().mean().item() - keep) < 5 * math.sqrt(keep * (1 - keep) / n)
        # One draw for every value of every sample: no row and no column stays or goes together.
        for axis in (0, 1):
            share = kept.double().mean(axis)
            spread = 5.5 * math.sqrt(keep * (1 - keep) / kept.shape[axis])
            assert (share - keep).abs().max() < spread
    assert not torch.equal(seen[1][1] != 0, seen[2][1][:, :1] != 0)


def test_the_convolutional_d_drops_single_values_of_maps() -> None:
    net = ConvDiscriminator((3, 32, 32), maps=(4, 4, 6), units=20)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    seen = masks(net)
    net(torch.randn(8, 3, 32, 32))
    assert [x.shape[1:] for x, _ in seen] == [(3, 32, 32), (4, 16, 16), (4, 7, 7), (150,), (20,)]
    for (_, after), keep in zip(seen, (0.8, 0.5, 0.5, 0.5, 0.5), strict=True):
        share = (after != 0).double().mean().item()
        assert abs(share - keep) < 5 * math.sqrt(keep * (1 - keep) / after.numel())
        if after.dim() == 4:
            whole = (after != 0).double().mean((2, 3))
            assert whole.min() > 0.1 and whole.max() < 0.95  # no map is dropped as a whole


def test_no_dropout_outside_of_training() -> None:
    net = Discriminator((1, 4, 4), units=(20, 20)).double().eval()
    x = torch.randn(30, 1, 4, 4, dtype=torch.float64)
    w1, w2, w3 = (m.weight.detach() for m in layers(net, nn.Linear))
    h1 = (x.flatten(1) @ w1.T).unflatten(1, (5, 20)).amax(1)
    h2 = (h1 @ w2.T).unflatten(1, (5, 20)).amax(1)
    torch.testing.assert_close(net(x), (h2 @ w3.T)[:, 0], rtol=1e-12, atol=1e-15)
    before = torch.get_rng_state()
    assert torch.equal(net(x), net(x)) and torch.equal(torch.get_rng_state(), before)


def small_game(kind: type[Simultaneous] | type[Alternating] = Simultaneous, lr: float = 1e-300) -> Any:
    """A game that stands still, of doubles."""
    prior = Uniform(dim=6, bound=math.sqrt(3))
    g = Generator(6, (1, 4, 4), torch.full((1, 4, 4), 0.3), widths=(12, 9), irange=0.3).double()
    d = Discriminator((1, 4, 4), units=(16, 12), pieces=3, irange=0.3).double()
    make = partial(sgd, lr=lr)
    G, D = Player("G", g, make), Player("D", d, make)
    return kind(G, D, prior, OBJECTIVES["non_saturating"], PenaltySum([]), torch.Generator().manual_seed(3))


def real(n: int = 8, seed: int = 1) -> Batch:
    return Batch(torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), None)


def test_one_pass_over_the_fakes_with_one_set_of_masks_serves_both_losses() -> None:
    game = small_game()
    seen = masks(game.D.net)
    passes: list[Tensor] = []
    game.D.net.register_forward_hook(lambda module, args, output: passes.append(output))
    metrics = game.round(real())
    assert len(passes) == 2 and len(seen) == 6  # one pass over the real images, one over the fakes
    of_real, of_fake = passes
    torch.testing.assert_close(metrics["loss/D"], (softplus(-of_real).mean() + softplus(of_fake).mean()).detach() / 2)
    torch.testing.assert_close(metrics["loss/G"], softplus(-of_fake).mean().detach())
    for (_, a), (_, b) in zip(seen[:3], seen[3:], strict=True):
        assert a.shape == b.shape and not torch.equal(a != 0, b != 0)  # real and fake have masks of their own
    again = masks(game.D.net)
    game.round(real())
    assert not torch.equal(again[0][1] != 0, seen[0][1] != 0)  # and so has every round


def test_gs_gradient_goes_through_the_masks() -> None:
    """In Alternating, too, D is in training while G moves: a fresh mask, and pixels that are dropped have no slope."""
    game = small_game(Alternating)
    seen = masks(game.D.net)
    slopes: list[Tensor] = []

    def watch(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(slopes.append)

    game.G.net.register_forward_hook(watch)
    game.round(real())
    assert len(seen) == 9 and len(slopes) == 1  # D on real, D on fake, then G's own pass
    kept = (seen[6][1] != 0).view(8, 1, 4, 4)
    assert (slopes[0][~kept] == 0).all() and (slopes[0][kept] != 0).any() and (~kept).any()
    assert not torch.equal(seen[3][1] != 0, seen[6][1] != 0)


def test_g_draws_nothing_and_is_the_same_in_training() -> None:
    for name in NAMES:
        recipe = plan(
            name, flags=FEWER[name] | ({"networks.G.widths": [40, 30]} if name == "gan2014_mnist" else {})
        ).recipe
        net = build_network(recipe, "G", build_prior(recipe))
        z = torch.randn(4, 100)
        before = torch.get_rng_state()
        with torch.no_grad():
            assert torch.equal(net.train()(z), net.eval()(z))
        assert torch.equal(torch.get_rng_state(), before)


def test_sampling_draws_nothing_of_the_training(pictures: Path, small: Small) -> None:
    flags = {**small("gan2014_mnist"), "data": str(pictures)}
    made = build(plan("gan2014_mnist", flags=flags).recipe, CPU, say=lambda text: None, progress=False)
    before = torch.get_rng_state()
    Sampler(made.generator.net, made.prior, values="unit").sample(range(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(m.training for p in made.game.players for m in p.net.modules())


def test_a_resume_replays_the_masks(pictures: Path, small: Small) -> None:
    found = gansmith.verify("gan2014_mnist", steps=5, data=pictures, device="cpu", overrides=small("gan2014_mnist"))
    assert found.exact and found.different == () and found.tensors > 20


def test_verify_sees_masks_that_are_forgotten(pictures: Path, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that exact means that there are masks, and that their random stream is a part of the state."""

    def noise_alone(state: State, rng: Mapping[str, Any]) -> None:
        state.noise.set_state(rng["noise"])

    monkeypatch.setattr(State, "set_streams", noise_alone)
    found = gansmith.verify("gan2014_mnist", steps=3, data=pictures, device="cpu", overrides=small("gan2014_mnist"))
    assert "players.D.net.model.1.linear.weight" in found.different


# ---- one step, written once more --------------------------------------------------------------------------------


class Plain:
    """The authors' step in plain PyTorch: no modules, no optimizer, classical momentum v <- mu v - lr g, w <- w + v."""

    def __init__(self, G: nn.Module, D: nn.Module, shares: Sequence[float], pieces: int, limit: float = 0.0) -> None:
        self.g = [p.detach().clone().requires_grad_() for p in G.parameters()]
        self.d = [p.detach().clone().requires_grad_() for p in D.parameters()]
        self.velocity = [torch.zeros_like(p) for p in (*self.d, *self.g)]
        self.shares, self.pieces, self.limit = shares, pieces, limit

    def generate(self, z: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self.g
        h = (z @ w1.t() + b1).clamp_min(0)
        h = (h @ w2.t() + b2).clamp_min(0)
        return 1 / (1 + torch.exp(-(h @ w3.t() + b3)))

    def drop(self, x: Tensor, share: float) -> Tensor:
        if share == 0:
            return x
        return x * torch.empty_like(x).bernoulli_(1 - share) / (1 - share)  # from torch's global stream

    def judge(self, x: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self.d
        h = self.drop(x, self.shares[0]) @ w1.t() + b1
        h = torch.stack(h.chunk(self.pieces, 1)).max(0).values
        h = self.drop(h, self.shares[1]) @ w2.t() + b2
        h = torch.stack(h.chunk(self.pieces, 1)).max(0).values
        return (self.drop(h, self.shares[2]) @ w3.t() + b3)[:, 0]

    def step(self, x: Tensor, z: Tensor, lr: float, mu: float) -> None:
        fake = self.generate(z)
        r, f = self.judge(x.flatten(1)), self.judge(fake)
        loss_d = 0.5 * (torch.log1p(torch.exp(-r)).mean() + torch.log1p(torch.exp(f)).mean())
        loss_g = torch.log1p(torch.exp(-f)).mean()
        grads = [*torch.autograd.grad(loss_d, self.d, retain_graph=True), *torch.autograd.grad(loss_g, self.g)]
        with torch.no_grad():
            for i, (p, gradient) in enumerate(zip((*self.d, *self.g), grads, strict=True)):
                self.velocity[i] = mu * self.velocity[i] - lr * gradient
                p += self.velocity[i]
                if self.limit and p.dim() == 2:
                    norm = (p**2).sum(1, keepdim=True) ** 0.5
                    p *= norm.clamp(0, self.limit) / (1e-7 + norm)


PER_EPOCH = 8


def both_ways(pictures: Path, flags: dict[str, Any], *, factor: float = 1.0, rounds: int = 20) -> float:
    """The recipe gan2014_mnist made small, and the plain step, on the same images and noise.

    The largest difference of a weight, as a share of the longest way that one has gone.
    """
    flags = {"schedules.0.factor": factor, "schedules.0.floor": 0.01, "schedules.1.over": 2, **flags}
    recipe = plan("gan2014_mnist", flags={**flags, "data": str(pictures), "seed": 11}).recipe
    made = build(recipe, CPU, say=lambda text: None, progress=False)
    G, D = made.game.players
    for player in (G, D):
        player.net.double()  # in place: the optimizers keep their parameters
    shares = [float(share) for share in recipe.networks["D"].args["dropout"]]
    plain = Plain(G.net, D.net, shares, pieces=5, limit=recipe.networks["D"].args["max_col_norm"])
    start = [p.detach().clone() for p in (*plain.d, *plain.g)]
    noise = torch.Generator().manual_seed(derive_seed(11, 1))
    batches = [next(made.stream).images.double() for _ in range(rounds)]
    assert made.stream.batches_per_epoch == PER_EPOCH and {len(b) for b in batches} == {8, 2}
    made.stream.position = 0

    torch.manual_seed(5)
    for t, x in enumerate(batches):
        made.schedules.apply(t, int(made.stream.epoch))
        next(made.stream)
        made.game.round(Batch(x, None))
    torch.manual_seed(5)
    for t, x in enumerate(batches):
        z = (torch.rand(len(x), 100, generator=noise, dtype=torch.float64) * 2 - 1) * math.sqrt(3)
        plain.step(x, z, lr=max(0.01, 0.1 / factor**t), mu=0.5 + 0.2 * min(t // PER_EPOCH / 2, 1))
    theirs = [p.detach() for p in (*plain.d, *plain.g)]
    ours = [p.detach() for p in (*D.parameters, *G.parameters)]
    moved = [float((a - b).abs().max()) for a, b in zip(theirs, start, strict=True)]
    assert min(moved) > 1e-4 and max(moved) > 0.05
    return max(float((a - b).abs().max()) for a, b in zip(theirs, ours, strict=True)) / max(moved)


@pytest.fixture
def lively(small: Small) -> dict[str, Any]:
    """Wider ranges than the paper's: in networks so small those would make gradients of nearly nothing."""
    return small("gan2014_mnist", **{"networks.G.irange": 0.3, "networks.G.irange_out": 0.3, "networks.D.irange": 0.3})


def test_the_recipe_is_the_authors_step_without_dropout(pictures: Path, lively: dict[str, Any]) -> None:
    assert both_ways(pictures, {**lively, "networks.D.dropout": [0, 0, 0]}) < 1e-12


def test_the_recipe_is_the_authors_step_with_dropout(pictures: Path, lively: dict[str, Any]) -> None:
    """The same seed of torch's stream gives both the same masks: real pass first, then the one pass over the fakes."""
    assert both_ways(pictures, lively) < 1e-12


def test_the_recipe_is_the_authors_step_with_a_limit_of_norms(pictures: Path, lively: dict[str, Any]) -> None:
    limits = {"networks.G.max_col_norm": 0.9, "networks.D.max_col_norm": 0.9}
    assert both_ways(pictures, {**lively, **limits}) < 1e-12


def test_a_decaying_learning_rate_differs_by_its_decay_alone(pictures: Path, lively: dict[str, Any]) -> None:
    """The authors multiply lr into the velocity, PyTorch after it: with a factor of 1 + e the ways differ by O(e)."""
    own, ten_times = (both_ways(pictures, lively, factor=f, rounds=PER_EPOCH) for f in (1.000004, 1.00004))
    assert 0 < own < 4e-6
    assert ten_times == pytest.approx(10 * own, rel=0.02)


def test_other_masks_are_another_step(pictures: Path, lively: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that 1e-12 means something: scaled by the other share, the plain step is far away."""
    drop = Plain.drop
    monkeypatch.setattr(Plain, "drop", lambda self, x, share: drop(self, x, share) * (1 - share))
    assert both_ways(pictures, lively) > 1e-4


# ---- weights from another run -----------------------------------------------------------------------------------

# In networks so small the paper's ranges would make gradients of nearly nothing.
TFD: dict[str, Any] = {
    **{"networks.G.widths": [16, 12], "networks.D.units": [8, 8]},
    **{"networks.G.irange": 0.5, "networks.D.irange": 0.5},
}


def first_stage(pictures: Path, small: Small, at: Path, **more: Any) -> Path:
    flags = small("gan2014_tfd_pretrain", **{**TFD, "latent_dim": 10, **more})
    return train("gan2014_tfd_pretrain", data=pictures, out=at, steps=4, overrides=flags)


def second_stage(small: Small, pictures: Path, first: Path | None, **more: Any) -> dict[str, Any]:
    weights = None if first is None else str(first)
    return small("gan2014_tfd", **{**TFD, "data": str(pictures), "networks.G.weights": weights, **more})


def build_quietly(name: str, flags: dict[str, Any], said: list[str] | None = None) -> Experiment:
    say = (lambda text: None) if said is None else said.append
    return build(plan(name, flags=flags).recipe, CPU, say=say, progress=False)


def saved(run: Path, round: int, player: str = "G") -> dict[str, Tensor]:
    return checkpoint.read(run / "checkpoints" / f"{round:08d}")[0]["players"][player]["net"]


def test_new_layers_stand_before_a_pretrained_generator(pictures: Path, small: Small, tmp_path: Path) -> None:
    first = first_stage(pictures, small, tmp_path / "first")
    said: list[str] = []
    made = build_quietly("gan2014_tfd", second_stage(small, pictures, first), said)
    G, D = made.game.players
    before = saved(first, 4)
    now = G.net.state_dict()
    assert set(now) - set(before) == {f"front.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    assert set(before) < set(now) and all(torch.equal(now[name], value) for name, value in before.items())
    assert f"G starts from round 4 of {first}; 4 of its tensors are new" in said
    # What the two make of the same inner latents is the same, and the front is what makes them.
    pretrained = build_network(plan(first).recipe, "G", build_prior(plan(first).recipe))
    pretrained.load_state_dict(before)
    z = torch.randn(5, 100)
    inner = G.net.front(z)  # type: ignore[operator]
    assert inner.shape == (5, 10) and inner.min() > 0 and inner.max() < 1
    torch.testing.assert_close(G.net(z), pretrained(inner))
    # All of it is trained, and D is a fresh one: as without the first stage.
    assert len(G.parameters) == len(now)
    without = build_quietly("gan2014_tfd", second_stage(small, pictures, None)).game.players
    assert all(torch.equal(a, b) for a, b in zip(D.parameters, without[1].parameters, strict=True))
    fronts = [p for n, p in without[0].net.named_parameters() if n.startswith("front")]
    ours = [p for n, p in G.net.named_parameters() if n.startswith("front")]
    assert all(torch.equal(a, b) for a, b in zip(fronts, ours, strict=True))


def test_the_two_stages_train_and_the_second_goes_on_without_the_first(
    pictures: Path, small: Small, tmp_path: Path
) -> None:
    first = first_stage(pictures, small, tmp_path / "first")
    options: dict[str, Any] = {"overrides": second_stage(small, pictures, first)}
    once = train("gan2014_tfd", out=tmp_path / "once", steps=6, **options)
    twice = train("gan2014_tfd", out=tmp_path / "twice", steps=3, **options)
    before, started, ended = saved(first, 4), saved(once, 0), saved(once, 6)
    assert all(torch.equal(started[name], value) for name, value in before.items())
    assert not any(torch.equal(started[name], value) for name, value in ended.items())  # every layer has moved
    first.rename(tmp_path / "away")  # a run that goes on has all its weights itself
    train(twice, steps=6)
    found = gansmith_compare(once / "checkpoints" / "00000006", twice / "checkpoints" / "00000006")
    assert found.exact, found.different
    assert gansmith.load(twice, device="cpu").sample([1]).shape == (1, 1, 16, 16)


def test_a_run_remembers_the_full_path_of_its_first_stage(
    pictures: Path, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_stage(pictures, small, tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    run = train("gan2014_tfd", out=tmp_path / "run", steps=1, overrides=second_stage(small, pictures, Path("first")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert plan(run).recipe.networks["G"].args["weights"] == str(tmp_path / "first")
    again = train(run / "recipe.yaml", out=tmp_path / "again", steps=1)
    found = gansmith_compare(run / "checkpoints" / "00000001", again / "checkpoints" / "00000001")
    assert found.exact, found.different


def test_any_player_may_start_from_a_run_of_its_kind(pictures: Path, small: Small, tmp_path: Path) -> None:
    """With its running statistics, too; the optimizer and the moving average begin anew."""
    old = train("gan", data=pictures, out=tmp_path / "old", steps=5, overrides=small("gan"))
    flags = small("gan", data=str(pictures), **{f"networks.{p}.weights": str(old) for p in "GD"}, seed=8)
    said: list[str] = []
    made = build_quietly("gan", {**flags, "ema.halflife_kimg": 1}, said)
    for player in made.game.players:
        before, now = saved(old, 5, player.name), player.net.state_dict()
        assert set(before) == set(now) and all(torch.equal(now[name], value) for name, value in before.items())
        assert not player.optimizer.state_dict()["state"]
        assert f"{player.name} starts from round 5 of {old}" in said
    assert any("running_mean" in name for name in made.generator.net.state_dict())
    assert made.generator.ema is not None and made.state.round == 0
    average = made.generator.ema.state_dict()
    assert all(torch.equal(average[name], value) for name, value in made.generator.net.state_dict().items())


def test_weights_that_do_not_fit_are_told_in_one_line(pictures: Path, small: Small, tmp_path: Path) -> None:
    first = first_stage(pictures, small, tmp_path / "first")
    other = train("gan", data=pictures, out=tmp_path / "gan", steps=1, overrides=small("gan"))
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "recipe.yaml").write_text("{}", encoding="utf-8")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "recipe.yaml").write_text("{}", encoding="utf-8")
    tree, info = checkpoint.read(first / "checkpoints" / "00000004")
    checkpoint.write(alone / "checkpoints", 4, {**tree, "players": {"E": tree["players"]["G"]}}, info=info)
    wrong: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "nowhere", {}, f"{tmp_path / 'nowhere'} is not a run, so there are no weights to start from"),
        (pictures, {}, f"{pictures} is not a run"),
        (tmp_path / "bare", {}, "there is no checkpoint"),
        (alone, {}, f"{alone} has no player G (it has: E)"),
        (first, {"networks.G.widths": [16, 13]}, "has model.2.weight (12, 16), and the network here has (13, 16)"),
        (first, {"networks.G.inner_dim": 9}, "has model.0.weight (16, 10), and the network here has (16, 9)"),
        (other, {}, "has model.0.weight (16, 100), and the network here has (16, 10)"),
        (other, {"networks.G.inner_dim": 100, "networks.G.widths": [16, 16]}, "has nothing of that name"),
    ]
    for run, more, text in wrong:
        with pytest.raises(UserError) as caught:
            build_quietly("gan2014_tfd", second_stage(small, pictures, run, **more))
        assert text in str(caught.value) and "\n" not in str(caught.value)
        assert str(caught.value).startswith("networks.G.weights: ") or "no checkpoint" in text
    with pytest.raises(UserError, match="is not a run"):
        train("gan2014_tfd", out=tmp_path / "new", overrides=second_stage(small, pictures, tmp_path / "nowhere"))
    assert not (tmp_path / "new").exists()


# ---- what the theory says ---------------------------------------------------------------------------------------


def told(real: Any, fake: Any) -> dict[str, float]:
    def as_scales(x: Any) -> tuple[Tensor, ...]:
        return x if isinstance(x, tuple) else (torch.as_tensor(x, dtype=torch.float64),)

    return {key: value.item() for key, value in theory(Critique(as_scales(real), as_scales(fake))).items()}


def test_a_d_that_cannot_tell() -> None:
    assert told([0.0] * 5, [0.0] * 5) == pytest.approx(
        {"value/V": -math.log(4), "value/jsd": 0.0, "D/right_real": 0.0, "D/right_fake": 0.0}, abs=1e-15
    )


def test_a_d_that_is_sure() -> None:
    found = told([900.0, 60.0], [-1000.0, -60.0])
    assert found == pytest.approx(
        {"value/V": 0.0, "value/jsd": math.log(2), "D/right_real": 1.0, "D/right_fake": 1.0}, abs=1e-15
    )
    wrong = told([-900.0], [1000.0])  # the bound is not below 0, and nothing overflows
    assert wrong == {"value/V": -1900.0, "value/jsd": 0.0, "D/right_real": 0.0, "D/right_fake": 0.0}


def test_the_optimal_d_measures_the_divergence() -> None:
    """Two distributions over four images, D* = p / (p + q): V is -log 4 + 2 JSD (Theorem 1 of the paper)."""
    p, q = np.array([6, 3, 1, 2]) / 12, np.array([1, 3, 7, 1]) / 12
    logit = np.log(p / q)
    real = np.repeat(logit, [6, 3, 1, 2])
    fake = np.repeat(logit, [1, 3, 7, 1])
    m = (p + q) / 2
    jsd = float((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2
    found = told(real, fake)
    assert found["value/jsd"] == pytest.approx(jsd, rel=1e-13)
    assert found["value/V"] == pytest.approx(-math.log(4) + 2 * jsd, rel=1e-13)
    assert (found["D/right_real"], found["D/right_fake"]) == pytest.approx((8 / 12, 7 / 12))
    assert told(real + 0.3, fake + 0.3)["value/jsd"] < jsd > told(real * 2, fake * 2)["value/jsd"]  # any other D: less


def test_it_is_the_value_of_the_paper_for_maps_and_scales() -> None:
    r = (torch.randn(6), torch.randn(6, 3, 2))
    f = (torch.randn(6), torch.randn(6, 3, 2))
    p, q = (torch.sigmoid(torch.cat([s.double().flatten() for s in x])) for x in (r, f))
    found = told(r, f)
    assert found["value/V"] == pytest.approx(float(torch.log(p).mean() + torch.log(1 - q).mean()), rel=1e-6)
    assert found["D/right_real"] == pytest.approx(float((p > 0.5).double().mean()))
    assert found["D/right_fake"] == pytest.approx(float((q < 0.5).double().mean()))


@pytest.mark.parametrize("kind", [Simultaneous, Alternating])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_games_tell_it_where_scores_are_logits_of_probabilities(
    objective: str, kind: type[Simultaneous] | type[Alternating]
) -> None:
    game = small_game(kind)
    game.objective = OBJECTIVES[objective]
    metrics = game.round(real())
    keys = {"value/V", "value/jsd", "D/right_real", "D/right_fake"}
    assert set(metrics) & keys == (keys if objective in ("non_saturating", "minimax") else set())
    assert all(value.dim() == 0 and not value.requires_grad for value in metrics.values())
    if objective in ("non_saturating", "minimax"):
        torch.testing.assert_close(metrics["value/V"], -2 * metrics["loss/D"])  # the authors' loss is half of it
