"""The mixer: exact counts, stable draws, copies shared out evenly, and a reason for every row that is left out."""

from __future__ import annotations

import re
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shinan.build.mix import Mixture, mix, mixed
from shinan.build.mixture import PRESETS, UNTAGGED, Mix
from shinan.build.shares import allot
from shinan.core.dataset import iter_rows, write_rows
from shinan.core.errors import ConfigError, DataError
from shinan.core.example import Example, Provenance, assistant, user
from shinan.core.verdict import Tally, Verdict


def row(build: str, number: int, **tags: str) -> Example:
    """Row `number` of the build stage `build`."""
    made = Provenance(f"{build}.jsonl", number, "CC0-1.0", "human")
    return Example((user("a"), assistant(str(number))), provenance=made, tags={"build": build, **tags})


def stage(build: str, count: int, **tags: str) -> list[Example]:
    return [row(build, number, **tags) for number in range(count)]


def rule(**said: Any) -> Mix:
    return Mix.model_validate(said)


def written(rows: Sequence[Example], found: Mixture) -> Counter[Example | str]:
    """How often each row stands in the mixture."""
    return Counter(rows[place].row for place in found.order)


def by(tag: str, rows: Sequence[Example], found: Mixture) -> dict[str, int]:
    """Rows written of each value of a tag."""
    return dict(Counter(rows[place].tags.get(tag, UNTAGGED) for place in found.order))


def dropped(found: Mixture) -> dict[int, Verdict]:
    """The verdict of each row that is left out."""
    return dict(zip(*found.dropped(), strict=True))


def adds_up(rows: Sequence[Example], found: Mixture) -> None:
    """Every row is in the mixture or has its verdict, never both."""
    kept = set(found.order)
    assert kept.isdisjoint(dropped(found))
    assert len(kept) + len(dropped(found)) == len(rows)
    assert found.tally == Tally(len(kept), Counter(verdict.reason for verdict in dropped(found).values()))
    assert not any(verdict.keep for verdict in dropped(found).values())


sizes = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 12), min_size=1)
weights = st.integers(1, 40).map(lambda number: number / 10)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[dict[str, int], Mix]:
    """Sizes of build stages, and a rule with a total."""
    held = draw(sizes)
    said: dict[str, Any] = {"total": draw(st.integers(1, 60)), "temperature": draw(st.sampled_from([1.0, 2.0, 0.5]))}
    kind = draw(st.sampled_from(["rows", "rate", "fixed"]))
    if kind == "rate":
        said["max_rate"] = draw(st.integers(1, 8))
    if kind == "fixed":
        said["weights"] = {name: draw(weights) for name in held}
    return held, rule(**said)


def _rows(held: Mapping[str, int]) -> list[Example]:
    return [one for name, count in held.items() for one in stage(name, count)]


class TestAllot:
    @given(st.integers(0, 10_000), st.lists(st.fractions(0, 10), min_size=1, max_size=9).filter(any))
    def test_counts_add_up_and_none_is_a_row_away(self, rows: int, shares: list[Fraction]) -> None:
        counts = allot(rows, shares)
        assert sum(counts) == rows
        for count, share in zip(counts, shares, strict=True):
            quota = rows * share / sum(shares)
            assert floor(quota) <= count <= ceil(quota)

    def test_the_textbook_case(self) -> None:
        """Hamilton's method on the populations of its usual example (five states, 26 seats)."""
        people = [Fraction(number) for number in (9061, 7179, 5259, 3319, 1182)]
        assert allot(26, people) == [9, 7, 5, 4, 1]

    def test_no_share_gives_no_rows(self) -> None:
        assert allot(3, []) == []
        assert allot(0, [Fraction(0)]) == [0]


class TestCounts:
    @given(mixtures(), st.integers(0, 3))
    @settings(deadline=None)
    @pytest.mark.promise1
    def test_every_mixture_adds_up(self, case: tuple[dict[str, int], Mix], seed: int) -> None:
        held, said = case
        rows = _rows(held)
        found = mix(rows, said, seed)
        adds_up(rows, found)
        assert len(found.order) == said.total
        assert sum(source["taken"] for source in found.sources) == said.total
        assert sum(source["share"] for source in found.sources) == pytest.approx(1)
        counts = written(rows, found)
        for source in found.sources:
            [name] = source["path"]
            assert source["available"] == held[name]
            assert abs(source["taken"] - source["share"] * len(found.order)) < 1
            copies = [counts[one.row] for one in stage(name, held[name])]
            assert sum(copies) == source["taken"] == by("build", rows, found).get(name, 0)
            assert max(copies) - min(copies) <= 1
            assert max(copies) == source["copies"] == ceil(source["taken"] / held[name])
            assert sum(number > 0 for number in copies) == source["distinct"]
            assert source["epochs"] == pytest.approx(source["taken"] / held[name])

    def test_proportional_to_rows_with_a_maximum_rate(self) -> None:
        """T5's formula by hand: 8, 4 and 1 rows with a limit of 4 weigh 4, 4 and 1."""
        rows = _rows({"a": 8, "b": 4, "c": 1})
        assert by("build", rows, mix(rows, rule(max_rate=4, total=90), 0)) == {"a": 40, "b": 40, "c": 10}
        assert by("build", rows, mix(rows, rule(total=26), 0)) == {"a": 16, "b": 8, "c": 2}

    @pytest.mark.parametrize(
        ("temperature", "expected"), [(1.0, {"a": 90, "b": 10}), (2.0, {"a": 75, "b": 25}), (0.5, {"a": 99, "b": 1})]
    )
    def test_temperature(self, temperature: float, expected: dict[str, int]) -> None:
        """Weights 9 and 1: their square roots are 3 and 1; their squares 81 and 1."""
        rows = _rows({"a": 9, "b": 1})
        assert by("build", rows, mix(rows, rule(temperature=temperature, total=100), 0)) == expected

    def test_decimals_are_what_was_typed(self) -> None:
        """0.1 and 0.2 as floats add up to more than 0.3; the rows must not tell."""
        rows = _rows({"a": 10, "b": 20, "c": 30})
        found = mix(rows, rule(weights={"a": 0.1, "b": 0.2, "c": 0.3}), 0)
        assert by("build", rows, found) == {"a": 10, "b": 20, "c": 30}

    def test_equal_weights(self) -> None:
        rows = _rows({"a": 5, "b": 50})
        assert by("build", rows, mix(rows, rule(weights="equal", total=12), 0)) == {"a": 6, "b": 6}

    def test_a_weight_of_nothing_leaves_a_source_out(self) -> None:
        rows = _rows({"a": 3, "b": 2})
        found = mix(rows, rule(weights={"a": 1, "b": 0}), 0)
        assert written(rows, found) == dict.fromkeys(("a.jsonl#0", "a.jsonl#1", "a.jsonl#2"), 1)
        assert [source["taken"] for source in found.sources] == [3, 0]
        assert {verdict.reason for verdict in dropped(found).values()} == {"not_sampled"}
        adds_up(rows, found)

    def test_by_epochs(self) -> None:
        rows = _rows({"a": 3, "b": 4, "c": 5})
        found = mix(rows, rule(epochs={"a": 2, "b": 0.5, "c": 0}), 0)
        assert by("build", rows, found) == {"a": 6, "b": 2}
        assert [source["epochs"] for source in found.sources] == [2, 0.5, 0]
        assert len(mix(rows, rule(epochs=3), 0).order) == 36

    @given(sizes, st.dictionaries(st.sampled_from("abcde"), weights, min_size=5, max_size=5))
    @settings(deadline=None)
    def test_by_default_nothing_is_written_twice_and_no_more_would_fit(
        self, held: dict[str, int], given_: dict[str, float]
    ) -> None:
        rows, said = _rows(held), {name: given_[name] for name in held}
        found = mix(rows, rule(weights=said), 0)
        assert max(written(rows, found).values()) == 1
        exact = {name: Fraction(repr(weight)) for name, weight in said.items()}
        more = (len(found.order) + 1) / sum(exact.values())
        assert any(more * exact[name] > held[name] for name in held)

    @given(sizes, st.data())
    @settings(deadline=None)
    def test_max_epochs_is_kept_or_refused(self, held: dict[str, int], data: st.DataObject) -> None:
        said = {name: data.draw(weights) for name in held}
        most, total = data.draw(st.sampled_from([0.5, 1, 2.5, 4])), data.draw(st.integers(1, 80))
        rows = _rows(held)
        exact = {name: Fraction(repr(weight)) for name, weight in said.items()}
        if any(total * exact[name] / sum(exact.values()) > floor(held[name] * most) for name in held):
            with pytest.raises(DataError, match="epochs of"):
                mix(rows, rule(weights=said, total=total, max_epochs=most), 0)
        else:
            found = mix(rows, rule(weights=said, total=total, max_epochs=most), 0)
            assert len(found.order) == total
            assert all(source["taken"] <= most * source["available"] for source in found.sources)


class TestStability:
    @given(sizes, st.integers(1, 12), st.integers(1, 20))
    @settings(deadline=None)
    def test_another_source_changes_only_how_many(self, held: dict[str, int], more: int, total: int) -> None:
        """The rows of each source are a prefix of one ranking, whatever else is mixed in."""
        before = _rows(held)
        after = [*stage("0", more), *before, *stage("z", more)]
        one, other = (mix(rows, rule(total=total), 5) for rows in (before, after))
        for name in held:
            first, second = (
                {row for row in written(rows, found) if str(row).startswith(name)}
                for rows, found in ((before, one), (after, other))
            )
            assert first <= second or second <= first

    def test_a_source_of_the_same_count_keeps_its_very_rows_and_their_order(self) -> None:
        held = stage("a", 40)
        fixed = {"a": 0.5, "b": 0.5}
        one = [*held, *stage("b", 40)]
        other = [*stage("b", 900), *held]
        taken = [
            [rows[place].row for place in found.order if rows[place].tags["build"] == "a"]
            for rows in (one, other)
            for found in [mix(rows, rule(weights=fixed, total=30), 1)]
        ]
        assert taken[0] == taken[1]
        assert len(taken[0]) == 15

    def test_a_larger_total_adds_rows(self) -> None:
        rows = stage("a", 30)
        small, large = (set(written(rows, mix(rows, rule(total=total), 2))) for total in (7, 19))
        assert small < large

    def test_the_order_of_what_comes_in_does_not_matter(self) -> None:
        rows = _rows({"a": 20, "b": 9})
        one, other = mix(rows, rule(total=17), 3), mix(rows[::-1], rule(total=17), 3)
        assert [rows[place].row for place in one.order] == [rows[::-1][place].row for place in other.order]

    def test_another_seed_takes_others_in_another_order(self) -> None:
        rows = stage("a", 60)
        orders = [[rows[place].row for place in mix(rows, rule(total=30), seed).order] for seed in (0, 1)]
        assert set(orders[0]) != set(orders[1])
        assert orders[0] != sorted(orders[0])

    def test_the_order_is_shuffled_over_sources_and_copies(self) -> None:
        rows = _rows({"a": 200, "b": 20})
        found = mix(rows, rule(weights={"a": 1, "b": 1}, total=400), 0)
        names = [rows[place].tags["build"] for place in found.order]
        assert 70 < names[:200].count("a") < 130
        assert list(found.order[:20]) != sorted(found.order[:20])


class TestCaps:
    @given(
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["en", "ja", ""])), min_size=1, max_size=30),
        st.integers(1, 5),
        st.integers(1, 5),
    )
    @settings(deadline=None)
    @pytest.mark.promise1
    def test_caps_are_kept_and_no_row_is_left_out_for_nothing(
        self, kinds: list[tuple[str, str]], dataset: int, language: int
    ) -> None:
        kinds = [("c", "fr"), *kinds]
        rows = [row("x", n, dataset=d, **({"language": code} if code else {})) for n, (d, code) in enumerate(kinds)]
        found = mix(rows, rule(caps={"dataset": dataset, "language": language}), 0)
        adds_up(rows, found)
        limits = {"dataset": dataset, "language": language}
        for tag, limit in limits.items():
            assert max(by(tag, rows, found).values()) <= limit
        for place, verdict in dropped(found).items():
            assert verdict.reason == "over_cap"
            assert any(
                by(tag, rows, found).get(rows[place].tags.get(tag, UNTAGGED), 0) == limit
                for tag, limit in limits.items()
            )

    def test_a_cap_of_one_value(self) -> None:
        rows = [*stage("a", 9, language="ja"), *stage("b", 9, language="en")]
        found = mix(rows, rule(caps={"language": {"ja": 2}}), 0)
        assert by("language", rows, found) == {"ja": 2, "en": 9}
        assert {verdict.detail for verdict in dropped(found).values()} == {"language ja: at most 2 rows"}

    def test_caps_come_before_shares(self) -> None:
        rows = [*stage("a", 100, dataset="a"), *stage("b", 10, dataset="b")]
        found = mix(rows, rule(caps={"dataset": 20}), 0)
        assert by("build", rows, found) == {"a": 20, "b": 10}
        assert [source["available"] for source in found.sources] == [20, 10]


class TestPresets:
    def test_flan_2021(self) -> None:
        """30,000 rows of a dataset at most, mixed at a rate of 3,000 at most: here in hundreds of the published."""
        published = PRESETS["flan2021"]
        assert (published["max_rate"], published["caps"]) == (3_000, {"dataset": 30_000})
        rows = [one for name, count in (("a", 320), ("b", 40), ("c", 5)) for one in stage(name, count, dataset=name)]
        small = rule(preset="flan2021", max_rate=30, caps={"dataset": 300}, total=650)
        found = mix(rows, small, 0)
        assert by("dataset", rows, found) == {"a": 300, "b": 300, "c": 50}
        assert Counter(verdict.reason for verdict in dropped(found).values()) == {"over_cap": 20}

    def test_flan_2022_by_hand(self) -> None:
        """Of 2,000 rows: 800, 640, 400, 100 and 60; a style each the same; 1 to 0.3; min(cap, rows) for each dataset.

        Caps 30,000 and so on are too large to matter here; `test_the_published_numbers` pins them.
        """
        rows = [
            *stage("f1", 30, submixture="flan2021", dataset="squad", style="zero_shot"),
            *stage("f2", 10, submixture="flan2021", dataset="boolq", style="zero_shot"),
            *stage("f3", 40, submixture="flan2021", dataset="squad", style="few_shot"),
            *stage("t0", 7, submixture="t0", dataset="quoref"),
            *stage("ni", 9, submixture="niv2", dataset="task1"),
            *stage("cot", 5, submixture="cot", dataset="gsm8k", inverted="false"),
            *stage("inv", 5, submixture="cot", dataset="gsm8k", inverted="true"),
            *stage("talk", 3, submixture="dialog", dataset="qrecc"),
        ]
        found = mix(rows, rule(preset="flan2022", total=2000), 0)
        expected = {"f1": 300, "f2": 100, "f3": 400, "t0": 640, "ni": 400, "cot": 77, "inv": 23, "talk": 60}
        assert by("build", rows, found) == expected  # 100 in the proportion 1 to 0.3 are 76.92 and 23.08
        shares = {"/".join(source["path"]): source["share"] for source in found.sources}
        assert shares["cot/untagged/true/gsm8k"] == pytest.approx(0.05 * 0.3 / 1.3)
        assert shares["flan2021/zero_shot/untagged/squad"] == pytest.approx(0.4 / 2 * 30 / 40)

    def test_the_published_numbers(self) -> None:
        said = rule(preset="flan2022")
        assert said.weights == {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03}
        rates = {"flan2021": 30_000, "t0": 20_000, "niv2": 5_000, "cot": 100_000, "dialog": 200_000}
        assert said.levels[-1].max_rate == rates
        assert said.levels[2].weights == {UNTAGGED: 1, "false": 1, "true": 0.3}

    def test_rates_of_the_sources_around(self) -> None:
        within = {"by": "dataset", "max_rate": {"a": 10, "b": 100}}
        rows = [
            *stage("a", 40, dataset="large"),
            *stage("a", 10, dataset="small"),
            *[one.at("b.jsonl", 100 + n) for n, one in enumerate(stage("b", 40, dataset="large"))],
            *stage("b", 10, dataset="small"),
        ]
        found = mix(rows, rule(weights="equal", within=within, total=100), 0)
        taken = {"/".join(source["path"]): source["taken"] for source in found.sources}
        assert taken == {"a": 50, "a/large": 25, "a/small": 25, "b": 50, "b/large": 40, "b/small": 10}

    def test_what_a_recipe_says_comes_before_the_preset(self) -> None:
        said = rule(preset="flan2022", by="build", weights={"a": 1, "b": 3}, total=8)
        rows = [*stage("a", 10), *stage("b", 10)]
        assert by("build", rows, mix(rows, said, 0)) == {"a": 2, "b": 6}
        assert Mix.model_validate(said.model_dump(mode="json")) == said

    def test_a_submixture_that_is_missing_is_told(self) -> None:
        rows = [
            *stage("f", 3, submixture="flan2021", dataset="squad"),
            *stage("t", 3, submixture="t0", dataset="imdb"),
        ]
        with pytest.raises(ConfigError) as caught:
            mix(rows, rule(preset="flan2022"), 0)
        assert str(caught.value) == (
            "mix.weights: the preset flan2022 has weights for cot, dialog, niv2, and no row belongs to them\n"
            "  do this: say `weights: {flan2021: 0.4, t0: 0.32}` beside it"
        )
        assert len(mix(rows, rule(preset="flan2022", weights={"flan2021": 0.4, "t0": 0.32}, total=9), 0).order) == 9
        with pytest.raises(ConfigError, match="tag the rows, or say your own `by` and `weights`"):
            mix(stage("f", 3), rule(preset="flan2022"), 0)


@pytest.mark.promise10
class TestFaults:
    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ({"by": "dataset", "weights": {"sqaud": 1, "boolq": 1}},
             r"mix\.weights\.sqaud: no row belongs to 'sqaud'\n  do this: did you mean 'squad'\?\n"
             r"mix\.weights: the source 'squad' has no weight\n  do this: give it one, or 0"),
            ({"by": "datset"}, r"mix\.by: no row has the tag 'datset'\n  do this: did you mean 'dataset'\?"),
            ({"caps": {"lanugage": 5}}, r"mix\.caps: no row has the tag 'lanugage'\n  do this: did you mean"),
            ({"caps": {"language": {"jp": 5}}}, r"mix\.caps\.language\.jp: no row belongs to 'jp'"),
            ({"within": {"by": "dataset", "max_rate": {"b": 2}}}, r"mix\.within\.max_rate\.b: no row belongs to 'b'"),
            ({"epochs": {"a": 1, "b": 2}}, r"mix\.epochs\.b: no row of 'b' is left"),
            ({"weights": {"a": 1, "b": 2}}, r"mix\.weights\.b: no row of 'b' is left\n  do this: give it 0, or see"),
            ({"within": {"by": "dataset", "weights": {"squad": 1}}}, r"mix\.within\.weights: the source 'boolq' has"),
        ],
    )  # fmt: skip
    def test_names_that_nothing_has(self, said: dict[str, Any], sentence: str) -> None:
        rows = [*stage("a", 3, dataset="squad", language="en"), *stage("a", 3, dataset="boolq", language="ja")]
        with pytest.raises(ConfigError, match=sentence):
            mix(rows, rule(**said), 0)

    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ({"weights": {"a": 0, "b": 0}}, "the weights add up to 0"),
            ({"weights": {"a": -1}}, "greater than or equal to 0"),
            ({"weights": "equal", "max_rate": 3}, "max_rate has no effect beside weights"),
            ({"weights": "equal", "temperature": 2}, "temperature has no effect on equal weights"),
            ({"epochs": 2, "total": 9, "max_rate": 4}, "leave out max_rate, total"),
            ({"epochs": {"a": 0}}, "the epochs are all 0"),
            ({"total": 0}, "greater than 0"),
            ({"temperature": 0}, "greater than 0"),
            ({"preset": "flan2023"}, "'flan2021' or 'flan2022'"),
            ({"within": {"by": "task", "total": 3}}, "Extra inputs are not permitted"),
        ],
    )
    def test_rules_that_cannot_be(self, said: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ValidationError, match=sentence):
            rule(**said)

    def test_more_epochs_than_allowed(self) -> None:
        rows = _rows({"a": 100, "b": 10})
        said = rule(weights={"a": 0.5, "b": 0.5}, total=200, max_epochs=4)
        with pytest.raises(DataError) as caught:
            mix(rows, said, 0)
        assert str(caught.value) == (
            "mix.total: a total of 200 needs 10 epochs of b (10 rows), and max_epochs allows 4\n"
            "  do this: lower it to 80, raise mix.max_epochs, or give b less weight"
        )
        assert len(mix(rows, rule(weights={"a": 0.5, "b": 0.5}, total=80, max_epochs=4), 0).order) == 80

    def test_no_rows(self) -> None:
        with pytest.raises(DataError, match="there are no rows to mix"):
            mix([], rule(), 0)

    def test_a_weighted_source_whose_cap_is_nothing(self) -> None:
        rows = [*stage("a", 3), *stage("b", 3)]
        with pytest.raises(DataError, match="no row of b may be taken, and it has a weight"):
            mix(rows, rule(weights="equal", caps={"build": {"b": 0}}), 0)
        with pytest.raises(DataError, match="the parts of the mixture have no weight between them"):
            mix(rows, rule(caps={"build": 0}), 0)

    def test_parts_without_weight(self) -> None:
        rows = [*stage("a", 3, dataset="x"), *stage("b", 3, dataset="y")]
        within = {"by": "dataset", "weights": {"x": 0, "y": 1}}
        with pytest.raises(DataError, match="the parts of a have no weight between them"):
            mix(rows, rule(within=within), 0)
        found = mix(rows, rule(weights={"a": 0, "b": 1}, within=within), 0)
        assert by("build", rows, found) == {"b": 3}

    def test_epochs_too_few_for_a_row(self) -> None:
        with pytest.raises(
            DataError, match=r"a total of 1 needs 0\.5 epochs of a \(2 rows\), and max_epochs allows 0\.1"
        ):
            mix(stage("a", 2), rule(max_epochs=0.1), 0)

    @pytest.mark.promise1
    def test_rows_that_say_the_same_are_rows_of_their_own(self) -> None:
        """Duplicates are curation's business; here each counts, also two that claim the same place."""
        same = [row("a", 0) for _ in range(3)]
        found = mix(same, rule(total=7), 0)
        adds_up(same, found)
        assert sorted(Counter(found.order).values()) == [2, 2, 3]

    def test_odd_names(self) -> None:
        """Japanese, an emoji, half a surrogate pair, nothing at all, and a name like a path."""
        names = ["日本語", "🐈", "\ud800", "", "a/b"]
        rows = [row("x", n, dataset=name) for n, name in enumerate(names)]
        found = mix(rows, rule(by="dataset"), 0)
        assert sorted(found.order) == [0, 1, 2, 3, 4]
        assert re.search("a/b", str([source["path"] for source in found.sources]))


# ---- rows on disk ----


def test_rows_are_the_same_however_few_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of long rows fewer are held: 7 of these, where 22 would be if their texts took nothing."""
    long = user("a" * 3000)
    rows = [replace(one, messages=(long, assistant("b"))) for one in (*stage("a", 40), *stage("b", 11))]
    write_rows(tmp_path, rows)
    found = mix(rows, rule(weights={"a": 1, "b": 1}, total=60, caps={"build": {"b": 9}}), 2)
    whole = list(mixed(tmp_path, found))
    assert [one.row for one in whole if isinstance(one, Example)] == [rows[place].row for place in found.order]
    assert [one for one in whole if not isinstance(one, Example)] == [(rows[n], v) for n, v in dropped(found).items()]
    assert {verdict.reason for verdict in dropped(found).values()} == {"over_cap", "not_sampled"}
    reads: list[int] = []

    def counted(folder: Path, places: Sequence[int]) -> Iterator[Example]:
        reads.append(len(places))
        return iter_rows(folder, places)

    monkeypatch.setattr("shinan.build.mix.iter_rows", counted)
    monkeypatch.setattr("shinan.build.mix._HELD", 7 * (1500 + found.length))
    assert list(mixed(tmp_path, found)) == whole
    assert len(reads) == 10  # nine times seven places, and the rows left out
    assert max(reads[:-1]) <= 7


def test_some_numbers_of_each_row_are_kept_and_not_the_row() -> None:
    """41 bytes a row at 300,000 rows, of which some are only there for a while."""

    def peak(count: int) -> int:
        rows = (row("ab"[n % 2], n) for n in range(count))
        tracemalloc.start()
        mix(rows, rule(weights={"a": 1, "b": 3}, total=count), 0)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12_000) - peak(4_000) < 8_000 * 80
