"""Objectives over their table: closed forms, symmetries, gradients where the score saturates, the value at D*."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from conftest import SMALL, experiment_of
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from gansmith.build import objective_of
from gansmith.errors import UserError
from gansmith.networks.mlp import Discriminator
from gansmith.objectives import ALIASES, OBJECTIVES, Objective
from gansmith.recipe import plan

GRID = (-30.0, -7.5, -1.0, -0.25, 0.0, 0.5, 2.0, 9.0, 30.0)


def sigmoid(x: float) -> float:
    """Without overflow or cancellation at either end, in Python's own floats."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True)
class Facts:
    """What holds of a row, by hand; r and f are scores of a real and of a generated image."""

    at_zero: tuple[float, float]
    """Both losses on three of a kind where D cannot tell: -log(1/2) for each half of a cross-entropy."""
    d: Callable[[float, float], tuple[float, float]] | None
    """The slopes of D's loss by r and f; None where a loss looks at the whole batch."""
    g: Callable[[float, float], tuple[float, float]] | None
    alive: bool = True
    """G learns where D is sure of the fakes."""
    monotone: bool = True
    """D's loss never rises with r or falls with f, nor does G's rise with f."""
    mirrored: bool = True
    """Calling real fake and turning the score around changes nothing for D."""
    shift: str = ""
    """Which losses do not see a shift of all scores: d, g."""


def _logistic(r: float, f: float) -> tuple[float, float]:
    return -sigmoid(-r) / 2, sigmoid(f) / 2


LOG_2 = math.log(2)
FACTS = {
    "non_saturating": Facts((LOG_2, LOG_2), _logistic, lambda r, f: (0.0, -sigmoid(-f))),
    "minimax": Facts((LOG_2, -LOG_2), _logistic, lambda r, f: (0.0, -sigmoid(f)), alive=False),
    "wasserstein": Facts((0.0, 0.0), lambda r, f: (-1.0, 1.0), lambda r, f: (0.0, -1.0), shift="d"),
    "relativistic": Facts(
        (LOG_2, LOG_2),
        lambda r, f: (-sigmoid(f - r), sigmoid(f - r)),
        lambda r, f: (sigmoid(r - f), -sigmoid(r - f)),
        shift="dg",
    ),
    "relativistic_average": Facts((LOG_2, LOG_2), None, None, shift="dg"),
    "least_squares": Facts(
        (0.5, 0.5), lambda r, f: (r - 1, f), lambda r, f: (0.0, f - 1), monotone=False, mirrored=False
    ),
    "hinge": Facts((2.0, 0.0), lambda r, f: (-float(r < 1), float(f > -1)), lambda r, f: (0.0, -1.0)),
    "boundary_seeking": Facts((LOG_2, 0.0), _logistic, lambda r, f: (0.0, f), monotone=False),
    "softmax": Facts((math.log(6), math.log(6)), None, None, monotone=False, mirrored=False, shift="dg"),
}


def pairs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Every pair of the grid, as leaves."""
    grid = torch.tensor(GRID, dtype=dtype)
    real, fake = torch.cartesian_prod(grid, grid).unbind(1)
    return real.clone().requires_grad_(), fake.clone().requires_grad_()


def slopes(loss: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(real, fake).sum(), (real, fake), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_row_is_what_its_facts_say(name: str) -> None:
    assert {*FACTS} == {*OBJECTIVES}
    row, facts = OBJECTIVES[name], FACTS[name]
    zero = torch.zeros(3, 2, 2, dtype=torch.float64)
    for loss, expected in zip((row.d, row.g), facts.at_zero, strict=True):
        torch.testing.assert_close(loss(zero, zero), torch.full_like(zero, expected), rtol=1e-14, atol=0)
    # D learns where it is sure and wrong, in any case; G where D is sure of the fakes.
    low, high = (torch.full((4,), x, requires_grad=True) for x in (-30.0, 30.0))
    of_real, of_fake = slopes(row.d, low, high)
    assert (of_real < -0.4).all() and (of_fake > 0.4).all()
    _, of_fake = slopes(row.g, high, low)
    assert bool((of_fake < -0.4).all()) is facts.alive and bool((of_fake.abs() < 1e-9).all()) is not facts.alive
    steps, rises = torch.linspace(-40, 40, 801, dtype=torch.float64), []
    for fixed in (torch.full_like(steps, other) for other in (-30.0, -1.0, 0.0, 30.0)):
        columns = [torch.stack([steps, fixed], 1)[:, None], torch.stack([fixed, steps], 1)[:, None]]
        (d_r, d_f), (_, g_f) = ([torch.cat([loss(*pair.T) for pair in c]) for c in columns] for loss in (row.d, row.g))
        rises += [(d_r.diff() > 0).any(), (d_f.diff() < 0).any(), (g_f.diff() > 0).any()]
    assert (not any(rises)) is facts.monotone
    real, fake = pairs()
    mirror = torch.allclose(row.d(real, fake), row.d(-fake, -real), rtol=1e-13, atol=1e-15)
    assert mirror is facts.mirrored
    for side, loss in (("d", row.d), ("g", row.g)):
        shifted = torch.allclose(loss(real + 3.5, fake + 3.5), loss(real, fake), rtol=1e-12, atol=1e-13)
        assert shifted is (side in facts.shift)
    ones = torch.ones_like(real)
    assert torch.equal(row.g(ones, fake), row.g(0 * ones, fake)) is not row.g_uses_real
    assert row.probability is (name in ("non_saturating", "minimax", "boundary_seeking"))
    expected = torch.sigmoid(fake) if row.probability else fake
    torch.testing.assert_close(row.output(fake), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if facts.d])
def test_slopes_are_the_derivatives_by_hand_even_at_thirty(name: str, dtype: torch.dtype) -> None:
    """To a relative error, so that a slope of e^-30 must be that: log(sigmoid(x) + 1e-8) has -1e-5 where -1 belongs.

    torch's softplus is the identity from 20 on, which is 1e-9 off there.
    """
    real, fake = pairs(dtype)
    row, facts = OBJECTIVES[name], FACTS[name]
    for loss, by_hand in ((row.d, facts.d), (row.g, facts.g)):
        assert by_hand is not None and torch.isfinite(loss(real, fake)).all()
        expected = torch.tensor([by_hand(r, f) for r in GRID for f in GRID], dtype=torch.float64).unbind(1)
        for a, b in zip(slopes(loss, real, fake), expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradcheck_twice_of_any_shape_in_any_order(name: str) -> None:
    """A permutation of the pairs permutes the losses; each element by itself, unless the row says `batch`."""
    generator = torch.Generator().manual_seed(1)
    real, fake = torch.randn(2, 4, 2, generator=generator, dtype=torch.float64).unbind(0)
    order = torch.randperm(4, generator=generator)
    row = OBJECTIVES[name]
    for loss in (row.d, row.g):
        leaves = real.clone().requires_grad_(), fake.clone().requires_grad_()
        assert torch.autograd.gradcheck(loss, leaves) and torch.autograd.gradgradcheck(loss, leaves)
        whole = loss(real, fake)
        torch.testing.assert_close(loss(real[order], fake[order]), whole[order], rtol=1e-12, atol=0)
        assert torch.allclose(loss(real[:2], fake[:2]), whole[:2]) is not row.batch


# ---- identities --------------------------------------------------------------------------------------------------


def test_minimax_is_zero_sum() -> None:
    """G's loss is minus what the fakes cost D; -log D and log(1 - D) differ by the score, everywhere."""
    real, fake = pairs()
    row = OBJECTIVES["minimax"]
    certain = torch.full_like(real, torch.inf)  # a real image that is surely real costs D nothing
    torch.testing.assert_close(row.g(real, fake), -2 * row.d(certain, fake), rtol=1e-13, atol=1e-15)
    strong = OBJECTIVES["non_saturating"].g(real, fake)
    torch.testing.assert_close(strong + fake, -row.g(real, fake), rtol=1e-12, atol=1e-12)


def test_hinge_as_printed_with_a_margin_of_the_recipe() -> None:
    """-min(0, -m + D(x)) - min(0, -m - D(G(z)))."""
    real, fake = pairs()
    row = objective_of(plan("gan", flags={"objective": {"name": "hinge", "margin": 0.75}}).recipe)
    zero = torch.zeros_like(real)
    printed = -torch.minimum(zero, -0.75 + real) - torch.minimum(zero, -0.75 - fake)
    torch.testing.assert_close(row.d(real, fake), printed, rtol=0, atol=0)


def test_boundary_seeking_is_the_papers_square_of_logs_and_finite_beyond_a_sigmoid() -> None:
    """(log D - log(1 - D))^2 / 2 where D is no 0 or 1 yet: from 40 on the sigmoid is 1, and its loss infinite."""
    fake = torch.linspace(-12, 12, 49, dtype=torch.float64)
    d = torch.sigmoid(fake)
    row = OBJECTIVES["boundary_seeking"]
    torch.testing.assert_close(row.g(fake, fake), (d.log() - (1 - d).log()) ** 2 / 2, rtol=1e-9, atol=1e-12)
    sure = torch.tensor([-200.0, 200.0], requires_grad=True)
    (slope,) = torch.autograd.grad(row.g(sure, sure).sum(), sure)
    assert slope.tolist() == [-200.0, 200.0] and row.d is OBJECTIVES["non_saturating"].d


def test_softmax_is_the_cross_entropy_with_the_papers_targets() -> None:
    """Of D with 1 / |B+| on real images and 0 on fakes, of G with 1 / |B| on all; a batch for each place of a map."""
    real, fake = torch.randn(2, 5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
    row = OBJECTIVES["softmax"]
    scores = torch.cat((real, fake)).flatten(1).T
    of_d, of_g = torch.tensor([0.2] * 5 + [0.0] * 5).double(), torch.full((10,), 0.1).double()
    for loss, targets in ((row.d, of_d), (row.g, of_g)):
        second = torch.nn.functional.cross_entropy(scores, targets.expand_as(scores))
        torch.testing.assert_close(loss(real, fake).mean(), second, rtol=1e-6, atol=0)
    for far in (1e4, -1e4):  # where exp overflows, and where the sum of exp is 0
        given = torch.full((3,), far, requires_grad=True), torch.full((3,), far)
        assert row.d(*given).mean().item() == pytest.approx(math.log(6), abs=2e-3)
        assert torch.isfinite(torch.autograd.grad(row.d(*given).sum(), given[0])[0]).all()


def test_every_alias_is_another_name_of_a_row() -> None:
    assert {*ALIASES.values()} <= {*OBJECTIVES} and not {*ALIASES} & {*OBJECTIVES}
    assert plan("gan", flags={"objective": "lsgan"}).recipe == plan("gan", flags={"objective": "least_squares"}).recipe


# ---- the theory of the papers, on four points --------------------------------------------------------------------

P = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
Q = torch.tensor([0.4, 0.05, 0.25, 0.3], dtype=torch.float64)


def expected_losses(row: Objective, scores: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """E of both losses where real images are the points with probability p, fakes with q, and D gives `scores`."""
    real, fake = torch.cartesian_prod(scores, scores).unbind(1)
    weight = torch.outer(p, q).flatten()
    return (weight * row.d(real, fake)).sum(), (weight * row.g(real, fake)).sum()


def kl(a: Tensor, b: Tensor) -> Tensor:
    return (a * (a / b).log()).sum()


def test_value_at_the_best_d_is_the_jensen_shannon_divergence() -> None:
    """Goodfellow et al., Theorem 1: max_D V = -log 4 + 2 JSD(p, q), at D* = p / (p + q), whose logit is log(p / q)."""
    row = OBJECTIVES["minimax"]
    best = (P / Q).log().requires_grad_()
    torch.testing.assert_close(row.output(best.detach()), P / (P + Q))
    loss_d, loss_g = expected_losses(row, best, P, Q)
    jsd = (kl(P, (P + Q) / 2) + kl(Q, (P + Q) / 2)) / 2
    torch.testing.assert_close(-2 * loss_d, -math.log(4) + 2 * jsd, rtol=1e-13, atol=0)
    torch.testing.assert_close(loss_g, (Q * (Q / (P + Q)).log()).sum(), rtol=1e-13, atol=0)
    assert torch.autograd.grad(loss_d, best)[0].abs().max() < 1e-15  # and D* it is
    perfect, _ = expected_losses(row, torch.zeros(4, dtype=torch.float64), P, P)
    assert -2 * perfect.item() == pytest.approx(-math.log(4), rel=1e-14)


@pytest.mark.parametrize(("a", "b", "c"), [(0.0, 1.0, 1.0), (-1.0, 1.0, 0.0)])
def test_least_squares_with_the_keys_of_a_recipe_has_mao_s_best_d(a: float, b: float, c: float) -> None:
    """D* = (b p + a q) / (p + q): eq. 5 of Mao et al. 2017; with -1, 1, 0 the paper's eq. 8, where D* is odd."""
    flags = {"objective": {"name": "least_squares", "a": a, "b": b, "c": c}}
    row = objective_of(plan("gan", flags=flags).recipe)
    best = ((b * P + a * Q) / (P + Q)).requires_grad_()
    loss_d, loss_g = expected_losses(row, best, P, Q)
    assert torch.autograd.grad(loss_d, best)[0].abs().max() < 1e-15
    torch.testing.assert_close(loss_g, (Q * (best - c) ** 2).sum() / 2)


# ---- in a recipe -------------------------------------------------------------------------------------------------


def test_a_loss_of_the_whole_batch_is_refused_parts(pictures: Any) -> None:
    with pytest.raises(
        UserError, match=r"^accumulate is 2: relativistic_average looks at whole batches; it must be 1$"
    ):
        experiment_of("gan", str(pictures), objective="relativistic_average", accumulate=2)


class Bounded(Discriminator):
    """A critic whose layers go through a function first."""

    def __init__(self, shape: tuple[int, int, int], *, by: str = "spectral_norm") -> None:
        super().__init__(shape, widths=(4,))
        norms: dict[str, Callable[[nn.Module], Any]] = {
            "spectral_norm": spectral_norm,  # a parametrization of torch's that bounds the weights
            "hook": nn.utils.spectral_norm,  # the older form of the same
            "weight_norm": weight_norm,  # a parametrization that bounds nothing
        }
        for module in [m for m in self.modules() if isinstance(m, nn.Linear)]:
            norms[by](module)


W = {"objective": "wasserstein"}


@pytest.mark.parametrize(
    ("recipe", "flags", "warned"),
    [
        ("gan", W, True),
        ("wgan_gp", {"penalties.0.weight": 0}, True),
        ("gan2014_mnist", W, False),  # whose weights are bounded
        ("gan", {**W, "networks.D": {"name": "test_objectives:Bounded"}}, False),
        ("gan", {**W, "networks.D": {"name": "test_objectives:Bounded", "by": "hook"}}, False),
        ("gan", {**W, "networks.D": {"name": "test_objectives:Bounded", "by": "weight_norm"}}, True),
        ("gan", {**W, "penalties": [{"name": "wgan_gp", "weight": 10}]}, False),
        ("wgan", {}, False),  # whose critic is clipped
    ],
)
def test_a_wasserstein_critic_that_nothing_bounds_is_warned_of(
    recipe: str, flags: dict[str, Any], warned: bool, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    if "networks.D" in flags:
        monkeypatch.delitem(SMALL["gan"], "networks.D.widths")
    experiment_of(recipe, str(pictures), say=said.append, **flags)
    found = [text for text in said if "Lipschitz" in text]
    assert len(found) == warned
    assert all(text.startswith("warning: ") and "penalties: [{name: wgan_gp" in text for text in found)


@pytest.mark.parametrize(
    ("d", "g", "says"),
    [
        (lambda real, fake: real - fake, lambda fake: -fake, "g of .* must take the scores of real and of generated"),
        (lambda real: real, lambda real, fake: -fake, "d of .* must take the scores of real and of generated images"),
        (torch.sub, torch.sub, None),  # without a signature to look at
    ],
)
def test_losses_of_ones_own(d: Any, g: Any, says: str | None, pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "minimax", Objective(d, g, paper="none"))
    make = partial(experiment_of, "gan", str(pictures), objective="minimax")
    if says is not None:
        with pytest.raises(UserError, match=f"^objective: the loss {says}"):
            make()
        return
    made = make()
    played = made.game.round(next(made.stream))
    assert float(played["loss/D"]) == float(played["loss/G"]) != 0
