"""Rows of annotated datasets as they are (lists in objects, labels as numbers, words or truth), read as instances."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.core.errors import ConfigError
from shinan.formats.annotated import load_set, set_path
from shinan.formats.instances import Columns, Instance, Reading, RowError, reading
from shinan.formats.rows import Where

PLACE = Where("rows.jsonl", 6, 7)


def how(shape: str, columns: dict[str, Columns], labels: Any = None, values: dict[str, str] | None = None) -> Reading:
    return reading(load_set(set_path(shape)), columns, values or {}, labels)


def refused(read: Reading, row: dict[str, Any]) -> RowError:
    with pytest.raises(RowError) as caught:
        read.read(row, PLACE)
    assert caught.value.where == "rows.jsonl:7"
    assert caught.value.fix
    return caught.value


NLI: dict[str, Columns] = {"premise": "p", "hypothesis": "h", "label": "l"}
NLI_LABELS = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (None, {0: 0, 1: 1, 2: 2, "entailment": 0, " neutral ": 1, "1": 1}),
        (["entailment", "neutral", "contradiction"], {0: 0, "contradiction": 2, "2": 2}),
        (["contradiction", "entailment", "neutral"], {0: 2, 1: 0, 2: 1}),
        ({"e": "entailment", "n": "neutral", "c": "contradiction"}, {"e": 0, "n": 1, "c": 2}),
    ],
)
def test_labels_are_numbers_or_names_or_what_the_mapping_says(labels: Any, values: dict[Any, int]) -> None:
    read = how("nli", NLI, labels)
    for value, right in values.items():
        instance = read.read({"p": " A.\n", "h": "\ufeffB.", "l": value}, PLACE)
        label = NLI_LABELS[right]
        assert instance == Instance({"premise": "A.", "hypothesis": "B.", "label": label}, NLI_LABELS, right)


def test_a_dataset_may_use_some_of_the_labels() -> None:
    """RTE knows two: what is left out is never offered, and the order stays the shape's."""
    read = how("nli", NLI, {"not_entailment": "contradiction", "entailment": "entailment"})
    assert read.read({"p": "A", "h": "B", "l": "not_entailment"}, PLACE).options == ("entailment", "contradiction")


def test_two_labels_may_be_truth_values() -> None:
    read = how("yes_no_qa", {"question": "q", "answer": "a"})
    assert [read.read({"q": "?", "a": value}, PLACE).right for value in (True, False, 1, 0, "yes", "no")] == [
        1,
        0,
        1,
        0,
        1,
        0,
    ]


def test_a_mapping_of_four_values_is_what_it_says() -> None:
    read = how("yes_no_qa", {"question": "q", "answer": "a"}, {"1": "no", "2": "no", "4": "yes", "5": "yes"})
    assert [read.read({"q": "?", "a": value}, PLACE).right for value in (1, 2, 4, 5)] == [0, 0, 1, 1]
    counted = how("yes_no_qa", {"question": "q", "answer": "a"}, {"0": "no", "1": "yes", "2": "yes", "3": "yes"})
    assert refused(counted, {"q": "?", "a": True}).what.endswith("is none of the labels")


def test_topics_are_the_datasets_own() -> None:
    read = how("topic", {"text": "t", "label": "l"}, ["World", "Sports"])
    assert read.read({"t": "x", "l": 1}, PLACE) == Instance({"text": "x", "label": "Sports"}, ("World", "Sports"), 1)


@pytest.mark.parametrize("value", [-1, 3, "5", "entailed", True, None, 1.5, ["entailment"], {"a": 1}])
def test_a_value_that_is_no_label_is_refused(value: Any) -> None:
    error = refused(how("nli", NLI), {"p": "A", "h": "B", "l": value})
    assert error.reason == "unknown_label"
    assert error.what.startswith("the label ")
    assert error.what.endswith(" is none of the labels")


CHOICE: dict[str, Columns] = {"question": "q", "choices": "c.text", "answer": "key"}


@pytest.mark.parametrize(("key", "right"), [("A", 0), ("C", 2), (0, 0), (2, 2), ("blue", 1), (" blue", 1)])
def test_a_choice_is_a_letter_a_position_or_the_text(key: Any, right: int) -> None:
    instance = how("multiple_choice", CHOICE).read(
        {"q": "?", "c": {"text": ["red", "blue", "green"]}, "key": key}, PLACE
    )
    assert (instance.options, instance.right) == (("red", "blue", "green"), right)
    assert instance.fields["answer"] == ("red", "blue", "green")[right]


def test_digits_are_only_counted_as_the_recipe_says() -> None:
    """ "1" may be the first choice or the second: no guess is made."""
    row = {"q": "?", "c": {"text": ["red", "blue"]}, "key": "1"}
    assert refused(how("multiple_choice", CHOICE), row).reason == "unknown_label"
    assert how("multiple_choice", CHOICE, ["1", "2"]).read(row, PLACE).right == 0
    assert how("multiple_choice", CHOICE, ["0", "1"]).read(row, PLACE).right == 1
    row["c"] = {"text": ["2", "1"]}
    assert how("multiple_choice", CHOICE).read(row, PLACE).right == 1


@pytest.mark.parametrize("key", [1, 1.0, "1", " 1"])
def test_what_the_recipe_says_of_choices_comes_before_texts_and_positions(key: Any) -> None:
    """A dataset that counts from 1, whose choices may be numbers themselves."""
    read = how("multiple_choice", CHOICE, ["1", "2", "3"])
    assert read.read({"q": "?", "c": {"text": ["red", "blue", "green"]}, "key": key}, PLACE).right == 0
    assert read.read({"q": "?", "c": {"text": ["3", "2", "1"]}, "key": key}, PLACE).right == 0
    assert refused(read, {"q": "?", "c": {"text": ["0", "4", "1"]}, "key": 0}).reason == "unknown_label"


def test_choices_may_stand_in_columns_of_their_own() -> None:
    read = how("multiple_choice", {"question": "q", "choices": ["c0", "c1"], "answer": "a"})
    assert read.read({"q": "?", "c0": "red", "c1": 7, "a": 1}, PLACE).options == ("red", "7")


@pytest.mark.parametrize(
    ("choices", "key", "reason"),
    [
        (["red", "blue"], "C", "unknown_label"),
        (["red", "blue"], -1, "unknown_label"),
        (["red", "blue"], True, "unknown_label"),
        (["red", "red"], 0, "bad_choices"),
        (["red"], 0, "bad_choices"),
        ([], 0, "empty_field"),
        (["red", " "], 0, "empty_field"),
        ("red", 0, "wrong_type"),
        (["red", ["x"]], 0, "wrong_type"),
    ],
)
def test_choices_that_cannot_be_used_are_refused(choices: Any, key: Any, reason: str) -> None:
    assert refused(how("multiple_choice", CHOICE), {"q": "?", "c": {"text": choices}, "key": key}).reason == reason


@pytest.mark.parametrize(
    "answers",
    [{"text": ["a", "b", "a"], "answer_start": [0, 1, 2]}, [{"text": "a"}, {"text": "b"}, {"text": "a"}]],
    ids=["as on the hub", "as in SQuAD's file"],
)
def test_a_path_leads_into_objects_and_through_lists(answers: Any) -> None:
    read = how("extractive_qa", {"context": "c", "question": "q", "answers": "answers.text"})
    assert read.read({"c": "ab", "q": "?", "answers": answers}, PLACE).fields["answers"] == ["a", "b"]


def test_a_column_may_have_a_dot_in_its_name() -> None:
    read = how("closed_book_qa", {"question": "q.text", "answers": "a"})
    assert read.read({"q.text": "?", "a": "x"}, PLACE).fields == {"question": "?", "answers": ["x"]}


def test_a_field_may_be_made_by_jinja_or_be_the_same_in_all_rows() -> None:
    read = how(
        "maths",
        {"question": "q", "answer": "{{ a.split('####')[1] }}", "rationale": "{{ a.split('####')[0] }}"},
    )
    assert read.read({"q": "?", "a": "1 + 1\n#### 2"}, PLACE).fields == {
        "question": "?",
        "answer": "2",
        "rationale": "1 + 1",
    }
    assert refused(read, {"q": "?", "a": "2"}).reason == "missing_field"
    marked = {"q": "?", "a": "48/2 = <<48/2=24>>24, so 24 < 25\n#### 24"}
    assert read.read(marked, PLACE).fields["rationale"] == "48/2 = 24, so 24 < 25"
    columns: dict[str, Columns] = {"source": "fr", "target": "en"}
    read = how("translation", columns, values={"source_language": "French", "target_language": "English"})
    assert read.read({"fr": "oui", "en": "yes"}, PLACE).fields["source_language"] == "French"


@pytest.mark.parametrize(
    ("value", "facts"),
    [
        ("a[1], b[2]", ["a[1], b[2]"]),
        (["rain", "sun"], ["rain", "sun"]),
        ([["Kyoto", "country", "Japan"], ["Kyoto", "rivers", 2]], ["Kyoto | country | Japan", "Kyoto | rivers | 2"]),
    ],
)
def test_facts_are_texts_or_triples(value: Any, facts: list[str]) -> None:
    assert how("data_to_text", {"facts": "f", "text": "t"}).read({"f": value, "t": "x"}, PLACE).fields["facts"] == facts


def test_entities_are_objects_pairs_or_two_columns() -> None:
    wanted = [{"text": "Kyoto", "type": "place"}]
    read = how("ner", {"text": "t", "entities": "e"})
    for value in ([{"text": "Kyoto", "type": "place", "start": 0}], [["Kyoto", "place"]]):
        assert read.read({"t": "x", "e": value}, PLACE).fields["entities"] == wanted
    assert read.read({"t": "x", "e": []}, PLACE).fields["entities"] == []
    columns = how("ner", {"text": "t", "entities": ["e.name", "e.kind"]})
    assert columns.read({"t": "x", "e": [{"name": "Kyoto", "kind": "place"}]}, PLACE).fields["entities"] == wanted
    assert refused(read, {"t": "x", "e": ["Kyoto"]}).reason == "wrong_type"
    assert refused(columns, {"t": "x", "e": {"name": ["a"], "kind": []}}).reason == "wrong_type"


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("row", "reason", "what", "fix"),
    [
        (
            {"premis": "A", "h": "B", "l": 0},
            "missing_field",
            "premise is read from 'premise', and there is no 'premise' among 'premis', 'h', 'l'",
            "did you mean 'premis'?",
        ),
        ({"premise": None, "h": "B", "l": 0}, "empty_field", "premise is empty", "correct the row or the mapping"),
        ({"premise": " \u3000", "h": "B", "l": 0}, "empty_field", "premise is empty", "correct the row or the mapping"),
        (
            {"premise": ["A"], "h": "B", "l": 0},
            "wrong_type",
            "premise is a list, not text",
            "correct the row or the mapping",
        ),
        (
            {"premise": True, "h": "B", "l": 0},
            "wrong_type",
            "premise is true, not text",
            "correct the row or the mapping",
        ),
        (
            {"premise": "A", "h": "B", "l": "entailed"},
            "unknown_label",
            "the label 'entailed' is none of the labels",
            "did you mean 'entailment'?",
        ),
    ],
)
def test_a_row_that_does_not_fit_gets_a_sentence(row: dict[str, Any], reason: str, what: str, fix: str) -> None:
    error = refused(how("nli", NLI | {"premise": "premise"}), row)
    assert (error.reason, error.what, error.fix) == (reason, what, fix)


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("shape", "columns", "values", "labels", "told"),
    [
        (
            "nli",
            {"premise": "a", "hypotesis": "b"},
            {},
            ["entailment", "netural", "contradiction"],
            [
                "fields hypotesis: the shape nli has no field 'hypotesis' -> did you mean 'hypothesis'?",
                "fields: the shape nli needs the field 'hypothesis' -> "
                "name its column: what may or may not follow from it",
                "fields: the shape nli needs the field 'label' -> "
                "name its column: whether it follows or stays open or is excluded",
                "labels: the shape nli has no label 'netural' -> did you mean 'neutral'?",
            ],
        ),
        (
            "topic",
            {"text": "a", "label": "b"},
            {},
            None,
            [
                "labels: in the shape topic each dataset has its own labels -> "
                "list the names of the labels 0, 1, ..., in the language of the prompts"
            ],
        ),
        (
            "topic",
            {"text": "a", "label": "b"},
            {},
            ["x"],
            ["labels: there is only one label -> name every label that the dataset uses"],
        ),
        (
            "summarisation",
            {"document": "a", "summary": "b"},
            {"summary": "c"},
            ["x"],
            [
                "values summary: 'summary' has both a column and a value -> leave one out",
                "labels: the shape summarisation has no labels -> take `labels` out",
            ],
        ),
        (
            "multiple_choice",
            {"question": ["a", "b"], "choices": ["c"], "answer": "{{ d }}"},
            {},
            {"x": "A"},
            [
                "fields question: 2 columns for a field of kind 'text' -> ONE_COLUMN",
                "fields choices: 1 columns for a field of kind 'choices' -> ONE_COLUMN",
                "fields answer: a Jinja text for a field of kind 'choice' -> ONE_COLUMN",
                "labels: the choices' names are a list -> write them in order: [A, B, C, D]",
            ],
        ),
        (
            "closed_book_qa",
            {"question": "{{ a", "answers": "b"},
            {},
            None,
            [
                "fields question: not a valid template, line 1 of the text: unexpected end of template, "
                "expected 'end of print statement'. -> ONE_COLUMN"
            ],
        ),
        (
            "ner",
            {"text": "a"},
            {"entities": "x"},
            None,
            ["values entities: 'entities' is not a text -> name its column under `fields`"],
        ),
    ],
)
def test_everything_wrong_with_a_mapping_is_told_at_once(
    shape: str, columns: dict[str, Columns], values: dict[str, str], labels: Any, told: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        how(shape, columns, labels, values)
    fix = "name one column; `choices` may have one for each, `entities` two, and a text may be made by Jinja"
    assert [f"{p.where}: {p.what} -> {p.fix}" for p in caught.value.problems] == [
        line.replace("ONE_COLUMN", fix) for line in told
    ]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "text", "type"]), inner),
    max_leaves=6,
)
READINGS = [
    how("nli", {"premise": "a", "hypothesis": "b", "label": "a.b"}),
    how("multiple_choice", {"question": "a", "choices": "b", "answer": "b.text"}),
    how("ner", {"text": "a", "entities": "b"}),
    how("ner", {"text": "a", "entities": ["b.text", "b.type"]}),
    how("data_to_text", {"facts": "a", "text": "{{ b }}"}),
    how("extractive_qa", {"context": "a", "question": "b", "answers": "a.text"}),
]


@pytest.mark.promise10
@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "a.b"]), anything))
def test_arbitrary_rows_are_read_or_refused(row: dict[str, Any]) -> None:
    for read in READINGS:
        with suppress(RowError):
            assert set(read.read(row, PLACE).fields) == set(read.columns)
