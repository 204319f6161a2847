"""Figures: each tile is the picture that it claims to be, patches are the weights that the networks compute with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d

import gansmith
from gansmith import Sampler, UserError
from gansmith.build import load_split
from gansmith.cli import main
from gansmith.data.values import VALUES
from gansmith.networks import mlp
from gansmith.papers import figures
from gansmith.papers import networks2014 as gan2014
from gansmith.papers.figures import FIGURES, STEPS, STOPS, STRIP, Source, figure, first_layer, last_layer
from gansmith.recipe import plan
from gansmith.run.pictures import to_uint8

Bytes = NDArray[np.uint8]
SIDE = 16
KEYS = {"img_size": SIDE, "batch_size": 8, "networks.G.widths": [16, 16], "networks.D.widths": [16], "lr": 1e-2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    out = tmp_path_factory.mktemp("figures") / "run"
    keys = {**KEYS, "checkpoint.interval": 10, "ema.halflife_kimg": 0.05}
    return gansmith.train("gan", data=pictures, out=out, steps=30, device="cpu", overrides=keys, quiet=True)


@pytest.fixture(scope="module")
def sampler(run: Path) -> Sampler:
    return gansmith.load(run, device="cpu")


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    keys = {"img_size": SIDE, "batch_size": 8, "networks.G.width": 2, "networks.D.width": 2, "prior.dim": 4}
    out = tmp_path_factory.mktemp("codes") / "run"
    return gansmith.train("infogan", data=pictures, out=out, steps=2, device="cpu", overrides=keys, quiet=True)


def tiles(path: Path, columns: int, channels: int = 1) -> Bytes:
    """The tiles (N, C, side, side) of an enlarged grid, and the check that it is enlarged without smoothing."""
    with Image.open(path) as image:
        page = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)
    step = SIDE + 2
    scale = page.shape[1] // (columns * step + 2)
    small = page[::scale, ::scale]
    assert np.array_equal(page, small.repeat(scale, 0).repeat(scale, 1)) and scale > 1
    rows = (small.shape[0] - 2) // step
    cut = [small[2 + r * step :, 2 + c * step :][:SIDE, :SIDE] for r in range(rows) for c in range(columns)]
    return np.stack(cut).transpose(0, 3, 1, 2)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


# ---- samples ---------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_seeds_and_the_framed_ones_the_nearest_training_images(
    run: Path, sampler: Sampler, tmp_path: Path
) -> None:
    path = figure("samples", run, out=tmp_path / "a.png", device="cpu")
    found = tiles(path, 6, channels=3).reshape(4, 6, 3, SIDE, SIDE)
    assert (found == found[:, :, :1]).all()  # grey
    assert np.array_equal(found[:, :5, :1].reshape(20, 1, SIDE, SIDE), sampler.sample(range(20)))
    (train,) = load_split(plan(run).recipe.data, "train", say=lambda text: None)
    x = sampler.pixels(sampler.latents([4, 9, 14, 19])).double().numpy()
    for i in range(4):
        distances = ((train.images / 255 - x[i]) ** 2).sum((1, 2, 3))
        assert np.array_equal(found[i, 5, :1], train.images[distances.argmin()])
    seeds = [7, 3, 3, 100, 8]
    found = tiles(figure("samples", run, seeds=seeds, out=tmp_path / "b.png", device="cpu"), 6)
    assert np.array_equal(found[:5], sampler.sample(seeds)) and len(found) == 6
    for count, near in ((4, 5), (7, 5), (8, 10), (0, 5)):
        with pytest.raises(UserError, match=f"rows of 5 seeds and there are {count}; the nearest is {near}"):
            figure("samples", run, seeds=range(count), device="cpu")


@pytest.mark.parametrize(("values", "chunk"), [("signed", 7), ("unit", 60), ("gcn", 5000)])
def test_a_training_image_is_nearest_to_itself_as_the_networks_see_it(
    values: str, chunk: int, run: Path, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = plan(run).recipe
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, values=values))
    here = Source(run, recipe, sampler, sampler.round, True, "cpu", lambda text: None)
    (data,) = load_split(recipe.data, "train", say=here.say)
    monkeypatch.setattr("gansmith.evaluation.measures.NUMBERS", chunk * data.images[0].size)
    row = VALUES[values]
    seen = row.to_unit(row.to_network(torch.from_numpy(np.array(data.images[[0, 6, 7, 33, 59]])).float()))
    noise = torch.rand(seen.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    torch.testing.assert_close(figures.nearest_training_images(here, seen + noise), seen, rtol=0, atol=1e-6)


def test_figures_of_colours_are_drawn(tmp_path: Path, pictures: Path) -> None:
    keys = {**KEYS, "channels": 3}
    out = gansmith.train("gan", data=pictures, out=tmp_path / "run", steps=2, device="cpu", overrides=keys, quiet=True)
    found = tiles(figure("samples", out, device="cpu"), 6, channels=3).reshape(4, 6, 3, SIDE, SIDE)
    assert np.array_equal(found[:, :5].reshape(20, 3, SIDE, SIDE), gansmith.load(out, device="cpu").sample(range(20)))
    with Image.open(figure("walk", out, seeds=range(4), device="cpu")) as film:
        frame = np.asarray(film.convert("RGB"))
    assert (frame.max(2) > frame.min(2)).mean() > 0.3


# ---- latent space ----------------------------------------------------------------------------------------------


def test_interpolation_has_two_seeds_to_a_row_and_three_in_the_last_of_an_odd_number(
    run: Path, sampler: Sampler, tmp_path: Path
) -> None:
    found = tiles(figure("interpolation", run, seeds=[5, 9, 2, 11, 30], out=tmp_path / "a.png", device="cpu"), STRIP)
    first, last = found.reshape(2, STRIP, 1, SIDE, SIDE)
    assert np.array_equal(first, sampler.interpolate([5, 9], STRIP)[0])
    there, on = sampler.interpolate([2, 11, 30], 7)
    assert np.array_equal(last, np.concatenate([there, on[1:]]))
    for count, rows in ((2, 1), (3, 1), (6, 3)):
        path = figure("interpolation", run, seeds=range(count), out=tmp_path / "b.png", device="cpu")
        assert len(tiles(path, STRIP)) == rows * STRIP


def test_a_plane_is_a_cross_section_with_a_to_the_right_and_b_upward(
    run: Path, sampler: Sampler, codes: Path, tmp_path: Path
) -> None:
    for one, made in ((run, sampler), (codes, gansmith.load(codes, device="cpu"))):
        found = tiles(figure("plane", one, seeds=[3, 8], out=tmp_path / "a.png", device="cpu"), 10)
        u, v = made.latents([3, 8])
        for row, column in ((0, 0), (0, 9), (9, 0), (4, 7)):
            z = (-1 + 2 * column / 9) * u + (1 - 2 * row / 9) * v
            z = torch.cat([z[:4], u[4:]]) if one == codes else z  # there the noise alone moves
            assert np.abs(found[10 * row + column].astype(int) - to_uint8(made.pixels(z[None]))[0]).max() <= 1


def test_a_walk_starts_at_its_seeds_and_comes_back(run: Path, sampler: Sampler, tmp_path: Path) -> None:
    seeds = [4, 0, 77]
    cut = []
    with Image.open(figure("walk", run, seeds=seeds, out=tmp_path / "a.gif", device="cpu")) as film:
        assert film.n_frames == STOPS * STEPS and film.info["loop"] == 0
        for k in range(film.n_frames):
            film.seek(k)
            page = np.asarray(film.convert("L"))[:: film.height // 38, :: film.width // 38].astype(int)
            cut.append([page[top : top + 16, left : left + 16] for top, left in ((2, 2), (2, 20), (20, 2))])
    frames = np.array(cut)
    assert np.abs(frames[0] - sampler.sample(seeds)[:, 0]).max() <= 9  # half a step of 16 greys
    jumps = np.abs(np.diff(frames, axis=0, append=frames[:1])).mean((1, 2, 3))
    assert jumps[-1] < 2 * np.median(jumps)  # from the last frame to the first it goes on as between any two
    assert np.abs(frames[STEPS] - frames[0]).mean() > 5 * np.median(jumps)  # and it does get away


# ---- weights ---------------------------------------------------------------------------------------------------


def test_patches_of_maxout_pieces_are_what_the_unit_computes_with() -> None:
    """h_u(x) = max_p <patch[u, p], x> + b[u, p]."""
    net = gan2014.Discriminator((3, 4, 5), units=[7, 4], pieces=3, dropout=[0, 0, 0]).double()
    maxout = next(m for m in net.modules() if isinstance(m, gan2014.Maxout))
    x, patches = normal(6, 3, 4, 5), first_layer(net, (3, 4, 5))
    assert patches.shape == (7, 3, 3, 4, 5)
    expected = torch.einsum("upchw,nchw->nup", patches, x).max(2).values  # biases start at 0
    torch.testing.assert_close(maxout(x.flatten(1)).detach(), expected)


def test_patches_of_maxout_convolutions_are_what_the_map_computes_with() -> None:
    net = gan2014.ConvDiscriminator((3, 32, 32), maps=[5, 2, 2], units=3).double()
    maxout = next(m for m in net.modules() if isinstance(m, gan2014.MaxoutConv))
    x, patches = normal(2, 3, 32, 32), first_layer(net, (3, 32, 32))
    assert patches.shape == (5, 2, 3, 8, 8)
    maps = [torch.stack([conv2d(x, p[None], padding=4)[:, 0] for p in pieces]).amax(0) for pieces in patches]
    torch.testing.assert_close(maxout(x).detach(), maxout.pool(torch.stack(maps, 1)))


@pytest.mark.parametrize("kind", ["mlp", "gan2014"])
def test_patches_of_plain_layers_are_what_comes_in_and_what_adds_up_to_the_picture(kind: str) -> None:
    """Into D's first layer <patch[u], x>; what enters G's output function is sum_u h_u patch[u], and its bias."""
    shape = (2, 3, 4)
    x, D = normal(5, *shape, dtype=torch.float32), mlp.Discriminator(shape, widths=[6])
    linear = next(m for m in D.modules() if isinstance(m, nn.Linear))
    expected = torch.einsum("uchw,nchw->nu", first_layer(D, shape)[:, 0], x) + linear.bias.detach()
    torch.testing.assert_close(linear(x.flatten(1)).detach(), expected)
    G: nn.Module = mlp.Generator(4, shape, widths=[5, 6])
    G = G if kind == "mlp" else gan2014.Generator(4, shape, None, widths=[5, 6], hidden=["relu", "relu"])
    last = [m for m in G.modules() if isinstance(m, nn.Linear)][-1]
    seen: list[tuple[Tensor, Tensor]] = []
    last.register_forward_hook(lambda module, args, output: seen.append((args[0].detach(), output.detach())))
    G(normal(8, 4, dtype=torch.float32))
    [(h, output)] = seen
    expected = torch.einsum("nu,uchw->nchw", h, last_layer(G, shape)[:, 0]).flatten(1) + last.bias.detach()
    torch.testing.assert_close(output, expected)


def test_patches_of_a_transposed_convolution_are_what_one_map_draws() -> None:
    net = gan2014.ConvGenerator(4, (3, 32, 32), width=8, maps=6)
    last = next(m for m in net.modules() if isinstance(m, nn.ConvTranspose2d))
    for i, patch in enumerate(last_layer(net, (3, 32, 32))):
        dot = torch.zeros(1, 6, 10, 10)
        dot[0, i, 2, 3] = 1
        torch.testing.assert_close(last(dot).detach()[0, :, 6:11, 9:14], patch[0])


def test_each_patch_is_scaled_to_its_largest_weight_around_grey() -> None:
    weights = torch.tensor([0.0, 0.5, -1.0, 0.75]).view(1, 1, 1, 2, 2)
    for factor, greys in ((1.0, [128, 191, 0, 223]), (-1e-6, [128, 64, 255, 32]), (0.0, [128] * 4)):
        page = np.asarray(figures._block([""], factor * weights, columns=1))[..., 0]
        square = page[-page.shape[1] :]  # below the caption 4 by 4 cells, the outer ones the gap
        cell = page.shape[1] // 4
        assert square[cell // 2 :: cell, cell // 2 :: cell][1:3, 1:3].ravel().tolist() == greys
    with pytest.raises(UserError, match="cannot be drawn: they do not lead from or to images of 1 x 8 x 8"):
        first_layer(mlp.Discriminator((1, 4, 4)), (1, 8, 8))
    with pytest.raises(UserError, match="Sequential has no fully connected layer or convolution"):
        last_layer(nn.Sequential(nn.Tanh()), (1, 8, 8))


# ---- any figure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in FIGURES if n not in ("density", "growth")])
def test_every_figure_is_drawn_from_the_round_and_the_weights_asked_for(name: str, run: Path, tmp_path: Path) -> None:
    suffix = FIGURES[name].suffix
    path = figure(name, run, round=20, device="cpu")
    assert path == run / f"figure-{name}-000020{suffix}"
    newest = figure(name, run, out=tmp_path / "deeper" / f"x{suffix}", device="cpu")
    again = figure(name, run, out=tmp_path / f"again{suffix}", device="cpu")
    raw = figure(name, run, ema=False, device="cpu")
    assert raw == run / f"figure-{name}-000030-raw{suffix}" and again.read_bytes() == newest.read_bytes()
    assert len({p.read_bytes() for p in (path, newest, raw)}) == 3
    if name in ("samples", "walk"):
        assert figure(name, run, seeds=range(1, 11), device="cpu").stem == f"figure-{name}-000030-seeds-1-10"


def test_the_film_of_growth_is_the_trainings_own_up_to_the_round(run: Path, tmp_path: Path) -> None:
    figure("growth", run, out=tmp_path / "deeper" / "x.gif", device="cpu")
    assert (tmp_path / "deeper" / "x.gif").read_bytes() == (run / "growth.gif").read_bytes()
    frames = sorted(int(path.stem) for path in (run / "growth").glob("*.png"))
    with Image.open(figure("growth", run, round=20, device="cpu")) as film:
        assert getattr(film, "n_frames", 1) == len([round for round in frames if round <= 20]) < len(frames)


def test_what_is_wrong_is_said(run: Path, tmp_path: Path) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("sampels", {}, r"no figure 'sampels'; did you mean samples\?"),
        ("xyz", {}, r"no figure 'xyz' \(figures: samples, interpolation, plane, walk, weights, density, growth\)"),
        ("walk", {"out": "x.png"}, "the figure walk is a file that ends in .gif or .mp4"),
        ("plane", {"out": "x"}, "the figure plane is a file that ends in .png"),
        ("weights", {"seeds": [1]}, "takes no seeds"),
        ("growth", {"ema": False}, "it takes no --raw"),
        ("interpolation", {"seeds": [1]}, "at least two seeds"),
        ("plane", {"seeds": [1, 2, 3]}, "spanned by two seeds, such as 0,1, and there are 3"),
        ("walk", {"seeds": []}, "at least one seed"),
        ("samples", {"round": 7}, "no checkpoint of round 7"),
        ("density", {}, "is trained on pictures0; density draws runs on normal_1d"),
    ]
    for name, options, said in wrong:
        with pytest.raises(UserError, match=said):
            figure(name, run, device="cpu", **options)
    with pytest.raises(UserError, match="is not a run"):
        figure("samples", tmp_path)


def test_the_command_draws_and_its_help_names_every_figure(run: Path, tmp_path: Path) -> None:
    drawn, expected = tmp_path / "s.png", figure("samples", run, seeds=range(10), round=20, device="cpu")
    words = ["figure", "samples", str(run), "--seeds", "0-9", "--out", str(drawn), "--round", "20", "--device", "cpu"]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 0 and found.output == f"figure samples: {drawn}\n"
    assert drawn.read_bytes() == expected.read_bytes()
    shown = CliRunner().invoke(main, ["figure", "--help"]).output
    assert all(f"\n  {name} " in shown for name in FIGURES)
