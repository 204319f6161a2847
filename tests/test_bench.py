"""Benchmarks: the clock counts training alone, a goal is reached where the log says so, and what is done stays done."""

import importlib.util
import json
import math
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gansmith.data import Wanted, load_sets
from gansmith.data.stream import Stream
from gansmith.errors import UserError
from gansmith.recipe import plan, with_full_paths
from gansmith.run.log import read_metrics
from gansmith.run.record import Record
from gansmith.series import check_same
from gansmith.training import Stopped, train

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "time_to_quality.py"
spec = importlib.util.spec_from_file_location("time_to_quality", SCRIPT)
assert spec is not None and spec.loader is not None
module: Any = importlib.util.module_from_spec(spec)
sys.modules["time_to_quality"] = module
spec.loader.exec_module(module)
parse_goal, summarise, table = module.parse_goal, module.summarise, module.table
SMALL: dict[str, Any] = {
    **{"data.validation": 40, "batch_size": 20, "networks.G.widths": [16], "networks.D.widths": [16]},
    "lr": 0.02,  # the score rises at every evaluation
    **{"steps": 6, "log_interval": 1, "evaluation.every": 2, "evaluation.n": 50, "sample_interval": 1000},
}
KEY = "eval/parzen_ll_50_validation"
NEVER = "parzen_ll>=1e6"
Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 80 digits: 40 are held back, two batches make an epoch."""
    folder = tmp_path_factory.mktemp("digits")
    (data,) = load_sets(Wanted("mnist", (28, 28), 1))
    for i, image in enumerate(data.images[:80, 0]):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return str(folder)


@pytest.fixture
def measure(digits: str, tmp_path: Path) -> Measure:
    """measure("parzen_ll>=0", "out", ...): the recipe gan made small, seed 0."""

    def go(until: str, folder: str = "out", changes: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        options = {"seeds": (0,), "device": "cpu", "quiet": True, "say": lambda text: None, **options}
        flags = {**SMALL, "data.name": digits, **(changes or {})}
        return dict(module.time_to_quality("gan", until.split(), overrides=flags, out=tmp_path / folder, **options))

    return go


def scores(row: dict[str, Any]) -> dict[int, float]:
    log = read_metrics(Path(row["run"]) / "metrics.jsonl")
    return {line["round"]: float(line[KEY]) for line in log if KEY in line}


# ---- goals -----------------------------------------------------------------------------------------------------


def test_a_goal_is_met_at_its_bound_and_never_by_nan() -> None:
    fd, coverage = parse_goal("fd<=60"), parse_goal(" coverage >= 0.5 ")
    assert [fd.met({"fd": x}) for x in (60, -1, 60.001, math.nan, math.inf)] == [True, True, False, False, False]
    assert [coverage.met({"coverage": x}) for x in (0.5, 0.499, math.nan)] == [True, False, False]
    assert not fd.met({}) and (str(fd), str(coverage)) == ("fd<=60", "coverage>=0.5")
    assert [parse_goal(f"density{rest}").bound for rest in ("<=1.1", ">=-9e-1")] == [1.1, -0.9]  # best in between


def test_a_wrong_goal_is_told() -> None:
    for text, said in (
        ("fd", "in quotes"),  # what is left of fd<=60 without quotes
        ("fd<=nan", "a number"),
        ("coverag>=0.5", "did you mean coverage"),
        ("fd>=60", "fd is better lower; say fd<=60"),
        ("recall<=0.1", "recall is better higher; say recall>=0.1"),
    ):
        with pytest.raises(UserError, match=said):
            parse_goal(text)


# ---- runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_first_evaluation_that_meets_the_goal_counts_and_ends_the_training(measure: Measure) -> None:
    easy = "parzen_ll>=-1e+09"
    both = measure(f"{NEVER} {easy}", "long")  # of goals of one value all count
    [missed] = both["rows"]
    assert both["goals"] == ["parzen_ll>=1e+06", easy] and [*missed["values"]] == [KEY.removeprefix("eval/")]
    found = scores(missed)
    assert list(found) == [0, 2, 4, 6]
    assert not missed["reached"] and "6 rounds" in missed["why_not"] and missed["rounds"] == 6
    assert found[0] < found[2] < found[4]
    result = measure(f"parzen_ll>={(found[2] + found[4]) / 2}")
    [row] = result["rows"]
    assert row["reached"] and row["values"] == {KEY.removeprefix("eval/"): found[4]}
    assert [row[key] for key in ("rounds", "images", "epochs", "after_round")] == [4, 80, 2, 2]
    assert row["after_seconds"] < row["seconds"] and result["every"] == 2
    assert max(line["round"] for line in read_metrics(Path(row["run"]) / "metrics.jsonl")) == 4  # trained no further


def test_evaluation_does_not_count_as_training(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Record.evaluate

    def slow(self: Record) -> None:
        full(self)
        time.sleep(0.3)

    monkeypatch.setattr(Record, "evaluate", slow)
    began = time.perf_counter()
    [row] = measure(NEVER)["rows"]
    assert row["trained_seconds"] < 2 * 0.3  # what was slept between the first and the last line of the log
    assert 4 * 0.3 + row["trained_seconds"] < row["wall_seconds"] < time.perf_counter() - began


@pytest.mark.slow
def test_a_training_that_is_stopped_goes_on_and_finds_the_same(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(NEVER, "whole")["rows"][0]
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
    again = measure(NEVER)["rows"][0]
    assert scores(again) == scores(whole) and again["images"] == whole["images"]
    sessions = [json.loads(line) for line in (tmp_path / "out" / "sessions.jsonl").read_text().splitlines()]
    assert [session["ended"] for session in sessions] == ["interrupted", "length"]
    assert again["wall_seconds"] == pytest.approx(sum(session["wall_seconds"] for session in sessions))


@pytest.mark.slow
def test_what_is_done_is_not_done_again_unless_more_time_is_given(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    [short] = measure(NEVER, max_minutes=1e-6)["rows"]
    assert not short["reached"] and "--max-minutes" in short["why_not"] and short["rounds"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", lambda **options: pytest.fail("trained again"))
        assert measure(NEVER, max_minutes=1e-6)["rows"] == [short]
        [easy] = measure("parzen_ll>=-1e9")["rows"]  # a lower goal: the scores are there already
        assert easy["reached"] and easy["rounds"] == 0
    [longer] = measure(NEVER)["rows"]
    assert longer["rounds"] == 6 and "--steps" in longer["why_not"] and not longer["reached"]


def test_a_training_that_diverges_is_a_result(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    [row] = measure(NEVER, changes={"lr": 1e30})["rows"]
    assert not row["reached"] and row["why_not"] == "diverged"
    monkeypatch.setattr(module, "train", lambda **options: pytest.fail("trained again"))
    assert measure(NEVER, changes={"lr": 1e30})["rows"] == [row]


def test_runs_that_were_scored_or_trained_otherwise_are_refused(measure: Measure, digits: str, tmp_path: Path) -> None:
    measure(NEVER, max_minutes=1e-6)
    same = {**SMALL, "data.name": digits, "evaluation.metrics": ["parzen_ll"], "evaluation.best": None}

    def check(**changes: Any) -> None:
        wanted = with_full_paths(plan("gan", flags={**same, **changes})).recipe
        check_same(tmp_path / "out" / "seed-0", wanted, "benchmark")

    check(steps=50)
    for changes, said in (
        ({"lr": 0.01}, r"seed-0 is of another benchmark: optimizers\.G\.lr was 0\.02 and is 0\.01"),
        ({"evaluation.n": 60}, r"evaluation\.n was 50 and is 60"),
        ({"data.name": "fashion_mnist"}, r"data\.name was .*digits\d and is fashion_mnist"),
    ):
        with pytest.raises(UserError, match=said):
            check(**changes)


def test_without_an_interval_an_epoch_is_one(measure: Measure) -> None:
    said: list[str] = []
    result = measure(NEVER, changes={"evaluation.every": 0, "batch_size": 12, "steps": 4}, say=said.append)
    assert result["every"] == 4 and list(scores(result["rows"][0])) == [0, 4]  # 40 images
    assert any("every 4 rounds" in text for text in said)


def test_hardware_is_that_of_each_session_and_what_an_older_one_did_not_note_is_left_out(tmp_path: Path) -> None:
    keys = ("device", "device_name", "cores", "threads", "torch", "python", "platform", "gansmith")
    old = dict.fromkeys(keys, "x")
    sessions = [old, {**old, "cuda": None, "commit": None}, {**old, "cuda": "13.0"}]
    (tmp_path / "environment.json").write_text(json.dumps(sessions))
    assert module._hardware([tmp_path]) == [old, {**old, "cuda": "13.0"}]


# ---- tables ----------------------------------------------------------------------------------------------------


def rows_of(*seconds: float | None) -> list[dict[str, Any]]:
    common = {"images": 64, "rounds": 1, "epochs": 0.5, "values": {"fd": math.nan}, "after_round": 0}
    common |= {"after_seconds": 0.0, "trained_seconds": 9, "wall_seconds": 9}
    return [
        {"seed": i, "reached": s is not None, "why_not": "" if s else "over", "seconds": s or 99.0, **common}
        for i, s in enumerate(seconds)
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((1.0, 2.0, 6.0), (3, 3, 3.0, pytest.approx(math.sqrt(7)), 2.0)),
        ((1.0, None, 3.0), (2, 3, 2.0, pytest.approx(math.sqrt(2)), 3.0)),  # who did not reach it is later than all
        ((1.0, None, None), (1, 3, 1.0, None, None)),
        ((None,), (0, 1, None, None, None)),
    ],
)
def test_seeds_that_did_not_reach_it_are_not_averaged_but_count_in_the_median(
    seconds: tuple[float | None, ...], expected: tuple[Any, ...]
) -> None:
    assert tuple(summarise(rows_of(*seconds)).values()) == expected


def test_the_table_says_who_did_not_reach_it() -> None:
    rows = rows_of(1.5, None)
    about = {"recipe": "gan", "changes": {}, "goals": ["fd<=60"], "every": 10, "weights": "raw"}
    measured = {"protocol": {"fd": {"n": 1}}, "hardware": [{"device": "cpu"}]}
    text = table({**about, **measured, "rows": rows, "summary": summarise(rows)}).markdown()
    assert "Reached with 1 of 2 seeds" in text and "seed 1: over" in text and "not reached" in text


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """command(*words): exit code, stdout and stderr of the script."""
    monkeypatch.setattr("gansmith.allocator.keep_freed_memory", lambda: True)  # this process goes on

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run


def test_the_command_prints_what_it_writes_and_ends_well_without_success(
    digits: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    words = ["gan", "--until", NEVER, "--seeds", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]
    words += [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
    words += ["--objective", "wasserstein", "--data", digits]  # of which training warns
    code, out, err = command(*words, "--json")
    assert code == 0 and "warning: objective.name is wasserstein" in err, err
    assert json.loads(out) == json.loads((tmp_path / "out" / "result.json").read_text())
    code, out, err = command(*words, "--quiet")
    assert code == 0 and "Not reached: seed 0" in out and "| seed |" not in out
    written = (tmp_path / "out" / "table.md").read_text()
    assert written.replace("|", " ").replace("-:", " ").replace("-", " ").split() == out.replace("-", " ").split()
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000


def test_what_cannot_be_measured_is_one_line(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    for words, said in (
        ("--until fd<=60", "--data.validation N"),
        ("--until fd<=60 --seed 3", "--seeds K"),
        ("--until fd<=60 --sed 3", "did you mean seed?"),
        ("", "--until 'fd<=60'"),
        ("--until fd<=60 --max-minutes 0", "more than 0"),
        ("--until fd<=60 --seeds 0", "at least 1"),
    ):
        code, out, err = command("gan", "--device", "cpu", "--out", str(tmp_path / "out"), *words.split())
        assert code == 2 and not out and said in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


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
