"""Charts as inline SVG, with widths in percent, so that they fit any page and letters keep one size.

Each has a title and a description in words; before and after, kept and dropped differ by shape or place too, not
only by colour. The page's style sheet holds the colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from shinan.report.collect import Comparison, LossPoint, Stage
from shinan.report.mixture import Source
from shinan.report.wording import change, count, interval, metric_name, points, share

_ROW = 46  # pixels of one dumbbell or funnel line
_CURVE = 240  # height of the loss plot in pixels
_DRAWN = 400  # points of a curve; more of them are averaged in groups


def _svg(ident: str, title: str, description: str, height: float) -> Element:
    root = Element(
        "svg",
        {
            "class": "chart",
            "role": "img",
            "width": "100%",
            "height": f"{height:.0f}",
            "aria-labelledby": f"{ident}-title {ident}-text",
        },
    )
    SubElement(root, "title", id=f"{ident}-title").text = title
    SubElement(root, "desc", id=f"{ident}-text").text = description
    return root


def _markup(root: Element) -> Markup:
    return Markup(tostring(root, encoding="unicode", short_empty_elements=False))  # noqa: S704 (ElementTree escapes)


def _text(parent: Element, x: str, y: float, text: str, css: str = "") -> None:
    SubElement(parent, "text", {"x": x, "y": f"{y:g}", "class": css}).text = text


def _line(parent: Element, x1: str, y1: float, x2: str, y2: float, css: str) -> None:
    SubElement(parent, "line", {"x1": x1, "y1": f"{y1:g}", "x2": x2, "y2": f"{y2:g}", "class": css})


def _dot(parent: Element, x: str, y: float, css: str) -> None:
    SubElement(parent, "circle", {"cx": x, "cy": f"{y:g}", "r": "6" if css != "point" else "4", "class": css})


def _percent(part: float) -> str:
    return f"{100 * min(max(part, 0.0), 1.0):.2f}%"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, 1, 2, 2.5 or 5 times a power of ten apart, from `low` or below to `high` or above."""
    span = high - low if high > low else abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if span / (step * power) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def dumbbell(ident: str, rows: Sequence[Comparison]) -> Markup:
    """Before and after of each row (whole task first), joined by a bar; a whisker is the interval of the change.

    The whisker is drawn where the score after tuning would lie if the change were at either end of its interval.
    """
    most = max([row.before + (row.ci95[1] if row.ci95 else row.delta) for row in rows] + [row.before for row in rows])
    marks = ticks(0.0, min(max(100 * most, 1.0), 100.0))
    title = f"{metric_name(rows[0].metric)} before and after tuning"
    said = [f"{_label(r)}: {points(r.before)} before, {points(r.after)} after, {change(r.delta)}" for r in rows]
    top, bottom = 30, 30 + _ROW * len(rows)
    root = _svg(ident, title, "; ".join(said), bottom + 24)
    _legend(root)
    _scale(root, marks, top, bottom)
    for index, row in enumerate(rows):
        _dumbbell_row(root, row, top + _ROW * index, marks[-1] / 100)
    return _markup(root)


def _scale(root: Element, marks: Sequence[float], top: float, bottom: float, unit: str = "") -> None:
    """Upright lines at the marks, numbered below."""
    for mark in marks:
        x = _percent(mark / marks[-1])
        _line(root, x, top, x, bottom, "grid")
        edge = "tick first" if mark == marks[0] else "tick last" if mark == marks[-1] else "tick"
        _text(root, x, bottom + 16, f"{mark:g}{unit}", edge)


def _label(row: Comparison) -> str:
    return row.category.replace("_", " ") or f"all of {row.task}"


def _legend(root: Element) -> None:
    _dot(root, "8", 10, "before")
    _text(root, "20", 15, "before")
    _dot(root, "88", 10, "after")
    _text(root, "100", 15, "after")
    _line(root, "150", 10, "182", 10, "whisker")
    interval_name = SubElement(root, "text", {"x": "190", "y": "15"})
    interval_name.text = "95 % interval"
    SubElement(interval_name, "tspan", {"class": "wide"}).text = " of the change"


def _dumbbell_row(root: Element, row: Comparison, y: float, most: float) -> None:
    strong = "" if row.category else " strong"
    _text(root, "0", y + 18, f"{_label(row)} ({row.n})", f"label{strong}")
    numbers = SubElement(root, "text", {"x": "100%", "y": f"{y + 18:g}", "class": f"value{strong}"})
    numbers.text = f"{points(row.before)} → {points(row.after)}"
    if row.ci95:
        SubElement(numbers, "tspan", {"class": "wide"}).text = f"   {change(row.delta)} ({interval(row.ci95)})"
    before, after, middle = _percent(row.before / most), _percent(row.after / most), y + 33
    _line(root, before, middle, after, middle, "bar")
    if row.ci95:
        low, high = (_percent((row.before + bound) / most) for bound in row.ci95)
        _line(root, low, middle, high, middle, "whisker")
        for end in (low, high):
            _line(root, end, middle - 6, end, middle + 6, "whisker")
    _dot(root, before, middle, "before")
    _dot(root, after, middle, "after")


def loss_curves(ident: str, losses: Sequence[LossPoint], validations: Sequence[LossPoint]) -> Markup:
    """Loss for each token, in training (a line) and on validation rows (points), over the tokens trained on."""
    drawn = _thin(losses)
    every = [point.loss for point in (*drawn, *validations)]
    marks = ticks(min(every), max(every))
    total = max(point.tokens for point in (*losses, *validations)) or 1
    top = 34
    said = f"Training loss {losses[0].loss:.2f} at the first step, {losses[-1].loss:.2f} at the last" if losses else ""
    if validations:
        best = min(validations, key=lambda point: point.loss)
        said += f". Validation loss {validations[0].loss:.2f} at first, lowest {best.loss:.2f} at step {best.step}"
    root = _svg(ident, "Loss over the tokens trained on", said + ".", top + _CURVE + 42)
    root.set("class", "chart plot")
    _curve_legend(root, bool(validations))
    for mark in marks:
        y = top + _height(mark, marks)
        _line(root, "0", y, "100%", y, "grid")
        _text(root, "-8", y + 4, f"{mark:g}", "tick last")
    for mark in ticks(0, total):
        if mark <= total:
            _text(root, _percent(mark / total), top + _CURVE + 18, _short(mark), "tick first" if mark == 0 else "tick")
    _text(root, "50%", top + _CURVE + 36, "tokens", "tick")
    for css, series in (("train", drawn), ("validation", validations)):
        if series:
            _polyline(root, css, [(1000 * p.tokens / total, _height(p.loss, marks)) for p in series], top)
    for point in validations:
        _dot(root, _percent(point.tokens / total), top + _height(point.loss, marks), "point")
    return _markup(root)


def _curve_legend(root: Element, validation: bool) -> None:
    _line(root, "0", 10, "24", 10, "train")
    _text(root, "30", 15, "training")
    if validation:
        _line(root, "104", 10, "128", 10, "validation")
        _dot(root, "116", 10, "point")
        _text(root, "134", 15, "validation")


def _height(loss: float, marks: Sequence[float]) -> float:
    """Pixels from the top of the plot."""
    return _CURVE * (marks[-1] - loss) / (marks[-1] - marks[0])


def _polyline(root: Element, css: str, at: Iterable[tuple[float, float]], top: float) -> None:
    """A line in a box of its own that is stretched across: a polyline takes no percentages."""
    box = {"viewBox": f"0 0 1000 {_CURVE}", "preserveAspectRatio": "none", "class": "stretch"}
    inner = SubElement(root, "svg", box | {"y": f"{top:g}", "width": "100%", "height": f"{_CURVE}"})
    SubElement(inner, "polyline", {"class": css, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in at)})


def _thin(series: Sequence[LossPoint]) -> list[LossPoint]:
    """At most `_DRAWN` points: means of neighbours, each placed at the last of them."""
    size = math.ceil(len(series) / _DRAWN) or 1
    groups = [series[start : start + size] for start in range(0, len(series), size)]
    return [LossPoint(g[-1].step, g[-1].tokens, sum(p.loss for p in g) / len(g)) for g in groups]


def _short(number: float) -> str:
    """`250k`, `1.2M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def funnel(ident: str, stages: Sequence[Stage]) -> Markup:
    """Rows of each stage: what it kept, then what it dropped, a stretch for each reason."""
    most = max(stage.tally["seen"] for stage in stages) or 1
    said = [f"{s.id}: {count(s.tally['seen'])} seen, {count(s.tally['kept'])} kept" for s in stages]
    root = _svg(ident, "Rows seen, dropped and kept at each stage", "; ".join(said), 28 + _ROW * len(stages))
    for x, css, name in ((0, "kept", "kept"), (70, "dropped", "dropped, by reason")):
        SubElement(root, "rect", {"x": f"{x}", "y": "4", "width": "12", "height": "12", "class": css})
        _text(root, f"{x + 18}", 15, name)
    for index, stage in enumerate(stages):
        y = 28 + _ROW * index
        seen, kept = stage.tally["seen"], stage.tally["kept"]
        _text(root, "0", y + 14, stage.id, "label")
        numbers = SubElement(root, "text", {"x": "100%", "y": f"{y + 14}", "class": "value"})
        numbers.text = f"{count(seen)} seen → {count(kept)} kept"
        SubElement(numbers, "tspan", {"class": "wide"}).text = f", {count(seen - kept)} dropped"
        parts = [("kept", kept), *stage.tally["dropped"].items()]
        start = 0
        for number, (name, n) in enumerate(parts):
            place = {"x": _percent(start / most), "y": f"{y + 21}", "width": _percent(n / most), "height": "14"}
            rect = SubElement(root, "rect", place | {"class": "dropped" if number else "kept"})
            SubElement(rect, "title").text = f"{name}: {count(n)}"
            start += n
    return _markup(root)


def mixture(ident: str, sources: Sequence[Source]) -> Markup:
    """Each source's share of the rows that there were, joined by a bar to its share of the mixture."""
    had, gave = (sum(values) or 1 for values in ([s.available for s in sources], [s.taken for s in sources]))
    said = [
        f"{_path(s)}: {share(s.available, had)} of the rows, {share(s.taken, gave)} of the mixture" for s in sources
    ]
    top, bottom = 30, 30 + _ROW * len(sources)
    title = "Each source's share, in the rows that there were and in the mixture"
    root = _svg(ident, title, "; ".join(said), bottom + 24)
    for x, css, name in ((8, "before", "of the rows there were"), (190, "after", "of the mixture")):
        _dot(root, f"{x}", 10, css)
        _text(root, f"{x + 12}", 15, name)
    most = max(max(s.available / had, s.taken / gave) for s in sources)
    marks = ticks(0.0, max(100 * most, 1.0))
    _scale(root, marks, top, bottom, " %")
    for index, source in enumerate(sources):
        y = top + _ROW * index
        _text(root, "0", y + 18, _path(source), "label")
        numbers = SubElement(root, "text", {"x": "100%", "y": f"{y + 18:g}", "class": "value"})
        numbers.text = f"{count(source.available)} → {count(source.taken)}"
        SubElement(numbers, "tspan", {"class": "wide"}).text = f" rows, {source.epochs:.3g} epochs"
        before, after = (_percent(100 * part / marks[-1]) for part in (source.available / had, source.taken / gave))
        _line(root, before, y + 33, after, y + 33, "bar")
        _dot(root, before, y + 33, "before")
        _dot(root, after, y + 33, "after")
    return _markup(root)


def _path(source: Source) -> str:
    return " / ".join(source.path)
