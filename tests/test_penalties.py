"""Penalties over their table: the linear critic in closed form, independence of the batch, derivatives, lazy ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gansmith.batch import Batch
from gansmith.errors import UserError
from gansmith.games.critique import score
from gansmith.games.two_player import Alternating, Simultaneous
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PENALTIES, PenaltySum, Term, dragan, r1, r2, wgan_div, wgan_gp
from gansmith.players import Player, adam, move
from gansmith.priors import Normal

SHAPE = (2, 3, 3)
# The value for a critic whose gradient has norm 0, 1, 5: the factor and the power, by hand.
AT_LINEAR = {
    **dict.fromkeys(("wgan_gp", "dragan"), {0.0: 1.0, 1.0: 0.0, 5.0: 16.0}),
    "wgan_div": {0.0: 0.0, 1.0: 1.0, 5.0: 15625.0},
    **dict.fromkeys(("r1", "r2"), {0.0: 0.0, 1.0: 1.0, 5.0: 25.0}),
}


def row(name: str) -> Callable[..., Tensor]:
    """The function of a row; one that looks at the whole batch has all of it here."""
    found = PENALTIES[name]
    return partial(found.function, everywhere=lambda x: x) if found.batch else found.function


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, *SHAPE, generator=noise(seed), dtype=torch.float64)


def linear(weights: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x * weights).flatten(1).sum(1)


def of_norm(norm: float) -> Callable[[Tensor], Tensor]:
    direction = images(1, 1)[0]
    return linear(direction / direction.norm() * norm)


def smooth_critic() -> nn.Sequential:
    """A small MLP without kinks, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Linear(18, 7), nn.Tanh(), nn.Linear(7, 5), nn.Softplus(), nn.Linear(5, 1)]
        return nn.Sequential(nn.Flatten(), *layers, nn.Flatten(0)).double()


# ---- one penalty -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PENALTIES)
def test_linear_critic_in_closed_form(name: str) -> None:
    assert {*AT_LINEAR} == {*PENALTIES}
    for norm, expected in AT_LINEAR[name].items():
        value = row(name)(of_norm(norm), images(6, 2), images(6, 3), noise())
        torch.testing.assert_close(value, torch.full((6,), expected, dtype=torch.float64), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_flat_critic_gives_no_nan(name: str) -> None:
    """The norm has no derivative at 0: 0 is taken, and the value is that of norm 0."""
    critic = smooth_critic()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    value = row(name)(critic, images(3, 0), images(3, 1), noise())
    assert value.tolist() == [AT_LINEAR[name][0.0]] * 3
    found = torch.autograd.grad(value.sum(), list(critic.parameters()), allow_unused=True)
    assert all(g is None or torch.equal(g, torch.zeros_like(g)) for g in found)


@pytest.mark.parametrize("name", PENALTIES)
def test_no_gradient_into_the_generator_and_the_right_one_into_the_critic(name: str) -> None:
    critic = smooth_critic()
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = row(name)(critic, images(4, 0), theta * images(4, 1), noise()).sum()
    assert torch.autograd.grad(value, theta, allow_unused=True, retain_graph=True) == (None,)
    found = torch.autograd.grad(value, list(critic.parameters()), allow_unused=True)
    assert all(g is not None and g.abs().max() > 0 for g in found[:-1])
    assert found[-1] is None  # the last bias moves every score alike
    second, real, fake = torch.linspace(-1, 1.5, 4, dtype=torch.float64), images(3, 0), images(3, 1)

    def of_weights(first: Tensor) -> Tensor:
        return row(name)(lambda x: torch.tanh(x.flatten(1) @ first) @ second, real, fake, noise())

    first = torch.randn(18, 4, generator=noise(4), dtype=torch.float64).mul_(0.2).requires_grad_()
    assert torch.autograd.gradcheck(of_weights, (first,))


def test_norm_is_that_of_the_whole_image_and_target_the_one_that_costs_nothing() -> None:
    """Channel by channel the gradient is 3 and 4 long, together 5: (5 - 1)^2, not (3 - 1)^2 + (4 - 1)^2."""
    weights = torch.zeros(SHAPE, dtype=torch.float64)
    weights[0, 1, 2], weights[1, 0, 0] = 3.0, 4.0
    for target, expected in ((1.0, 16.0), (0.0, 25.0), (5.0, 0.0), (7.0, 4.0)):
        value = wgan_gp(linear(weights), images(3, 0), images(3, 1), noise(), target=target)
        torch.testing.assert_close(value, torch.full((3,), expected, dtype=torch.float64))
    for name in PENALTIES:  # the two pixels lie apart: a norm of each pixel's channels would have 3 and 4
        value = row(name)(linear(weights), images(3, 0), images(3, 1), noise())
        torch.testing.assert_close(value, torch.full((3,), AT_LINEAR[name][5.0], dtype=torch.float64))
    value = wgan_div(linear(weights), images(3, 0), images(3, 1), noise(), p=3.0)
    torch.testing.assert_close(value, torch.full((3,), 125.0, dtype=torch.float64))


@pytest.mark.parametrize("penalty", [wgan_gp, wgan_div])
def test_points_lie_between_real_and_fake_each_at_its_own_alpha(penalty: Callable[..., Tensor]) -> None:
    n, seen = 2000, list[Tensor]()

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    for seed in (5, 5, 6):
        penalty(critic, torch.ones(n, *SHAPE), torch.zeros(n, *SHAPE), noise(seed))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])  # the generator alone decides
    alpha = seen[0][:, 0, 0, 0]
    assert torch.equal(seen[0], alpha.view(n, 1, 1, 1).expand_as(seen[0]))  # one alpha for the whole image
    assert len(alpha.unique()) > 0.99 * n and (alpha >= 0).all() and (alpha < 1).all()  # another for each
    assert abs(alpha.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)  # U(0, 1), within five standard errors
    assert abs(alpha.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    real, fake = images(5, 7), images(5, 8)
    penalty(critic, real, fake, noise(9))
    alpha = torch.rand(5, 1, 1, 1, generator=noise(9), dtype=torch.float64)
    torch.testing.assert_close(seen[3], alpha * real + (1 - alpha) * fake, rtol=1e-12, atol=1e-12)


def spy(seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """A critic that keeps what it is given."""

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square().flatten(1).sum(1)

    return critic


def test_dragan_looks_around_real_images_alone() -> None:
    """x + (1 - alpha) c std(X) u: one alpha per image, a u for each pixel, the deviation of the whole batch."""
    n, seen = 4000, list[Tensor]()
    real = torch.ones(n, *SHAPE, dtype=torch.float64)
    real[::2] = -3.0  # mean -1, deviation 2
    for seed, fake in ((5, 0.0), (5, 9.0), (6, 0.0)):
        dragan(spy(seen), real, torch.full_like(real, fake), noise(seed), lambda x: x, c=0.25)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])  # the fakes play no part
    moved = (seen[0] - real) / (0.25 * 2.0)  # (1 - alpha) u
    assert (moved >= 0).all() and (moved < 1).all() and len(moved.unique()) > 0.99 * moved.numel()
    assert abs(moved.mean() - 1 / 4) < 5 * math.sqrt(7 / 144 / n)
    # E (1 - alpha)^2 E u E u' = 1/12 for two pixels of one image with one alpha, 1/16 with an alpha for each pixel.
    pairs = (moved[:, 0, 0, 0] * moved[:, 1, 2, 2]).mean()
    assert abs(pairs - 1 / 12) < 0.005 < (1 / 12 - 1 / 16) / 4
    alpha = torch.rand(5, 1, 1, 1, generator=(draws := noise(9)), dtype=torch.float64)
    u = torch.rand(5, *SHAPE, generator=draws, dtype=torch.float64)
    x = images(5, 7)
    value = dragan(spy(seen), x, x, noise(9), lambda x: x)
    deviation = ((x - x.sum() / x.numel()) ** 2).sum().div(x.numel()).sqrt()
    x_p = x + 0.5 * deviation * u
    point = alpha * x + (1 - alpha) * x_p  # as the authors write it
    torch.testing.assert_close(seen[3], point, rtol=1e-12, atol=1e-12)
    slopes = (2 * point).square().sum((1, 2, 3)).sqrt()
    torch.testing.assert_close(value, (slopes - 1) ** 2, rtol=1e-12, atol=0)


def test_r1_and_r2_look_at_real_and_at_generated_images_as_they_are() -> None:
    """D(x) = |x|^2 has the gradient 2 x: 4 |x|^2, and no random number is drawn."""
    real, fake, draws = images(5, 7), images(5, 8), noise(3)
    for penalty, x in ((r1, real), (r2, fake)):
        value = penalty(spy([]), real, fake, draws)
        torch.testing.assert_close(value, 4 * x.square().sum((1, 2, 3)), rtol=1e-12, atol=0)
    assert torch.equal(draws.get_state(), noise(3).get_state())


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


def test_a_patch_map_counts_by_its_mean() -> None:
    """A map of P equal linear scores is one linear score: the norm must not depend on how many patches say so."""
    patches = score(lambda x: of_norm(3.0)(x)[:, None, None].expand(-1, 4, 5))
    value = wgan_gp(patches, images(3, 0), images(3, 1), noise())
    torch.testing.assert_close(value, torch.full((3,), 4.0, dtype=torch.float64))


# ---- sums; lazy ones: on every k-th move, k times as heavy -------------------------------------------------------


def test_sum_weighs_means_by_weights_that_may_change() -> None:
    given = (smooth_critic(), images(4, 0), images(4, 1))
    terms = PenaltySum([Term(10.0, wgan_gp), Term(0.5, partial(wgan_gp, target=0.0))])
    for weight in (10.0, 3.0, 0.0):
        terms.terms[0].weight = weight  # as a schedule does
        draws = noise(2)
        expected = weight * wgan_gp(*given, draws).mean() + wgan_gp(*given, draws, target=0.0).mean() / 2
        found = terms(*given, noise(2))
        assert found.shape == ()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_mean_of_a_lazy_penalty_over_its_period_is_the_eager_one(name: str) -> None:
    every, start = 4, 5
    lazy = PenaltySum([Term(10.0, row(name), every)])
    values = [lazy(of_norm(5), images(3, 2), images(3, 3), noise(), start + i).item() for i in range(every)]
    assert sum(values) / every == pytest.approx(10 * AT_LINEAR[name][5.0], rel=1e-13)
    assert [i for i, value in enumerate(values) if value] == [3]  # on move 8


def test_each_term_has_its_own_period() -> None:
    def one(*_: Any) -> Tensor:
        return torch.ones(2)

    terms = PenaltySum([Term(1.0, one, 2), Term(10.0, one, 3), Term(100.0, one)])
    values = [terms(of_norm(1), images(2, 0), images(2, 1), noise(), move).item() for move in range(6)]
    assert values == [132, 100, 102, 130, 102, 100]


def test_between_its_moves_a_lazy_penalty_and_always_an_empty_sum_computes_and_draws_nothing() -> None:
    generator, before = noise(2), noise(2).get_state()

    def never(x: Tensor) -> Tensor:
        raise AssertionError("no penalty, no pass of the critic")

    lazy = PenaltySum([Term(10.0, wgan_gp, 3)])
    for sum_, moves in ((PenaltySum([]), (None, 0, 3)), (lazy, (1, 2, 4, 5))):
        for at in moves:
            value = sum_(never, images(2, 0), images(2, 1), generator, at)
            assert value.shape == () and value.item() == 0.0 and not value.requires_grad
            assert value.dtype == torch.float64
    assert torch.equal(generator.get_state(), before)
    lazy(of_norm(2), images(2, 0), images(2, 1), generator, 6)
    assert not torch.equal(generator.get_state(), before)


def test_a_game_that_does_not_say_the_move_may_have_no_lazy_penalty() -> None:
    """Games from outside call it without the number: as heavy as ever if it is eager, refused if it is lazy."""
    given = (smooth_critic(), images(4, 0), images(4, 1))
    eager = PenaltySum([Term(10.0, wgan_gp)])
    assert torch.equal(eager(*given, noise()), eager(*given, noise(), 3))
    with pytest.raises(UserError, match=r"every is 16, and the game does not say which move .*D\.moves.* must be 1"):
        PenaltySum([Term(10.0, wgan_gp, 16)])(*given, noise())


def played(kind: Callable[..., Simultaneous], penalty: PenaltySum, accumulate: int, **keys: int) -> Simultaneous:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, math.prod(SHAPE)), nn.Unflatten(1, SHAPE)).double()
    G, D = Player("G", net, adam), Player("D", smooth_critic(), adam)
    return kind(OBJECTIVES["wasserstein"], noise(5), accumulate, G, D, Normal(dim=3), penalty, **keys)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("n_critic", [0, 1, 3])
def test_a_lazy_game_is_the_game_with_the_penalty_on_some_moves(n_critic: int, accumulate: int) -> None:
    """Bit for bit, where by hand the penalty is put in and taken out: moves of D count, not rounds nor parts."""
    every, rounds = 4, 6
    batches = [Batch({"x": images(6, seed)}, 6) for seed in range(rounds * max(n_critic, 1))]
    kind, keys = (Alternating, {"n_critic": n_critic}) if n_critic else (Simultaneous, {})
    lazy = played(kind, PenaltySum([Term(3.0, wgan_gp, every)]), accumulate, **keys)
    for i in range(rounds):
        lazy.round(*batches[i * lazy.batches_per_round : (i + 1) * lazy.batches_per_round])
    assert lazy.D.moves == len(batches)
    plain = played(kind, PenaltySum([]), accumulate, **keys)
    for number, batch in enumerate(batches):
        plain.penalty = PenaltySum([] if number % every else [Term(3.0 * every, wgan_gp)])
        if isinstance(plain, Alternating):
            move(batch, accumulate, plain.losses_d)
            if (number + 1) % n_critic == 0:
                move(batch, accumulate, plain.losses_g)
        else:
            plain.round(batch)
    for ours, theirs in zip(lazy.players, plain.players, strict=True):
        assert all(map(torch.equal, ours.parameters, theirs.parameters)), ours.name
    assert torch.equal(lazy.noise.get_state(), plain.noise.get_state())
