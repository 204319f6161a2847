"""Penalties over their table: the linear critic in closed form, independence of the batch, derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gansmith.data import Batch
from gansmith.errors import UserError
from gansmith.games.critique import score
from gansmith.games.two_player import Alternating, Simultaneous, TwoPlayer
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PENALTIES, PenaltySum, wgan_gp
from gansmith.players import Player, adam
from gansmith.priors import Normal

SHAPE = (2, 3, 3)
# The value for a critic whose gradient has norm 0, 1, 5: the factor and the power, by hand.
AT_NORM = {"wgan_gp": {0.0: 1.0, 1.0: 0.0, 5.0: 16.0}}


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, *SHAPE, generator=noise(seed), dtype=torch.float64)


def linear(weights: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x * weights).flatten(1).sum(1)


def smooth_critic(seed: int = 3) -> nn.Sequential:
    """A small MLP without kinks, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Flatten(), nn.Linear(18, 7), nn.Tanh(), nn.Linear(7, 5), nn.Softplus(), nn.Linear(5, 1)
        )
        return nn.Sequential(*layers, nn.Flatten(0)).double()


def test_every_row_has_its_facts_here() -> None:
    assert tuple(PENALTIES) == ("wgan_gp",)
    assert set(AT_NORM) == set(PENALTIES)


@pytest.mark.parametrize("name", PENALTIES)
def test_linear_critic_in_closed_form(name: str) -> None:
    row = PENALTIES[name]
    direction = images(1, 1)[0]
    for norm, expected in AT_NORM[name].items():
        assert row.at_linear(norm) == expected
        weights = direction / direction.norm() * norm
        value = row.function(linear(weights), images(6, 2), images(6, 3), noise())
        assert value.shape == (6,)
        torch.testing.assert_close(value, torch.full((6,), expected, dtype=torch.float64), rtol=1e-13, atol=1e-13)


def test_norm_is_that_of_the_whole_image() -> None:
    """Channel by channel the gradient is 3 and 4 long, together 5: (5 - 1)^2, not (3 - 1)^2 + (4 - 1)^2."""
    weights = torch.zeros(SHAPE, dtype=torch.float64)
    weights[0, 1, 2], weights[1, 0, 0] = 3.0, 4.0
    value = wgan_gp(linear(weights), images(3, 0), images(3, 1), noise())
    torch.testing.assert_close(value, torch.full((3,), 16.0, dtype=torch.float64))


@pytest.mark.parametrize("target", [0.0, 0.5, 2.0])
def test_target_is_the_norm_that_costs_nothing(target: float) -> None:
    direction = images(1, 1)[0]
    weights = direction / direction.norm()
    at_target = wgan_gp(linear(weights * target), images(2, 0), images(2, 1), noise(), target=target)
    assert at_target.abs().max() < 1e-28
    beyond = wgan_gp(linear(weights * (target + 3)), images(2, 0), images(2, 1), noise(), target=target)
    torch.testing.assert_close(beyond, torch.full((2,), 9.0, dtype=torch.float64))


def test_points_lie_between_real_and_fake_each_at_its_own_alpha() -> None:
    n = 2000
    real, fake = torch.ones(n, *SHAPE), torch.zeros(n, *SHAPE)
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    wgan_gp(critic, real, fake, noise(5))
    (x,) = seen
    alpha = x[:, 0, 0, 0]
    assert torch.equal(x, alpha.view(n, 1, 1, 1).expand_as(x))  # one alpha for the whole image
    assert len(alpha.unique()) > 0.99 * n  # and another for each image
    assert (alpha >= 0).all() and (alpha < 1).all()
    assert abs(alpha.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)  # U(0, 1), within five standard errors
    assert abs(alpha.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)

    wgan_gp(critic, real, fake, noise(5))
    assert torch.equal(seen[1], x)  # nothing but the generator decides
    wgan_gp(critic, real, fake, noise(6))
    assert not torch.equal(seen[2], x)


def test_point_is_alpha_real_plus_the_rest_fake() -> None:
    real, fake = images(5, 7), images(5, 8)
    alpha = torch.rand(5, 1, 1, 1, generator=noise(9), dtype=torch.float64)
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    wgan_gp(critic, real, fake, noise(9))
    torch.testing.assert_close(seen[0], fake + alpha * (real - fake), rtol=1e-12, atol=1e-12)


def test_value_of_a_sample_does_not_depend_on_the_batch() -> None:
    n = 7
    real, fake, critic = images(n, 7), images(n, 8), smooth_critic()
    alpha = torch.rand(n, 1, 1, 1, generator=noise(9), dtype=torch.float64)
    batch = wgan_gp(critic, real, fake, noise(9))
    points = fake + alpha * (real - fake)
    for i in range(n):  # real = fake leaves no choice to alpha
        alone = wgan_gp(critic, points[i : i + 1], points[i : i + 1], noise(100 + i))
        torch.testing.assert_close(alone, batch[i : i + 1], rtol=1e-11, atol=1e-13)
    assert batch.std() > 1e-6  # the samples do differ


@pytest.mark.parametrize("name", PENALTIES)
def test_no_gradient_into_the_generator(name: str) -> None:
    critic = smooth_critic()
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    fake = theta * images(4, 1)
    value = PENALTIES[name].function(critic, images(4, 0), fake, noise()).sum()
    assert torch.autograd.grad(value, theta, allow_unused=True, retain_graph=True) == (None,)
    parameters = list(critic.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    assert all(g is not None and g.abs().max() > 0 for g in found[:-1])
    assert found[-1] is None  # the last bias moves every score alike


@pytest.mark.parametrize("name", PENALTIES)
def test_slope_in_the_critics_weights_by_finite_differences(name: str) -> None:
    critic = smooth_critic()
    penalty = partial(PENALTIES[name].function, critic, images(4, 0), images(4, 1))
    weights = list(critic.parameters())[:-1]
    exact = torch.autograd.grad(penalty(noise()).mean(), weights)
    step = 1e-6
    for parameter, slope in zip(weights, exact, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 12)):
            values = []
            for sign in (1, -1):
                flat[i] += sign * step
                values.append(penalty(noise()).mean().item())
                flat[i] -= sign * step
            numeric = (values[0] - values[1]) / (2 * step)
            assert slope.view(-1)[i].item() == pytest.approx(numeric, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", PENALTIES)
def test_gradcheck_through_the_penalty(name: str) -> None:
    """As a function of the critic's first weights, twice differentiable where no gradient vanishes."""
    second = torch.linspace(-1, 1.5, 4, dtype=torch.float64)
    real, fake = images(3, 0), images(3, 1)

    def value(first: Tensor) -> Tensor:
        return PENALTIES[name].function(lambda x: torch.tanh(x.flatten(1) @ first) @ second, real, fake, noise())

    first = torch.randn(18, 4, generator=noise(4), dtype=torch.float64).mul_(0.2).requires_grad_()
    assert torch.autograd.gradcheck(value, (first,))


@pytest.mark.parametrize("name", PENALTIES)
def test_a_flat_critic_gives_no_nan(name: str) -> None:
    """The norm has no derivative at 0: 0 is taken, and the value is that of norm 0."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(18, 6), nn.Linear(6, 1), nn.Flatten(0)).double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    value = PENALTIES[name].function(critic, images(3, 0), images(3, 1), noise())
    assert value.tolist() == [AT_NORM[name][0.0]] * 3
    found = torch.autograd.grad(value.sum(), list(critic.parameters()), allow_unused=True)
    assert all(g is None or torch.equal(g, torch.zeros_like(g)) for g in found)


# ---- sums, and discriminators that say more than a number -------------------------------------------------------


def test_sum_weighs_means() -> None:
    real, fake, critic = images(4, 0), images(4, 1), smooth_critic()
    terms = PenaltySum([(10.0, wgan_gp), (0.5, partial(wgan_gp, target=0.0))])
    found = terms(critic, real, fake, noise(2))
    draws = noise(2)
    expected = (
        10 * wgan_gp(critic, real, fake, draws).mean() + wgan_gp(critic, real, fake, draws, target=0.0).mean() / 2
    )
    assert found.shape == ()
    torch.testing.assert_close(found, expected)


def test_an_empty_sum_is_zero_and_draws_nothing() -> None:
    generator = noise(2)
    before = generator.get_state()

    def never(x: Tensor) -> Tensor:
        raise AssertionError("no penalty, no pass of the critic")

    value = PenaltySum([])(never, images(2, 0), images(2, 1), generator)
    assert value.shape == () and value.item() == 0.0 and value.dtype == torch.float64
    assert torch.equal(generator.get_state(), before)


def test_a_patch_map_counts_by_its_mean() -> None:
    """A map of P equal linear scores is one linear score: the norm must not depend on how many patches say so."""
    weights = images(1, 1)[0]
    weights = weights / weights.norm() * 3

    class Patches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return linear(weights)(x)[:, None, None].expand(-1, 4, 5)

    value = wgan_gp(score(Patches()), images(3, 0), images(3, 1), noise())
    torch.testing.assert_close(value, torch.full((3,), 4.0, dtype=torch.float64))


# ---- lazy: on every k-th move, k times as heavy -----------------------------------------------------------------


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("start", [0, 5])
def test_the_mean_of_a_lazy_penalty_over_its_period_is_the_eager_one(name: str, start: int) -> None:
    row, every = PENALTIES[name], 4
    direction = images(1, 1)[0]
    critic = linear(direction / direction.norm() * 5)
    lazy = PenaltySum([(10.0, row.function, every)])
    values = [lazy(critic, images(3, 2), images(3, 3), noise(), move).item() for move in range(start, start + every)]
    assert sum(values) / every == pytest.approx(10 * row.at_linear(5.0), rel=1e-13)
    assert [move % every for move, value in enumerate(values, start) if value] == [0]


def test_each_term_has_its_own_period() -> None:
    terms = PenaltySum(
        [(1.0, lambda *_: torch.ones(2), 2), (10.0, lambda *_: torch.ones(2), 3), (100.0, lambda *_: torch.ones(2))]
    )
    values = [terms(linear(torch.ones(())), images(2, 0), images(2, 1), noise(), move).item() for move in range(6)]
    assert values == [132, 100, 102, 130, 102, 100]


def test_between_its_moves_a_lazy_penalty_computes_and_draws_nothing() -> None:
    generator = noise(2)
    before = generator.get_state()

    def never(x: Tensor) -> Tensor:
        raise AssertionError("the critic passes over nothing")

    lazy = PenaltySum([(10.0, wgan_gp, 3)])
    for move in (1, 2, 4, 5):
        value = lazy(never, images(2, 0), images(2, 1), generator, move)
        assert value.item() == 0.0 and not value.requires_grad
    assert torch.equal(generator.get_state(), before)
    lazy(linear(images(1, 3)[0]), images(2, 0), images(2, 1), generator, 6)
    assert not torch.equal(generator.get_state(), before)


def test_a_game_that_does_not_say_the_move_may_have_no_lazy_penalty() -> None:
    """Games from outside call it without the number: as heavy as ever if it is eager, refused if it is lazy."""
    given = (smooth_critic(), images(4, 0), images(4, 1))
    eager = PenaltySum([(10.0, wgan_gp, 1)])
    assert torch.equal(eager(*given, noise()), eager(*given, noise(), 3))
    with pytest.raises(UserError, match=r"every is 16, and the game does not say which move .*D\.moves.* must be 1"):
        PenaltySum([(10.0, wgan_gp, 16)])(*given, noise())


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, math.prod(SHAPE))

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).view(-1, *SHAPE)


def played(kind: Callable[..., TwoPlayer], penalty: PenaltySum, accumulate: int, **keys: int) -> TwoPlayer:
    torch.manual_seed(0)
    G, D = Player("G", Generator().double(), adam), Player("D", smooth_critic(), adam)
    return kind(G, D, Normal(dim=3), OBJECTIVES["wasserstein"], penalty, noise(5), accumulate, **keys)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("n_critic", [0, 1, 3])
def test_a_lazy_game_is_the_game_with_the_penalty_on_some_moves(n_critic: int, accumulate: int) -> None:
    """Bit for bit, where by hand the penalty is put in and taken out: moves of D count, not rounds nor parts."""
    every, rounds = 4, 9
    batches = [Batch(images(6, seed), None) for seed in range(rounds * max(n_critic, 1))]
    kind, keys = (Alternating, {"n_critic": n_critic}) if n_critic else (Simultaneous, {})
    lazy = played(kind, PenaltySum([(3.0, wgan_gp, every)]), accumulate, **keys)
    for i in range(rounds):
        lazy.round(*batches[i * lazy.batches_per_round : (i + 1) * lazy.batches_per_round])
    assert lazy.D.moves == len(batches)

    def by_hand(move: int) -> PenaltySum:
        return PenaltySum([] if move % every else [(3.0 * every, wgan_gp)])

    plain = played(kind, PenaltySum([]), accumulate, **keys)
    for move, batch in enumerate(batches):
        plain.penalty = by_hand(move)
        if isinstance(plain, Alternating):
            plain.move_d(batch)
            if (move + 1) % n_critic == 0:
                plain.move_g(batch)
        else:
            plain.round(batch)
    for ours, theirs in zip(lazy.players, plain.players, strict=True):
        assert all(map(torch.equal, ours.parameters, theirs.parameters)), ours.name
    assert torch.equal(lazy.noise.get_state(), plain.noise.get_state())
