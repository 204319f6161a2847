"""Trainings that end early: asked to stop, killed, doubled, and where something around them fails."""

import contextlib
import json
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gansmith
from gansmith import checkpoint
from gansmith.cli import main
from gansmith.exactness import compare
from gansmith.games.two_player import Simultaneous
from gansmith.run.record import Record

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")]

Command = Callable[..., "subprocess.Popen[str]"]
WAIT = 60.0

# Slow enough that the same without a pause takes a moment; a round begun while there is a file `slow` takes a second.
DAWDLING = """
import time
from dataclasses import dataclass
from pathlib import Path

from gansmith.games.two_player import Simultaneous


@dataclass
class Dawdling(Simultaneous):
    def round(self, *batches):
        slow = Path("slow").exists()
        Path("slow" if slow else "quick").with_suffix(".reached").touch()
        time.sleep(1 if slow else 0.005)
        return super().round(*batches)
"""


@pytest.fixture
def options(small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "dawdling.py").write_text(DAWDLING, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "dawdling", raising=False)
    monkeypatch.chdir(tmp_path)
    more = {"log_interval": 5, "sample_interval": 1_000_000, "checkpoint.interval": 25, "ema.halflife_kimg": 0.1}
    return small("gan", **more)


@pytest.fixture
def start(
    command: Command, words: Callable[[dict[str, Any]], list[str]], options: dict[str, Any], pictures: Path
) -> Iterator[Command]:
    """start(run) begins or resumes a long training there; whatever still runs at the end of the test is killed."""
    started = []

    def go(run: Path, *, new: bool = True, **popen: Any) -> "subprocess.Popen[str]":
        keys = {**options, "game.name": "dawdling:Dawdling"}
        what = ["gan", "--data", pictures, "--out", run, *words(keys)] if new else [run]
        started.append(command("train", *what, "--steps", 10_000_000, "--device", "cpu", **popen))
        return started[-1]

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        with contextlib.suppress(ValueError):  # its pipes are closed
            process.communicate()


def wait_for(process: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT
    while not reached():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"the training did not get there (exit code {process.returncode}):\n{out}\n{err}")
        time.sleep(0.01)


def logged(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def saved(run: Path) -> list[int]:
    return [int(path.name) for path in checkpoint.everything(run / "checkpoints")]


@pytest.fixture
def train(options: dict[str, Any], pictures: Path, tmp_path: Path) -> Callable[..., Path]:
    """train("run", steps=9): in this process, without a pause."""

    def go(name: str, steps: int, **more: Any) -> Path:
        known = {"data": pictures, "device": "cpu", "quiet": True, "overrides": options}
        return gansmith.train("gan", out=tmp_path / name, steps=steps, **{**known, **more})

    return go


@pytest.fixture
def ends_well(train: Callable[..., Path]) -> Callable[[Path], None]:
    """Resume a run for some more rounds, train the same without a stop, and compare every bit."""

    def go(run: Path) -> None:
        end = saved(run)[0] + 20
        gansmith.train(run, steps=end, device="cpu", quiet=True)
        once = train("once", end)
        found = compare(once / "checkpoints" / f"{end:08d}", run / "checkpoints" / f"{end:08d}")
        assert found.exact, found.different
        rows = []
        for one in (once, run):
            lines = (one / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            rows.append([{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines])
        assert rows[0] == rows[1] and not list((run / "checkpoints").glob(".*"))

    return go


# ---- processes -------------------------------------------------------------------------------------------------


def test_ctrl_c_is_answered_at_once_and_saves_and_a_second_one_soon_after_is_the_same(
    start: Command, ends_well: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"
    process = start(run)
    wait_for(process, lambda: logged(run) >= 7)
    with pytest.raises(gansmith.UserError, match="another training writes to .*a run; wait for it"):
        gansmith.train(run, steps=10, device="cpu", quiet=True)  # two at once
    (tmp_path / "slow").touch()
    wait_for(process, (tmp_path / "slow.reached").exists)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    lines = iter(process.stderr.readline, "")  # type: ignore[union-attr]
    assert any(line == "stopping after this round, saving\n" for line in lines)
    assert time.monotonic() - began < 0.9 and process.poll() is None  # the round takes a second
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 130 and "Traceback" not in err
    said = re.fullmatch(r"stopped by SIGINT and saved; go on with: gansmith (.+)", err.splitlines()[-1])
    assert said and (run / "growth.gif").exists()
    assert saved(run)[0] >= 35 and len(json.loads((run / "environment.json").read_text(encoding="utf-8"))) == 1
    (tmp_path / "slow").unlink()
    with pytest.raises(SystemExit) as end:  # the command that was printed goes on
        main.main(args=[*shlex.split(said[1]), "--steps", str(saved(run)[0] + 1), "--quiet", "--device", "cpu"])
    assert end.value.code == 0 and capsys.readouterr() == ("", "")
    ends_well(run)


def test_killed_again_and_again_it_ends_like_an_uninterrupted_run(
    start: Command, ends_well: Callable[[Path], None], options: dict[str, Any], tmp_path: Path
) -> None:
    """With a checkpoint after every round nearly every kill falls into the writing of one."""
    options["checkpoint.interval"] = 1
    run, chance = tmp_path / "run", random.Random(1)
    for attempt in range(2):
        process = start(run, new=attempt == 0)
        before = max(saved(run), default=-1)
        wait_for(process, lambda before=before: max(saved(run), default=-1) > before + 5)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        checkpoint.newest_good(run / "checkpoints", pytest.fail)
    ends_well(run)


def test_a_reader_who_goes_loses_nothing(start: Command, ends_well: Callable[[Path], None], tmp_path: Path) -> None:
    """As in `gansmith train gan 2>&1 | head -1`: the first line after that fails, in a round."""
    (tmp_path / "slow").touch()
    process = start(tmp_path / "run")
    assert process.stderr is not None
    assert any(line.startswith("run folder: ") for line in iter(process.stderr.readline, ""))
    process.stderr.close()
    assert process.wait(WAIT) == 1
    assert saved(tmp_path / "run") == [1, 0]
    (tmp_path / "slow").unlink()
    ends_well(tmp_path / "run")


# ---- signals in this process -----------------------------------------------------------------------------------


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """during(3, act): do something while round 3 is played."""

    def arrange(at: int, act: Callable[[], None]) -> None:
        real, played = Simultaneous.round, 0

        def round(self: Simultaneous, *batches: Any) -> Any:
            nonlocal played
            played += 1
            if played == at:
                act()
            return real(self, *batches)

        monkeypatch.setattr(Simultaneous, "round", round)

    return arrange


@pytest.mark.parametrize(("signum", "said"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGTERM")])
def test_a_signal_ends_the_training_after_the_round(
    signum: str, said: str, train: Callable[..., Path], during: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    during(3, lambda: signal.raise_signal(getattr(signal, signum)))
    with pytest.raises(gansmith.Stopped, match=f"stopped by {said}") as caught:
        train("run", 9, quiet=False)
    assert caught.value.run == tmp_path / "run" and caught.value.signum == getattr(signal, said)
    assert "stopping after this round, saving" in capfd.readouterr().err
    assert saved(tmp_path / "run") == [3, 0]  # the round was played to its end
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored_as_under_nohup(train: Callable[..., Path], during: Any) -> None:
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGHUP, signal.SIGINT)}
    try:
        during(3, lambda: [signal.raise_signal(s) for s in before])
        assert saved(train("run", 5)) == [5, 0]
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@pytest.mark.parametrize(("later", "ends"), [(0.9, gansmith.Stopped), (1.1, KeyboardInterrupt)])
def test_a_second_ctrl_c_ends_at_once_if_it_comes_more_than_a_second_later(
    later: float, ends: type[BaseException], train: Callable[..., Path], during: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = []

    def act() -> None:
        signal.raise_signal(signal.SIGINT)
        now = time.monotonic()
        monkeypatch.setattr("gansmith.training.time.monotonic", lambda: now + later)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.undo()
        reached.append("the rest of the round")

    during(3, act)
    with pytest.raises(KeyboardInterrupt) as caught:
        train("run", 9)
    assert type(caught.value) is ends and bool(reached) is (ends is gansmith.Stopped)


def test_it_trains_from_a_thread(train: Callable[..., Path]) -> None:
    """As in a notebook's server: there signals cannot be taken, and are left as they are."""
    before = signal.getsignal(signal.SIGINT)
    done: list[Path] = []
    thread = threading.Thread(target=lambda: done.append(train("thread", 5)))
    thread.start()
    thread.join(WAIT)
    found = compare(*(run / "checkpoints" / "00000005" for run in (done[0], train("here", 5))))
    assert found.exact and signal.getsignal(signal.SIGINT) is before


# ---- what fails around a training ------------------------------------------------------------------------------


def test_a_failure_after_the_first_round_saves_one_checkpoint(
    train: Callable[..., Path], ends_well: Callable[[Path], None], options: dict[str, Any], tmp_path: Path
) -> None:
    """A samples folder that cannot be written, in the middle of a training; the run goes on from there."""
    options["sample_interval"] = 5
    run = tmp_path / "run"

    def spoil(record: Record) -> bool:
        if record.experiment.state.round == 3:
            shutil.rmtree(run / "samples")
            (run / "samples").touch()
        return False

    with pytest.raises(OSError):
        train("run", 9, enough=spoil)
    assert saved(run) == [5, 0]
    (run / "samples").unlink()
    ends_well(run)


def test_no_room_for_a_checkpoint_is_one_line_and_the_earlier_one_stays(
    train: Callable[..., Path], options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """No file may grow beyond what is larger than a log and smaller than a checkpoint."""
    options["networks.D.widths"] = [300]  # about a megabyte with Adam's moments
    run = train("run", 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(SystemExit) as end:
            main.main(args=["train", str(run), "--steps", "20", "--quiet", "--device", "cpu"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    [line] = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("gansmith: error: ") and "File too large" in line
    assert saved(run) == [10, 0] and not list((run / "checkpoints").glob(".*"))
    gansmith.train(run, steps=20, device="cpu", quiet=True)
    assert saved(run)[0] == 20
