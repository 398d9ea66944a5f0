"""The paired comparison against hand calculation, scipy, and simulated truth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shinan.core.errors import DataError
from shinan.evaluate.compare import Comparison, compare

pytestmark = pytest.mark.promise6

SCORES = st.floats(0, 1, width=32)


def singles(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def test_five_items_in_three_clusters_by_hand() -> None:
    # differences: a +1 +1, b -1, c 0 +1
    found = compare([0, 0, 1, 0, 0], [1, 1, 0, 0, 1], ["a", "a", "b", "c", "c"], seed=1)
    assert (found.n, found.clusters, found.unscored) == (5, 3, 0)
    assert (found.before, found.after, found.delta) == pytest.approx((0.2, 0.6, 0.4))
    assert (found.wins, found.losses, found.ties) == (3, 1, 1)
    # cluster sums 2, -1, 1: of the 8 sign patterns of 2, 1, 1 six reach |2|
    assert found.p == 0.75
    # deviations from 0.4 sum to 1.2, -1.4, 0.2: sqrt(3/2 * 3.44) / 5 = 0.4543126676640219
    assert found.mde80 == pytest.approx(2.8 * 0.4543126676640219, rel=1e-12)


def test_two_clusters_have_three_bootstrap_means() -> None:
    # a a: 1 (a quarter), a b: 1/3 (a half), b b: -1 (a quarter)
    found = compare([0, 0, 1], [1, 1, 0], ["a", "a", "b"], seed=0)
    assert (found.ci_low, found.ci_high) == (-1, 1)


def test_equals_scipy_on_continuous_scores() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(14)
    after = np.clip(before + rng.normal(0.08, 0.15, 14), 0, 1)
    found = compare(before.tolist(), after.tolist(), singles(14), seed=0)
    options: dict[str, Any] = {"permutation_type": "samples", "n_resamples": np.inf}
    exact = stats.permutation_test((after, before), lambda x, y: np.mean(x) - np.mean(y), **options)
    assert found.p == pytest.approx(exact.pvalue, rel=1e-12)
    assert found.mde80 == pytest.approx(2.8 * stats.sem(after - before), rel=1e-12)
    interval = stats.bootstrap((after - before,), np.mean, method="percentile", n_resamples=40_000, random_state=1)
    assert interval.confidence_interval.low == pytest.approx(found.ci_low, abs=0.004)
    assert interval.confidence_interval.high == pytest.approx(found.ci_high, abs=0.004)


@pytest.mark.parametrize(("losses", "wins"), [(3, 12), (0, 6), (5, 5), (8, 12)])
def test_right_and_wrong_is_the_exact_mcnemar_test(losses: int, wins: int) -> None:
    before = [1.0] * losses + [0.0] * wins + [1.0] * 40
    after = [0.0] * losses + [1.0] * wins + [1.0] * 40
    found = compare(before, after, singles(len(before)), seed=0)
    assert found.p == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)
    assert (found.wins, found.losses, found.ties) == (wins, losses, 40)


def test_totals_that_differ_by_rounding_are_equal() -> None:
    # |total| of 0.1 0.1 0.1 -0.1 is 0.2: of 16 sign patterns, 2 give 0.4, 8 give 0.2 and 6 give 0
    assert compare([0.0] * 3 + [0.1], [0.1] * 3 + [0.0], singles(4), seed=0).p == 10 / 16


def test_many_clusters_are_sampled_with_the_plus_one_rule() -> None:
    found = compare([1.0] * 14 + [0.0] * 30, [0.0] * 14 + [1.0] * 30, singles(44), seed=0)
    exact = stats.binomtest(14, 44).pvalue
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000))
    assert found.p != exact
    certain = compare([0.0] * 200, [1.0] * 200, singles(200), seed=0)
    assert certain.p == 1 / 10_001
    assert (certain.ci_low, certain.ci_high, certain.mde80) == (1, 1, 0)


def simulated(rng: np.random.Generator, gain: float) -> tuple[list[float], list[float], list[str]]:
    """30 clusters of 4 items whose change has a part of its own and a larger one in common."""
    shared = np.repeat(rng.normal(0, 0.2, 30), 4)
    before = rng.normal(0.5, 0.1, 120)
    after = before + gain + shared + rng.normal(0, 0.1, 120)
    return before.tolist(), after.tolist(), np.repeat(singles(30), 4).tolist()


def contains(found: Comparison, value: float) -> bool:
    assert found.ci_low is not None
    assert found.ci_high is not None
    return found.ci_low <= value <= found.ci_high


def test_intervals_cover_the_truth_and_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(7)
    runs = 80
    covered = blind = alarms = 0
    for run in range(runs):
        before, after, clusters = simulated(rng, gain=0.0)
        found = compare(before, after, clusters, seed=run, resamples=300)
        covered += contains(found, 0.0)
        alarms += found.p <= 0.05
        blind += contains(compare(before, after, singles(120), seed=run, resamples=300), 0.0)
    assert covered / runs >= 0.85  # 0.93 in a long run with 30 clusters
    assert blind / runs < 0.82  # what resampling single items would have claimed
    assert 0.005 <= alarms / runs <= 0.1


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    # the standard error of the simulated mean change: clusters of 0.2 and items of 0.1
    gain = 2.8 * math.sqrt(0.2**2 / 30 + 0.1**2 / 120)
    found = [compare(*simulated(rng, gain), seed=run, resamples=10) for run in range(150)]
    assert 0.70 <= sum(each.p <= 0.05 for each in found) / 150 <= 0.88
    assert np.mean([each.mde80 or 0 for each in found]) == pytest.approx(gain, rel=0.05)


@given(st.lists(st.tuples(SCORES, SCORES, st.sampled_from("abcd")), min_size=1, max_size=30), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_swapping_sides_mirrors_everything(rows: list[tuple[float, float, str]], seed: int) -> None:
    before, after, clusters = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    there = compare(before, after, clusters, seed, resamples=200)
    back = compare(after, before, clusters, seed, resamples=200)
    assert back.delta == -there.delta
    assert (back.before, back.after) == (there.after, there.before)
    assert (back.wins, back.losses, back.ties) == (there.losses, there.wins, there.ties)
    assert (back.p, back.mde80) == pytest.approx((there.p, there.mde80))
    if there.ci_low is None or there.ci_high is None:
        assert there.clusters == 1
    else:
        assert (back.ci_low, back.ci_high) == pytest.approx((-there.ci_high, -there.ci_low), abs=1e-12)
        assert there.ci_low <= there.ci_high


def test_the_same_call_gives_the_same_answer_and_the_order_of_items_is_of_no_account() -> None:
    rng = np.random.default_rng(5)
    before, after, clusters = simulated(rng, 0.05)
    first = compare(before, after, clusters, seed=4)
    assert compare(before, after, clusters, seed=4) == first
    order = rng.permutation(len(before))
    again = compare([before[i] for i in order], [after[i] for i in order], [clusters[i] for i in order], seed=4)
    assert again.p == first.p
    assert again.ci_low == pytest.approx(first.ci_low, rel=1e-9)
    assert compare(before, after, clusters, seed=5).ci_low != first.ci_low


def test_unscored_items_are_left_out_on_both_sides_and_counted() -> None:
    before, after, clusters = [0.0, None, 1.0, 0.5, 0.2], [1.0, 1.0, None, 0.5, 0.4], ["a", "b", "c", "d", "e"]
    found = compare(before, after, clusters, seed=0)
    kept = compare([0.0, 0.5, 0.2], [1.0, 0.5, 0.4], ["a", "d", "e"], seed=0)
    assert found == replace(kept, unscored=2)
    assert (found.n, found.clusters) == (3, 3)


def test_one_cluster_has_no_interval() -> None:
    found = compare([0.0, 0.0], [1.0, 0.5], ["only", "only"], seed=0)
    assert found == Comparison(2, 1, 0, 0.0, 0.75, 0.75, None, None, 1.0, None, 2, 0, 0)


def test_no_change_is_no_evidence() -> None:
    found = compare([0.3] * 5, [0.3] * 5, singles(5), seed=0)
    assert (found.delta, found.ci_low, found.ci_high, found.p, found.ties) == (0, 0, 0, 1, 5)


def test_unequal_lengths_are_an_error() -> None:
    with pytest.raises(DataError, match=r"2 scores before, 3 after and 3 clusters can't be paired") as caught:
        compare([0.0, 1.0], [0.0, 1.0, 1.0], singles(3), seed=0)
    assert "do this: give one score before, one after and one cluster for each item" in str(caught.value)


@pytest.mark.parametrize(("before", "after"), [([None, 1.0], [0.0, None]), ([], [])])
def test_nothing_scored_is_an_error(before: list[float | None], after: list[float | None]) -> None:
    count = len(before)
    with pytest.raises(DataError, match=f"none of the {count} items has a score both before and after"):
        compare(before, after, singles(count), seed=0)


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(DataError, match="item 1: the score after is nan"):
        compare([0.0, 1.0], [0.0, math.nan], singles(2), seed=0)
    with pytest.raises(DataError, match="item 0: the score before is inf"):
        compare([math.inf], [0.0], singles(1), seed=0)
