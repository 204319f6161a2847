"""Benchmarks: the clock counts training alone, a goal is reached where the log says so, and what is done stays done."""

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gansmith import time_to_quality as module
from gansmith.cli import main
from gansmith.data import Stream
from gansmith.errors import UserError
from gansmith.recipe import plan
from gansmith.record import Record
from gansmith.report.log import read_metrics
from gansmith.time_to_quality import Result, Row, parse_goal, table, time_to_quality
from gansmith.training import Stopped, train

SMALL: dict[str, Any] = {
    "data.validation": 59_000,
    "batch_size": 500,
    "networks.G.widths": [16],
    "networks.D.widths": [16],
    "lr": 0.02,  # the score rises at every evaluation
    "steps": 6,
    "log_interval": 1,
    "evaluation.every": 2,
    "evaluation.n": 50,
}
KEY = "eval/parzen_ll_50_validation"
NEVER = "parzen_ll>=1e6"
Measure = Callable[..., Result]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """measure("parzen_ll>=0", "out", ...): the recipe gan made small, seed 0."""

    def go(
        until: str | list[str], folder: str = "out", changes: dict[str, Any] | None = None, **options: Any
    ) -> Result:
        options = {"seeds": (0,), "device": "cpu", "quiet": True, "say": lambda text: None, **options}
        goals = [until] if isinstance(until, str) else until
        return time_to_quality("gan", goals, overrides={**SMALL, **(changes or {})}, out=tmp_path / folder, **options)

    return go


def scores(row: Row) -> dict[int, float]:
    log = read_metrics(Path(row.run) / "metrics.jsonl")
    return {line["round"]: float(line[KEY]) for line in log if KEY in line}


# ---- goals -----------------------------------------------------------------------------------------------------


def test_a_goal_is_met_at_its_bound_and_never_by_nan() -> None:
    fd, coverage = parse_goal("fd<=60"), parse_goal(" coverage >= 0.5 ")
    assert fd.met(60) and fd.met(-1) and not fd.met(60.001) and not fd.met(math.nan) and not fd.met(math.inf)
    assert coverage.met(0.5) and not coverage.met(0.499) and not coverage.met(math.nan)
    assert (str(fd), str(coverage)) == ("fd<=60", "coverage>=0.5")
    assert parse_goal("density<=1.1").at_most and not parse_goal("density>=0.9").at_most  # best in between


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fd", "in quotes"),  # what is left of fd<=60 without quotes
        ("fd<60", "<= or >="),
        ("fd<=nan", "a number"),
        ("coverag>=0.5", "did you mean coverage"),
        ("fd>=60", "fd is better lower; say fd<=60"),
        ("recall<=0.1", "recall is better higher; say recall>=0.1"),
    ],
)
def test_a_wrong_goal_is_told(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_goal(text)


# ---- runs ------------------------------------------------------------------------------------------------------


def test_the_first_evaluation_that_meets_the_goal_counts_and_ends_the_training(measure: Measure) -> None:
    [missed] = measure(NEVER, "long").rows
    found = scores(missed)
    assert list(found) == [0, 2, 4, 6]
    assert not missed.reached and "6 rounds" in missed.why_not and missed.rounds == 6
    assert found[0] < found[2] < found[4]
    at, bound = 4, (found[2] + found[4]) / 2
    result = measure(f"parzen_ll>={bound}")
    [row] = result.rows
    assert row.reached and row.rounds == at and row.values == {KEY.removeprefix("eval/"): found[at]}
    assert row.after_round == at - 2 and row.after_seconds < row.seconds
    assert row.images == 500 * at and row.epochs == at / 2 and result.every == 2
    assert max(line["round"] for line in read_metrics(Path(row.run) / "metrics.jsonl")) == at  # and trained no further


def test_all_goals_of_one_value_count(measure: Measure) -> None:
    easy = "parzen_ll>=-1e+09"
    result = measure([NEVER, easy])
    [row] = result.rows
    assert not row.reached and row.rounds == 6 and list(row.values) == [KEY.removeprefix("eval/")]
    assert result.goals == ["parzen_ll>=1e+06", easy]


def test_evaluation_does_not_count_as_training(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Record.evaluate

    def slow(self: Record) -> None:
        full(self)
        time.sleep(0.7)

    monkeypatch.setattr(Record, "evaluate", slow)
    began = time.perf_counter()
    [row] = measure(NEVER).rows
    assert row.trained_seconds < 2 * 0.7  # what was slept between the first and the last line of the log
    assert 4 * 0.7 + row.trained_seconds < row.wall_seconds < time.perf_counter() - began


def test_a_training_that_is_stopped_goes_on_and_finds_the_same(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(NEVER, "whole").rows[0]
    full = module.train

    def stopped(*args: Any, enough: Any, **options: Any) -> Path:
        def at_three(record: Record) -> bool:
            if record.experiment.state.round == 2:
                signal.raise_signal(signal.SIGINT)
            return enough(record)

        return full(*args, enough=at_three, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", stopped)
        with pytest.raises(Stopped):
            measure(NEVER)
    assert not (tmp_path / "out" / "result.json").exists()
    again = measure(NEVER).rows[0]
    assert scores(again) == scores(whole) and again.images == whole.images
    sessions = [json.loads(line) for line in (tmp_path / "out" / "sessions.jsonl").read_text().splitlines()]
    assert [session["ended"] for session in sessions] == ["interrupted", "length"]
    assert again.wall_seconds == pytest.approx(sum(session["wall_seconds"] for session in sessions))


def test_what_is_done_is_not_done_again_unless_more_time_is_given(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    [short] = measure(NEVER, max_minutes=1e-6).rows
    assert not short.reached and "--max-minutes" in short.why_not and short.rounds == 0
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", lambda *args, **options: pytest.fail("trained again"))
        assert measure(NEVER, max_minutes=1e-6).rows == [short]
    [longer] = measure(NEVER).rows
    assert longer.rounds == 6 and "--steps" in longer.why_not
    worst = min(scores(longer).values())
    monkeypatch.setattr(module, "train", lambda *args, **options: pytest.fail("trained again"))
    [easier] = measure(f"parzen_ll>={worst}").rows  # a lower goal: the scores are there already
    assert easier.reached and easier.seconds <= longer.seconds


def test_a_harder_goal_is_trained_for_after_an_easier_one(measure: Measure) -> None:
    [easy] = measure("parzen_ll>=-1e9").rows
    assert easy.reached and easy.rounds == 0
    [hard] = measure(NEVER).rows
    assert not hard.reached and hard.rounds == 6 and "--steps" in hard.why_not


def test_a_training_that_diverges_is_a_result(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    [row] = measure(NEVER, changes={"lr": 1e30}).rows
    assert not row.reached and row.why_not == "diverged"
    monkeypatch.setattr(module, "train", lambda *args, **options: pytest.fail("trained again"))
    assert measure(NEVER, changes={"lr": 1e30}).rows == [row]


def test_runs_that_were_scored_or_trained_otherwise_are_refused(measure: Measure, tmp_path: Path) -> None:
    measure(NEVER, max_minutes=1e-6)
    same = {**SMALL, "evaluation.metrics": ["parzen_ll"], "evaluation.best": None}
    with pytest.raises(UserError, match=r"seed-0 is of another benchmark.*optimizers\.G\.lr was 0\.02 and is 0\.01"):
        measure(NEVER, changes={"lr": 0.01})
    for changes, said in (
        ({"evaluation.n": 60}, r"evaluation\.n was 50 and is 60"),
        ({"data.memory": "map"}, r"data\.memory was auto and is map"),
        ({"data.name": "fashion_mnist"}, r"data\.name was mnist and is fashion_mnist"),
    ):
        with pytest.raises(UserError, match=said):
            module._check_same(tmp_path / "out" / "seed-0", plan("gan", flags={**same, **changes}).recipe)
    module._check_same(tmp_path / "out" / "seed-0", plan("gan", flags={**same, "steps": 50}).recipe)


def test_without_an_interval_an_epoch_is_one(measure: Measure) -> None:
    said: list[str] = []
    result = measure(NEVER, changes={"evaluation.every": 0, "batch_size": 300, "steps": 4}, say=said.append)
    assert result.every == 4 and list(scores(result.rows[0])) == [0, 4]  # 1,000 images
    assert any("every 4 rounds" in text for text in said)


def test_hardware_is_that_of_each_session_and_what_an_older_one_did_not_note_is_left_out(tmp_path: Path) -> None:
    keys = ("device", "device_name", "cores", "threads", "torch", "python", "platform", "gansmith")
    old = dict.fromkeys(keys, "x")
    sessions = [old, {**old, "cuda": None, "commit": None}, {**old, "cuda": "13.0"}]
    (tmp_path / "environment.json").write_text(json.dumps(sessions))
    assert module._hardware([tmp_path]) == [old, {**old, "cuda": "13.0"}]


# ---- tables ----------------------------------------------------------------------------------------------------


def result_of(*seconds: float | None) -> Result:
    rows = [
        Row(
            i,
            f"run-{i}",
            s is not None,
            "" if s else "over",
            s or 99.0,
            64,
            1,
            0.5,
            {"fd_mnist_10k": 5.0},
            0,
            0.0,
            9,
            9,
        )
        for i, s in enumerate(seconds)
    ]
    return Result("gan", {}, ["fd<=60"], 10, 10.0, "raw", {"fd_mnist_10k": {"n": 1}}, [{"device": "cpu"}], rows)


@pytest.mark.parametrize(
    ("seconds", "mean", "deviation", "median"),
    [
        ((1.0, 2.0, 6.0), 3.0, math.sqrt(7), 2.0),
        ((1.0, None, 3.0), 2.0, math.sqrt(2), 3.0),  # who did not reach it is later than all who did
        ((1.0, None, None), 1.0, None, None),
        ((None,), math.nan, None, None),
    ],
)
def test_seeds_that_did_not_reach_it_are_not_averaged_but_count_in_the_median(
    seconds: tuple[float | None, ...], mean: float, deviation: float | None, median: float | None
) -> None:
    found = result_of(*seconds).seconds()
    assert found[0] == pytest.approx(mean, nan_ok=True)
    assert (found[1], found[2]) == (None if deviation is None else pytest.approx(deviation), median)


def test_the_table_says_who_did_not_reach_it_and_json_has_no_nan() -> None:
    result = result_of(1.5, None)
    text = table(result)
    assert "Reached with 1 of 2 seeds" in text and "seed 1: over" in text and "not reached" in text
    assert json.loads(json.dumps(result_of(None).as_dict(), allow_nan=False))["summary"] == {
        **{"reached": 0, "of": 1, "seconds_mean_of_reached": None},
        **{"seconds_deviation_of_reached": None, "seconds_median_of_all": None},
    }


def test_values_that_are_no_numbers_are_texts_in_its_json() -> None:
    result = replace(result_of(1.5), max_minutes=math.inf)
    result = replace(result, rows=[replace(result.rows[0], values={"fd_mnist_10k": math.nan})])
    found = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert found["max_minutes"] == "inf" and found["rows"][0]["values"] == {"fd_mnist_10k": "nan"}


def test_the_command_prints_what_it_writes_and_ends_well_without_success(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    words = ["bench", "time-to-quality", "gan", "--until", NEVER, "--seeds", "1", "--out", out, "--device", "cpu"]
    words += [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
    words += ["--objective", "wasserstein"]  # of which training warns
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0 and "warning: objective.name is wasserstein" in done.stderr, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "result.json").read_text())
    again = CliRunner().invoke(main, [*words, "--quiet"])
    assert again.stdout == (tmp_path / "out" / "table.md").read_text() and "Not reached: seed 0" in again.stdout
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--until", "parzen_ll>=0"], "--data.validation 10000"),
        (["--until", "parzen_ll>=0", "--seed", "3"], "--seeds K"),
        ([], "--until 'fd<=60'"),
        (["--until", "score>=2", "--data.validation", "1000", "--img_size", "32"], "28x28"),
        (["--until", "fd<=60", "--max-minutes", "0"], "more than 0"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["bench", "time-to-quality", "gan", "--device", "cpu", "--out", str(out), *words])
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not out.exists()


# ---- waiting for data ------------------------------------------------------------------------------------------


def test_the_log_says_which_share_of_the_time_went_into_waiting_for_data(
    pictures: Path, small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Stream._read

    def slow(self: Stream, position: int) -> Any:
        time.sleep(0.15)
        return read(self, position)

    monkeypatch.setattr(Stream, "_read", slow)

    def shares(memory: str) -> list[float | None]:
        keys = small("gan", **{"log_interval": 4, "data.memory": memory, "n_cpu": 1})
        run = train("gan", data=pictures, out=tmp_path / memory, steps=8, device="cpu", overrides=keys, quiet=True)
        return [line.get("data_wait") for line in read_metrics(run / "metrics.jsonl")]

    waits = shares("map")
    assert len(waits) == 2 and all(share is not None and 0.5 < share <= 1 for share in waits)
    assert shares("device") == [None, None]
