"""The command line: what each verb does, and that everything wrong is one line that says what would be right."""

import contextlib
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gansmith
from gansmith import checkpoint
from gansmith import cli as cli_module
from gansmith.cli import OPTIONS, main
from gansmith.exactness import compare
from gansmith.recipe import plan, recipe_names, recipe_text

Gansmith = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gansmith:
    """cli("train", "gan") in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main.main(args=[str(arg) for arg in args], prog_name="gansmith")
        out, err = capsys.readouterr()
        code = end.value.code
        return (0 if code is None else int(code)), out, err

    return run


@pytest.fixture
def refused(cli: Gansmith) -> Callable[..., str]:
    """refused(*args): the one line of the error."""

    def run(*args: object) -> str:
        code, out, err = cli(*args)
        assert code == 2 and out == ""
        [line] = err.splitlines()
        assert line.startswith("gansmith: error: ")
        return line.removeprefix("gansmith: error: ")

    return run


@pytest.fixture
def tiny(small: Callable[..., dict[str, Any]], words: Callable[..., list[str]], pictures: Path) -> list[str]:
    return ["--data", str(pictures), "--device", "cpu", *words(small("gan"))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    keys = {
        **{"img_size": 16, "batch_size": 8, "networks.G.widths": [16, 16], "networks.D.widths": [16]},
        **{"ema.halflife_kimg": 0.1, "checkpoint.interval": 3},
    }
    out = tmp_path_factory.mktemp("trained") / "run"
    return gansmith.train("gan", data=pictures, out=out, steps=6, device="cpu", overrides=keys, quiet=True)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    keys = {"img_size": 16, "batch_size": 8, "networks.G.width": 2, "networks.D.width": 2}
    out = tmp_path_factory.mktemp("codes") / "run"
    return gansmith.train("infogan", data=pictures, out=out, steps=1, device="cpu", overrides=keys, quiet=True)


# ---- train -----------------------------------------------------------------------------------------------------


def test_train_names_the_picture_and_the_next_command(cli: Gansmith, tiny: list[str], tmp_path: Path) -> None:
    code, out, err = cli("train", *tiny, "--steps", 3)
    run = Path("runs") / f"gan-{Path(tiny[1]).name}-001"
    assert code == 0, err
    assert f"look at:  {run / 'growth.gif'}" in out and (run / "growth.gif").is_file()
    assert f"gansmith sample {run}" in out and f"gansmith train {run}" in out
    assert checkpoint.newest_good(run / "checkpoints", pytest.fail).name == "00000003"


def test_train_quietly_and_from_a_file(cli: Gansmith, tiny: list[str], tmp_path: Path) -> None:
    Path("own.yaml").write_text("seed: 3\nlr: 0.01\n", encoding="utf-8")
    assert cli("train", "own.yaml", *tiny, "--steps", 2, "--out", "run", "--quiet") == (0, "", "")
    recipe = plan(tmp_path / "run").recipe
    assert recipe.seed == 3 and recipe.optimizers["D"].args["lr"] == 0.01 and recipe.steps == 2


def test_the_command_line_and_python_train_the_same(
    cli: Gansmith, tiny: list[str], small: Callable[..., dict[str, Any]], pictures: Path, tmp_path: Path
) -> None:
    assert cli("train", "gan", *tiny, "--steps", 4, "--seed", 9, "--out", "a", "--quiet")[0] == 0
    gansmith.train("gan", data=pictures, out="b", steps=4, seed=9, device="cpu", overrides=small("gan"), quiet=True)
    assert compare(tmp_path / "a/checkpoints/00000004", tmp_path / "b/checkpoints/00000004").exact


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
    Path("own.yaml").write_text("batch_size: 32\n", encoding="utf-8")
    code, out, err = cli("train", "own.yaml", "--lr", "1e-3", "--dry-run", "--out", "run")
    assert (code, err) == (0, "")
    rows = dict(re.match(r"(\S+) +.*# (.+)$", line).groups() for line in out.splitlines())  # type: ignore[union-attr]
    assert rows["batch_size"] == "own.yaml" and rows["optimizers.G.lr"] == "flag" and rows["n_epochs"] == "default"
    assert set(rows) == {key for key, _, _ in plan("gan").lines()}
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]


def test_a_length_in_epochs_wins_over_rounds_in_the_recipe(cli: Gansmith) -> None:
    Path("own.yaml").write_text("steps: 9\n", encoding="utf-8")
    _, out, _ = cli("train", "own.yaml", "--n_epochs", 4, "--dry-run")
    assert re.search(r"^steps +null ", out, re.M) and re.search(r"^n_epochs +4 ", out, re.M)
    _, out, _ = cli("train", "own.yaml", "--n_epochs", 4, "--steps", 7, "--dry-run")
    assert re.search(r"^steps +7 ", out, re.M)


def test_help_shows_the_post_s_options_with_its_defaults(cli: Gansmith) -> None:
    code, out, _ = cli("train", "--help")
    assert code == 0
    defaults = {key: value for key, value, _ in plan("gan").lines()}
    places = {"lr": "optimizers.G.lr", "b1": "optimizers.G.b1", "b2": "optimizers.G.b2", "n_cpu": "data.n_cpu"}
    places |= {"latent_dim": "prior.dim", "img_size": "data.img_size", "channels": "data.channels"}
    for name, (_, text, shown) in OPTIONS.items():
        assert f"--{name} " in out and text.split()[0] in out
        assert shown == ("" if name == "steps" else str(defaults[places.get(name, name)])), name


@pytest.mark.parametrize(
    ("words", "value", "origin"),
    [
        (["--compile"], "True", "flag"),
        (["--no-compile"], "False", "flag"),
        (["--compile", "--no-compile"], "False", "flag"),
        (["--engine.compile", "true"], "True", "flag"),
        (["--engine.compile", "auto"], "auto", "flag"),
        ([], "auto", "default"),
    ],
)
def test_compile_is_short_for_engine_compile(cli: Gansmith, words: list[str], value: str, origin: str) -> None:
    code, out, err = cli("train", *words, "gan", "--dry-run")
    assert code == 0 and re.search(rf"^engine\.compile +{value} +# {origin}$", out, re.M), out + err


def test_compile_takes_no_value(cli: Gansmith) -> None:
    code, _, err = cli("train", "gan", "--compile=true", "--dry-run")
    assert code == 2 and "--compile" in err and err.count("\n") == 1


def test_resume_by_the_folder(cli: Gansmith, tiny: list[str], tmp_path: Path) -> None:
    assert cli("train", *tiny, "--steps", 2, "--out", "run", "--quiet")[0] == 0
    code, out, err = cli("train", "run", "--steps", 4, "--device", "cpu")
    assert code == 0 and "from round 2 to round 4" in out + err
    assert cli("train", "run/", "--n_epochs", 1, "--quiet", "--device", "cpu") == (0, "", "")
    assert (tmp_path / "run/checkpoints/00000008").is_dir()


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["tran"], ["tran"]),
        (["train", "--n_epoch", "3"], ["n_epoch", "did you mean n_epochs?"]),
        (["train", "--bach-size", "3"], ["bach_size", "did you mean batch_size?"]),
        (["train", "--lr"], ["--lr"]),
        (["train", "--game.n_critic"], ["--game.n_critic needs a value"]),
        (["train", "--game.name", "--dry-run"], ["--game.name needs a value"]),
        (["train", "--outt"], ["--outt needs a value", "did you mean --out?"]),
        (["train", "-x"], ["there is no option -x"]),
        (["train", "gan", "-n_epochs", "3"], ["there is no option -n_epochs; did you mean --n_epochs?"]),
        (["train", "gan", "-lr=0.1"], ["there is no option -lr=0.1; did you mean --lr=0.1?"]),
        (["train", "--lr", "fast"], ["lr is 'fast'", "a number"]),
        (["train", "--batch_size", "0"], ["batch_size is 0", "the nearest is 1"]),
        (["train", "--channels", "2", "--dry-run"], ["channels is 2", "the nearest is 1"]),
        (["train", "gann"], ["there is no recipe 'gann'", "did you mean gan?"]),
        (["train", "gan", "began"], ["gan and began", "one recipe"]),
        (
            ["train", "."],
            [". is a folder without recipe.yaml: neither a recipe nor a run", "train fast_mnist --data ."],
        ),
        (["train", "--optimizer.G.lr", "1"], ["flag: optimizer: there is no such key; did you mean optimizers?"]),
        (["train", "no/such/run"], ["there is no recipe file or run no/such/run"]),
        (["train", "."], ["."]),
        (["train", "--data", "mnits", "--steps", "1"], ["mnits", "mnist"]),
        (["train", "--data", "no/pictures", "--steps", "1"], ["no such folder", "no/pictures"]),
        (["train", "--device", "tpu", "--steps", "1"], ["--device", "tpu", "cpu"]),
        (["train", "--device", "cpu:x", "--steps", "1"], ["--device", "cpu:x"]),
        (["sample"], ["RUN"]),
        (["sample", "nowhere"], ["nowhere is not a run"]),
        (["interpolate", "nowhere"], ["nowhere is not a run"]),
        (["interpolate", "nowhere", "--out", "x.mp4"], ["x.mp4", ".png", ".gif"]),
        (["interpolate", "nowhere", "--frames", "1"], ["--frames"]),
        (["recipes", "show", "gna"], ["'gna'", "did you mean gan?"]),
        (["recipes", "cp", "gan", "x.txt"], ["x.txt", ".yaml"]),
        (["recipes", "ls", "x"], ["x"]),
        (["verify", "--steps", "0"], ["--steps"]),
        (["verify", "gan", "--lr", "0"], ["lr is 0"]),
        (["verify", "--n_epoch", "1"], ["n_epoch"]),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_line(
    args: list[str], parts: list[str], refused: Callable[..., str], tmp_path: Path
) -> None:
    line = refused(*args)
    for part in parts:
        assert part in line, line
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_is_not_there_is_one_line(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name in ("cuda:2", "cuda:7"):
        said = refused("train", "--device", name, "--steps", "1")
        assert said == f"--device {name}: PyTorch finds 2 CUDA device(s) here, and the first is cuda:0"


@pytest.mark.parametrize(("address", "port"), [(None, "29500"), ("localhost", None), ("localhost", "abc")])
def test_processes_that_cannot_find_each_other_are_one_line(
    address: str | None, port: str | None, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**numbers, "MASTER_ADDR": address, "MASTER_PORT": port}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    said = f"MASTER_ADDR is {address!r} and MASTER_PORT {port!r}; they must be where rank 0 is to be found, as torchrun"
    assert said in refused("train", "--device", "cpu", "--steps", "1")


def test_pictures_that_are_none_are_one_line(cli: Gansmith, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    assert "no pictures in" in refused("train", "--data", "own", "--steps", 1)
    (tmp_path / "own" / "cat.png").write_text("meow", encoding="utf-8")
    for quiet in ([], ["--quiet"]):
        code, _, err = cli("train", "--data", "own", "--steps", 1, "--device", "cpu", *quiet)
        assert code == 2 and "Traceback" not in err
        assert err.splitlines()[-1].startswith("gansmith: error: ") and "cat.png" in err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_unreadable_yaml_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("lr: [1\n", encoding="utf-8")
    assert re.match(r"own.yaml: line 2, column 1 is not YAML", refused("train", "own.yaml"))
    (tmp_path / "own.yaml").write_bytes(bytes(range(256)))
    assert "not a text file" in refused("train", "own.yaml")
    (tmp_path / "own.yaml").unlink()
    (tmp_path / "own.yaml").mkdir()
    assert "own.yaml is a folder without recipe.yaml" in refused("train", "own.yaml")


def test_a_bare_name_of_a_file_that_is_there_is_not_taken_for_a_recipe(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "own").write_text("lr: 1\n", encoding="utf-8")
    assert "there is no recipe 'own'" in refused("train", "own")


def test_a_loss_that_is_not_finite_is_one_line_and_code_1(cli: Gansmith, tiny: list[str]) -> None:
    code, _, err = cli(
        "train", *tiny, "--steps", 300, "--quiet", "--out", "run", "--optimizers.D", "sgd", "--optimizers.D.lr", "1e18"
    )
    assert code == 1
    [line] = err.splitlines()
    assert re.match(r"gansmith: error: training stopped in round \d+ .* is not finite; .*--lr", line)


def test_another_value_for_a_run_is_one_line(refused: Callable[..., str], trained: Path) -> None:
    assert "lr: a run keeps its recipe" in refused("train", trained, "--lr", 1, "--device", "cpu")
    assert "leave --out away" in refused("train", trained, "--out", "x", "--device", "cpu")
    assert "is finished: 6 rounds" in refused("train", trained, "--quiet", "--device", "cpu")


def test_a_ctrl_c_that_a_library_swallows_while_it_starts_is_not_lost(
    cli: Gansmith, tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = cli_module._words
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a process of its own

    def swallowing(*args: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return words(*args)

    monkeypatch.setattr(cli_module, "_words", swallowing)
    code, out, err = cli("train", *tiny, "--out", "run")
    assert (code, out, err.strip()) == (130, "", "gansmith: error: interrupted")
    monkeypatch.setattr(cli_module, "_words", words)
    assert not (tmp_path / "run").exists()
    assert cli("train", *tiny, "--steps", 1, "--quiet", "--out", "run")[0] == 0  # and forgotten by the next command
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


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


def test_sample_a_grid(cli: Gansmith, trained: Path) -> None:
    code, out, err = cli("sample", trained, "--out", "some.png", "--device", "cpu")
    assert (code, err) == (0, "") and out == "64 pictures of round 6: some.png\n"
    tiles("some.png", 8, 8)
    assert cli("sample", trained, "--grid", "5x2", "--out", "ten.png", "--device", "cpu")[1].startswith("10 pictures")
    tiles("ten.png", 5, 2)
    assert cli("sample", trained, "--seeds", "3,0-1", "--grid", "2x2", "--out", "three.png", "--device", "cpu")[0] == 0
    tiles("three.png", 2, 2)


def test_sample_arrays_and_folders(cli: Gansmith, trained: Path, tmp_path: Path) -> None:
    assert cli("sample", trained, "--seeds", "7,1-3", "--out", "a/b/some.npz", "--device", "cpu")[0] == 0
    with np.load(tmp_path / "a/b/some.npz", allow_pickle=False) as arrays:
        images, names = arrays["images"], arrays["names"]
    assert images.shape == (4, 1, 16, 16) and images.dtype == np.uint8
    assert list(names) == ["seed-7", "seed-1", "seed-2", "seed-3"]
    assert cli("sample", trained, "--seeds", "7,1-3", "--out", "folder", "--device", "cpu")[0] == 0
    assert sorted(p.name for p in Path("folder").iterdir()) == [f"seed-{i}.png" for i in (1, 2, 3, 7)]
    for name, image in zip(names, images, strict=True):
        with Image.open(Path("folder") / f"{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), image[0])


def test_the_default_place_is_in_the_run(cli: Gansmith, trained: Path) -> None:
    _, out, _ = cli("sample", trained, "--seeds", "5", "--device", "cpu")
    path = Path(out.rpartition(": ")[2].strip())
    assert path.parent == trained and path.is_file() and "000006" in path.name


def test_a_seed_gives_its_picture_whatever_else_is_asked_for(trained: Path) -> None:
    sampler = gansmith.load(trained, device="cpu")
    many = sampler.sample(range(130))
    assert many.shape == (130, 1, 16, 16) and len({image.tobytes() for image in many}) == 130
    assert np.array_equal(sampler.sample([129, 5, 64]), many[[129, 5, 64]])
    assert np.array_equal(gansmith.load(trained, device="cpu").sample([77])[0], many[77])


def test_the_average_and_the_weights_themselves_differ_and_rounds_can_be_chosen(cli: Gansmith, trained: Path) -> None:
    def images(*more: object) -> Any:
        assert cli("sample", trained, "--seeds", "0-3", "--out", "x.npz", "--device", "cpu", *more)[0] == 0
        with np.load("x.npz") as arrays:
            return arrays["images"]

    newest = images()
    assert np.array_equal(newest, images("--round", 6))
    assert not np.array_equal(newest, images("--raw"))
    assert not np.array_equal(newest, images("--round", 3))


def test_traverse_codes(cli: Gansmith, codes: Path) -> None:
    assert cli("sample", codes, "--traverse", "category", "--grid", "10x3", "--out", "c.png", "--device", "cpu")[0] == 0
    tiles("c.png", 10, 3)
    assert cli("sample", codes, "--traverse", "code2", "--seeds", "4,9", "--out", "c.npz", "--device", "cpu")[0] == 0
    with np.load("c.npz") as arrays:
        assert arrays["images"].shape == (20, 1, 16, 16)
        assert arrays["names"][0] == "seed-4-code2-0" and arrays["names"][-1] == "seed-9-code2-9"


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--seeds", "5-3"], ["--seeds is '5-3'", "0-63"]),
        (["--seeds", ""], ["--seeds is ''"]),
        (["--seeds", "a"], ["--seeds is 'a'"]),
        (["--seeds", "-1"], ["--seeds"]),
        (["--seeds", "1,,2"], ["--seeds is '1,,2'"]),
        (["--grid", "8"], ["--grid is '8'", "8x8"]),
        (["--grid", "0x4"], ["--grid is '0x4'"]),
        (["--grid", "2x2", "--seeds", "0-4"], ["--grid 2x2 has 4 places for 5 seeds"]),
        (["--round", "4"], ["no checkpoint of round 4", "it has: 6, 3"]),
        (["--round", "-1"], ["--round is '-1'", "or best"]),
        (["--traverse", "category"], ["no code 'category'", "infogan"]),
        (["--out", "x.jpg"], ["x.jpg", ".png", ".npz"]),
        (["--sed", "3"], ["--sed", "--seeds"]),
        (["--seeds", str(2**64)], ["seed"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_sample_cannot_do_is_one_line(
    args: list[str], parts: list[str], refused: Callable[..., str], trained: Path
) -> None:
    line = refused("sample", trained, *args, "--device", "cpu")
    for part in parts:
        assert part in line, line


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit for the memory of a process")
def test_more_seeds_than_memory_are_refused_before_they_are_listed(command: Callable[..., Any], trained: Path) -> None:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    process = command("sample", trained, "--seeds", "0-99999999999", preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    [line] = err.splitlines()
    assert line.startswith("gansmith: error: ") and "--seeds" in line


def test_an_unknown_code_names_those_that_there_are(refused: Callable[..., str], codes: Path) -> None:
    line = refused("sample", codes, "--traverse", "slant", "--device", "cpu")
    assert "no code 'slant': it has category, code1, code2" in line


def test_a_truncated_checkpoint_is_skipped_and_said_and_none_left_is_one_line(
    cli: Gansmith, refused: Callable[..., str], tiny: list[str]
) -> None:
    assert cli("train", *tiny, "--steps", 4, "--checkpoint.interval", 3, "--out", "run", "--quiet")[0] == 0
    broken = Path("run/checkpoints/00000004/tensors.safetensors")
    broken.write_bytes(broken.read_bytes()[:-9])
    code, out, err = cli("sample", "run", "--seeds", "1", "--out", "x.png", "--device", "cpu")
    assert code == 0 and "of round 3" in out
    assert f"skipped the broken checkpoint {broken.parent}" in err
    assert "00000004 is broken: tensors.safetensors" in refused("sample", "run", "--round", "4", "--device", "cpu")
    Path("run/checkpoints/00000003/state.json").write_text("{", encoding="utf-8")
    code, out, err = cli("sample", "run", "--device", "cpu")
    assert code == 2 and "all 2 checkpoints are broken" in err.splitlines()[-1] and "Traceback" not in err


# ---- interpolate -----------------------------------------------------------------------------------------------


def test_interpolate_a_strip_and_a_film(cli: Gansmith, trained: Path) -> None:
    code, out, err = cli(
        "interpolate", trained, "--seeds", "3,8,1", "--frames", 6, "--out", "walk.png", "--device", "cpu"
    )
    assert (code, err) == (0, "") and out == "2 x 6 pictures of round 6: walk.png\n"
    strip = tiles("walk.png", 6, 2)
    sampler = gansmith.load(trained, device="cpu")
    ends = sampler.sample([3, 8])[:, 0].astype(int)
    # The ends of a path are the pictures of its seeds, to the rounding of the path.
    assert np.abs(strip[2:18, 2:18].astype(int) - ends[0]).max() <= 1
    assert np.abs(strip[2:18, 5 * 18 + 2 : 6 * 18].astype(int) - ends[1]).max() <= 1
    assert cli("interpolate", trained, "--seeds", "0-1", "--frames", 5, "--out", "walk.gif", "--device", "cpu")[0] == 0
    with Image.open("walk.gif") as film:
        assert film.format == "GIF" and 2 <= film.n_frames <= 10 and film.info["loop"] == 0


def test_a_path_needs_two_seeds(refused: Callable[..., str], trained: Path) -> None:
    assert "two seeds" in refused("interpolate", trained, "--seeds", "4", "--device", "cpu")


# ---- recipes and verify ----------------------------------------------------------------------------------------


def test_recipes(cli: Gansmith, refused: Callable[..., str], tmp_path: Path) -> None:
    code, out, _ = cli("recipes", "ls")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == recipe_names()
    wide = max(map(len, recipe_names())) + 2  # one column, whatever the longest name is
    texts = [recipe_text(name).splitlines()[0].removeprefix("# ") for name in recipe_names()]
    assert [line[wide:] for line in out.splitlines()] == texts
    assert cli("recipes", "show", "began") == (0, recipe_text("began"), "")
    assert cli("recipes", "cp", "gan") == (0, "change it, then: gansmith train gan.yaml\n", "")
    assert Path("gan.yaml").read_text(encoding="utf-8") == recipe_text("gan")
    Path("gan.yaml").write_text("lr: 0.1\n", encoding="utf-8")
    assert "gan.yaml exists; give another path" in refused("recipes", "cp", "gan")
    assert Path("gan.yaml").read_text(encoding="utf-8") == "lr: 0.1\n"
    Path("folder").mkdir()
    assert cli("recipes", "cp", "began", "folder")[0] == 0
    assert plan("folder/began.yaml").recipe == plan("began").recipe
    assert "no/where" in refused("recipes", "cp", "gan", "no/where/x.yaml")
    assert cli("recipes") == cli("recipes", "ls")


def test_without_a_verb_there_is_help(cli: Gansmith) -> None:
    assert cli() == cli("--help") and cli()[0] == 0


def test_verify_says_exact(cli: Gansmith, tiny: list[str]) -> None:
    code, out, err = cli("verify", "gan", "--steps", 2, *tiny)
    assert (code, err) == (0, "")
    assert re.match(r"exact: 2 rounds \+ resume \+ 2 rounds equal 4 rounds, bit for bit \(\d+ tensors", out)


def test_verify_says_what_differs(cli: Gansmith, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from gansmith.state import State

    real = State.load_state_dict

    def forgetful(self: Any, state: Any) -> None:
        noise = self.noise.get_state()
        real(self, state)
        self.noise.set_state(noise)

    monkeypatch.setattr(State, "load_state_dict", forgetful)
    code, out, err = cli("verify", "gan", "--steps", 2, *tiny)
    assert code == 1 and out == "" and "differ after 4 rounds" in err


def test_verify_takes_a_recipe_and_no_run(refused: Callable[..., str], trained: Path) -> None:
    assert f"gansmith verify {trained / 'recipe.yaml'}" in refused("verify", trained)


# ---- processes -------------------------------------------------------------------------------------------------


def test_the_module_and_the_version(command: Callable[..., Any]) -> None:
    process = command("--version")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and out.strip().endswith(gansmith.__version__)


def test_a_private_part_lies_where_one_works(command: Callable[..., Any], tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\nclass Linear(nn.Module):\n"
        "    def __init__(self, shape, *, bias: bool = True):\n"
        "        super().__init__()\n        self.map = nn.Linear(shape[0] * shape[1] * shape[2], 1, bias)\n\n"
        "    def forward(self, x):\n        return self.map(x.flatten(1)).squeeze(1)\n",
        encoding="utf-8",
    )
    own = [
        word for key, value in zip(tiny[::2], tiny[1::2], strict=True) if "D.widths" not in key for word in (key, value)
    ]
    flags = ["--networks.D", "mine:Linear", "--networks.D.bias", "false"]
    process = command("train", *own, *flags, "--steps", 2, "--out", "run", "--quiet", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")
    tree, _ = checkpoint.read(tmp_path / "run/checkpoints/00000002")
    assert list(tree["players"]["D"]["net"]) == ["map.weight"]


def test_nobody_who_reads_is_no_error(command: Callable[..., Any]) -> None:
    process = command("recipes", "show", "gan")
    process.stdout.close()
    process.wait(60)
    assert process.returncode in (0, 1) and "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_the_console_script_is_the_same_function() -> None:
    from importlib.metadata import PackageNotFoundError, entry_points, version

    try:
        version("gansmith")
    except PackageNotFoundError:
        pytest.skip("gansmith is not installed here, only importable")
    [script] = [entry for entry in entry_points(group="console_scripts") if entry.name == "gansmith"]
    assert script.load() is main
