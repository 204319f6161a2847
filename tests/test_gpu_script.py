"""`benchmarks/gpu.py` without a card: its parts on the CPU, and what becomes of items that fail, hang or die."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import gansmith

SCRIPTS = Path(__file__).parents[1] / "benchmarks"
SOURCE = str(Path(gansmith.__file__).parents[1])
BAD = """
import os, subprocess, sys, time
sys.path.insert(0, os.environ["SCRIPTS"])
import gpu

def measure(item, setting):
    if item == "raises":
        raise RuntimeError("CUDA error: an illegal memory access\\nFor debugging consider ...")
    if item == "hangs":
        print(subprocess.Popen(["sleep", "600"]).pid, file=open("pid", "w"))
    if item in ("hangs", "takes long"):
        time.sleep(600)
    if item == "dies":
        print("Fatal: no kernel image")
        os.abort()
    return {"seconds": 1.5}

gpu.answers = lambda device: False  # after an error, as on a card
gpu.PARTS.clear()
items = ["raises", "hangs", "dies", "works"]
gpu.PARTS["bad"] = gpu.Part("About the bad.", 60, 4, lambda tiny: items, measure)
gpu.PARTS["slow"] = gpu.Part("About the slow.", 2, 60, lambda tiny: ["takes long", "comes after"], measure)
gpu.PARTS["unknown"] = gpu.Part("About the unknown.", 2, 60, lambda tiny: 1 / 0, measure)
gpu.PARTS["good"] = gpu.Part("About the good.", 60, 30, lambda tiny: ["works"], measure)
gpu.main()
"""


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": SOURCE, "SCRIPTS": str(SCRIPTS)}
    return subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
@pytest.mark.slow
def test_what_fails_hangs_or_dies_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    done = run("bad.py", "--device", "cpu", "--out", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())["parts"]
    rows = {name: {row.pop("item"): row for row in part["rows"]} for name, part in found.items()}
    over = {"error": "the part's 2 s were over"}
    assert rows == {
        "bad": {
            "raises": {"error": "RuntimeError: CUDA error: an illegal memory access"},
            "hangs": {"error": "no result within 4 s"},
            "dies": {"error": "the process ended with SIGABRT: Fatal: no kernel image"},
            "works": {"seconds": 1.5},
        },
        "slow": {"takes long": over, "comes after": over},
        "unknown": {"the list of items": {"error": "ZeroDivisionError: division by zero"}},
        "good": {"works": {"seconds": 1.5}},
    }
    assert "Traceback" in (tmp_path / "out" / "bad.log").read_text() and found["slow"]["seconds"] < 20
    assert not alive(int((tmp_path / "pid").read_text()))
    table = (tmp_path / "out" / "table.md").read_text()
    assert "## bad\n\nAbout the bad. " in table and "4 items, 3 failed." in table and "no result within 4 s" in table
    assert done.stdout.strip() == table.strip()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("gpu")


def test_all_limits_together_are_eight_minutes_at_most(gpu: Any) -> None:
    assert sum(part.seconds for part in gpu.PARTS.values()) <= 480
    assert all(part.each <= part.seconds for part in gpu.PARTS.values())


def test_every_recipe_is_tried_and_every_game_verified_on_data_that_ship(gpu: Any) -> None:
    from gansmith.data.load import KNOWN
    from gansmith.games import GAMES
    from gansmith.recipe import plan, recipe_names

    assert gpu.PARTS["dry"].items(False) == gpu.PARTS["rounds"].items(False) == recipe_names()
    assert {item.split()[0] for item in gpu.PARTS["verify"].items(False)} == {*GAMES}
    ours = gpu.Setting("cuda", tiny=False)
    for name in recipe_names():
        recipe = plan(name, flags=ours.flags(name)).recipe
        ships = recipe.data.name.startswith("mnist") or recipe.data.name in ("ring", "grid", "normal_1d")
        assert (ships and recipe.data.name in KNOWN) or len([*Path(recipe.data.name).iterdir()]) == 48
        assert recipe.networks.get("F") is None or recipe.networks["F"].name == "digit_features"


@pytest.mark.parametrize("part", ["card", "dry", "verify", "rounds", "bench", "switches", "batch"])
@pytest.mark.slow
@pytest.mark.large
def test_a_part_measures_each_of_its_items(part: str, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = gpu.PARTS[part]
    setting, items = gpu.Setting("cpu", tiny=True), one.items(True)
    rows = [
        {"item": item, **one.measure(item, setting)} for item in (items[:1] if part in ("dry", "rounds") else items)
    ]
    json.dumps(rows)
    assert not [row for row in rows if "error" in row]
    shown = gpu.page(part, one, {"seconds": 1.0, "rows": rows})
    assert shown.startswith(f"## {part}\n\n{one.about} 1 s; {len(rows)} items, 0 failed.\n\n| item ")
    expected = {
        "card": "float32 product",
        "dry": "seconds",
        "verify": "63 tensors",
        "rounds": "ms a round",
        "bench": "| losses ",
        "switches": "which only CUDA has",
        "batch": "pays up to",
    }
    assert expected[part] in shown


def test_epochs_are_compared_with_the_post_s_here_and_on_two_cores(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import epoch  # type: ignore[import-not-found]  # beside gpu.py

    seconds = {"the post's script": 10.0, "gansmith train gan": 0.5, "matrix products alone": 0.1}
    fakes = {name: lambda device, steps, name=name: seconds[name] for name in seconds}
    monkeypatch.setattr(epoch, "CASES", fakes)
    part, setting = gpu.PARTS["epoch"], gpu.Setting("cuda", tiny=False)
    rows = [{"item": item, **part.measure(item, setting)} for item in part.items(False)]
    assert len(rows) == 6 and {row["rounds"] for row in rows} == {938}
    lines = part.below([*rows, {"item": "gansmith train gan, 3", "error": "no result"}])
    assert "gansmith train gan: 0.500 s an epoch, 50.5 times" in lines[1] and lines[1].endswith(
        "20.00 times the post's script here"
    )


def test_a_batch_no_longer_pays_without_memory_or_more_images_a_second(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib
    from types import SimpleNamespace

    from gansmith.errors import OutOfMemory

    def tried(speeds: dict[int, float]) -> Any:
        @contextlib.contextmanager
        def bench(recipe: str, setting: Any, batch_size: int) -> Any:
            if batch_size not in speeds:
                raise OutOfMemory("no")
            stream, game = SimpleNamespace(sets=[range(60000)]), SimpleNamespace(batches_per_round=1)
            play = lambda rounds: rounds * batch_size / speeds[batch_size]  # noqa: E731
            yield SimpleNamespace(play=play, period=1, experiment=SimpleNamespace(stream=stream, game=game))

        monkeypatch.setattr(gpu, "bench", bench)
        row = gpu.largest_batch("gan", gpu.Setting("cuda", tiny=False))
        return row["pays up to"], row["ends because"]

    assert tried({64: 100.0, 128: 190.0, 256: 300.0, 512: 310.0}) == (256, "512 brings less than 5 % more")
    assert tried({64: 100.0, 128: 190.0}) == (128, "there is no memory for 256")
    assert tried({}) == (None, "there is no memory for 64")


@pytest.mark.slow  # every part in processes of its own
@pytest.mark.large
def test_the_whole_script_runs_without_a_card(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(SCRIPTS / "gpu.py", "--device", "cpu", "--tiny", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    parts = json.loads((tmp_path / "out" / "results.json").read_text())["parts"]
    assert [*parts] == ["card", "dry", "verify", "epoch", "rounds", "bench", "switches", "batch"]
    assert all(part["rows"] for part in parts.values()) and time.monotonic() - began < 4 * 480
