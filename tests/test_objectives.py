"""Objectives over their table: closed forms, symmetries, gradients where the score saturates, the value at D*."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from gansmith.build import build
from gansmith.errors import UserError
from gansmith.networks.mlp import Discriminator
from gansmith.objectives import OBJECTIVES, Objective
from gansmith.recipe import plan, recipe_names

GRID = (-30.0, -7.5, -1.0, -0.25, 0.0, 0.5, 2.0, 9.0, 30.0)


def sigmoid(x: float) -> float:
    """Without overflow or cancellation at either end, in Python's own floats."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


Slopes = Callable[[float, float], tuple[float, float]]
# (d loss_d / d real, d loss_d / d fake) and the same of loss_g, by hand; a row without them has the other tests.
SLOPES_D: dict[str, Slopes] = {
    "non_saturating": lambda r, f: (-sigmoid(-r) / 2, sigmoid(f) / 2),
    "minimax": lambda r, f: (-sigmoid(-r) / 2, sigmoid(f) / 2),
    "wasserstein": lambda r, f: (-1.0, 1.0),
    "relativistic": lambda r, f: (-sigmoid(f - r), sigmoid(f - r)),
}
SLOPES_G: dict[str, Slopes] = {
    "non_saturating": lambda r, f: (0.0, -sigmoid(-f)),
    "minimax": lambda r, f: (0.0, -sigmoid(f)),
    "wasserstein": lambda r, f: (0.0, -1.0),
    "relativistic": lambda r, f: (sigmoid(r - f), -sigmoid(r - f)),
}


def pairs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Every pair of the grid, as leaves."""
    grid = torch.tensor(GRID, dtype=dtype)
    real, fake = torch.cartesian_prod(grid, grid).unbind(1)
    return real.clone().requires_grad_(), fake.clone().requires_grad_()


def slopes(loss: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    found = torch.autograd.grad(loss(real, fake).sum(), (real, fake), allow_unused=True, materialize_grads=True)
    return found[0], found[1]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_at_zero(name: str) -> None:
    row = OBJECTIVES[name]
    zero = torch.zeros(3, 2, 2, dtype=torch.float64)
    for loss, expected in zip((row.d, row.g), row.at_zero, strict=True):
        value = loss(zero, zero)
        assert value.shape == zero.shape
        torch.testing.assert_close(value, torch.full_like(zero, expected), rtol=1e-14, atol=0)


def test_at_zero_is_what_the_papers_say() -> None:
    """D cannot tell: -log(1/2) for each half of a cross-entropy; a critic has no zero of its own."""
    assert OBJECTIVES["non_saturating"].at_zero == (math.log(2), math.log(2))
    assert OBJECTIVES["minimax"].at_zero == (math.log(2), math.log(1 / 2))
    assert OBJECTIVES["wasserstein"].at_zero == (0, 0)
    assert OBJECTIVES["relativistic"].at_zero == (math.log(2), math.log(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SLOPES_D)
def test_slopes_are_the_derivatives_by_hand_even_at_thirty(name: str, dtype: torch.dtype) -> None:
    """To a relative error, so that a slope of e^-30 must be that: log(sigmoid(x) + 1e-8) has -1e-5 where -1 belongs.

    torch's softplus is the identity from 20 on, which is 1e-9 off there.
    """
    real, fake = pairs(dtype)
    row = OBJECTIVES[name]
    for loss, by_hand in ((row.d, SLOPES_D[name]), (row.g, SLOPES_G[name])):
        assert torch.isfinite(loss(real, fake)).all()
        found = slopes(loss, real, fake)
        expected = torch.tensor([by_hand(r, f) for r in GRID for f in GRID], dtype=torch.float64).unbind(1)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_alive_at_thirty(name: str) -> None:
    """D learns where it is sure and wrong, G where D is sure of the fakes: unless the row says that it fades there."""
    row = OBJECTIVES[name]
    high = torch.full((4,), 30.0, requires_grad=True)
    low = torch.full((4,), -30.0, requires_grad=True)
    of_real, of_fake = slopes(row.d, low, high)
    assert (of_real < -0.4).all() and (of_fake > 0.4).all()
    _, of_fake = slopes(row.g, high, low)
    assert bool((of_fake < -0.4).all()) is row.alive and bool((of_fake.abs() < 1e-9).all()) is not row.alive


@pytest.mark.parametrize("name", OBJECTIVES)
def test_monotone(name: str) -> None:
    """D's loss never rises with a higher score of the real or a lower one of the fake; G's never with a higher fake."""
    steps = torch.linspace(-40, 40, 801, dtype=torch.float64)
    row = OBJECTIVES[name]
    for other in (-30.0, -1.0, 0.0, 30.0):
        fixed = torch.full_like(steps, other)
        assert (row.d(steps, fixed).diff() <= 0).all()
        assert (row.d(fixed, steps).diff() >= 0).all()
        assert (row.g(fixed, steps).diff() <= 0).all()
        assert row.d(steps, fixed)[-1] < row.d(steps, fixed)[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_g_uses_real_says_the_truth(name: str) -> None:
    row = OBJECTIVES[name]
    fake = torch.randn(50, generator=torch.Generator().manual_seed(0))
    one, other = torch.zeros(50), torch.ones(50)
    assert torch.equal(row.g(one, fake), row.g(other, fake)) is not row.g_uses_real


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradcheck_twice(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    real = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    fake = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    row = OBJECTIVES[name]
    for loss in (row.d, row.g):
        assert torch.autograd.gradcheck(loss, (real, fake))
        assert torch.autograd.gradgradcheck(loss, (real, fake))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_element_by_element(name: str) -> None:
    """Any shape, and each element by itself: a permutation of the pairs permutes the losses."""
    generator = torch.Generator().manual_seed(2)
    real, fake = torch.randn(2, 4, 3, 3, generator=generator).unbind(0)
    order = torch.randperm(4, generator=generator)
    row = OBJECTIVES[name]
    for loss in (row.d, row.g):
        whole = loss(real, fake)
        torch.testing.assert_close(loss(real[order], fake[order]), whole[order], rtol=1e-6, atol=0)
        torch.testing.assert_close(loss(real.flatten(), fake.flatten()), whole.flatten(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_output_is_the_papers_d_of_x(name: str) -> None:
    row = OBJECTIVES[name]
    score = torch.tensor([-2.0, 0.0, 3.0])
    expected = torch.tensor([sigmoid(-2), 0.5, sigmoid(3)]) if row.probability else score
    torch.testing.assert_close(row.output(score), expected)
    assert row.probability is (name in ("non_saturating", "minimax"))


# ---- identities -------------------------------------------------------------------------------------------------


def test_logistic_is_half_of_two_cross_entropies() -> None:
    real, fake = pairs(torch.float64)
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    row = OBJECTIVES["non_saturating"]
    halves = (bce(real, one, reduction="none") + bce(fake, zero, reduction="none")) / 2
    torch.testing.assert_close(row.d(real, fake), halves, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(row.g(real, fake), bce(fake, one, reduction="none"), rtol=1e-13, atol=1e-15)
    assert OBJECTIVES["minimax"].d is row.d


def test_minimax_is_zero_sum() -> None:
    """G's loss is minus what the fakes cost D, and D's loss is -V/2: what one wins of the fakes the other loses."""
    real, fake = pairs(torch.float64)
    row = OBJECTIVES["minimax"]
    certain = torch.full_like(real, torch.inf)  # a real image that is surely real costs D nothing
    torch.testing.assert_close(row.g(real, fake), -2 * row.d(certain, fake), rtol=1e-13, atol=1e-15)
    inside = (real.abs() < 20) & (fake.abs() < 20)  # log(1 - sigmoid) has digits left here
    value = torch.log(torch.sigmoid(real)) + torch.log(1 - torch.sigmoid(fake))
    torch.testing.assert_close(row.d(real, fake)[inside], -value[inside] / 2, rtol=1e-6, atol=1e-12)


def test_both_losses_of_g_pull_the_same_way_where_d_is_unsure() -> None:
    """-log D and log(1 - D) have the same slope at D = 1/2 and differ by the score, everywhere."""
    real, fake = pairs(torch.float64)
    strong, weak = OBJECTIVES["non_saturating"].g(real, fake), OBJECTIVES["minimax"].g(real, fake)
    odds = torch.nn.functional.softplus(fake) - torch.nn.functional.softplus(-fake)
    torch.testing.assert_close(odds, fake, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(strong + fake, -weak, rtol=1e-12, atol=1e-12)


def test_symmetry_of_d_under_exchange_of_labels() -> None:
    """Calling real fake and turning the score around changes nothing for D."""
    real, fake = pairs(torch.float64)
    for row in OBJECTIVES.values():
        torch.testing.assert_close(row.d(real, fake), row.d(-fake, -real), rtol=1e-13, atol=1e-15)


def test_critics_do_not_see_a_shift_of_all_scores() -> None:
    real, fake = pairs(torch.float64)
    for name in ("wasserstein", "relativistic"):
        d = OBJECTIVES[name].d
        torch.testing.assert_close(d(real + 3.5, fake + 3.5), d(real, fake), rtol=1e-12, atol=1e-13)
    g = OBJECTIVES["relativistic"].g
    torch.testing.assert_close(g(real + 3.5, fake + 3.5), g(real, fake), rtol=1e-12, atol=1e-13)


def test_relativistic_players_exchange_roles() -> None:
    real, fake = pairs(torch.float64)
    row = OBJECTIVES["relativistic"]
    assert torch.equal(row.g(real, fake), row.d(fake, real))


def test_wasserstein_is_the_difference_of_means() -> None:
    generator = torch.Generator().manual_seed(3)
    real, fake = torch.randn(2, 100, generator=generator, dtype=torch.float64).unbind(0)
    row = OBJECTIVES["wasserstein"]
    torch.testing.assert_close(row.d(real, fake).mean(), fake.mean() - real.mean())
    torch.testing.assert_close(row.g(real, fake).mean(), -fake.mean())


# ---- the theory of the 2014 paper, on four points ---------------------------------------------------------------

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
    """Theorem 1: max_D V = -log 4 + 2 JSD(p, q), at D* = p / (p + q), whose logit is log(p / q)."""
    row = OBJECTIVES["minimax"]
    best = (P / Q).log().requires_grad_()
    torch.testing.assert_close(row.output(best.detach()), P / (P + Q))
    loss_d, loss_g = expected_losses(row, best, P, Q)
    jsd = (kl(P, (P + Q) / 2) + kl(Q, (P + Q) / 2)) / 2
    torch.testing.assert_close(-2 * loss_d, -math.log(4) + 2 * jsd, rtol=1e-13, atol=0)
    torch.testing.assert_close(loss_g, (Q * (Q / (P + Q)).log()).sum(), rtol=1e-13, atol=0)
    (slope,) = torch.autograd.grad(loss_d, best)
    assert slope.abs().max() < 1e-15  # and D* it is
    other = best.detach() + torch.tensor([0.1, -0.1, 0.2, 0.05], dtype=torch.float64)
    assert expected_losses(row, other, P, Q)[0] > loss_d


def test_value_is_minus_log_4_where_the_generator_is_perfect() -> None:
    loss_d, loss_g = expected_losses(OBJECTIVES["minimax"], torch.zeros(4, dtype=torch.float64), P, P)
    torch.testing.assert_close(-2 * loss_d, torch.tensor(-math.log(4), dtype=torch.float64))
    torch.testing.assert_close(loss_g, torch.tensor(-math.log(2), dtype=torch.float64))


class SpectrallyNormalised(Discriminator):
    """A critic that bounds its weights by a parametrization of torch's."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape, widths=(4,))
        for module in list(self.modules()):
            if isinstance(module, nn.Linear):
                spectral_norm(module)


class SpectrallyNormalisedByHook(Discriminator):
    """The older form of the same."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape, widths=(4,))
        for module in list(self.modules()):
            if isinstance(module, nn.Linear):
                nn.utils.spectral_norm(module)


class WeightNormalised(Discriminator):
    """A parametrization that bounds nothing."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape, widths=(4,))
        for module in list(self.modules()):
            if isinstance(module, nn.Linear):
                weight_norm(module)


WASSERSTEIN = {"objective": "wasserstein"}


@pytest.mark.parametrize(
    ("recipe", "flags", "warned"),
    [
        ("gan", WASSERSTEIN, True),
        ("wgan_gp", {"penalties.0.weight": 0}, True),
        ("gan2014_mnist", WASSERSTEIN, False),  # whose weights are bounded
        ("gan", {**WASSERSTEIN, "networks.D": {"name": "test_objectives:SpectrallyNormalised"}}, False),
        ("gan", {**WASSERSTEIN, "networks.D": {"name": "test_objectives:SpectrallyNormalisedByHook"}}, False),
        ("gan", {**WASSERSTEIN, "networks.D": {"name": "test_objectives:WeightNormalised"}}, True),
        ("gan", {**WASSERSTEIN, "penalties": [{"name": "wgan_gp", "weight": 10}]}, False),
        *((name, {}, False) for name in recipe_names()),
    ],
)
def test_a_wasserstein_critic_that_nothing_bounds_is_warned_of(
    recipe: str, flags: dict[str, Any], warned: bool, pictures: Path, small: Callable[..., dict[str, Any]]
) -> None:
    said: list[str] = []
    own = {} if recipe == "figure1" else {"data.name": str(pictures), "data.root": None}
    flags = {
        key: v for key, v in (small(recipe) | own).items() if not key.startswith("networks.D") or not flags
    } | flags
    build(plan(recipe, flags=flags).recipe, torch.device("cpu"), say=said.append, progress=False)
    found = [text for text in said if "Lipschitz" in text]
    assert len(found) == warned
    if warned:
        assert found[0].startswith("warning: ") and "penalties: [{name: wgan_gp" in found[0] and "\n" not in found[0]


@pytest.mark.parametrize(
    ("d", "g", "says"),
    [
        (lambda real, fake: real - fake, lambda fake: -fake, r"the loss g of .* must take the scores of real and of"),
        (lambda real: real, lambda real, fake: -fake, r"the loss d of .* must take the scores of real and of generat"),
    ],
)
def test_losses_of_ones_own_of_the_wrong_form_are_told(
    d: Any, g: Any, says: str, pictures: Path, small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES, "minimax", Objective(d, g, paper="none", at_zero=(0.0, 0.0)))
    recipe = plan("gan", flags=small("gan", **{"data.name": str(pictures), "objective": "minimax"})).recipe
    with pytest.raises(UserError, match=f"^objective: {says}"):
        build(recipe, torch.device("cpu"), say=lambda text: None, progress=False)


def test_a_loss_without_a_signature_to_look_at_is_taken(
    pictures: Path, small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES, "minimax", Objective(torch.sub, torch.sub, paper="none", at_zero=(0.0, 0.0)))
    recipe = plan("gan", flags=small("gan", **{"data.name": str(pictures), "objective": "minimax"})).recipe
    made = build(recipe, torch.device("cpu"), say=lambda text: None, progress=False)
    played = made.game.round(next(made.stream))
    made.stream.close()
    assert float(played["loss/D"]) == float(played["loss/G"]) != 0
