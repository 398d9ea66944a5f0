"""Progress of long work: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_PLAIN_EVERY = 5.0  # seconds between plain lines: often enough to see life, rare enough for a log file


class Progress:
    """Counts units of one piece of work and shows them. `advance` is cheap enough to call per item."""

    def __init__(self, what: str, total: int, unit: str, stream: TextIO, clock: Callable[[], float]) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._stream, self._clock = stream, clock
        self._done = self._skipped = 0
        self._start = self._shown = clock()
        self._note = ""
        self._bar = stream.isatty()

    def skip(self, n: int) -> None:
        """Count units that an earlier, interrupted run has finished: shown, but not part of the rate."""
        self._done += n
        self._skipped += n

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units; `note` is shown beside them (e.g. `loss 2.31`)."""
        self._done += n
        self._note = note or self._note
        now = self._clock()
        if now - self._shown >= (0.1 if self._bar else _PLAIN_EVERY):
            self._shown = now
            self._show()

    def line(self) -> str:
        """The state in words: count, share, rate, time left, note."""
        elapsed = self._clock() - self._start
        fresh = self._done - self._skipped
        rate = fresh / elapsed if elapsed > 0 else 0.0
        parts = [f"{self._what}: {self._done}/{self._total} {self._unit}"]
        if self._total:
            parts.append(f"{100 * self._done / self._total:.0f}%")
        if fresh and rate:
            shown = f"{rate:.1f} {self._unit}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
            parts += [
                shown,
                f"{clock_text(elapsed)} gone",
                f"{clock_text((self._total - self._done) / rate)} left",
            ]
        return ", ".join([*parts, self._note] if self._note else parts)

    def _show(self) -> None:
        if not self._bar:
            print(self.line(), file=self._stream, flush=True)
            return
        room = shutil.get_terminal_size().columns - 1  # a line that wraps could not be drawn over
        words = self.line()[:room]
        width = max(0, min(24, room - 1 - len(words)))
        filled = int(width * min(1.0, self._done / self._total)) if self._total else 0
        bar = "█" * filled + "░" * (width - filled) + " " * (width > 0)
        self._stream.write(f"\r\x1b[K{bar}{words}")
        self._stream.flush()

    def close(self) -> None:
        """Show the final state on a line of its own."""
        elapsed = self._clock() - self._start
        if self._bar:
            self._stream.write("\r\x1b[K")
        tail = f", {self._note}" if self._note else ""
        print(
            f"{self._what}: {self._done}/{self._total} {self._unit} in {clock_text(elapsed)}{tail}",
            file=self._stream,
            flush=True,
        )


@contextmanager
def progress(what: str, total: int, unit: str, *, stream: TextIO | None = None) -> Iterator[Progress]:
    """Show the progress of a block of work on stderr.

    >>> with progress("evaluating", 120, "items") as bar:
    ...     bar.advance(8)  # doctest: +SKIP
    """
    shown = Progress(what, total, unit, stream or sys.stderr, time.monotonic)
    try:
        yield shown
    finally:
        shown.close()


def clock_text(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = int(max(0.0, seconds) + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
