"""What networks see of the bytes, and the way back to pixels; and the images that are held back from training."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gansmith.build import build, build_network, build_prior
from gansmith.data import ImageSet, Stream, load_images
from gansmith.data import load as loading
from gansmith.data.imageset import Bytes
from gansmith.data.load import spread
from gansmith.data.values import VALUES, ValuesName, gcn, signed, unit
from gansmith.errors import UserError
from gansmith.recipe import plan, recipe_names
from gansmith.report.pictures import to_uint8

LEVELS = torch.arange(256).reshape(1, 1, 16, 16)
PICTURES = ("signed", "unit")


def bytes_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# ---- closed forms -----------------------------------------------------------------------------------------------


def test_a_recipe_names_the_rows_of_the_table() -> None:
    assert tuple(VALUES) == get_args(ValuesName)
    assert [plan("gan", flags={"data.values": name}).recipe.data.values for name in VALUES] == list(VALUES)
    with pytest.raises(UserError, match=f"it must be one of {', '.join(VALUES)}"):
        plan("gan", flags={"data.values": "bytes"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signed_and_unit_are_exact_divisions(dtype: torch.dtype) -> None:
    """Each level is the correctly rounded quotient, the ends are exactly -1, 0 and 1."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    x = np.arange(256).astype(kind)
    assert np.array_equal(signed(LEVELS.to(dtype)).ravel().numpy(), x / kind(127.5) - kind(1))
    assert np.array_equal(unit(LEVELS.to(dtype)).ravel().numpy(), x / kind(255))
    for function, low in ((signed, -1.0), (unit, 0.0)):
        y = function(LEVELS.to(dtype)).ravel()
        assert (y[0].item(), y[-1].item()) == (low, 1.0) and (y.diff() > 0).all()


def test_gcn_has_mean_0_and_norm_55_per_image() -> None:
    x = bytes_of(5, 3, 8, 8)
    x[1] *= 0.01  # contrast and brightness are taken out
    x[2] = x[2] / 10 + 200
    y = gcn(x.clone())
    assert y.mean((1, 2, 3)).abs().max() < 1e-13
    torch.testing.assert_close(
        y.flatten(1).norm(dim=1), torch.full((5,), 55.0, dtype=torch.float64), rtol=1e-13, atol=0
    )
    for image, expected in zip(y.numpy(), x.numpy(), strict=True):
        centred = expected - expected.mean()
        np.testing.assert_allclose(image, 55 * centred / np.sqrt((centred**2).sum()), rtol=1e-12, atol=1e-13)
    # The mean is over all channels together: those keep their colour.
    assert y.mean((2, 3)).abs().max() > 0.01


def test_gcn_of_cifar_size_has_pixels_of_about_1() -> None:
    """55 / sqrt(3072) = 0.992, the root mean square that the authors' networks were made for."""
    rms = gcn(bytes_of(4, 3, 32, 32, dtype=torch.float32)).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.full((4,), 55 / 3072**0.5), rtol=1e-5, atol=0)


def test_gcn_does_not_see_brightness_and_contrast() -> None:
    x = bytes_of(2, 1, 6, 6)
    torch.testing.assert_close(gcn(0.3 * x + 17), gcn(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gcn(255 - x), -gcn(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_an_image_of_one_colour_becomes_zeros_and_middle_grey(level: int) -> None:
    x = torch.full((2, 3, 8, 8), float(level))
    x[1] = bytes_of(3, 8, 8)
    y = gcn(x)
    assert torch.equal(y[0], torch.zeros(3, 8, 8)) and torch.isfinite(y).all() and y[1].abs().max() > 0.5
    shown = VALUES["gcn"].to_unit(y)
    assert torch.equal(shown[0], torch.full((3, 8, 8), 0.5)) and torch.isfinite(shown).all()


# ---- the way back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PICTURES)
def test_each_byte_comes_back(name: str, dtype: torch.dtype) -> None:
    row = VALUES[name]
    x = row.to_unit(row.to_network(LEVELS.to(dtype)))
    torch.testing.assert_close(x, LEVELS.to(dtype) / 255, rtol=0, atol=1e-7)
    assert np.array_equal(to_uint8(x), LEVELS.numpy())


@pytest.mark.parametrize(("name", "low"), [("signed", -1.0), ("unit", 0.0)])
def test_what_lies_beyond_the_range_is_clamped(name: str, low: float) -> None:
    to_unit = VALUES[name].to_unit
    x = torch.tensor([-9.0, low - 0.01, low, (low + 1) / 2, 1.0, 1.01, 9.0]).reshape(1, 1, 1, 7)
    assert to_unit(x).ravel().tolist() == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]


def test_gcn_is_shown_around_middle_grey_and_up_to_its_largest_value() -> None:
    x = torch.tensor([[-3.0, 0.0, 1.5, 0.0], [0.5, 0.0, -0.25, 0.1]], dtype=torch.float64).reshape(2, 1, 2, 2)
    expected = torch.tensor([[0.0, 0.5, 0.75, 0.5], [1.0, 0.5, 0.25, 0.6]], dtype=torch.float64).reshape(2, 1, 2, 2)
    torch.testing.assert_close(VALUES["gcn"].to_unit(x), expected)
    y = gcn(bytes_of(3, 3, 8, 8))
    torch.testing.assert_close(VALUES["gcn"].to_unit(100 * y), VALUES["gcn"].to_unit(y))
    assert VALUES["gcn"].to_unit(y).min() >= 0 and VALUES["gcn"].to_unit(y).max() <= 1


def test_numbers_stay_numbers_and_are_no_pictures() -> None:
    x = torch.randn(4, 1, 1, 1)
    assert torch.equal(VALUES["raw"].to_network(x.clone()), x)
    with pytest.raises(UserError, match="makes numbers, not pictures"):
        VALUES["raw"].to_unit(x)


# ---- through the stream -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["device", "map"])
@pytest.mark.parametrize("name", ["signed", "unit", "gcn"])
def test_the_stream_gives_them_and_leaves_the_bytes_alone(name: str, memory: str) -> None:
    images = bytes_of(6, 3, 4, 4).to(torch.uint8).numpy()
    data = ImageSet("some", images.copy(), None, (), "0")
    stream = Stream(data, batch_size=4, seed=1, memory=memory, n_cpu=1, values=name, dtype=torch.float64)
    rows = torch.cat([next(stream).images for _ in range(4)])  # two epochs
    stream.close()
    assert np.array_equal(data.images, images)
    expected = VALUES[name].to_network(torch.from_numpy(images).double())
    for epoch in (rows[:6], rows[6:]):
        nearest = torch.cdist(epoch.flatten(1), expected.flatten(1)).min(1)
        assert nearest.values.max() < 1e-9 and sorted(nearest.indices.tolist()) == list(range(6))


def test_kinds_that_do_not_fit_the_data_are_refused() -> None:
    pictures = ImageSet("some", np.zeros((2, 1, 2, 2), np.uint8), None, (), "0")
    with pytest.raises(UserError, match=r"^data\.values is raw; for some it must be signed, unit or gcn"):
        Stream(pictures, batch_size=1, seed=0, values="raw")
    with pytest.raises(UserError, match=r"data\.values is 'units'; it must be one of signed, .*did you mean unit"):
        plan("gan", flags={"data.values": "units"})


# ---- what a generator makes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "flags", "made"),
    [
        ("gan2014_mnist", {"data.values": "signed"}, "unit"),
        ("gan2014_mnist", {"data.values": "gcn"}, "unit"),
        ("gan2014_tfd", {"data.values": "signed"}, "unit"),
        ("gan2014_cifar10_fc", {"networks.G.output": "sigmoid"}, "unit"),
        ("gan", {"data.values": "unit"}, "signed"),
        ("wgan_gp", {"data.values": "gcn"}, "signed"),
        ("infogan", {"data.values": "unit"}, "signed"),
    ],
)
def test_data_that_g_cannot_make_are_refused(
    recipe: str, flags: dict[str, Any], made: str, pictures: Path, small: Callable[..., dict[str, Any]]
) -> None:
    found = plan(recipe, flags=small(recipe, **{"data.name": str(pictures), **flags})).recipe
    text = (
        rf"^data\.values is {found.data.values}, and the network of G makes .* range of {made}; it must be {made}, or"
    )
    with pytest.raises(UserError, match=text) as caught:
        build(found, torch.device("cpu"), say=lambda text: None, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_what_a_generator_says_is_what_it_makes(name: str, small: Callable[..., dict[str, Any]]) -> None:
    """With weights a thousand times as large its output fills the range that it names and no more; only G names one."""
    recipe = plan(name, flags=small(name)).recipe
    torch.manual_seed(0)
    prior = build_prior(recipe)
    nets = {player: build_network(recipe, player, prior) for player in recipe.networks}
    assert [p for p, net in nets.items() if isinstance(getattr(net, "values", None), str)] in ([], ["G"])
    G = nets["G"]
    with torch.no_grad():
        for p in G.parameters():
            p.mul_(1000)
        x = G(prior.sample(64, torch.Generator().manual_seed(0)))
    ends = {"signed": (-1, 1), "unit": (0, 1)}.get(getattr(G, "values", None) or "")
    if ends is None:
        assert x.abs().max() > 1.5
    else:
        assert getattr(G, "values", None) == recipe.data.values
        assert ends[0] <= x.min() < ends[0] + 0.01 and ends[1] - 0.01 < x.max() <= ends[1]


@pytest.mark.parametrize("name", ["signed", "unit", "gcn"])
def test_a_generator_that_says_nothing_is_not_asked(
    name: str, pictures: Path, small: Callable[..., dict[str, Any]]
) -> None:
    for recipe in ("began", "gan2014_cifar10_fc"):
        found = plan(recipe, flags=small(recipe, **{"data.name": str(pictures), "data.values": name})).recipe
        made = build(found, torch.device("cpu"), say=lambda text: None, progress=False)
        made.stream.close()
        assert getattr(made.generator.net, "values", None) is None


# ---- images that are held back ----------------------------------------------------------------------------------


@functools.cache
def load(what: str | Path, split: str = "train", validation: int = 0, img_size: int = 28) -> ImageSet:
    return load_images(str(what), img_size=img_size, channels=1, split=split, validation=validation)


def test_mnist_is_split_as_in_2014() -> None:
    """The first 50,000 images to train on, the last 10,000 to choose by; the test set as it is."""
    whole, train, held = load("mnist"), load("mnist", "train", 10_000), load("mnist", "validation", 10_000)
    assert (len(whole), len(train), len(held)) == (60_000, 50_000, 10_000)
    assert np.array_equal(train.images, whole.images[:50_000]) and np.array_equal(held.images, whole.images[50_000:])
    assert whole.labels is not None and train.labels is not None and held.labels is not None
    assert np.array_equal(train.labels, whole.labels[:50_000]) and np.array_equal(held.labels, whole.labels[50_000:])
    assert train.classes == held.classes == whole.classes and train.name == held.name == "mnist"
    assert load("mnist", "test", 10_000).digest == load("mnist", "test").digest


def test_every_split_has_a_digest_of_its_own() -> None:
    sets = [load("mnist"), load("mnist", "test")]
    sets += [load("mnist", split, n) for split in ("train", "validation") for n in (1, 9_999, 10_000)]
    assert len({s.digest for s in sets}) == len(sets)
    assert load("mnist", "train", 10_000).digest == load("mnist", "train", 10_000).digest


@pytest.mark.parametrize("n", [1, 7, 59])
def test_the_two_parts_are_the_whole(n: int, pictures: Path) -> None:
    whole = load(pictures, img_size=16).images
    parts = [load(pictures, split, n, 16).images for split in ("train", "validation")]
    assert [len(part) for part in parts] == [60 - n, n]
    places = [[find(whole, image) for image in part] for part in parts]
    assert all(p == sorted(p) for p in places) and sorted(itertools.chain(*places)) == list(range(60))


def find(whole: Bytes, image: Bytes) -> int:
    """Where the image lies in the set; it lies there once."""
    (place,) = np.flatnonzero((whole == image).all((1, 2, 3)))
    return int(place)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40, 7, 25 and 12 pictures in four folders, each of its own grey and with its number in it."""
    folder = tmp_path_factory.mktemp("by_class")
    for c, count in enumerate((40, 7, 25, 12)):
        (folder / f"class{c}").mkdir()
        for i in range(count):
            Image.fromarray(np.full((4, 4), 60 * c + i, np.uint8)).save(folder / f"class{c}" / f"{i:02}.png")
    return folder


def test_a_folders_classes_are_all_in_both_parts(by_class: Path) -> None:
    whole, train, held = (
        load(by_class, "train", 0, 4),
        load(by_class, "train", 28, 4),
        load(by_class, "validation", 28, 4),
    )
    assert len(train) == 56 and len(held) == 28 and len({whole.digest, train.digest, held.digest}) == 3
    assert train.classes == held.classes == whole.classes == tuple(f"class{c}" for c in range(4))
    for part in (train, held):
        assert part.labels is not None and not part.labels.flags.writeable and not part.images.flags.writeable
        grey = part.images[:, 0, 0, 0].astype(int)
        assert np.array_equal(grey // 60, part.labels)  # a picture keeps its label
        assert set(part.labels) == {0, 1, 2, 3}
    # A third of each class, to within the two stretches that it shares with its neighbours.
    assert all(abs(np.sum(held.labels == c) - n / 3) <= 2 for c, n in enumerate((40, 7, 25, 12)))


def test_what_is_held_back_stays_so_and_is_mapped_not_held_in_memory(
    by_class: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made once in pieces of any size, then found in the cache."""
    options: dict[str, Any] = {"img_size": 4, "channels": 1, "validation": 11}
    first = load_images(str(by_class), **options)
    assert isinstance(first.images, np.memmap)
    monkeypatch.setattr(loading, "spread", None)
    again = load_images(str(by_class), **options)
    assert again.digest == first.digest and np.array_equal(again.images, first.images)
    monkeypatch.undo()
    monkeypatch.setattr(loading, "load_entry", lambda path, say: None)
    monkeypatch.setattr(loading, "CHUNK", 7)
    assert np.array_equal(load_images(str(by_class), **options).images, first.images)


@pytest.mark.parametrize(("n", "k"), [(60, 1), (60, 7), (60, 59), (84, 28), (10_007, 1000), (5, 3)])
def test_one_place_of_every_stretch(n: int, k: int) -> None:
    places = spread(n, k)
    assert places.shape == (k,) and places[0] >= 0 and places[-1] < n
    for j, place in enumerate(places.tolist()):
        assert j * n // k <= place < (j + 1) * n // k


def test_places_are_random_within_their_stretch() -> None:
    """Against an order with a period, such as ten classes in turn: each gets its tenth, where even steps see one."""
    counts = np.bincount(spread(100_000, 10_000) % 10, minlength=10)
    assert np.abs(counts - 1000).max() < 6 * np.sqrt(1000 * 0.9)
    assert spread(1000, 5).tolist() == PLACES  # the same on every machine


PLACES = [42, 335, 527, 614, 862]


def test_what_cannot_be_held_back_is_refused(pictures: Path) -> None:
    for n in (60, 1000):
        for split in ("train", "validation"):
            with pytest.raises(
                UserError, match=rf"data\.validation is {n}, .* has 60 images in all; .*a tenth of them is 6$"
            ):
                load(pictures, split, n, 16)
    with pytest.raises(UserError, match="has no validation images: --data.validation N holds N back"):
        load("mnist", "validation")
    with pytest.raises(UserError, match="split is 'valid'; it must be one of 'train', 'validation', 'test'"):
        load("mnist", "valid")
    for name, split in itertools.product(("mnist", "tfd", str(pictures)), ("train", "validation", "test")):
        with pytest.raises(UserError, match=r"^data\.validation is -1; it must be at least 0$"):
            load(name, split, -1)
    with pytest.raises(UserError, match=r"data\.validation is -1; it must be a whole number at least 0"):
        plan("gan", flags={"data.validation": -1})
