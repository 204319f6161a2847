"""Schedules: closed forms at given batches and epochs, what reaches the optimizers when, and a resume that is exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gansmith
from gansmith import plan
from gansmith.build import build
from gansmith.errors import UserError
from gansmith.exactness import compare
from gansmith.players import Player, adam, rmsprop, sgd
from gansmith.schedules import SCHEDULES, Schedules, exponential, linear

CPU = torch.device("cpu")
Small = Callable[..., dict[str, Any]]


def player(name: str = "G", make: Any = sgd, **settings: Any) -> Player:
    return Player(name, nn.Linear(2, 1), partial(make, **settings))


def settings(player: Player, key: str) -> list[float]:
    return [group[key] for group in player.optimizer.param_groups]


# ---- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "expected"), [(0, 0.1), (50, 0.0905), (100, 0.0819), (250, 0.0607), (500, 0.0368), (1000, 0.0135)]
)
def test_the_learning_rate_of_the_2014_mnist_code(epochs: int, expected: float) -> None:
    """500 minibatches an epoch, each divides by 1.000004."""
    assert round(exponential(0.1, 500 * epochs, epochs, factor=1.000004, floor=1e-6), 4) == expected


def test_exponential_is_one_division_a_minibatch() -> None:
    value = 0.3
    for batches in range(200):
        assert exponential(0.3, batches, 7, factor=1.01) == pytest.approx(value, rel=1e-12)
        value /= 1.01
    assert exponential(0.3, 12345, 0) == 0.3  # by default nothing changes


def test_the_floor_is_reached_when_it_should_be() -> None:
    """The authors' 1e-6: after log(1e5) / log(1.000004) = 2.88 million updates."""
    reached = math.log(1e5) / math.log(1.000004)
    assert 2.87e6 < reached < 2.89e6
    floored = partial(exponential, 0.1, epochs=0, factor=1.000004, floor=1e-6)
    assert floored(int(reached) - 1) > 1e-6 == floored(int(reached) + 1) == floored(10**9)


def test_a_decay_over_any_number_of_minibatches_is_a_number() -> None:
    for batches in (10**4, 10**9):
        assert exponential(0.1, batches, 0, factor=1.5) == 0.0
        assert exponential(0.1, batches, 0, factor=1.5, floor=1e-5) == 1e-5


def test_the_momentum_of_the_2014_code() -> None:
    """.5 in the first epoch, .7 in epoch 250 and after, a straight line between: epoch e is after e - 1 whole ones."""
    momentum = [linear(0.5, 0, e - 1, to=0.7, over=249) for e in range(1, 400)]
    assert momentum[0] == 0.5 and momentum[248] < momentum[249] == 0.7
    assert all(m == 0.7 for m in momentum[249:])
    for e, m in enumerate(momentum, 1):
        assert m == pytest.approx(0.5 + 0.2 * min(max((e - 1) / 249, 0), 1), rel=1e-14)
    assert momentum[125 - 1] == pytest.approx(0.5 + 0.2 * 124 / 249, rel=1e-14)


def test_linear_goes_down_too_and_does_not_look_at_minibatches() -> None:
    assert [linear(1.0, 999, e, over=4) for e in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert linear(0.2, 5, 3, to=0.2, over=7) == 0.2


# ---- in the optimizers ------------------------------------------------------------------------------------------


def test_every_player_starts_from_its_own_setting() -> None:
    G, D = player("G", lr=0.1, momentum=0.5), player("D", lr=0.01, momentum=0.5)
    made = Schedules([G, D], [("lr", partial(exponential, factor=2.0)), ("momentum", partial(linear, to=0.9, over=2))])
    for batches, epochs, lr, momentum in [(0, 0, 1.0, 0.5), (3, 1, 0.125, 0.7), (5, 2, 2**-5, 0.9), (1, 0, 0.5, 0.5)]:
        made.apply(batches, epochs)  # a pure function of both: there is no way back that it could miss
        expected = {"lr/G": 0.1 * lr, "lr/D": 0.01 * lr, "momentum/G": momentum, "momentum/D": momentum}
        assert made.values() == pytest.approx(expected, rel=1e-14)
        assert settings(G, "lr") == [made.values()["lr/G"]] and settings(D, "momentum") == [made.values()["momentum/D"]]


def test_no_schedule_sets_nothing() -> None:
    G = player(lr=0.1, momentum=0.5)
    made = Schedules([G], [])
    made.apply(10, 3)
    assert made.values() == {} and settings(G, "lr") == [0.1]


def test_a_loaded_optimizer_does_not_move_the_start() -> None:
    """A checkpoint holds the learning rate of the round that it was written after."""
    G = player(lr=1.0)
    made = Schedules([G], [("lr", partial(exponential, factor=2.0))])
    made.apply(4, 0)
    again = player(lr=1.0)
    resumed = Schedules([again], [("lr", partial(exponential, factor=2.0))])
    again.load_state_dict(G.state_dict())
    assert settings(again, "lr") == [2.0**-4]
    resumed.apply(5, 0)
    assert settings(again, "lr") == [2.0**-5]


def test_a_step_is_as_long_as_the_schedule_says() -> None:
    G = player(lr=1.0)
    made = Schedules([G], [("lr", partial(exponential, factor=2.0))])
    for batches in range(4):
        before = [p.detach().clone() for p in G.parameters]
        made.apply(batches, 0)
        G.step(G.gradients(G.net(torch.ones(1, 2)).sum()))
        for old, new in zip(before, G.parameters, strict=True):
            torch.testing.assert_close(old - new, torch.full_like(old, 2.0**-batches), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "key", "has"),
    [
        (sgd, "momentun", "lr, momentum"),
        (adam, "momentum", "lr, eps"),
        (adam, "betas", "lr, eps"),  # a pair, not a number
        (rmsprop, "fused", "lr"),
        (sgd, "nesterov", "lr, momentum"),
        (sgd, "params", "lr, momentum"),
    ],
)
def test_a_setting_that_the_optimizer_does_not_have(make: Any, key: str, has: str) -> None:
    players = [player("G", make), player("D", sgd)]
    with pytest.raises(UserError, match=rf"^schedules: the optimizer of G has no '{key}' to set \(it has: {has}"):
        Schedules(players, [("lr", linear), (key, linear)])


def test_each_player_must_have_it() -> None:
    with pytest.raises(UserError, match="the optimizer of D has no 'momentum' to set"):
        Schedules([player("G", sgd), player("D", adam)], [("momentum", linear)])


def test_one_setting_follows_one_schedule() -> None:
    with pytest.raises(UserError, match=r"^schedules: 'lr' is set by two of them; one is right$"):
        Schedules([player()], [("lr", linear), ("momentum", linear), ("lr", exponential)])


# ---- in a recipe ------------------------------------------------------------------------------------------------


def test_the_keys_of_a_recipe() -> None:
    assert set(SCHEDULES) == {"exponential", "linear"}
    found = plan("gan", flags={"schedules": [{"name": "linear", "over": 3}, "exponential"]}).recipe.schedules
    assert [(c.name, dict(c.args)) for c in found] == [
        ("linear", {"of": "lr", "to": 0.0, "over": 3}),
        ("exponential", {"of": "lr", "factor": 1.0, "floor": 0.0}),
    ]
    changed = plan("gan2014_mnist", flags={"schedules.1.over": 9, "schedules.0.floor": 0.5}).recipe.schedules
    assert (changed[0].args["floor"], changed[1].args["over"], changed[1].args["of"]) == (0.5, 9, "momentum")
    assert plan("gan2014_mnist", flags={"schedules": []}).recipe.schedules == ()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"schedules": [{"name": "linnear"}]}, "did you mean linear"),
        ({"schedules": [{"name": "linear", "factor": 2}]}, "there is no such key"),
        ({"schedules": [{"name": "linear", "over": 0}]}, "it must be a whole number at least 1; the nearest is 1"),
        ({"schedules": [{"name": "exponential", "factor": 0}]}, "it must be a number above 0"),
        ({"schedules": [{"of": "lr"}]}, "needs a name: one of exponential, linear"),
        ({"schedules": "linear"}, r"must be a list, such as \[\{name: linear, of: lr, to: 0, over: 100\}\]"),
        ({"schedules.2.over": 3}, "schedules.2: there are no schedules to change; give the list: --schedules '"),
        ({"schedules.first.over": 3}, r"schedules must be a list, such as \[\{name: linear"),
    ],
)
def test_wrong_keys_are_one_clear_line(flags: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        plan("gan", flags=flags)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_sets_what_its_optimizer_has_not_leaves_no_run(
    pictures: Path, small: Small, tmp_path: Path
) -> None:
    wrong = small("gan", schedules=[{"name": "linear", "of": "momentum"}])
    with pytest.raises(UserError, match=r"^schedules: the optimizer of G has no 'momentum' to set"):
        gansmith.train("gan", data=pictures, out=tmp_path / "run", overrides=wrong, device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_schedule_of_ones_own(pictures: Path, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        "from gansmith.schema import PositiveFloat\n\n\n"
        "def steps(start: float, batches: int, epochs: int, *, by: PositiveFloat = 0.5) -> float:\n"
        "    return start * by**epochs\n"
    )
    (tmp_path / "my_schedule_2014.py").write_text(source, encoding="utf-8")
    flags = small("gan", schedules=[{"name": "my_schedule_2014:steps", "by": 0.25}])
    made = build(plan("gan", flags={**flags, "data": str(pictures)}).recipe, CPU, say=lambda text: None, progress=False)
    made.schedules.apply(99, 3)
    assert made.schedules.values() == pytest.approx({"lr/G": 2e-4 / 64, "lr/D": 2e-4 / 64}, rel=1e-14)


# ---- in training ------------------------------------------------------------------------------------------------

FAST = [
    {"name": "exponential", "of": "lr", "factor": 1.25, "floor": 0.004},
    {"name": "linear", "of": "momentum", "to": 0.75, "over": 2},
]
LOG: dict[str, Any] = {"log_interval": 1, "evaluation.every": 0}
PER_EPOCH = 8  # 58 images in batches of 8


def rows(run: Path) -> list[dict[str, Any]]:
    clock = ("seconds", "images_per_second")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def test_the_log_tells_what_each_round_was_played_with(pictures: Path, small: Small, tmp_path: Path) -> None:
    flags = small("gan2014_mnist", schedules=FAST, **LOG, **{"optimizers.D.lr": 0.05})
    options: dict[str, Any] = {"data": pictures, "overrides": flags, "device": "cpu", "quiet": True}
    found = rows(gansmith.train("gan2014_mnist", out=tmp_path / "run", steps=3 * PER_EPOCH, **options))
    assert len(found) == 3 * PER_EPOCH
    for t, row in enumerate(found):
        assert row["lr/G"] == pytest.approx(max(0.004, 0.1 / 1.25**t), rel=1e-12)
        assert row["lr/D"] == pytest.approx(max(0.004, 0.05 / 1.25**t), rel=1e-12)
        momentum = {0: 0.5, 1: 0.625, 2: 0.75}[t // PER_EPOCH]
        assert row["momentum/G"] == row["momentum/D"] == pytest.approx(momentum, rel=1e-12)
    assert found[-1]["lr/G"] == 0.004


@pytest.mark.parametrize("k", [2, 5])
def test_the_clock_counts_minibatches_whatever_a_round_takes(
    k: int, pictures: Path, small: Small, tmp_path: Path
) -> None:
    """n_critic = k: the learning rate falls k times as fast per round, and as fast as ever per epoch."""
    decay = [{"name": "exponential", "of": "lr", "factor": 1.000004}, FAST[1]]
    flags = small("gan2014_mnist", schedules=decay, **LOG, game={"name": "alternating", "n_critic": k})
    options: dict[str, Any] = {"data": pictures, "overrides": flags, "device": "cpu", "quiet": True}
    found = rows(gansmith.train("gan2014_mnist", out=tmp_path / "run", steps=PER_EPOCH, **options))
    assert len(found) == PER_EPOCH
    for r, row in enumerate(found):
        assert row["lr/G"] == row["lr/D"] == pytest.approx(0.1 / 1.000004 ** (k * r), rel=1e-12)
        momentum = [0.5, 0.625, 0.75, 0.75, 0.75][k * r // PER_EPOCH]
        assert row["momentum/G"] == pytest.approx(momentum, rel=1e-12)


@pytest.mark.parametrize("game", ["simultaneous", {"name": "alternating", "n_critic": 3}])
@pytest.mark.parametrize("stop", [3, PER_EPOCH, PER_EPOCH + 1])
def test_a_resume_goes_on_where_it_was(stop: int, game: Any, pictures: Path, small: Small, tmp_path: Path) -> None:
    flags = small("gan2014_mnist", schedules=FAST, **LOG, game=game)
    options: dict[str, Any] = {"data": pictures, "overrides": flags, "device": "cpu", "quiet": True}
    end = 2 * PER_EPOCH + 3
    once = gansmith.train("gan2014_mnist", out=tmp_path / "once", steps=end, **options)
    twice = gansmith.train("gan2014_mnist", out=tmp_path / "twice", steps=stop, **options)
    gansmith.train(twice, steps=end, device="cpu", quiet=True)
    assert rows(twice) == rows(once)
    found = compare(*(run / "checkpoints" / f"{end:08d}" for run in (once, twice)))
    assert found.exact, found.different
