"""What a recipe leaves to its pictures and its machine is chosen once, said, and written down."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from conftest import CPU, experiment_of, small_flags
from PIL import Image

from gansmith import UserError, plan, train
from gansmith.build import settled
from gansmith.data.choose import Choice, choose
from gansmith.engine import best_precision, free_memory
from gansmith.recipe import without_flip


def save(folder: Path, *sizes: tuple[int, int], mode: str = "RGB", turned: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    for i, size in enumerate(sizes):
        Image.new(mode, size).save(folder / f"{i:03}.jpg", exif=exif)
    return folder


@pytest.mark.parametrize(
    ("sizes", "most", "size"),
    [
        ([(640, 480)] * 20, 64, (48, 64)),  # all have one shape, and keep it
        ([(640, 480)] * 20, 128, (96, 128)),
        ([(480, 640)] * 19 + [(100, 900)], 64, (64, 48)),
        ([(640, 480)] * 10 + [(480, 640)] * 10, 64, (64, 64)),  # they do not
        ([(50, 50)] * 5, 64, (48, 48)),  # no larger than they are
        ([(40, 90), (90, 40)], 128, (32, 32)),
        ([(6, 6)], 64, (16, 16)),
        ([(2000, 100)] * 3, 64, (16, 64)),
    ],
)
def test_the_size_follows_the_pictures(
    sizes: list[tuple[int, int]], most: int, size: tuple[int, int], tmp_path: Path
) -> None:
    assert choose(str(save(tmp_path, *sizes)), most) == Choice(size, 3, len(sizes) // 10)


def test_pictures_are_looked_at_as_they_hang_and_where_training_takes_them(tmp_path: Path) -> None:
    save(tmp_path / "train", *[(64, 32)] * 30, turned=True)
    save(tmp_path / "test", (16, 16))
    (tmp_path / "train" / "broken.png").write_text("no picture")
    assert choose(str(tmp_path), 64) == Choice((64, 32), 3, 0)  # there are test pictures, so none is held back


def test_an_empty_folder_of_test_pictures_is_none(tmp_path: Path) -> None:
    save(tmp_path, *[(32, 32)] * 40)
    (tmp_path / "test").mkdir()
    assert choose(str(tmp_path), 64).validation == 4


def test_grey_pictures_have_one_channel_and_one_in_colour_makes_three(tmp_path: Path) -> None:
    assert choose(str(save(tmp_path / "a", *[(32, 32)] * 3, mode="L")), 64) == Choice((32, 32), 1, 0)
    save(tmp_path / "a" / "more", (32, 32))
    assert choose(str(tmp_path / "a"), 64).channels == 3


def test_sets_by_name_have_their_own_size() -> None:
    assert choose("cifar10", 64) == Choice((32, 32), 3, 1000)
    assert choose("mnist", 64) == Choice((32, 32), 1, 1000)
    assert choose("celeba", 128) == Choice((128, 128), 3, 1000)


def test_a_run_holds_what_was_chosen_and_goes_on_with_it(tmp_path: Path) -> None:
    folder, said = save(tmp_path / "pictures", *[(64, 48)] * 40), list[str]()
    keys = {key: value for key, value in small_flags("photos").items() if key not in ("img_size", "channels")}
    keys |= {"data.validation": -1, "data.name": str(folder), "engine.precision": "auto"}
    recipe = settled(plan("photos", flags=keys).recipe, CPU, said.append)
    assert (recipe.data.size, recipe.data.channels, recipe.data.validation) == ((48, 64), 3, 4)
    assert recipe.engine.precision == best_precision(CPU)
    assert "--img_size 48,64 --channels 3 --data.validation 4" in said[0] and "--engine.precision" in said[1]
    run = train("photos", out=tmp_path / "run", steps=1, quiet=True, device="cpu", overrides=keys)
    save(folder, *[(32, 32)] * 90)
    written = plan(run).recipe
    assert dataclasses.replace(written.data, name=str(folder)) == recipe.data
    assert written.engine.precision == recipe.engine.precision
    assert settled(written, CPU, said.append) == written and len(said) == 2
    assert settled(plan("photos", flags={**keys, "img_size": 32}).recipe, CPU, said.append).data.size == (32, 32)


def test_what_is_no_single_picture_has_its_size_given() -> None:
    with pytest.raises(UserError, match="pix2pix takes others: give all three"):
        settled(plan("pix2pix", flags={"img_size": 0}).recipe, CPU, print)


@pytest.mark.parametrize(
    ("text", "kind", "precision"),
    [
        ("flags : fpu avx512_bf16 amx_bf16\n", "cpu", "bfloat16"),
        ("flags : fpu avx512f avx2\n", "cpu", "float32"),
        (None, "cpu", "float32"),
        ("flags : amx_bf16\n", "cuda", "float32"),  # where it was never measured
    ],
)
def test_auto_is_bfloat16_where_the_processor_is_made_for_it(
    text: str | None, kind: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, **options: str) -> str:
        assert path == Path("/proc/cpuinfo")
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read)
    assert best_precision(torch.device(kind)) == precision


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"meminfo": "MemTotal: 9 kB\nMemAvailable:  4 kB\n", "memory.max": "max\n"}, 4096),
        ({"meminfo": "MemAvailable: 4 kB\n", "memory.max": "1000\n"}, 1000),  # in a container
        ({"meminfo": "MemAvailable: 4 kB\n"}, 4096),
        ({}, math.inf),
    ],
)
def test_free_memory_is_within_the_limit_of_a_container(
    files: dict[str, str], free: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, **options: str) -> str:
        if path.name not in files:
            raise FileNotFoundError(path)
        return files[path.name]

    monkeypatch.setattr(Path, "read_text", read)
    assert free_memory(torch.device("cpu")) == free


@pytest.mark.parametrize(("free", "held"), [(1e12, True), (math.inf, False)])
def test_a_set_is_held_in_memory_by_what_is_free(
    free: float, held: bool, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gansmith.data.stream.UNTOLD", 0)
    monkeypatch.setattr("gansmith.engine.free_memory", lambda device: free)
    assert experiment_of("gan", str(pictures), **{"data.memory": "auto"}).stream.in_memory is held


def test_no_flip_leaves_other_views() -> None:

    recipe = plan("photos", flags={"views": [{"name": "jitter"}, {"name": "flip"}]}).recipe
    left = without_flip(recipe)
    assert [view["name"] for view in left] == ["jitter"]
    assert plan("photos", flags={"views": left}).recipe.views == recipe.views[:1]


def test_a_folder_without_pictures_is_told_before_anything_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=f"no pictures in {tmp_path}; looked for .*"):
        choose(str(tmp_path), 64)
