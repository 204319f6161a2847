"""The live line: it fits, it is honest about speed, and a log file gets plain lines."""

import io
import re
from typing import Any

import pytest

from gansmith.run import live as live_module
from gansmith.run.live import Live, _clock, _epoch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(live_module, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def make(file: io.StringIO, **changes: Any) -> Live:
    options = {"start": 0, "total": 187_600, "rounds_per_epoch": 938, "images_per_round": 64}
    return Live(**{**options, **changes}, file=file)


# ---- a terminal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("scale", [1.0, -1234.5])
def test_the_live_line_fits(time: Time, monkeypatch: pytest.MonkeyPatch, width: int, scale: float) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for round in (0, 1, 938, 187_600):
        live = make(Terminal())
        for k in range(3):
            live.show(round, 64 * round + 9999 * k, {"D": 0.5123 * scale, "G": 1.2031 * scale})
            time.now += 0.5
        time.now += 3700
        line = live._live_line()
        line.truncate(width, overflow="ellipsis")  # what rich does with a line too long
        assert line.cell_len <= width and f"{round}/187600" in line.plain
        if scale == 1.0:
            assert "D 0.512  G 1.203" in line.plain and "left" in line.plain  # which drops last
            assert ("img/s" in line.plain) == (width >= 60)
        if width >= 100:
            assert re.search("[━─].*%.*1:01:4", line.plain) and "epoch" in line.plain


def test_the_bar_yields_first(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    live = make(Terminal(), total=9380)
    for k in range(2):
        live.show(1400 + k, 64 * k * 50, {"D": 0.5, "G": 1.2})
        time.now += 1
    bars = {}
    for width in range(120, 30, -1):
        monkeypatch.setenv("COLUMNS", str(width))
        live._console = live_module._terminal(live.file)
        text = live._live_line().plain
        bars[width] = len(re.findall("[━─]", text))
        assert "took" not in text and (bars[width] == 0 or "img/s" in text)
        if width == 120:
            assert text.count("━") == int(40 * 1401 / 9380)
    assert bars[120] == max(bars.values()) == 40 and bars[80] > 5 and bars[50] == 0


def test_a_terminal_sees_one_line_and_what_is_said_above_it_and_is_given_back() -> None:
    out = Terminal()
    with make(out, total=10, rounds_per_epoch=5) as live:
        live.show(1, 64, {"D": 0.5, "G": 1.25})
        live.say("saved [checkpoint] 000001")
        live.done(10, 640, {"D": 0.25, "G": 2.5})
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n")
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    assert "saved [checkpoint] 000001" in lines and max(map(len, lines)) <= 80
    assert lines[-1].startswith("epoch 2/2") and "10/10" in lines[-1] and "D 0.250  G 2.500" in lines[-1]
    out = Terminal()
    with pytest.raises(RuntimeError), make(out):
        raise RuntimeError
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")  # the cursor is back


# ---- a file ----------------------------------------------------------------------------------------------------


def test_a_file_gets_plain_lines_now_and_then(time: Time) -> None:
    out = io.StringIO()
    with make(out) as live:
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


def test_a_training_of_one_round_has_no_speed(time: Time) -> None:
    out = io.StringIO()
    with make(out, total=1) as live:
        live.show(1, 64, {"D": 0.5})
        time.now += 2
        live.done(1, 64, {})
    assert [line.partition("D 0.5000")[2] for line in out.getvalue().splitlines()] == ["", "  took 0:02"]


@pytest.mark.parametrize(("name", "value", "file"), [("FORCE_COLOR", "1", io.StringIO), ("TERM", "dumb", Terminal)])
def test_what_cannot_redraw_a_line_gets_plain_ones(
    name: str, value: str, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    out = file()
    with make(out) as live:
        live.show(1, 64, {"D": 0.5})
    assert out.getvalue() == "epoch 1/200  round 1/187600  D 0.5000\n"


def test_a_notebook_sees_one_line_that_is_written_over(time: Time) -> None:
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    with make(stream) as live:
        live.show(1, 64, {"D": 0.5})
        live.show(2, 128, {})
        live.say("sampled")
        live.done(3, 192, {})
    first, second = "epoch 1/200  round 1/187600  D 0.5000", "epoch 1/200  round 2/187600"
    assert stream.getvalue().startswith(f"{first}\r{' ' * len(first)}\r{second}\r{' ' * len(second)}\rsampled\n")
    assert stream.getvalue().endswith("took 0:00\n")


# ---- speed and time --------------------------------------------------------------------------------------------


def test_speed_follows_the_last_half_minute_and_time_left_the_whole_session(time: Time) -> None:
    """Not what an earlier session, or the set-up of this one, has taken."""
    out = io.StringIO()
    live, images = make(out, start=800, total=1800, images_per_round=1), 7000
    time.now += 30
    for k in range(800, 1000):
        live.show(k, images, {})
        time.now += 1
        images += 10 if k < 900 else 20
    line = out.getvalue().splitlines()[-1]
    assert "20 img/s" in line and f"left {_clock((1800 - 999) / ((100 * 10 + 99 * 20) / 199))}" in line


@pytest.mark.parametrize(("file", "seconds"), [(Terminal, 0.25), (io.StringIO, 10.0)])
def test_due_after_the_first_round_and_then_seldom_and_quiet_is_silent(time: Time, file: Any, seconds: float) -> None:
    live = make(file())
    assert live.due()
    live.show(1, 64, {})
    for share, due in ((0, False), (0.9, False), (1.1, True)):
        time.now = 1000 + seconds * share
        assert live.due() is due
    with make(out := file(), quiet=True) as live:
        assert not live.due()
        live.show(1, 64, {"D": 0.5})
        live.say("hello")
        live.done(2, 128, {})
    assert out.getvalue() == ""


def test_epochs_and_clocks() -> None:
    assert [_epoch(k, 938) for k in (0, 1, 938, 939, 1876)] == [1, 1, 1, 2, 2]
    assert _epoch(round(3 * 468.75 + 0.5), 468.75) == 4  # its last round belongs to the fourth already
    assert _epoch(3, 0.1 * 3) == 10
    assert [_clock(s) for s in (0, 59.6, 723, 3600, 90_061)] == ["0:00", "1:00", "12:03", "1:00:00", "25:01:01"]
    with make(out := io.StringIO(), start=10, total=10, rounds_per_epoch=5) as live:  # complete already: no speed
        live.done(10, 640, {})
    assert out.getvalue() == "epoch 2/2  round 10/10  took 0:00\n"


def test_waiting_for_data_is_shown_where_it_takes_a_fifth_of_the_time_since_the_last_line(time: Time) -> None:
    out = io.StringIO()
    live, waited = make(out), 0.0
    for k, more in enumerate((0.5, 3.5, 1.9, 2.1)):
        time.now += 10
        waited += more
        live.show(k, 64 * k, {"D": 0.5}, waited=waited)
    shown = [line.partition("waits for data ")[2].partition(" %")[0] for line in out.getvalue().splitlines()]
    assert shown == ["", "35", "", "21"]
    live.done(9, 640, {})
    assert "waits" not in out.getvalue().splitlines()[-1]
