"""Pictures: bytes are the nearest ones, tiles lie where they should, a GIF shows what it says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gansmith.errors import UserError
from gansmith.report.pictures import _page, _thin, grid, growth_gif, save_png, to_uint8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_byte_survives_the_way_through_zero_to_one(dtype: torch.dtype) -> None:
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    assert np.array_equal(to_uint8(levels.to(dtype) / 255), levels.numpy())


def test_bytes_are_clamped_and_rounded_to_the_nearest() -> None:
    x = torch.tensor([-7.0, 0.0, 100.4 / 255, 100.6 / 255, 1.0, 1.001, float("inf")])
    assert to_uint8(x.reshape(1, 1, 1, -1)).ravel().tolist() == [0, 0, 100, 101, 255, 255, 255]


def test_a_batch_in_training_is_taken_without_its_graph_and_other_shapes_are_refused() -> None:
    assert to_uint8(torch.zeros(2, 3, 4, 4, requires_grad=True)).shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)"):
        to_uint8(torch.zeros(3, 4, 4))


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


def test_a_grid_refuses_what_it_cannot_draw() -> None:
    for images in (np.zeros((1, 2, 4, 4), np.uint8), np.zeros((1, 1, 4, 4)), np.zeros((0, 1, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="grid"):
            grid(images, 1)
    with pytest.raises(ValueError, match="columns"):
        grid(np.zeros((1, 1, 4, 4), np.uint8), 0)


def test_a_png_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(Image.new("L", (3, 2), 7), path)
    with pytest.raises(OSError, match="mode"):
        save_png(Image.new("HSV", (3, 2)), path)
    with Image.open(path) as image:
        assert image.size == (3, 2) and image.getpixel((0, 0)) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("n", [1, 2, 119, 120, 121, 130, 1000])
def test_thinning_keeps_the_ends_and_is_densest_early(n: int) -> None:
    kept = _thin(n, 120)
    gaps = np.diff(kept)
    assert len(kept) == min(n, 120)
    assert kept[0] == 0 and kept[-1] == n - 1
    assert (gaps >= 1).all()
    if n == 1000:
        assert gaps[:10].max() == 1 and gaps[-10:].min() > 10
        # On a square-root scale the frames are even: the middle one is at a quarter of the run.
        assert kept[60] == pytest.approx(1000 / 4, rel=0.05)


def _frames(folder: Path, rounds: list[int], mode: str = "L") -> list[Path]:
    """Frames of one shade each, darker to lighter, so that a shade tells which frame it is."""
    paths = []
    for i, number in enumerate(rounds):
        shade = round(255 * i / max(1, len(rounds) - 1))
        paths.append(folder / f"{number:06d}.png")
        save_png(Image.new(mode, (40, 20), shade if mode == "L" else (shade, 0, 255 - shade)), paths[-1])
    return paths


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_gif_goes_from_the_first_frame_to_the_last_and_rests_there(tmp_path: Path, mode: str) -> None:
    paths = _frames(tmp_path, list(range(0, 5000, 100)), mode)
    out = tmp_path / "growth.gif"
    growth_gif(paths, out, seconds=1.0, max_frames=20, scale=3)
    with Image.open(out) as gif:
        assert getattr(gif, "n_frames", 1) == 20
        assert gif.info["loop"] == 0
        shades, durations = [], []
        for k in range(20):
            gif.seek(k)
            assert gif.size[0] >= 120 and gif.size[1] > 60  # a strip below the enlarged picture
            durations.append(gif.info["duration"])
            pixel = gif.convert("RGB").getpixel((60, 30))
            assert isinstance(pixel, tuple)
            shades.append(pixel)
    assert durations == [50] * 19 + [2000]
    expected = [round(255 * i / 49) for i in _thin(50, 20)]
    assert np.allclose([shade[0] for shade in shades], expected, atol=12)
    assert shades[0][0] == 0 and shades[-1][0] == 255
    if mode == "RGB":
        assert np.allclose([shade[2] for shade in shades], [255 - e for e in expected], atol=12)


def test_the_picture_in_the_gif_is_enlarged_without_smoothing(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (20, 60))
    save_png(Image.fromarray(picture), tmp_path / "0001.png")
    growth_gif([tmp_path / "0001.png"], tmp_path / "g.gif", scale=4)
    with Image.open(tmp_path / "g.gif") as gif:
        large = np.asarray(gif.convert("L"))[:80, :240]
    assert np.array_equal(large, picture.repeat(4, 0).repeat(4, 1))


def test_the_strip_says_the_round(tmp_path: Path) -> None:
    paths = _frames(tmp_path, [0, 400])
    growth_gif(paths, tmp_path / "g.gif", scale=3)
    with Image.open(tmp_path / "g.gif") as gif:
        for k, caption in enumerate(["round 0", "round 400"]):
            gif.seek(k)
            expected = _page(Image.new("L", (40, 20)), caption, "round 400", 3)
            strip = np.asarray(gif.convert("L")).astype(int)[60:]
            assert np.abs(strip - np.asarray(expected).astype(int)[60:]).max() <= 9  # half a step of 16 greys
            assert strip.max() > 150


def test_few_frames_are_shown_half_a_second_each(tmp_path: Path) -> None:
    growth_gif(_frames(tmp_path, [0, 100, 200]), tmp_path / "g.gif")
    with Image.open(tmp_path / "g.gif") as gif:
        assert gif.info["duration"] == 500


def test_frames_that_do_not_fit_are_named(tmp_path: Path) -> None:
    paths = _frames(tmp_path, [0, 100])
    out = tmp_path / "g.gif"
    with pytest.raises(UserError, match="no frames"):
        growth_gif([], out)
    save_png(Image.new("L", (8, 8)), tmp_path / "000200.png")
    with pytest.raises(UserError, match="000200.png"):
        growth_gif([*paths, tmp_path / "000200.png"], out)
    (tmp_path / "000300.png").write_bytes(b"half a picture")
    with pytest.raises(UserError, match="000300.png"):
        growth_gif([*paths, tmp_path / "000300.png"], out)
    save_png(Image.new("L", (40, 20)), tmp_path / "best.png")
    with pytest.raises(UserError, match="best.png"):
        growth_gif([*paths, tmp_path / "best.png"], out)
    assert not out.exists() and not list(tmp_path.glob(".*"))
