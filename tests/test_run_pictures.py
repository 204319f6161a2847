"""Pictures: bytes are the nearest ones, tiles lie where they should, a GIF shows what it says."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gansmith.errors import UserError
from gansmith.papers.figures import framed
from gansmith.run import pictures
from gansmith.run.export import save_film, save_images
from gansmith.run.pictures import _page, _thin, grid, growth_gif, save_png, stacked, to_uint8


def test_bytes_survive_the_way_through_zero_to_one_and_the_rest_is_clamped_and_rounded() -> None:
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        assert np.array_equal(to_uint8(levels.to(dtype) / 255), levels.numpy())
    x = torch.tensor([-7.0, 0.0, 100.4 / 255, 100.6 / 255, 1.0, 1.001, float("inf")], requires_grad=True)
    assert to_uint8(x.reshape(1, 1, 1, -1)).ravel().tolist() == [0, 0, 100, 101, 255, 255, 255]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("pad", [0, 2])
def test_every_tile_is_in_its_place_and_all_else_is_background(channels: int, pad: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 3, 4), np.uint8)
    canvas = np.asarray(grid(images, columns=3, pad=pad)).reshape(2 * (3 + pad) + pad, 3 * (4 + pad) + pad, channels)
    rest = np.ones(canvas.shape[:2], bool)
    for i, image in enumerate(images):
        y, x = pad + (i // 3) * (3 + pad), pad + (i % 3) * (4 + pad)
        assert np.array_equal(canvas[y : y + 3, x : x + 4], np.moveaxis(image, 0, -1))
        rest[y : y + 3, x : x + 4] = False
    background = np.unique(canvas[rest], axis=0)
    assert len(background) == 1  # the gaps, and the place of the sixth tile
    assert channels < 4 or background[0, 3] == 255


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_frame_lies_in_the_gap_around_its_tile_and_nowhere_else(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 200, (6, channels, 3, 5), np.uint8)
    plain = grid(images, columns=3)
    mode = "RGBA" if channels == 4 else "RGB"
    before, after = np.asarray(plain.convert(mode)), np.asarray(framed(plain, [2, 3], 3, (3, 5)))
    yellow = np.zeros(before.shape[:2], bool)
    for top, left in ((0, 14), (5, 0)):  # 2 pixels around rows 2-4, columns 16-20, and around rows 7-9, columns 2-6
        yellow[top : top + 7, left : left + 9] = True
    for top, left in ((2, 16), (7, 2)):
        yellow[top : top + 3, left : left + 5] = False
    assert np.array_equal(after[~yellow], before[~yellow])
    assert {tuple(colour[:3]) for colour in after[yellow]} == {(255, 213, 0)}


def test_pictures_one_below_the_other_are_grey_only_if_all_are() -> None:
    wide, narrow, colour = Image.new("L", (6, 2), 10), Image.new("L", (3, 4), 20), Image.new("RGB", (3, 1), (9, 0, 0))
    assert stacked([colour]) is colour
    page = np.asarray(stacked([wide, narrow]))
    assert page.shape == (6, 6) and (page[:2] == 10).all() and (page[2:, :3] == 20).all() and (page[2:, 3:] == 96).all()
    assert np.asarray(stacked([wide, colour]))[2, 0].tolist() == [9, 0, 0]


def test_a_png_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(Image.new("L", (3, 2), 7), path)
    with pytest.raises(OSError, match="mode"):
        save_png(Image.new("HSV", (3, 2)), path)
    with Image.open(path) as image:
        assert image.size == (3, 2) and image.getpixel((0, 0)) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("n", [1, 2, 120, 121, 1000])
def test_thinning_keeps_the_ends_and_is_densest_early(n: int) -> None:
    kept = _thin(n, 120)
    gaps = np.diff(kept)
    assert len(kept) == min(n, 120) and kept[0] == 0 and kept[-1] == n - 1 and (gaps >= 1).all()
    if n == 1000:
        assert gaps[:10].max() == 1 and gaps[-10:].min() > 10
        # On a square-root scale the frames are even: the middle one is at a quarter of the run.
        assert kept[60] == pytest.approx(1000 / 4, rel=0.05)


def frames(folder: Path, rounds: list[int], mode: str = "L") -> list[Path]:
    """Frames of one shade each, darker to lighter, so that a shade tells which frame it is."""
    paths = []
    for i, number in enumerate(rounds):
        shade = round(255 * i / max(1, len(rounds) - 1))
        paths.append(folder / f"{number:06d}.png")
        save_png(Image.new(mode, (40, 20), shade if mode == "L" else (shade, 0, 255 - shade)), paths[-1])
    return paths


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_gif_goes_from_the_first_frame_to_the_last_and_rests_there(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_MOST_FRAMES", 20)
    monkeypatch.setattr(pictures, "_MOVES_MS", 1000)
    assert not growth_gif(frames(tmp_path, list(range(0, 5000, 100)), mode), tmp_path / "g.gif")
    with Image.open(tmp_path / "g.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 20 and gif.info["loop"] == 0
        shades, durations = [], []
        for k in range(20):
            gif.seek(k)
            assert gif.size[0] >= 80 and gif.size[1] > 40  # a strip below the enlarged picture
            durations.append(gif.info["duration"])
            shades.append(np.array(gif.convert("RGB").getpixel((40, 20))))
    assert durations == [50] * 19 + [2000]
    expected = np.array([round(255 * i / 49) for i in _thin(50, 20)])
    assert np.allclose([shade[0] for shade in shades], expected, atol=12)
    assert shades[0][0] == 0 and shades[-1][0] == 255
    if mode == "RGB":
        assert np.allclose([shade[2] for shade in shades], 255 - expected, atol=12)


def test_frames_come_by_round_however_many_digits_it_has(tmp_path: Path) -> None:
    (tmp_path / "growth").mkdir()
    for name in ("999600", "1000000", "000000", "notes"):
        (tmp_path / "growth" / f"{name}.png").touch()
    assert [path.stem for path in pictures.frames(tmp_path)] == ["000000", "999600", "1000000"]


def test_a_gif_is_enlarged_without_smoothing_and_its_strip_says_the_round(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (20, 60))
    for number in (0, 400, 800):
        save_png(Image.fromarray(picture), tmp_path / f"{number:06d}.png")
    growth_gif(sorted(tmp_path.glob("*.png")), tmp_path / "g.gif")
    with Image.open(tmp_path / "g.gif") as gif:
        assert gif.info["duration"] == 500  # few frames are shown half a second each
        for k, caption in enumerate(["round 0", "round 400"]):
            gif.seek(k)
            page = np.asarray(gif.convert("L")).astype(int)
            assert np.array_equal(page[:40, :120], picture.repeat(2, 0).repeat(2, 1))
            expected = np.asarray(_page(Image.fromarray(picture), caption, "round 400", 2)).astype(int)
            assert np.abs(page[40:] - expected[40:]).max() <= 9  # half a step of 16 greys
            assert page[40:].max() > 150


def test_frames_that_do_not_fit_are_left_out_and_named(tmp_path: Path) -> None:
    paths, out = frames(tmp_path, [0, 100, 400]), tmp_path / "g.gif"
    assert growth_gif([], out) == set() and not out.exists()
    save_png(Image.new("L", (8, 8)), tmp_path / "000200.png")
    (tmp_path / "000300.png").write_bytes(b"half a picture")
    odd = [tmp_path / "000200.png", tmp_path / "000300.png"]
    size, broken = sorted(growth_gif([*paths[:2], *odd, paths[2]], out))
    assert size == f"{odd[0]}: its size is another" and broken.startswith(f"{odd[1]} cannot be read as a picture")
    with Image.open(out) as gif:
        assert gif.n_frames == 3
    assert not list(tmp_path.glob(".*"))


# ---- other endings -------------------------------------------------------------------------------------------------


def test_one_grid_as_png_jpeg_and_webp(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    for ending in ("png", "webp", "jpg"):
        save_images(pictures, tmp_path / f"x.{ending}", columns=2)
    png, webp, jpg = (np.asarray(Image.open(tmp_path / f"x.{e}"), dtype=int) for e in ("png", "webp", "jpg"))
    assert np.array_equal(png, webp) and jpg.shape == png.shape and 0 < np.abs(jpg - png).mean() < 8
    with pytest.raises(UserError, match="a JPEG has no transparency"):
        save_images(pictures[:, [0, 1, 2, 0]], tmp_path / "y.jpg", columns=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jpg", "x.png", "x.webp"]


FAKE = """#!{python}
import sys
given = sys.stdin.buffer.read()
if {fails}:
    sys.exit("no such encoder")
open(sys.argv[-1], "wb").write(" ".join(sys.argv[1:-1]).encode() + b"|" + given)
"""


def test_a_film_goes_to_ffmpeg_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, 1, 300, 300), dtype=np.uint8)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=r"\.mp4 takes the program ffmpeg, and there is none on PATH"):
        save_film(frames, tmp_path / "x.mp4")
    (program := tmp_path / "bin" / "ffmpeg").parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable, fails=False))
    program.chmod(0o755)
    save_film(frames, tmp_path / "x.mp4")
    words, _, data = (tmp_path / "x.mp4").read_bytes().partition(b"|")
    assert b"-s 600x600" in words and b"-framerate 1000/80" in words and len(data) == 3 * 600 * 600 * 3
    shown = np.frombuffer(data, np.uint8).reshape(3, 600, 600, 3)
    assert np.array_equal(shown[:, ::2, ::2, 1], frames[:, 0, 0])
    program.write_text(FAKE.format(python=sys.executable, fails=True))
    with pytest.raises(UserError, match="ffmpeg did not write it: no such encoder"):
        save_film(frames, tmp_path / "y.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "x.mp4"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg here")
def test_ffmpeg_itself_takes_it(tmp_path: Path) -> None:
    save_film(np.zeros((3, 1, 1, 31, 31), np.uint8), tmp_path / "x.mp4")
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "x.mp4", "-f", "null", "-"], check=True)
