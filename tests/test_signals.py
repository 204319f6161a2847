"""Trainings as processes of their own: asked to stop, killed, doubled, and on a full disk."""

import json
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gansmith
from gansmith import checkpoint
from gansmith.exactness import compare

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")

Command = Callable[..., "subprocess.Popen[str]"]
WAIT = 60.0


DAWDLING = """
import time
from pathlib import Path

from gansmith.games.two_player import Simultaneous


class Dawdling(Simultaneous):
    def __init__(self, G, D, prior, objective, penalty, noise, *, pause: float = 0.005):
        super().__init__(G, D, prior, objective, penalty, noise)
        self.pause = pause

    def round(self, *batches):
        Path("reached").touch()
        time.sleep(self.pause)
        return super().round(*batches)
"""


@pytest.fixture
def options(small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A training that would take hours, slow enough that the same at one go takes a moment."""
    (tmp_path / "dawdling.py").write_text(DAWDLING, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "dawdling", raising=False)
    monkeypatch.chdir(tmp_path)
    more = {"log_interval": 5, "sample_interval": 1_000_000, "checkpoint.interval": 25, "ema.halflife_kimg": 0.1}
    return small("gan", game="dawdling:Dawdling", **more)


@pytest.fixture
def start(
    command: Command, words: Callable[[dict[str, Any]], list[str]], options: dict[str, Any], pictures: Path
) -> Iterator[Command]:
    """start(run) begins or resumes a long training there; whatever still runs at the end of the test is killed."""
    started = []

    def go(run: Path, *more: object, new: bool = True, **popen: Any) -> "subprocess.Popen[str]":
        own = {"game.name" if key == "game" else key: value for key, value in options.items()}
        what = ["gan", "--data", pictures, "--out", run, *words(own)] if new else [run]
        steps = [] if "--steps" in more else ["--steps", 10_000_000]
        started.append(command("train", *what, *steps, "--device", "cpu", *more, **popen))
        return started[-1]

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
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
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return len(lines)


def saved(run: Path) -> int:
    found = checkpoint.everything(run / "checkpoints")
    return int(found[0].name) if found else -1


def assert_ends_like_an_uninterrupted_run(run: Path, tmp_path: Path, pictures: Path, options: dict[str, Any]) -> None:
    """Resume the run for some more rounds, train the same at one go, and compare every bit."""
    end = saved(run) + 20
    gansmith.train(run, steps=end, device="cpu", quiet=True)
    options = {**options, "game": "simultaneous"}
    once = gansmith.train(
        "gan", data=pictures, out=tmp_path / "once", steps=end, device="cpu", overrides=options, quiet=True
    )
    found = compare(once / "checkpoints" / f"{end:08d}", run / "checkpoints" / f"{end:08d}")
    assert found.exact, found.different
    rows = []
    for folder in (once, run):
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows.append([{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines])
    assert rows[0] == rows[1]


# ---- asked to stop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_training_after_the_round(
    signum: signal.Signals, code: int, start: Command, pictures: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(run)
    wait_for(process, lambda: logged(run) >= 7)
    process.send_signal(signum)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == code
    assert err.splitlines()[-1] == f"stopped by {signum.name} and saved; go on with: gansmith train {run}"
    assert "Traceback" not in err
    newest = checkpoint.newest_good(run / "checkpoints", pytest.fail)
    assert checkpoint.read(newest)[0]["round"] == int(newest.name) >= 35
    assert not list((run / "checkpoints").glob(".*"))
    assert (run / "growth.gif").exists() and (run / "curves.png").exists()
    assert_ends_like_an_uninterrupted_run(run, tmp_path, pictures, options)


def test_the_resume_command_that_is_printed_works(start: Command, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    process = start(run)
    wait_for(process, lambda: logged(run) >= 1)
    process.terminate()
    _, err = process.communicate(timeout=WAIT)
    match = re.search(r"go on with: gansmith (.+)$", err.strip())
    assert match
    again = command(*shlex.split(match[1]), "--steps", saved(run) + 3, "--quiet")
    out, err = again.communicate(timeout=WAIT)
    assert (again.returncode, out, err) == (0, "", "")


def test_a_second_interrupt_ends_at_once(start: Command, options: dict[str, Any], tmp_path: Path) -> None:
    """While the first one waits for the end of a long round."""
    options["game.pause"] = 60
    process = start(tmp_path / "run")
    wait_for(process, (tmp_path / "reached").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err and err.splitlines()[-1] == "gansmith: error: interrupted"


# ---- killed ----------------------------------------------------------------------------------------------------


def test_killed_again_and_again_it_ends_like_an_uninterrupted_run(
    start: Command, pictures: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """With a checkpoint after every round nearly every kill falls into the writing of one."""
    options |= {"checkpoint.interval": 1, "game": "simultaneous"}
    run, chance = tmp_path / "run", random.Random(1)
    rounds = []
    for attempt in range(3):
        process = start(run, new=attempt == 0)
        before = saved(run)
        wait_for(process, lambda before=before: saved(run) > before + 5)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        rounds.append(saved(run))
        checkpoint.newest_good(run / "checkpoints", pytest.fail)
    assert rounds == sorted(set(rounds))
    assert_ends_like_an_uninterrupted_run(run, tmp_path, pictures, options)
    assert not list((run / "checkpoints").glob(".*"))


# ---- two at once -----------------------------------------------------------------------------------------------


def test_a_second_training_in_the_same_folder_is_refused(
    start: Command, pictures: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = start(run)
    wait_for(first, lambda: saved(run) > 0)
    for second in (start(run, new=False), start(run)):
        out, err = second.communicate(timeout=WAIT)
        assert second.returncode == 2 and "Traceback" not in err
        [line] = err.splitlines()
        assert line.startswith("gansmith: error: ") and str(run) in line, line
    count = logged(run)
    wait_for(first, lambda: logged(run) > count)
    first.terminate()
    first.communicate(timeout=WAIT)
    assert first.returncode == 143
    assert len(json.loads((run / "environment.json").read_text(encoding="utf-8"))) == 1
    assert_ends_like_an_uninterrupted_run(run, tmp_path, pictures, options)


def test_two_that_start_at_once_into_one_new_folder(start: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = [start(run, "--steps", 60), start(run, "--steps", 60)]
    ends = [(process.communicate(timeout=WAIT)[1], process.returncode) for process in both]
    assert sorted(code for _, code in ends) == [0, 2]
    assert not any("Traceback" in err for err, _ in ends)
    assert saved(run) == 60 and logged(run) == 12


# ---- a full disk -----------------------------------------------------------------------------------------------


def limited() -> None:
    """No file may grow beyond this: larger than a log, smaller than a checkpoint of the large network."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_no_room_for_a_checkpoint_is_one_line_and_the_earlier_one_stays(
    start: Command, options: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options["networks.D.widths"] = [300]  # about a megabyte with Adam's moments
    first = start(run, "--steps", 10)
    _, err = first.communicate(timeout=WAIT)
    assert first.returncode == 0, err
    second = start(run, "--steps", 20, new=False, preexec_fn=limited)
    out, err = second.communicate(timeout=WAIT)
    assert second.returncode not in (0, None) and second.returncode > 0
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("gansmith: error: ") and "File too large" in err.splitlines()[-1]
    assert checkpoint.newest_good(run / "checkpoints", pytest.fail).name == "00000010"
    assert not list((run / "checkpoints").glob(".*"))
    third = start(run, "--steps", 20, "--quiet", new=False)
    assert third.communicate(timeout=WAIT) == ("", "") and third.returncode == 0
