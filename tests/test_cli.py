"""The command line: what each verb does, and that everything wrong is one line that says what would be right."""

import contextlib
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import gansmith
from gansmith import checkpoint
from gansmith import cli as cli_module
from gansmith.cli import OPTIONS, main
from gansmith.exactness import compare
from gansmith.recipe import plan, recipe_names, recipe_text

Gansmith = Callable[..., tuple[int, str, str]]
GAN = {"img_size": 16, "batch_size": 8, "networks.G.widths": [16, 16], "networks.D.widths": [16]}
CPU = ("--device", "cpu")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gansmith:
    """cli("train", "gan") in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("GANSMITH_TRUST", "0")  # which --trust sets

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main.main(args=[str(arg) for arg in args], prog_name="gansmith")
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def refused(cli: Gansmith) -> Callable[..., str]:
    """refused(*args): the one line of the error."""

    def run(*args: object) -> str:
        code, out, err = cli(*args)
        assert code == 2 and out == "", (code, out, err)
        [line] = err.splitlines()
        assert line.startswith("gansmith: error: ")
        return line.removeprefix("gansmith: error: ")

    return run


@pytest.fixture
def tiny(small: Callable[..., dict[str, Any]], words: Callable[..., list[str]], pictures: Path) -> list[str]:
    return ["--data", str(pictures), *CPU, *words(small("gan"))]


def train(name: str, data: Path, out: Path, steps: int, **keys: Any) -> Path:
    return gansmith.train(name, data=data, out=out / "run", steps=steps, device="cpu", quiet=True, **keys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    keys = {**GAN, "ema.halflife_kimg": 0.1, "checkpoint.interval": 3}
    return train("gan", pictures, tmp_path_factory.mktemp("trained"), 6, overrides=keys)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    keys = {"img_size": 16, "batch_size": 8, "networks.G.width": 2, "networks.D.width": 2}
    return train("infogan", pictures, tmp_path_factory.mktemp("codes"), 1, overrides=keys)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A cgan of three classes."""
    folder = tmp_path_factory.mktemp("labelled")
    for i, path in enumerate(sorted(pictures.iterdir())):
        target = folder / "pictures" / ("cat", "dog", "owl")[i % 3] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    keys = {"img_size": 16, "batch_size": 8, "data.values": "unit"}
    keys |= {"networks.G": {"name": "cgan_generator", "widths": [6, 12, 12]}}
    keys |= {"networks.D": {"name": "cgan_discriminator", "units": [6, 4, 6], "pieces": [2, 2, 2]}}
    return train("cgan", folder / "pictures", folder, 3, overrides=keys)


def at(run: Path | str, round: int) -> Path:
    return Path(run) / "checkpoints" / f"{round:08d}"


def test_flags_that_a_run_cannot_take_are_refused(refused: Any, trained: Path) -> None:
    assert "views: a run keeps its recipe" in refused("train", trained, "--no-flip", "--steps", 20)
    words = ("evaluate", ".", "--data", trained, "--img_size", 64)
    assert "whose pictures have a size and channels" in refused(*words)


# ---- train -----------------------------------------------------------------------------------------------------


def test_train_names_the_pictures_and_the_next_command_and_goes_on_by_the_folder(cli: Gansmith, tiny: Any) -> None:
    code, out, err = cli("train", *tiny, "--steps", 2)
    run = Path("runs") / f"gan-{Path(tiny[1]).name}-001"
    assert code == 0, err
    assert f"look at:  {run / 'growth.gif'} and {run / 'curves.png'}" in out and (run / "growth.gif").is_file()
    assert f"gansmith sample {run}" in out and f"gansmith train {run} --steps 4" in out
    code, out, err = cli("train", run, "--steps", 4, *CPU)
    assert code == 0 and "from round 2 to round 4" in out + err
    assert cli("train", f"{run}/", "--n_epochs", 1, "--quiet", *CPU) == (0, "", "")
    assert at(run, 8).is_dir()


def test_the_command_line_and_python_train_the_same(
    cli: Gansmith, tiny: Any, small: Callable[..., dict[str, Any]], pictures: Path
) -> None:
    Path("own.yaml").write_text("seed: 9\nlr: 0.01\n", encoding="utf-8")
    assert cli("train", "own.yaml", *tiny, "--steps", 3, "--out", "a", "--quiet") == (0, "", "")
    recipe = plan(Path("a")).recipe
    assert recipe.seed == 9 and recipe.optimizers["D"].args["lr"] == 0.01 and recipe.steps == 3
    options = {"out": "b", "steps": 3, "seed": 9, "device": "cpu", "overrides": small("gan"), "quiet": True}
    gansmith.train("gan", data=pictures, lr=0.01, **options)
    assert compare(at("a", 3), at("b", 3)).exact


def test_words_may_stand_anywhere_and_have_three_forms(cli: Gansmith) -> None:
    forms = [
        ("train", "wgan_gp", "--game.n_critic", 3, "--dry-run"),
        ("train", "--game.n_critic=3", "wgan_gp", "--dry-run"),
        ("train", "--dry-run", "game.n_critic=3", "wgan_gp"),
    ]
    results = [cli(*form) for form in forms]
    assert results[0][0] == 0 and results[0] == results[1] == results[2]
    assert re.search(r"^game.n_critic +3 +# flag$", results[0][1], re.M)


def test_a_dry_run_prints_every_value_with_its_origin_and_makes_nothing(cli: Gansmith, tmp_path: Path) -> None:
    Path("own.yaml").write_text("batch_size: 32\nsteps: 9\n", encoding="utf-8")
    code, out, err = cli("train", "own.yaml", "--lr", "1e-3", "--n_epochs", 4, "--dry-run", "--out", "run")
    assert (code, err) == (0, "")
    *lines, g, d = out.splitlines()
    assert (g, d) == ("# G has 1,510,032 parameters", "# D has 533,505 parameters")
    rows = dict(re.match(r"(\S+) +.*# (.+)$", line).groups() for line in lines)
    assert rows["batch_size"] == "own.yaml" and rows["optimizers.G.lr"] == "flag" and rows["seed"] == "default"
    assert set(rows) == {key for key, _, _ in plan("gan").lines()}
    assert re.search(r"^steps +null ", out, re.M)  # the length that is typed counts
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]


def test_help_shows_the_posts_options_with_its_defaults(cli: Gansmith) -> None:
    code, out, _ = cli("train", "--help")
    assert code == 0 and cli() == cli("--help") and cli()[0] == 0
    defaults = {key: value for key, value, _ in plan("gan").lines()}
    places = {"lr": "optimizers.G.lr", "b1": "optimizers.G.b1", "b2": "optimizers.G.b2", "n_cpu": "data.n_cpu"}
    places |= {"latent_dim": "prior.dim", "img_size": "data.img_size", "channels": "data.channels"}
    for name, (_, text, shown) in OPTIONS.items():
        assert f"--{name} " in out and text.split()[0] in out
        assert shown == ("" if name in ("steps", "minutes") else str(defaults[places.get(name, name)])), name


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["tran"], ["tran"]),
        (["train", "--bach-size", "3"], ["bach_size", "did you mean batch_size?"]),
        (["train", "--lr"], ["--lr"]),
        (["train", "--outt"], ["--outt needs a value", "did you mean --out?"]),
        (["train", "-x"], ["there is no option -x"]),
        (["train", "gan", "-lr=0.1"], ["there is no option -lr=0.1; did you mean --lr=0.1?"]),
        (["train", "gan", "began"], ["gan and began", "one recipe"]),
        (["train", "--data", "mnits", "--steps", "1"], ["mnits", "mnist"]),
        (["train", "--data", "no/pictures", "--steps", "1"], ["no such folder", "no/pictures"]),
        (["train", "--device", "tpu", "--steps", "1"], ["--device", "tpu", "cpu"]),
        (["train", "--from", "nowhere", "--steps", "1"], ["start.run: ", "nowhere is not a run"]),
        (["sample"], ["RUN"]),
        (["translate", "nowhere"], ["PICTURE"]),
        (["translate", "nowhere", "x.png"], ["nowhere is not a run"]),
        (["interpolate", "nowhere", "--out", "x.mov"], ["x.mov", ".png", ".mp4"]),
        (["interpolate", "nowhere", "--frames", "1"], ["--frames"]),
        (["recipes", "show", "gna"], ["'gna'", "did you mean gan?"]),
        (["recipes", "cp", "gan", "x.txt"], ["x.txt", ".yaml"]),
        (["verify", "--steps", "0"], ["--steps"]),
        (["train", "acgan", "--img_size", "30", "--steps", "1"], ["multiples of 4"]),
        (["train", "--evaluation.best", "fd", "--steps", "1"], ["evaluation.every is 0", "--evaluation.best null"]),
        (["train", "ring", "--schedules.0.after", "40", "--steps", "1"], ["ends at 41", "a share, at most 1"]),
        (["train", "ring", "--schedules.0.unit", "rounds", "--schedules.0.over", "0.5", "--steps", "1"], ["whole"]),
        (["sample", "."], [". is not a run"]),
        (["shards", ".", "out", "--img_size", "4"], ["--img_size and --channels are for named sets"]),
        (["sample", "gan"], ["gan is a recipe, not a run: gansmith train gan makes one"]),
        (["train", "--out", "", "--steps", "1"], ["--out is empty; it needs a value"]),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_line(args: list[str], parts: list[str], refused: Any, tmp_path: Path) -> None:
    line = refused(*args)
    for part in parts:
        assert part in line, line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "says"), [(2e8, ""), (2e7, "warning: G 2 M, D 1 M parameters take 0 GB"), (1e7, "")])
def test_networks_too_large_for_the_memory(
    free: float, says: str, cli: Gansmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,043,537 parameters: 16 MB with their gradients, 49 MB with all of Adam."""
    monkeypatch.setattr("gansmith.engine.free_memory", lambda device: free)
    code, out, err = cli("train", "--dry-run", *CPU)
    assert says in err and (code, bool(out)) == ((2, False) if free == 1e7 else (0, True))
    assert ("free on this cpu" in err) is (free < 1e8)


def test_what_is_misspelt_is_suggested(refused: Any) -> None:
    Path("runs/gan-mnist-001").mkdir(parents=True)
    Path("runs/gan-mnist-001/recipe.yaml").write_text("seed: 0\n")
    assert refused("sample", "runs/gan-mnist-01").endswith("; did you mean runs/gan-mnist-001?")
    assert refused("train", "--data", "./rusn", "--steps", "1").endswith("; did you mean runs?")


@pytest.mark.parametrize("length", [("--steps", 1), ("--minutes", 0.01)])
def test_networks_that_do_not_fit_are_one_line_and_leave_nothing(
    length: tuple[object, ...], cli: Gansmith, tiny: Any, tmp_path: Path
) -> None:
    code, out, err = cli("train", *tiny[:4], "--networks.G", "mlp_discriminator", "--img_size", 8, "--quiet", *length)
    assert (code, out) == (2, "") and "do not fit this game: G Discriminator, D Discriminator (mat1" in err
    assert "Traceback" not in err and not [*tmp_path.rglob("recipe.yaml")]


def test_a_training_of_few_rounds_says_so(cli: Gansmith, tiny: Any) -> None:
    code, out, err = cli("train", *tiny, "--n_epochs", 1)
    assert code == 0 and "8 rounds are too few for pictures to show much: give --steps" in out + err


def test_a_card_that_is_not_there_is_one_line(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    said = refused("train", "--device", "cuda:2", "--steps", "1")
    assert said == "--device cuda:2: PyTorch finds 2 CUDA device(s) here, and the first is cuda:0"


def test_processes_that_cannot_find_each_other_are_one_line(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for address, port in (("", "29500"), ("localhost", "abc")):
        for name, value in {**numbers, "MASTER_ADDR": address, "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        assert f"MASTER_ADDR is {address!r} and MASTER_PORT {port!r}" in refused("train", *CPU, "--steps", "1")
    monkeypatch.setattr("torch.distributed.is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "gansmith.distributed", None)  # which such a PyTorch cannot import
    assert "this PyTorch is built without torch.distributed" in refused("train", *CPU, "--steps", "1")


def test_pictures_that_are_none_and_files_that_are_no_recipes_are_one_line(cli: Gansmith, refused: Any) -> None:
    Path("own").mkdir()
    assert "no pictures in" in refused("train", "--data", "own", "--steps", 1)
    Path("own/cat.png").write_text("meow", encoding="utf-8")
    code, _, err = cli("train", "--data", "own", "--steps", 1, *CPU, "--quiet")
    assert code == 2 and "cat.png" in err.splitlines()[-1] and "Traceback" not in err
    Path("own.yaml").write_text("lr: [1\n", encoding="utf-8")
    assert re.match(r"own.yaml: line 2, column 1 is not YAML", refused("train", "own.yaml"))
    Path("bare").write_text("lr: 1\n", encoding="utf-8")  # a bare name is that of a recipe
    assert "there is no recipe 'bare'" in refused("train", "bare")
    assert not Path("runs").exists()


def test_a_loss_that_is_not_finite_is_one_line_and_code_1(cli: Gansmith, tiny: list[str]) -> None:
    explosive = ["--optimizers.D", "sgd", "--optimizers.D.lr", "1e18"]
    code, _, err = cli("train", *tiny, "--steps", 300, "--quiet", "--out", "run", *explosive)
    assert code == 1
    [line] = err.splitlines()
    assert re.match(r"gansmith: error: training stopped in round \d+ .* is not finite; .*--lr", line)


def test_another_value_for_a_run_is_one_line(refused: Callable[..., str], trained: Path) -> None:
    assert "lr: a run keeps its recipe" in refused("train", trained, "--lr", 1, *CPU)
    assert "drop --out" in refused("train", trained, "--out", "x", *CPU)
    assert "is finished: 6 rounds" in refused("train", trained, "--quiet", *CPU)


def test_a_ctrl_c_that_a_library_swallows_while_it_starts_is_not_lost(
    cli: Gansmith, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cli_module.recipe_words
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a process of its own

    def swallowing(*args: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(cli_module, "recipe_words", swallowing)
    code, out, err = cli("train", *tiny, "--out", "run")
    assert (code, out, err.strip()) == (130, "", "gansmith: error: interrupted")
    monkeypatch.setattr(cli_module, "recipe_words", real)
    assert not Path("run").exists()
    assert cli("train", *tiny, "--steps", 1, "--quiet", "--out", "run")[0] == 0  # and forgotten by the next command
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


# ---- lengths in minutes, weights from a run --------------------------------------------------------------------


def test_minutes_become_steps_and_the_run_is_the_one_of_these_steps(cli: Gansmith, tiny: list[str]) -> None:
    code, out, err = cli("train", *tiny, "--minutes", 0.004, "--out", "run")
    assert code == 0, err
    [steps] = re.findall(r"--minutes 0.004: a round takes \S+ ms here, so the run has --steps ([\d,]+) \(", out)
    n = int(steps.replace(",", ""))
    recipe = plan(Path("run")).recipe
    assert recipe.steps == n and recipe.minutes is None and at("run", n).is_dir()
    assert cli("train", *tiny, "--steps", n, "--out", "same", "--quiet")[0] == 0
    found = compare(at("run", n), at("same", n))
    assert found.exact, found.different
    assert cli("train", "run", "--minutes", 0.001, "--quiet", *CPU)[0] == 0
    assert (plan(Path("run")).recipe.steps or 0) > n


def test_a_run_starts_from_the_weights_of_another(cli: Gansmith, refused: Any, trained: Path) -> None:
    source = checkpoint.read(at(trained, 6))[0]["players"]
    digest = checkpoint.verify(at(trained, 6))["sha256"][checkpoint.TENSORS][:12]
    again = ["train", trained / "recipe.yaml", "--from", trained, "--lr", 0.01, "--steps", 1, *CPU]
    for out, raw in (("averaged", []), ("plain", ["--raw"])):
        code, said, err = cli(*again, "--out", out, *raw)
        assert code == 0, err
        assert f"G starts from {'round' if raw else 'the moving average of round'} 6 of {trained}" in said
        start = plan(Path(out)).recipe.start
        assert (start.run, start.raw, start.digest) == (str(trained), bool(raw), digest)
        begun = checkpoint.read(at(out, 0))[0]["players"]
        for player, part in (("G", "net" if raw else "ema"), ("D", "net")):
            assert all(torch.equal(begun[player]["net"][k], w) for k, w in source[player][part].items())
            assert not begun[player]["optimizer"]["state"]
    assert plan(Path("plain")).recipe.optimizers["G"].args["lr"] == 0.01
    Path("averaged/recipe.yaml").write_text(
        Path("averaged/recipe.yaml").read_text(encoding="utf-8").replace(digest, "0123456789ab"), encoding="utf-8"
    )
    said = refused("train", "averaged/recipe.yaml", "--out", "new", "--quiet", *CPU)
    assert "start.digest is 0123456789ab" in said and digest in said and not Path("new").exists()


# ---- trust -----------------------------------------------------------------------------------------------------

MINE = """
from pathlib import Path
from torch import nn

Path("imported").touch()


class Linear(nn.Module):
    def __init__(self, shape, *, bias: bool = True):
        super().__init__()
        self.map = nn.Linear(shape[0] * shape[1] * shape[2], 1, bias)

    def forward(self, x):
        return self.map(x.flatten(1)).squeeze(1)
"""


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A module of one's own in the current folder, which notes that it was imported."""
    name = f"mine_{abs(hash(request.node.name))}"  # a process imports a name once
    (tmp_path / f"{name}.py").write_text(MINE, encoding="utf-8")
    return name


def test_what_is_typed_is_ones_own_wish_and_ones_own_run_goes_on(cli: Gansmith, tiny: Any, module: str) -> None:
    own = [word for pair in zip(tiny[::2], tiny[1::2], strict=True) if "D.widths" not in pair[0] for word in pair]
    flags = ["--networks.D", f"{module}:Linear", "--networks.D.bias", "false"]
    assert cli("train", *own, *flags, "--steps", 2, "--out", "run", "--quiet") == (0, "", "")
    assert list(checkpoint.read(at("run", 2))[0]["players"]["D"]["net"]) == ["map.weight"]
    assert cli("train", "run", "--steps", 3, "--quiet", *CPU) == (0, "", "")


def test_a_file_or_a_run_imports_nothing_unless_it_is_trusted(
    cli: Gansmith, refused: Any, tiny: Any, module: str, trained: Path
) -> None:
    keys = yaml.safe_load((trained / "recipe.yaml").read_text(encoding="utf-8"))
    keys["networks"]["D"] = {"name": f"{module}:Linear"}
    Path("stranger").mkdir()
    for path in ("own.yaml", "stranger/recipe.yaml"):
        Path(path).write_text(yaml.safe_dump(keys), encoding="utf-8")
    verbs: list[tuple[object, ...]] = [("train", "own.yaml"), ("train", "stranger"), ("train", "stranger", "--dry-run")]
    verbs += [(verb, "stranger") for verb in ("sample", "interpolate", "evaluate")]
    verbs += [("figure", "weights", "stranger"), ("translate", "stranger", "x.png"), ("verify", "own.yaml")]
    for verb in verbs:
        said = refused(*verb)
        assert f"networks.D.name is '{module}:Linear', which imports" in said and "--trust" in said, said
    assert not Path("imported").exists()
    code, _, err = cli("train", "own.yaml", "--trust", "--steps", 1, "--out", "run", "--quiet", *CPU)
    assert (code, err) == (0, "") and Path("imported").exists()


def test_nothing_is_imported_from_inside_a_run(refused: Any, tiny: Any, tmp_path: Path) -> None:
    Path("stranger/checkpoints").mkdir(parents=True)
    for name, text in (("recipe.yaml", "{}"), ("environment.json", "[]")):
        Path("stranger", name).write_text(text, encoding="utf-8")
    Path("stranger/evil.py").write_text(MINE, encoding="utf-8")
    said = refused("train", *tiny, "--networks.G", "stranger.evil:Linear", "--trust")
    assert f"that module lies in the run {tmp_path / 'stranger'}" in said and not Path("imported").exists()


# ---- sample ----------------------------------------------------------------------------------------------------


def tiles(path: str, columns: int, rows: int) -> np.ndarray[Any, Any]:
    """A grid of 16 x 16 tiles as it was before it was enlarged for the eye, by whole pixels."""
    with Image.open(path) as picture:
        large = np.asarray(picture)
    scale = max(1, 900 // (columns * 16))
    small = large[::scale, ::scale]
    assert small.shape == (rows * 18 + 2, columns * 18 + 2)
    assert (large == small.repeat(scale, 0).repeat(scale, 1)).all()
    return small


def arrays(cli: Gansmith, *args: object) -> tuple[Any, list[str]]:
    """The images and names that a command writes into x.npz."""
    code, _, err = cli(*args, "--out", "x.npz", *CPU)
    assert (code, err) == (0, "")
    with np.load("x.npz", allow_pickle=False) as found:
        return found["images"], list(found["names"])


def test_sample_a_grid(cli: Gansmith, trained: Path) -> None:
    code, out, err = cli("sample", trained, "--out", "some.png", *CPU)
    assert (code, err) == (0, "") and out == "64 pictures of round 6: some.png\n"
    tiles("some.png", 8, 8)
    assert cli("sample", trained, "--grid", "5x2", "--out", "ten.png", *CPU)[1].startswith("10 pictures")
    tiles("ten.png", 5, 2)
    assert cli("sample", trained, "--seeds", "3,0-1", "--grid", "2x2", "--out", "three.png", *CPU)[0] == 0
    tiles("three.png", 2, 2)
    _, out, _ = cli("sample", trained, "--seeds", "5", *CPU)
    path = Path(out.rpartition(": ")[2].strip())
    assert path.parent == trained and path.is_file() and "000006" in path.name


def test_sample_arrays_and_folders_of_any_round_and_weights(cli: Gansmith, trained: Path) -> None:
    images, names = arrays(cli, "sample", trained, "--seeds", "7,1-3")
    assert images.shape == (4, 1, 16, 16) and images.dtype == np.uint8
    assert names == ["seed-7", "seed-1", "seed-2", "seed-3"]
    assert cli("sample", trained, "--seeds", "7,1-3", "--out", "folder", *CPU)[0] == 0
    assert sorted(p.name for p in Path("folder").iterdir()) == [f"seed-{i}.png" for i in (1, 2, 3, 7)]
    for name, image in zip(names, images, strict=True):
        with Image.open(Path("folder") / f"{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), image[0])
    newest = gansmith.load(trained, device="cpu").sample(4)
    for more, same in ((["--round", 6], True), (["--raw"], False), (["--round", 3], False)):
        assert np.array_equal(newest, arrays(cli, "sample", trained, "--n", 4, *more)[0]) is same


def test_labels_are_chosen_by_name_or_number_and_all_are_shown(cli: Gansmith, refused: Any, labelled: Path) -> None:
    sampler = gansmith.load(labelled, device="cpu")
    images, names = arrays(cli, "sample", labelled, "--seeds", "4,9")
    assert names[:4] == ["seed-4-class-cat", "seed-4-class-dog", "seed-4-class-owl", "seed-9-class-cat"]
    assert len(names) == 6  # a column for each class, a row for each seed
    assert np.array_equal(images, sampler.sample([4, 4, 4, 9, 9, 9], [0, 1, 2] * 2))
    assert cli("sample", labelled, "--out", "x.png", *CPU)[0] == 0
    tiles("x.png", 3, 8)
    dogs = sampler.sample([4, 9], 1)
    assert not np.array_equal(dogs, sampler.sample([4, 9], 2))
    for label in ("dog", "1"):
        assert np.array_equal(arrays(cli, "sample", labelled, "--seeds", "4,9", "--label", label)[0], dogs)
    for label in ("nine", "3", "dogg"):
        said = refused("sample", labelled, "--label", label, *CPU)
        assert f"--label is '{label}'; it must be one of cat, dog, owl" in said
    assert "did you mean dog?" in said
    assert cli("interpolate", labelled, "--label", "owl", "--frames", 3, "--out", "x.gif", *CPU)[0] == 0


def test_without_labels_there_is_no_conditional_training_and_no_label(
    refused: Any, tiny: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "this generator has no labels" in refused("sample", trained, "--label", "7", *CPU)
    monkeypatch.setattr("gansmith.build._player", lambda *args, **options: pytest.fail("a player is built"))
    said = refused("train", "cgan", *tiny[:8], "--steps", 1)
    assert "labels" in said and "subfolder per class" in said, said
    assert list(tmp_path.iterdir()) == []


def test_traverse_codes(cli: Gansmith, refused: Any, codes: Path) -> None:
    assert cli("sample", codes, "--traverse", "category", "--grid", "10x3", "--out", "c.png", *CPU)[0] == 0
    tiles("c.png", 10, 3)
    images, names = arrays(cli, "sample", codes, "--traverse", "code2", "--seeds", "4,9")
    assert images.shape == (20, 1, 16, 16) and names[::19] == ["seed-4-code2-0", "seed-9-code2-9"]
    line = refused("sample", codes, "--traverse", "slant", *CPU)
    assert "no code 'slant': it has category, code1, code2" in line
    assert "--label does not go with it" in refused("sample", codes, "--traverse", "category", "--label", "1", *CPU)


def test_rectangles_train_and_are_sampled(cli: Gansmith, tmp_path: Path, words: Any) -> None:
    Path("wide").mkdir()
    for i in range(20):
        Image.new("L", (64, 48), 10 * i).save(tmp_path / f"wide/{i:02}.png")
    flags = words({**GAN, "img_size": "48,64", "sample_interval": 1, "data.validation": 4})
    assert cli("train", "gan", "--data", "wide", *flags, "--steps", 2, "--out", "run", "--quiet", *CPU) == (0, "", "")
    assert plan(Path("run")).recipe.data.img_size == (48, 64)
    assert arrays(cli, "sample", "run", "--n", 3)[0].shape == (3, 1, 48, 64)
    with Image.open("run/growth/000002.png") as growth:
        assert growth.size == (5 * 66 + 2, 5 * 50 + 2)
    said = ["--metrics", "parzen_ll", "--reference", "validation", "--n", 10, "--seeds", "0", *CPU]
    code, out, err = cli("evaluate", "run", *said)
    assert code == 0 and "parzen_ll" in out, err


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--seeds", "5-3"], ["--seeds is '5-3'", "0-63"]),
        (["--seeds", "1,,2"], ["--seeds is '1,,2'"]),
        (["--seeds", str(2**64)], ["seed"]),
        (["--seeds", "1", "--n", "2"], ["--n and --seeds"]),
        (["--grid", "8"], ["--grid is '8'", "8x8"]),
        (["--grid", "2x2", "--seeds", "0-4"], ["--grid 2x2 has 4 places for 5 seeds"]),
        (["--round", "4"], ["no checkpoint of round 4", "it has: 6, 3"]),
        (["--round", "-1"], ["--round is '-1'", "or best"]),
        (["--maker", "smaple"], ["no maker 'smaple'", "did you mean sample?"]),
        (["--to", "b"], ["nothing here makes 'b'", "it must be one of x"]),
        (["--traverse", "category"], ["no code 'category'", "infogan"]),
        (["--out", "x.bmp"], ["x.bmp", ".png", ".jpg", ".webp", ".npz"]),
        (["--sed", "3"], ["--sed", "--seeds"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_sample_cannot_do_is_one_line(args: list[str], parts: list[str], refused: Any, trained: Path) -> None:
    line = refused("sample", trained, *args, *CPU)
    for part in parts:
        assert part in line, line


def test_a_truncated_checkpoint_is_skipped_and_said_and_none_left_is_one_line(
    cli: Gansmith, refused: Callable[..., str], tiny: list[str]
) -> None:
    assert cli("train", *tiny, "--steps", 4, "--checkpoint.interval", 3, "--out", "run", "--quiet")[0] == 0
    broken = at("run", 4) / "tensors.safetensors"
    broken.write_bytes(broken.read_bytes()[:-9])
    code, out, err = cli("sample", "run", "--seeds", "1", "--out", "x.png", *CPU)
    assert code == 0 and "of round 3" in out and f"skipped the broken checkpoint {broken.parent}" in err
    assert "00000004 is broken: tensors.safetensors" in refused("sample", "run", "--round", "4", *CPU)
    (at("run", 3) / "state.json").write_text("{", encoding="utf-8")
    code, out, err = cli("sample", "run", *CPU)
    assert code == 2 and "all 2 checkpoints are broken" in err.splitlines()[-1] and "Traceback" not in err


# ---- interpolate -----------------------------------------------------------------------------------------------


def test_interpolate_a_strip_and_a_film(cli: Gansmith, refused: Any, trained: Path) -> None:
    code, out, err = cli("interpolate", trained, "--seeds", "3,8,1", "--frames", 6, "--out", "walk.png", *CPU)
    assert (code, err) == (0, "") and out == "2 x 6 pictures of round 6: walk.png\n"
    strip = tiles("walk.png", 6, 2)
    ends = gansmith.load(trained, device="cpu").sample([3, 8])[:, 0].astype(int)
    # The ends of a path are the pictures of its seeds, to the rounding of the path.
    assert np.abs(strip[2:18, 2:18].astype(int) - ends[0]).max() <= 1
    assert np.abs(strip[2:18, 5 * 18 + 2 : 6 * 18].astype(int) - ends[1]).max() <= 1
    assert cli("interpolate", trained, "--seeds", "0-1", "--frames", 5, "--out", "walk.gif", *CPU)[0] == 0
    with Image.open("walk.gif") as film:
        assert film.format == "GIF" and 2 <= film.n_frames <= 10 and film.info["loop"] == 0
    assert "two seeds" in refused("interpolate", trained, "--seeds", "4", *CPU)


# ---- recipes and verify ----------------------------------------------------------------------------------------


def test_recipes(cli: Gansmith, refused: Callable[..., str], trained: Path) -> None:
    code, out, _ = cli("recipes", "ls")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == recipe_names()
    wide = max(map(len, recipe_names())) + 2  # one column, whatever the longest name is
    texts = [recipe_text(name).splitlines()[0].removeprefix("# ") for name in recipe_names()]
    assert [line[wide:] for line in out.splitlines()] == texts and cli("recipes") == cli("recipes", "ls")
    assert cli("recipes", "show", "began") == (0, recipe_text("began"), "")
    assert cli("recipes", "show", trained) == (0, (trained / "recipe.yaml").read_text(encoding="utf-8"), "")
    assert cli("recipes", "cp", "gan") == (0, "change it, then: gansmith train gan.yaml\n", "")
    assert Path("gan.yaml").read_text(encoding="utf-8") == recipe_text("gan")
    assert "gan.yaml exists; give another path" in refused("recipes", "cp", "gan")
    Path("folder").mkdir()
    assert cli("recipes", "cp", "began", "folder")[0] == 0
    assert plan("folder/began.yaml").recipe == plan("began").recipe
    assert cli("recipes", "cp", "gan", "no/where/x.yaml")[0] == 0 and Path("no/where/x.yaml").is_file()
    assert refused("train", "gan", "folder").endswith("one recipe, file or run at a time; did you mean --data folder?")


def test_verify_says_exact_or_what_differs(
    cli: Gansmith, refused: Any, tiny: list[str], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gansmith.state import State

    code, out, err = cli("verify", "gan", "--steps", 2, *tiny)
    assert (code, err) == (0, "")
    assert re.match(r"exact: 2 rounds \+ resume \+ 2 rounds equal 4 rounds, bit for bit \(\d+ tensors", out)
    assert f"gansmith verify {trained / 'recipe.yaml'}" in refused("verify", trained)
    monkeypatch.setattr(State, "set_streams", lambda self, rng: None)
    code, out, err = cli("verify", "gan", "--steps", 2, *tiny)
    assert code == 1 and out == "" and "differ after 4 rounds" in err


# ---- processes -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit for the memory of a process")
def test_as_a_process(command: Callable[..., Any], trained: Path) -> None:
    """The version; a reader who has gone; more seeds than memory, which are refused before they are listed."""

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    version, shown = command("--version"), command("recipes", "show", "gan")
    shown.stdout.close()
    many = command("sample", trained, "--seeds", "0-99999999999", preexec_fn=limit)
    out, err = version.communicate(timeout=60)
    assert (version.returncode, err) == (0, "") and out.strip().endswith(gansmith.__version__)
    assert "Traceback" not in shown.stderr.read() and shown.wait(60) in (0, 1)
    shown.stderr.close()
    _, err = many.communicate(timeout=60)
    [line] = err.splitlines()
    assert many.returncode == 2 and line.startswith("gansmith: error: ") and "--seeds" in line


def test_the_console_script_is_the_same_function() -> None:
    from importlib.metadata import entry_points

    found = [entry for entry in entry_points(group="console_scripts") if entry.name == "gansmith"]
    assert all(script.load() is main for script in found)  # none where gansmith is importable and not installed


# ---- a run that is not as it was written --------------------------------------------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([{}]),
    st.sampled_from(["/dev/zero", ".", "~nosuchuser", "os:system", "1e400", 10**30, -1, 0, 1, 3]),
)  # fmt: skip


def _leaves(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at] * bool(at) + [place for key, part in parts for place in _leaves(part, (*at, key))]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_run_of_any_content_is_used_or_refused_in_one_line(
    data: st.DataObject, cli: Gansmith, trained: Path, tmp_path: Path
) -> None:
    """What is broken in a checkpoint's own digest is passed over; so that is made to hold, as a stranger's would."""
    run = tmp_path / "copy"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(trained, run)
    states = sorted(run.glob("checkpoints/*/state.json"))
    path = data.draw(st.sampled_from([run / "recipe.yaml", run / "metrics.jsonl", *states]))
    text = path.read_text(encoding="utf-8")
    if data.draw(st.booleans()) or path.suffix == ".jsonl":
        start = data.draw(st.integers(0, len(text)))
        path.write_text(text[:start] + data.draw(st.text(max_size=3)), encoding="utf-8", errors="surrogateescape")
    else:
        tree = yaml.safe_load(text)
        *above, last = data.draw(st.sampled_from(_leaves(tree)))
        reduce(lambda node, key: node[key], above, tree)[last] = data.draw(ODD)
        if path in states:
            tree.pop("digest", None)
            tree = {"digest": checkpoint._digest(tree), **tree}
        path.write_text(json.dumps(tree), encoding="utf-8")
    verb = data.draw(st.sampled_from(["sample", "train"]))
    words = ("--seeds", "0", "--out", tmp_path / "x.png") if verb == "sample" else ("--steps", 7, "--quiet")
    code, _, err = cli(verb, run, *words, *CPU)
    assert code == 0 or (code in (1, 2) and err.splitlines()[-1].startswith("gansmith: error: ")), (code, err)
    assert "Traceback" not in err
