"""Progress against a clock and a stream of our own."""

from __future__ import annotations

import io

import pytest

from shinan.core.progress import Progress, clock_text, progress


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def made(total: int, stream: io.StringIO | None = None) -> tuple[Progress, Clock, io.StringIO]:
    stream, clock = stream or io.StringIO(), Clock()
    return Progress("asking", total, "answers", stream, clock), clock, stream


class TestLine:
    def test_count_share_rate_and_time_left(self) -> None:
        bar, clock, _ = made(120)
        clock.now += 10
        bar.advance(30, "alpaca")
        # 30 in 10 s are 3 a second; the other 90 take 30 s
        assert bar.line() == "asking: 30/120 answers, 25%, 3.0 answers/s, 10 s gone, 30 s left, alpaca"

    def test_a_slow_rate_is_told_as_seconds_each(self) -> None:
        bar, clock, _ = made(10)
        clock.now += 50
        bar.advance(4)
        # 12.5 s each; the other 6 take 75 s
        assert bar.line() == "asking: 4/10 answers, 40%, 12.5 s each, 50 s gone, 1 min 15 s left"

    def test_what_an_earlier_run_did_is_shown_but_is_not_in_the_rate(self) -> None:
        bar, clock, _ = made(100)
        bar.skip(80)
        assert bar.line() == "asking: 80/100 answers, 80%"
        clock.now += 5
        bar.advance(10)
        # 10 in 5 s, not 90: the other 10 take 5 s
        assert bar.line() == "asking: 90/100 answers, 90%, 2.0 answers/s, 5 s gone, 5 s left"

    def test_nothing_is_said_of_a_rate_that_is_not_known(self) -> None:
        bar, clock, _ = made(5)
        assert bar.line() == "asking: 0/5 answers, 0%"
        bar.advance()
        assert bar.line() == "asking: 1/5 answers, 20%"  # no time has gone by
        assert made(0)[0].line() == "asking: 0/0 answers"
        clock.now += 1
        assert bar.line() == "asking: 1/5 answers, 20%, 1.0 answers/s, 1 s gone, 4 s left"

    def test_the_last_note_stays(self) -> None:
        bar, _, _ = made(5)
        bar.advance(note="loss 2.31")
        bar.advance()
        assert bar.line().endswith("40%, loss 2.31")


class TestElsewhere:
    def test_a_plain_line_every_five_seconds(self) -> None:
        bar, clock, stream = made(100)
        for _ in range(12):
            clock.now += 1
            bar.advance()
        assert stream.getvalue().splitlines() == [
            "asking: 5/100 answers, 5%, 1.0 answers/s, 5 s gone, 1 min 35 s left",
            "asking: 10/100 answers, 10%, 1.0 answers/s, 10 s gone, 1 min 30 s left",
        ]
        bar.close()
        assert stream.getvalue().splitlines()[2:] == ["asking: 12/100 answers in 12 s"]
        assert "\x1b" not in stream.getvalue()

    def test_nothing_to_do(self) -> None:
        bar, _, stream = made(0)
        bar.close()
        assert stream.getvalue() == "asking: 0/0 answers in 0 s\n"


class TestTerminal:
    @pytest.fixture(autouse=True)
    def _wide(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "120")

    def test_a_bar_is_drawn_over_itself_ten_times_a_second_at_most(self) -> None:
        bar, clock, stream = made(8, Terminal())
        for _ in range(3):
            clock.now += 0.0625
            bar.advance()
        clock.now += 2 - 0.1875
        bar.advance(note="x")
        drawn = stream.getvalue().split("\r\x1b[K")
        assert drawn[0] == ""
        assert [line[:26] for line in drawn[1:]] == ["█" * 6 + "░" * 18 + " a", "█" * 12 + "░" * 12 + " a"]
        assert drawn[2][25:] == "asking: 4/8 answers, 50%, 2.0 answers/s, 2 s gone, 2 s left, x"
        bar.close()
        assert stream.getvalue().endswith("\r\x1b[Kasking: 4/8 answers in 2 s, x\n")

    def test_nothing_to_do(self) -> None:
        bar, clock, stream = made(0, Terminal())
        clock.now += 1
        bar.advance(0)
        assert stream.getvalue() == "\r\x1b[K" + "░" * 24 + " asking: 0/0 answers"

    def test_more_than_was_planned(self) -> None:
        bar, clock, stream = made(2, Terminal())
        clock.now += 1
        bar.advance(3)
        assert "█" * 24 + " asking: 3/2 answers, 150%" in stream.getvalue()
        assert stream.getvalue().endswith(" 0 s left")

    @pytest.mark.parametrize(("columns", "cells"), [(80, 14), (65, 0), (40, 0)])
    def test_a_narrow_terminal_gets_a_line_that_does_not_wrap(
        self, monkeypatch: pytest.MonkeyPatch, columns: int, cells: int
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        bar, clock, stream = made(100, Terminal())
        clock.now += 10
        bar.advance(50)
        words = "asking: 50/100 answers, 50%, 5.0 answers/s, 10 s gone, 10 s left"[: columns - 1]
        drawn = stream.getvalue().removeprefix("\r\x1b[K")
        assert len(drawn) < columns
        assert drawn == "█" * (cells // 2) + "░" * (cells - cells // 2) + " " * (cells > 0) + words


def test_a_block_of_work_ends_with_its_line_even_when_it_fails() -> None:
    stream = io.StringIO()

    def work() -> None:
        with progress("asking", 3, "answers", stream=stream) as bar:
            bar.advance(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stream.getvalue() == "asking: 2/3 answers in 0 s\n"


def test_it_is_shown_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("asking", 1, "answers") as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "asking: 1/1 answers in 0 s\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (0.5, "1 s"),
        (59.4, "59 s"),
        (59.5, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.9, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_times_as_people_read_them(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
