"""The promises of the design and the tests that prove them: `python -m tests.promises [arguments for pytest]`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

MARKERS = tuple(f"promise{number}" for number in range(1, 11))


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Ledger:
    """A pytest plugin that notes which test stands for which promises, and how it ended.

    Attributes:
        sentences: marker -> the promise in words, from pytest's configuration.
        tests: marker -> test functions; the cases of a function count as one.
        endings: test function -> how many of its cases `passed`, `failed` or were `skipped`.
    """

    sentences: dict[str, str] = field(default_factory=dict)
    tests: dict[str, list[str]] = field(default_factory=lambda: {marker: [] for marker in MARKERS})
    endings: dict[str, Counter[str]] = field(default_factory=dict)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Read the sentences."""
        lines = (line.partition(": ") for line in config.getini("markers"))
        self.sentences = {name: sentence for name, _, sentence in lines if name in MARKERS}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the tests that will run."""
        for item in session.items:
            test = _function(item.nodeid)
            self.endings[test] = Counter()
            for marker in {mark.name for mark in item.iter_markers()} & set(MARKERS):
                if test not in self.tests[marker]:
                    self.tests[marker].append(test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the end of a case, and whatever went wrong before or after it."""
        if report.when == "call" or not report.passed:
            self.endings[_function(report.nodeid)][report.outcome] += 1

    def lines(self) -> Iterator[str]:
        """The table: each promise with its result, under it each of its tests with its own."""
        for number, marker in enumerate(MARKERS, 1):
            tests = self.tests[marker]
            yield f"\n{number:2}. {self.sentences[marker]}: {self.result(tests)}"
            yield from (f"    {self.result([test]):<12} {test}" for test in tests)

    def result(self, tests: Iterable[str]) -> str:
        """`1 failed, 11 passed`, or `none yet`."""
        total: Counter[str] = sum((self.endings[test] for test in tests), Counter())
        return ", ".join(f"{total[end]} {end}" for end in ("failed", "passed", "skipped") if total[end]) or "none yet"


def _function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def main(arguments: Sequence[str]) -> int:
    """Run the marked tests and print the table; returns pytest's exit status, 0 if no promise is broken."""
    ledger = Ledger()
    status = pytest.main(["-q", "-m", " or ".join(MARKERS), *arguments], plugins=[ledger])
    print("\n".join(ledger.lines()))
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
