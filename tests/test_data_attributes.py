"""Attributes: tables of them, classes as attributes, which exclude one another, and the set that ships."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_noise

from gansmith.data import ImageSet, Wanted, load_sets
from gansmith.data.attributes import read_table, wished
from gansmith.data.shipped import LOOKS, looking
from gansmith.errors import UserError

NEEDS = (("x", "bits"),)
CSV = "file,smiles,hair,title,age\na.png,1,red,T1,-1\nb.png,0,,T2,1\nc.png,0,white,T3,-1\n"


def load(what: object, **changed: Any) -> tuple[ImageSet, list[str]]:
    said: list[str] = []
    options: dict[str, Any] = {
        "img_size": (8, 8),
        "channels": 1,
        "needs": NEEDS,
        "n_cpu": 1,
        "say": said.append,
        **changed,
    }
    (found,) = load_sets(Wanted(str(what), progress=False, **options))
    return found, said


def test_yes_and_no_is_one_bit_and_other_values_one_each(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(CSV, encoding="utf-8")
    names, rows = read_table(table, None)
    assert names == ("smiles", "hair=red", "hair=white", "title=T1", "title=T2", "title=T3", "age")
    assert rows["a.png"] == (1, 1, 0, 1, 0, 0, 0) and rows["b.png"] == (0, 0, 0, 0, 1, 0, 1)
    assert read_table(table, ["age", "hair"])[0] == ("age", "hair=red", "hair=white")
    celeba = tmp_path / "list.txt"
    celeba.write_text("2\nBald Young\n000001.jpg -1  1\n000002.jpg  1 -1\n", encoding="utf-8")
    assert read_table(celeba, None) == (("Bald", "Young"), {"000001.jpg": (0, 1), "000002.jpg": (1, 0)})


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    many = "file,name\n" + "".join(f"{i}.png,n{i}\n" for i in range(30))
    for text, columns, said in (
        ("file,a\nx.png,1,2\n", None, r"row 2 of .* has 3 columns, and the first 2"),
        ("file\nx.png\n", None, "is no table of files and attributes"),
        ("", None, "is no table"),
        (CSV, ["hairs"], "data.columns names hairs; .* has smiles, hair, title, age"),
        (many, ["name"], "name has 30 values in .*; an attribute has at most 20"),
        (many, None, "no column of .* has at most 20 values"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            read_table(table, columns)
    with pytest.raises(UserError, match=r"missing.csv cannot be read: No such file"):
        read_table(tmp_path / "missing.csv", None)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="it is no text"):
        read_table(table, None)


def test_what_is_wished_keeps_exclusive_groups_exclusive() -> None:
    names = ("smiles", "hair=red", "hair=white", "age")
    assert wished(names, [1, 1, 0, 0], "hair=white", True) == [1, 0, 1, 0]
    assert wished(names, [1, 1, 0, 0], "hair=red", False) == [1, 0, 0, 0]
    assert wished(names, [1, 1, 0, 0], "smiles", False) == [0, 1, 0, 0]
    assert wished(names, [0, 0, 1, 0], "age", True) == [0, 0, 1, 1]


def test_a_folder_with_a_table(tmp_path: Path) -> None:
    """Rows find their pictures by name however deep they lie; what the table does not name is left out, and said."""
    save_noise(tmp_path / "deep", 3, size=(8, 8))
    for old, new in (("000", "a"), ("001", "b"), ("002", "z")):
        (tmp_path / f"deep/{old}.png").rename(tmp_path / f"deep/{new}.png")
    (tmp_path / "attributes.csv").write_text(CSV, encoding="utf-8")
    found, said = load(tmp_path, columns=["hair", "smiles"])
    assert found.classes == ("hair=red", "hair=white", "smiles")
    assert np.array_equal(found.columns["bits"], [[1, 0, 1], [0, 0, 0]]) and found.columns["bits"].dtype == np.float32
    assert any("3 attributes from" in text for text in said) and any("left out: 1 pictures" in text for text in said)
    again, _ = load(tmp_path, columns=["hair", "smiles"])  # out of the cache
    assert again.digest == found.digest and np.array_equal(again.columns["bits"], found.columns["bits"])
    assert load(tmp_path, columns=["smiles"])[0].classes == ("smiles",)
    (tmp_path / "other.csv").write_text("file,up\nz.png,yes\n", encoding="utf-8")
    other, _ = load(tmp_path, attributes=tmp_path / "other.csv")
    assert other.classes == ("up",) and len(other) == 1
    (tmp_path / "other.csv").write_text("file,up\nq.png,yes\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"other.csv names none of the pictures, such as deep/a.png"):
        load(tmp_path, attributes=tmp_path / "other.csv")


def test_classes_serve_as_attributes_that_exclude_one_another(tmp_path: Path) -> None:
    for name, n in (("cat", 2), ("dog", 3)):
        save_noise(tmp_path / name, n, size=(8, 8))
    found, _ = load(tmp_path)
    assert found.classes == ("class=cat", "class=dog")
    assert np.array_equal(found.columns["bits"], np.eye(2)[[0, 0, 1, 1, 1]]) and "y" not in found.columns
    held, _ = load(tmp_path, validation=2, split="validation")
    assert held.columns["bits"].shape == (2, 2)
    digits, _ = load("mnist")
    assert digits.classes[3] == "class=3" and (digits.columns["bits"].sum(1) == 1).all()
    save_noise(tmp_path / "plain", 2, size=(8, 8))
    with pytest.raises(
        UserError, match=r"there are no attributes in .*plain; give a folder with a table attributes.csv"
    ):
        load(tmp_path / "plain")


def test_mnist_looks_are_what_their_bits_say() -> None:
    digits = np.zeros((600, 28, 28), np.uint8)
    digits[:, 10:18, 12:16] = 255
    looks, bits = looking(digits, "a seed")
    assert len(LOOKS) == bits.shape[1] == 5 and (bits[:, 2:].sum(1) == 1).all()
    assert ((bits[:, :2].mean(0) > 0.4) & (bits[:, :2].mean(0) < 0.6)).all()
    ink = looks[:, 14, 13].astype(int)
    assert np.array_equal(ink.argmax(1), bits[:, 2:].argmax(1))
    frame = looks.reshape(600, -1, 3)[:, [0, 29, 28 * 28 - 1]]
    assert np.array_equal((frame == 160).all((1, 2)), bits[:, 1] == 1) and (looks[:, 2, 2] == 0).all()
    grown = looks[:, 9, 13].any(1)
    assert np.array_equal(grown, bits[:, 0] == 1)
    found, _ = load("mnist_looks", channels=3, split="test")
    assert (
        found.classes == LOOKS
        and found.images.shape == (10_000, 3, 8, 8)
        and found.columns["bits"].shape == (10_000, 5)
    )
