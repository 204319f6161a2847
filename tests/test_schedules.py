"""Schedules: closed forms at given batches, epochs and rounds, what they set, and when it reaches the players."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import experiment_of, rounds

from gansmith.errors import UserError
from gansmith.recipe import plan
from gansmith.schedules import SCHEDULES, Clock, cosine, exponential, linear, step

OVER = {"linear": linear, "cosine": cosine}
PER_EPOCH = 8  # 60 images in batches of 8


def at(batches: int = 0, epochs: int = 0, rounds: int = 0) -> Clock:
    return Clock(batches, epochs, rounds)


# ---- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "expected"), [(0, 0.1), (50, 0.0905), (100, 0.0819), (250, 0.0607), (500, 0.0368), (1000, 0.0135)]
)
def test_the_learning_rate_of_the_2014_mnist_code(epochs: int, expected: float) -> None:
    """500 minibatches an epoch, each divides by 1.000004."""
    assert round(exponential(0.1, at(500 * epochs, epochs), factor=1.000004, floor=1e-6), 4) == expected


def test_exponential_is_one_division_a_minibatch_down_to_its_floor() -> None:
    value = 0.3
    for batches in range(200):
        assert exponential(0.3, at(batches, 7), factor=1.01) == pytest.approx(value, rel=1e-12)
        value /= 1.01
    assert exponential(0.3, at(12345)) == 0.3  # by default nothing changes
    reached = int(math.log(1e5) / math.log(1.000004))  # the authors' 1e-6: after 2.88 million updates
    floored = [exponential(0.1, at(n), factor=1.000004, floor=1e-6) for n in (reached - 1, reached + 1, 10**9)]
    assert floored[0] > 1e-6 == floored[1] == floored[2]
    assert exponential(0.1, at(10**9), factor=1.5) == 0.0  # where the power overflows


def test_a_step_is_taken_once_its_moment_is_over() -> None:
    for unit in ("epochs", "rounds"):
        found = [step(8.0, at(**{unit: n}), factor=0.25, at=[2, 4], unit=unit) for n in range(6)]  # type: ignore[arg-type]
        assert found == [8.0, 8.0, 2.0, 2.0, 0.5, 0.5]
    assert step(8.0, at(epochs=9), at=[2], unit="rounds") == 8.0 == step(8.0, at(epochs=9))


def test_the_momentum_of_the_2014_code() -> None:
    """.5 in the first epoch, .7 in epoch 250 and after, a straight line between: epoch e is after e - 1 whole ones."""
    momentum = [linear(0.5, at(epochs=e - 1), to=0.7, over=249) for e in range(1, 400)]
    assert momentum == pytest.approx([0.5 + 0.2 * min((e - 1) / 249, 1) for e in range(1, 400)], rel=1e-14)
    assert momentum[0] == 0.5 and momentum[248] < momentum[249] == momentum[-1] == 0.7


@pytest.mark.parametrize(
    ("name", "values"), [("linear", [4, 4, 4, 3, 2, 1, 0, 0]), ("cosine", [4, 4, 4, 2 + 2**0.5, 2, 2 - 2**0.5, 0, 0])]
)
def test_start_until_after_then_all_the_way_over(name: str, values: list[float]) -> None:
    """In whole epochs or in rounds, and the other clock does not count; up as well as down."""
    schedule = partial(OVER[name], after=2, over=4)
    assert [schedule(4.0, at(99, e, 99)) for e in range(8)] == pytest.approx(values, abs=1e-15)
    assert [schedule(4.0, at(99, 99, r), unit="rounds") for r in range(8)] == pytest.approx(values, abs=1e-15)
    assert [schedule(0.0, at(epochs=e), to=4.0) for e in range(8)] == pytest.approx([4 - v for v in values], abs=1e-15)
    assert schedule(0.2, at(epochs=4), to=0.2) == pytest.approx(0.2, rel=1e-15)


def test_a_share_of_the_training_is_what_its_length_makes_of_it(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CycleGAN's rule, half of the training and then a line to 0: for any length, and anew for one that grows."""
    (term,) = plan("cyclegan").recipe.schedules
    made = experiment_of("gan", str(pictures), lr=8.0, schedules=[{"name": term.name, **term.args}])
    rates, apply = list[float](), made.schedules.apply

    def watched(clock: Clock) -> None:
        apply(clock)
        rates.append(made.schedules.values()["lr/G"])
        for player in made.game.players:  # only the rates are looked at
            player.optimizer.param_groups[0]["lr"] = 0.0

    monkeypatch.setattr(made.schedules, "apply", watched)
    made.total = 8
    rounds(made, 8)
    assert rates == [8, 8, 8, 8, 8, 6, 4, 2]
    made.total = 12
    rounds(made, 4)
    assert rates[8:] == pytest.approx([8 * 4 / 6, 4, 8 * 2 / 6, 8 / 6])


def test_r3gans_schedules_go_from_start_to_end_in_half_cosines() -> None:
    """Rate, b2, gamma / 2 of both penalties and the average's half-life: start, half way, end."""
    ends = {"lr": (2e-3, 5e-4), "b2": (0.9, 0.99), "ema.halflife_kimg": (0.5, 10.0)}
    ends |= {f"penalties.{i}.weight": (0.5, 0.05) for i in range(2)}
    recipe = plan("r3gan").recipe
    found = {term.args["of"]: term for term in recipe.schedules}
    assert found.keys() == ends.keys()
    starts = {"lr": recipe.optimizers["G"].args["lr"], "b2": recipe.optimizers["D"].args["b2"]}
    starts |= {f"penalties.{i}.weight": recipe.penalties[i].args["weight"] for i in range(2)}
    for key, (start, end) in ends.items():
        args = {name: value for name, value in found[key].args.items() if name != "of"}
        assert starts.get(key, recipe.ema.halflife_kimg) == start
        values = [SCHEDULES[found[key].name](start, Clock(0, 0, 0, share), **args) for share in (0, 0.5, 1)]
        assert values == pytest.approx([start, (start + end) / 2, end])


# ---- in a recipe -------------------------------------------------------------------------------------------------


def test_the_keys_of_a_recipe() -> None:
    found = plan("gan", flags={"schedules": [{"name": "linear", "over": 3}, "exponential"]}).recipe.schedules
    assert [(c.name, dict(c.args)) for c in found] == [
        ("linear", {"of": "lr", "to": 0.0, "over": 3, "after": 0, "unit": "epochs"}),
        ("exponential", {"of": "lr", "factor": 1.0, "floor": 0.0}),
    ]
    changed = plan("gan2014_mnist", flags={"schedules.1.over": 9, "schedules.0.floor": 0.5}).recipe.schedules
    assert (changed[0].args["floor"], changed[1].args["over"], changed[1].args["of"]) == (0.5, 9, "momentum")
    assert plan("gan2014_mnist", flags={"schedules": []}).recipe.schedules == ()


def test_every_dial_starts_from_its_own_setting_and_is_what_is_used(pictures: Path) -> None:
    over = {"name": "linear", "over": 4}
    made = experiment_of(
        "wgan_gp",
        str(pictures),
        schedules=[
            {"name": "exponential", "of": "lr", "factor": 2.0},
            {**over, "of": "momentum", "to": 0.9},
            {**over, "of": "penalties.0.weight", "to": 2.0},
            {**over, "of": "ema.halflife_kimg", "to": 1.0},
        ],
        **{"optimizers.G": {"name": "sgd", "lr": 0.1, "momentum": 0.5}, "optimizers.D": {"name": "sgd", "lr": 0.01}},
        **{"ema.halflife_kimg": 0.5},
    )
    game: Any = made.game
    (G,), (D,) = (player.optimizer.param_groups for player in (game.G, game.D))
    for clock, lr, t in ((at(0, 0), 1.0, 0.0), (at(3, 1), 0.125, 0.25), (at(5, 9), 2**-5, 1.0), (at(1, 2), 0.5, 0.5)):
        made.schedules.apply(clock)  # a pure function of the clock: there is no way back that it could miss
        expected = {
            **{"lr/G": 0.1 * lr, "lr/D": 0.01 * lr, "momentum/G": 0.5 + 0.4 * t, "momentum/D": 0.9 * t},
            **{"penalty_weight/0": 10 - 8 * t, "ema_halflife_kimg/G": 0.5 + 0.5 * t},
        }
        assert made.schedules.values() == pytest.approx(expected, rel=1e-14)
        used = [G["lr"], D["lr"], G["momentum"], D["momentum"], game.penalty.terms[0].weight, game.G.ema_halflife_kimg]
        assert used == pytest.approx([*expected.values()], rel=1e-14)


def test_adams_decays_are_dials_and_a_setting_that_only_some_have_is_said(pictures: Path) -> None:
    said: list[str] = []
    schedules = [{"name": "linear", "of": "b2", "to": 0.99, "over": 4}, {"name": "linear", "of": "momentum"}]
    optimizers = {"optimizers.G": {"name": "adam", "b2": 0.9}, "optimizers.D": {"name": "sgd", "momentum": 0.5}}
    made = experiment_of("gan", str(pictures), say=said.append, schedules=schedules, **optimizers)
    made.schedules.apply(at(0, 2))
    G = made.game.players[0]
    assert G.optimizer.param_groups[0]["betas"] == pytest.approx((0.5, 0.945))
    assert "the schedule of b2 sets it for G alone: the other optimizers have none" in said
    assert "the schedule of momentum sets it for D alone: the other optimizers have none" in said


def test_a_loaded_optimizer_neither_moves_the_start_nor_escapes_and_a_step_is_as_long_as_said(pictures: Path) -> None:
    """A checkpoint holds the learning rate of the round that it was written after."""
    flags = {"optimizers.G": {"name": "sgd", "lr": 1.0}, "schedules": [{"name": "exponential", "factor": 2.0}]}
    first, again = (experiment_of("gan", str(pictures), **flags) for _ in range(2))
    first.schedules.apply(at(4))
    again.state.load_state_dict(first.state.state_dict())
    G = again.game.players[0]
    assert G.optimizer.param_groups[0]["lr"] == 2.0**-4
    again.schedules.apply(at(5))
    before = [p.detach().clone() for p in G.parameters]
    G.step(tuple(map(torch.ones_like, before)))
    for old, new in zip(before, G.parameters, strict=True):
        torch.testing.assert_close(old - new, torch.full_like(old, 2.0**-5), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"schedules": ["linear", {"name": "linear", "of": "momentum"}]}, r"no 'momentum' .*there is: lr, b1, b2, eps"),
        ({"schedules": [{"name": "linear", "of": "penalties.0.weight"}]}, r"no 'penalties\.0\.weight' to set"),
        ({"schedules": [{"name": "linear", "of": "betas"}]}, "no 'betas' to set"),  # a pair, not a number
        ({"schedules": ["linear", "exponential"]}, "^schedules: two of them set 'lr'; one is right$"),
        ({"schedules": [{"name": "cosine", "unit": "hours"}]}, "it must be one of epochs, rounds, training"),
        ({"schedules.2.over": 3}, "schedules.2 needs a name: one of exponential, linear, cosine"),
    ],
)
def test_what_is_wrong_is_one_clear_line(flags: dict[str, Any], text: str, pictures: Path) -> None:
    with pytest.raises(UserError, match=text) as caught:
        experiment_of("gan", str(pictures), **flags)
    assert "\n" not in str(caught.value)


# ---- in training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5])
def test_the_clock_counts_minibatches_whatever_a_round_takes(
    k: int, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """n_critic = k: a decay by minibatches goes k times as fast per round, and as fast as ever per epoch."""
    made = experiment_of("gan", str(pictures), game={"name": "alternating", "n_critic": k})
    found: list[Clock] = []
    monkeypatch.setattr(made.schedules, "apply", found.append)
    total = made.total = 2 * PER_EPOCH + 1
    rounds(made, total)
    assert found == [Clock(k * r, k * r // PER_EPOCH, r, r / total) for r in range(total)]


def test_figure1_learns_at_rates_that_fall_to_nothing_in_15_epochs() -> None:
    made = experiment_of("figure1", "normal_1d", batch_size=128)
    per_epoch = made.stream.batches_per_epoch
    for r in range(300):
        made.schedules.apply(Clock(4 * r, int(4 * r / per_epoch), r))  # n_critic is 4
        left = 1 - min(4 * r // per_epoch / 15, 1)
        for player, start in zip(made.game.players, (1e-3, 1e-2), strict=True):
            lr = player.optimizer.param_groups[0]["lr"]
            assert lr == made.schedules.values()[f"lr/{player.name}"] == pytest.approx(start * left, rel=1e-12)
    assert left == 0
