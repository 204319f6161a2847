"""The 2014 paper's networks: sizes, first weights, limits of norms, maxout, dropout; their step in plain PyTorch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import gansmith
from gansmith import UserError, checkpoint, plan
from gansmith.batch import Batch
from gansmith.build import Experiment, build, build_network, build_prior, derive_seed, load_split
from gansmith.exactness import compare
from gansmith.papers.networks2014 import ConvGenerator, Discriminator, FrontedGenerator, Generator, Maxout, MaxoutConv
from gansmith.recipe import Recipe
from gansmith.schedules import Clock
from gansmith.state import State

CPU = torch.device("cpu")
LIMIT = 1.9365
Small = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def nets(recipe: Recipe) -> dict[str, nn.Module]:
    return {name: build_network(recipe, name, build_prior(recipe)) for name in recipe.networks}


def layers(net: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [m for m in net.modules() if isinstance(m, kinds)]


def train(what: str | Path, *, out: Path | None = None, **options: Any) -> Path:
    return gansmith.train(what, out=out, device="cpu", quiet=True, **options)


def built(name: str, flags: dict[str, Any], say: Callable[[str], None] = lambda text: None) -> Experiment:
    return build(plan(name, flags=flags).recipe, CPU, say=say, progress=False)


# ---- sizes and settings -----------------------------------------------------------------------------------------

# From the authors' files: the weights of every layer of G and D, units by inputs; parameters in millions; what follows
# G's layers; the learning rate; images that are held back.
RELU, SIGMOID = nn.ReLU, nn.Sigmoid
AUTHORS: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]], tuple[float, float], Any, float, int]] = {
    "gan2014_mnist": (
        [(1200, 100), (1200, 1200), (784, 1200)],
        [(240 * 5, 784), (240 * 5, 240), (1, 240)],
        *((2.50, 1.23), [RELU, RELU, SIGMOID], 0.1, 10_000),
    ),
    "gan2014_tfd_pretrain": (
        [(8000, 100), (8000, 8000), (2304, 8000)],
        [(1200 * 5, 2304), (1200 * 5, 1200), (1, 1200)],
        *((83.25, 21.04), [RELU, SIGMOID, SIGMOID], 0.05, 0),
    ),
    "gan2014_tfd": (
        [(8000, 100), (100, 8000), (8000, 100), (8000, 8000), (2304, 8000)],
        [(1200 * 5, 2304), (1200 * 5, 1200), (1, 1200)],
        *((84.86, 21.04), [RELU, SIGMOID, RELU, SIGMOID, SIGMOID], 0.05, 0),
    ),
    "gan2014_cifar10_fc": (
        [(8000, 100), (8000, 8000), (3072, 8000)],
        [(1600 * 5, 3072), (1600 * 5, 1600), (1, 1600)],
        *((89.40, 37.39), [RELU, SIGMOID, nn.Identity], 0.025, 10_000),
    ),
    "gan2014_cifar10_conv": (
        [(8000, 100), (8000, 8000), (80, 3, 5, 5)],
        [(32 * 2, 3, 8, 8), (32 * 2, 32, 8, 8), (192 * 2, 32, 5, 5), (500 * 5, 192 * 25), (1, 500)],
        *((64.83, 12.45), [RELU, SIGMOID], 0.004, 10_000),
    ),
}
NAMES = [*AUTHORS]


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_settings_are_those_of_the_authors(name: str) -> None:
    of_g, of_d, millions, activations, lr, held_back = AUTHORS[name]
    recipe = plan(name).recipe
    with torch.device("meta"):  # at their full size, without the numbers in them
        made = nets(recipe)
    for net, shapes, m in zip((made["G"], made["D"]), (of_g, of_d), millions, strict=True):
        assert [tuple(p.shape) for n, p in net.named_parameters() if n.endswith("weight")] == shapes
        assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == m
    assert [type(m) for m in layers(made["G"], RELU, SIGMOID, nn.Identity)] == activations
    assert not layers(made["D"], RELU, SIGMOID) and not layers(made["G"], nn.Dropout)  # maxout alone, and a logit
    parts = layers(made["D"], nn.Dropout, nn.Linear, nn.Conv2d)  # dropout on the input of every layer
    assert [type(m) for m in parts[::2]] == [nn.Dropout] * len(of_d) and len(parts) == 2 * len(of_d)
    assert [1 - m.p for m in parts[::2]] == [0.8] + [0.5] * (len(of_d) - 1)  # what is kept
    for player in ("G", "D"):
        assert recipe.optimizers[player].name == "sgd"
        assert recipe.optimizers[player].args == {"lr": lr, "momentum": 0.5, "weight_decay": 0.0}
    decay, momentum = recipe.schedules
    assert (decay.name, dict(decay.args)) == ("exponential", {"of": "lr", "factor": 1.000004, "floor": 1e-6})
    assert momentum.name == "linear" and {"of": "momentum", "to": 0.7, "over": 249}.items() <= momentum.args.items()
    assert (recipe.game.name, recipe.batch_size) == ("simultaneous", 128 if "conv" in name else 100)
    assert recipe.objective is not None and recipe.objective.name == "non_saturating" and not recipe.penalties
    assert recipe.data.validation == held_back
    z = build_prior(recipe).sample(2000, torch.Generator().manual_seed(0))
    assert z.shape == (2000, 100) and z.mean().abs() < 0.01 and abs(z.var().item() - 1) < 0.02
    bound = math.sqrt(3) if name == "gan2014_mnist" else 4.0  # unit variance, whichever shape
    assert (z.abs().max() <= bound) == (name == "gan2014_mnist") and z.abs().max() > 0.99 * bound


# ---- first weights ----------------------------------------------------------------------------------------------

# Small enough to be made in no time, large enough for statistics; ranges and biases are the recipes' own.
FEW = {"networks.G.widths": [400, 300], "networks.D.units": [60, 60]}
FEWER: dict[str, dict[str, Any]] = {
    "gan2014_mnist": {},
    "gan2014_tfd_pretrain": FEW,
    "gan2014_tfd": {"networks.G.front": 400, **FEW},
    "gan2014_cifar10_fc": FEW,
    "gan2014_cifar10_conv": {"networks.G.width": 300, "networks.G.maps": 40, "networks.D.units": 20},
}
LAST = {"gan2014_tfd_pretrain": None, "gan2014_cifar10_fc": 0.5}  # G's last layer, where it is not as the others


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
    for layer, r in zip(weighted, [0.05] * (len(weighted) - 1) + [LAST.get(name, 0.05)], strict=True):
        if r is not None:
            assert_uniform(layer.weight, r)
    for layer in layers(made["D"], nn.Linear, nn.Conv2d):
        assert_uniform(layer.weight, 0.005)
        assert layer.bias.abs().max() == 0
    biases = [p for n, p in made["G"].named_parameters() if n.endswith("bias")]
    assert len(biases) == len(weighted)  # the untied one of the transposed convolution, too
    for i, bias in enumerate(biases):
        assert torch.equal(bias, torch.full_like(bias, -2.0 if "tfd" in name and i == 1 else 0.0))


@pytest.mark.parametrize("n", [1, 100, 300])
def test_sparse_weights_are_n_normals_per_unit(n: int) -> None:
    net = Generator(8, (1, 20, 20), None, widths=(40, 300), sparse_out=n)
    weight = layers(net, nn.Linear)[-1].weight.detach().double()
    assert weight.shape == (400, 300) and ((weight != 0).sum(1) == n).all()  # of each output unit's incoming weights
    values = weight[weight != 0]
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert abs(values.pow(power).mean().item() - mean) < 5 * math.sqrt(variance / values.numel())
    used = (weight != 0).sum(0).double()  # by column: binomial(400, n / 300), every place as likely as the others
    p = n / 300
    assert (used - 400 * p).abs().max() <= 5 * math.sqrt(400 * p * (1 - p)) + 1
    if 1 < n < 300:
        assert len((weight != 0).unique(dim=0)) == 400  # no two units have the same places


def test_gs_output_starts_at_the_logit_of_the_first_50000_images() -> None:
    recipe = plan("gan2014_mnist").recipe
    (data,) = load_split(recipe, "train", say=lambda text: None)
    mean = data.images.reshape(50_000, 784).mean(0, dtype=np.float64) / 255
    dead = data.images.reshape(50_000, 784).max(0) == 0
    clipped = mean.clip(1e-7, 1 - 1e-7)
    made = built("gan2014_mnist", {})
    G = made.game.G.net
    bias = layers(G, nn.Linear)[-1].bias.detach().double().numpy()
    np.testing.assert_allclose(bias, np.log(clipped / (1 - clipped)), rtol=1e-6)
    assert dead.sum() == 67 and np.round(bias[dead], 3).tolist() == [-16.118] * 67
    assert (bias[~dead] > -16.118 + 0.01).all() and bias.max() < 0.5
    with torch.no_grad():  # z = 0 passes through the layers without bias: the first picture is the mean one
        np.testing.assert_allclose(G(torch.zeros(1, 100)).flatten().numpy(), clipped, rtol=1e-5, atol=1e-9)
    made.stream.close()
    ends = torch.tensor([0.0, 1e-9, 0.25, 1.0], dtype=torch.float64).reshape(1, 2, 2)
    bias = layers(Generator(3, (1, 2, 2), ends, widths=(2, 2)), nn.Linear)[-1].bias
    far = math.log(1e-7 / (1 - 1e-7))  # the ends of the range have finite logits
    torch.testing.assert_close(bias.double(), torch.tensor([far, far, -math.log(3), -far]).double(), rtol=1e-6, atol=0)
    plain = Generator(3, (1, 2, 2), ends, widths=(2, 2), bias_from_data=False)
    assert layers(plain, nn.Linear)[-1].bias.abs().max() == 0


# ---- the limit of norms -----------------------------------------------------------------------------------------


def limited(w: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """The authors' rule, one unit after the other: w <- w clip(|w|, 0, c) / (1e-7 + |w|)."""
    norms = [math.sqrt(sum(float(v) ** 2 for v in row)) for row in w]
    return np.array([[float(v) * min(n, limit) / (1e-7 + n) for v in row] for row, n in zip(w, norms, strict=True)])


def of_all_lengths(net: nn.Module) -> None:
    """Scales every row to a length of its own, from a hundredth of the limit to ten times it."""
    with torch.no_grad():
        for layer in layers(net, nn.Linear):
            lengths = torch.logspace(-2, 1, len(layer.weight), dtype=torch.float64) * LIMIT
            w = torch.randn(layer.weight.shape, dtype=torch.float64)
            layer.weight.copy_(w / w.norm(dim=1, keepdim=True) * lengths[:, None])


CONSTRAINED: dict[str, Callable[..., Any]] = {
    "Generator": partial(Generator, 5, (1, 4, 4), None, widths=(9, 8)),
    "FrontedGenerator": partial(FrontedGenerator, 5, (1, 4, 4), front=9, inner_dim=7, widths=(9, 8)),
    "Discriminator": partial(Discriminator, (1, 4, 4), units=(6, 5), pieces=3),
}


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_every_units_weights_stay_within_the_limit(kind: str) -> None:
    net = CONSTRAINED[kind](max_col_norm=LIMIT).double()
    of_all_lengths(net)
    free = CONSTRAINED[kind](max_col_norm=0.0).double()
    free.load_state_dict(net.state_dict())
    before = copy.deepcopy(net.state_dict())
    net.constrain()
    free.constrain()
    for (name, p), q in zip(net.named_parameters(), free.parameters(), strict=True):
        assert torch.equal(q, before[name])  # no limit changes nothing
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
    with torch.no_grad():  # a row of zeros stays and is finite
        layers(net, nn.Linear)[0].weight.zero_()
    net.constrain()
    assert layers(net, nn.Linear)[0].weight.abs().max() == 0


# ---- maxout and convolutions ------------------------------------------------------------------------------------


def test_maxout_is_the_largest_piece_of_each_unit_and_so_is_its_gradient() -> None:
    net = Maxout(7, 4, 3, irange=1.0).double()
    nn.init.normal_(net.linear.bias)
    x = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    w, b = net.linear.weight.detach().numpy(), net.linear.bias.detach().numpy()
    y, slope = net(x), torch.randn(6, 4, dtype=torch.float64)
    found = torch.autograd.grad((y * slope).sum(), [x, net.linear.weight, net.linear.bias])
    expected = [np.zeros_like(t.detach().numpy()) for t in (x, net.linear.weight, net.linear.bias)]
    winners = set()
    for i, row in enumerate(x.detach().numpy()):
        for u in range(4):
            pieces = [float(w[p * 4 + u] @ row + b[p * 4 + u]) for p in range(3)]
            assert y[i, u].item() == pytest.approx(max(pieces), rel=1e-13)
            winners.add(best := pieces.index(max(pieces)))  # the gradient goes to the largest piece alone
            r = best * 4 + u
            expected[0][i] += slope[i, u].item() * w[r]
            expected[1][r] += slope[i, u].item() * row
            expected[2][r] += slope[i, u].item()
    assert winners == {0, 1, 2} and y.shape == (6, 4)
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), e, rtol=1e-12, atol=1e-13)


def naive_maxout_conv(net: MaxoutConv, x: NDArray[np.float64], pool: int, stride: int) -> NDArray[np.float64]:
    """Convolution, maximum of neighbouring channels, pooling whose last windows hang over the edge, as defined."""
    w, b = net.conv.weight.detach().numpy(), net.conv.bias.detach().numpy()
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
    """The first three are those of D: 33 -> 16 -> 15 -> 7 -> 9 -> 5."""
    net = MaxoutConv(2, 3, kernel, padding, pool, stride, pieces=2, irange=1.0).double()
    nn.init.normal_(net.conv.bias)
    x = torch.randn(2, 2, side, side, dtype=torch.float64)
    y = net(x).detach().numpy()
    assert y.shape == (2, 3, after, after)
    np.testing.assert_allclose(y, naive_maxout_conv(net, x.numpy(), pool, stride), rtol=1e-11, atol=1e-11)


def test_the_convolutional_g_is_its_definition() -> None:
    """out[c, 3 i + k, 3 j + l] sums maps[m, i, j] w[m, c, k, l]; 3 * 9 + 5 = 32; one bias for every value."""
    net = ConvGenerator(6, (3, 32, 32), width=7, maps=4).double()
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
    assert net.bias.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "flags", "text"),
    [
        ("mnist", {"networks.G.hidden": ["relu"]}, r"G: hidden names 1 activations for 2 layers"),
        ("mnist", {"networks.D.dropout": [0.2]}, r"D: dropout is \[0.2\]; it must be 3 shares below 1"),
        ("mnist", {"networks.D.dropout": [0, 1, 0]}, r"D: dropout .*3 shares below 1, one per layer"),
        ("mnist", {"networks.D.units": [5] * 4}, r"D: dropout .* must be 5 shares below 1"),
        ("cifar10_fc", {"networks.G.bias_from_data": True}, r"G: bias_from_data needs a sigmoid output"),
        ("tfd_pretrain", {"networks.G.widths": [9, 9], "networks.G.sparse_out": 17}, r"G: sparse_out .* nearest is 9"),
        ("cifar10_conv", {"networks.D.maps": [3, 3]}, r"D: maps is \[3, 3\]; .*three convolutions"),
        ("cifar10_conv", {"networks.D.dropout": [0.5] * 4}, r"D: dropout .*must be 5 shares"),
        ("cifar10_conv", {"img_size": 28}, r"G: img_size is 28; it must be 32"),
        ("cifar10_conv", {"img_size": [32, 48]}, r"G: img_size is 32,48; it must be 32"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, flags: dict[str, Any], text: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=rf"^networks\.{text}") as caught:
        nets(plan(f"gan2014_{name}", flags=flags).recipe)
    assert "\n" not in str(caught.value)


def test_verify_sees_masks_that_are_forgotten(pictures: Path, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that exact means that there are masks, and that their random stream is a part of the state."""
    options: Any = {"data": pictures, "device": "cpu", "overrides": small("gan2014_mnist"), "steps": 3}
    assert gansmith.verify("gan2014_mnist", **options).exact
    monkeypatch.setattr(State, "set_streams", lambda self, rng: self.noise.set_state(rng["noise"]))
    assert "players.D.net.model.1.linear.weight" in gansmith.verify("gan2014_mnist", **options).different


# ---- one step, written once more --------------------------------------------------------------------------------


class Plain:
    """The authors' step in plain PyTorch: no modules, no optimizer, classical momentum v <- mu v - lr g, w <- w + v."""

    def __init__(self, G: nn.Module, D: nn.Module, shares: Any, limit: float) -> None:
        self.g = [p.detach().clone().requires_grad_() for p in G.parameters()]
        self.d = [p.detach().clone().requires_grad_() for p in D.parameters()]
        self.velocity = [torch.zeros_like(p) for p in (*self.d, *self.g)]
        self.shares, self.limit = shares, limit

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
        for w, b, share in ((w1, b1, self.shares[0]), (w2, b2, self.shares[1])):
            x = torch.stack((self.drop(x, share) @ w.t() + b).chunk(5, 1)).max(0).values
        return (self.drop(x, self.shares[2]) @ w3.t() + b3)[:, 0]

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


@pytest.fixture
def both_ways(pictures: Path, small: Small) -> Callable[..., float]:
    """The recipe gan2014_mnist made small, and the plain step, on the same images and noise.

    The largest difference of a weight, as a share of the longest way that one has gone. Ranges are wider than the
    paper's: in networks so small those would make gradients of nearly nothing.
    """

    def go(factor: float = 1.0, rounds: int = 20, **more: Any) -> float:
        wide = {"networks.G.irange": 0.3, "networks.G.irange_out": 0.3, "networks.D.irange": 0.3, "seed": 11}
        slow = {"schedules.0.factor": factor, "schedules.0.floor": 0.01, "schedules.1.over": 2}
        made = built("gan2014_mnist", {**small("gan2014_mnist", **wide, **slow, **more), "data": str(pictures)})
        G, D = made.game.players
        for player in (G, D):
            player.net.double()  # in place: the optimizers keep their parameters
        shares = [m.p for m in layers(D.net, nn.Dropout)]
        plain = Plain(G.net, D.net, shares, limit=D.net.max_col_norm)
        start = [p.detach().clone() for p in (*plain.d, *plain.g)]
        noise = torch.Generator().manual_seed(derive_seed(11, 1))
        batches = [next(made.stream)["x"].double() for _ in range(rounds)]
        assert made.stream.batches_per_epoch == PER_EPOCH and {len(b) for b in batches} == {8, 2}
        made.stream.position = 0
        torch.manual_seed(5)
        for t, x in enumerate(batches):
            made.schedules.apply(Clock(t, int(made.stream.epoch), t))
            next(made.stream)
            made.game.round(Batch({"x": x}, len(x)))
        torch.manual_seed(5)
        for t, x in enumerate(batches):
            z = (torch.rand(len(x), 100, generator=noise, dtype=torch.float64) * 2 - 1) * math.sqrt(3)
            plain.step(x, z, lr=max(0.01, 0.1 / factor**t), mu=0.5 + 0.2 * min(t // PER_EPOCH / 2, 1))
        theirs, ours = ([p.detach() for p in ps] for ps in ((*plain.d, *plain.g), (*D.parameters, *G.parameters)))
        moved = [float((a - b).abs().max()) for a, b in zip(theirs, start, strict=True)]
        assert min(moved) > 1e-4 and max(moved) > 0.05
        return max(float((a - b).abs().max()) for a, b in zip(theirs, ours, strict=True)) / max(moved)

    return go


@pytest.mark.parametrize(
    "keys",
    [
        {"networks.D.dropout": [0, 0, 0]},
        {},  # the same seed gives both the same masks: real pass first, then the one pass over the fakes
        {"networks.G.max_col_norm": 0.9, "networks.D.max_col_norm": 0.9},
    ],
    ids=["without dropout", "with dropout", "with a limit of norms"],
)
def test_the_recipe_is_the_authors_step(keys: dict[str, Any], both_ways: Callable[..., float]) -> None:
    assert both_ways(**keys) < 1e-12


def test_a_decaying_learning_rate_differs_by_its_decay_alone(both_ways: Callable[..., float]) -> None:
    """The authors multiply lr into the velocity, PyTorch after it: with a factor of 1 + e the ways differ by O(e)."""
    own, ten_times = (both_ways(f, PER_EPOCH) for f in (1.000004, 1.00004))
    assert 0 < own < 4e-6 and ten_times == pytest.approx(10 * own, rel=0.02)


# ---- weights from another run -----------------------------------------------------------------------------------

# In networks so small the paper's ranges would make gradients of nearly nothing.
TFD = {
    **{"networks.G.widths": [16, 12], "networks.D.units": [8, 8]},
    **{"networks.G.irange": 0.5, "networks.D.irange": 0.5},
}


@pytest.fixture
def first(pictures: Path, small: Small, tmp_path: Path) -> Path:
    flags = small("gan2014_tfd_pretrain", **TFD, latent_dim=10)
    return train("gan2014_tfd_pretrain", data=pictures, out=tmp_path / "first", steps=4, overrides=flags)


@pytest.fixture
def second(small: Small, pictures: Path) -> Callable[..., dict[str, Any]]:
    def flags(first: Path | str | None, **more: Any) -> dict[str, Any]:
        weights = None if first is None else str(first)
        return small("gan2014_tfd", **{**TFD, "data": str(pictures), "networks.G.weights": weights, **more})

    return flags


def saved(run: Path, round: int, player: str = "G") -> dict[str, Tensor]:
    return checkpoint.read(run / "checkpoints" / f"{round:08d}")[0]["players"][player]["net"]


def test_new_layers_stand_before_a_pretrained_generator(first: Path, second: Any) -> None:
    said: list[str] = []
    G, D = built("gan2014_tfd", second(first), said.append).game.players
    before, now = saved(first, 4), G.net.state_dict()
    assert set(now) - set(before) == {f"front.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    assert set(before) < set(now) and all(torch.equal(now[name], value) for name, value in before.items())
    assert f"G starts from round 4 of {first}; 4 of its tensors are new" in said
    # What the two make of the same inner latents is the same, and the front is what makes them.
    pretrained = nets(plan(first).recipe)["G"]
    pretrained.load_state_dict(before)
    z = torch.randn(5, 100)
    inner = G.net.front(z)
    assert inner.shape == (5, 10) and inner.min() > 0 and inner.max() < 1
    torch.testing.assert_close(G.net(z), pretrained(inner))
    # All of it is trained; D and the front are fresh ones: as without the first stage.
    assert len(G.parameters) == len(now)
    without = built("gan2014_tfd", second(None)).game.players
    assert all(torch.equal(a, b) for a, b in zip(D.parameters, without[1].parameters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(G.parameters[:4], without[0].parameters[:4], strict=True))


def test_the_second_stage_goes_on_without_the_first(
    first: Path, second: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    once = train("gan2014_tfd", out=tmp_path / "once", steps=6, overrides=second("first"))
    twice = train("gan2014_tfd", out=tmp_path / "twice", steps=3, overrides=second("first"))
    assert plan(once).recipe.networks["G"].args["weights"] == str(first)  # from any folder
    before, started, ended = saved(first, 4), saved(once, 0), saved(once, 6)
    assert all(torch.equal(started[name], value) for name, value in before.items())
    assert not any(torch.equal(started[name], value) for name, value in ended.items())  # every layer has moved
    first.rename(tmp_path / "away")  # a run that goes on has all its weights itself
    train(twice, steps=6)
    found = compare(once / "checkpoints" / "00000006", twice / "checkpoints" / "00000006")
    assert found.exact, found.different


def test_weights_that_do_not_fit_are_refused_in_one_line(first: Path, second: Any, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "recipe.yaml").write_text("{}", encoding="utf-8")
    wrong: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "nowhere", {}, "nowhere is not a run, so there are no weights to start from"),
        (alone, {}, "there is no checkpoint"),
        (first, {"networks.G.widths": [16, 13]}, r"has model.2.weight \(12, 16\), and the network here has \(13, 16\)"),
        (first, {"networks.G.inner_dim": 9}, r"has model.0.weight \(16, 10\), and the network here has \(16, 9\)"),
        (alone, {"recipe": "other players"}, r"alone has no player G \(it has: E\)"),
    ]
    for run, more, text in wrong:
        if more.pop("recipe", None):
            tree, info = checkpoint.read(first / "checkpoints" / "00000004")
            checkpoint.write(run / "checkpoints", 4, {"players": {"E": tree["players"]["G"]}}, info=info)
        with pytest.raises(UserError, match=f"^[^\n]*{text}[^\n]*$"):
            train("gan2014_tfd", out=tmp_path / "new", overrides=second(run, **more))
        assert not (tmp_path / "new").exists()
