"""Folders of pictures: every mode of Pillow to the pixel, broken files, classes, and the cache of them."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gansmith.data import ImageSet, load_images
from gansmith.data import cache as cache_module
from gansmith.data.pictures import to_array
from gansmith.errors import UserError

GREY = np.array([[0, 50, 100], [150, 200, 255], [1, 2, 3]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "faces"
    path.mkdir()
    return path


def load(folder: Path, said: list[str] | None = None, **changed: Any) -> ImageSet:
    arguments: dict[str, Any] = {"img_size": 3, "channels": 3, "n_cpu": 2, **changed}
    return load_images(str(folder), say=(lambda _: None) if said is None else said.append, **arguments)


def flat(path: Path, value: int, size: tuple[int, int] = (3, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def firsts(data: ImageSet) -> list[int]:
    return [int(value) for value in data.images[:, 0, 0, 0]]


# --- pixels ---


def expect(image: Image.Image, grey: np.ndarray, colour: np.ndarray) -> None:  # type: ignore[type-arg]
    """The picture in 1 and in 3 channels, at its own size, to the pixel."""
    size = image.width
    for fit in ("crop", "pad", "stretch"):
        np.testing.assert_array_equal(to_array(image, size, 1, fit), grey[None])
        np.testing.assert_array_equal(to_array(image, size, 3, fit), colour.transpose(2, 0, 1))


def as_colour(grey: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return np.repeat(grey[..., None], 3, axis=-1)


def luma(colour: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """ITU-R 601 in 16-bit fixed point, with Pillow's rounding."""
    weights = np.array([19595, 38470, 7471], np.int64)
    return ((colour.astype(np.int64) @ weights + 0x8000) >> 16).astype(np.uint8)


def test_grey_and_colour_are_taken_as_they_are() -> None:
    expect(Image.fromarray(GREY), GREY, as_colour(GREY))
    expect(Image.fromarray(COLOUR), luma(COLOUR), COLOUR)


def test_bilevel() -> None:
    bits = GREY > 120
    grey = np.where(bits, 255, 0).astype(np.uint8)
    expect(Image.fromarray(grey).convert("1", dither=Image.Dither.NONE), grey, as_colour(grey))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    alpha = np.array([[255, 0, 255], [0, 255, 0], [255, 255, 0]], np.uint8)
    image = Image.fromarray(GREY if mode == "LA" else COLOUR)
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    colour = np.where(alpha[..., None] == 255, as_colour(GREY) if mode == "LA" else COLOUR, 255).astype(np.uint8)
    expect(image, luma(colour), colour)


def test_half_transparent_black_on_white_is_mid_grey() -> None:
    image = Image.new("RGBA", (3, 3), (0, 0, 0, 128))
    assert set(to_array(image, 3, 1, "crop").ravel().tolist()) == {127}


def test_four_channels_keep_the_transparency() -> None:
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 40))
    assert to_array(image, 2, 4, "crop")[:, 0, 0].tolist() == [10, 20, 30, 40]
    assert to_array(Image.fromarray(GREY), 3, 4, "crop")[3].tolist() == [[255] * 3] * 3


def test_palette_with_and_without_transparency(folder: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(folder / "a.png")
    image.save(folder / "b.png", transparency=1)
    image.save(folder / "c.png", transparency=bytes([255, 0]))
    image.save(folder / "d.gif", transparency=1)
    data = load(folder, fit="stretch", img_size=2)
    red, blue, white = [255, 0, 0], [0, 0, 255], [255, 255, 255]
    for index, right in enumerate([blue, white, white, white]):
        assert data.images[index, :, 0, 0].tolist() == red
        assert data.images[index, :, 0, 1].tolist() == right


def test_colour_key_transparency(folder: Path) -> None:
    Image.fromarray(COLOUR).save(folder / "rgb.png", transparency=tuple(int(v) for v in COLOUR[1, 1]))
    Image.fromarray(GREY).save(folder / "grey.png", transparency=200)
    colour, grey = COLOUR.copy(), GREY.copy()
    colour[1, 1], grey[1, 1] = 255, 255
    data = load(folder)
    np.testing.assert_array_equal(data.images[0], as_colour(grey).transpose(2, 0, 1))
    np.testing.assert_array_equal(data.images[1], colour.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["png", "tif", "big-endian tif", "pgm", "I"])
def test_sixteen_bits_are_scaled_not_clipped(folder: Path, kind: str) -> None:
    deep = GREY.astype(np.uint16) * 257
    deep[0, 0], deep[0, 1], deep[0, 2] = 128, 129, 65535 - 129  # round to 0, 1 and 254
    if kind == "I":
        Image.fromarray(deep.astype(np.int32)).save(folder / "a.tif")
    elif kind == "pgm":
        (folder / "a.pgm").write_bytes(b"P5 3 3 65535\n" + deep.astype(">u2").tobytes())
    elif kind == "big-endian tif":
        Image.frombytes("I;16B", (3, 3), deep.astype(">u2").tobytes()).save(folder / "a.tif")
    else:
        Image.fromarray(deep).save(folder / f"a.{kind}")
    expected = GREY.copy()
    expected[0] = [0, 1, 254]
    np.testing.assert_array_equal(load(folder, channels=1).images[0, 0], expected)


def test_floats_count_as_unit_or_byte_range() -> None:
    np.testing.assert_array_equal(to_array(Image.fromarray(GREY / np.float32(255)), 3, 1, "crop")[0], GREY)
    np.testing.assert_array_equal(to_array(Image.fromarray(GREY.astype(np.float32)), 3, 1, "crop")[0], GREY)
    for bad in (-1.0, 256.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="floats must lie"):
            to_array(Image.fromarray(np.full((3, 3), bad, np.float32)), 3, 1, "crop")
    with pytest.raises(ValueError, match="integers must lie"):
        to_array(Image.fromarray(np.full((3, 3), 70_000, np.int32)), 3, 1, "crop")


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB"])
def test_other_colour_spaces_come_out_as_rgb(mode: str) -> None:
    if mode == "LAB":
        image = Image.new("LAB", (2, 2), (255, 128, 128))
        white = to_array(image, 2, 3, "crop")
        assert white.min() > 250
        return
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for colour in colours:
        image = Image.new("RGB", (2, 2), colour).convert(mode)
        for channels in (1, 3, 4):
            found = to_array(image, 2, channels, "crop")[:, 0, 0].astype(int)
            wanted = to_array(Image.new("RGB", (2, 2), colour), 2, channels, "crop")[:, 0, 0].astype(int)
            assert abs(found - wanted).max() <= 2


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_exif_orientation_is_applied(folder: Path, ending: str) -> None:
    """Each of the eight ways to store the same picture gives that picture."""
    stored = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: np.rot90(COLOUR),
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOUR, -1),
    }
    for orientation, pixels in stored.items():
        image = Image.fromarray(np.ascontiguousarray(pixels))
        exif = Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
        image.save(folder / f"{orientation}.{ending}", exif=exif, **options)
    data = load(folder)
    assert len(data) == 8
    for pixels in data.images:
        np.testing.assert_array_equal(pixels, COLOUR.transpose(2, 0, 1))


def test_fits() -> None:
    """A 4 by 2 picture, left half black and right half white."""
    pixels = np.array([[0, 0, 255, 255]] * 2, np.uint8)
    image = Image.fromarray(pixels)
    assert to_array(image, 2, 1, "crop")[0].tolist() == [[0, 255], [0, 255]]
    padded = to_array(image, 4, 1, "pad")[0]
    assert padded.tolist() == [[0] * 4, [0, 0, 255, 255], [0, 0, 255, 255], [0] * 4]
    tall = to_array(Image.fromarray(np.full((8, 1), 255, np.uint8)), 4, 1, "pad")[0]
    assert tall.tolist() == [[0, 255, 0, 0]] * 4
    assert to_array(image, 2, 1, "stretch")[0, 0, 0] < 30
    assert to_array(image, 2, 1, "stretch")[0, 0, 1] > 225


def test_downscaling_does_not_alias() -> None:
    """A chequerboard becomes grey; taking every other pixel would make it black or white."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert abs(to_array(Image.fromarray(board), 16, 1, "crop").astype(int) - 127).max() < 12


# --- folders ---


def test_a_flat_folder_in_the_order_of_names(folder: Path) -> None:
    for value, name in enumerate(["b.PNG", "a.jpg", "c.webp", "d.bmp", "e.gif", "f.TIFF", "g.jpeg"]):
        flat(folder / name, 10 * value)
    flat(folder / ".hidden.png", 99)
    flat(folder / ".thumbs" / "x.png", 99)
    (folder / "notes.txt").write_text("not looked at")
    said: list[str] = []
    data = load(folder, said, progress=False)
    assert firsts(data) == [10, 0, 20, 30, 40, 50, 60]
    assert data.name == "faces" and data.labels is None and data.classes == ()
    assert said[0] == "preparing 7 pictures of faces at 3x3, 3 channels"
    assert said[1].startswith("prepared 7 pictures of faces at 3x3, 3 channels in ")
    assert len(said) == 2


def test_class_folders(folder: Path) -> None:
    flat(folder / "dog" / "1.png", 1)
    flat(folder / "cat" / "2.png", 2)
    flat(folder / "dog" / "puppies" / "3.png", 3)
    (folder / "empty").mkdir()
    data = load(folder)
    assert data.classes == ("cat", "dog")
    assert firsts(data) == [2, 1, 3]
    assert data.labels is not None and data.labels.tolist() == [0, 1, 1]


def test_pictures_beside_subfolders_make_all_unlabelled(folder: Path) -> None:
    flat(folder / "dog" / "1.png", 1)
    flat(folder / "cat" / "2.png", 2)
    flat(folder / "3.png", 3)
    said: list[str] = []
    data = load(folder, said)
    assert data.labels is None and data.classes == () and len(data) == 3
    assert "without labels" in said[0]


def test_a_single_subfolder_is_no_class(folder: Path) -> None:
    flat(folder / "all" / "1.png", 1)
    assert load(folder).labels is None


def test_train_and_test_subfolders_are_splits(folder: Path) -> None:
    flat(folder / "train" / "1.png", 1)
    flat(folder / "test" / "2.png", 2)
    assert firsts(load(folder)) == [1]
    assert firsts(load(folder, split="test")) == [2]
    with pytest.raises(UserError, match="has no test split"):
        load(folder / "train", split="test")


def test_a_class_may_be_called_train(folder: Path) -> None:
    for i, name in enumerate(("car", "plane", "train")):
        flat(folder / name / "1.png", i)
    data = load(folder)
    assert data.classes == ("car", "plane", "train") and firsts(data) == [0, 1, 2]


def test_links_in_a_circle_end(folder: Path) -> None:
    flat(folder / "a" / "1.png", 1)
    flat(folder / "b" / "2.png", 2)
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "b" / "self").symlink_to(folder / "b", target_is_directory=True)
    (folder / "c").symlink_to(folder / "a", target_is_directory=True)
    data = load(folder)
    assert data.classes == ("a", "b", "c")
    assert firsts(data) == [1, 2, 1]


def test_a_pipe_does_not_hang(folder: Path) -> None:
    flat(folder / "1.png", 1)
    os.mkfifo(folder / "2.png")
    assert firsts(load(folder)) == [1]


# --- broken files ---


def break_things(folder: Path) -> dict[str, str]:
    """Files broken in six ways, and a part of the reason that each is to have."""
    flat(folder / "whole.png", 7, (64, 64))
    raw = (folder / "whole.png").read_bytes()
    Image.effect_noise((64, 64), 100).save(folder / "noise.png")
    noise = (folder / "noise.png").read_bytes()
    (folder / "noise.png").unlink()
    (folder / "cut.png").write_bytes(noise[: len(noise) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("This is not a picture.")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "header.png").write_bytes(raw[:20])
    width = (30_000).to_bytes(4, "big") * 2
    bomb = raw[:16] + width + raw[24:]
    import zlib

    (folder / "bomb.png").write_bytes(bomb[:29] + zlib.crc32(bomb[12:29]).to_bytes(4, "big") + bomb[33:])
    return {
        "bomb.png": "decompression bomb",
        "cut.png": "truncated",
        "empty.jpg": "an empty file",
        "gone.png": "No such file",
        "header.png": "",
        "text.png": "not a picture",
    }


def test_test_pictures_in_a_subfolder_are_not_trained_on(folder: Path) -> None:
    for i in range(3):
        flat(folder / f"{i}.png", i)
    flat(folder / "test" / "8.png", 8)
    flat(folder / "val" / "9.png", 9)
    said: list[str] = []
    assert firsts(load(folder, said)) == [0, 1, 2]
    assert f"left out of training: {folder / 'test'}, {folder / 'val'}" in said
    assert firsts(load(folder, split="test")) == [8]
    flat(folder / "cat" / "5.png", 5)  # now they are classes
    assert sorted(firsts(load(folder))) == [0, 1, 2, 5, 8, 9]


def test_colours_that_are_lost_are_told(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    flat(folder / "grey.png", 7)
    for i in range(2):
        Image.new("RGB", (3, 3), (255, 0, i)).save(folder / f"red{i}.png")
    said: list[str] = []
    load(folder, said, channels=1)
    told = "2 of 3 pictures of faces are stored in colour and become grey; to keep the colours: --channels 3"
    assert told in said
    said.clear()
    load(folder, said, channels=1)
    assert said == [told]  # each time, not only when they are prepared
    said.clear()
    load(folder, said, channels=3)
    assert said and not any("grey" in line for line in said)


def test_broken_files_are_listed_with_their_reasons(folder: Path) -> None:
    reasons = break_things(folder)
    said: list[str] = []
    data = load(folder, said, max_broken=0.9)
    assert firsts(data) == [7]
    left_out = {line.removeprefix("left out ").split(":")[0]: line for line in said if line.startswith("left out")}
    assert set(left_out) == set(reasons)
    for name, reason in reasons.items():
        assert reason in left_out[name]
        assert "\n" not in left_out[name]
    said.clear()
    again = load(folder, said, max_broken=0.9)
    assert len(said) == 1 and "6 of 7 pictures of faces are left out as broken" in said[0]
    assert again.digest == data.digest
    with pytest.raises(UserError, match="6 of 7 pictures"):
        load(folder, max_broken=0.5)


def test_too_many_broken_files_are_an_error_and_leave_no_cache(folder: Path, cache: Path) -> None:
    for index in range(9):
        flat(folder / f"{index}.png", index)
    (folder / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 10 .* more than max_broken = 0.01 .* x.png: an empty file"):
        load(folder)
    assert list(cache.iterdir()) == []
    assert len(load(folder, max_broken=0.1)) == 9


def test_a_long_list_is_cut_short(folder: Path) -> None:
    flat(folder / "whole.png", 7)
    for index in range(13):
        (folder / f"{index:02}.png").write_bytes(b"")
    said: list[str] = []
    load(folder, said, max_broken=1)
    assert len([line for line in said if line.startswith("left out")]) == 10
    assert "and 3 more" in said


def test_labels_stay_with_their_pictures_when_some_are_broken(folder: Path) -> None:
    for index in range(40):
        flat(folder / ("even" if index % 2 == 0 else "odd") / f"{index:02}.png", index)
    for index in (0, 13, 20, 39):
        (folder / ("even" if index % 2 == 0 else "odd") / f"{index:02}.png").write_bytes(b"x")
    data = load(folder, max_broken=0.2, n_cpu=4)
    assert data.labels is not None and len(data) == 36
    assert [value % 2 for value in firsts(data)] == data.labels.tolist()


@pytest.mark.parametrize("content", ["nothing", "text", "only broken"])
def test_a_folder_without_pictures_says_what_was_looked_for(folder: Path, content: str, cache: Path) -> None:
    if content == "text":
        (folder / "a.txt").write_text("a")
    if content == "only broken":
        (folder / "a.png").write_text("a")
        with pytest.raises(UserError, match="none of the 1 pictures .* a.png: not a picture"):
            load(folder, max_broken=1)
        assert list(cache.iterdir()) == []
        return
    with pytest.raises(UserError, match=r"no pictures in .*faces.*looked for .*\.jpg.*\.png"):
        load(folder)


# --- cache ---


def test_the_second_load_reads_no_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(folder / "1.png", 1)
    first = load(folder)
    monkeypatch.setattr("gansmith.data.pictures.open_picture", pytest.fail)
    said: list[str] = []
    second = load(folder, said)
    assert said == [] and isinstance(second.images, np.memmap)
    assert second.digest == first.digest and np.array_equal(first.images, second.images)


def test_a_change_of_files_or_preprocessing_makes_a_new_set(folder: Path) -> None:
    flat(folder / "1.png", 1, (4, 2))
    digests = {load(folder).digest, load(folder, channels=1).digest, load(folder, img_size=4).digest}
    digests.add(load(folder, fit="pad").digest)
    flat(folder / "1.png", 100, (4, 2))
    changed = load(folder)
    assert firsts(changed) == [100]
    flat(folder / "2.png", 2)
    digests |= {changed.digest, load(folder).digest}
    assert len(digests) == 6


def test_the_digest_depends_on_the_content_alone(folder: Path, tmp_path: Path) -> None:
    for index in range(3):
        flat(folder / str(index) / "x.png", index)
    first = load(folder)
    moved = tmp_path / "elsewhere" / "faces"
    moved.parent.mkdir()
    folder.rename(moved)
    os.utime(moved / "1" / "x.png", (1, 1))
    assert load(moved).digest == first.digest
    (moved / "2").rename(moved / "0" / "deeper")
    assert load(moved).digest != first.digest  # the same pixels with other labels


def test_two_loads_at_once(folder: Path, cache: Path) -> None:
    for index in range(50):
        flat(folder / f"{index:02}.png", index)
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(firsts(load(folder)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(range(50))] * 4
    assert len(list(cache.iterdir())) == 1


def test_more_pictures_than_are_read_ahead_keep_their_order(folder: Path) -> None:
    for index in range(200):
        flat(folder / f"{index:03}.png", index)
    assert firsts(load(folder, n_cpu=1)) == list(range(200))


def test_an_interrupt_leaves_nothing_behind(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(100):
        flat(folder / f"{index:02}.png", index)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module.Draft, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    assert list(cache.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("gansmith-prepare")]


def test_a_full_disk_is_an_error_of_one_line(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(folder / "1.png", 1)

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "_flush", full)
    with pytest.raises(UserError, match="No space left on device .* set GANSMITH_CACHE") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_days(folder: Path, cache: Path) -> None:
    for age in (0, 10):
        left = cache / f".tmp-{age}"
        left.mkdir(parents=True)
        then = left.stat().st_mtime - age * 86_400
        os.utime(left, (then, then))
    flat(folder / "1.png", 1)
    load(folder)
    assert [path.name for path in cache.glob(".tmp-*")] == [".tmp-0"]


def test_without_a_cache_the_set_lies_in_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(folder / "a" / "1.png", 1)
    flat(folder / "b" / "2.png", 2)
    in_cache = load(folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "file"))
    said: list[str] = []
    data = load(folder, said)
    assert any("cannot be written" in line for line in said)
    assert np.array_equal(data.images, in_cache.images) and data.digest == in_cache.digest


# --- what is asked for ---


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"img_size": 0}, "img_size is 0; it must be at least 1"),
        ({"channels": 2}, "channels is 2; it must be 1, 3 or 4, the nearest is 1"),
        ({"channels": 5}, "the nearest is 4"),
        ({"split": "valid"}, "split is 'valid'; it must be one of 'train', 'validation', 'test'"),
        ({"fit": "cover"}, "fit is 'cover'; it must be one of 'crop', 'pad', 'stretch'"),
        ({"max_broken": 1.5}, "max_broken is 1.5"),
        ({"n_cpu": 0}, "n_cpu is 0"),
    ],
)
def test_impossible_values_are_refused(folder: Path, changed: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        load(folder, **changed)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("mnits", "no data named 'mnits'; did you mean mnist?"),
        ("CIFAR-10", "did you mean cifar10?"),
        ("FashionMNIST", "did you mean fashion_mnist?"),
        ("./pictures", "no such folder: .*pictures"),
        ("a/b", "no such folder"),
        ("", "no data named ''"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(what: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_images(what, img_size=8, channels=1)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(UserError, match="is a file; unpack it"):
        load(tmp_path / "a.zip")
