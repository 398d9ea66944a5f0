"""Charts: every mark where a hand calculation puts it, every text escaped, every chart told in words."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import XML, Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.dataset import Manifest
from shinan.report.charts import dumbbell, funnel, loss_curves, mixture, ticks
from shinan.report.collect import Comparison, LossPoint, Stage
from shinan.report.mixture import Source

_WHOLE = Comparison("qa", "rouge_l", 90, 0.2, 0.4, 0.2, (0.1, 0.3), 0.001)
_WORSE = Comparison("qa", "rouge_l", 9, 0.1, 0.05, -0.05, (-0.2, 0.1), 0.6, category="short_answers")


def _read(chart: str) -> Element:
    return XML(chart)


def _marks(root: Element, tag: str, css: str) -> list[Element]:
    return [element for element in root.iter(tag) if element.get("class") == css]


def _texts(root: Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter("text")]


@given(st.integers(-1_000_000, 1_000_000), st.integers(-1_000_000, 1_000_000))
def test_ticks_cover_the_range_evenly(one: int, other: int) -> None:
    low, high = sorted((one / 1000, other / 1000))
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 8
    assert marks[0] <= low + 1e-9
    assert marks[-1] >= high - 1e-9
    gaps = [after - before for before, after in pairwise(marks)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 50, [0, 10, 20, 30, 40, 50]), (1.2, 3.9, [1, 2, 3, 4]), (0, 100, [0, 20, 40, 60, 80, 100]), (2, 2, [2, 2.5])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_dumbbell_puts_marks_where_the_numbers_are() -> None:
    root = _read(dumbbell("d", [_WHOLE, _WORSE]))
    # The largest value is the whisker's end 0.2 + 0.3, so that the axis ends at 50: 20 lies at 40 % of it.
    assert [mark.get("cx") for mark in _marks(root, "circle", "before")[1:]] == ["40.00%", "20.00%"]
    assert [mark.get("cx") for mark in _marks(root, "circle", "after")[1:]] == ["80.00%", "10.00%"]
    whiskers = [(mark.get("x1"), mark.get("x2")) for mark in _marks(root, "line", "whisker")[1:]]
    assert whiskers[0] == ("60.00%", "100.00%")
    assert whiskers[3] == ("0.00%", "40.00%")  # -0.1 is drawn at the edge
    assert "short answers (9)" in _texts(root)
    assert "10.0 → 5.0   −5.0 (−20.0 to +10.0)" in _texts(root)


def test_dumbbell_without_an_interval_or_a_score_above_zero() -> None:
    flat = Comparison("qa", "m", 2, 0.0, 0.0, 0.0, None, None)
    root = _read(dumbbell("d", [flat]))
    assert [mark.get("cx") for mark in _marks(root, "circle", "after")[1:]] == ["0.00%"]
    assert len(_marks(root, "line", "whisker")) == 1  # the legend's own


def test_loss_curves() -> None:
    losses = [LossPoint(1, 100, 4.0), LossPoint(2, 200, 3.0), LossPoint(3, 400, 2.0)]
    validations = [LossPoint(2, 200, 3.5), LossPoint(3, 400, 2.5)]
    root = _read(loss_curves("l", losses, validations))
    train, held = root.iter("polyline")
    assert train.get("points") == "250.0,0.0 500.0,120.0 1000.0,240.0"  # ticks 2 to 4 over 240 pixels
    assert held.get("points") == "500.0,60.0 1000.0,180.0"
    assert [mark.get("cx") for mark in _marks(root, "circle", "point")] == ["116", "50.00%", "100.00%"]
    assert root.findtext("desc") == (
        "Training loss 4.00 at the first step, 2.00 at the last. Validation loss 3.50 at first, lowest 2.50 at step 3."
    )


def test_a_long_curve_is_averaged_in_groups() -> None:
    losses = [LossPoint(step, step * 10, float(step % 2)) for step in range(1, 1001)]
    (line,) = _read(loss_curves("l", losses, [])).iter("polyline")
    points = (line.get("points") or "").split()
    assert len(points) == 334  # groups of three
    assert points[0] == "3.0,40.0"  # the mean of 1, 0, 1 is 2/3, and the axis goes from 0 to 0.8


def _stage(name: str, seen: int, **dropped: int) -> Stage:
    tally = {"seen": seen, "kept": seen - sum(dropped.values()), "dropped": dropped}
    return Stage(name, "x", "k", Path(), Manifest(name, "x", "k", tally=tally))


@pytest.mark.promise1
def test_funnel_bars_add_up_to_what_was_seen() -> None:
    root = _read(funnel("f", [_stage("build.file", 200), _stage("curate", 200, near_duplicate=40, short=10)]))
    bars = [(bar.get("x"), bar.get("width"), bar.get("class")) for bar in root.iter("rect")][2:]
    assert bars == [
        ("0.00%", "100.00%", "kept"),
        ("0.00%", "75.00%", "kept"),
        ("75.00%", "20.00%", "dropped"),
        ("95.00%", "5.00%", "dropped"),
    ]
    assert "200 seen → 150 kept, 50 dropped" in _texts(root)
    assert [title.text for title in root.iter("title")][-2:] == ["near_duplicate: 40", "short: 10"]


def test_funnel_of_no_rows_at_all() -> None:
    assert "0 seen → 0 kept, 0 dropped" in _texts(_read(funnel("f", [_stage("curate", 0)])))


def test_mixture_puts_marks_where_the_shares_are() -> None:
    """300 and 100 rows, mixed half and half: 75 % to 50 %, 25 % to 50 %, on an axis that ends at 80 %."""
    sources = [Source(("large",), 300, 0.5, 100, 100, 1, 1 / 3), Source(("<b>",), 100, 0.5, 100, 100, 1, 1.0)]
    root = _read(mixture("m", sources))
    assert [mark.get("cx") for mark in _marks(root, "circle", "before")[1:]] == ["93.75%", "31.25%"]
    assert [mark.get("cx") for mark in _marks(root, "circle", "after")[1:]] == ["62.50%", "62.50%"]
    assert "300 → 100 rows, 0.333 epochs" in _texts(root)
    assert "<b>" in _texts(root)
    assert "<b>" not in mixture("m", sources)
    assert root.findtext("desc") == (
        "large: 75 % of the rows, 50 % of the mixture; <b>: 25 % of the rows, 50 % of the mixture"
    )


def test_mixture_of_nothing_taken() -> None:
    root = _read(mixture("m", [Source(("a",), 0, 0.0, 0, 0, 0, 0.0)]))
    assert [mark.get("cx") for mark in _marks(root, "circle", "after")[1:]] == ["0.00%"]


@pytest.mark.parametrize("ident", ["one", "two"])
def test_charts_have_a_title_and_words_for_those_who_dont_see_them(ident: str) -> None:
    root = _read(dumbbell(ident, [_WHOLE]))
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", f"{ident}-title {ident}-text")
    assert {root[0].get("id"), root[1].get("id")} == {f"{ident}-title", f"{ident}-text"}
    assert root.findtext("desc") == "all of qa: 20.0 before, 40.0 after, +20.0"


def test_text_from_the_run_is_escaped() -> None:
    evil = Comparison("</svg><script>x</script>", "m", 1, 0.1, 0.2, 0.1, None, None)
    text = dumbbell("d", [evil])
    assert "<script" not in text
    assert "&lt;script&gt;x" in text
