"""Figures: each tile is the picture that it claims to be, patches are the weights that the networks compute with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d

import gansmith
from gansmith import Sampler, UserError, figures
from gansmith.build import load_split
from gansmith.cli import main
from gansmith.data.values import VALUES
from gansmith.figures import FIGURES, STEPS, STOPS, STRIP, Source, figure, first_layer, last_layer
from gansmith.inference import load_network
from gansmith.networks import gan2014, infogan, mlp
from gansmith.priors import Codes
from gansmith.recipe import plan
from gansmith.report.pictures import framed, grid, to_uint8
from gansmith.schema import table

Bytes = NDArray[np.uint8]
SIDE = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    keys = {"img_size": SIDE, "batch_size": 8, "networks.G.widths": [16, 16], "networks.D.widths": [16], "lr": 1e-2}
    out = tmp_path_factory.mktemp("figures") / "run"
    options = {**keys, "checkpoint.interval": 10, "ema.halflife_kimg": 0.05}
    return gansmith.train("gan", data=pictures, out=out, steps=30, device="cpu", overrides=options, quiet=True)


@pytest.fixture(scope="module")
def sampler(run: Path) -> Sampler:
    return gansmith.load(run, device="cpu")


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    keys = {"img_size": SIDE, "batch_size": 8, "networks.G.width": 2, "networks.D.width": 2, "prior.dim": 4}
    out = tmp_path_factory.mktemp("codes") / "run"
    return gansmith.train("infogan", data=pictures, out=out, steps=2, device="cpu", overrides=keys, quiet=True)


def tiles(path: Path, columns: int, channels: int = 1, side: int = SIDE) -> Bytes:
    """The tiles (N, C, side, side) of an enlarged grid, and the check that it is enlarged without smoothing."""
    with Image.open(path) as image:
        page = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)
    scale = page.shape[1] // (columns * (side + 2) + 2)
    small = page[::scale, ::scale]
    assert np.array_equal(page, small.repeat(scale, 0).repeat(scale, 1)) and scale > 1
    step = side + 2
    rows = (small.shape[0] - 2) // step
    cut = [small[2 + r * step :, 2 + c * step :][:side, :side] for r in range(rows) for c in range(columns)]
    return np.stack(cut).transpose(0, 3, 1, 2)


def source(run: Path, sampler: Sampler, **data: Any) -> Source:
    recipe = plan(run).recipe
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **data))
    return Source(run, recipe, sampler, sampler.round, True, "cpu", lambda text: None)


# ---- samples ---------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_seeds_and_the_framed_ones_the_nearest_training_images(
    run: Path, sampler: Sampler, tmp_path: Path
) -> None:
    path = figure("samples", run, out=tmp_path / "a.png", device="cpu")
    found = tiles(path, 6, channels=3).reshape(4, 6, 3, SIDE, SIDE)
    assert (found == found[:, :, :1]).all()  # grey
    assert np.array_equal(found[:, :5, :1].reshape(20, 1, SIDE, SIDE), sampler.sample(range(20)))
    train = load_split(plan(run).recipe.data, "train", say=lambda text: None).images
    x = sampler.pixels(sampler.latents([4, 9, 14, 19])).double().numpy()
    for i in range(4):
        distances = ((train / 255 - x[i]) ** 2).sum((1, 2, 3))
        assert np.array_equal(found[i, 5, :1], train[distances.argmin()])
    again = figure("samples", run, out=tmp_path / "b.png", device="cpu")
    assert again.read_bytes() == path.read_bytes()


def test_seeds_may_be_given_in_rows_of_five(run: Path, sampler: Sampler, tmp_path: Path) -> None:
    seeds = [7, 3, 3, 100, 8]
    found = tiles(figure("samples", run, seeds=seeds, out=tmp_path / "a.png", device="cpu"), 6)
    assert np.array_equal(found[:5], sampler.sample(seeds)) and len(found) == 6
    for count, near in ((4, 5), (7, 5), (8, 10), (2, 5), (0, 5)):
        with pytest.raises(UserError, match=f"rows of 5 seeds and there are {count}; the nearest is {near}"):
            figure("samples", run, seeds=range(count), device="cpu")


@pytest.mark.parametrize("values", ["signed", "unit", "gcn"])
@pytest.mark.parametrize("chunk", [7, 60, 5000])
def test_a_training_image_is_nearest_to_itself_as_the_networks_see_it(
    values: str, chunk: int, run: Path, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = source(run, sampler, values=values)
    images = load_split(here.recipe.data, "train", say=here.say).images
    monkeypatch.setattr("gansmith.measures.NUMBERS", chunk * images[0].size)
    some = [0, 6, 7, 33, 59]
    row = VALUES[values]
    seen = row.to_unit(row.to_network(torch.from_numpy(np.array(images[some])).float()))
    noise = torch.rand(seen.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    torch.testing.assert_close(figures.nearest_training_images(here, seen + noise), seen, rtol=0, atol=1e-6)


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


# ---- latent space ----------------------------------------------------------------------------------------------


def test_interpolation_has_two_seeds_to_a_row_and_three_in_the_last_of_an_odd_number(
    run: Path, sampler: Sampler, tmp_path: Path
) -> None:
    seeds = [5, 9, 2, 11, 30]
    found = tiles(figure("interpolation", run, seeds=seeds, out=tmp_path / "a.png", device="cpu"), STRIP)
    first, last = found.reshape(2, STRIP, 1, SIDE, SIDE)
    assert np.array_equal(first, sampler.interpolate([5, 9], STRIP)[0])
    there, on = sampler.interpolate([2, 11, 30], 7)
    assert np.array_equal(last, np.concatenate([there, on[1:]]))
    for count, rows in ((2, 1), (3, 1), (4, 2), (6, 3)):
        path = figure("interpolation", run, seeds=range(count), out=tmp_path / "b.png", device="cpu")
        assert len(tiles(path, STRIP)) == rows * STRIP
    with pytest.raises(UserError, match="at least two seeds"):
        figure("interpolation", run, seeds=[1], device="cpu")


def test_a_plane_is_a_cross_section_with_a_to_the_right_and_b_upward(
    run: Path, sampler: Sampler, tmp_path: Path
) -> None:
    found = tiles(figure("plane", run, seeds=[3, 8], out=tmp_path / "a.png", device="cpu"), 10)
    u, v = sampler.latents([3, 8])
    for row, column in ((0, 0), (0, 9), (9, 0), (4, 7)):
        a, b = -1 + 2 * column / 9, 1 - 2 * row / 9
        expected = to_uint8(sampler.pixels((a * u + b * v)[None]))[0]
        assert np.abs(found[10 * row + column].astype(int) - expected).max() <= 1
    with pytest.raises(UserError, match="spanned by two seeds, such as 0,1, and there are 3"):
        figure("plane", run, seeds=[1, 2, 3], device="cpu")


def test_a_plane_through_codes_moves_the_noise_alone(codes: Path, tmp_path: Path) -> None:
    sampler = gansmith.load(codes, device="cpu")
    assert isinstance(sampler.prior, Codes)
    found = tiles(figure("plane", codes, out=tmp_path / "a.png", device="cpu"), 10)
    u, v = sampler.latents([0, 1])
    z = torch.cat([u[:4] - v[:4], u[4:]])  # the lower right corner
    assert np.abs(found[99].astype(int) - to_uint8(sampler.pixels(z[None]))[0]).max() <= 1


def test_a_walk_starts_at_its_seeds_and_comes_back(run: Path, sampler: Sampler, tmp_path: Path) -> None:
    seeds = [4, 0, 77]
    path = figure("walk", run, seeds=seeds, out=tmp_path / "a.gif", device="cpu")
    with Image.open(path) as film:
        assert film.n_frames == STOPS * STEPS and film.info["loop"] == 0
        frames = []
        for k in range(film.n_frames):
            film.seek(k)
            frames.append(
                np.asarray(film.convert("L"))[:: film.height // 38, :: film.width // 38][:38, :38].astype(int)
            )
    cut = np.stack(
        [[f[2 + t : 18 + t, 2 + left : 18 + left] for t, left in ((0, 0), (0, 18), (18, 0))] for f in frames]
    )
    assert np.abs(cut[0] - sampler.sample(seeds)[:, 0]).max() <= 9  # half a step of 16 greys
    jumps = np.abs(np.diff(cut, axis=0, append=cut[:1])).mean((1, 2, 3))
    assert jumps[-1] < 2 * np.median(jumps)  # from the last frame to the first it goes on as between any two
    middle = np.abs(cut[STEPS] - cut[0]).mean()
    assert middle > 5 * np.median(jumps)  # and it does get away
    with pytest.raises(UserError, match="at least one seed"):
        figure("walk", run, seeds=[], device="cpu")


# ---- weights ---------------------------------------------------------------------------------------------------


def test_patches_of_maxout_pieces_are_what_the_unit_computes_with() -> None:
    """h_u(x) = max_p <patch[u, p], x> + b[u, p]."""
    net = gan2014.Discriminator((3, 4, 5), units=[7, 4], pieces=3, dropout=[0, 0, 0]).double()
    maxout = next(m for m in net.modules() if isinstance(m, gan2014.Maxout))
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    patches = first_layer(net, (3, 4, 5))
    assert patches.shape == (7, 3, 3, 4, 5)
    with torch.no_grad():
        maxout.linear.bias.zero_()
    expected = torch.einsum("upchw,nchw->nup", patches, x).max(2).values
    torch.testing.assert_close(maxout(x.flatten(1)).detach(), expected)


def test_patches_of_maxout_convolutions_are_what_the_map_computes_with() -> None:
    net = gan2014.ConvDiscriminator((3, 32, 32), maps=[5, 2, 2], units=3).double()
    maxout = next(m for m in net.modules() if isinstance(m, gan2014.MaxoutConv))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    patches = first_layer(net, (3, 32, 32))
    assert patches.shape == (5, 2, 3, 8, 8)
    maps = [torch.stack([conv2d(x, p[None], padding=4)[:, 0] for p in pieces]).amax(0) for pieces in patches]
    torch.testing.assert_close(maxout(x).detach(), maxout.pool(torch.stack(maps, 1)))  # biases start at 0


def test_patches_of_plain_layers_are_their_weights() -> None:
    x = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    net = mlp.Discriminator((2, 3, 4), widths=[6])
    linear = next(m for m in net.modules() if isinstance(m, nn.Linear))
    patches = first_layer(net, (2, 3, 4))
    assert patches.shape == (6, 1, 2, 3, 4)
    expected = torch.einsum("uchw,nchw->nu", patches[:, 0], x) + linear.bias.detach()
    torch.testing.assert_close(linear(x.flatten(1)).detach(), expected)
    conv = first_layer(infogan.Discriminator((1, 8, 8), width=3), (1, 8, 8))
    assert conv.shape[1:] == (1, 1, 4, 4)


@pytest.mark.parametrize("kind", ["mlp", "gan2014"])
def test_patches_of_the_last_layer_add_up_to_the_picture(kind: str) -> None:
    """What enters G's output function is sum_u h_u patch[u], and its bias."""
    shape = (2, 3, 4)
    net: nn.Module = (
        mlp.Generator(4, shape, widths=[5, 6])
        if kind == "mlp"
        else gan2014.Generator(4, shape, None, widths=[5, 6], hidden=["relu", "relu"])
    )
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    seen: list[tuple[Tensor, Tensor]] = []
    last.register_forward_hook(lambda module, args, output: seen.append((args[0].detach(), output.detach())))
    net(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    [(h, output)] = seen
    patches = last_layer(net, shape)
    assert patches.shape == (6, 1, *shape)
    expected = torch.einsum("nu,uchw->nchw", h, patches[:, 0]).flatten(1) + last.bias.detach()
    torch.testing.assert_close(output, expected)


def test_patches_of_a_transposed_convolution_are_what_one_map_draws() -> None:
    net = gan2014.ConvGenerator(4, (3, 32, 32), width=8, maps=6)
    last = next(m for m in net.modules() if isinstance(m, nn.ConvTranspose2d))
    patches = last_layer(net, (3, 32, 32))
    assert patches.shape == (6, 1, 3, 5, 5)
    for i in range(6):
        dot = torch.zeros(1, 6, 10, 10)
        dot[0, i, 2, 3] = 1
        torch.testing.assert_close(last(dot).detach()[0, :, 6:11, 9:14], patches[i, 0])


def test_each_patch_is_scaled_to_its_largest_weight_around_grey(run: Path, tmp_path: Path) -> None:
    weights = torch.tensor([0.0, 0.5, -1.0, 0.75]).view(1, 1, 1, 2, 2)
    for patch, greys in (
        (weights, [128, 191, 0, 223]),
        (-1e-6 * weights, [128, 64, 255, 32]),
        (0 * weights, [128, 128, 128, 128]),
    ):
        page = np.asarray(figures._block([""], patch, columns=1))[..., 0]
        square = page[-page.shape[1] :]  # below the caption 4 by 4 cells, the outer ones the gap
        cell = page.shape[1] // 4
        assert square[cell // 2 :: cell, cell // 2 :: cell][1:3, 1:3].ravel().tolist() == greys
    path = figure("weights", run, out=tmp_path / "w.png", device="cpu")
    with Image.open(path) as page:
        assert page.size[0] > 400


def test_weights_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be drawn: they do not lead from or to images of 1 x 8 x 8"):
        first_layer(mlp.Discriminator((1, 4, 4)), (1, 8, 8))
    with pytest.raises(UserError, match="cannot be drawn"):
        first_layer(nn.Sequential(nn.Conv2d(2, 4, 3)), (1, 8, 8))
    for draw in (first_layer, last_layer):
        with pytest.raises(UserError, match="Sequential has no fully connected layer or convolution"):
            draw(nn.Sequential(nn.Tanh()), (1, 8, 8))


# ---- any figure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in FIGURES if n != "density"])
def test_every_figure_is_drawn_from_the_round_and_the_weights_asked_for(name: str, run: Path, tmp_path: Path) -> None:
    suffix = FIGURES[name].suffix
    path = figure(name, run, round=20, device="cpu")
    assert path == run / f"figure-{name}-000020{suffix}"
    newest = figure(name, run, out=tmp_path / "deeper" / f"x{suffix}", device="cpu")
    raw = figure(name, run, ema=False, out=tmp_path / f"raw{suffix}", device="cpu")
    assert len({p.read_bytes() for p in (path, newest, raw)}) == 3


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"ema": False}, "figure-plane-000030-raw.png"),
        ({"seeds": (7, 3)}, "figure-plane-000030-seeds-7,3.png"),
    ],
)
def test_other_weights_and_seeds_leave_the_first_drawing(options: dict[str, Any], name: str, run: Path) -> None:
    assert figure("plane", run, device="cpu", **options) == run / name
    assert figure("plane", run, device="cpu") == run / "figure-plane-000030.png"
    assert (run / name).read_bytes() != (run / "figure-plane-000030.png").read_bytes()


def test_seeds_in_a_files_name_are_short_where_they_follow_each_other(run: Path) -> None:
    path = figure("samples", run, seeds=range(1, 11), device="cpu")
    assert path.name == "figure-samples-000030-seeds-1-10.png"


def test_any_players_network_is_loaded_with_its_weights(run: Path) -> None:
    D = load_network(run, "D", device="cpu")
    x = torch.randn(3, 1, SIDE, SIDE)
    assert D.round == 30 and not D.net.training and D.net(x).shape == (3,) and not D.averaged
    assert not torch.equal(D.net(x), load_network(run, "D", round=20, device="cpu").net(x))
    with pytest.raises(UserError, match=r"the game simultaneous has no player E \(it has: G, D\)"):
        load_network(run, "E", device="cpu")


def test_what_is_wrong_is_said(run: Path, tmp_path: Path) -> None:
    for name, words in (
        ("sampels", "no figure 'sampels'; did you mean samples\\?"),
        ("xyz", "no figure 'xyz' \\(figures: samples, interpolation, plane, walk, weights, density\\)"),
    ):
        with pytest.raises(UserError, match=words):
            figure(name, run)
    for name, out, suffix in (("walk", "x.png", ".gif"), ("samples", "x.gif", ".png"), ("plane", "x", ".png")):
        with pytest.raises(UserError, match=f"the figure {name} is a file that ends in {suffix}"):
            figure(name, run, out=tmp_path / out)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="is a file"):
        figure("plane", run, out=tmp_path / "folder.png")
    for name in ("weights", "density"):
        with pytest.raises(UserError, match="takes no seeds"):
            figure(name, run, seeds=[1])
    with pytest.raises(UserError, match="is not a run"):
        figure("samples", tmp_path)
    with pytest.raises(UserError, match="no checkpoint of round 7"):
        figure("samples", run, round=7, device="cpu")


def test_the_command_draws_and_its_help_names_every_figure(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def cli(*args: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as end:
            main.main(args=[str(arg) for arg in args], prog_name="gansmith")
        return end.value.code, *capsys.readouterr()

    words = ["figure", "samples", run, "--seeds", "0-9", "--out", "s.png", "--round", 20, "--device", "cpu"]
    code, out, err = cli(*words)
    assert code == 0 and out == "figure samples: s.png\n", err
    expected = figure("samples", run, seeds=range(10), round=20, out=tmp_path / "e.png", device="cpu")
    assert (tmp_path / "s.png").read_bytes() == expected.read_bytes()
    help = cli("figure", "--help")[1]
    assert list(table("gansmith.figures", "FIGURES")) == list(FIGURES)
    assert all(f"\n  {name} " in help for name in FIGURES)
    code, out, err = cli("figure", "wieghts", run)
    assert code == 2 and out == "" and "did you mean weights?" in err and len(err.splitlines()) == 1


def test_a_figure_of_colours_is_drawn(tmp_path: Path, pictures: Path, small: Callable[..., dict[str, Any]]) -> None:
    keys = small("gan", channels=3)
    out = gansmith.train("gan", data=pictures, out=tmp_path / "run", steps=2, device="cpu", overrides=keys, quiet=True)
    sampler = gansmith.load(out, device="cpu")
    found = tiles(figure("samples", out, device="cpu"), 6, channels=3).reshape(4, 6, 3, SIDE, SIDE)
    assert np.array_equal(found[:, :5].reshape(20, 3, SIDE, SIDE), sampler.sample(range(20)))
    with Image.open(figure("walk", out, seeds=range(4), device="cpu")) as film:
        frame = np.asarray(film.convert("RGB"))
    assert (frame.max(2) > frame.min(2)).mean() > 0.3
    figure("weights", out, device="cpu")
