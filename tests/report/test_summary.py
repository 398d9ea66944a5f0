"""The verdict's sentences (written by hand here), summary.json's fields, and the terminal's table."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from shinan.report.collect import Comparison, Report, collect
from shinan.report.html import caveats
from shinan.report.mixture import Mixture, Source
from shinan.report.summary import mixture_table, outcome, summary, terminal_table, verdict
from tests.report.fake_run import ALL, make_run

_GAIN = Comparison("held-out tasks", "rouge_l", 96, 0.098, 0.312, 0.214, (0.171, 0.256), 0.0002, mde80=0.061)


def _with(report: Report, *comparisons: Comparison) -> Report:
    """The report with these results, its answers belonging to the task `held-out tasks`."""
    answers = tuple(replace(a, task="held-out tasks") for a in report.answers)
    return replace(report, comparisons=comparisons, answers=answers)


def test_a_gain(report: Report) -> None:
    assert verdict(_with(report, _GAIN)) == (
        "Tuned answers are better on held-out tasks: ROUGE-L 31.2 after, 9.8 before "
        "(+21.4, 95 % interval +17.1 to +25.6, p < 0.001, 96 items of 34 tasks)."
    )


def test_rows_without_a_task_are_no_tasks(report: Report) -> None:
    """An item that names none is a task of its own for the statistics alone."""
    found = _with(report, _GAIN)
    [answers] = found.answers
    alone = replace(answers, before=tuple(replace(sample, task=sample.row) for sample in answers.before))
    assert "p < 0.001, 96 items)." in verdict(replace(found, answers=(alone,)))


@pytest.mark.promise6
def test_a_loss_says_how_many_answers_were_cut_and_unscored(report: Report) -> None:
    loss = Comparison(
        "qa",
        "exact_match",
        1,
        0.5,
        0.25,
        -0.25,
        (-0.4, -0.1),
        0.004,
        unscored=3,
        truncated_before=4,
        truncated_after=40,
    )
    assert verdict(_with(report, loss)) == (
        "Tuned answers are worse on qa: exact match 25.0 after, 50.0 before (−25.0, 95 % interval −40.0 to −10.0, "
        "p = 0.004, 1 item, 3 more could not be scored; cut at the length limit: 4 answers before, 40 after)."
    )


@pytest.mark.promise6
def test_no_difference_names_the_smallest_one_that_would_show(report: Report) -> None:
    flat = replace(_GAIN, after=0.103, delta=0.005, ci95=(-0.01, 0.02), p=0.51)
    assert verdict(_with(report, flat)) == (
        "No difference could be shown on held-out tasks: ROUGE-L 10.3 after, 9.8 before (+0.5, 95 % interval "
        "−1.0 to +2.0, p = 0.51, 96 items of 34 tasks); a difference smaller than 6.1 would be missed more than one "
        "time in five."
    )


@pytest.mark.promise6
def test_answers_that_are_all_alike_tell_nothing_of_what_would_show(report: Report) -> None:
    first = replace(_GAIN, before=0.0, after=0.0, delta=0.0, ci95=(0.0, 0.0), p=1.0, mde80=0.0)
    alike = _with(report, first)
    assert "would be missed" not in verdict(alike)
    assert not any("would be missed" in caveat for caveat in caveats(alike))


def test_without_an_interval_nothing_is_claimed(report: Report) -> None:
    bare = replace(_GAIN, ci95=None, p=None, mde80=None)
    assert verdict(_with(report, bare)) == (
        "No difference could be shown on held-out tasks: ROUGE-L 31.2 after, 9.8 before "
        "(+21.4, no interval could be computed, 96 items of 34 tasks)."
    )


def test_other_tasks_are_not_hidden(report: Report) -> None:
    first, second = replace(_GAIN, task="a", metric="acc"), replace(_GAIN, task="a", delta=-0.2, ci95=(-0.3, -0.1))
    others = [
        replace(_GAIN, task="b", ci95=(-0.3, -0.1)),
        replace(_GAIN, task="c", ci95=(-0.3, 0.1)),
        replace(_GAIN, task="d"),
        replace(_GAIN, task="e"),
    ]
    assert verdict(_with(report, first, second, *others)).endswith(
        "; elsewhere better on d and e, worse on b, no difference shown on c."
    )


@pytest.mark.parametrize(
    ("ci95", "p", "expected"),
    [
        ((0.01, 0.2), 0.03, "better"),
        ((-0.2, -0.01), 0.03, "worse"),
        ((0.0, 0.2), 0.03, "unclear"),  # the interval covers 0
        ((0.01, 0.2), 0.05, "unclear"),  # the two disagree: nothing is claimed
        ((0.01, 0.2), None, "better"),
        (None, 0.001, "unclear"),
    ],
)
def test_outcome(ci95: tuple[float, float] | None, p: float | None, expected: str) -> None:
    assert outcome(replace(_GAIN, ci95=ci95, p=p)) == expected


def test_a_run_that_was_not_compared(tmp_path: Path) -> None:
    report = collect(make_run(tmp_path / "run", done=ALL[:-2]))
    assert verdict(report) == (
        "Nothing can be said yet: before and after have not been compared (missing: evaluate.heldout.after, compare)."
    )
    assert summary(report)["evaluation"] == []


def test_summary_has_the_fields_of_the_design(report: Report) -> None:
    found = summary(_with(report, _GAIN))
    assert list(found) == [
        *("recipe", "model", "stages", "mixture", "licences", "training", "evaluation", "probes", "verdict"),
        *("wall_seconds", "versions", "machine"),
    ]
    assert found["stages"][1] == {
        "id": "build.file",
        "use": "build",
        "seen": 70,
        "kept": 68,
        "dropped": {"empty_reply": 2},
        "seconds": 1.5,
    }
    assert list(found["training"]) == [
        *("examples", "tokens", "labelled_tokens", "computed_tokens", "steps", "seconds", "tokens_per_second"),
        "final_loss",
    ]
    assert found["evaluation"] == [
        {
            "task": "held-out tasks",
            "metric": "rouge_l",
            "n": 96,
            "before": 0.098,
            "after": 0.312,
            "delta": 0.214,
            "ci95": (0.171, 0.256),
            "p": 0.0002,
            "mde80": 0.061,
            "truncated_before": 0,
            "truncated_after": 0,
        }
    ]
    assert (found["probes"], found["versions"]["torch"]) == ([], "2.13.0")
    json.dumps(found, allow_nan=False)


def test_summary_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    found = summary(collect(make_run(tmp_path / "run", done=())))
    assert (found["stages"], found["training"], found["evaluation"], found["wall_seconds"]) == ([], {}, [], 0)


def test_the_table_fits_a_terminal_and_obeys_no_escape(report: Report) -> None:
    stream = StringIO()
    rows = (replace(_GAIN, task="[red]x\x1b[2J"), replace(_GAIN, metric="exact_match", delta=0.0, ci95=(-0.1, 0.1)))
    Console(file=stream, width=80).print(terminal_table(_with(report, *rows)))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "[red]x␛[2J" in text.replace("\n", "")
    assert "9.8 → 31.2" in text
    assert "+17.1 to +25.6" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_terminal_tells_of_the_mixture(report: Report) -> None:
    sources = [Source(("evil\x1b[2J",), 1000, 0.5, 1500, 1000, 2, 1.5), Source(("b",), 90, 0.5, 1500, 90, 17, 16.6667)]
    sources += [Source(("b", "part"), 90, 0.5, 1500, 90, 17, 16.6667)]
    console = Console(file=StringIO(), width=100)
    console.print(mixture_table(replace(report, mixture=Mixture(3000, 1090, tuple(sources)))))
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The mixture: 3,000 rows, 1,090 of them different" in told
    assert "\x1b" not in told
    assert [line.split() for line in told.splitlines() if line.strip().startswith("b")] == [
        ["b", "90", "50", "%", "1,500", "90", "17", "16.7"]
    ]
    many = tuple(Source((f"s{n:02}",), 1, 0.04, 1, 1, 1, 1.0) for n in range(25))
    console.print(mixture_table(replace(report, mixture=Mixture(25, 25, many))))
    assert "and 5 more in the report" in console.file.getvalue()  # type: ignore[attr-defined]
    assert mixture_table(report).row_count == 0
