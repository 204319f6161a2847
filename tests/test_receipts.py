"""Receipts: what is compared, and what is refused."""

import dataclasses
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gansmith.errors import UserError
from gansmith.evaluation.receipts import Receipt, append, by_maker, check_comparable, read, table
from gansmith.tables import Table

ONE = Receipt(
    metric="fd_mnist_10k",
    measure="fd",
    values=[1.0, 2.0, 6.0],
    unit="",
    better="lower",
    real=0.5,
    protocol={"n": 10_000, "images": "28x28x1"},
    subject={"what": "runs/a", "round": 5},
    details={"sigma": [0.1]},
)


def test_value_and_spread_are_mean_and_sample_deviation() -> None:
    assert ONE.value == 3.0
    assert ONE.spread == pytest.approx(math.sqrt(7.0))
    assert replace(ONE, values=[4.0]).spread is None


def test_a_value_is_written_to_the_second_digit_of_its_spread() -> None:
    for values, text in (
        ([225.04, 226.0, 224.1], "225.05 +- 0.95"),
        ([0.0207, 0.02081], "0.020755 +- 0.000078"),
        ([100.0, 140.0], "120 +- 28"),
        ([241.187], "241.19"),
        ([0.0, 0.0], "0"),
    ):
        assert replace(ONE, values=values).text() == text


def test_better_knows_its_end() -> None:
    assert ONE.better_than(3.1) and not ONE.better_than(2.9)
    assert replace(ONE, better="higher").better_than(2.9)
    assert not replace(ONE, better="0.01").better_than(2.9)
    assert not replace(ONE, better="0.01").better_than(3.1)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(ONE, metric="fd_mnist_2k"), "fd_mnist_10k and fd_mnist_2k are different measures"),
        (replace(ONE, protocol={"n": 10_000, "images": "32x32x1"}), "images is 28x28x1 and 32x32x1"),
        (replace(ONE, protocol={**ONE.protocol, "contrast": "normalised"}), "contrast is None and normalised"),
    ],
)
def test_unlike_protocols_are_refused_with_the_reason(other: Receipt, words: str) -> None:
    check_comparable([ONE, replace(ONE, values=[9.0], subject={"what": "runs/b"})])
    with pytest.raises(UserError, match=words):
        check_comparable([ONE, ONE, other])


def test_receipts_come_back_from_the_file_and_later_ones_are_added(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    assert read(path) == []
    append([ONE], path)
    append([replace(ONE, values=[7.0]), ONE], path)
    assert read(path) == [ONE, replace(ONE, values=[7.0]), ONE]
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [3.0, 7.0, 3.0]


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_what_is_no_number_is_written_as_json_that_all_programs_read_and_comes_back(tmp_path: Path) -> None:
    odd = replace(ONE, values=[math.inf, 1.0], real=-math.inf, details={"a": [math.nan], "b": {"c": 2}})
    odd = replace(odd, subject={"what": "nan", "round": 5})  # a name, no number
    append([odd], tmp_path / "new")
    written = json.loads((tmp_path / "new").read_text(), parse_constant=refuse)
    assert written["values"] == ["inf", 1.0] and written["real"] == "-inf" and written["spread"] == "nan"
    (tmp_path / "old").write_text(json.dumps(dataclasses.asdict(odd)) + "\n")  # as versions before wrote it
    assert "NaN" in (tmp_path / "old").read_text()
    for name in ("new", "old"):
        [back] = read(tmp_path / name)
        assert repr(back) == repr(odd) and back.value == math.inf


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_on_a_full_disk_no_half_line_is_left(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "receipts.jsonl"
    append([ONE], path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, before[1]))
    try:
        with pytest.raises(OSError, match=r"receipts\.jsonl"):
            append([ONE, ONE], path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read(path) == [ONE]


@pytest.mark.parametrize("text", ["no json\n", '{"metric": "fd"}\n', "[1, 2]\n"])
def test_a_file_of_something_else_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "receipts.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"receipts\.jsonl does not hold receipts"):
        read(tmp_path / "receipts.jsonl")


# ---- tables ------------------------------------------------------------------------------------------------------


def test_scores_stand_side_by_side_with_gaps_where_one_has_no_such_score() -> None:
    other = replace(ONE, metric="modes_3k", values=[9.0], unit="of 1000", real=None, note="a note")
    found = table([[ONE], [replace(ONE, values=[5.0], subject={"what": "PICTURES", "maker": "a2b"}), other]])
    assert found.head == ["score", "runs/a, round 5", "PICTURES, maker a2b", "real images", "better"]
    assert found.rows == [
        ["fd_mnist_10k", "3.0 +- 2.6", "5", "0.5", "lower"],
        ["modes_3k (of 1000)", "", "9", "", "lower"],
    ]
    assert found.below == ["+-: standard deviation over sets of samples", "modes_3k is a note"]
    parzen = replace(ONE, values=[4.0], details={"sigma": [0.1, [0.2, 0.1]], "standard_error": [1.0, 2.0]})
    assert table([[parzen]]).below == ["one set of samples", "fd_mnist_10k of runs/a: sigma 0.1, 0.2, standard error 2"]


def test_makers_have_tables_of_their_own_unless_each_run_has_one() -> None:
    there, back = (replace(ONE, subject={"what": "run", "maker": maker}) for maker in ("a2b", "b2a"))
    assert by_maker([[ONE], [there]]) == [[[ONE], [there]]]
    assert by_maker([[there, there, back], [back]]) == [[[there, there]], [[back], [back]]]
    assert by_maker([[ONE], [there, back]]) == [[[ONE]], [[there]], [[back]]]


def test_a_table_is_aligned_text_in_a_pipe_and_markdown_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a name " * 30
    shown = Table(
        ["score", "[b]", "better"], [[long, "1 +- 2", "lower"], ["x|y", "3", "no"]], left=(0, 2), below=["end"]
    )
    shown.show()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].split() == ["score", "[b]", "better"] and lines[4] == "end"
    ends = {lines[i].index(word) + len(word) for i, word in ((0, "[b]"), (1, "+- 2"), (2, " 3"))}
    assert len(ends) == 1  # numbers stand flush right
    head, rule, first, second, empty, end = shown.markdown().splitlines()
    assert len({len(line) for line in (head, rule, first, second)}) == 1 and rule.count("-:") == 1
    assert second.replace(" ", "") == r"|x\|y|3|no|" and (empty, end) == ("", "end")
