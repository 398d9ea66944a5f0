"""ROUGE-L against rouge_score, and its extension beyond ASCII."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from shinan.core.errors import ConfigError
from shinan.core.example import Example, user
from shinan.core.registry import bind
from shinan.core.score import Score
from shinan.scorers.rouge import published_tokens, rouge_l, rouge_of, unicode_tokens

REFERENCE = RougeScorer(["rougeL"], use_stemmer=True)
TOKENIZER = DefaultTokenizer(use_stemmer=True)


def item(*targets: str) -> Example:
    return Example((user("?"),), targets=targets)


def same(score: Score, target: str, reply: str) -> bool:
    expected = REFERENCE.score(target, reply)["rougeL"]
    mine: tuple[Any, ...] = (score.parts["precision"], score.parts["recall"], score.value)
    return mine == tuple(expected)


def test_by_hand() -> None:
    # common: the cat on the mat (5) of 6 predicted and 7 wanted words
    score = rouge_l()(item("The cat is on the mat today."), "the cat sat on the mat")
    assert score.parts == {"precision": 5 / 6, "recall": 5 / 7}
    assert score.value == pytest.approx(10 / 13)
    assert score.by == "rouge_l"


def test_order_counts_and_stems_are_compared() -> None:
    assert rouge_l()(item("dogs running"), "Running dog").value == 0.5
    assert rouge_l()(item("dogs running"), "DOGS runs!").value == 1
    assert rouge_l()(item("gas"), "ga").value == 0  # three letters are not stemmed


@pytest.mark.promise6
@pytest.mark.parametrize("name", ["text-davinci-003", "davinci-superni-ft"])
def test_equals_rouge_score_on_published_predictions(data: Path, name: str) -> None:
    path = data / "self_instruct" / "human_eval" / "predictions" / f"{name}_predictions.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    rows = [row for row in rows if len(row["target"]) * len(row["response"]) < 40_000]  # the reference is slow
    assert len(rows) > 100
    for row in rows:
        score = rouge_l(tokens="published")(item(row["target"]), row["response"])
        assert same(score, row["target"], row["response"]), row["instruction"]


@pytest.mark.promise6
def test_equals_rouge_score_on_random_texts() -> None:
    rng = random.Random(0)
    vocabulary = ["the", "cats", "Cat", "run-running", "ran,", "generally", "$3.50", "a_b", "don't", "ties", "\n", "!"]
    for _ in range(1_000):
        reply, target = (" ".join(rng.choices(vocabulary, k=rng.randrange(12))) for _ in range(2))
        assert same(rouge_l()(item(target), reply), target, reply), (reply, target)


@given(st.text())
def test_published_tokens_of_any_text(text: str) -> None:
    assert published_tokens(text) == TOKENIZER.tokenize(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_unicode_tokens_equal_the_published_ones_on_ascii(text: str) -> None:
    assert unicode_tokens(text) == TOKENIZER.tokenize(text)


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_swapping_sides_swaps_precision_and_recall(left: list[str], right: list[str]) -> None:
    one, other = rouge_of(left, right), rouge_of(right, left)
    assert (one.precision, one.recall) == (other.recall, other.precision)
    assert one.f == pytest.approx(other.f)
    assert 0 <= one.f <= 1
    assert rouge_of(left, left).f == float(bool(left))


def test_other_scripts_are_scored() -> None:
    target = "東京は日本の首都です。"
    assert rouge_l()(item(target), target).value == 1
    # 日本の首都は東京です: common 日本の首都です (7) of 10 characters on each side
    assert rouge_l()(item(target), "日本の首都は東京です").value == pytest.approx(0.7)
    assert rouge_l()(item("это кошка"), "кошка").value == pytest.approx(2 / 3)
    assert rouge_l()(item("हिन्दी में"), "हिन्दी").value == pytest.approx(2 / 3)
    assert rouge_l()(item("１２３"), "123").value == 1
    assert rouge_l(tokens="published")(item(target), target).value == 0


def test_auto_stays_with_the_published_tokens_where_only_symbols_are_not_ascii() -> None:
    target, reply = "“Acme™” costs 3² dollars…", "Acme costs 3 dollars"
    assert same(rouge_l()(item(target), reply), target, reply)
    assert rouge_l()(item(target), reply).value == 1
    assert rouge_l(tokens="unicode")(item(target), reply).value == 0.5  # acmetm, 32


def test_one_foreign_side_is_enough_for_unicode_words() -> None:
    assert rouge_l()(item("Tokyo"), "東京 Tokyo").value == pytest.approx(0.5)


def test_the_best_target_counts() -> None:
    score = rouge_l()(item("red", "green apple", "blue"), "a green apple")
    assert score.parts == {"precision": 2 / 3, "recall": 1}


def test_no_word_on_a_side_is_zero_and_no_target_is_none() -> None:
    assert rouge_l()(item("yes"), " ...").value == 0
    assert rouge_l()(item("?"), "yes").value == 0
    score = rouge_l()(item(), "anything")
    assert score.value is None
    assert score.explanation == "the example has no target to compare with"


def test_registered_with_its_parameter() -> None:
    assert bind("scorer", "rouge_l", {}).identity()["with"] == {"tokens": "auto"}
    assert bind("scorer", "rouge_l", {"tokens": "unicode"})()(item("a"), "a").value == 1
    with pytest.raises(ConfigError, match="tokens"):
        bind("scorer", "rouge_l", {"tokens": "bpe"})
