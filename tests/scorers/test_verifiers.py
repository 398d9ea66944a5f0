"""For each verifier, replies that follow it and replies that do not, judged by hand from the rule in its docstring."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.errors import ConfigError, DataError
from shinan.core.example import Example, user
from shinan.core.registry import bind, lookup, names
from shinan.scorers.verifiers import constraints, verify

Case = tuple[str, dict[str, Any], list[str], list[str]]


def count(relation: str, n: int) -> dict[str, Any]:
    return {"relation": relation, "n": n}


CASES: list[Case] = [
    (
        "word_count",
        count("exactly", 3),
        ["It's well-known – indeed!", "  one\ntwo three ", "- a b\n2. c"],
        ["a b", "a b c d"],
    ),
    ("word_count", count("at most", 2), ["one, two", "3.5 km", "猫だ"], ["one two three", "猫が鳴"]),
    ("word_count", count("at least", 4), ["AI は便利"], ["AI の本"]),
    ("char_count", count("exactly", 3), ["猫だ。", "a b\nc", "e\u0301 か\u3099 x", "हिंदम"], ["猫だ", "a.b.c"]),
    ("char_count", count("at most", 5), ["12345", "a  b  c"], ["123456"]),
    (
        "sentence_count",
        count("exactly", 2),
        [
            "Yes. No!",
            'He said "Stop!" Then he went.',
            "Dr. Ames paid 3.50 for tea, e.g. for green tea. Good?",
            "No full stop here\nnor here",
            "1. Fill it.\n2. Boil it.",
            "雨だ。雪もだ！？",
            "「行こう。」と言った。帰った",
            "**Done.** Next",
        ],
        ["One sentence, no more.", "A. B. C.", "雨だ", "「はい。」"],
    ),
    ("sentence_count", count("at most", 1), ["Is it 1.5 or 2.5?", "「はい。」"], ["Well... Maybe."]),
    ("paragraph_count", count("exactly", 2), ["a\nb\n\nc", "\n\na\n \n\n\nb\n"], ["a\nb", "a\n\nb\n\nc"]),
    ("line_count", count("at least", 2), ["a\n\nb"], ["a\n\n \n"]),
    (
        "contains_words",
        {"words": ["Rinse", "hot water"]},
        ["rinse it; Hot, water too", "ＲＩＮＳＥ in hot\nwater"],
        ["rinsed in hot water", "rinse in hot tap water", "rinse"],
    ),
    ("contains_words", {"words": ["AI", "雨"]}, ["AIが雨を読む"], ["MAIと雨", "AI"]),
    ("forbidden_words", {"words": ["war", "雨"]}, ["warm software", "雪"], ["War, peace", "大雨", "the war-cry"]),
    (
        "word_frequency",
        {"word": "tea", **count("exactly", 2)},
        ["Tea? Tea!", "tea-time teas tea"],
        ["tea", "tea tea tea"],
    ),
    ("word_frequency", {"word": "豆", **count("at most", 1)}, ["豆腐"], ["納豆と豆腐"]),
    ("unique_words", {}, ["The sea sleeps.", "いろは"], ["The sea, the sky", "ここ", "..."]),
    ("longest_word", {"n": 4}, ["it's well-made gold", "猫猫猫猫猫"], ["gold coins", "!!!"]),
    ("starts_with", {"text": "Dear Tomas,"}, ["\n Dear Tomas,\nno"], ["dear Tomas, no", "Oh, Dear Tomas,"]),
    ("starts_with", {"text": "が"}, ["か\u3099んばれ"], ["かんばれ"]),
    ("ends_with", {"text": "than water."}, ["lighter than water. \n"], ["lighter than water", "than water. Yes"]),
    ("no_commas", {}, ["a; b. c"], ["a, b", "雨、雪", "a，b", "١، ٢"]),
    ("no_digits", {}, ["three, 三, IV"], ["3", "３", "x²", "①", "٣"]),
    ("all_lowercase", {}, ["a b, 1 é ß 猫"], ["A b", "1 2", "猫", "ǅ a"]),
    ("all_uppercase", {}, ["WET FLOOR 1, É"], ["WET Floor", "1!", "猫"]),
    (
        "title_case",
        {},
        ["The Cat and the 3 Mice of York", "Day-to-Day Life", '"Tea in Ōsaka"', "Ein Tag"],
        ["The cat Sleeps", "A Place to Go to", "and So It Goes", "THE CAT", "猫", "the Cat"],
    ),
    (
        "language",
        {"language": "fr"},
        ["Le magasin est fermé."],
        ["The shop is closed.", "Fermé!", "El gato es de la casa."],
    ),
    ("language", {"language": "ja"}, ["駅はどこですか。"], ["车站在哪里？", "Where is it?", "..."]),
    (
        "valid_json",
        {},
        ["[1, null]", '"a"', '```json\n{"a": 1}\n```', "```\n3\n```"],
        ["{'a': 1}", "NaN", "Here: [1]", "[1,]"],
    ),
    (
        "valid_json",
        {"required": {"a": "integer", "b": "boolean", "c": "list", "d": "any", "e": "number"}},
        ['{"a": 1, "b": false, "c": [], "d": null, "e": 1, "f": 0}', '{"a":-2,"b":true,"c":[1],"d":{},"e":0.5}'],
        [
            '{"a": true, "b": false, "c": [], "d": 1, "e": 1}',
            '{"a": 1.0, "b": false, "c": [], "d": 1, "e": 1}',
            '{"a": 1, "b": 0, "c": [], "d": 1, "e": 1}',
            '{"a": 1, "b": true, "c": {}, "d": 1, "e": "1"}',
            '{"a": 1, "b": true, "c": [], "e": 1}',
            "[1]",
        ],
    ),
    (
        "valid_json",
        {"required": {"a": "null", "b": "object", "c": "string"}},
        ['{"a":null,"b":{},"c":""}'],
        ['{"a":0,"b":{},"c":""}'],
    ),
    (
        "json_list_of",
        {"n": 2, "of": "string"},
        ['["a", "b"]', '```json\n["a",\n"b"]\n```'],
        ['["a"]', '["a", 2]', '{"a": "b"}', "a, b"],
    ),
    ("json_list_of", {"n": 2}, ["[1, [2]]"], ["[]"]),
    (
        "bullet_count",
        count("exactly", 2),
        ["List:\n- a\n  * b", "・米\n・豆", "• a\n\n+ b"],
        ["- a", "-a\n-b", "- a\n- b\n- c", "---\n---"],
    ),
    ("bullet_count", count("at least", 1), ["* a\n* b"], ["1. a"]),
    (
        "numbered_list",
        {"n": 2},
        ["So:\n1. a\n2) b", "1．米\n2．豆", "1、米\n２、豆", "1. a\n3.5 km\n2. b", f"1. a\n{'9' * 5000}. b\n2. c"],
        ["1. a", "2. a\n1. b", "1. a\n1. b", "1. a\n2. b\n3. c"],
    ),
    (
        "table_columns",
        {"n": 2},
        ["Here:\n| a | b |\n|---|:-:|\n| 1 | 2\\|3 |\n", "|a|b|\n|-|-|\n|1||\n|2|3|"],
        [
            "| a | b |\n|---|---|",
            "| a | b |\n| 1 | 2 |\n| 3 | 4 |",
            "|a|b|c|\n|-|-|-|\n|1|2|3|",
            "|a|b|\n|-|-|\n|1|",
            "a | b",
        ],
    ),
    ("table_columns", {"n": 1, "rows": 1}, ["|a|\n|-|\n|1|"], ["|a|\n|-|\n|1|\n|2|", "|a|\n|-|"]),
    (
        "headings",
        {"texts": ["Food", "Safety"]},
        ["# Food\na\n### Safety ##\nb"],
        ["# Food", "# Safety\n# Food", "#Food\n#Safety", "# Food\n## x\n# Safety"],
    ),
    ("headings", {"texts": ["C#"]}, ["# C#", "# C# ##", "#  C# "], ["# C", "# C #"]),
    ("quoted", {}, ['"Go."', " “Go.” ", "「行こう」", "„Los“", "«Va»"], ["Go.", '"Go." he said', '“Go."', '""']),
    ("each_line_starts_with", {"text": "[ ]"}, ["[ ] a\n\n  [ ] b"], ["[ ] a\n[x] b", "To do:\n[ ] a"]),
    (
        "acrostic",
        {"word": "RAIN"},
        ["Rust\n\nand\n **i**ce\n- no"],
        ["Rust\nand\nice", "Rust\nand\nice\nno\nno", "rain"],
    ),
    ("acrostic", {"word": "さくら"}, ["さむい\nくもる\n「らっぱ」"], ["さむい\nくもる\nるす"]),
    ("sorted_lines", {}, ["ant\nBee\ncat", "- a\n- a\n- b", "あめ\nかさ"], ["bee\nant", "ant"]),
    ("regex_full", {"pattern": r"\d{2}:\d{2}"}, [" 00:05\n"], ["0:05", "At 00:05", "00:051"]),
]


@pytest.mark.parametrize(("name", "args", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_the_rule(name: str, args: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    constraint = {"verifier": name, "args": args}
    assert [reply for reply in right if not verify(constraint, reply)] == []
    assert [reply for reply in wrong if verify(constraint, reply)] == []


def test_every_verifier_has_cases_and_a_rule() -> None:
    assert {case[0] for case in CASES} == set(names("verifier"))
    assert all(lookup("verifier", name).summary.endswith((".", "»", "」.", "』.")) for name in names("verifier"))


@pytest.mark.parametrize(("name", "args"), [case[:2] for case in CASES])
def test_an_empty_reply_follows_nothing(name: str, args: dict[str, Any]) -> None:
    assert not verify({"verifier": name, "args": args}, "")
    assert not verify({"verifier": name, "args": args}, " \n\u3000")


@given(reply=st.text(), n=st.integers(0, 9), name=st.sampled_from(["word_count", "char_count", "sentence_count"]))
def test_exactly_is_at_least_and_at_most(reply: str, n: int, name: str) -> None:
    least, most, exact = (
        verify({"verifier": name, "args": count(relation, n)}, reply) for relation in ("at least", "at most", "exactly")
    )
    assert exact == (least and most)
    assert least or most or not reply.strip()


@given(reply=st.text())
def test_no_reply_breaks_a_verifier(reply: str) -> None:
    for name, args, _, _ in CASES:
        verify({"verifier": name, "args": args}, reply)


@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_what_json_writes_is_json(value: object) -> None:
    assert verify({"verifier": "valid_json", "args": {}}, json.dumps(value, ensure_ascii=False))


def test_json_that_python_cannot_hold_is_no_json() -> None:
    assert not verify({"verifier": "valid_json", "args": {}}, "[" * 100_000 + "]" * 100_000)
    assert not verify({"verifier": "valid_json", "args": {}}, "1" * 5000)


# --- mistakes


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("constraint", "sentence"),
    [
        (
            {"verifier": "no_comas", "args": {}},
            "row 3 no_comas: no verifier is named 'no_comas'\n  do this: did you mean 'no_commas'?",
        ),
        (
            {"verifier": "word_count", "args": {"n": 3, "relatoin": "at most"}},
            "row 3 word_count relatoin: unknown key 'relatoin'\n  do this: did you mean 'relation'?",
        ),
        (
            {"verifier": "word_count", "args": {"relation": "at most"}},
            "row 3 word_count n: 'n' is missing\n  do this: add it",
        ),
        (
            {"verifier": "word_count", "args": {"relation": "below", "n": 3}},
            "Input should be 'at least', 'at most' or 'exactly' (got 'below')",
        ),
        (
            {"verifier": "word_count", "args": {"relation": "at most", "n": -1}},
            "row 3 word_count n: Input should be greater than or equal to 0",
        ),
        (
            {"verifier": "word_count", "args": {"relation": "at most", "n": "3"}},
            "row 3 word_count n: Input should be a valid integer",
        ),
        (
            {"verifier": "contains_words", "args": {"words": []}},
            "row 3 contains_words words: List should have at least 1 item",
        ),
        ({"verifier": "contains_words", "args": {"words": ["?!"]}}, "'?!' holds no letter or digit to look for"),
        (
            {"verifier": "starts_with", "args": {"text": "- "}},
            "'- ' is empty or has blanks at an end, which are not compared",
        ),
        (
            {"verifier": "regex_full", "args": {"pattern": "(a"}},
            "'(a' is not a regular expression: missing ), unterminated subpattern",
        ),
        (
            {"verifier": "no_commas", "arguments": {}},
            "row 3: a constraint has a verifier and its args, and nothing else\n  do this: write it like",
        ),
        ({"args": {}}, "a constraint has a verifier and its args, and nothing else"),
        ({"verifier": "no_commas", "args": []}, "a constraint has a verifier and its args, and nothing else"),
    ],
)
def test_a_mistake_is_told(constraint: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        verify(constraint, "a reply", where="row 3")


# --- the scorer


def item(tag: str) -> Example:
    return Example((user("?"),), tags={"constraints": tag})


def test_the_scorer_says_whether_all_are_followed_and_which_share() -> None:
    asked = json.dumps([{"verifier": "no_commas", "args": {}}, {"verifier": "longest_word", "args": {"n": 4}}])
    score = bind("scorer", "constraints", {})()
    good, half, none = (score(item(asked), reply) for reply in ("all good", "well, good", "well, complicated"))
    assert (good.value, good.parts, good.explanation) == (1, {"share": 1}, "all followed")
    assert (half.value, half.parts, half.explanation) == (0, {"share": 0.5}, "not followed: no_commas")
    assert (none.value, none.parts, none.explanation) == (0, {"share": 0}, "not followed: no_commas, longest_word")
    assert good.by == "constraints"


def test_an_example_without_constraints_has_no_score() -> None:
    score = constraints()(Example((user("?"),)), "x")
    assert (score.value, score.explanation) == (None, "the example has no constraints")


@pytest.mark.promise10
@pytest.mark.parametrize("tag", ["", "[]", "{}", "[1]", "no_commas"])
def test_a_damaged_tag_is_told(tag: str) -> None:
    with pytest.raises(DataError) as caught:
        constraints()(item(tag), "x")
    assert str(caught.value).startswith(
        "memory#0: the tag 'constraints' is not a JSON list of constraints\n  do this: "
    )


@pytest.mark.promise10
def test_a_wrong_constraint_is_told_with_its_row() -> None:
    with pytest.raises(ConfigError, match="memory#0 no_comma: no verifier is named 'no_comma'"):
        constraints()(item('[{"verifier": "no_comma", "args": {}}]'), "x")
