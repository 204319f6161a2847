"""Meters and logs: means are exact, nothing waits for the device, and a resume leaves one history."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gansmith
from gansmith.errors import UserError
from gansmith.run.log import Meters, RunLog, read_metrics


class Fetches(TorchDispatchMode):
    """Counts the operations that copy a value to the host and so wait for the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


# ---- meters ----------------------------------------------------------------------------------------------------


def test_means_are_those_of_numpy_in_float64_and_flush_empties() -> None:
    values = torch.randn(1000) * 1e3 + 1e6
    meters = Meters()
    assert meters.flush() == {}
    for i, value in enumerate(values):
        meters.add({"loss/D": value, "loss/G": -value} if i % 2 else {"loss/D": value})
    means = meters.flush()
    assert list(means) == ["loss/D", "loss/G"] and meters.flush() == {}
    assert means["loss/D"] == pytest.approx(values.double().numpy().mean(), rel=1e-14)
    assert means["loss/G"] == pytest.approx(-values[1::2].double().numpy().mean(), rel=1e-14)
    for number in (1.5, 2, torch.tensor(4)):  # plain numbers are metrics too
        meters.add({"game/k": number})
    assert meters.flush() == {"game/k": 2.5}


def test_nothing_is_fetched_before_flush_and_then_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    meters, fetches, lists = Meters(), Fetches(), []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: lists.append(self.shape) or tolist(self))
    with fetches:
        for value in torch.randn(20):
            meters.add({"a": value, "b": value * 2, "c": value * 3})
        Meters().load_state_dict(meters.state_dict())
        assert fetches.count == 0 and lists == []
    meters.flush()
    assert lists == [(3,)]
    meters.add({"a": torch.zeros((), device="meta")})  # a fetch would raise here
    assert meters.state_dict()["sums"]["a"].dtype == torch.float64


def test_resumed_meters_give_bit_for_bit_the_same_means() -> None:
    values = torch.rand(101)
    through, before, resumed = Meters(), Meters(), Meters()
    for value in values[:60]:
        through.add({"a": value})
        before.add({"a": value})
    state = before.state_dict()
    before.add({"a": torch.tensor(99.0)})  # what comes later does not change a state taken before
    resumed.load_state_dict(state)
    for value in values[60:]:
        through.add({"a": value})
        resumed.add({"a": value})
    assert resumed.flush() == through.flush() and state["count"] == {"a": 60}
    meters = Meters()
    meters.add({"a": torch.tensor(1.0, requires_grad=True) * 2})
    assert not meters.state_dict()["sums"]["a"].requires_grad
    with pytest.raises(ValueError, match=r"loss/D.*\(1,\)"):
        meters.add({"loss/D": torch.zeros(1)})


# ---- the log ---------------------------------------------------------------------------------------------------


def log_rounds(run: Path, rounds: range, **options: Any) -> None:
    log = RunLog(run, tensorboard=False, **options)
    for k in rounds:
        log.write({"round": k, "images": 64 * k, "loss/D": k / 7})
    log.close()
    log.close()


def rounds_in(run: Path) -> list[int]:
    return [row["round"] for row in read_metrics(run / "metrics.jsonl")]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", tensorboard=False)
    odd = {"note": "ß", "grad/G": math.nan, "a": math.inf, "b": -math.inf, "c": np.float64(0.5), "d": np.float64("nan")}
    log.write({"round": 1, "loss/D": 0.1, **odd})
    with pytest.raises(KeyError, match="round"):
        log.write({"loss/D": 1.0})
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")  # before close: a row is flushed at once
    log.close()
    [row] = rows
    assert row == {
        **{"round": 1, "loss/D": 0.1, "note": "ß", "grad/G": "nan", "a": "inf", "b": "-inf", "c": 0.5, "d": "nan"}
    }


@pytest.mark.parametrize("tail", ["", '{"round": 11, "lo', '{"round": 11}', "\0\0\0\0", "17", "\xff"])
def test_a_resume_forgets_later_rows_and_a_damaged_last_line(tmp_path: Path, tail: str) -> None:
    log_rounds(tmp_path, range(1, 11))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + tail.encode("latin-1"))
    log_rounds(tmp_path, range(7, 11), at_round=6)
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_scores_of_the_checkpoints_round_stay_and_a_row_that_lacks_only_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"round": 4, "loss/D": 1},
        {"round": 5, "eval/fd": 2},
        {"round": 5, "loss/D": 1},
        {"round": 6, "eval/fd": 1},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert read_metrics(path) == rows
    RunLog(tmp_path, at_round=4, scores_until=5, tensorboard=False).close()
    assert read_metrics(path) == rows[:2]
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    log_rounds(tmp_path, range(6, 8), at_round=5)
    assert rounds_in(tmp_path) == [4, 5, 6, 7]


def test_reading_skips_a_half_last_line_but_names_damage_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\n{"round": 2}\n{"rou')
    assert rounds_in(tmp_path) == [1, 2]
    path.write_text('{"round": 1}\n{"rou\n{"round": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)
    with pytest.raises(UserError, match=r"line 2"):
        RunLog(tmp_path, at_round=1, tensorboard=False)
    with pytest.raises(UserError, match="nowhere"):
        read_metrics(tmp_path / "nowhere.jsonl")


def test_tensorboard_shows_the_numbers_at_their_rounds_and_forgets_later_ones_on_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, at_round, value in ((1, 0, 1.0), (7, 6, 2.0)):
        log = RunLog(tmp_path, at_round=at_round)
        assert log.tensorboard
        for k in range(start, 11):
            log.write({"round": k, "loss/D": value, "time": "noon"})
        log.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
    assert events.Tags()["scalars"] == ["loss/D"]
    seen = {(e.step, e.value) for e in events.Scalars("loss/D")}
    assert seen == {(k, 1.0 if k <= 6 else 2.0) for k in range(1, 11)}


def test_without_tensorboard_the_rows_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gansmith.run.log.find_spec", lambda name: None)
    log = RunLog(tmp_path)
    log.write({"round": 1})
    log.close()
    assert not log.tensorboard and not (tmp_path / "tensorboard").exists() and rounds_in(tmp_path) == [1]


def test_the_history_of_a_run_is_columns(tmp_path: Path) -> None:
    rows = ['{"round": 1, "loss/D": 0.5}', '{"round": 2, "loss/D": "inf", "eval/fd": 3}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    found = gansmith.history(tmp_path)
    assert found["round"] == [1, 2] and found["loss/D"] == [0.5, math.inf]
    assert math.isnan(found["eval/fd"][0]) and found["eval/fd"][1] == 3
