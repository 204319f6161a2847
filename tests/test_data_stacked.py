"""Stacked MNIST: the draw is fixed and uniform, and every channel is a digit that its label names."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from gansmith.data import ImageSet, shipped, stacked
from gansmith.data.imageset import Bytes, Labels
from gansmith.data.prepare import Wanted
from gansmith.data.stacked import CLASSES, COUNTS, SEEDS, draw, load_stacked_mnist, stack
from gansmith.errors import UserError

WEIGHTS = [100, 10, 1]


@pytest.fixture(scope="module")
def mnist() -> tuple[Bytes, Labels]:
    """All 70,000 digits, training set first."""
    (train, train_labels), (test, test_labels) = shipped.decode("train"), shipped.decode("test")
    return np.concatenate([train, test])[:, 0], np.concatenate([train_labels, test_labels])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def few(split: str, count: int = 1500) -> ImageSet:
    return stack(split, count, lambda _: None)


def within(statistic: float, freedom: int) -> bool:
    """Whether a chi-square statistic lies within 5 deviations of its mean: both are known, n and sqrt(2 n)."""
    return abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("split", "images", "labels"),
    [
        (
            "train",
            "441950639e60af1347a8bd8b7999af8610a4a614375b88b8b3cb5f18f713215f",
            [10, 68, 339, 626, 597, 931, 112, 577, 817, 234],
        ),
        (
            "test",
            "59d5fb2d1fa3f12f3a558cfd66c1470bfd41ec8afc6351dbe6246ae219956980",
            [272, 523, 508, 853, 267, 509, 73, 832, 724, 502],
        ),
    ],
)
def test_the_first_64_stacks_never_change(split: str, images: str, labels: list[int], cache: Path) -> None:
    data = few(split, 64)
    assert hashlib.sha256(data.images.tobytes()).hexdigest() == images
    assert data.labels is not None and data.labels[:10].tolist() == labels


def test_the_draw_is_as_documented() -> None:
    """Against Python's integers, to the last stack of the real set."""
    count = COUNTS["train"]
    stream = hashlib.shake_256(SEEDS["train"]).digest(24 * count)
    drawn = draw("train", count)
    for i, channel in ((0, 0), (0, 2), (1, 0), (77_777, 1), (count - 1, 2)):
        at = 8 * (3 * i + channel)
        assert drawn[i, channel] == int.from_bytes(stream[at : at + 8], "little") % 70_000
    assert np.array_equal(draw("train", 100), drawn[:100])


def test_every_channel_is_a_digit_and_the_label_names_all_three(mnist: tuple[Bytes, Labels], cache: Path) -> None:
    known = {image.tobytes(): int(label) for image, label in zip(*mnist, strict=True)}
    for split in COUNTS:
        data = few(split)
        assert data.images.shape == (1500, 3, 28, 28) and data.images.dtype == np.uint8
        assert data.labels is not None and data.labels.dtype == np.int64
        for image, label in zip(data.images, data.labels, strict=True):
            digits = [known[channel.tobytes()] for channel in image]
            assert label == 100 * digits[0] + 10 * digits[1] + digits[2]
            assert data.classes[label] == "".join(map(str, digits))
    assert len(set(CLASSES)) == 1000


@pytest.mark.parametrize("split", COUNTS)
def test_all_70_000_digits_are_drawn_alike_in_every_channel(split: str) -> None:
    drawn = draw(split, COUNTS[split])
    assert drawn.min() >= 0 and drawn.max() < 70_000
    for channel in range(3):
        counts = np.bincount(drawn[:, channel], minlength=70_000)
        expected = len(drawn) / 70_000
        assert within(((counts - expected) ** 2 / expected).sum(), 69_999)


@pytest.mark.parametrize("split", COUNTS)
def test_the_modes_are_as_frequent_as_independent_digits_make_them(split: str, mnist: tuple[Bytes, Labels]) -> None:
    """All 1,000 are there, with the product of the digits' shares: MNIST has 7,877 ones and 6,313 fives."""
    share = np.bincount(mnist[1]) / 70_000
    drawn = draw(split, COUNTS[split])
    counts = np.bincount(mnist[1][drawn] @ WEIGHTS, minlength=1000)
    assert (counts > 0).all() and len(counts) == 1000
    expected = np.einsum("a,b,c->abc", share, share, share).ravel() * len(drawn)
    assert within(((counts - expected) ** 2 / expected).sum(), 999)
    # The finest KL(real || uniform) that a generator can be measured against: three times that of one digit, and what
    # the finite number adds, 999 / 2N.
    p = counts / len(drawn)
    floor = 3 * (share * np.log(10 * share)).sum() + 999 / (2 * len(drawn))
    assert abs((p * np.log(1000 * p)).sum() - floor) < 0.002


def test_train_and_test_are_other_stacks() -> None:
    train, test = draw("train", COUNTS["train"]), draw("test", COUNTS["test"])
    both = {tuple(row) for row in train.tolist()} & {tuple(row) for row in test.tolist()}
    # Of 128,000 * 26,000 pairs, 1 in 70,000^3 is expected to be the same by chance: 1e-5 pairs.
    assert not both
    assert abs((train[:26_000] == test).sum() - 78_000 / 70_000) < 6


def test_the_real_test_split_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    data = load_stacked_mnist(Wanted(28, 3, "test", "crop", 0.0, 1, said.append, False))
    assert said == ["making 26000 images of stacked_mnist, 61 MB, once"]
    assert (data.name, len(data)) == ("stacked_mnist", 26_000)
    assert isinstance(data.images, np.memmap) and not data.images.flags.writeable
    start = few("test", 64)
    assert np.array_equal(data.images[:64], start.images) and data.digest != start.digest
    monkeypatch.setattr(stacked, "decode", pytest.fail)
    again = load_stacked_mnist(Wanted(28, 3, "test", "pad", 0.5, 8, pytest.fail, False))
    assert again.digest == data.digest and np.array_equal(again.images[-1], data.images[-1])
    assert data.labels is not None and again.labels is not None and np.array_equal(data.labels, again.labels)


def test_the_training_split_has_128_000(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COUNTS == {"train": 128_000, "test": 26_000}
    monkeypatch.setitem(COUNTS, "train", 1030)  # more than one chunk
    data = load_stacked_mnist(Wanted(28, 3, "train", "crop", 0.0, 1, lambda _: None, False))
    assert np.array_equal(data.images[:64], few("train", 64).images)
    assert len(data) == 1030 and data.digest != few("test", 1030).digest


def test_without_a_cache_it_is_made_in_memory(cache: Path) -> None:
    cache.write_text("")
    said: list[str] = []
    data = stack("train", 64, said.append)
    assert "in memory" in said[-1] and not isinstance(data.images, np.memmap)
    assert data.labels is not None and not data.labels.flags.writeable and not data.images.flags.writeable
    cache.unlink()
    assert np.array_equal(few("train", 64).images, data.images) and few("train", 64).digest == data.digest


@pytest.mark.parametrize(("img_size", "channels"), [(32, 3), (28, 1), (64, 4)])
def test_another_size_is_another_benchmark(img_size: int, channels: int) -> None:
    wanted = Wanted(img_size, channels, "train", "crop", 0.0, 1, pytest.fail, False)
    message = f"28x28 with 3 channels, not {img_size}x{img_size} with {channels}; set img_size 28 and channels 3"
    with pytest.raises(UserError, match=message):
        load_stacked_mnist(wanted)


def test_there_is_no_validation_split() -> None:
    with pytest.raises(UserError, match="stacked_mnist has no validation split; use split 'train' or 'test'"):
        load_stacked_mnist(Wanted(28, 3, "validation", "crop", 0.0, 1, pytest.fail, False))
