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
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gansmith.batch import Batch
from gansmith.games.two_player import Alternating, Simultaneous
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum, Term, wgan_gp
from gansmith.players import Metrics, Player, move, sgd
from gansmith.priors import Normal

ROUNDS, ETA = 300, 0.1
THETA, PSI = 0.7, 1.1
Kind = Callable[..., Simultaneous]


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

    def round(self, *batches: Batch) -> Metrics:
        return move(batches[0], 1, self.losses_g) | move(batches[0], 1, self.losses_d)


def orbit(
    game: Kind, eta: float = ETA, rounds: int = ROUNDS, penalty: tuple[float, float] | None = None
) -> list[complex]:
    """theta + i psi before the first round and after each; the penalty is (weight, target) of wgan_gp."""
    G, D = (Player(name, net, partial(sgd, lr=eta)) for name, net in (("G", Point()), ("D", Slope())))
    terms = [] if penalty is None else [Term(penalty[0], partial(wgan_gp, target=penalty[1]))]
    played = game(
        OBJECTIVES["wasserstein"], torch.Generator().manual_seed(0), 1, G, D, Normal(dim=1), PenaltySum(terms)
    )
    batch = Batch({"x": torch.zeros(4, 1, 1, 1, dtype=torch.float64)}, 4)
    points = [complex(THETA, PSI)]
    for _ in range(rounds):
        played.round(*[batch] * played.batches_per_round)
        points.append(complex(G.parameters[0].item(), D.parameters[0].item()))
    return points


def drift(points: list[complex], eta: float) -> float:
    """How far the invariant ever gets from where it was, relative to it."""
    found = [abs(p) ** 2 - eta * p.real * p.imag for p in points]
    return max(abs(value - found[0]) for value in found) / abs(found[0])


@pytest.mark.parametrize("eta", [0.01, 0.1])
def test_simultaneous_grows_by_sqrt_of_one_plus_eta_squared_and_turns_by_arctan_eta(eta: float) -> None:
    """theta + i psi is multiplied by 1 - i eta each round."""
    points = orbit(Simultaneous, eta)
    assert max(abs(b / a - (1 - 1j * eta)) for a, b in zip(points, points[1:], strict=False)) < 1e-14
    assert abs(points[-1]) == pytest.approx(abs(points[0]) * (1 + eta**2) ** (ROUNDS / 2), rel=1e-12)


@pytest.mark.parametrize("eta", [0.01, 0.5])
def test_alternating_is_the_map_with_the_discriminator_first_and_conserves_its_invariant(eta: float) -> None:
    points, theta, psi = orbit(Alternating, eta), THETA, PSI
    for point in points:
        assert abs(point - complex(theta, psi)) < 1e-12
        psi = psi - eta * theta
        theta = theta + eta * psi
    assert drift(points, eta) < 1e-12


def test_the_invariant_tells_a_wrong_order() -> None:
    """A stale gradient, a doubled step, the other order: which has the mirrored invariant, and nothing else."""
    for wrong in (Simultaneous, partial(Alternating, n_critic=2), GeneratorFirst):
        assert drift(orbit(wrong), ETA) > 1e-2
    assert drift(orbit(GeneratorFirst), -ETA) < 1e-12 < 1e-2 < drift(orbit(Alternating), -ETA)


@pytest.mark.parametrize("game", [Simultaneous, Alternating])
def test_gradient_penalty_on_a_slope_is_its_scalar_recursion(game: Kind) -> None:
    """|grad D| = |psi| whatever alpha is: D descends psi theta + w (|psi| - 1)^2."""
    weight, target, theta, psi = 0.7, 1.0, THETA, PSI
    for point in orbit(game, 0.05, penalty=(weight, target)):
        assert abs(point - complex(theta, psi)) < 1e-11
        old = psi
        psi = psi - 0.05 * (theta + 2 * weight * (abs(psi) - target) * math.copysign(1, psi))
        theta = theta + 0.05 * (psi if game is Alternating else old)


def test_a_zero_centred_penalty_makes_it_converge() -> None:
    """Mescheder et al., theorem 4.1: with target 0 the orbit contracts to the equilibrium, without it circles."""
    free, damped = orbit(Alternating, rounds=600), orbit(Alternating, rounds=600, penalty=(0.5, 0.0))
    assert abs(damped[-1]) < 1e-10 * abs(damped[0]) and abs(free[-1]) > 0.5 * abs(free[0])
