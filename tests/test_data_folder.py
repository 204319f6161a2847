"""Folders of pictures: each mode to the pixel, how folders are read as what is needed, broken files, the cache."""

import os
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import save_noise
from PIL import Image

from gansmith.data import ImageSet, Wanted, decoder, load_sets
from gansmith.data import cache as cache_module
from gansmith.data import load as loading
from gansmith.data.folder import has_split
from gansmith.data.load import spread
from gansmith.data.pictures import open_picture, to_array
from gansmith.errors import UserError

PLAIN, LABELLED, PAIRS, DOMAINS = (("x",),), (("x", "y"),), (("a", "b"),), (("a",), ("b",))
GREY = np.array([[0, 50, 100], [150, 200, 255], [1, 2, 3]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(cache: Path) -> Path:
    (path := cache.with_name("faces")).mkdir()
    return path


def load(what: Path | str, needs: Any = PLAIN, said: list[str] | None = None, **changed: Any) -> tuple[ImageSet, ...]:
    say = (lambda _: None) if said is None else said.append
    made = {"img_size": (3, 3), "channels": 1, "n_cpu": 2, "progress": False, "say": say, **changed}
    return load_sets(Wanted(str(what), needs=needs, **made))


def put(folder: Path, pictures: Mapping[str, int | tuple[int, int]], size: tuple[int, int] = (4, 4)) -> None:
    """Pictures, .png where nothing else is said, of one level each, or of two side by side."""
    for name, levels in pictures.items():
        path = folder / (name if "." in name.rpartition("/")[2] else f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        each = [np.full(size, level, np.uint8) for level in (levels if isinstance(levels, tuple) else (levels,))]
        Image.fromarray(np.concatenate(each, axis=1)).save(path)


def levels(*sets: ImageSet) -> dict[str, list[int]]:
    """The first pixel of each picture, by field."""
    return {name: [int(v) for v in c[:, 0, 0, 0]] for data in sets for name, c in data.pictures.items()}


def firsts(*args: Any, **how: Any) -> list[int]:
    return levels(*load(*args, **how))["x"]


def test_a_flat_folder_in_the_order_of_names(folder: Path) -> None:
    put(folder, {"b.PNG": 1, "a.jpg": 0, "c.webp": 2, "d.bmp": 3, "e.gif": 4, "f.TIFF": 5, "g.jpeg": 6})
    put(folder, dict.fromkeys((".x.png", ".thumbs/x", "@eaDir/x", "$RECYCLE.BIN/x", "__MACOSX/x"), 99))
    for name in ("notes.txt", "a.PSD", "b.psd", "Makefile"):
        (folder / name).write_text("not looked at")
    (data,) = load(folder, said=(said := []))
    assert levels(data) == {"x": list(range(7))} and data.labels is None and (data.name, data.classes) == ("faces", ())
    passed, begun, done = said
    assert passed.startswith(f"passed over in {folder}: 4 files with other endings (2 .psd, 1 ")
    assert begun == "preparing 7 pictures of faces at 3x3, 1 channel" and done.startswith("prepared 7 pictures")


@pytest.mark.parametrize("needs", [LABELLED, PAIRS])
def test_processes_that_decode_make_the_same_set(
    needs: Any, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(0)
    for i in range(40):
        name = f"{'ab'[i % 2]}/{i // 2:02d}" + (" \udcff é.png" if i // 2 == 7 else ".png")
        shape = (4 + i // 2 % 3, 5, 3) if i % 4 < 2 else (9, 6)
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    (folder / "a" / "03.png").write_bytes(b"")
    (folder / "b" / "05.png").write_text("no picture")
    found = []
    for many in (1, 10**9):
        monkeypatch.setattr("gansmith.data.prepare.MANY", many)
        monkeypatch.setenv("GANSMITH_CACHE", str(cache / str(many)))
        (data,) = load(folder, needs, said=(said := []))
        found.append((data.digest, [text for text in said if not text.startswith("prepared")]))
    assert found[0] == found[1]
    texts = " ".join(found[0][1])
    assert "03.png" in texts and "an empty file" in texts and "not a picture" in texts and "become grey" in texts
    Image.new("L", (8, 8)).save(folder / "b" / "09.png")
    if needs == PAIRS:
        with pytest.raises(UserError, match="09.png is .* the two pictures of a pair must have one size"):
            monkeypatch.setattr("gansmith.data.prepare.MANY", 1)
            load(folder, needs)


def test_class_folders(folder: Path) -> None:
    put(folder, {"dog/1": 1, "cat/2": 2, "dog/puppies/3": 3, "#recycle/9": 9})
    (folder / "empty").mkdir()
    (data,) = load(folder, LABELLED)
    assert data.classes == ("cat", "dog") and levels(data) == {"x": [2, 1, 3]}
    assert data.columns["y"].tolist() == [0, 1, 1]
    with pytest.raises(
        UserError, match="no folders a and b for the train split, nor two subfolders alone; give .*mnist_co"
    ):
        load(folder, DOMAINS)
    assert load(folder / "dog")[0].labels is None  # a single folder is no class
    put(folder, {"4": 4})
    (data,) = load(folder, (("b",),), said := [])
    assert levels(data) == {"b": [4, 2, 1, 3]} and data.classes == () and "without labels" in said[0]
    with pytest.raises(
        UserError, match=r"no labels in .*faces: 4.png lies in no subfolder; give a folder with one subfolder per class"
    ):
        load(folder, LABELLED)
    with pytest.raises(UserError, match="it must name one picture, such as x, or two, such as a and b"):
        load(folder, (("a", "b", "c"),))


@pytest.mark.parametrize(
    ("names", "trained", "tested"),
    [
        ("train test", "train", "test"),
        ("Train VAL", "Train", "VAL"),
        ("train test val other __MACOSX", "train", "test"),
        ("train", "train", None),
        ("a b test", "a b", "test"),
        (". test Validation", ".", "test"),
        ("trainA trainB testA testB", "trainA trainB", None),
        ("car plane train", "car plane train", None),
        ("bottle/train bottle/test cup/train cup/test", "bottle/train cup/train", None),
    ],
)
def test_which_folders_train(folder: Path, names: str, trained: str, tested: str | None) -> None:
    """Test pictures never do; a class may be called train where no test folder stands beside it."""
    value = {name: i for i, name in enumerate(names.split())}
    put(folder, {f"{name}/1": i for name, i in value.items()})
    assert sorted(firsts(folder, said=(said := []))) == sorted(value[name] for name in trained.split())
    assert has_split(folder, "test") == (tested is not None)
    if tested:
        assert firsts(folder, split="test") == [value[tested]]
    else:
        with pytest.raises(UserError, match="has no test split; it would be the pictures in .*/test"):
            load(folder, split="test")
    for name, out in (("other", ["other"]), ("Validation", ["Validation", "test"])):
        assert (name in value) == (f"left out of training: {', '.join(str(folder / one) for one in out)}" in said)


def test_links_in_a_circle_end_and_pipes_do_not_hang(folder: Path) -> None:
    put(folder, {"a/1": 0, "b/1": 1})
    for link, to in {"a/up": folder, "b/self": folder / "b", "c": folder / "a"}.items():
        (folder / link).symlink_to(to, target_is_directory=True)
    os.mkfifo(folder / "b" / "3.png")
    (data,) = load(folder)
    assert data.classes == ("a", "b", "c") and levels(data) == {"x": [0, 1, 0]}


def test_colours_that_are_lost_are_said_at_each_load(folder: Path) -> None:
    put(folder, {"grey": 7})
    red = Image.new("RGB", (3, 3), (255, 0, 1))
    for i, image in enumerate([Image.new("RGB", (3, 3), (9, 9, 9)), red, red.convert("P")]):
        image.save(folder / f"{i}.png")
    for channels, times in ((1, 1), (1, 1), (3, 0)):
        load(folder, said=(said := []), channels=channels)
        assert sum("2 of 4 pictures of faces are stored in colour and become grey" in line for line in said) == times


# ---- pairs ------------------------------------------------------------------------------------------------------


def test_whole_pictures_are_made_small_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of them could fill the memory: halves of large photos are read whole."""
    put(folder, {f"train/{i}": (i, 100 + i) for i in range(5)})
    seen = []

    def decode(data: Any, form: Any) -> Any:
        seen.append(len(data))
        return decoder.decode(data, form)

    monkeypatch.setattr("gansmith.data.prepare.decode", decode)
    (data,) = load(folder, PAIRS)
    assert seen == [2] * 5 and levels(data) == {"a": [*range(5)], "b": [*range(100, 105)]}


def test_pictures_that_look_like_no_pairs_are_doubted_unless_the_recipe_is_sure(tmp_path: Path) -> None:
    for pairs, doubts in (("auto", 1), ("halves", 0)):
        save_noise(tmp_path / "square", 3, size=(6, 6))
        load(tmp_path / "square", PAIRS, said := [], pairs=pairs)
        assert sum("is 6x6, and half of it 3x6: is it a pair?" in line for line in said) == doubts
    save_noise(tmp_path / "wide", 3, size=(4, 6))
    load(tmp_path / "wide", PAIRS, said := [])
    assert not any("is it a pair?" in line for line in said)


def test_halves_left_is_a_unless_the_direction_is_b2a(folder: Path) -> None:
    put(folder, {"train/0": (0, 100), "train/1": (1, 101), "val/9": (9, 109)})
    (data,) = load(folder, PAIRS, said := [])
    assert levels(data) == {"a": [0, 1], "b": [100, 101]} and data.labels is None
    assert f"{folder / 'train'}: the left half of each picture is a, the right half b" in said
    assert "preparing 2 pairs of faces at 3x3, 1 channel" in said
    (turned,) = load(folder, PAIRS, said := [], pairs="halves", direction="b2a")
    assert levels(turned) == {"a": [100, 101], "b": [0, 1]} and turned.digest != data.digest
    assert f"{folder / 'train'}: the left half of each picture is b, the right half a" in said
    assert levels(*load(folder, PAIRS, split="test")) == {"a": [9], "b": [109]}
    assert has_split(folder, "test", PAIRS) and not has_split(folder, "test", DOMAINS)
    with pytest.raises(
        UserError, match="nor two subfolders alone; .*for files with both side by side: --data.pairs halves"
    ):
        load(folder, DOMAINS)
    assert levels(*load(folder, DOMAINS, pairs="halves", direction="b2a")) == levels(turned)
    Image.fromarray(np.repeat(np.array([[2570, 51400]] * 4, np.uint16), 4, 1)).save(folder / "val" / "9.png")
    assert levels(*load(folder, PAIRS, split="test")) == {"a": [10], "b": [200]}  # 16 bits keep one range
    put(folder, {"train/2": 1}, size=(4, 5))
    with pytest.raises(UserError, match=r"2\.png is 5 pixels wide, .* the width must be even"):
        load(folder, PAIRS)


@pytest.mark.parametrize("names", ["a B", "train/a train/B", "trainA trainB", "a/train b/train"])
def test_folders_of_equal_names_are_pairs_or_domains(folder: Path, names: str) -> None:
    """In each layout; the test pictures beside them are another split."""
    for side, name in enumerate(names.split()):
        test = name.replace("train", "test") if "train" in name else f"test/{name}"
        put(folder, {f"{name}/x/2.{('bmp', 'png')[side]}": 100 * side + 2, f"{name}/1": 100 * side + 1})
        put(folder, {f"{test}/9": 100 * side + 9})
    for needs, pairs in ((PAIRS, "auto"), (PAIRS, "folders"), (DOMAINS, "auto")):
        assert levels(*load(folder, needs, said := [], pairs=pairs)) == {"a": [1, 2], "b": [101, 102]}
        assert said[0] == "a is {}, b is {}".format(*(folder / name for name in names.split()))
        assert levels(*load(folder, needs, direction="b2a")) == {"a": [101, 102], "b": [1, 2]}
        assert levels(*load(folder, needs, split="test")) == {"a": [9], "b": [109]}
        assert has_split(folder, "test", needs)


def test_pictures_without_a_partner_are_said_and_left_out(folder: Path) -> None:
    put(folder, {f"a/{i:02}": i for i in range(14)} | {f"b/{i:02}.tif": 100 + i for i in (3, 5, 99)})
    for _ in range(2):  # from the cache, too
        assert levels(*load(folder, PAIRS, said := [])) == {"a": [3, 5], "b": [103, 105]}
        (line,) = [line for line in said if "left out: 13 without a partner of the same name: " in line]
        assert line.count("/a/") == 10 and line.endswith(" and 3 more")
    for i in (3, 5):
        (folder / "b" / f"{i:02}.tif").unlink()
    with pytest.raises(UserError, match=r"no picture in .*/a has a partner in .*/b"):
        load(folder, PAIRS)


def test_what_cannot_be_a_pair_is_refused_and_a_broken_partner_leaves_it_out(folder: Path) -> None:
    with pytest.raises(UserError, match="has no folders a and b for the train split; give a folder with subfolders"):
        load(folder, PAIRS, pairs="folders")
    put(folder, {f"{side}/{i}": i for side in "ab" for i in range(3)})
    (folder / "b" / "1.png").write_bytes(b"")
    assert levels(*load(folder, PAIRS, said := [])) == {"a": [0, 2], "b": [0, 2]}
    assert "left out 1.png with its partner 1.png: an empty file" in said
    with pytest.raises(UserError, match="no labels in .*a and .*b; give a folder"):
        load(folder, (("a", "b", "y"),))
    put(folder, {"b/1": 1}, size=(4, 6))
    with pytest.raises(UserError, match=r"a/1\.png is 4x4 and .*b/1\.png is 6x4 .*; the two .* must have one size"):
        load(folder, PAIRS)
    put(folder, {"b/1.bmp": 1})
    with pytest.raises(UserError, match=r"b/1\.bmp and .*b/1\.png have one name, apart from the ending"):
        load(folder, PAIRS)


@pytest.mark.parametrize("names", ["horse zebra", "train/horse train/zebra", "B/x A/y"])
def test_any_two_folders_are_domains(folder: Path, names: str) -> None:
    for side, name in enumerate(names.split()):
        put(folder, {f"{name}/{i}": 100 * side + i for i in range(3 + side)} | {"test/9": 9})
    first, second = sorted(names.replace("/x", "").replace("/y", "").split())
    a, b = load(folder, DOMAINS, said := [])
    assert said[0] == f"a is {folder / first}, b is {folder / second}"
    both = [[0, 1, 2], [100, 101, 102, 103]][:: -1 if first == "A" else 1]
    assert levels(a, b) == {"a": both[0], "b": both[1]}
    turned = load(folder, DOMAINS, direction="b2a")
    assert levels(*turned) == {"a": both[1], "b": both[0]} and [data.digest for data in turned] == [b.digest, a.digest]


@pytest.mark.parametrize("needs", [PAIRS, DOMAINS])
def test_so_many_are_held_back_of_each(folder: Path, needs: Any) -> None:
    put(folder, {f"{side}/{i:02}": base + i for side, base in (("a", 0), ("b", 100)) for i in range(12)})
    train, held = (levels(*load(folder, needs, validation=4, split=split)) for split in ("train", "validation"))
    for side, base in (("a", 0), ("b", 100)):
        assert len(held[side]) == 4 and sorted(train[side] + held[side]) == list(range(base, base + 12))
    assert [v + 100 for v in held["a"]] == held["b"]


def test_parts_are_the_whole_with_all_classes_in_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once in pieces of any size, mapped, then found in the cache."""
    counts = (40, 7, 25, 12)
    put(folder, {f"class{c}/{i:02}": 60 * c + i for c, count in enumerate(counts) for i in range(count)})
    monkeypatch.setattr(loading, "CHUNK", 7)
    (whole,) = load(folder)
    for n in (1, 28, 83):
        train, held = (load(folder, validation=n, split=split)[0] for split in ("train", "validation"))
        assert (len(train), len(held)) == (84 - n, n) and len({whole.digest, train.digest, held.digest}) == 3
        numbers = [np.array(levels(part)["x"]) for part in (train, held)]
        assert all((np.diff(part) > 0).all() for part in numbers)
        assert sorted(np.concatenate(numbers)) == levels(whole)["x"]
        for part, grey in zip((train, held), numbers, strict=True):
            assert isinstance(part.images, np.memmap) and np.array_equal(grey // 60, part.columns["y"])
            assert part.classes == whole.classes and not any(c.flags.writeable for c in part.columns.values())
        if n == 28:  # a third of each class, to within the two stretches that it shares with its neighbours
            assert (abs(np.bincount(held.columns["y"]) - np.array(counts) / 3) <= 2).all()
    monkeypatch.setattr(loading, "spread", None)
    (again,) = load(folder, validation=83, split="validation")
    assert again.digest == held.digest and np.array_equal(again.images, held.images)


def test_one_place_of_every_stretch_at_random() -> None:
    """Against an order with a period, such as ten classes in turn: each gets its tenth, where even steps see one."""
    for n, k in ((60, 1), (60, 59), (84, 28), (10_007, 1000), (5, 3)):
        places = spread(n, k)
        assert len(places) == k and all(j * n // k <= place < (j + 1) * n // k for j, place in enumerate(places))
    counts = np.bincount(spread(100_000, 10_000) % 10, minlength=10)
    assert np.abs(counts - 1000).max() < 6 * np.sqrt(1000 * 0.9)
    assert spread(1000, 5).tolist() == [42, 335, 527, 614, 862]  # the same on every machine


def test_what_cannot_be_held_back_is_refused(folder: Path) -> None:
    put(folder, {f"{i:02}": i for i in range(20)})
    for n, split in ((20, "train"), (1000, "validation"), (-1, "train")):
        with pytest.raises(
            UserError, match=rf"data\.validation is {n}, .* has 20 images in all; .*of them is --data.validation 2$"
        ):
            load(folder, validation=n, split=split)
    with pytest.raises(UserError, match="has no validation images: --data.validation N holds N back"):
        load(folder, split="validation")
    with pytest.raises(UserError, match="tfd has validation images of its own: it must be 0"):
        load("tfd", validation=10)


def test_broken_files_are_listed_with_their_reasons_and_no_refusal_but_for_none_left(folder: Path) -> None:
    (folder / "text.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"no pictures in .*faces.*looked for .*\.jpg.*\.png"):
        load(folder)
    (folder / "text.txt").rename(folder / "text.png")
    with pytest.raises(UserError, match=r"none of the 1 pictures .* text\.png: not a picture"):
        load(folder, max_broken=1)
    put(folder, {"whole": 7}, (64, 64))
    raw = (folder / "whole.png").read_bytes()
    Image.effect_noise((64, 64), 100).save(folder / "cut.png")
    os.truncate(folder / "cut.png", 1000)
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "self.png").symlink_to(folder / "self.png")
    bomb = raw[:16] + (30_000).to_bytes(4, "big") * 2 + raw[24:]
    bomb = bomb[:29] + zlib.crc32(bomb[12:29]).to_bytes(4, "big") + bomb[33:]
    for name, content in (("empty.jpg", b""), ("header.png", raw[:20]), ("bomb.png", bomb)):
        (folder / name).write_bytes(content)
    reasons = {
        "bomb": "far more pixels than data.max_megapixels allows",
        "cut": "truncated",
        "empty": "an empty file",
        "gone": "No such file",
    }
    reasons |= {"header": "", "self": "levels of symbolic links", "text": "not a picture"}
    assert firsts(folder, said=(said := [])) == [7]
    left_out = [line.removeprefix("left out ") for line in said if line.startswith("left out")]
    assert {line.partition(".")[0] for line in left_out} == set(reasons)
    assert all(reasons[line.partition(".")[0]] in line and "\n" not in line for line in left_out)
    assert firsts(folder, said=(again := [])) == [7]
    assert len(again) == 1 and "7 of 8 pictures of faces are left out as broken" in again[0] and again[0] in said


def test_more_than_ten_broken_files_are_an_error_and_leave_no_cache(folder: Path, cache: Path) -> None:
    """Where they are fewer, labels stay with their pictures."""
    put(folder, {f"{('even', 'odd')[i % 2]}/{i:02}": i for i in range(40)})
    files = sorted(folder.glob("*/*"))
    for file in files[:20:2]:
        file.write_bytes(b"")
    (data,) = load(folder, LABELLED, max_broken=0, n_cpu=4)
    assert len(data) == 30 and [value % 2 for value in levels(data)["x"]] == data.columns["y"].tolist()
    files[1].write_bytes(b"")
    entries = list(cache.iterdir())
    with pytest.raises(UserError, match=r"11 of 40 .* more than max_broken = 0.2 .* even/00.png: an empty file"):
        load(folder, max_broken=0.2)
    assert list(cache.iterdir()) == entries
    assert len(firsts(folder, said=(said := []), max_broken=0.5)) == 29
    assert len([line for line in said if line.startswith("left out")]) == 10
    with pytest.raises(UserError, match="11 of 40 pictures"):
        load(folder, max_broken=0.2)  # what was prepared is refused, too


# ---- the cache --------------------------------------------------------------------------------------------------


def test_a_load_reads_pictures_where_files_or_preprocessing_have_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, {"1": 1}, size=(2, 4))
    options: list[dict[str, Any]] = [{}, {"channels": 3}, {"img_size": (3, 4)}, {"fit": "pad"}]
    (first, *others) = [load(folder, **changed)[0] for changed in options]
    with monkeypatch.context() as patch:
        patch.setattr("gansmith.data.pictures.open_picture", pytest.fail)
        (again,) = load(folder, said=(said := []))
    assert said == [] and isinstance(again.images, np.memmap)
    assert again.digest == first.digest and np.array_equal(first.images, again.images)
    put(folder, {"1": 100}, size=(2, 4))
    (changed,) = load(folder)
    assert levels(changed) == {"x": [100]}
    put(folder, {"2": 2})
    assert len({data.digest for data in (first, *others, changed, *load(folder))}) == 6


def test_the_digest_depends_on_the_content_alone(folder: Path, tmp_path: Path) -> None:
    put(folder, {f"{i}/x": i for i in range(3)})
    digest = load(folder, channels=3)[0].digest
    assert digest.startswith("99c0dcafff72")  # runs of older versions ask for it
    moved = tmp_path / "elsewhere" / "faces"
    moved.parent.mkdir()
    folder.rename(moved)
    os.utime(moved / "1" / "x.png", (1, 1))
    assert load(moved, channels=3)[0].digest == digest
    (moved / "2").rename(moved / "0" / "deeper")
    assert load(moved, channels=3)[0].digest != digest  # the same pixels with other labels


DAMAGE = {
    "images.npy": [lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), lambda raw: raw[:130], lambda _: b""],
    "labels.npy": [lambda raw: raw[:-8] + bytes(8)],
    "set.json": [lambda _: b"{", lambda _: b"{}"],
}


def test_a_damaged_entry_is_said_and_made_anew(folder: Path, cache: Path) -> None:
    put(folder, {"a/1": 0, "b/1": 1})
    (whole,) = load(folder)
    (entry,) = cache.iterdir()
    for file, damage in [(entry / name, damage) for name, own in DAMAGE.items() for damage in (*own, None)]:
        content = file.read_bytes()
        file.unlink()
        if damage is not None:
            file.write_bytes(damage(content))
        (data,) = load(folder, said=(said := []))
        assert file.name == "set.json" or any("making it anew" in text and str(entry) in text for text in said)
        assert data.digest == whole.digest and levels(data) == {"x": [0, 1]} and data.columns["y"].tolist() == [0, 1]
        load(folder, said=(said := []))
        assert said == ["2 subfolders are classes, for recipes with labels: a, b"]
        assert list(cache.iterdir()) == [entry]


def test_nothing_is_left_behind(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an interrupt, on a full disk, for days by a process that was killed, or by several loads at once."""
    put(folder, {f"{i:03}": i for i in range(200)})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache_module.Draft, "write", Mock(side_effect=KeyboardInterrupt))
        load(folder)
    assert list(cache.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("gansmith-prepare")]
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"No space left .* set GANSMITH_CACHE[^\n]*$"):
        patch.setattr(cache_module, "_flush", Mock(side_effect=OSError(28, "No space left on device")))
        load(folder)
    assert list(cache.iterdir()) == []
    for name, then in ((".tmp-new", None), (".tmp-old", (1, 1))):
        (cache / name).mkdir()
        os.utime(cache / name, then)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: firsts(folder, n_cpu=1), range(4)))
    assert found == [list(range(200))] * 4 and len(list(cache.iterdir())) == 2
    assert [path.name for path in cache.glob(".tmp-*")] == [".tmp-new"]


def test_where_the_cache_lies_and_that_the_set_lies_in_memory_without_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, {"a/1": 0, "b/1": 1})
    (in_cache,) = load(folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "file"))
    (data,) = load(folder, said=(said := []))
    assert any("cannot be written" in line for line in said)
    assert np.array_equal(data.images, in_cache.images) and data.digest == in_cache.digest
    assert not any(column.flags.writeable for held in (data, in_cache) for column in held.columns.values())
    monkeypatch.setattr("sys.platform", "linux")

    def refuse(path: Path, *_: Any) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as closed:  # a folder that may not be entered
        closed.setattr(Path, "exists", lambda path: path.name == "set.json" and refuse(path))
        closed.setattr(Path, "glob", refuse)
        assert load(folder, said=(said := []))[0].digest == in_cache.digest
    assert any("Permission denied" in line for line in said)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("GANSMITH_CACHE")
    for value, expected in (("", "/home/someone/.cache/gansmith"), ("/x", "/x/gansmith")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_module.cache_folder() == Path(expected)


def test_impossible_values_are_refused_and_unknown_names_answered_with_the_nearest(folder: Path) -> None:
    wrong = {"channels": 2, "split": "valid", "fit": "cover", "pairs": "both", "direction": "b"}
    for key, value in wrong.items():
        with pytest.raises(UserError, match=f"{key} is {value!r}; it must be one of "):
            load(folder, **{key: value})
    for what, text in {
        "mnits": "no folder 'mnits' here, and no data of that name; did you mean mnist?",
        "CIFAR-10": "did you mean cifar10?",
        "./pictures": "no such folder: .*pictures",
        "a/b": "no such folder",
        "": "no folder '' here, and no data",
        __file__: "is a file; unpack it",
    }.items():
        with pytest.raises(UserError, match=text):
            load(what)


# ---- pixels -----------------------------------------------------------------------------------------------------


def array(image: Image.Image, channels: int, fit: str = "crop", size: tuple[int, int] | None = None) -> Any:
    """The picture as it is prepared, (H, W, channels) or (H, W), at its own size where none is given."""
    found = to_array(image, size or (image.height, image.width), channels, fit).transpose(1, 2, 0)
    return found[..., 0] if channels == 1 else found


def expect(image: Image.Image, colour: Any) -> None:
    """The picture in 3 channels and in 1, to the pixel: by ITU-R 601 in 16-bit fixed point, with Pillow's rounding."""
    grey = ((colour.astype(np.int64) @ [19595, 38470, 7471] + 0x8000) >> 16).astype(np.uint8)
    for fit in ("crop", "pad", "stretch"):
        np.testing.assert_array_equal(array(image, 1, fit), grey)
        np.testing.assert_array_equal(array(image, 3, fit), colour)


def test_pictures_are_taken_as_they_are_and_transparency_is_laid_on_white_or_kept(tmp_path: Path) -> None:
    bits = np.where(GREY > 120, 255, 0).astype(np.uint8)
    expect(Image.fromarray(bits).convert("1", dither=Image.Dither.NONE), np.dstack([bits] * 3))
    alpha = np.array([[255, 0, 255], [0, 255, 0], [255, 255, 0]], np.uint8)
    for pixels, own in ((GREY, np.dstack([GREY] * 3)), (COLOUR, COLOUR)):
        expect(image := Image.fromarray(pixels), own)
        image.putalpha(Image.fromarray(alpha))
        expect(image, np.where(alpha[..., None] == 255, own, 255).astype(np.uint8))
        np.testing.assert_array_equal(array(image, 4), np.dstack([own, alpha]))
    assert set(array(Image.new("RGBA", (3, 3), (0, 0, 0, 128)), 1).ravel()) == {127}
    assert (array(Image.fromarray(GREY), 4)[..., 3] == 255).all()
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    rgb = Image.new("RGB", (2, 1), (255, 0, 0))
    rgb.putpixel((1, 0), (1, 2, 3))
    indices: list[Any] = [(palette, "gif", 1), (palette, "png", 1), (palette, "png", bytes([255, 0]))]
    for image, ending, transparent in (*indices, (rgb, "png", (1, 2, 3))):
        image.save(file := tmp_path / f"a.{ending}", transparency=transparent)
        assert array(open_picture(file), 3).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert array(palette, 3).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    Image.fromarray(GREY).save(file, transparency=200)
    assert array(open_picture(file), 3)[1, 1].tolist() == [255, 255, 255]


def test_deep_greys_are_scaled_not_clipped_and_other_colour_spaces_come_out_as_rgb(tmp_path: Path) -> None:
    """Greys of 16 and 12 bits, and floats in a range of 1 or of 255."""
    deep = GREY.astype(np.uint16) * 257
    deep[0] = [128, 129, 65535 - 129]  # round to 0, 1 and 254
    for ending in ("png", "tif"):
        Image.fromarray(deep).save(tmp_path / f"a.{ending}")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "b.tif")
    Image.frombytes("I;16B", (3, 3), deep.astype(">u2").tobytes()).save(tmp_path / "c.tif")
    (tmp_path / "d.pgm").write_bytes(b"P5 3 3 65535\n" + deep.astype(">u2").tobytes())
    for file in tmp_path.iterdir():
        np.testing.assert_array_equal(array(open_picture(file), 1), [[0, 1, 254], *GREY[1:]])
    for values in (np.rint(GREY / 255 * 4095).astype(np.uint16), GREY / np.float32(255), GREY.astype(np.float32)):
        np.testing.assert_array_equal(array(Image.fromarray(values), 1), GREY)
    for bad in (-1.0, 256.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="floats must lie"):
            array(Image.fromarray(np.full((3, 3), bad, np.float32)), 1)
    with pytest.raises(ValueError, match="integers must lie"):
        array(Image.fromarray(np.full((3, 3), 70_000, np.int32)), 1)
    for mode in ("CMYK", "YCbCr", "HSV"):
        for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]:
            plain = Image.new("RGB", (2, 2), colour)
            for channels in (1, 3, 4):
                assert abs(array(plain.convert(mode), channels).astype(int) - array(plain, channels)).max() <= 2
    assert array(Image.new("LAB", (2, 2), (255, 128, 128)), 3).min() > 250


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, ending: str) -> None:
    """Each of the eight ways to store the same picture gives that picture."""
    turned = COLOUR.transpose(1, 0, 2)
    half = COLOUR[::-1, ::-1]
    stored = [COLOUR, COLOUR[:, ::-1], half, COLOUR[::-1], turned, np.rot90(COLOUR), half.transpose(1, 0, 2)]
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    for orientation, pixels in enumerate([*stored, np.rot90(COLOUR, -1)], start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(pixels)).save(file := tmp_path / f"a.{ending}", exif=exif, **options)
        np.testing.assert_array_equal(array(open_picture(file), 3), COLOUR)


def test_fits() -> None:
    """A picture of 2 rows by 4 columns, left half black and right half white; and one of 6 by 6 into rectangles."""
    image = Image.fromarray(np.array([[0, 0, 255, 255]] * 2, np.uint8))
    assert array(image, 1, "crop", (2, 2)).tolist() == [[0, 255], [0, 255]]
    assert array(image, 1, "pad", (4, 4)).tolist() == [[0] * 4, [0, 0, 255, 255], [0, 0, 255, 255], [0] * 4]
    tall = Image.fromarray(np.full((8, 1), 255, np.uint8))
    assert array(tall, 1, "pad", (4, 4)).tolist() == [[0, 255, 0, 0]] * 4
    left, right = array(image, 1, "stretch", (2, 2))[0]
    assert left < 30 and right > 225
    grid = np.repeat(np.repeat(np.arange(9, dtype=np.uint8).reshape(3, 3) * 20, 2, 0), 2, 1)
    square = Image.fromarray(grid)
    np.testing.assert_array_equal(array(square, 1, "crop", (4, 6)), grid[1:5])
    np.testing.assert_array_equal(array(square, 1, "crop", (6, 4)), grid[:, 1:5])
    np.testing.assert_array_equal(array(square, 1, "pad", (6, 10)), np.pad(grid, ((0, 0), (2, 2))))
    assert array(square, 3, "stretch", (5, 7)).shape == (5, 7, 3)
    # A chequerboard becomes grey; taking every other pixel would make it black or white.
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert abs(array(Image.fromarray(board), 1, size=(16, 16)).astype(int) - 127).max() < 12


def test_runs_among_the_pictures_are_no_data(tmp_path: Path) -> None:
    """`cd pictures; gansmith train gan --data .` puts runs/ there."""
    said: list[str] = []
    for file in ("a.png", "b.png", "runs/gan-001/samples/000400.png", "runs/gan-001/recipe.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / file, format="PNG")
    (tmp_path / "runs/gan-001/checkpoints").mkdir()
    (found,) = load_sets(Wanted(str(tmp_path), (8, 8), 1, say=said.append, progress=False))
    assert len(found) == 2
    assert [line for line in said if "left out of training" in line and "gan-001" in line]


def test_a_picture_that_claims_to_be_huge_is_left_out_before_it_is_decoded(folder: Path) -> None:
    put(folder, {"a": 0, "b": 1})
    Image.new("1", (3000, 1000)).save(folder / "large.png")
    (data,) = load(folder, max_megapixels=2, said=(said := []))
    assert len(data) == 2
    text = "left out large.png: 3000x1000 pixels are more than 2 megapixels; data.max_megapixels allows more"
    assert text in said
    assert len(load(folder, max_megapixels=3)[0]) == 3


def test_photos_of_telephones_are_read_where_the_library_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gansmith.data import pictures

    heif = pytest.importorskip("pillow_heif")
    put(folder, {"a": 0})
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 200, 200))).save(folder / "photo.HEIC")
    (data,) = load(folder)
    assert len(data) == 2 and abs(int(data.images[1].mean()) - 200) <= 2
    without = tuple(ending for ending in pictures.EXTENSIONS if ending not in pictures.HEIC)
    monkeypatch.setattr("gansmith.data.folder.list_folder.__defaults__", (without,))
    (data,) = load(folder, said=(said := []))
    assert len(data) == 1
    assert any("1 .heic" in text and "pip install pillow-heif, to read .heic" in text for text in said)


def test_of_two_domains_only_those_need_labels_whose_labels_are_needed(folder: Path) -> None:
    put(folder, {"a/cat/1": 0, "a/dog/2": 1, "b/3": 2, "b/4": 3})
    needs = (("a", "y"), ("b",))
    a, b = load(folder, needs=needs)
    assert a.columns["y"].tolist() == [0, 1] and a.classes == ("cat", "dog") and len(b) == 2
    with pytest.raises(UserError, match=r"there are no labels in .*b; give .*"):
        load(folder, needs=needs, direction="b2a")
