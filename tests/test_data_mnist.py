"""The MNIST that ships: it is the real one, and its cache can be damaged, missing or shared."""

import hashlib
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gansmith.data import ImageSet, data_names, load_images, shipped
from gansmith.errors import UserError


@pytest.fixture(scope="session")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with both splits, decoded once (a second)."""
    cache = tmp_path_factory.mktemp("mnist-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANSMITH_CACHE", str(cache))
        for split in ("train", "test"):
            load_images("mnist", img_size=28, channels=1, split=split, say=pytest.fail)
    return cache


@pytest.fixture
def shared(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That cache as the one in use, to be read only."""
    monkeypatch.setenv("GANSMITH_CACHE", str(filled_cache))
    return filled_cache


@pytest.fixture
def own_test_split(filled_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a copy of the test split, to be damaged; gives the folder of that entry."""
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path))
    [entry] = filled_cache.glob("mnist-test-*")
    return Path(shutil.copytree(entry, tmp_path / entry.name))


def mnist(split: str, said: list[str] | None = None) -> ImageSet:
    say = pytest.fail if said is None else said.append
    return load_images("mnist", img_size=28, channels=1, split=split, say=say)


def test_the_training_set_is_the_real_one(shared: Path) -> None:
    data = mnist("train")
    assert data_names()[0] == data.name == "mnist"
    assert data.images.shape == (60_000, 1, 28, 28) and data.images.dtype == np.uint8
    assert data.labels is not None and data.labels.dtype == np.int64
    assert data.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.labels).tolist() == counts
    assert data.classes == tuple("0123456789")
    # The well-known mean and deviation of the pixels, which every MNIST example normalises with.
    assert round(float(data.images.mean()) / 255, 4) == 0.1307
    assert round(float(data.images.std()) / 255, 4) == 0.3081
    # The MD5 of the original file train-images-idx3-ubyte, header and all.
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
    md5 = hashlib.md5(header + data.images.tobytes(), usedforsecurity=False)
    assert md5.hexdigest() == "6bbc9ace898e44ae57da46a324031adb"


def test_the_test_set_is_the_real_one(shared: Path) -> None:
    data = mnist("test")
    assert data.images.shape == (10_000, 1, 28, 28)
    assert data.labels is not None
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(data.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    header = bytes.fromhex("00000803 00002710 0000001c 0000001c")
    md5 = hashlib.md5(header + data.images.tobytes(), usedforsecurity=False)
    assert md5.hexdigest() == "2646ac647ad5339dbf082846283269ea"


def test_the_digests_tell_splits_apart_and_the_notice_states_them(shared: Path) -> None:
    assert mnist("train").digest == shipped.SPLITS["train"].digest != mnist("test").digest
    notice = (Path(shipped.__file__).parent / "mnist" / "NOTICE.md").read_text()
    for packed in shipped.SPLITS.values():
        assert packed.images in notice and packed.labels in notice


def test_the_cache_is_mapped_read_only(shared: Path) -> None:
    data = mnist("test")
    assert isinstance(data.images, np.memmap) and not data.images.flags.writeable
    assert data.labels is not None and not data.labels.flags.writeable


def flip_a_pixel(entry: Path) -> None:
    with (entry / "images.npy").open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 1]))


def cut_the_images(entry: Path) -> None:
    os.truncate(entry / "images.npy", 100_000)


def empty_the_images(entry: Path) -> None:
    os.truncate(entry / "images.npy", 0)


def damage_the_labels(entry: Path) -> None:
    np.save(entry / "labels.npy", np.zeros(10_000, np.int64))


def damage_the_description(entry: Path) -> None:
    (entry / "set.json").write_text("{")


def forget_a_field(entry: Path) -> None:
    (entry / "set.json").write_text("{}")


def remove_the_images(entry: Path) -> None:
    (entry / "images.npy").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_pixel,
        cut_the_images,
        empty_the_images,
        damage_the_labels,
        damage_the_description,
        forget_a_field,
        remove_the_images,
    ],
)
def test_a_damaged_cache_is_said_and_made_anew(own_test_split: Path, damage) -> None:  # type: ignore[no-untyped-def]
    digest = mnist("test").digest
    damage(own_test_split)
    said: list[str] = []
    data = mnist("test", said)
    assert len(said) == 1 and "making it anew" in said[0] and str(own_test_split) in said[0]
    assert data.digest == digest
    assert hashlib.sha256(data.images.tobytes()).hexdigest() == shipped.SPLITS["test"].images
    mnist("test")  # says nothing: the cache is whole again
    assert list(own_test_split.parent.iterdir()) == [own_test_split]


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "file" / "cache"))
    said: list[str] = []
    data = mnist("test", said)
    assert len(said) == 1 and "cannot be written" in said[0] and "in memory" in said[0]
    assert hashlib.sha256(data.images.tobytes()).hexdigest() == shipped.SPLITS["test"].images
    assert data.digest == shipped.SPLITS["test"].digest
    assert not data.images.flags.writeable


def test_a_damaged_installation_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path))
    wrong = shipped.Packed(10_000, "0" * 64, "0" * 64)
    monkeypatch.setitem(shipped.SPLITS, "test", wrong)
    with pytest.raises(UserError, match="mnist/test.xz of gansmith is damaged; reinstall it"):
        mnist("test")


def _digest_in_another_process(cache: str) -> str:
    os.environ["GANSMITH_CACHE"] = cache
    data = mnist("test")
    return hashlib.sha256(data.images.tobytes()).hexdigest()


def test_processes_may_fill_the_cache_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        digests = pool.map(_digest_in_another_process, [str(tmp_path)] * 3, chunksize=1)
    assert set(digests) == {shipped.SPLITS["test"].images}
    assert len(list(tmp_path.iterdir())) == 1


def test_other_sizes_and_colours_take_the_common_way(own_test_split: Path) -> None:
    said: list[str] = []
    data = load_images("mnist", img_size=8, channels=3, split="test", say=said.append, progress=False)
    assert data.images.shape == (10_000, 3, 8, 8)
    assert "preparing 10000 pictures of mnist at 8x8, 3 channels" in said[0]
    assert "prepared 10000 pictures" in said[1]
    raw = mnist("test")
    assert data.labels is not None and np.array_equal(data.labels, raw.labels)
    assert (data.images[:, 0] == data.images[:, 2]).all()
    assert abs(data.images.mean() - raw.images.mean()) < 2
    assert data.digest != raw.digest
    again = load_images("mnist", img_size=8, channels=3, split="test", say=pytest.fail)
    assert again.digest == data.digest and np.array_equal(again.images, data.images)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from gansmith.data.cache import cache_folder

    monkeypatch.setenv("GANSMITH_CACHE", "/a/b")
    assert cache_folder() == Path("/a/b")
    monkeypatch.delenv("GANSMITH_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/gansmith")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/gansmith")
