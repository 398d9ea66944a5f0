"""What is said of two logs, against comparisons worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from shinan.core.errors import DataError
from shinan.evaluate.compare import compare
from shinan.evaluate.results import best_style, compare_samples, means
from shinan.evaluate.samples import Sample
from tests.evaluate.answers import answer

Scores = Sequence[float | Mapping[str, float | None] | None]


def side(scores: Scores, tasks: str = "", categories: str = "", **fields: Any) -> list[Sample]:
    """Answers to items a#0, a#1, ...; one letter of `tasks` and `categories` an item, `-` for no category."""
    found = [answer(f"a#{i}", score, **fields) for i, score in enumerate(scores)]
    for i, task in enumerate(tasks):
        found[i] = replace(found[i], task=task)
    for i, category in enumerate(categories):
        found[i] = replace(found[i], category=category.strip("-"))
    return found


def compared(
    before: Sequence[Sample], after: Sequence[Sample], metrics: Sequence[str] = ("exact",)
) -> dict[str, list[dict[str, Any]]]:
    found = compare_samples(before, after, metrics, task="heldout", seed=1)
    json.dumps(found, allow_nan=False)  # goes into a manifest
    return found


class TestStyles:
    SAMPLES = (
        answer("a#0", {"exact": 0.0, "rouge": 0.9}, style="plain"),
        answer("a#1", {"exact": None, "rouge": 0.5}, style="plain"),
        answer("a#0", {"exact": 1.0, "rouge": None}, style="alpaca"),
        answer("a#1", {"exact": 0.5, "rouge": None}, style="alpaca"),
    )

    def test_means_leave_out_what_could_not_be_scored(self) -> None:
        assert means(self.SAMPLES, ["exact", "rouge"]) == {
            "plain": {"exact": 0.0, "rouge": 0.7},
            "alpaca": {"exact": 0.75, "rouge": None},
        }
        assert means([], ["exact"]) == {}

    @pytest.mark.promise6
    def test_the_best_style_is_that_of_the_metric(self) -> None:
        assert best_style(self.SAMPLES, "exact") == "alpaca"
        assert best_style(self.SAMPLES, "rouge") == "plain"

    def test_of_equals_the_first_asked(self) -> None:
        samples = [answer("a#0", 0.5, style=style) for style in ("plain", "alpaca", "gemma")]
        assert best_style(samples, "exact") == "plain"
        assert best_style(samples[::-1], "exact") == "gemma"

    def test_scores_may_be_negative(self) -> None:
        samples = [answer("a#0", score, style=style) for style, score in (("a", None), ("b", -7.0), ("c", -5.0))]
        assert best_style(samples, "exact") == "c"

    @pytest.mark.parametrize(("samples", "n"), [([], 0), ([answer("a#0", None), answer("a#1", None)], 2)])
    def test_no_style_has_a_score(self, samples: list[Sample], n: int) -> None:
        with pytest.raises(DataError) as caught:
            best_style(samples, "exact")
        assert str(caught.value) == (
            f"none of the {n} answers has a score in exact\n"
            "  do this: ask items that this metric can score, or put another metric first"
        )


@pytest.mark.promise6
class TestGolden:
    """Five items in three tasks, the same numbers as in test_compare: differences a +1 +1, b -1, c 0 +1."""

    BEFORE, AFTER, TASKS = (0, 0, 1, 0, 0), (1, 1, 0, 0, 1), "aabcc"

    def test_a_comparison_by_hand(self) -> None:
        before = side(self.BEFORE, self.TASKS)
        [found] = compared(before, side(self.AFTER, self.TASKS))["evaluation"]
        low, high = found.pop("ci95")
        assert low < 0.4 < high
        assert found == {
            "task": "heldout",
            "metric": "exact",
            "style_before": "alpaca",
            "n": 5,
            "clusters": 3,
            "clustered_by": "task",
            "unscored": 0,
            "before": pytest.approx(0.2),
            "after": pytest.approx(0.6),
            "delta": pytest.approx(0.4),
            "p": 0.75,  # of the 8 sign patterns of the sums 2, -1, 1 six reach |2|
            "mde80": pytest.approx(2.8 * 0.4543126676640219),  # sqrt(3/2 * (1.2**2 + 1.4**2 + 0.2**2)) / 5
            "wins": 3,
            "losses": 1,
            "ties": 1,
            "truncated_before": 0,
            "truncated_after": 0,
            "empty_before": 0,
            "empty_after": 0,
        }

    def test_the_order_of_answers_is_of_no_account(self) -> None:
        before, after = side(self.BEFORE, self.TASKS), side(self.AFTER, self.TASKS)
        assert compared(before[::-1], after[2:] + after[:2]) == compared(before, after)

    def test_before_is_taken_in_its_best_style(self) -> None:
        worse = side((0, 0, 0, 0, 0), self.TASKS, style="plain", finish="length")
        before = side(self.BEFORE, self.TASKS)
        assert compared(worse + before, side(self.AFTER, self.TASKS)) == compared(before, side(self.AFTER, self.TASKS))

    def test_the_headline_chooses_the_style_for_every_metric(self) -> None:
        before = side([{"exact": 1, "rouge": 0}] * 2, style="a") + side([{"exact": 0, "rouge": 1}] * 2, style="b")
        found = compared(before, side([{"exact": 1, "rouge": 1}] * 2), ["exact", "rouge"])["evaluation"]
        assert [(row["metric"], row["style_before"], row["before"], row["delta"]) for row in found] == [
            ("exact", "a", 1.0, 0.0),
            ("rouge", "a", 0.0, 1.0),
        ]

    def test_endings_are_counted_on_both_sides(self) -> None:
        before = [answer("a#0", 0, finish="length"), answer("a#1", 0, finish="length"), answer("a#2", 0)]
        after = [answer("a#0", 0, empty=True, reply=""), answer("a#1", 0, finish="length"), answer("a#2", None)]
        [found] = compared(before, after)["evaluation"]
        counts = [found[f"{what}_{side}"] for what in ("truncated", "empty") for side in ("before", "after")]
        assert counts == [2, 1, 0, 1]
        assert (found["n"], found["unscored"]) == (2, 1)


class TestCategories:
    def test_each_on_the_headline_and_sorted(self) -> None:
        before = side([{"exact": 0, "rouge": 0}] * 6, "aabbcd", "yyxxx-")
        after = side([{"exact": v, "rouge": 0} for v in (1, 0, 1, 1, 0, 1)], "aabbcd", "yyxxx-")
        found = compared(before, after, ["exact", "rouge"])["categories"]
        assert [(row["category"], row["metric"], row["task"], row["n"], row["delta"]) for row in found] == [
            ("x", "exact", "heldout", 3, pytest.approx(2 / 3)),
            ("y", "exact", "heldout", 2, 0.5),
        ]

    def test_one_that_could_not_be_scored_is_reported_as_such(self) -> None:
        before = side((0, 1, 0, None), "abcd", "xxyy")
        after = side((1, 1, None, 1), "abcd", "xxyy")
        found = compared(before, after)
        assert [(row["category"], row["n"], row["unscored"]) for row in found["categories"]] == [
            ("x", 2, 0),
            ("y", 0, 2),
        ]
        assert found["categories"][1] == {
            "task": "heldout",
            "category": "y",
            "metric": "exact",
            "n": 0,
            "clusters": 0,
            "clustered_by": "task",
            "unscored": 2,
            **dict.fromkeys(("before", "after", "delta", "p", "mde80")),
            "ci95": [None, None],
            **dict.fromkeys(("wins", "losses", "ties"), 0),
            **dict.fromkeys(("truncated_before", "truncated_after", "empty_before", "empty_after"), 0),
        }
        assert (found["evaluation"][0]["n"], found["evaluation"][0]["unscored"]) == (2, 2)


@pytest.mark.promise6
class TestUnscored:
    def test_a_further_metric_without_scores_does_not_stop_the_rest(self) -> None:
        before = side([{"exact": 0, "verified": None}, {"exact": 1, "verified": 1}])
        after = side([{"exact": 1, "verified": 1}, {"exact": 1, "verified": None}])
        first, second = compared(before, after, ["exact", "verified"])["evaluation"]
        assert (first["n"], first["delta"]) == (2, 0.5)
        assert (second["n"], second["unscored"], second["delta"], second["style_before"]) == (0, 2, None, "alpaca")

    def test_a_headline_without_scores_is_an_error(self) -> None:
        with pytest.raises(DataError) as caught:
            compared(side((0, 1)), side((None, None)))
        assert str(caught.value) == (
            "heldout: none of the 2 items has a score in exact both before and after\n"
            "  do this: read the answers and see why they could not be scored, or put another metric first"
        )


@pytest.mark.promise6
class TestOneTask:
    def test_its_items_are_clusters_of_their_own(self) -> None:
        [found] = compared(side((0, 0), "aa"), side((1, 0), "aa"))["evaluation"]
        # the four draws of two items have means 1, 1/2, 1/2 and 0
        assert found["ci95"] == [0, 1]
        assert (found["clusters"], found["clustered_by"]) == (2, "item")
        assert found["p"] == 1.0  # one difference, and both of its signs reach it
        assert found["mde80"] == pytest.approx(1.4)  # deviations of 1/2: sqrt(2 * (1/4 + 1/4)) / 2

    def test_one_item_has_no_interval(self) -> None:
        [found] = compared(side((0,)), side((1,)))["evaluation"]
        assert (found["ci95"], found["mde80"], found["n"], found["clustered_by"]) == ([None, None], None, 1, "item")

    def test_tasks_without_scores_do_not_count(self) -> None:
        before, after = (0.0, 0.5, 0.25, None), (1.0, 0.0, 0.75, 1.0)
        [found] = compared(side(before, "aaab"), side(after, "aaab"))["evaluation"]
        own = compare(before[:3], after[:3], ["a#0", "a#1", "a#2"], seed=1)
        assert found["ci95"] == [own.ci_low, own.ci_high]
        assert (found["n"], found["unscored"], found["clustered_by"]) == (3, 1, "item")

    def test_a_category_of_one_task_beside_one_of_two(self) -> None:
        before, after = side((0, 0, 0, 0), "aabc", "xxyy"), side((1, 0, 1, 0), "aabc", "xxyy")
        found = compared(before, after)
        assert [row["clustered_by"] for row in found["categories"]] == ["item", "task"]
        assert found["evaluation"][0]["clusters"] == 3


@pytest.mark.promise6
class TestDifferentItems:
    def test_an_item_asked_on_one_side_only(self) -> None:
        before, after = side((0, 0, 0)), side((1, 1))
        for old, new in ((before, after), (after, before)):
            with pytest.raises(DataError) as caught:
                compared(old, new)
            assert str(caught.value) == (
                "a#2: before and after were asked different items (1 differ)\n"
                "  do this: evaluate both on the same task with the same settings"
            )

    def test_only_the_chosen_style_must_have_them_all(self) -> None:
        half = side((0,), style="plain")
        assert compared(half + side((1, 1)), side((1, 1)))["evaluation"][0]["n"] == 2
