"""The scripts under benchmarks/: they run as the docs say, and what they print fits together. No speed is asserted."""

import json
import os
import platform
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gansmith
from gansmith.build import Experiment, build
from gansmith.recipe import plan, to_yaml

SCRIPTS = Path(__file__).parents[1] / "benchmarks"
NUMBER = r"([\d,]+(?:\.\d+)?)"


def ran(name: str, *words: object) -> list[str]:
    """The lines that `python benchmarks/NAME.py ...` prints."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(Path(gansmith.__file__).parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class Printed:
    """A printed number: what was rounded lies within half a unit of the last place."""

    def __init__(self, text: str) -> None:
        plain = text.replace(",", "").removesuffix("%")
        half = 0.5 * 10.0 ** -len(plain.partition(".")[2])
        scale = 0.01 if text.endswith("%") else 1.0
        self.low, self.high = scale * (float(plain) - half), scale * (float(plain) + half)

    def is_ratio(self, one: "Printed", other: "Printed", factor: float = 1.0) -> bool:
        """Whether this may be factor * one / other."""
        assert other.low > 0, "too small to see with so few digits"
        return factor * one.low / other.high <= self.high and self.low <= factor * one.high / other.low


@pytest.mark.parametrize(("ratio", "fits"), [("1.99", False), ("2.00", True), ("2.03", True), ("2.06", False)])
def test_a_ratio_fits_its_times_as_far_as_they_were_rounded(ratio: str, fits: bool) -> None:
    assert Printed(ratio).is_ratio(Printed("2.02"), Printed("1.00")) is fits


def test_epoch_prints_times_of_the_post_that_fit_its_seconds() -> None:
    head, *rows, on = ran("epoch", "--repeats", 1, "--steps", 10, "--device", "cpu")
    assert "seconds for 10 rounds" in head and "times the post" in head
    found = {}
    for row in rows:
        line = re.fullmatch(rf"(.+?) +{NUMBER} +\({NUMBER} to {NUMBER}\) +{NUMBER}", row)
        assert line is not None, row
        name, seconds, low, high, ratio = line.groups()
        assert seconds == low == high  # of one repeat
        found[name] = Printed(seconds), Printed(ratio)
    assert list(found) == ["the post's script", "gansmith train gan", "matrix products alone"]
    post, _ = found["the post's script"]
    for name, (seconds, ratio) in found.items():
        assert ratio.is_ratio(post, seconds), name
    assert re.match(r"on device cpu, device_name .+, cores \d+, threads \d+, torch \d", on)
    assert "driver" not in on and "cuda" not in on


def test_epoch_waits_for_the_device_that_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    normal, waited = torch.randn, []
    monkeypatch.setattr(torch, "randn", lambda *shape, device: normal(*shape))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    runpy.run_path(str(SCRIPTS / "epoch.py"))["floor"]("cuda:1", 1)
    assert waited == [torch.device("cuda:1")] * 2


def test_the_post_s_script_takes_as_many_batches_as_it_is_told(tmp_path: Path) -> None:
    *lines, last = ran("post_loop", "--steps", 2, "--out", tmp_path / "post.png")
    assert [line.split("  D ")[0] for line in lines] == [f"epoch 1/1  batch {i}/938" for i in (1, 2)]
    assert re.fullmatch(rf"{NUMBER} seconds from the first batch to the last", last)
    assert (tmp_path / "post.png").is_file()


def test_sampling_prints_ratios_that_fit_its_speeds() -> None:
    *rows, start = ran("sampling", "--n", 1024, "--repeats", 1, "--starts", 1)
    found = {}
    for row in rows:
        line = re.fullmatch(rf"(.+?) +{NUMBER} images/s +{NUMBER} of the time of Sampler.pixels", row)
        assert line is not None, row
        found[line[1]] = Printed(line[2]), Printed(line[3])
    assert list(found) == ["Sampler.pixels", "products, 64 rows", "products, 1024 rows"]
    ours, _ = found["Sampler.pixels"]
    for name, (speed, ratio) in found.items():
        assert ratio.is_ratio(ours, speed), name
    line = re.fullmatch(rf"gansmith train gan --steps 1: {NUMBER} s \({NUMBER} to {NUMBER}\)", start)
    assert line is not None and line[1] == line[2] == line[3]


@pytest.mark.slow  # four trainings, each a process of its own
@pytest.mark.skipif(sys.platform == "win32", reason="GOMP_SPINCOUNT is of GNU OpenMP")
def test_spin_prints_each_setting_alone_and_beside_other_work() -> None:
    found = []
    for row in ran("spin", "--repeats", 1, "--steps", 5, "--busy", 1):
        line = re.fullmatch(
            rf"(\d+) other processes  GOMP_SPINCOUNT=(\w+) +{NUMBER} images/s  \({NUMBER} to {NUMBER}\)", row
        )
        assert line is not None, row
        assert line[3] == line[4] == line[5] and Printed(line[3]).low > 0
        found.append((line[1], line[2]))
    assert found == [("0", "default"), ("0", "10000"), ("1", "default"), ("1", "10000")]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_allocator_prints_speeds_and_page_faults_of_both() -> None:
    given, kept = ran("allocator", "--repeats", 1, "--rounds", 12, "--recipe", "gan")
    for name, row in (("as glibc does", given), ("freed memory kept", kept)):
        pattern = (
            rf"gan +{name} +{NUMBER} images/s  \({NUMBER} to {NUMBER}\) +{NUMBER} times"
            rf" +{NUMBER} page faults a round +{NUMBER} MB at most"
        )
        line = re.fullmatch(pattern, row)
        assert line is not None, row
        assert line[1] == line[2] == line[3]
    assert Printed(kept.split(" times")[0].split()[-1]).is_ratio(
        Printed(kept.split(" images/s")[0].split()[-1]), Printed(given.split(" images/s")[0].split()[-1])
    )


@pytest.mark.slow  # six cases, two of them with two processes
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo is for Linux and macOS")
def test_scaling_prints_efficiency_and_shares_that_fit_its_speeds_and_times() -> None:
    first, head, *rows = ran("scaling", "--repeats", 1, "--rounds", 2, "--device", "cpu")
    assert first == "gan on cpu, median of 1 (range)" and "efficiency" in head
    pattern = (
        rf"(weak|strong) +(\d) +(\d) +{NUMBER} +\({NUMBER} to {NUMBER}\) +{NUMBER} +{NUMBER} +(-|{NUMBER}) +(-|[\d.]+%)"
    )
    lines = [re.fullmatch(pattern, row) for row in rows]
    cases, alone = [], {}
    for row, line in zip(rows, lines, strict=True):
        assert line is not None, row
        kind, ranks, threads, speed, low, high, efficiency, round_ms, reduce_ms, _, share = line.groups()
        cases.append((kind, ranks, threads))
        assert speed == low == high
        if (ranks, threads) == ("1", "1"):
            alone[kind] = Printed(speed)
        assert Printed(efficiency).is_ratio(Printed(speed), alone[kind], 1 / int(ranks)), row
        images = 64 * int(ranks) if kind == "weak" else 64
        assert Printed(speed).is_ratio(Printed("1000.0000"), Printed(round_ms), images), row
        assert (
            (reduce_ms == share == "-")
            if ranks == "1"
            else Printed(share).is_ratio(Printed(reduce_ms), Printed(round_ms))
        )
    assert cases == [(kind, *case) for kind in ("weak", "strong") for case in (("1", "1"), ("1", "2"), ("2", "1"))]


def test_scaling_times_the_rounds_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Experiment] = []
    settings: list[tuple[torch.dtype, bool]] = []

    def noted(*args: Any, **options: Any) -> Experiment:
        experiment = build(*args, **options)
        experiment.generator.net.register_forward_hook(
            lambda net, z, images: settings.append((images.dtype, torch.backends.cudnn.deterministic))
        )
        made.append(experiment)
        return experiment

    monkeypatch.setattr("gansmith.build.build", noted)
    keys = {"engine.precision": "bfloat16", "ema.halflife_kimg": 1, "networks.G.widths": [16], "networks.D.widths": [8]}
    recipe = tmp_path / "small.yaml"
    schedule = [{"name": "exponential", "of": "lr", "factor": 2.0}]
    recipe.write_text(to_yaml(plan("gan", flags={**keys, "schedules": schedule}).recipe, "small"))
    runpy.run_path(str(SCRIPTS / "scaling.py"))["worker"](str(recipe), "strong", 2, "cpu")
    assert set(json.loads(capsys.readouterr().out)) == {"images_per_second", "round_ms", "reduce_ms"}
    [experiment] = made
    assert settings == [(torch.bfloat16, True)] * 7 and experiment.state.images == 7 * 64
    assert experiment.generator.optimizer.param_groups[0]["lr"] < 2e-4
    assert experiment.generator.ema is not None
    for mean, weight in zip(experiment.generator.ema.parameters(), experiment.generator.net.parameters(), strict=True):
        assert not torch.equal(mean, weight)


# ---- wrong arguments -------------------------------------------------------------------------------------------

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("epoch", "--repeats 0", "--repeats is 0; it must be at least 1"),
        ("epoch", "--steps -3", "--steps is -3; it must be at least 1"),
        ("epoch", "--repeats few", "argument --repeats: invalid int value: 'few'"),
        ("epoch", "gan", "unrecognized arguments: gan"),
        ("epoch", "--device tpu", "--device is 'tpu'; it must be auto, cpu, cuda"),
        pytest.param("epoch", "--device cuda", "--device cuda: PyTorch finds none here", marks=no_cuda),
        ("post_loop", "--n_epochs 0", "--n_epochs is 0; it must be at least 1"),
        ("post_loop", "--steps 0", "--steps is 0; it must be at least 1"),
        pytest.param("post_loop", "--device cuda", "--device cuda: PyTorch finds none here", marks=no_cuda),
        ("sampling", "--n 1000", "--n is 1000; it must be at least 1024"),
        ("sampling", "--repeats 0", "--repeats is 0; it must be at least 1"),
        ("sampling", "--starts 0", "--starts is 0; it must be at least 1"),
        ("allocator", "--rounds 11", "--rounds is 11; it must be at least 12"),
        ("allocator", "--recipe gna", "there is no recipe 'gna'; did you mean gan?"),
        ("scaling", "--rounds 0", "--rounds is 0; it must be at least 1"),
        ("scaling", "--recipe gna", "there is no recipe 'gna'; did you mean gan?"),
        pytest.param("scaling", "--device cuda", "--device cuda: PyTorch finds none here", marks=no_cuda),
        ("spin", "--repeats 0", "--repeats is 0; it must be at least 1"),
        ("spin", "--busy 0", "--busy is 0; it must be at least 1"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    name: str, words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words.split()])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out
    [line] = err.splitlines()
    assert line.startswith(f"{name}.py: error: {said}"), line
