"""The Dirac-GAN: data at 0, G = theta, D(x) = psi x (Mescheder et al. 2018, arXiv 1801.04406). Its orbits are exact.

With the Wasserstein objective D minimises D(G(z)) - D(0) = psi theta and G minimises -D(G(z)) = -psi theta, so that
gradient descent with rate eta is, at one point and in turns with D first,

    theta' = theta + eta psi,   psi' = psi - eta theta         |.|^2 grows by 1 + eta^2
    psi' = psi - eta theta,     theta' = theta + eta psi'      theta^2 + psi^2 - eta theta psi stays

For the second: theta^2 + psi^2 - eta theta psi = theta^2 + psi'^2 + eta theta psi' (put psi = psi' + eta theta), and
theta'^2 + psi'^2 - eta theta' psi' = theta^2 + psi'^2 + eta theta psi' (put theta' = theta + eta psi').
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gansmith.data import Batch
from gansmith.games.game import Metrics, RealBatch
from gansmith.games.two_player import Alternating, Simultaneous, TwoPlayer
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum, wgan_gp
from gansmith.players import Player, sgd
from gansmith.priors import Normal

ROUNDS = 1000
THETA, PSI = 0.7, 1.1


class Point(nn.Module):
    """z (N, Z) -> N times the one point theta, as images (N, 1, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(THETA, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return self.theta.expand(len(z), 1, 1, 1)


class Slope(nn.Module):
    """x (N, 1, 1, 1) -> psi x (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(PSI, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.psi * x.flatten()


class GeneratorFirst(Alternating):
    """The wrong order, on purpose."""

    def round(self, *batches: RealBatch) -> Metrics:
        of_g, grads_g = self.move_g(batches[-1])
        for real in batches:
            of_d, grads_d = self.move_d(real)
        return self.metrics(of_d, of_g, grads_d, grads_g)


def orbit(
    game: Callable[..., TwoPlayer], eta: float, rounds: int = ROUNDS, penalties: Iterable[tuple[float, float]] = ()
) -> list[tuple[float, float]]:
    """(theta, psi) before the first round and after each; penalties are (weight, target) of wgan_gp."""
    descent = partial(sgd, lr=eta)
    G, D = Player("G", Point(), descent), Player("D", Slope(), descent)
    terms = [(weight, partial(wgan_gp, target=target)) for weight, target in penalties]
    played = game(G, D, Normal(dim=1), OBJECTIVES["wasserstein"], PenaltySum(terms), torch.Generator().manual_seed(0))
    data = Batch(torch.zeros(4, 1, 1, 1, dtype=torch.float64), None)
    theta, psi = G.parameters[0], D.parameters[0]
    points = [(theta.item(), psi.item())]
    for _ in range(rounds):
        played.round(*[data] * played.batches_per_round)
        points.append((theta.item(), psi.item()))
    return points


def invariant(point: tuple[float, float], eta: float) -> float:
    theta, psi = point
    return theta**2 + psi**2 - eta * theta * psi


def drift(points: list[tuple[float, float]], eta: float) -> float:
    """How far the invariant ever gets from where it was, relative to it."""
    start = invariant(points[0], eta)
    return max(abs(invariant(p, eta) - start) for p in points) / abs(start)


@pytest.mark.parametrize("eta", [0.01, 0.1])
def test_simultaneous_grows_by_sqrt_of_one_plus_eta_squared(eta: float) -> None:
    points = orbit(Simultaneous, eta)
    growth = [math.hypot(*b) / math.hypot(*a) for a, b in zip(points, points[1:], strict=False)]
    assert max(abs(g - math.sqrt(1 + eta**2)) for g in growth) < 1e-14
    total = math.hypot(*points[-1]) / math.hypot(*points[0])
    assert total == pytest.approx((1 + eta**2) ** (ROUNDS / 2), rel=1e-12)


def test_simultaneous_turns_by_arctan_eta() -> None:
    """The direction too: theta + i psi is multiplied by 1 - i eta each round."""
    eta = 0.1
    points = orbit(Simultaneous, eta)
    expected = complex(THETA, PSI) * (1 - 1j * eta) ** ROUNDS
    assert abs(complex(*points[-1]) - expected) < 1e-12 * abs(expected)


@pytest.mark.parametrize("eta", [0.01, 0.1, 0.5])
def test_alternating_conserves_its_invariant(eta: float) -> None:
    points = orbit(Alternating, eta)
    assert drift(points, eta) < 1e-12
    assert max(abs(b[0] - a[0]) for a, b in zip(points, points[1:], strict=False)) > eta / 2  # it does move


def test_alternating_is_the_map_with_the_discriminator_first() -> None:
    eta, theta, psi = 0.1, THETA, PSI
    for point in orbit(Alternating, eta):
        assert point == pytest.approx((theta, psi), abs=1e-12)
        psi = psi - eta * theta
        theta = theta + eta * psi


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (GeneratorFirst, "the other order"),
        (Simultaneous, "a stale gradient"),
        (partial(Alternating, n_critic=2), "a doubled step"),
    ],
)
def test_the_invariant_tells_a_wrong_order(wrong: Callable[..., TwoPlayer], why: str) -> None:
    eta = 0.1
    assert drift(orbit(wrong, eta), eta) > 1e-2, why


def test_generator_first_conserves_the_mirrored_invariant() -> None:
    """So the sign in front of eta is the order of the moves, and nothing else."""
    eta = 0.1
    assert drift(orbit(GeneratorFirst, eta), -eta) < 1e-12
    assert drift(orbit(Alternating, eta), -eta) > 1e-2


@pytest.mark.parametrize("game", [Simultaneous, Alternating])
def test_gradient_penalty_on_a_slope_is_its_scalar_recursion(game: Callable[..., TwoPlayer]) -> None:
    """|grad D| = |psi| whatever alpha is: D descends psi theta + w (|psi| - 1)^2."""
    eta, weight, target = 0.05, 0.7, 1.0
    theta, psi = THETA, PSI
    for point in orbit(game, eta, 300, [(weight, target)]):
        assert point == pytest.approx((theta, psi), abs=1e-11)
        old = psi
        psi = psi - eta * (theta + 2 * weight * (abs(psi) - target) * math.copysign(1, psi))
        theta = theta + eta * (psi if game is Alternating else old)


def test_a_zero_centred_penalty_makes_it_converge() -> None:
    """Mescheder et al., theorem 4.1: with target 0 the orbit contracts to the equilibrium, without it circles."""
    free, damped = orbit(Alternating, 0.1, 600), orbit(Alternating, 0.1, 600, [(0.5, 0.0)])
    assert math.hypot(*damped[-1]) < 1e-10 * math.hypot(*damped[0])
    assert math.hypot(*free[-1]) > 0.5 * math.hypot(*free[0])
