"""The parts of a round: they add up to it, timing them changes nothing, and operations are those counted by hand."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from gansmith import players, profiling
from gansmith.cli import main
from gansmith.errors import UserError
from gansmith.penalties import PenaltySum
from gansmith.profiling import (
    LAZY,
    OTHER,
    Bench,
    Clock,
    Profile,
    Recorder,
    Spread,
    Switch,
    alternatives,
    instrumented,
    measure_switch,
    own_products,
    profile,
    report,
    with_lazy_penalties,
)
from gansmith.recipe import plan

SMALL: dict[str, Any] = {"networks.G.widths": [16], "networks.D.widths": [16], "batch_size": 8}
CPU = torch.device("cpu")
Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """make("gan", key=value): a bench of the recipe on the CPU, closed after the test."""
    made: list[Bench] = []

    def go(what: str = "gan", **flags: Any) -> Bench:
        made.append(Bench(what, flags, CPU, tmp_path / f"bench-{len(made)}"))
        return made[-1]

    yield go
    for bench in made:
        bench.close()


# ---- spans -----------------------------------------------------------------------------------------------------


class _Time:
    """A clock that moves when told."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_time_belongs_to_the_innermost_span_and_to_a_closed_one_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    time, waits = _Time(), []
    monkeypatch.setattr(profiling, "time", time)
    clock = Clock(lambda: waits.append(time.now))

    def work(seconds: float) -> None:
        time.now += seconds

    clock.start()
    work(1)
    with clock.span("outer"):
        work(2)
        with clock.span("inner"):
            work(4)
        work(8)
        with clock.span("closed", closed=True):
            work(16)
            with clock.span("inner"):
                work(32)
            work(64)
        with pytest.raises(ValueError), clock.span("inner"):
            work(128)
            raise ValueError
    work(256)
    clock.switch()
    assert clock.seconds == {OTHER: 1 + 256, "outer": 2 + 8, "inner": 4 + 128, "closed": 16 + 32 + 64}
    assert waits == [0, 1, 3, 7, 15, 127, 127, 255, 255, 511]  # the device is waited for at every border that counts


@pytest.mark.parametrize("recipe", ["gan", "wgan_gp", "infogan"])
def test_a_timed_training_is_the_same_training_and_nothing_stays_wrapped(make: Make, recipe: str) -> None:
    small = {"networks.G.width": 2, "networks.D.width": 2} if recipe == "infogan" else SMALL
    flags = {**small, "batch_size": 8, "ema.halflife_kimg": 1}
    torch.manual_seed(0)
    plain = make(recipe, **flags)
    plain.play(4)
    timed = make(recipe, **flags)
    names = {id(thing): set(vars(thing)) for thing in (timed.experiment.game, timed.record, timed.experiment.state)}
    clock = Clock(timed.wait)
    clock.start()
    with instrumented(timed.experiment, timed.record, clock):
        timed.play(4)
    for one, other in zip(plain.experiment.game.players, timed.experiment.game.players, strict=True):
        assert one.net.state_dict().keys() == other.net.state_dict().keys()
        for a, b in zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert {"step", "average"}.isdisjoint(vars(other))
    for thing in (timed.experiment.game, timed.record, timed.experiment.state):
        assert set(vars(thing)) == names[id(thing)]
    assert not any("instrumented" in f.__qualname__ for f in (players.MeanGradients.add, players.MeanGradients.take))
    before = dict(clock.seconds)
    timed.play(1)
    assert clock.seconds == before
    expected = {
        "data",
        "forward of G",
        "forward of D",
        "backward for G",
        "backward for D",
        "optimizers",
        "noise",
        "log",
    }
    expected |= {"wgan_gp": {"penalty"}, "infogan": {"backward for G and D"}, "gan": {"penalty"}}[recipe]
    assert expected | {"moving average", OTHER} <= set(clock.seconds) and min(clock.seconds.values()) > 0


# ---- operations ------------------------------------------------------------------------------------------------

G, D = (100, 128, 256, 512, 1024, 784), (784, 512, 256, 1)


def layers(widths: tuple[int, ...]) -> list[int]:
    """Multiplications of one image in each layer; its three products (output, gradients) have as many."""
    return [before * after for before, after in pairwise(widths)]


def test_a_round_of_gan_has_the_operations_counted_by_hand(make: Make) -> None:
    """0.950 GFLOP at batch 64. Nobody needs the gradient of z or of real images.

    The update itself needs 0.934 (benchmarks/epoch.py): one pass back through D over the fakes. The round takes two,
    one for each loss, and in that for D the gradients of the layers' inputs are taken again, but for the first.
    """
    g, d = layers(G), layers(D)
    forward = sum(g) + 2 * sum(d)
    back_d = 2 * (sum(d) + sum(d[1:]))  # weights; inputs of all layers but the first; real and fake
    back_g = sum(d) + sum(g) + sum(g[1:])  # through D to its input; G's weights; inputs but z
    bench = make()
    with Recorder() as recorder:
        bench.play(1)
    assert recorder.flops == 2 * 64 * (forward + back_d + back_g) == 950_370_304
    assert recorder.flops - 2 * 64 * sum(d[1:]) == 933_560_320
    assert len(recorder.products) == 14 + 8 + 11
    counted_before = recorder.flops
    with FlopCounterMode(display=False) as counter:
        bench.play(1)
    assert counter.get_total_flops() == counted_before


def test_a_round_in_turns_has_the_operations_counted_by_hand(make: Make) -> None:
    """D learns from fakes without a graph; G makes others, and its gradient goes through D to D's input."""
    g, d = layers(G), layers(D)
    move_d = sum(g) + 2 * (sum(d) + sum(d) + sum(d[1:]))
    move_g = sum(g) + sum(d) + sum(d) + sum(g) + sum(g[1:])
    bench = make(**{"game": "alternating", "batch_size": 32, "game.n_critic": 2})
    with Recorder() as recorder:
        bench.play(1)
    assert recorder.flops == 2 * 32 * (2 * move_d + move_g)


def test_bytes_are_those_of_operands_and_results_and_a_view_has_none() -> None:
    x, y = torch.zeros(3, 5), torch.zeros(5, 7)
    with Recorder() as recorder:
        _ = x.t()[1:]
        assert recorder.bytes == 0
        _ = x.t().contiguous()
        assert recorder.bytes == 60 + 60
        _ = x @ y
        assert recorder.bytes == 120 + 4 * (15 + 35 + 21)
        torch._foreach_add_([x, y], 1.0)
        assert recorder.bytes >= 120 + 284 + 4 * 50
    assert recorder.flops == 2 * 3 * 5 * 7
    with Recorder() as again:
        own_products(recorder)
    assert again.flops == recorder.flops and again.products[0][1][1] is y


# ---- the whole -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> Profile:
    flags = {**SMALL, "batch_size": 64}
    return profile("gan", overrides=flags, device="cpu", seconds=2, switches=False, say=lambda text: None)


def test_the_parts_add_up_to_the_round(found: Profile) -> None:
    assert sum(part.median for part in found.parts.values()) == pytest.approx(found.round_by_parts.median)
    assert list(found.parts)[-1] == OTHER and min(part.median for part in found.parts.values()) >= 0
    for spread in (*found.parts.values(), found.round, found.round_by_parts, found.own_products, found.copy_speed):
        assert 0 <= spread.low <= spread.median <= spread.high < math.inf
    # Timing costs something, and other processes do; but both are rounds of the same length.
    assert 0.3 < found.round_by_parts.median / found.round.median < 4
    assert found.images_per_second == pytest.approx(64e3 / found.round.median, rel=0.1)


def test_ceilings_are_above_what_is_achieved(found: Profile) -> None:
    assert set(found.product_speed) == {"float32"}
    assert 0 < found.flops_per_second < found.product_speed["float32"].high
    assert 0 < found.own_products.low < found.round.high
    assert found.bytes > 0 and 1e7 < found.copy_speed.median < 1e14


def test_the_page_says_what_was_found_and_json_holds_it(found: Profile) -> None:
    page = report(found)
    for word in ("forward of G", "a round by its parts", "100.0 %", "a large product", "a large copy", "threads 1"):
        assert word in page, page
    assert max(map(len, page.splitlines()[:-1])) <= 120
    assert "cuda" not in page and ", cuda 13.0, " in report(replace(found, hardware={**found.hardware, "cuda": "13.0"}))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["flops"] == found.flops


# ---- switches --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: bool = False
    channels_last: bool = True
    threads: int | None = None


def test_every_other_value_of_a_switch_is_tried_and_what_is_no_switch_is_not() -> None:
    assert alternatives(Section()) == [
        ("precision", "tf32"),
        ("precision", "bfloat16"),
        ("compile", True),
        ("channels_last", False),
    ]


@pytest.mark.parametrize(("value", "other"), [("auto", True), (False, True), (True, False)])
def test_compile_is_a_switch_from_auto_too(
    make: Make, value: Any, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gansmith.build.compile_networks", lambda *args: None)
    monkeypatch.setattr("gansmith.build._no_compiler", lambda device: "")
    bench = make(**SMALL, **{"engine.compile": value})
    assert [x for name, x in alternatives(bench.recipe.engine) if name == "compile"] == [other]


def test_a_setting_is_compared_in_turns_and_one_that_cannot_be_is_told(make: Make, tmp_path: Path) -> None:
    bench = make(**SMALL)
    first, _ = bench.warm_up(least=3, seconds=0.1)
    more: tuple[Any, ...] = (bench, first, 2, 0.0)
    slower = measure_switch("gan", SMALL, "batch_size", 2048, *more, tmp_path / "slower")
    assert slower.speedup is not None and slower.speedup.median < 0.7, slower
    refused = measure_switch("gan", SMALL, "data.values", "unit", *more, tmp_path / "refused")
    assert refused.speedup is None and "data.values is unit" in refused.note
    broken = measure_switch("gan", SMALL, "lr", 1e30, *more, tmp_path / "broken")
    assert broken.speedup is None and "not finite" in broken.note


def test_the_engine_is_tried_as_far_as_recipe_and_device_allow(
    make: Make, tmp_path: Path, found: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def instead(what: str, flags: Any, key: str, value: Any, *rest: Any) -> Switch:
        if key == "engine.compile":  # which takes a minute
            return Switch(key, value, Spread(1.5, 1.25, 2.0), 48.0, "D is not compiled")
        return measure_switch(what, flags, key, value, *rest)

    monkeypatch.setattr(profiling, "measure_switch", instead)
    bench = make(**SMALL)
    switches = profiling._switches("gan", SMALL, bench, 0.0, 2, 0.0, tmp_path, lambda text: None)
    tried = {switch.key + "=" + str(switch.value): switch for switch in switches}
    assert "only CUDA has" in tried["engine.precision=tf32"].note
    assert "no convolutions" in tried["engine.channels_last=True"].note
    lower = tried["engine.precision=bfloat16"]
    assert lower.speedup is not None and lower.speedup.low > 0 and not lower.note
    page = report(replace(found, switches=switches))
    assert (
        "engine.compile true           1.50 (1.25 to 2.00), first round +48.0 s" in page and "D is not compiled" in page
    )


def test_the_operands_of_a_lower_precision_are_multiplied_in_it(make: Make) -> None:
    bench = make(**{"engine.precision": "bfloat16"})
    [recorder] = profiling.record_rounds("gan", {}, bench, Path("unused"))
    assert {x.dtype for _, args, _ in recorder.products for x in args if isinstance(x, torch.Tensor)} == {
        torch.bfloat16
    }
    assert recorder.flops == 950_370_304


# ---- lazy penalties ----------------------------------------------------------------------------------------------


def test_blocks_are_whole_periods_and_a_part_is_the_mean_over_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A penalty that takes a second, on every 6th of D's moves, four of which make a round: 2 in 3 rounds."""
    bench = make("wgan_gp", **SMALL, **{"penalties.0.every": 6, "game.n_critic": 4})
    _, block = bench.warm_up(least=2, seconds=0.1)
    assert block % 6 == 0 and block >= 6
    time = _Time()
    monkeypatch.setattr(profiling, "time", time)

    def slow(score: Any, x_real: torch.Tensor, *rest: Any) -> torch.Tensor:
        time.now += 1
        return torch.zeros(len(x_real))

    bench.experiment.game.penalty = PenaltySum([(1.0, slow, 6)])  # type: ignore[attr-defined]
    for shift in (0, 1):
        bench.play(shift)
        clock = Clock(bench.wait)
        with instrumented(bench.experiment, bench.record, clock):
            clock.start()
            bench.play(block)
            clock.switch()
        assert clock.seconds["penalty"] / block == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("every", "said"),
    [
        ([15, 16], "every: 15, 16 repeat after 240 rounds, .* at most 128; give them the same every, at most 16$"),
        ([200], "every: 200 repeat after 200 rounds, .* at most 128; give them the same every, at most 128$"),
    ],
)
def test_lazy_penalties_that_seldom_fall_together_are_refused(make: Make, every: list[int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make("wgan_gp", **SMALL, penalties=[{"name": "wgan_gp", "every": n} for n in every])


def test_two_periods_and_a_length_make_whole_blocks() -> None:
    assert [profiling.whole(rounds, 1) for rounds in (0.2, 3.4, 3.6)] == [1, 3, 4]
    assert [profiling.whole(rounds, 16) for rounds in (0.2, 17, 30)] == [16, 16, 32]


def test_operations_of_a_lazy_recipe_are_the_mean_over_its_period(make: Make) -> None:
    """Of 16 rounds with 5 moves each, 5 have a penalty in one of them; an eager round has 5."""

    def recorded(**flags: Any) -> list[Recorder]:
        return profiling.record_rounds("wgan_gp", {}, make("wgan_gp", **SMALL, **flags), Path("unused"))

    [none], [eager] = recorded(penalties=[]), recorded()
    kinds = recorded(**{"penalties.0.every": 16})
    assert sorted((kind.flops - none.flops, kind.rounds) for kind in kinds) == [
        (0, 11),
        ((eager.flops - none.flops) / 5, 5),
    ]
    mean = profiling._mean(kinds, [kind.flops for kind in kinds])
    assert mean == none.flops + (eager.flops - none.flops) / 16


def test_eager_penalties_become_lazy_and_lazy_ones_stay() -> None:
    assert with_lazy_penalties(plan("gan").recipe) is None
    assert with_lazy_penalties(plan("wgan_gp", flags={"penalties.0.every": 4}).recipe) is None
    two = [{"name": "wgan_gp", "weight": 5.0, "every": 4, "target": 0.0}, {"name": "wgan_gp", "weight": 2.0}]
    assert with_lazy_penalties(plan("wgan_gp", flags={"penalties": two}).recipe) == [
        two[0],
        {**two[1], "every": LAZY, "target": 1.0},
    ]


def test_what_lazy_penalties_buy_is_measured(
    make: Make, tmp_path: Path, found: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def instead(what: str, flags: Any, key: str, value: Any, *rest: Any) -> Switch:
        if key.startswith("engine"):
            return Switch(key, value, None, 0.0, "not asked")
        seen.append((flags, value))
        return measure_switch(what, flags, key, value, *rest)

    monkeypatch.setattr(profiling, "measure_switch", instead)
    flags = {**SMALL, "penalties.0.weight": 5}
    bench = make("wgan_gp", **flags)
    blocks: list[int] = []
    monkeypatch.setattr(
        Bench, "play", lambda bench, rounds, play=Bench.play: blocks.append(rounds) or play(bench, rounds)
    )
    *_, lazy = profiling._switches("wgan_gp", flags, bench, 0.0, 2, 0.0, tmp_path, lambda text: None)
    assert seen == [(SMALL, [{"name": "wgan_gp", "weight": 5.0, "every": 16, "target": 1.0}])]
    assert blocks[-10:] == [16] * 10  # whole periods of the lazy one, though 2 rounds would do for the other
    assert (lazy.key, lazy.value) == ("penalties every", 16) and "another training" in lazy.note
    assert lazy.speedup is not None and lazy.speedup.median > 1.1, lazy
    assert "  penalties every 16  " in report(replace(found, switches=[lazy]))


# ---- the command -----------------------------------------------------------------------------------------------


def test_the_command_prints_the_page(monkeypatch: pytest.MonkeyPatch, found: Profile) -> None:
    asked: dict[str, Any] = {}

    def instead(what: str, **options: Any) -> Profile:
        asked.update(options, what=what)
        print("a network of one's own may print")
        return found

    monkeypatch.setattr(profiling, "profile", instead)
    done = CliRunner().invoke(main, ["bench", "step", "wgan_gp", "--batch_size", "32", "--device", "cpu"])
    assert done.exit_code == 0 and done.stdout == report(found)
    assert (asked["what"], asked["overrides"], asked["device"]) == ("wgan_gp", {"batch_size": 32}, "cpu")
    assert asked["switches"]
    done = CliRunner().invoke(main, ["bench", "step", "--json", "--no-switches"])
    assert not asked["switches"] and asked["overrides"] == {}
    assert CliRunner().invoke(main, ["bench", "step", "--compile"]).exit_code == 0
    assert asked["overrides"] == {"engine.compile": True}
    assert json.loads(done.stdout)["recipe"] == "gan"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gna"], "did you mean gan"),
        (["gan", "--batch_siez", "3"], "batch_size"),
        (["gan", "--device", "tpu"], "--device"),
        (["gan", "--batch_size", "1"], "BatchNorm"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["bench", "step", *words])
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith("gansmith: error: ")


def test_a_run_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match=r"is a run.*gansmith bench step .*recipe\.yaml"):
        profile(tmp_path)
