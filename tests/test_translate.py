"""Pictures in, pictures out: names, sizes, alpha, chance, and what is refused before anything is written."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gansmith
from gansmith import UserError, translate
from gansmith.cli import main

SIDE = 16
OPTIONS: dict[str, Any] = {"device": "cpu", "say": lambda text: None}
SMALL = {"img_size": SIDE, "channels": 3, "batch_size": 2, "data.validation": 2, "n_cpu": 1, "sample_interval": 4}
PIX2PIX = {**SMALL, "networks.G.width": 2, "networks.G.depth": 4, "networks.D.width": 2}
CYCLEGAN = {
    **SMALL,
    **{f"networks.{name}.width": 2 for name in ("AB", "BA", "DA", "DB")},
    **{f"networks.{name}.blocks": 1 for name in ("AB", "BA")},
}


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width, *([] if mode == "L" else [len(mode)]))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def train(name: str, data: Path, keys: dict[str, Any], steps: int = 3) -> Path:
    options: dict[str, Any] = {"device": "cpu", "quiet": True}
    return gansmith.train(name, data=data, out=data.parent / name, steps=steps, overrides=keys, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny pix2pix on pairs side by side in one file, and a tiny cyclegan on two folders of any names."""
    folder = tmp_path_factory.mktemp("translators")
    for place, width, count in (("pairs", 2 * SIDE, 8), ("domains/summer", SIDE, 6), ("domains/winter", SIDE, 7)):
        (folder / place).mkdir(parents=True)
        for i in range(count):
            noise(width, SIDE, seed=i).save(folder / place / f"{i}.png")
    return {
        "pix2pix": train("pix2pix", folder / "pairs", PIX2PIX, 4),
        "cyclegan": train("cyclegan", folder / "domains", CYCLEGAN),
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def cli(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    def run(*args: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as end:
            main.main(args=[*map(str, args), "--device", "cpu"], prog_name="gansmith")
        return end.value.code, *capsys.readouterr()

    return run


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """(C, H, W)"""
    with Image.open(path) as image:
        return np.asarray(image).transpose(2, 0, 1)


def chw(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


# ---- files and folders -----------------------------------------------------------------------------------------


def test_files_and_folders_of_any_size_that_fits_keep_their_names(runs: dict[str, Path], cli: Any, here: Path) -> None:
    pictures = {"one.png": (16, 16), "in/wide.jpg": (48, 32), "in/deep/tall.bmp": (16, 64)}
    for i, (name, size) in enumerate(pictures.items()):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        noise(*size, seed=i).save(here / name)
    sampler = gansmith.load(runs["pix2pix"], device="cpu")
    code, out, err = cli("translate", runs["pix2pix"], "one.png", "in", "--out", "out")
    assert (code, out, err) == (0, "3 pictures: out\n", "")
    made = {"one.png": "one.png", "wide.png": "in/wide.jpg", "deep/tall.png": "in/deep/tall.bmp"}
    assert {str(p.relative_to("out")) for p in Path("out").rglob("*") if p.is_file()} == set(made)
    for target, source in made.items():
        with Image.open(source) as image:
            assert np.array_equal(pixels(Path("out", target)), sampler.translate([chw(image)])[0])
    # One by one they are the same: a picture does not depend on its neighbours.
    code, out, _ = cli("translate", runs["pix2pix"], "in/wide.jpg", "--out", "alone")
    assert code == 0 and out == "1 pictures: alone/wide.png\n"
    assert Path("alone/wide.png").read_bytes() == Path("out/wide.png").read_bytes()
    default = translate(runs["pix2pix"], "one.png", **OPTIONS)
    assert default == [runs["pix2pix"] / "translate-000004-to-b" / "one.png"]
    assert translate(runs["pix2pix"], "one.png", **OPTIONS) == default  # in the run the same may come again


def test_other_kinds_of_pictures_are_taken_as_in_training(runs: dict[str, Path], here: Path) -> None:
    """Alpha is laid on white, greys become three channels, 16 bits are scaled."""
    rgba, grey = noise(16, 16, "RGBA"), noise(16, 16, "L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for name, image in (("rgba", rgba), ("grey", grey), ("deep", deep)):
        image.save(here / f"{name}.png")
    values = np.asarray(rgba).astype(float)
    white = np.rint(values[..., :3] * values[..., 3:] / 255 + 255 - values[..., 3:]).astype(np.uint8)
    sampler = gansmith.load(runs["cyclegan"], device="cpu")
    made = translate(runs["cyclegan"], ["rgba.png", "grey.png", "deep.png"], out="out", **OPTIONS)
    on_white, three = sampler.translate([white.transpose(2, 0, 1), chw(grey)])
    assert np.abs(pixels(made[0]).astype(int) - on_white.astype(int)).max() <= 3  # to the rounding of the mixture
    assert np.array_equal(pixels(made[1]), three) and np.array_equal(pixels(made[2]), three)


def test_a_picture_goes_through_the_view_that_made_the_input(runs: dict[str, Path], here: Path) -> None:
    """Of a run that learns colouring from plain pictures: what it is given is made grey first."""
    (here / "plain").mkdir()
    for i in range(4):
        noise(16, 16, seed=i).save(here / f"plain/{i}.png")
    keys = {**PIX2PIX, "views": [{"name": "grey", "of": "b", "to": "a"}]}
    run = train("pix2pix", here / "plain", keys, 1)
    colour = noise(16, 16, seed=9)
    luminance = np.asarray(colour).astype(float) @ [0.299, 0.587, 0.114]
    sampler = gansmith.load(run, device="cpu")
    found, expected = sampler.translate([chw(colour), np.tile(luminance.round().astype(np.uint8), (3, 1, 1))])
    other = sampler.translate([chw(colour)[::-1].copy()])[0]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2 and not np.array_equal(found, other)


# ---- sizes -----------------------------------------------------------------------------------------------------


def test_sizes_that_do_not_fit_are_refused_with_what_would_and_resize_goes_there_and_back(
    runs: dict[str, Path], cli: Any, here: Path
) -> None:
    (here / "in").mkdir()
    noise(16, 16).save("in/a.png")
    noise(30, 41, seed=1).save("in/b.png")
    sizes = {
        "pix2pix": ("multiples of 16; the nearest is 48,32", "48,32"),
        "cyclegan": ("multiples of 4, at least 8; .* 40,32", "44,32"),
    }
    for name, (said, to) in sizes.items():
        text = rf"b.png: its size is 41,30; height and width must be {said}; --resize takes it to {to} and back"
        with pytest.raises(UserError, match=text):
            translate(runs[name], "in", out="out", **OPTIONS)
        assert not Path("out").exists()
    code, _, err = cli("translate", runs["cyclegan"], "in", "--resize", "--out", "out")
    assert (code, err) == (0, "")
    with Image.open("in/b.png") as image:
        small = image.resize((32, 44), Image.Resampling.BICUBIC)
    (there,) = gansmith.load(runs["cyclegan"], device="cpu").translate([chw(small)])
    back = Image.fromarray(there.transpose(1, 2, 0)).resize((30, 41), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels(Path("out/b.png")), chw(back))
    with Image.open("in/a.png") as image:
        assert np.array_equal(
            pixels(Path("out/a.png")), gansmith.load(runs["cyclegan"], device="cpu").translate([chw(image)])[0]
        )


# ---- chance, and which way -------------------------------------------------------------------------------------


def test_seeds_draw_what_dropout_leaves_to_chance(runs: dict[str, Path], cli: Any, here: Path) -> None:
    noise(32, 32).save("a.png")
    noise(16, 16, seed=1).save("b.png")
    assert cli("translate", runs["pix2pix"], "b.png", "a.png", "--seeds", "0-2", "--out", "out")[0] == 0
    assert sorted(p.name for p in Path("out").iterdir()) == [f"{n}-seed-{s}.png" for n in "ab" for s in range(3)]
    assert len({p.read_bytes() for p in Path("out").glob("a-*")}) == 3
    for seed in (0, 2):  # alone as among others
        (alone,) = translate(runs["pix2pix"], "a.png", seeds=[seed], out=f"alone{seed}", **OPTIONS)
        assert alone.name == "a.png" and alone.read_bytes() == Path(f"out/a-seed-{seed}.png").read_bytes()
    same = translate(runs["cyclegan"], "a.png", seeds=[0, 1], out="same", **OPTIONS)  # which has no dropout
    assert same[0].read_bytes() == same[1].read_bytes()


def test_a_maker_is_named_or_found_by_what_it_imitates(runs: dict[str, Path], cli: Any, here: Path) -> None:
    noise(16, 16).save("x.png")
    picture, run = chw(noise(16, 16)), runs["cyclegan"]
    for i, (words, maker) in enumerate(
        (([], "a2b"), (["--to", "b"], "a2b"), (["--to", "a"], "b2a"), (["--maker", "b2a"], "b2a"))
    ):
        assert cli("translate", run, "x.png", *words, "--out", f"out{i}")[0] == 0
        expected = gansmith.load(run, maker=maker, device="cpu").translate([picture])[0]
        assert np.array_equal(pixels(Path(f"out{i}/x.png")), expected)
    assert Path("out0/x.png").read_bytes() != Path("out2/x.png").read_bytes()
    for words, said in (
        (["--to", "c"], "nothing here makes 'c'; it must be one of b, a"),
        (["--maker", "x"], "a2b, b2a"),
    ):
        code, _, err = cli("translate", run, "x.png", *words)
        assert code == 2 and said in err


def test_sampling_a_translator_and_translating_with_a_sampler_say_what_to_use(
    runs: dict[str, Path], cli: Any, here: Path, pictures: Path, small: Callable[..., dict[str, Any]]
) -> None:
    for verb in ("sample", "interpolate"):
        code, _, err = cli(verb, runs["cyclegan"])
        assert code == 2 and err == "gansmith: error: this run makes pictures from pictures: use gansmith translate\n"
    gan = gansmith.train("gan", data=pictures, steps=1, device="cpu", overrides=small("gan"), quiet=True)
    code, _, err = cli("translate", gan, pictures)
    assert code == 2 and err == "gansmith: error: this run makes pictures from latents: use gansmith sample\n"
    sampler, translator = gansmith.load(gan, device="cpu"), gansmith.load(runs["pix2pix"], device="cpu")
    with pytest.raises(UserError, match="use translate"):
        translator.generate(sampler.latents([0]))
    with pytest.raises(UserError, match="use sample"):
        sampler.translate([np.zeros((1, 16, 16), np.uint8)])


# ---- what is refused before anything is written ----------------------------------------------------------------


def test_what_cannot_be_translated_or_written_is_refused(runs: dict[str, Path], here: Path) -> None:
    (here / "in").mkdir()
    (here / "empty").mkdir()
    noise(16, 16).save("in/a.png")
    noise(16, 16).save("a.jpg")
    for name in "yz":
        (here / f"in/{name}.png").write_bytes(b"no picture")
    (here / "file").write_text("", encoding="utf-8")
    wrong: list[tuple[Any, str, str]] = [
        (["in/z.png", "in/y.png"], "out", "in/z.png cannot be read: not a picture"),
        (["in/a.png", "a.jpg"], "out", "would both become out/a.png"),
        ("nowhere.png", "out", "there is no picture or folder nowhere.png"),
        ("empty", "out", "no pictures in empty"),
        ("a.jpg", "file", "--out file is a file; it must be a folder"),
        ("in/a.png", "in", "in is not empty: it holds a.png; give an empty folder"),
    ]
    before = (here / "in/a.png").read_bytes()
    for pictures, out, said in wrong:
        with pytest.raises(UserError, match=said):
            translate(runs["pix2pix"], pictures, out=out, **OPTIONS)
        assert not Path("out").exists() and (here / "in/a.png").read_bytes() == before


def test_pictures_that_cannot_be_read_are_named_and_passed_over(runs: dict[str, Path], here: Path) -> None:
    (here / "in").mkdir()
    noise(16, 16).save("in/a.png")
    for i in range(12):
        (here / f"in/z{i:02}.png").write_bytes(b"no picture")
    said: list[str] = []
    written = translate(runs["pix2pix"], "in", out="out", device="cpu", seeds=(0, 1), say=said.append)
    assert sorted(written) == [Path("out/a-seed-0.png"), Path("out/a-seed-1.png")] == sorted(Path("out").iterdir())
    told = [line for line in said if line.startswith("passed over: ")]
    assert told[0] == "passed over: in/z00.png cannot be read: not a picture"
    assert len(told) == 11 and told[10] == "passed over: 2 more that cannot be read"


def test_the_strip_of_a_run_shows_held_back_pictures_what_is_made_and_the_truth(runs: dict[str, Path]) -> None:
    from gansmith.build import load_split
    from gansmith.recipe import plan

    run = runs["pix2pix"]
    (held,) = load_split(plan(run).recipe, "validation", say=lambda text: None)
    strip = pixels(run / "growth" / "000004.png")
    tile = [[strip[:, 2 + 18 * r :, 2 + 18 * c :][:, :16, :16] for c in range(2)] for r in range(3)]
    made = gansmith.load(run, device="cpu").translate(list(held.columns["a"]), [0, 1])
    for c in range(2):
        assert np.array_equal(tile[0][c], held.columns["a"][c]) and np.array_equal(tile[2][c], held.columns["b"][c])
        assert np.array_equal(tile[1][c], made[c])
    with Image.open(runs["cyclegan"] / "growth" / "000003.png") as two:  # a2b above b2a, without truths
        assert two.size == (2 * 18 + 2, 2 * (2 * 18 + 2))


# ---- attributes ------------------------------------------------------------------------------------------------


def test_attributes_are_changed_by_name_and_all_else_stays(here: Path, cli: Any) -> None:
    from gansmith.build import load_split
    from gansmith.recipe import plan

    (here / "data").mkdir()
    for i in range(8):
        noise(SIDE, SIDE, seed=i).save(f"data/{i}.png")
    rows = "".join(f"{i}.png,{i % 2},{'rgb'[i % 3]}\n" for i in range(8))
    Path("data/attributes.csv").write_text("file,up,hue\n" + rows, encoding="utf-8")
    tiny = {"networks.G.width": 2, "networks.G.blocks": 1, "networks.D.width": 2, "game.n_critic": 1}
    run, names = train("stargan", here / "data", {**SMALL, **tiny}, 4), ("up", "hue=b", "hue=g", "hue=r")
    sampler, picture = gansmith.load(run, device="cpu"), chw(noise(SIDE, SIDE, seed=9))
    assert sampler.classes.names == names
    G, D = sampler.nets
    x = torch.from_numpy(picture.copy())[None] / 127.5 - 1
    with torch.no_grad():
        has = (D(x).attributes[0] > 0).tolist()
        hues = [0.0, 0.0, 1.0]  # what it has of them does not count
        for text, bits in (
            ("hue=r", [float(has[0]), *hues]),
            ("up=1,hue=r", [1.0, *hues]),
            ("up=0,hue=r=1", [0.0, *hues]),
            ("up", [1.0, *map(float, has[1:])]),
            ("hue=r=0", [*map(float, has[:3]), 0.0]),
        ):
            noise(SIDE, SIDE, seed=9).save("x.png")
            code, _, err = cli("translate", run, "x.png", "--attributes", text, "--out", text)
            assert code == 0, err
            expected = (G(x, torch.tensor([bits]))[0] + 1) * 127.5
            assert np.abs(pixels(Path(text) / "x.png") - expected.numpy()).max() <= 1
    noise(SIDE, 2 * SIDE).save("tall.png")
    for words, said in (
        (("x.png",), "needs what is to change (of up, hue=b, hue=g, hue=r): give --attributes"),
        (("x.png", "--attributes", "hue=x"), "no attribute 'hue=x'; it must be one of up, hue=b, hue=g, hue=r"),
        (("tall.png", "--attributes", "up"), "is 32,16; it must be 16,16; --resize takes it to 16,16 and back"),
    ):
        code, _, err = cli("translate", run, *words)
        assert code == 2 and said in err
    assert cli("translate", run, "tall.png", "--attributes", "up", "--resize", "--out", "back")[0] == 0
    assert pixels(Path("back/tall.png")).shape == (3, 2 * SIDE, SIDE)
    (held,) = load_split(plan(run).recipe, "validation", say=lambda text: None)
    strip = pixels(run / "growth" / "000004.png")  # a row for each: itself, and each attribute in turn
    for i, (own, bits) in enumerate(zip(held.images, held.columns["bits"], strict=True)):
        tiles = [strip[:, 2 + 18 * i :, 2 + 18 * c :][:, :16, :16] for c in range(1 + len(names))]
        assert np.array_equal(tiles[0], own)
        wishes = [{**dict(zip(names, bits > 0, strict=True)), "up": not bits[0]}]
        wishes += [{"up": bool(bits[0]), **{hue: hue == name for hue in names[1:]}} for name in names[1:]]
        for tile, wish in zip(tiles[1:], wishes, strict=True):
            # one after the other, so that what is wished last takes away what it excludes
            ordered = dict(sorted(wish.items(), key=lambda item: bool(item[1])))
            assert np.array_equal(tile, sampler.translate([own], attributes=ordered)[0])
