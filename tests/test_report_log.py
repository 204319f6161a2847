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

from gansmith.errors import UserError
from gansmith.report.log import Meters, RunLog, read_metrics


class _Fetches(TorchDispatchMode):
    """Counts the operations that copy a value to the host and so wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_means_are_those_of_numpy_in_float64() -> None:
    values = torch.randn(1000) * 1e3 + 1e6
    meters = Meters()
    for i, value in enumerate(values):
        meters.add({"loss/D": value, "loss/G": -value} if i % 2 else {"loss/D": value})
    means = meters.flush()
    assert list(means) == ["loss/D", "loss/G"]
    assert means["loss/D"] == pytest.approx(values.double().numpy().mean(), rel=1e-14)
    assert means["loss/G"] == pytest.approx(-values[1::2].double().numpy().mean(), rel=1e-14)


def test_flush_empties() -> None:
    meters = Meters()
    assert meters.flush() == {}
    meters.add({"a": torch.tensor(3.0)})
    assert meters.flush() == {"a": 3.0}
    assert meters.flush() == {}
    meters.add({"b": torch.tensor(5)})
    assert meters.flush() == {"b": 5.0}


def test_nothing_is_fetched_before_flush_and_then_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    meters, fetches, lists = Meters(), _Fetches(), []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: lists.append(self.shape) or tolist(self))
    values = torch.randn(20)
    with fetches:
        for value in values:
            meters.add({"a": value, "b": value * 2, "c": value * 3})
        state = meters.state_dict()
        other = Meters()
        other.load_state_dict(state)
        assert fetches.count == 0 and lists == []
    meters.flush()
    assert lists == [(3,)]


def test_adding_works_on_a_device_that_has_no_values() -> None:
    meters = Meters()
    for _ in range(3):
        meters.add({"a": torch.zeros((), device="meta")})  # a fetch would raise here
    assert meters.state_dict()["sums"]["a"].dtype == torch.float64


def test_a_graph_is_not_kept_and_only_single_numbers_are_taken() -> None:
    meters = Meters()
    meters.add({"a": torch.tensor(1.0, requires_grad=True) * 2})
    assert not meters.state_dict()["sums"]["a"].requires_grad
    with pytest.raises(ValueError, match=r"loss/D.*\(1,\)"):
        meters.add({"loss/D": torch.zeros(1)})


def test_resumed_meters_give_bit_for_bit_the_same_means() -> None:
    values = torch.rand(101)
    through = Meters()
    before = Meters()
    for value in values[:60]:
        through.add({"a": value})
        before.add({"a": value})
    state = before.state_dict()
    before.add({"a": torch.tensor(99.0)})  # what comes later does not change a state taken before
    resumed = Meters()
    resumed.load_state_dict(state)
    for value in values[60:]:
        through.add({"a": value})
        resumed.add({"a": value})
    assert resumed.flush() == through.flush()
    assert state["count"] == {"a": 60}
    with pytest.raises(ValueError, match="counts"):
        resumed.load_state_dict({"count": {"a": 1}, "sums": {}})


def _log(run: Path, rounds: range, **options: Any) -> None:
    log = RunLog(run, tensorboard=False, **options)
    for k in rounds:
        log.write({"round": k, "images": 64 * k, "loss/D": k / 7})
    log.close()


def _rounds(run: Path) -> list[int]:
    return [row["round"] for row in read_metrics(run / "metrics.jsonl")]


def test_plain_numbers_are_metrics_too() -> None:
    meters = Meters()
    for value in (1.5, 2, torch.tensor(4.0)):
        meters.add({"game/k": value})
    assert meters.flush() == {"game/k": 2.5}


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", tensorboard=False)
    log.write({"round": 1, "loss/D": 0.1, "note": "ß", "grad/G": math.nan, "a": math.inf, "b": -math.inf})
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")  # before close: a row is flushed at once
    log.close()
    log.close()
    assert rows == [{"round": 1, "loss/D": 0.1, "note": "ß", "grad/G": "nan", "a": "inf", "b": "-inf"}]
    assert math.isnan(float(rows[0]["grad/G"])) and float(rows[0]["b"]) == -math.inf


def test_numpy_floats_are_numbers_too(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.write({"round": 1, "a": np.float64(0.5), "b": np.float64("nan")})
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"round": 1, "a": 0.5, "b": "nan"}]


def test_a_row_without_round_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    with pytest.raises(KeyError, match="round"):
        log.write({"loss/D": 1.0})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("tail", ["", '{"round": 11, "lo', '{"round": 11}', "\0\0\0\0", "17", "\xff"])
def test_a_resume_forgets_later_rows_and_a_damaged_last_line(tmp_path: Path, tail: str) -> None:
    _log(tmp_path, range(1, 11))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(tail.encode("latin-1"))
    _log(tmp_path, range(7, 11), at_round=6)
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_last_row_that_lacks_only_its_line_end_is_kept_whole(tmp_path: Path) -> None:
    _log(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert _rounds(tmp_path) == [1, 2, 3]
    _log(tmp_path, range(4, 6), at_round=3)
    assert _rounds(tmp_path) == [1, 2, 3, 4, 5]


def test_reading_skips_a_half_last_line_but_names_damage_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\n{"round": 2}\n{"rou')
    assert _rounds(tmp_path) == [1, 2]
    path.write_text('{"round": 1}\n{"rou\n{"round": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)
    with pytest.raises(UserError, match=r"line 2"):
        RunLog(tmp_path, at_round=1, tensorboard=False)
    with pytest.raises(UserError, match="nowhere"):
        read_metrics(tmp_path / "nowhere.jsonl")


def _events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
    return events


def test_tensorboard_shows_the_numbers_at_their_rounds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = RunLog(tmp_path)
    assert log.tensorboard
    for k in (100, 200, 300):
        log.write({"round": k, "images": 64 * k, "loss/D": k / 8, "time": "noon"})
    log.close()
    events = _events(tmp_path)
    assert set(events.Tags()["scalars"]) == {"images", "loss/D"}
    assert [(e.step, e.value) for e in events.Scalars("loss/D")] == [(100, 12.5), (200, 25.0), (300, 37.5)]


def test_tensorboard_forgets_later_rounds_on_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for start, at_round, value in ((1, 0, 1.0), (7, 6, 2.0)):
        log = RunLog(tmp_path, at_round=at_round)
        for k in range(start, 11):
            log.write({"round": k, "loss/D": value})
        log.close()
    seen = {(e.step, e.value) for e in _events(tmp_path).Scalars("loss/D")}
    assert seen == {(k, 1.0 if k <= 6 else 2.0) for k in range(1, 11)}


def test_without_tensorboard_the_rows_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gansmith.report.log.find_spec", lambda name: None)
    log = RunLog(tmp_path)
    log.write({"round": 1})
    log.close()
    assert not log.tensorboard and not (tmp_path / "tensorboard").exists()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"round": 1}
    with pytest.raises(UserError, match="pip install"):
        RunLog(tmp_path, tensorboard=True)
