"""What networks see of the bytes, and the way back to pixels; and what views do to pictures."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from gansmith.build import build
from gansmith.data import ImageSet
from gansmith.data.stream import Stream
from gansmith.data.values import VALUES, gcn, signed, unit
from gansmith.data.views import VIEWS, Draws, flip, grey, jitter, to_load
from gansmith.errors import UserError
from gansmith.recipe import Data, plan
from gansmith.run.pictures import to_uint8

LEVELS = torch.arange(256).reshape(1, 1, 16, 16)


def test_a_recipe_names_the_rows_of_the_table_and_numbers_stay_numbers() -> None:
    assert tuple(VALUES) == get_args(Data.__annotations__["values"])
    assert [plan("gan", flags={"data.values": name}).recipe.data.values for name in VALUES] == list(VALUES)
    x = torch.randn(4, 1, 1, 1)
    assert torch.equal(VALUES["raw"].to_network(x.clone()), x)
    with pytest.raises(UserError, match="makes numbers, not pictures"):
        VALUES["raw"].to_unit(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signed_and_unit_are_exact_divisions_and_each_byte_comes_back(dtype: torch.dtype) -> None:
    """Each level is the correctly rounded quotient, the ends are exactly -1, 0 and 1, and what lies beyond is cut."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    x = np.arange(256).astype(kind)
    assert np.array_equal(signed(LEVELS.to(dtype)).ravel().numpy(), x / kind(127.5) - kind(1))
    assert np.array_equal(unit(LEVELS.to(dtype)).ravel().numpy(), x / kind(255))
    for name, low in (("signed", -1.0), ("unit", 0.0)):
        row = VALUES[name]
        y = row.to_network(LEVELS.to(dtype))
        assert (y.min(), y.max()) == (low, 1.0) and np.array_equal(to_uint8(row.to_unit(y)), LEVELS.numpy())
        beyond = torch.tensor([-9.0, low - 0.01, low, (low + 1) / 2, 1.0, 1.01]).view(1, 1, 1, 6)
        assert row.to_unit(beyond).ravel().tolist() == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]


def test_gcn_has_mean_0_and_norm_55_whatever_brightness_and_contrast() -> None:
    """The mean is over all channels together; it is shown around middle grey and up to its largest value."""
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8))).double()
    y = gcn(x.clone())
    for image, expected in zip(y.numpy(), x.numpy(), strict=True):
        centred = expected - expected.mean()
        np.testing.assert_allclose(image, 55 * centred / np.sqrt((centred**2).sum()), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gcn(0.3 * x + 17), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gcn(255 - x), -y, rtol=1e-12, atol=1e-12)
    to_unit = VALUES["gcn"].to_unit
    made = torch.tensor([[-3.0, 0.0, 1.5, 0.0], [0.5, 0.0, -0.25, 0.1]]).reshape(2, 1, 2, 2)
    shown = torch.tensor([[0.0, 0.5, 0.75, 0.5], [1.0, 0.5, 0.25, 0.6]]).reshape(2, 1, 2, 2)
    torch.testing.assert_close(to_unit(made), shown)
    for level in (0.0, 77.0, 255.0):  # one colour
        flat = gcn(torch.full((1, 3, 8, 8), level))
        assert (flat == 0).all() and (to_unit(flat) == 0.5).all()


def test_the_stream_gives_them_and_leaves_the_bytes_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)
    data = ImageSet("some", {"x": images.copy(), "y": np.arange(6)}, (), "0")
    for name, memory in itertools.product(("signed", "unit", "gcn"), ("device", "map")):
        options: dict[str, Any] = {"memory": memory, "n_cpu": 1, "values": name, "dtype": torch.float64}
        stream = Stream([data], needs=(("x", "y"),), batch_size=4, seed=1, **options)
        expected = VALUES[name].to_network(torch.from_numpy(images).double())
        for batch in itertools.islice(stream, 4):  # two epochs
            torch.testing.assert_close(batch["x"], expected[batch["y"]], rtol=0, atol=1e-13)
        stream.close()
    assert np.array_equal(data.images, images)


def test_data_that_g_cannot_make_are_refused(pictures: Path, small: Callable[..., dict[str, Any]]) -> None:
    for recipe, values, made in (("gan2014_mnist", "signed", "unit"), ("gan", "unit", "signed")):
        flags = small(recipe, **{"data.name": str(pictures), "data.values": values})
        text = rf"^data\.values is {values}, and the network of G makes [^\n]* range of {made}; it must be {made}, or"
        with pytest.raises(UserError, match=text):
            build(plan(recipe, flags=flags).recipe, torch.device("cpu"), say=lambda text: None, progress=False)


BOTH = [partial(jitter, of=("a", "b"), scale=1.5), partial(flip, of=("a", "b"))]


def draws(size: int, seed: int = 0, position: int = 0) -> Draws:
    return Draws(seed, position, size, slice(size), torch.device("cpu"))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def stream(**changed: Any) -> Stream:
    """Of 23 pairs, b = 255 - a."""
    a = np.random.default_rng(0).integers(0, 256, (23, 3, 6, 8), dtype=np.uint8)
    data = ImageSet("pairs", {"a": a, "b": 255 - a, "y": np.arange(23)}, (), "d")
    made = {"batch_size": 5, "seed": 1, "dtype": torch.float64, "memory": "device", "views": BOTH, **changed}
    return Stream([data], needs=(("a", "b", "y"),), **made)


def test_flip_mirrors_half_of_the_samples_and_grey_is_the_luminance() -> None:
    """Flip alike in all fields of a sample, grey in three channels."""
    x, y = noise(2000, 1, 2, 3), noise(2000, 3, 4, 5)
    found = flip({"x": x, "y": y, "z": x}, draws(2000), of=("x", "y"))
    mirrored = (found["x"] == x.flip(3)).all(dim=(1, 2, 3))
    assert 900 < mirrored.sum() < 1100
    for name, field in (("x", x), ("y", y)):
        assert torch.equal(found[name], torch.where(mirrored.view(-1, 1, 1, 1), field.flip(3), field))
    assert found["z"] is x
    b = noise(4, 4, 3, 3)
    found = grey({"b": b}, draws(4), of="b", to="a")
    luminance = 0.299 * b[:, 0] + 0.587 * b[:, 1] + 0.114 * b[:, 2]
    torch.testing.assert_close(found["a"][:, :3], luminance[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(found["a"][:, 3], b[:, 3]) and found["b"] is b
    assert torch.equal(grey({"x": b[:, :1]}, draws(4), of="x", to="y")["y"], b[:, :1])


def test_jitter_cuts_the_size_out_of_a_larger_picture_at_any_place() -> None:
    """On a plane a row + b column bilinear enlarging is exact away from the border, so the place can be read off."""
    h, w, n = 16, 24, 400
    rows, columns = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    field = torch.stack([rows, columns]).expand(n, 2, h, w)
    found = jitter({"x": field, "y": 2 * field}, draws(n), of=("x", "y"), scale=1.25)
    assert found["x"].shape == field.shape and torch.equal(found["y"], 2 * found["x"])
    slope = found["x"][:, :, 1:, 1:] - found["x"][:, :, :-1, :-1]
    torch.testing.assert_close(slope[:, :, 4:-4, 4:-4], torch.full_like(slope[:, :, 4:-4, 4:-4], 1 / 1.25))
    # The pixel of row i, from the top t of 20 rows, lies at (i + t + 1/2) / 1.25 - 1/2 in the picture.
    places = (found["x"][:, :, 8, 12] + 0.5) * 1.25 - torch.tensor([8.5, 12.5])
    torch.testing.assert_close(places, places.round())
    assert [set(places[:, i].round().int().tolist()) for i in (0, 1)] == [set(range(5)), set(range(7))]
    torch.testing.assert_close(jitter({"x": field}, draws(n), scale=1.0)["x"], field.contiguous())
    with pytest.raises(UserError, match=r"scale is 0\.5; it must be a number at least 1; the nearest is 1"):
        plan("gan", flags={"views": [{"name": "jitter", "scale": 0.5}]})


def test_draws_are_uniform_and_follow_from_seed_and_position() -> None:
    many = draws(20_000)
    u, k = many.uniform(2), many.integers(5)
    assert u.shape == (20_000, 2) and abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.01
    assert (np.bincount(k.numpy(), minlength=5) > 3700).all() and k.max() == 4
    seen = [draws(4, seed, position).uniform() for seed in (0, 1) for position in (0, 1)]
    assert len({tuple(x.tolist()) for x in seen}) == 4 and torch.equal(seen[3], draws(4, 1, 1).uniform())


def test_several_processes_and_a_resumed_stream_see_what_one_alone_would() -> None:
    """A pair stays a pair, and its views change from epoch to epoch."""
    alone, resumed, shares = stream(), stream(memory="map", n_cpu=2), [stream(rank=rank, ranks=3) for rank in range(3)]
    resumed.load_state_dict({**alone.state_dict(), "position": 3})
    epochs: list[dict[int, Tensor]] = [{}, {}]
    for position in range(10):
        batch, parts = next(alone), [next(share) for share in shares]
        assert all(part.size == len(batch) for part in parts)
        for name in ("a", "b", "y"):
            assert torch.equal(torch.cat([part[name] for part in parts]), batch[name])
        assert position < 3 or torch.equal(next(resumed)["a"], batch["a"])
        torch.testing.assert_close(batch["a"], -batch["b"])
        epochs[position // 5] |= dict(zip(batch["y"].tolist(), batch["a"], strict=True))
    assert sum(torch.equal(epochs[0][i], epochs[1][i]) for i in range(23)) < 5
    resumed.close()


def test_a_view_makes_what_the_data_then_need_not_give() -> None:
    needs = (("a", "b"),)
    rows = [(VIEWS["grey"], {}), (VIEWS["flip"], {"of": ("a", "b")})]
    assert to_load(needs, rows) == (("b",),) and to_load(needs, rows[1:]) == needs
    data = ImageSet("colours", {"b": stream().sets[0].columns["b"]}, (), "d")
    batch = next(Stream([data], needs=needs, batch_size=4, seed=0, views=[grey, BOTH[1]]))
    assert list(batch.fields) == ["a", "b"] and batch["b"].std() > 0.1
    torch.testing.assert_close(batch["a"], grey({"b": batch["b"]}, draws(4))["a"])
    with pytest.raises(UserError, match=r"^views\[0\]\.of names x; it may name a and b$"):
        to_load(needs, [(VIEWS["flip"], {})])
    with pytest.raises(UserError, match=r"^views\[0\]\.of names a; it may name b$"):
        to_load(needs, rows[::-1])
