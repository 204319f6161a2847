"""The live line: it fits, it is honest about speed, and a log file gets plain lines."""

import io
import re
from typing import Any

import pytest

from gansmith.report import live as live_module
from gansmith.report.live import Live, _clock, _epoch


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> _Time:
    clock = _Time()
    monkeypatch.setattr(live_module, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def _live(file: io.StringIO, **changes: Any) -> Live:
    options: dict[str, Any] = {
        "start": 0, "total": 187_600, "rounds_per_epoch": 938, "images_per_round": 64, "images": 0
    }  # fmt: skip
    return Live(**{**options, **changes}, file=file)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("round", [0, 1, 938, 93_800, 187_600])
@pytest.mark.parametrize("scale", [1.0, -1234.5])
def test_the_live_line_fits(time: _Time, monkeypatch: pytest.MonkeyPatch, width: int, round: int, scale: float) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    live = _live(_Terminal())
    for k in range(3):
        live.show(round, 64 * round + 9999 * k, {"D": 0.5123 * scale, "G": 1.2031 * scale})
        time.now += 0.5
    time.now += 3700
    line = live._live_line()
    line.truncate(width, overflow="ellipsis")  # what rich does with a line too long
    assert line.cell_len <= width
    text = line.plain
    assert f"{round}/187600" in text
    if scale == 1.0:
        assert "D 0.512  G 1.203" in text
        assert ("img/s" in text) == (width >= 60)
        assert "left" in text  # drops last
    if width >= 100:
        assert "%" in text and "epoch" in text and ("━" in text or "─" in text) and "1:01:4" in text


def test_the_bar_yields_first(time: _Time, monkeypatch: pytest.MonkeyPatch) -> None:
    live = _live(_Terminal(), total=9380)
    for k in range(2):
        live.show(1400 + k, 64 * k * 50, {"D": 0.5, "G": 1.2})
        time.now += 1
    bars = {}
    for width in range(120, 30, -1):
        monkeypatch.setenv("COLUMNS", str(width))
        live._console = live_module._terminal(live._file)
        text = live._live_line().plain
        bars[width] = len(re.findall("[━─]", text))
        assert ("took" in text) is False and (bars[width] == 0 or "img/s" in text)
    assert bars[120] == 40 and bars[80] > 5 and bars[50] == 0
    widths = list(bars.values())
    filled = len(re.findall("━", _at_width(live, monkeypatch, 120)))
    assert filled == int(40 * 1401 / 9380) and max(widths) == 40


def _at_width(live: Live, monkeypatch: pytest.MonkeyPatch, width: int) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    live._console = live_module._terminal(live._file)
    return live._live_line().plain


def test_a_terminal_sees_one_line_and_what_is_said_above_it() -> None:
    out = _Terminal()
    with _live(out, total=10, rounds_per_epoch=5) as live:
        live.show(1, 64, {"D": 0.5, "G": 1.25})
        live.say("saved [checkpoint] 000001")
        live.done(10, 640, {"D": 0.25, "G": 2.5})
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n")
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    assert "saved [checkpoint] 000001" in lines
    assert lines[-1].startswith("epoch 2/2") and "10/10" in lines[-1] and "D 0.250  G 2.500" in lines[-1]
    assert max(map(len, lines)) <= 80
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back


def test_an_error_gives_the_terminal_back() -> None:
    out = _Terminal()
    with pytest.raises(RuntimeError), _live(out):
        raise RuntimeError
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_a_file_gets_plain_lines_now_and_then(time: _Time) -> None:
    out = io.StringIO()
    with _live(out, every_seconds=10.0) as live:
        time.now += 60  # set-up
        for k in range(1, 2401):
            if live.due():
                live.show(k, 64 * k, {"D": 0.5123, "G": 1.20314})
            time.now += 0.02
        live.say("sampled")
        live.done(2400, 64 * 2400, {})
    lines = out.getvalue().splitlines()
    assert lines[0] == "epoch 1/200  round 1/187600  D 0.5123  G 1.2031"
    # 0.02 s a round are 3,200 images a second: the minute of set-up is in neither number.
    rest = r"epoch \d/200  round \d+/187600  D 0\.5123  G 1\.2031  3,200 img/s  left 1:0\d:\d\d"
    assert len(lines) == 7 and all(re.fullmatch(rest, line) for line in lines[1:5])
    assert lines[5] == "sampled"
    assert re.fullmatch(r"epoch 3/200  round 2400/187600  .*  3,\d\d\d img/s  took 1:48", lines[6])
    assert "\x1b" not in out.getvalue()


def test_colour_forced_by_the_environment_makes_no_terminal_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    with _live(out) as live:
        live.show(1, 64, {"D": 0.5})
    assert out.getvalue() == "epoch 1/200  round 1/187600  D 0.5000\n"


def test_a_terminal_that_cannot_redraw_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = _Terminal()
    with _live(out) as live:
        live.show(1, 64, {"D": 0.5})
    assert out.getvalue() == "epoch 1/200  round 1/187600  D 0.5000\n"


def test_after_a_resume_the_speed_is_that_of_this_session(time: _Time) -> None:
    out = io.StringIO()
    with _live(out, start=100_000, images=6_400_000) as live:
        time.now += 30
        for k in range(100_001, 100_004):
            live.show(k, 64 * k, {"D": 0.5})
            time.now += 1
    assert "64 img/s" in out.getvalue().splitlines()[-1]
    assert f"left {_clock(187_600 - 100_003)}" in out.getvalue()


def test_speed_follows_the_last_half_minute_and_time_left_the_whole_session(time: _Time) -> None:
    out = io.StringIO()
    live, images = _live(out, total=1000, images_per_round=1), 0
    for k in range(200):
        live.show(k, images, {})
        time.now += 1
        images += 10 if k < 100 else 20
    line = out.getvalue().splitlines()[-1]
    assert "20 img/s" in line
    assert f"left {_clock((1000 - 199) / ((100 * 10 + 99 * 20) / 199))}" in line


@pytest.mark.parametrize(("file", "seconds"), [(_Terminal(), 0.25), (io.StringIO(), 10.0)])
def test_due_after_the_first_round_and_then_seldom(time: _Time, file: io.StringIO, seconds: float) -> None:
    live = _live(file)
    assert live.due()
    live.show(1, 64, {})
    assert not live.due()
    time.now += seconds * 0.9
    assert not live.due()
    time.now += seconds * 0.2
    assert live.due()


@pytest.mark.parametrize("file", [_Terminal(), io.StringIO()])
def test_quiet_is_silent(file: io.StringIO) -> None:
    with _live(file, quiet=True) as live:
        assert not live.due()
        live.show(1, 64, {"D": 0.5})
        live.say("hello")
        live.done(2, 128, {})
    assert file.getvalue() == ""


def test_a_run_that_was_complete_already_ends_without_a_speed() -> None:
    out = io.StringIO()
    with _live(out, start=10, total=10, rounds_per_epoch=5) as live:
        live.done(10, 640, {})
    assert out.getvalue() == "epoch 2/2  round 10/10  took 0:00\n"


def test_epochs_and_clocks() -> None:
    assert [_epoch(k, 938) for k in (0, 1, 938, 939, 1876)] == [1, 1, 1, 2, 2]
    assert _epoch(round(3 * 468.75 + 0.5), 468.75) == 4  # its last round belongs to the fourth already
    assert _epoch(3, 0.1 * 3) == 10
    assert [_clock(s) for s in (0, 59.6, 723, 3600, 90_061)] == ["0:00", "1:00", "12:03", "1:00:00", "25:01:01"]


def test_waiting_for_data_is_told_where_it_takes_a_fifth_of_the_time_since_the_last_line(time: _Time) -> None:
    out = io.StringIO()
    live = _live(out)
    waited = 0.0
    for k, more in enumerate((0.5, 3.5, 1.9, 2.1)):
        time.now += 10
        waited += more
        live.show(k, 64 * k, {"D": 0.5}, waited=waited)
    told = [line.partition("waits for data ")[2].partition(" %")[0] for line in out.getvalue().splitlines()]
    assert told == ["", "35", "", "21"]
    live.done(9, 640, {})
    assert "waits" not in out.getvalue().splitlines()[-1]
