"""Networks: sizes counted by hand, shapes, ranges, refusals; and the one place that reads discriminators' outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from gansmith import plan, recipe_names
from gansmith.build import build_network, build_prior
from gansmith.errors import UserError
from gansmith.games.critique import Critique, mean, per_sample, score, scores
from gansmith.networks import NETWORKS, began, infogan, mlp
from gansmith.networks.infogan import Heads
from gansmith.recipe import Recipe

# How small each recipe can be and still have all its parts.
SMALL_2014 = {"networks.G.widths": [8, 12], "networks.D.units": [16, 16]}
SHRINK: dict[str, dict[str, Any]] = {
    "gan": {"networks.G.widths": [8, 12, 16], "networks.D.widths": [16, 8]},
    "wgan_gp": {"networks.G.widths": [8, 12, 16], "networks.D.widths": [16, 8]},
    "began": {"networks.G.width": 4, "networks.D.width": 4, "networks.D.code": 6},
    "infogan": {"networks.G.width": 4, "networks.D.width": 4},
    "fast_mnist": {"networks.G.width": 4, "networks.D.width": 4},
    "figure1": {"networks.G.widths": [8, 12], "networks.D.widths": [16, 8]},
    "gan2014_mnist": SMALL_2014,
    "gan2014_tfd_pretrain": {**SMALL_2014, "networks.G.sparse_out": 5},
    "gan2014_tfd": {**SMALL_2014, "networks.G.front": 12, "networks.G.inner_dim": 10},
    "gan2014_cifar10_fc": SMALL_2014,
    "gan2014_cifar10_conv": {
        **{"networks.G.width": 16, "networks.G.maps": 4, "networks.D.maps": [4, 4, 6], "networks.D.units": 16},
    },
}
# What can be made in one size only.
SIDES = {"gan2014_cifar10_conv": 32}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def linear(a: int, b: int) -> int:
    return a * b + b


def conv(a: int, b: int, side: int) -> int:
    return a * b * side**2 + b


def norm(n: int) -> int:
    return 2 * n


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def recipe(name: str, **flags: Any) -> Recipe:
    return plan(name, flags=flags).recipe


def nets(recipe: Recipe) -> dict[str, nn.Module]:
    prior = build_prior(recipe)
    return {name: build_network(recipe, name, prior) for name in recipe.networks}


def images_of(output: Any) -> list[Tensor]:
    """Every tensor in a network's output."""
    return [output] if isinstance(output, Tensor) else list(output)


# ---- sizes ------------------------------------------------------------------------------------------------------

POST_G = (
    linear(100, 128) + linear(128, 256) + norm(256) + linear(256, 512) + norm(512) + linear(512, 1024) + norm(1024)
) + linear(1024, 784)
POST_D = linear(784, 512) + linear(512, 256) + linear(256, 1)
BEGAN_DECODER = linear(64, 16 * 64) + 6 * conv(16, 16, 3) + conv(16, 1, 3)
BEGAN_ENCODER = (
    conv(1, 16, 3)
    + (2 * conv(16, 16, 3) + conv(16, 16, 3))  # at 32x32, and down
    + (conv(16, 32, 3) + conv(32, 32, 3) + conv(32, 32, 3))  # at 16x16, and down
    + (conv(32, 48, 3) + conv(48, 48, 3))  # at 8x8
    + linear(48 * 64, 64)
)
INFOGAN_G = (
    (linear(74, 1024) + norm(1024) + linear(1024, 128 * 49) + norm(128 * 49))
    + (conv(128, 64, 4) + norm(64))
    + conv(64, 1, 4)
)
INFOGAN_D = (
    (conv(1, 64, 4) + conv(64, 128, 4) + norm(128) + linear(128 * 49, 1024) + norm(1024) + linear(1024, 1))
    + (linear(1024, 128) + norm(128))
    + linear(128, 10)
    + linear(128, 2)
)
FAST_G = (
    (linear(64, 256) + norm(256) + linear(256, 32 * 49) + norm(32 * 49)) + (conv(32, 16, 4) + norm(16)) + conv(16, 1, 4)
)
TFD_G = linear(100, 8000) + linear(8000, 8000) + linear(8000, 48 * 48)
TFD_D = linear(48 * 48, 1200 * 5) + linear(1200, 1200 * 5) + linear(1200, 1)
SIZES: dict[str, Mapping[str, int]] = {
    "gan": {"G": POST_G, "D": POST_D},
    "wgan_gp": {"G": POST_G, "D": POST_D},
    "began": {"G": BEGAN_DECODER, "D": BEGAN_ENCODER + BEGAN_DECODER},
    "infogan": {"G": INFOGAN_G, "D": INFOGAN_D},
    "fast_mnist": {"G": FAST_G, "D": conv(1, 32, 4) + 32 * 64 * 16 + norm(64) + linear(64 * 49, 1)},
    "figure1": {
        "G": linear(1, 1) + linear(1, 64) + linear(64, 64) + linear(64, 1),
        "D": linear(1, 64) + linear(64, 64) + linear(64, 1),
    },
    "gan2014_mnist": {
        "G": linear(100, 1200) + linear(1200, 1200) + linear(1200, 784),
        "D": linear(784, 240 * 5) + linear(240, 240 * 5) + linear(240, 1),
    },
    "gan2014_tfd_pretrain": {"G": TFD_G, "D": TFD_D},
    "gan2014_tfd": {"G": linear(100, 8000) + linear(8000, 100) + TFD_G, "D": TFD_D},
    "gan2014_cifar10_fc": {
        "G": linear(100, 8000) + linear(8000, 8000) + linear(8000, 3072),
        "D": linear(3072, 1600 * 5) + linear(1600, 1600 * 5) + linear(1600, 1),
    },
    "gan2014_cifar10_conv": {
        "G": linear(100, 8000) + linear(8000, 80 * 100) + 80 * 3 * 5**2 + 3 * 32 * 32,
        "D": (conv(3, 32 * 2, 8) + conv(32, 32 * 2, 8) + conv(32, 192 * 2, 5))
        + (linear(192 * 25, 500 * 5) + linear(500, 1)),
    },
}


def test_every_recipe_and_network_is_covered() -> None:
    assert set(SIZES) == set(SHRINK) == set(recipe_names())
    used = {c.name for name in recipe_names() for c in recipe(name).networks.values()}
    assert used == set(NETWORKS)


@pytest.mark.parametrize("name", recipe_names())
def test_parameters_are_as_many_as_counted_by_hand(name: str) -> None:
    with torch.device("meta"):
        found = {player: count(net) for player, net in nets(recipe(name)).items()}
    assert found == SIZES[name]


def test_the_posts_numbers() -> None:
    assert (POST_G, POST_D) == (1_510_032, 533_505)
    with torch.device("meta"):
        gan, wgan = nets(recipe("gan")), nets(recipe("wgan_gp"))
    widths = [(m.in_features, m.out_features) for m in gan["G"].modules() if isinstance(m, nn.Linear)]
    assert widths == [(100, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    widths = [(m.in_features, m.out_features) for m in gan["D"].modules() if isinstance(m, nn.Linear)]
    assert widths == [(784, 512), (512, 256), (256, 1)]
    norms = [m for m in gan["G"].modules() if isinstance(m, nn.BatchNorm1d)]
    assert [(m.num_features, m.eps, m.momentum) for m in norms] == [(n, 0.8, 0.1) for n in (256, 512, 1024)]
    assert [m.eps for m in wgan["G"].modules() if isinstance(m, nn.BatchNorm1d)] == [1e-5] * 3
    for player in ("G", "D"):
        assert {m.negative_slope for m in gan[player].modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in wgan["D"].modules())  # the paper asks so
    assert not any(isinstance(m, nn.Sigmoid) for m in gan["D"].modules())  # a logit


def test_eps_divides_as_it_should() -> None:
    """The first BatchNorm of the post's G against its formula: (h - mean) / sqrt(var + 0.8)."""
    net = mlp.Generator(6, (1, 4, 4), widths=(5, 7, 9)).double()
    h = net.model[:3](torch.randn(11, 6, dtype=torch.float64))
    expected = (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + 0.8)
    torch.testing.assert_close(net.model[3](h), expected)


# ---- shapes and ranges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("img_size", "channels"), [(None, 1), (32, 3), (16, 4)])
@pytest.mark.parametrize("name", recipe_names())
def test_shapes_follow_img_size_and_channels(name: str, img_size: int | None, channels: int) -> None:
    flags = {**SHRINK[name], "channels": channels}
    if img_size is not None:
        flags["img_size"] = SIDES.get(name, img_size)
    small = recipe(name, **flags)
    side = small.data.img_size
    both = nets(small)
    z = build_prior(small).sample(5, torch.Generator().manual_seed(0))
    x = both["G"](z)
    assert x.shape == (5, channels, side, side)
    output = both["D"](x)
    if name == "began":
        assert output.shape == x.shape
    elif name == "infogan":
        assert isinstance(output, Heads)
        assert [tuple(head.shape) for head in output] == [(5,), (5, 10), (5, 2)]
    else:
        assert output.shape == (5,)


@pytest.mark.parametrize("name", ["gan", "wgan_gp", "infogan", "fast_mnist"])
def test_images_are_inside_minus_one_and_one(name: str) -> None:
    small = recipe(name, **SHRINK[name])
    z = build_prior(small).sample(8, torch.Generator().manual_seed(0))
    net = nets(small)["G"].double()
    last = [p for p in net.parameters() if p.dim() > 1][-1]
    with torch.no_grad():
        last.mul_(300 / last.abs().max())  # far beyond what a tanh lets through
    x = net(z.double())
    assert x.abs().max() <= 1 and (x > 0.9).any() and (x < -0.9).any()


def test_began_is_not_bounded() -> None:
    """Its output is linear: ten times the last layer is ten times the picture."""
    net = began.Generator(6, (1, 16, 16), width=4).double()
    z = torch.randn(2, 6, dtype=torch.float64)
    once = net(z)
    last = net.model[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    with torch.no_grad():
        last.weight.mul_(1000)
        last.bias.mul_(1000)
    torch.testing.assert_close(net(z), 1000 * once)
    assert net(z).abs().max() > 1


@pytest.mark.parametrize("name", recipe_names())
def test_gradient_reaches_the_input_and_every_weight(name: str) -> None:
    """In float64, where rounding noise does not pass for a gradient."""
    small = recipe(name, **SHRINK[name])
    both = {player: net.double() for player, net in nets(small).items()}
    with torch.no_grad():
        for p in (p for net in both.values() for p in net.parameters()):
            p.add_(torch.randn_like(p), alpha=0.01)  # a layer that starts at 0 lets no gradient through yet
    z = build_prior(small).sample(6, torch.Generator().manual_seed(0), torch.float64).requires_grad_()
    for net, x in ((both["G"], z), (both["D"], both["G"](z).detach().requires_grad_())):
        probe = torch.Generator().manual_seed(1)
        loss = sum(((h * torch.randn(h.shape, generator=probe, dtype=h.dtype)).sum() for h in images_of(net(x))), 0.0)
        assert isinstance(loss, Tensor)
        loss.backward()
        assert x.grad is not None and (x.grad.abs().flatten(1).sum(1) > 0).all()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_samples_do_not_mix_in_eval_mode() -> None:
    """A network sees one sample at a time there: a permutation in is a permutation out."""
    for name in recipe_names():
        small = recipe(name, **SHRINK[name])
        z = build_prior(small).sample(6, torch.Generator().manual_seed(0), torch.float64)
        order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
        x = nets(small)["G"].double().eval()(z)
        net = nets(small)["G"].double().eval()
        torch.testing.assert_close(net(z[order]), net(z)[order], rtol=1e-12, atol=1e-12)
        critic = nets(small)["D"].double().eval()
        for whole, permuted in zip(images_of(critic(x)), images_of(critic(x[order])), strict=True):
            torch.testing.assert_close(permuted, whole[order], rtol=1e-12, atol=1e-12)


def test_infogan_heads_are_logits_and_share_the_trunk() -> None:
    net = infogan.Discriminator((1, 8, 8), width=4)
    heads = net(torch.randn(64, 1, 8, 8))
    assert not torch.allclose(heads.category.sum(1), torch.ones(64))  # no softmax
    trunk = set(net.trunk.parameters())
    for head in heads:
        found = torch.autograd.grad(head.square().sum(), list(trunk), retain_graph=True, allow_unused=True)
        assert all(g is not None for g in found)
    own = torch.autograd.grad(heads.score.sum(), list(net.q.parameters()), allow_unused=True)
    assert own == (None,) * len(own)


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "nearest"), [(28, 32), (8, 16), (1, 16), (20, 16), (24, 16), (25, 32), (63, 64), (100, 128), (9999, 4096)]
)
def test_began_refuses_sizes_with_the_nearest(side: int, nearest: int) -> None:
    text = f"img_size is {side}; .*the nearest is {nearest}$"
    with pytest.raises(ValueError, match=text):
        began.Generator(4, (1, side, side), width=1)
    with pytest.raises(ValueError, match=text):
        began.Autoencoder((1, side, side), width=1, code=1)


@pytest.mark.parametrize(("side", "nearest"), [(29, 28), (31, 32), (1, 4), (2, 4), (5, 4), (7, 8)])
def test_infogan_refuses_sizes_with_the_nearest(side: int, nearest: int) -> None:
    text = f"img_size is {side}; .*the nearest is {nearest}$"
    with pytest.raises(ValueError, match=text):
        infogan.Generator(4, (1, side, side), width=1)
    with pytest.raises(ValueError, match=text):
        infogan.Discriminator((1, side, side), width=1)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_began_takes_the_sizes_that_it_names(side: int) -> None:
    x = torch.zeros(1, 1, side, side)
    assert began.Autoencoder((1, side, side), width=1, code=2)(x).shape == x.shape


def test_a_refusal_names_the_recipes_key() -> None:
    with pytest.raises(UserError, match=r"^networks\.[GD]: img_size is 28; .*the nearest is 32$"):
        nets(recipe("began", img_size=28))


# ---- what D says ------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    extra: Tensor
    score: Any


def test_scores_of_every_form() -> None:
    flat, small, big = torch.randn(4), torch.randn(4, 2, 3), torch.randn(4, 5, 5)
    for output, expected in [
        (flat, (flat,)),
        (small, (small,)),
        ([small, big], (small, big)),
        ((flat, small), (flat, small)),
        (Record(torch.randn(4, 10), flat), (flat,)),
        (Record(torch.randn(4, 10), [small, big]), (small, big)),
        (Heads(flat, torch.randn(4, 10), torch.randn(4, 2)), (flat,)),
    ]:
        found = scores(output, 4)
        assert len(found) == len(expected) and all(a is b for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(4, 1), (3,), (4, 1, 2, 2), (), (8, 2, 2)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """(N, 1) above all: against (N,) it broadcasts to (N, N) without a word."""
    with pytest.raises(ValueError, match="D returned scores of shape"):
        scores(torch.zeros(shape), 4)
    with pytest.raises(ValueError, match="D returned scores of shape"):
        scores([torch.zeros(4), torch.zeros(shape)], 4)


def test_per_sample_is_the_mean_of_a_map_and_the_sum_of_scales() -> None:
    real = (torch.randn(3), torch.randn(3, 2, 2), torch.randn(3, 4, 5))
    fake = (torch.randn(3), torch.randn(3, 2, 2), torch.randn(3, 4, 5))

    def loss(r: Tensor, f: Tensor) -> Tensor:
        return (r - 2 * f) ** 2  # not linear: the loss comes before the mean

    found = per_sample(loss, Critique(real, fake))
    for i in range(3):
        expected = 0.0
        for r, f in zip(real, fake, strict=True):
            terms = [(a - 2 * b) ** 2 for a, b in zip(r[i].flatten().tolist(), f[i].flatten().tolist(), strict=True)]
            expected += sum(terms) / len(terms)
        assert found[i].item() == pytest.approx(expected, rel=1e-5)


def test_score_is_one_number_per_sample() -> None:
    class Scales(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x[:, 0], x.mean(1)[:, :2, :2]]

    x = torch.randn(3, 1, 4, 4)
    expected = x[:, 0].mean((1, 2)) + x[:, 0, :2, :2].mean((1, 2))
    torch.testing.assert_close(score(Scales())(x), expected)


def test_mean_is_that_of_outputs_over_scales_and_detached() -> None:
    a, b = torch.randn(4, requires_grad=True), torch.randn(4, 2, 2, requires_grad=True)
    found = mean((a, b), torch.sigmoid)
    assert not found.requires_grad and found.shape == ()
    torch.testing.assert_close(found, (torch.sigmoid(a.detach()).mean() + torch.sigmoid(b.detach()).mean()) / 2)
