"""The scripts under benchmarks/: they run as the docs say, and what they print fits together. No speed is asserted.

What they start as processes of their own runs in this one, where torch is imported already; two ranks do not.
"""

import importlib
import io
import json
import multiprocessing
import os
import platform
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gansmith.build import Experiment, build
from gansmith.cli import main
from gansmith.recipe import plan, to_yaml

SCRIPTS = Path(__file__).parents[1] / "benchmarks"
Ran = Callable[..., list[str]]


really = subprocess.run


def here(command: Sequence[str], **options: Any) -> Any:
    """What subprocess.run gives for `python SCRIPT ...`, `python -m gansmith ...` and `python -c CODE ...`."""
    python, what, *words = command
    if python != sys.executable:
        return really(command, **options)
    with redirect_stdout(io.StringIO()) as out, pytest.MonkeyPatch.context() as patch:
        if what == "-m":
            assert words[0] == "gansmith" and CliRunner().invoke(main, words[1:]).exit_code == 0
        elif what == "-c":
            patch.setattr(sys, "argv", ["-c", *words[1:]])
            exec(words[0], {})
        else:
            patch.setattr(sys, "argv", [what, *words])
            runpy.run_path(what, run_name="__main__")
    return subprocess.CompletedProcess(command, 0, out.getvalue(), "")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """ran(NAME, *words): the lines that `python benchmarks/NAME.py ...` prints."""
    monkeypatch.setattr(subprocess, "run", here)
    monkeypatch.setattr("gansmith.cli.keep_freed_memory", lambda: True)
    monkeypatch.setattr("gansmith.allocator.keep_freed_memory", lambda: True)  # this process goes on
    return lambda name, *words: here(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, words)]
    ).stdout.splitlines()


def matched(pattern: str, lines: Sequence[str]) -> list[list[Any]]:
    """The groups of every line, numbers as such, which must all match; # stands for a number."""
    found = [re.fullmatch(pattern.replace("#", r"([\d,]+(?:\.\d+)?)"), line) for line in lines]
    assert all(found), lines
    number = re.compile(r"\d[\d,.]*")
    return [[float(x.replace(",", "")) if number.fullmatch(x) else x for x in line.groups()] for line in found if line]


about = partial(pytest.approx, rel=0.1, abs=0.006)
"""Numbers that were rounded for print."""


@pytest.mark.slow
def test_epoch_prints_times_of_the_post_that_fit_its_seconds(ran: Ran) -> None:
    head, *rows, on = ran("epoch", "--repeats", 1, "--steps", 5, "--device", "cpu")
    assert "seconds for 5 rounds" in head and "times the post" in head
    found = matched(r"(.+?) +# +\(# to #\) +#", rows)
    assert [name for name, *_ in found] == ["the post's script", "gansmith train gan", "matrix products alone"]
    for _, seconds, low, high, ratio in found:
        assert seconds == low == high and ratio == about(found[0][1] / seconds)
    assert re.match(r"on device cpu, device_name .+, cores \d+, threads \d+, torch \d", on)
    assert "driver" not in on and "cuda" not in on


def test_epoch_waits_for_the_device_that_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    normal, waited = torch.randn, []
    monkeypatch.setattr(torch, "randn", lambda *shape, device: normal(*shape))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    runpy.run_path(str(SCRIPTS / "epoch.py"))["floor"]("cuda:1", 1)
    assert waited == [torch.device("cuda:1")] * 2


def test_the_post_s_script_takes_as_many_batches_as_it_is_asked_for(ran: Ran, tmp_path: Path) -> None:
    *lines, last = ran("post_loop", "--steps", 2, "--out", tmp_path / "post.png")
    assert [line.split("  D ")[0] for line in lines] == [f"epoch 1/1  batch {i}/938" for i in (1, 2)]
    assert matched(r"# seconds from the first batch to the last", [last]) and (tmp_path / "post.png").is_file()


def test_sampling_prints_ratios_that_fit_its_speeds(ran: Ran) -> None:
    *rows, start = ran("sampling", "--n", 1024, "--repeats", 1, "--starts", 1)
    found = matched(r"(.+?) +# images/s +# of the time of Sampler.pixels", rows)
    assert [name for name, *_ in found] == ["Sampler.pixels", "products, 64 rows", "products, 1024 rows"]
    assert all(ratio == about(found[0][1] / speed) for _, speed, ratio in found)
    assert len(set(*matched(r"gansmith train gan --steps 1: # s \(# to #\)", [start]))) == 1


@pytest.mark.slow
def test_modes_makes_a_table_and_trains_nothing_twice(ran: Ran, tmp_path: Path) -> None:
    words = ["--data", "ring", "--objectives", "hinge", "wasserstein", "--seeds", 2, "--steps", 2]
    lines = ran("modes", *words, "--out", tmp_path / "modes.jsonl")
    trained = (tmp_path / "modes.jsonl").read_bytes()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["hinge", "wasserstein + wgan_gp"]
    cell = r"[\d.]+ ± [\d.]+"
    assert all(re.fullmatch(rf"\| ring \| .+ \| {cell} \| {cell} \| {cell} \|", line) for line in lines[2:])
    assert ran("modes", *words, "--out", tmp_path / "modes.jsonl") == lines
    assert len(trained.splitlines()) == 4 and (tmp_path / "modes.jsonl").read_bytes() == trained


@pytest.mark.slow
def test_spin_prints_each_setting_alone_and_beside_other_work(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    others = SimpleNamespace(start=lambda: None, terminate=lambda: None)
    monkeypatch.setattr(multiprocessing, "Process", lambda **_: others)
    lines = ran("spin", "--repeats", 1, "--steps", 2, "--busy", 1)
    found = matched(r"(\d+) other processes  GOMP_SPINCOUNT=(\w+) +# images/s  \(# to #\)", lines)
    assert [(busy, spin) for busy, spin, *_ in found] == [(b, s) for b in (0, 1) for s in ("default", 10000)]


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_allocator_prints_speeds_and_page_faults_of_both(ran: Ran) -> None:
    lines = ran("allocator", "--repeats", 1, "--rounds", 12, "--recipe", "gan")
    found = matched(r"gan +(.+?) +# images/s  \(# to #\) +# times +# page faults a round +# MB at most", lines)
    assert [name for name, *_ in found] == ["as glibc does", "freed memory kept"]
    assert all(ratio == about(speed / found[0][1]) for _, speed, _, _, ratio, *_ in found)


@pytest.mark.slow
def test_dcgan_prints_ratios_that_fit_its_times(ran: Ran) -> None:
    head, *rows, flags, on = ran("dcgan", "--repeats", 1, "--rounds", 1, "--device", "cpu")
    assert "ms a round" in head and "times the script" in head and "--img_size 32" in flags and "threads 1" in on
    found = matched(r"(.+?) +# +\(# to #\) +# +\(# to #\)", rows)
    assert [name for name, *_ in found] == [
        "the script's loop",
        "gansmith train dcgan",
        "... --engine.channels_last true",
    ]
    for _, ms, low, high, ratio, least, most in found:
        assert ms == low == high and ratio == least == most == about(found[0][1] / ms)


@pytest.mark.slow
@pytest.mark.large
def test_the_script_s_dcgan_moves_as_gansmith_s(tmp_path: Path) -> None:
    """What `benchmarks/dcgan.py` compares is one update: the same weights and draws, without dropout, in float64."""
    script = SimpleNamespace(**runpy.run_path(str(SCRIPTS / "dcgan.py")))
    keys = {"networks.D.dropout": 0.0, "optimizers.G.eps": 1e-6, "optimizers.D.eps": 1e-6, "batch_size": 8}
    torch.set_default_dtype(torch.float64)
    try:
        made = build(plan("dcgan", flags={**script.FLAGS, **keys}).recipe, torch.device("cpu"), say=lambda text: None)
        nets = script.networks(dropout=0.0)
    finally:
        torch.set_default_dtype(torch.float32)
    ours = [[m for m in player.net.modules() if hasattr(m, "weight")] for player in made.game.players]
    theirs = [[m for m in net.modules() if hasattr(m, "weight")] for net in nets]
    with torch.no_grad():
        for one, other in zip(sum(ours, []), sum(theirs, []), strict=True):
            other.weight.copy_(one.weight)
            other.bias.copy_(one.bias) if one.bias is not None else other.bias.zero_()
    made.stream.dtype = torch.float64
    draws = torch.Generator()
    draws.set_state(made.state.noise.get_state())

    def batches() -> Any:
        for _ in range(3):
            batch = next(made.stream)
            made.game.round(batch)
            yield batch["x"], torch.randn(8, 100, generator=draws, dtype=torch.float64)

    assert len([*script.loop(*nets, batches(), eps=1e-6)]) == 3
    for one, other in zip(sum(ours, []), sum(theirs, []), strict=True):
        assert (one.weight - other.weight).abs().max() < 1e-10


@pytest.mark.slow
def test_translators_prints_ratios_that_fit_its_times(ran: Ran) -> None:
    head, *rows, on = ran("translators", "--only", "pix2pix", "--repeats", 1, "--rounds", 1, "--device", "cpu")
    assert "ms a round" in head and "times the script" in head and "threads 1" in on
    found = matched(r"(.+?) +# +\(# to #\) +# +\(# to #\)", rows)
    assert [name for name, *_ in found] == ["pix2pix: the script's loop", "pix2pix: gansmith train"]
    for _, ms, low, high, ratio, least, most in found:
        assert ms == low == high and ratio == least == most == about(found[0][1] / ms)


@pytest.mark.slow
@pytest.mark.large
def test_the_script_s_cyclegan_moves_as_gansmith_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `benchmarks/translators.py` compares is one update, without pools, in float64."""
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    script = importlib.import_module("translators")
    script.save_noise(tmp_path)
    keys = {"game.pool": 0, "data.name": str(tmp_path / "domains"), "schedules": []}
    keys |= {f"optimizers.{name}.eps": 1e-6 for name in ("AB", "BA", "DA", "DB")}
    torch.set_default_dtype(torch.float64)
    try:
        recipe = plan("cyclegan", flags={**script.FLAGS["cyclegan"], **keys}).recipe
        made = build(recipe, torch.device("cpu"), say=lambda text: None)
        nets = script.networks("cyclegan")
    finally:
        torch.set_default_dtype(torch.float32)
    made.stream.dtype = torch.float64
    players = {player.name: player.net for player in made.game.players}
    for name, net in nets.items():
        for one, other in zip(net.parameters(), players[name].parameters(), strict=True):
            one.data.copy_(other.data)

    def batches() -> Any:
        for _ in range(2):
            batch = next(made.stream)
            made.game.round(batch)
            yield batch["a"], batch["b"]

    assert len([*script.cyclegan(nets, batches(), pool=0, eps=1e-6)]) == 2
    for name, net in nets.items():
        for one, other in zip(net.parameters(), players[name].parameters(), strict=True):
            assert (one - other).abs().max() < 1e-10, name


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small one, that computes otherwise and sets its rates."""
    keys = {"engine.precision": "bfloat16", "ema.halflife_kimg": 1, "networks.G.widths": [16], "networks.D.widths": [8]}
    keys |= {"schedules": [{"name": "exponential", "of": "lr", "factor": 2.0}]}
    (tmp_path / "small.yaml").write_text(to_yaml(plan("gan", flags=keys).recipe, "small"))
    return tmp_path / "small.yaml"


def test_switches_prints_what_each_brings_or_why_it_cannot_be(ran: Ran, recipe: Path) -> None:
    switches = ["channels_last", "precision", "penalties", "batch_size"]
    head, *rows, _, on = ran("switches", "--recipe", recipe, "--repeats", 1, "--device", "cpu", "--only", *switches)
    assert "times as fast" in head and "threads 1" in on
    convolutions, plain, tf32, half, twice = rows
    assert "no convolutions" in convolutions and "which only CUDA has" in tf32
    for row in (plain, half, twice):
        [(ratio, low, high)] = matched(r"--\S+ \S+ +# +# +# +[+-]\d.*", [row])
        assert ratio == low == high
    assert [row.split()[:2] for row in (half, twice)] == [["--batch_size", "32"], ["--batch_size", "128"]]


@pytest.mark.slow
def test_streams_times_a_training_on_shards_beside_from_memory(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(130):
        Image.new("L", (8, 8), i).save(tmp_path / "pictures" / f"{i}.png")
    keys = {"data.name": str(tmp_path / "pictures"), "img_size": 8, "networks.G.widths": [16], "networks.D.widths": [8]}
    (tmp_path / "small.yaml").write_text(to_yaml(plan("gan", flags=keys).recipe, "small"))
    head, *rows, on = ran("streams", "--repeats", 1, "--train", tmp_path / "small.yaml")
    assert "small.yaml, on" in head and "rounds, 2 workers" in on
    found = matched(r"(.+?) +# +\(# to #\) +# +\(# to #\)", rows)
    assert [name for name, *_ in found] == ["from memory", "shards, kept", "shards, decoded on every pass"]
    for _, speed, low, high, share, *ends in found:
        assert speed == low == high and [share, *ends] == [about(speed / found[0][1])] * 3


def test_scaling_times_the_rounds_of_a_training(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Experiment] = []
    settings: list[tuple[torch.dtype, bool]] = []

    def noted(*args: Any, **options: Any) -> Experiment:
        made.append(build(*args, **options))
        made[0].game.players[0].net.register_forward_hook(
            lambda net, z, images: settings.append((images.dtype, torch.backends.cudnn.deterministic))
        )
        return made[0]

    monkeypatch.setattr("gansmith.build.build", noted)
    runpy.run_path(str(SCRIPTS / "scaling.py"))["worker"](str(recipe), "strong", 2, "cpu")
    assert set(json.loads(capsys.readouterr().out)) == {"images_per_second", "round_ms", "reduce_ms"}
    [experiment] = made
    assert settings == [(torch.bfloat16, True)] * 7 and experiment.state.images == 7 * 64
    G = experiment.game.players[0]
    assert G.optimizer.param_groups[0]["lr"] < 2e-4 and G.ema is not None
    assert not any(map(torch.equal, G.ema.parameters(), G.net.parameters()))


@pytest.mark.slow  # six cases, two of them with two processes
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo is for Linux and macOS")
@pytest.mark.large
def test_scaling_prints_efficiency_and_shares_that_fit_its_speeds_and_times() -> None:
    words = ["--repeats", "1", "--rounds", "2", "--device", "cpu"]
    command, env = [sys.executable, str(SCRIPTS / "scaling.py"), *words], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    first, head, *rows = done.stdout.splitlines()
    assert first == "gan on cpu, median of 1 (range)" and "efficiency" in head
    found = matched(r"(weak|strong) +(\d) +(\d) +# +\(# to #\) +# +# +(-|[\d.]+) +(-|[\d.]+%)", rows)
    cases = [(kind, ranks, threads) for kind, ranks, threads, *_ in found]
    assert cases == [(kind, *case) for kind in ("weak", "strong") for case in ((1, 1), (1, 2), (2, 1))]
    alone = {kind: speed for kind, ranks, threads, speed, *_ in found if ranks == threads == 1}
    for kind, ranks, _, speed, _, _, efficiency, round_ms, reduce_ms, share in found:
        assert efficiency == about(speed / alone[kind] / ranks)
        assert speed == about(1000 * 64 * (ranks if kind == "weak" else 1) / round_ms)
        assert reduce_ms == share == "-" if ranks == 1 else float(share[:-1]) / 100 == about(reduce_ms / round_ms)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("epoch", "--repeats 0", "--repeats is 0; it must be at least 1"),
        ("zoo", "--next --only gna", "--only gna: the recipes are fast_mnist, "),
        ("zoo", "", "say --next or --page"),
        ("epoch", "--device tpu", "--device is 'tpu'; it must be auto, cpu, cuda"),
        ("dcgan", "--rounds 0", "--rounds is 0; it must be at least 1"),
        ("translators", "--rounds 0", "--rounds is 0; it must be at least 1"),
        ("translators", "--only unet", "--only unet: the recipes are pix2pix, cyclegan"),
        ("post_loop", "--steps 0", "--steps is 0; it must be at least 1"),
        ("sampling", "--n 1000", "--n is 1000; it must be at least 1024"),
        ("allocator", "--rounds 11", "--rounds is 11; it must be at least 12"),
        ("allocator", "--recipe gna", "there is no recipe 'gna'; did you mean gan?"),
        ("scaling", "--recipe gna", "there is no recipe 'gna'; did you mean gan?"),
        ("spin", "--busy 0", "--busy is 0; it must be at least 1"),
        ("gpu", "--parts card,dri", "--parts dri: the parts are card, dry, "),
        ("streams", "--n 10", "--n is 10; it must be at least 1000"),
        ("switches", "--only comple", "--only comple: the switches are precision"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    name: str, words: str, said: str, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        ran(name, *words.split())
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out
    assert err.startswith(f"{name}.py: error: {said}") and err.count("\n") == 1


@pytest.mark.slow
def test_the_zoo_trains_one_item_a_call_and_writes_its_page(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = runpy.run_path(str(SCRIPTS / "zoo.py"))["main"].__globals__
    item, flags = zoo["Item"], small("gan", img_size=28)
    zoo["ITEMS"].clear()
    zoo["ITEMS"]["gan"] = item(2, metrics=("fd",), flags={**flags, "n_cpu": 2})
    monkeypatch.setitem(zoo, "SAMPLES", 100)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "zoo.md").write_text("# The zoo\n\n## Points on a ring\n\nkept\n")

    def run(*words: str) -> list[str]:
        places = ["--seeds", "1", "--docs", str(tmp_path), "--runs", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["zoo.py", *words, *places])
        with redirect_stdout(io.StringIO()) as out:
            zoo["main"]()
        return out.getvalue().splitlines()

    assert run("--next") == ["gan, seed 0; 0 more after it"]
    assert run("--next") == ["nothing is missing"]
    (line,) = map(json.loads, (tmp_path / "zoo" / "results.jsonl").read_text().splitlines())
    assert (line["recipe"], line["seed"], line["rounds"], line["threads"]) == ("gan", 0, 2, 1)
    assert line["scores"].keys() == line["after one round"].keys() == {"fd_mnist_100"}
    run("--page")
    page = (tmp_path / "zoo.md").read_text()
    assert "| [gan](#gan) | 1 | 2 |" in page and page.endswith("## Points on a ring\n\nkept\n")
    for name in re.findall(r"!\[\w+\]\((.+?)\)", page):
        assert (tmp_path / name).stat().st_size > 100
    assert (tmp_path / "pictures" / "zoo.png").stat().st_size > 100
