"""Shards: their order and its resumes, what is read as what; shards that are damaged, changed, elsewhere, hostile."""

import hashlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gansmith import checkpoint
from gansmith.cli import main
from gansmith.data import ImageSet, Wanted, addresses, load_sets
from gansmith.data.addresses import Untrusted, is_shards
from gansmith.data.decoder import Decoders, Form
from gansmith.data.imageset import sha256
from gansmith.data.shards import INDEX, row_type
from gansmith.data.stream import Stream
from gansmith.data.streamed import Layout, Order
from gansmith.data.write_shards import index_shards, write_shards
from gansmith.errors import UserError
from gansmith.evaluation.evaluator import choose_reference
from gansmith.recipe import parsed, plan, to_yaml, with_full_paths

LABELLED, PLAIN, PAIRS = (("x", "y"),), (("x",),), (("a", "b"),)
Put = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(addresses, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(number: int) -> bytes:
    """A picture whose first pixel is its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4), dtype=np.uint8)
    pixels[0, 0] = number
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def tar(path: Path, members: Sequence[tuple[Any, bytes]]) -> Path:
    """A shard with these members, names or whole headers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for head, data in members:
            info = head if isinstance(head, tarfile.TarInfo) else tarfile.TarInfo(head)
            info.size = info.size or len(data)
            out.addfile(info, io.BytesIO(data.ljust(info.size, b"\0")) if info.isreg() else None)
    return path


def numbered(folder: Path, sizes: Sequence[int] = (7, 9, 6, 8)) -> Path:
    """Shards of pictures 0, 1, 2, ..., each with its number as its label."""
    count = itertools.count()
    for s, size in enumerate(sizes):
        own = [next(count) for _ in range(size)]
        members = [m for n in own for m in ((f"{n:04d}.png", png(n)), (f"{n:04d}.cls", str(n).encode()))]
        tar(folder / f"train-{s:02d}.tar", members)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return numbered(tmp_path / "shards")


def load(what: Path | str, needs: Any = LABELLED, said: list[str] | None = None, **changed: Any) -> ImageSet:
    say = (lambda _: None) if said is None else said.append
    made = {"img_size": (4, 4), "channels": 1, "n_cpu": 1, "window": 2, "progress": False, "say": say, **changed}
    (data,) = load_sets(Wanted(str(what), needs=needs, **made))
    return data


def stream_of(data: ImageSet, **options: Any) -> Stream:
    return Stream([data], **{"needs": LABELLED, "batch_size": 4, "seed": 1, "n_cpu": 3, **options})


def numbers(stream: Stream, batches: float, picture: bool = True) -> list[list[int]]:
    """The labels of the next batches, which are those of their pictures."""
    out = []
    for batch in itertools.islice(stream, int(batches)):
        seen = ((batch["x"][:, 0, 0, 0].double() + 1) * 127.5).round().long()
        assert not picture or torch.equal(seen, batch["y"])
        out.append(batch["y"].tolist())
    return out


# ---- the order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 15, 30, 50])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_each_picture_once_per_epoch_however_it_is_read(shards: Path, batch_size: int, window: int) -> None:
    def epochs(**options: Any) -> list[list[int]]:
        stream = stream_of(load(shards, window=window), batch_size=batch_size, **options)
        found = numbers(stream, 2 * stream.batches_per_epoch)
        stream.close()
        return found

    found = epochs()
    whole = [n for batch in found for n in batch]
    assert sorted(whole[:30]) == sorted(whole[30:]) == list(range(30)) and whole[:30] != whole[30:]
    assert found == epochs(memory="device") == epochs(n_cpu=1)


def test_a_resume_anywhere_and_any_number_of_ranks_and_workers_give_the_same_batches(shards: Path) -> None:
    stream = stream_of(load(shards))
    states, batches = [], []
    for _ in range(17):
        states.append(stream.state_dict())
        batches += numbers(stream, 1)
    for at, ranks in ((0, 2), (3, 3), (9, 1), (14, 4)):
        parts = [stream_of(load(shards, n_cpu=1 + at % 2), rank=r, ranks=ranks) for r in range(ranks)]
        for part in parts:
            part.load_state_dict(states[at])
        for expected in batches[at:]:
            assert sum((numbers(part, 1)[0] for part in parts), []) == expected
        for part in parts:
            part.close()


def test_the_order_never_changes() -> None:
    layout = Layout(np.array([0, 5, 11, 14]), np.zeros(14, np.uint64), 2)
    assert Order(layout, "gansmith order 0 0", 4)[:].tolist() == [11, 13, 6, 7, 12, 5, 10, 8, 9, 1, 2, 4, 0, 3]


def test_a_rank_of_a_thousand_reads_its_own_shards_alone() -> None:
    """100 million pictures in 20,000 shards, batches of 16,000: a rank reads a thousandth of the shards of a window."""
    counts = np.full(20_000, 5_000)
    layout = Layout(np.concatenate([[0], np.cumsum(counts)]), np.zeros(0, np.uint64), 4_000)
    order, size = Order(layout, "plan", 16_000), 16_000
    started = time.perf_counter()
    rows = [order[t * size + 700 * 16 : t * size + 701 * 16] for t in range(0, 1_250, 50)]
    assert len(np.unique(np.concatenate(rows) // 5_000)) <= 6 and time.perf_counter() - started < 20
    assert len(np.unique(np.concatenate(rows))) == 16 * len(rows)


def test_a_second_pass_is_from_memory_as_far_as_it_may_be_kept(shards: Path) -> None:
    for keep_mb, kept in ((1, True), (0, False)):
        stream = stream_of(load(shards, keep_mb=keep_mb), n_cpu=1)
        first = numbers(stream, stream.batches_per_epoch)
        stream.sets[0].images.reader.files.open.there.clear()
        for path in shards.glob("*.tar"):
            path.rename(path.with_suffix(".away"))
        if kept:
            assert sorted(sum(numbers(stream, len(first)), [])) == sorted(sum(first, []))
        else:
            with pytest.raises(UserError, match=r"the shard .*train-0\d.tar is missing"):
                numbers(stream, len(first))
        stream.close()
        for path in shards.glob("*.away"):
            path.rename(path.with_suffix(".tar"))


# ---- what is read as what ------------------------------------------------------------------------------------------


def test_addresses_are_patterns_folders_and_lists(shards: Path, tmp_path: Path) -> None:
    names = [f"train-0{i}.tar" for i in range(4)]
    (tmp_path / "list.txt").write_text("# mine\nshards/train-0{0..1}.tar\n\nshards/train-{02,03}.tar\n")
    for what in (shards, f"{shards}/train-{{00..03}}.tar", f"{shards}/train-*.tar", tmp_path / "list.txt"):
        assert is_shards(str(what)) and [Path(a).name for a in addresses.addresses(str(what))] == names
    assert addresses.addresses("x-{a,b}-{8..10}.tar") == [f"x-{c}-{n}.tar" for c in "ab" for n in (8, 9, 10)]
    assert not is_shards("mnist") and not is_shards(str(tmp_path))


@pytest.mark.parametrize(
    ("what", "part"),
    [
        ("pipe://rm -rf x.tar", "must begin with one of https://"),
        ("simplecache::https://x/y.tar", "must begin with one of https://"),
        ("memory://a::zip://y.tar", "must begin with one of"),
        ("x-{0..99999999}.tar", "fewer than 1,000,000"),
        ("x.tar.gz", "no data of that name|must end in .tar"),
        ("none-*.tar", "no shards at"),
        ("gone.tar", "no pictures in 1 shard; the first: gone.tar: the shard gone.tar is missing"),
        ("nolist.txt", "cannot read the list"),
    ],
)
def test_a_wrong_address_is_one_line(what: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        load(what)


@pytest.mark.parametrize(
    "classes", [("ant", "cat", "dog"), ("10", "8", "9"), ("ant", "caf\udce9", "cat "), ("007", "7", "x")]
)
def test_pixels_labels_and_classes_are_those_of_the_folder_itself(classes: tuple[str, ...], tmp_path: Path) -> None:
    """One class has but a picture that is broken."""
    for i in range(12):
        (path := tmp_path / "pics" / classes[1 + i % 2] / f"{i}.png").parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    (path := tmp_path / "pics" / classes[0] / "12.png").parent.mkdir()
    path.write_text("none")
    index = write_shards(Wanted(str(tmp_path / "pics"), say=lambda _: None), tmp_path / "out", per_shard=5)
    assert sum(n for _, _, n, _ in index.about["shards"]) == 12
    for name, n_bytes, _, digest in index.about["shards"]:
        data = (tmp_path / "out" / name).read_bytes()
        assert (n_bytes, digest) == (len(data), hashlib.sha256(data).hexdigest())
    plain, made = load(tmp_path / "pics"), load(tmp_path / "out")
    assert made.classes == plain.classes == classes

    def content(data: ImageSet) -> list[tuple[bytes, int]]:
        return sorted((x.tobytes(), int(y)) for x, y in zip(data.images[:], np.asarray(data.labels), strict=True))

    assert content(made) == content(plain)
    for path in (tmp_path / "out").glob("gansmith-index*"):
        path.unlink()
    if "dog" in classes:
        assert content(load(tmp_path / "out", per_shard=5, classes=classes, max_broken=1.0))[:1] == content(plain)[:1]
        assert load(tmp_path / "out", per_shard=5, classes=["dog", "cow"], said=(said := [])).images[:].shape[0] == 15
        assert any("its label is cat, and data.classes has no such class" in text for text in said)
    with pytest.raises(UserError, match="out exists"):
        write_shards(Wanted(str(tmp_path / "pics")), tmp_path / "out")


def test_pairs_and_attributes_go_into_shards_and_come_out(tmp_path: Path) -> None:
    for side in ("a", "b"):
        for i in range(4):
            (path := tmp_path / "pairs" / side / f"{i}.png").parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(10 * (side == "b") + i))
    write_shards(Wanted(str(tmp_path / "pairs"), say=lambda _: None), tmp_path / "p", pairs=True)
    pairs = load(tmp_path / "p", PAIRS)
    (tmp_path / "halves").mkdir()
    for i in range(4):
        both = [Image.open(tmp_path / "pairs" / side / f"{i}.png") for side in ("a", "b")]
        (whole := Image.new(both[0].mode, (2 * both[0].width, both[0].height))).paste(both[0], (0, 0))
        whole.paste(both[1], (both[0].width, 0))
        whole.save(tmp_path / "halves" / f"{i}.png")
    whole.convert("CMYK").save(tmp_path / "halves" / "4.tif")  # a mode that PNG lacks
    write_shards(Wanted(str(tmp_path / "halves"), say=lambda _: None), tmp_path / "h", pairs=True)
    halves = load(tmp_path / "h", PAIRS)
    assert len(halves) == 5
    for side in ("a", "b"):
        there = {x.tobytes() for x in pairs.columns[side][:]}
        assert {x.tobytes() for x in halves.columns[side][:]} == there, side
    assert (pairs.columns["b"][:][:, 0, 0, 0] - pairs.columns["a"][:][:, 0, 0, 0]).tolist() == [10] * 4
    turned = load(tmp_path / "p", PAIRS, direction="b2a")
    assert (turned.columns["a"][0] == pairs.columns["b"][0]).all()
    texts = [b'{"hat": 0, "n": 7}', b'{"hat": 1, "n": 7, "bag": 1}', b'{"hat": 0, "n": 7}']
    tar(tmp_path / "j" / "0.tar", [(f"{i}.{e}", d) for i in range(3) for e, d in (("png", png(i)), ("json", texts[i]))])
    told = load(tmp_path / "j", (("x", "bits"),))
    assert told.classes == ("hat",) and told.columns["bits"][:].tolist() == [[0.0], [1.0], [0.0]]
    with pytest.raises(UserError, match="holds single pictures with attributes, not pairs|holds single pictures"):
        load(tmp_path / "j", PAIRS)
    with pytest.raises(UserError, match="data.columns names hut; the shards have hat"):
        load(tmp_path / "j", (("x", "bits"),), columns=["hut"])


def test_labels_may_be_names_or_stand_in_the_json_and_are_attributes_too(tmp_path: Path) -> None:
    words = [b"dog", b"cat", b"dog"]
    tar(tmp_path / "w" / "0.tar", [(f"{i}.{e}", d) for i in range(3) for e, d in (("png", png(i)), ("cls", words[i]))])
    data = load(tmp_path / "w")
    assert data.classes == ("cat", "dog") and data.columns["y"][:].tolist() == [1, 0, 1]
    bits = load(tmp_path / "w", (("x", "bits"),))
    assert bits.classes == ("class=cat", "class=dog") and bits.columns["bits"][1].tolist() == [1.0, 0.0]
    stream = stream_of(bits, needs=(("x", "bits"),), batch_size=3)
    assert sorted(next(stream)["bits"].tolist()) == [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    stream.close()
    json_of = [(f"{i}.{e}", d) for i in range(3) for e, d in (("png", png(i)), ("json", b'{"label": %d}' % i))]
    tar(tmp_path / "l" / "0.tar", json_of)
    assert load(tmp_path / "l").columns["y"][:].tolist() == [0, 1, 2]
    tar(tmp_path / "n" / "0.tar", json_of[:-1])
    with pytest.raises(UserError, match="holds single pictures, not single pictures with labels"):
        load(tmp_path / "n")


def test_held_back_pictures_are_the_same_in_other_shards_and_never_trained_on(shards: Path, tmp_path: Path) -> None:
    whole = load(shards)
    train, held = (load(shards, validation=6, split=split) for split in ("train", "validation"))
    assert isinstance(held.images, np.ndarray) and train.layout is not None and held.layout is None
    chosen = sorted(np.asarray(held.labels).tolist())
    assert sorted([*chosen, *np.asarray(train.labels).tolist()]) == list(range(30)) and len(whole) == 30
    stream = stream_of(train)
    assert sorted(sum(numbers(stream, stream.batches_per_epoch), [])) == sorted({*range(30)} - {*chosen})
    stream.close()
    again = load(numbered(tmp_path / "others", (3, 27)), validation=6, split="validation")
    assert sorted(np.asarray(again.labels).tolist()) == chosen
    with pytest.raises(UserError, match="has no test split"):
        load(shards, split="test")


def test_a_test_split_is_a_folder_beside_the_one_that_is_trained_on(tmp_path: Path) -> None:
    for name, counts in (("train", (3, 2)), ("test", (4,))):
        numbered(tmp_path / "set" / name, counts)
    assert [len(load(tmp_path / "set", split=split)) for split in ("train", "test")] == [5, 4]
    recipe = plan("gan", flags={"data": str(tmp_path / "set"), "img_size": 4}).recipe
    assert choose_reference(recipe, say=pytest.fail) == "test"
    shutil.rmtree(tmp_path / "set" / "test")
    with pytest.raises(UserError, match="has no test split: shards have one as a folder test beside"):
        load(tmp_path / "set", split="test")
    assert choose_reference(recipe, say=lambda _: None) == "train"


def test_a_game_that_sees_few_labels_sees_those_of_a_fixed_choice(tmp_path: Path) -> None:
    members = [(f"{i}.{e}", d) for i in range(20) for e, d in (("png", png(i)), ("cls", str(i % 2).encode()))]
    tar(tmp_path / "s" / "0.tar", members)
    made = {"img_size": (4, 4), "channels": 1, "needs": (("x", "y"), ("u",)), "labelled": 6, "say": lambda _: None}
    seen, all_of_it = load_sets(Wanted(str(tmp_path / "s"), **made))
    assert np.bincount(np.asarray(seen.labels)).tolist() == [3, 3] and len(all_of_it) == 20
    stream = Stream([seen, all_of_it], needs=(("x", "y"), ("u",)), batch_size=4, seed=0)
    assert {name: tuple(f.shape) for name, f in next(stream).fields.items()} == {
        "x": (4, 1, 4, 4), "y": (4,), "u": (4, 1, 4, 4)
    }  # fmt: skip
    stream.close()


# ---- damaged, changed, hostile -------------------------------------------------------------------------------------


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "a link": (link("bad.png", tarfile.SYMTYPE), b"", "a link or a device"),
    "a hard link": (link("bad.png", tarfile.LNKTYPE, "0000.png"), b"", "a link or a device"),
    "a device": (link("bad.png", tarfile.CHRTYPE), b"", "a link or a device"),
    "a pipe": (link("bad.png", tarfile.FIFOTYPE), b"", "a link or a device"),
    "absolute": ("/bad.png", png(1), "leads out"),
    "above": ("../../bad.png", png(1), "leads out"),
    "no picture": ("bad.png", b"\x89PNG but no more", "not a picture"),
    "empty": ("bad.jpg", b"", "not a picture"),
    "twice": ("0000.png", png(1), "its key stands twice"),
    "no json": ("bad.json", b"[" * 100_000, ""),
    "no text": ("bad.cls", b"\xff\xfe", "can't decode"),
    "alone": ("bad.cls", b"1", "no picture"),
    "a pair": ("bad.a.png", png(1), "it holds a, and others x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_left_out_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    head, data, why = HOSTILE[name]
    members = [(f"{n:04d}.{e}", d) for n in range(8) for e, d in (("png", png(n)), ("cls", b"%d" % n))]
    tar(tmp_path / "in" / "0.tar", [*members, (head, data)])
    said: list[str] = []
    found = load(tmp_path / "in", said=said)
    assert len(found) == 8 - (name == "twice") and any(
        f"1 of {len(found) + 1} pictures" in s and why in s for s in said
    )
    assert {path.name for path in tmp_path.iterdir()} == {"in", "cache"} and len([*(tmp_path / "in").iterdir()]) == 1


def test_what_is_in_pickles_formats_is_passed_over(tmp_path: Path) -> None:
    more = [("0.pkl", b"cos\nsystem\n(S'touch pwned'\ntR."), ("0.pyd", b"x"), ("0.npy", b"x"), ("0.txt", b"a cat")]
    tar(tmp_path / "in" / "0.tar", [("0.png", png(0)), *more])
    said: list[str] = []
    assert len(load(tmp_path / "in", PLAIN, said)) == 1
    assert "passed over in the shards: 4 members with other endings (1 .pkl, 1 .pyd, 1 .npy, 1 .txt)" in said


def test_a_declared_size_beyond_the_file_is_a_shard_cut_off(tmp_path: Path) -> None:
    info = tarfile.TarInfo("0001.png")
    info.size = 10 << 30
    raw = tar(tmp_path / "in" / "0.tar", [("0000.png", png(0))]).read_bytes()
    (tmp_path / "in" / "0.tar").write_bytes(raw[:1024] + info.tobuf() + bytes(10240))
    with pytest.raises(UserError, match="no pictures in 1 shard; the first: .*0.tar: unexpected end of data"):
        load(tmp_path / "in")


def test_no_damage_to_a_shard_is_more_than_one_line(tmp_path: Path) -> None:
    whole = numbered(tmp_path / "good", (6,)).joinpath("train-00.tar").read_bytes()
    draw = random.Random(0)
    for trial in range(60):
        raw = bytearray(whole[: draw.randrange(len(whole))] if trial % 3 == 0 else whole)
        for _ in range(0 if trial % 3 == 0 else draw.choice((1, 8, 64))):
            at = (
                draw.randrange(len(raw))
                if trial % 3 == 1
                else 512 * draw.randrange(len(raw) // 512) + draw.randrange(512)
            )
            raw[at] = draw.randrange(256)
        (folder := tmp_path / f"in{trial}").mkdir()
        (folder / "0.tar").write_bytes(raw)
        try:
            data = load(folder, PLAIN)
            assert data.images[:].shape == (len(data), 1, 4, 4)
        except UserError as error:
            assert "\n" not in str(error) and "Traceback" not in str(error)
    assert {path.name.rstrip("0123456789") for path in tmp_path.iterdir()} == {"good", "in", "cache"}


def test_a_shard_that_changed_after_it_was_indexed_is_named(shards: Path) -> None:
    index_shards(Wanted(str(shards), say=lambda _: None))
    path, raw = shards / "train-01.tar", (shards / "train-01.tar").read_bytes()
    data = load(shards)
    changed = bytearray(raw)
    changed[512 + 20] ^= 1
    for now, why in ((bytes(changed), "it has other content in bytes 512 to"), (raw[:2048], "has 2,048 bytes; when")):
        path.write_bytes(now)
        with pytest.raises(UserError, match=rf"{path} (is not what was indexed: )?{why}"):
            data.images[:]
        data.images.reader.files.open.there.clear()
    with pytest.raises(
        UserError, match=r"1 of 4 shards of .* max_broken = 0.01 allows; the first: train-01.tar: it has"
    ):
        load(shards)
    said: list[str] = []
    assert len(load(shards, said=said, max_broken=0.25)) == 21 and "left out the shard train-01.tar" in said[0]
    path.unlink()
    with pytest.raises(UserError, match=r"train-01.tar is missing"):
        load(f"{shards}/train-{{00..03}}.tar")
    (shards / INDEX).write_text("{}")
    with pytest.raises(UserError, match="index.json is damaged"):
        load(f"{shards}/train-{{00..03}}.tar")


def test_an_index_of_a_stranger_is_checked(shards: Path) -> None:
    index = index_shards(Wanted(str(shards), say=lambda _: None))
    rows = np.array(index.rows)
    rows["y"][3] = 1000
    np.save(shards / "gansmith-index.npy", rows)
    with pytest.raises(UserError, match="its rows have another digest"):
        load(shards)
    np.save(shards / "gansmith-index.npy", np.zeros(3, row_type(2, 1)))
    with pytest.raises(UserError, match="index.json is damaged"):
        load(shards)
    rows["y"][3], rows["offset"][0] = 3, 1 << 40
    np.save(shards / "gansmith-index.npy", rows)
    about = {**index.about, "sha256": sha256(rows)}
    (shards / INDEX).write_text(json.dumps(about))
    with pytest.raises(UserError, match="is not what was indexed"):
        load(shards).images[:]


def test_a_picture_that_proves_broken_is_replaced_in_all_columns_alike(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), "JPEG")
    half = file.getvalue()[:1500]  # a good header, and then too little
    members = [
        (f"{i}.{e}", d) for i in range(6) for e, d in (("png", half if i in (2, 3) else png(i)), ("cls", b"%d" % i))
    ]
    tar(tmp_path / "in" / "0.tar", members)
    said: list[str] = []
    for n_cpu in (1, 2):
        stream = stream_of(load(tmp_path / "in", said=said, n_cpu=n_cpu), batch_size=6)
        assert sorted(numbers(stream, 1)[0]) == [0, 1, 4, 4, 4, 5]
        stream.close()
    assert any("left out picture 2 of" in s and "the next one stands for it" in s for s in said)
    tar(tmp_path / "all" / "0.tar", [("0.jpg", half)])
    with pytest.raises(UserError, match="no picture of .*0.tar can be read"):
        load(tmp_path / "all", PLAIN).images[:]


def running(decoders: Decoders) -> list[Any]:
    return [decoder for decoder in decoders.free.queue if decoder]


def test_an_interrupted_decoder_answers_nobody_else() -> None:
    decoders = Decoders(Form((4, 4), 1, "crop", 200), 2)
    for _ in range(2):
        assert decoders.decode([png(1)])[0][0, 0, 0, 0] == 1
        if not running(decoders):
            pytest.skip("one core: pictures are decoded in this process")
        (decoder,) = running(decoders)
        pipe = decoder._process.stdout
        decoder._process.stdout = Mock(readline=Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            decoders.decode([png(9)])
        pipe.close()
        assert [int(decoders.decode([png(n)])[0][0, 0, 0, 0]) for n in range(20, 26)] == [*range(20, 26)]
    with ThreadPoolExecutor(4) as pool:
        assert [int(found[0][0, 0, 0, 0]) for found in pool.map(lambda n: decoders.decode([png(n)]), range(9))] == [
            *range(9)
        ]
    decoders.close()


def test_a_decoder_that_is_killed_is_one_line(shards: Path) -> None:
    data = load(shards, n_cpu=2)
    data.images[:2]
    reader = data.images.reader
    if not running(reader.decoders):
        pytest.skip("one core: pictures are decoded in this process")
    for decoder in running(reader.decoders):
        decoder._process.kill()
    with pytest.raises(UserError, match=r"a process that decodes pictures has ended \(exit code -9\)"):
        data.images[:]
    reader.close()


# ---- elsewhere -----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(shards: Path) -> Any:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe(f"/store/{path.name}", path.read_bytes())
    yield memory
    memory.rm("/store", recursive=True)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("pattern", ["memory://store/train-{00..03}.tar", "memory://store/train-*.tar"])
def test_shards_elsewhere_give_the_same_batches(shards: Path, store: Any, indexed: bool, pattern: str) -> None:
    if indexed:
        index_shards(Wanted(str(shards), say=lambda _: None))
        for path in shards.glob("gansmith-index*"):
            store.pipe(f"/store/{path.name}", path.read_bytes())
    there, here = stream_of(load(pattern)), stream_of(load(shards))
    assert numbers(there, 12) == numbers(here, 12) and there.digest == here.digest
    there.close()
    here.close()
    assert not [path for path in (shards.parent / "cache").iterdir() if not path.name.rpartition("-")[0]]


@pytest.mark.parametrize("window", [1, 2, 3])
def test_the_next_window_is_told_ahead(window: int) -> None:
    """What each part of a batch comes to in the next window: the shards that it then reads, and no others.

    After the last window that is the first one of the next pass.
    """
    edges = np.cumsum([0, 9, 8, 0, 11, 7, 10, 9])
    order, following = (Order(Layout(edges, np.zeros(54, np.uint64), window), f"{epoch}", 4) for epoch in range(2))
    size = order._turns * 4
    for w in range(-(-54 // size)):
        here, start = (order, (w + 1) * size) if (w + 1) * size < 54 else (following, 0)
        for lo, hi in ((0, 4), (0, 1), (2, 4)):
            places = np.add.outer(np.arange(start, min(start + size, 54) - 3, 4), np.arange(lo, hi)).ravel()
            rows = [here[int(p) : int(p) + 1][0] for p in places]
            reads = {*(np.searchsorted(edges, rows, "right") - 1).tolist()}
            told = order.ahead(slice(w * size + lo, w * size + hi), lambda: following)
            assert {s for s in told if edges[s] < edges[s + 1]} == reads and len(told) == len({*told})


def test_shards_from_elsewhere_come_ahead_of_their_window(shards: Path, store: Any) -> None:
    data = load("memory://store/train-*.tar", window=1)
    reader = data.images.reader
    stream = stream_of(data, n_cpu=1)
    reader.read(["x"], stream._order(0, 0)[:1])
    files = reader.files
    assert len(files.open.there) == 1
    stream._read(0)
    files._fetching.shutdown()
    assert len(files.open.there) == 2
    files._fetching = None
    files.open.there.clear()
    stream._read(6)  # the last whole one
    files._fetching.shutdown()
    here, following = (
        {*(np.searchsorted(data.layout.edges, rows, "right") - 1).tolist()}
        for rows in (stream._order(0, 0)[24:28], stream._order(0, 1)[:4])
    )
    assert not following <= here and following <= {*files.open.there}, "the first window of the next pass"
    files._fetching = None
    stream.close()


def test_shards_from_a_server_of_http(shards: Path) -> None:
    pytest.importorskip("aiohttp")
    import functools
    import http.server
    import threading

    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}/train-{{00..03}}.tar"
        there, here = stream_of(load(at)), stream_of(load(shards))
        assert numbers(there, 12) == numbers(here, 12)
        there.close()
        here.close()
        (shards / "train-02.tar").unlink()
        with pytest.raises(UserError, match="train-02.tar is missing"):
            numbers(stream_of(load(at)), 8)
        server.shutdown()


def test_what_fails_is_tried_again_and_then_told(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, fails = type(store)._open, [2]

    def flaky(self: Any, *args: Any, **keys: Any) -> Any:
        fails[0] -= 1
        if fails[0] >= 0:
            raise ConnectionError("the line is dead")
        return whole(self, *args, **keys)

    monkeypatch.setattr(type(store), "_open", flaky)
    assert len(load("memory://store/train-00.tar")) == 7
    fails[0] = 100
    with pytest.raises(UserError, match="train-01.tar cannot be read, tried 3 times: the line is dead"):
        load("memory://store/train-01.tar")


def test_an_address_in_somebody_elses_recipe_needs_trust(store: Any, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("data: {name: 'memory://store/train-00.tar', img_size: 4}\n")
    theirs = plan(tmp_path / "theirs.yaml").recipe
    with pytest.raises(UserError, match="which would read memory://store/train-00.tar; if you trust that address"):
        load_sets(Wanted(theirs.data.name, (4, 4), 1))
    (tmp_path / "theirs.yaml").write_text(f"data: {{name: '{tmp_path}/list.txt', img_size: 4}}\n")
    (tmp_path / "list.txt").write_text("memory://store/train-00.tar\n")
    with pytest.raises(UserError, match="if you trust that address"):
        load_sets(Wanted(plan(tmp_path / "theirs.yaml").recipe.data.name, (4, 4), 1))
    (tmp_path / "theirs.yaml").write_text(f"data: {{name: '{tmp_path}/list.txt', img_size: 4}}\n")
    again = parsed(to_yaml(plan(tmp_path / "theirs.yaml").recipe, "theirs"), "theirs")
    assert again["data"]["name"] == f"{tmp_path}/list.txt"
    (tmp_path / "theirs.yaml").write_text("data: {name: 'memory://store/train-00.tar', img_size: 4}\n")
    for trusted in (
        plan(tmp_path / "theirs.yaml", trust=True),
        plan("gan", flags={"data.name": "memory://store/train-00.tar"}),
    ):
        assert len(load(trusted.recipe.data.name)) == 7 and trusted.modules == ("fsspec",)


# ---- training ------------------------------------------------------------------------------------------------------


def test_the_command_writes_shards_and_a_training_on_them_goes_on(tmp_path: Path, shards: Path) -> None:
    run = CliRunner()
    made = run.invoke(main, ["shards", "ring", str(tmp_path / "out")])
    assert made.exit_code == 2 and "ring is no single set of pictures" in made.output
    made = run.invoke(main, ["shards", str(shards)])
    assert made.exit_code == 0 and (shards / INDEX).is_file() and "30 samples in 4 shards" in made.stdout
    small = {"n_cpu": 1, "data.img_size": 4, "batch_size": 5, "networks.G.widths": [8], "networks.D.widths": [8]}
    words = [w for key, value in small.items() for w in (f"--{key}", str(value))]
    made = run.invoke(main, ["verify", "gan", "--data", f"{shards}/*.tar", "--steps", "2", *words])
    assert made.exit_code == 0 and "exact: 2 rounds" in made.stdout, made.output


@pytest.mark.slow
@pytest.mark.large
def test_a_training_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path, shards: Path, command: Any) -> None:
    words = [
        "--data",
        f"{shards}/*.tar",
        "--img_size",
        4,
        "--batch_size",
        5,
        "--steps",
        200,
        "--checkpoint.interval",
        20,
    ]
    words += ["--data.keep_mb", 0, "--n_cpu", 4, "--sample_interval", 10_000, "--quiet"]
    first = command("train", "gan", *words, "--out", "whole", cwd=tmp_path)
    assert first.communicate(timeout=120) and first.returncode == 0
    draw, kills = random.Random(0), 0
    what: list[Any] = ["gan", *words, "--out", "cut"]
    while kills < 2:
        process = command("train", *what, cwd=tmp_path)
        time.sleep(3 + 3 * draw.random())
        if process.poll() is None:
            kills += 1
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if (tmp_path / "cut" / "recipe.yaml").exists():
            what = ["cut", "--quiet"]
        else:  # killed while it still started
            shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        if process.returncode == 0:
            break
    last = command("train", *what, cwd=tmp_path)
    last.communicate(timeout=120)
    ends = [checkpoint.newest_good(tmp_path / name / "checkpoints", print) for name in ("whole", "cut")]
    assert ends[0].info["sha256"] == ends[1].info["sha256"]
    shutil.rmtree(tmp_path / "cut")


def test_an_index_serves_a_part_of_its_shards_and_those_beside_a_broken_one(shards: Path) -> None:
    (shards / "train-04.tar").write_bytes(b"no shard")
    index_shards(Wanted(str(shards), say=lambda _: None))
    said: list[str] = []
    assert len(load(shards, said=said, max_broken=0.25)) == 30 and "left out the shard train-04.tar" in said[0]
    part = load(f"{shards}/train-{{01..02}}.tar", said=said)
    assert sorted(np.asarray(part.columns["y"]).tolist()) == [*range(7, 22)]
    assert not any("has no index" in text for text in said)
    (shards / "train-02.tar").rename(shards / "gone")
    assert (
        len(load(shards, said=said, max_broken=0.5)) == 24 and "left out the shard train-02.tar: it is missing" in said
    )
    with pytest.raises(UserError, match="more than max_broken = 0.25 allows; the first: train-0[24].tar"):
        load(shards, max_broken=0.25)
    (shards / "gone").rename(shards / "train-02.tar")
    with pytest.raises(UserError, match="no shard of .* can be used"):
        load(shards / "train-04.tar", max_broken=1.0)


@pytest.mark.parametrize("what", ["memory:/{/h/a,/h/b}.tar", "zip:/{/h/a,b}.tar", "memory://a:{:file:///etc/,b}x.tar"])
def test_braces_make_up_no_address(what: str) -> None:
    with pytest.raises(UserError, match="braces may not make up an address"):
        addresses.addresses(what)


def test_a_list_of_addresses_stays_untrusted_with_its_full_path(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("memory://h/a.tar\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data: {{name: {tmp_path / 'list.txt'}}}\n")
    assert isinstance(with_full_paths(plan(recipe)).recipe.data.name, Untrusted)


def test_writing_shards_leaves_what_is_there(shards: Path, tmp_path: Path) -> None:
    kept = tmp_path / "out" / "mine"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        write_shards(Wanted("mnist", say=lambda _: None), tmp_path / "out")
    assert kept.exists() and {path.name for path in tmp_path.iterdir()} - {"cache"} == {"out", "shards"}


def test_folders_of_pictures_beside_an_archive_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "flowers.tar").touch()
    assert is_shards(str(tmp_path))
    (tmp_path / "daisy").mkdir()
    assert not is_shards(str(tmp_path))


# ---- shards that nobody has counted ------------------------------------------------------------------------------


def uncounted(what: Path, **changed: Any) -> ImageSet:
    return load(what, per_shard=8, classes=64, **changed)


def test_shards_that_nobody_counted_give_each_sample_once_a_pass(shards: Path, cache: Path) -> None:
    """Of 7, 9, 6 and 8 samples counted as 8 each: one shard gives one again, one two, one keeps its last to itself."""
    said: list[str] = []
    stream = stream_of(uncounted(shards, said=said))
    passes = numbers(stream, 2 * stream.batches_per_epoch)
    stream.close()
    expected = sorted([*range(7), 0, *range(7, 15), *range(16, 22), 16, 17, *range(22, 30)])
    for of in (passes[:8], passes[8:]):
        assert sorted(sum(of, [])) == expected
    assert passes[:8] != passes[8:] and not cache.exists()
    assert said[0].endswith("4 shards without an index, each counted as 8 samples; the first has 7")
    assert [
        text for text in said if "9 samples, and data.per_shard = 8 of them are used" in text and "train-01" in text
    ]


def test_shards_that_nobody_counted_are_looked_at_when_they_are_read(tmp_path: Path) -> None:
    shards = numbered(tmp_path / "many", [4] * 40)
    for path in sorted(shards.iterdir())[1:]:
        path.write_bytes(b"")  # not read at the start
    data = uncounted(shards)
    assert data.classes == tuple(map(str, range(64))) and len(data) == 320
    with pytest.raises(UserError, match=r"the shard .*train-\d\d.tar cannot be used: it has 0 bytes"):
        numbers(stream_of(data), 80)


def test_a_resume_of_shards_that_nobody_counted_gives_the_same_batches_on_other_ranks(shards: Path) -> None:
    stream = stream_of(uncounted(shards))
    numbers(stream, 5)
    state, rest = stream.state_dict(), numbers(stream, 9)
    stream.close()
    parts = [stream_of(uncounted(shards, n_cpu=2), rank=r, ranks=2) for r in range(2)]
    for part in parts:
        part.load_state_dict(state)
    for expected in rest:
        assert sum((numbers(part, 1)[0] for part in parts), []) == expected
    for part in parts:
        part.close()


def test_what_a_sample_lacks_leaves_it_out(tmp_path: Path) -> None:
    """Of a shard that nobody counted: a label that is no class, an attribute that others have."""
    told = [{"cls": "cat", "smile": 1}, {"cls": "dog", "smile": 0}, {"cls": "ox", "smile": 0}, {"cls": "cat"}]
    members = [m for i, t in enumerate(told) for m in ((f"{i}.png", png(i)), (f"{i}.json", json.dumps(t).encode()))]
    tar(tmp_path / "s" / "0.tar", members[:2])
    tar(tmp_path / "s" / "1.tar", members)
    said: list[str] = []
    data = load(tmp_path / "s", per_shard=3, classes=["dog", "cat"], said=said)
    assert data.columns["y"][3:].tolist() == [1, 0, 1] and data.images[3:][:, 0, 0, 0].tolist() == [0, 1, 3]
    assert any(
        "left out 1 samples" in text and "its label is ox, and data.classes has no such class" in text for text in said
    )
    bits = load(tmp_path / "s", needs=(("x", "bits"),), per_shard=3, said=said)
    assert bits.classes == ("smile",) and bits.columns["bits"][3:][:, 0].tolist() == [1.0, 0.0, 0.0]
    assert any("left out 1 samples" in text and "it lacks the attribute smile" in text for text in said)


def test_for_a_shard_that_cannot_be_used_the_next_one_stands(shards: Path) -> None:
    """As far as max_broken says, and alike whenever it is found: nothing of what the run was hangs on the order."""
    (shards / "train-01.tar").write_bytes(b"no tar")
    (shards / "train-02.tar").unlink()
    said: list[str] = []
    data = uncounted(list_of(shards), max_broken=0.5, said=said)
    rows = [data.images.reader.read(["x", "y"], np.array([row]))["y"][0] for row in (23, 8, 16)]
    assert rows == [29, 22, 22]
    assert [data.columns["y"][row] for row in (8, 16, 23)] == [22, 22, 29]
    passes = numbers(stream_of(data), 8)
    assert sorted(sum(passes, [])) == sorted([*range(7), 0, *[*range(22, 30)] * 3])
    assert passes == numbers(stream_of(uncounted(list_of(shards), max_broken=0.5)), 8)
    left = [text for text in said if text.startswith("left out a shard")]
    assert len(left) == 2 and "1 so far; the next stands for it" in left[0] and "train-01.tar" in " ".join(left)
    data = uncounted(list_of(shards), max_broken=0.25)
    for _ in range(2):  # whoever asks again is told again
        with pytest.raises(UserError, match=r"train-0[12].tar .*2 of 4 shards, more than max_broken = 0.25 allows"):
            data.images[:]
    for path in shards.iterdir():
        path.write_bytes(b"no tar")
    with pytest.raises(UserError, match="4 of 4 shards"):
        uncounted(list_of(shards), max_broken=1.0)


def list_of(shards: Path) -> Path:
    (path := shards.parent / "list.txt").write_text("\n".join(f"{shards}/train-{i:02d}.tar" for i in range(4)))
    return path


def test_more_broken_samples_than_max_broken_allows_stop_it(tmp_path: Path) -> None:
    for s in range(2):
        members = [(f"{n}.png", png(n) if n % 2 else b"none") for n in range(40)]
        tar(tmp_path / "s" / f"{s}.tar", [m for n, d in members for m in ((n, d), (n.replace("png", "cls"), b"1"))])
    with pytest.raises(UserError, match="20 of 40 samples so far are broken, more than max_broken = 0.01 allows"):
        numbers(stream_of(uncounted(tmp_path / "s")), 2)
    assert len(numbers(stream_of(uncounted(tmp_path / "s", max_broken=0.5)), 2, picture=False)) == 2


def test_labels_are_those_of_the_picture_whatever_is_read_how(tmp_path: Path) -> None:
    """A picture that proves broken only when it is decoded, read column by column and all at once."""
    half = png(3)[: len(png(3)) // 2]
    members = [m for n in range(8) for m in ((f"{n}.png", half if n == 3 else png(n)), (f"{n}.cls", str(n).encode()))]
    tar(tmp_path / "s" / "0.tar", members)
    for options in ({"memory": "device"}, {"memory": "map"}):
        assert 3 not in sum(numbers(stream_of(load(tmp_path / "s"), **options), 2), [])
    held = load(tmp_path / "s", validation=7, split="validation")
    assert held.images[:, 0, 0, 0].tolist() == held.columns["y"].tolist()


def test_shards_of_changed_content_keep_their_labels(shards: Path) -> None:
    """The label is of the picture that is shown, though the shard was written anew after that was kept."""
    data = uncounted(shards)
    stream = stream_of(data)
    before = sorted(sum(numbers(stream, 8), []))
    data.images.reader._index._tables.there.clear()
    tar(shards / "train-00.tar", [m for n in range(7) for m in ((f"{n}.png", png(n + 40)), (f"{n}.cls", b"1"))])
    assert sorted(sum(numbers(stream, 8), [])) == before
    stream.close()


def test_shards_from_elsewhere_are_opened_once_while_they_are_needed(
    shards: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens: list[str] = []
    whole = type(store)._open
    monkeypatch.setattr(
        type(store), "_open", lambda self, path, *a, **k: opens.append(path) or whole(self, path, *a, **k)
    )
    for make in (load, uncounted):
        data = make("memory://store/train-*.tar", window=1)
        opens.clear()
        stream = stream_of(data, n_cpu=1)
        numbers(stream, 8)
        assert len(opens) <= 5 + (make is uncounted)
        opens.clear()
        numbers(stream, 8)
        stream.close()
        assert not opens  # all pictures are kept


def test_keys_of_uncounted_shards_are_for_these_alone(shards: Path) -> None:
    with pytest.raises(UserError, match="with data.per_shard no pictures are held back"):
        uncounted(shards, validation=4)
    for flags, says in (
        ({"per_shard": 10**9}, "data.per_shard is 1,000,000,000; it must be at most"),
        ({"classes": 10**9}, "data.classes is 1,000,000,000; it must be at most"),
        ({"classes": ["a", "a"]}, "data.classes names a twice"),
        ({"classes": None}, "--data.classes says how many there are"),
        ({"needs": (("x", "bits"),)}, "have no attributes in a KEY.json"),
    ):
        with pytest.raises(UserError, match=says):
            load(shards, **{"per_shard": 8, "classes": 64, **flags})
    with pytest.raises(UserError, match="data.labelled counts labels"):
        load(shards, (("x", "y"), ("u",)), per_shard=8, classes=64, labelled=8)
    with pytest.raises(UserError, match="with it, data.per_shard must be given"):
        load(shards, classes=64)
    with pytest.raises(UserError, match="data.per_shard is 8, which is for shards"):
        load_sets(Wanted("mnist", (28, 28), 1, per_shard=8))
