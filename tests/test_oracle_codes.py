"""UNIT and MUNIT against loops written after their papers and the authors' code; their networks by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import experiment_of, rounds
from test_oracle import Duel, Made, cross_entropy, duel, step
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from gansmith.inference import Sampler
from gansmith.networks import munit, unit

__all__ = ["duel"]
SHAPE = (2, 16, 20)


def adam(d: Duel, *names: str) -> torch.optim.Optimizer:
    """One optimizer for several networks, with the recipe's rates and decay of the first."""
    group = next(p for p in d.game.players if p.name == names[0]).optimizer.param_groups[0]
    parameters = [w for name in names for w in d.nets[name].parameters()]
    keys = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
    return torch.optim.Adam(parameters, **keys, fused=False, foreach=False)


def l1(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().mean()


# ---- UNIT --------------------------------------------------------------------------------------------------------


def play_unit(d: Duel, n: int) -> None:
    """D, then all others: 10 GAN + 0.1 KL + 100 |.|_1 + 0.1 KL of the cycle + 100 |.|_1 of the cycle."""
    EA, EB, S, GA, GB, DA, DB = (d.nets[name] for name in ("EA", "EB", "S", "GA", "GB", "DA", "DB"))
    of_g, of_a, of_b = adam(d, "EA", "EB", "S", "GA", "GB"), adam(d, "DA"), adam(d, "DB")

    def code(encoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = S.encode(encoder(x))
        return mu, S.decode(mu + torch.randn(mu.shape, generator=d.noise, dtype=torch.float64))

    for (batch,) in d.rounds(n):
        a, b = batch["a"], batch["b"]
        fake_b, fake_a = GB(code(EA, a)[1]).detach(), GA(code(EB, b)[1]).detach()
        step(of_a, 10 * (cross_entropy(DA(a), True) + cross_entropy(DA(fake_a), False)) / 2)
        step(of_b, 10 * (cross_entropy(DB(b), True) + cross_entropy(DB(fake_b), False)) / 2)
        (mu_a, h_a), (mu_b, h_b) = code(EA, a), code(EB, b)
        fake_b, fake_a = GB(h_a), GA(h_b)
        (mu_ab, h_ab), (mu_ba, h_ba) = code(EB, fake_b), code(EA, fake_a)
        loss = 10 * (cross_entropy(DB(fake_b), True) + cross_entropy(DA(fake_a), True))
        loss = loss + 0.1 * sum((mu**2).mean() for mu in (mu_a, mu_b, mu_ab, mu_ba))
        loss = loss + 100 * (l1(GA(h_a), a) + l1(GB(h_b), b) + l1(GA(h_ab), a) + l1(GB(h_ba), b))
        step(of_g, loss)


def test_unit_is_the_authors_loop(duel: Made) -> None:
    d = duel("unit")
    play_unit(d, 3)
    assert d.apart() < 1e-10
    wrong = duel("unit", **{"game.lambda_kl_cycle": 0.0})
    play_unit(wrong, 3)
    assert wrong.apart() > 1e-6


def test_units_shared_layers_are_stepped_once(duel: Made) -> None:
    """PyTorch-GAN lists them in Adam for either domain, which then moves them twice a step."""
    d = duel("unit")
    owners = Counter(id(w) for p in d.game.players for w in p.net.parameters())
    stepped = Counter(id(w) for p in d.game.players for g in p.optimizer.param_groups for w in g["params"])
    assert owners == stepped and {*owners.values()} == {1}


# ---- MUNIT -------------------------------------------------------------------------------------------------------


def play_munit(d: Duel, n: int, target: Callable[[Tensor], Tensor] = lambda content: content) -> None:
    """D, then A and B: the authors' least squares, 10 L_x + L_c + L_s + 3 L_cc, styles drawn for each of both moves."""
    A, B, DA, DB = (d.nets[name] for name in ("A", "B", "DA", "DB"))
    of_g, of_a, of_b = adam(d, "A", "B"), adam(d, "DA"), adam(d, "DB")

    def squares(maps: tuple[Tensor, ...], aim: float) -> Tensor:
        return sum(((m - aim) ** 2).mean() for m in maps)  # type: ignore[return-value]

    for (batch,) in d.rounds(n):
        a, b = batch["a"], batch["b"]
        s_a, s_b = (d.normal(len(a), 8) for _ in range(2))
        x_ab, x_ba = B(A.content(a), s_b).detach(), A(B.content(b), s_a).detach()
        step(of_a, squares(DA(a), 1) + squares(DA(x_ba), 0))
        step(of_b, squares(DB(b), 1) + squares(DB(x_ab), 0))
        s_a, s_b = (d.normal(len(a), 8) for _ in range(2))
        c_a, c_b = A.content(a), B.content(b)
        x_ab, x_ba = B(c_a, s_b), A(c_b, s_a)
        loss = squares(DA(x_ba), 1) + squares(DB(x_ab), 1)
        loss = loss + 10 * (l1(A(c_a, A.style(a)), a) + l1(B(c_b, B.style(b)), b))
        loss = loss + l1(B.content(x_ab), target(c_a)) + l1(A.content(x_ba), target(c_b))
        loss = loss + l1(B.style(x_ab), s_b) + l1(A.style(x_ba), s_a)
        loss = loss + 3 * (l1(A(B.content(x_ab), A.style(a)), a) + l1(B(A.content(x_ba), B.style(b)), b))
        step(of_g, loss)


def test_munit_is_its_equation_5(duel: Made) -> None:
    d = duel("munit", **{"game.lambda_cycle": 3.0})
    play_munit(d, 3)
    assert d.apart() < 1e-10
    wrong = duel("munit", **{"game.lambda_cycle": 3.0})
    play_munit(wrong, 3, Tensor.detach)  # as in PyTorch-GAN: no gradient through the content that is aimed at
    assert wrong.apart() > 1e-6


def test_adain_normalises_and_takes_scale_and_shift_from_the_style() -> None:
    """Reflected convolutions, (h - mean) / std of each map, then the style's numbers."""
    block = munit.AdaptiveResidual(3).double()
    x, style = (torch.randn(2, *shape, dtype=torch.float64) for shape in ((3, 5, 6), (12,)))

    def adain(layer: nn.Conv2d, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        h = conv2d(pad(h, (1, 1, 1, 1), mode="reflect"), layer.weight, layer.bias)
        h = (h - h.mean((2, 3), keepdim=True)) / torch.sqrt(h.var((2, 3), correction=0, keepdim=True) + 1e-5)
        return h * scale[:, :, None, None] + shift[:, :, None, None]

    h = adain(block.first, x, style[:, :3], style[:, 3:6]).clamp(min=0)
    torch.testing.assert_close(block(x, style), x + adain(block.second, h, style[:, 6:9], style[:, 9:]))


def test_a_style_is_not_normalised_away() -> None:
    """Contents of a picture and of its double in contrast are near; styles are not. Only contents have InstanceNorm."""
    net = munit.AutoEncoder(8, (1, 32, 32), width=4, blocks=1, units=8).double()
    kinds = {name: {type(m) for m in part.modules()} for name, part in net.named_children()}
    assert nn.InstanceNorm2d in kinds["content"] and not kinds["style"] & {nn.InstanceNorm2d, nn.GroupNorm}
    assert nn.GroupNorm in kinds["up"] and not any(nn.BatchNorm2d in found for found in kinds.values())
    x = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    (c, s), (c_2, s_2) = net(x), net(2 * x)
    torch.testing.assert_close(c, c_2, rtol=1e-3, atol=1e-3)  # there is an eps in the first norm
    torch.testing.assert_close(s_2, 2 * s)  # without biases at first, and ReLU keeps factors


def test_styles_are_drawn_by_the_seed_or_taken_from_a_picture(data_of: Callable[[str], str]) -> None:
    wide = {f"networks.{player}.width": 6 for player in "AB"}  # with fewer maps all may be 0 for any picture
    made = experiment_of("munit", data_of("munit"), **wide)
    rounds(made, 1)
    fields = next(made.stream).fields
    twice = {name: x[:1].expand(2, -1, -1, -1) for name, x in fields.items()}
    for name, drawn in {"a2b": True, "b2a": True, "a2b_like": False, "b2a_like": False}.items():
        maker = made.game.makers[name]
        sampler = Sampler([getattr(made.game, p).net for p in maker.players], made.prior, maker=maker)
        one, other = sampler.translated(twice, [1, 2])
        assert torch.equal(one, other) is not drawn
        (style,) = {*maker.pictures} - {next(iter(maker.pictures))} or {None}
        assert (style is None) is drawn
        if style:  # the first picture is what is translated, the second one gives the style
            assert not torch.equal(sampler.translated({**twice, style: fields[style][1:2]}, [1])[0], one)


# ---- their networks ----------------------------------------------------------------------------------------------


def small(name: str) -> tuple[nn.Module, list[list[Tensor]]]:
    """A network, and what it may be given."""
    x, maps, noise = (torch.randn(3, *s, dtype=torch.float64) for s in (SHAPE, (8, 4, 5), (8, 4, 5)))
    nets: dict[str, tuple[Any, list[list[Tensor]]]] = {
        "unit_encoder": (lambda: unit.Encoder(SHAPE, width=2, blocks=1), [[x]]),
        "unit_shared": (lambda: unit.Shared(width=2), [[maps, noise]]),
        "unit_decoder": (lambda: unit.Decoder(SHAPE, width=2, blocks=1), [[maps]]),
        "unit_critic": (lambda: unit.Critic(SHAPE, width=2, layers=3), [[x]]),
        "munit_autoencoder": (
            lambda: munit.AutoEncoder(6, SHAPE, width=2, blocks=2, units=8),
            [[x], [maps, torch.randn(3, 6, dtype=torch.float64)]],
        ),
        "munit_critic": (lambda: munit.Critic(SHAPE, width=2, layers=3, scales=2), [[x]]),
    }
    make, given = nets[name]
    return make().double(), given


GIVES = {
    "unit_encoder": [(8, 4, 5)],
    "unit_shared": [(8, 4, 5), (8, 4, 5)],
    "unit_decoder": [SHAPE],
    "unit_critic": [(2, 3)],
    "munit_autoencoder": [(8, 4, 5), (6,), SHAPE],
    "munit_critic": [(2, 2), (1, 1)],
}


@pytest.mark.parametrize("name", GIVES)
def test_what_a_network_gives_and_that_every_weight_has_a_part_in_it(name: str) -> None:
    torch.manual_seed(0)
    net, ways = small(name)
    found: list[Tensor] = []
    for given in ways:
        said = net(*given)
        own = [said] if isinstance(said, Tensor) else [*said]
        for i in range(3):  # a picture does not depend on its neighbours
            alone = net(*(x[i : i + 1] for x in given))
            for one, all_three in zip([alone] if isinstance(alone, Tensor) else alone, own, strict=True):
                torch.testing.assert_close(one[0], all_three[i], rtol=1e-9, atol=1e-12)
        found += own
    assert [tuple(part.shape[1:]) for part in found] == GIVES[name]
    sum((part * torch.randn_like(part)).sum() for part in found).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_sizes_are_those_of_the_authors_code() -> None:
    """Counted by running it; where their norms have no scale and shift, ours have these in place of a bias."""
    with torch.device("meta"):
        nets = munit.AutoEncoder(8, (3, 256, 256)), munit.Critic((3, 256, 256))
        counts = [sum(p.numel() for p in net.parameters()) for net in nets]
        assert counts == [15_026_187 + (64 + 128 + 256 + 8 * 256), 8_271_171]
        nets = unit.Encoder((3, 256, 256)), unit.Shared(), unit.Decoder((3, 256, 256)), unit.Critic((3, 256, 256))
        counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    block = 2 * (256 * 256 * 9 + 2 * 256)
    ends = 3 * 64 * 49 + 64 + 64 * 128 * 9 + 128 + 128 * 256 * 9 + 256, 256 * 128 * 9 + 128 + 128 * 64 * 9 + 64 + 195
    halvings = sum(before * 2 * before * 9 + 2 * before for before in (64, 128, 256, 512, 1024))
    assert counts == [ends[0] + 3 * block, 2 * block, ends[1] + 3 * block, 3 * 64 * 9 + 64 + halvings + 2049]


@pytest.mark.parametrize(
    ("make", "size", "nearest"),
    [
        (lambda shape: munit.AutoEncoder(8, shape, width=1), (30, 8), "32,16"),
        (lambda shape: munit.Critic(shape, width=1, layers=3, scales=2), (32, 12), "32,16"),
        (lambda shape: unit.Encoder(shape, width=1), (30, 4), "32,8"),
        (lambda shape: unit.Critic(shape, width=1, layers=3), (32, 7), "32,8"),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_the_nearest(make: Any, size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(ValueError, match=f"the nearest is {nearest}$"):
        make((1, *size))
    make((1, *map(int, nearest.split(","))))
