"""Novelty: the same decisions as the slow rule, whatever the texts; and as rouge_score, where that can read them."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from shinan.core.text import words
from shinan.scorers import novelty
from shinan.scorers.novelty import Novelty, Similar

REFERENCE = RougeScorer(["rougeL"], use_stemmer=False)
TOKENIZER = DefaultTokenizer(use_stemmer=False)
ASCII = st.text(string.printable, max_size=60)
# Few words, so that texts are alike; with repeats, unspaced scripts, and texts without a word.
TEXTS = st.lists(st.sampled_from(["a", "B", "c", "d,", "e", "猫", "が", "é", "🙂", "_"]), max_size=12).map(" ".join)


def common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, cell by cell."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def f(a: str, b: str) -> float:
    """ROUGE-L by its definition."""
    left, right = words(a), words(b)
    length = common(left, right)
    if not length:
        return 0.0
    precision, recall = length / len(right), length / len(left)
    return 2 * precision * recall / (precision + recall)


def slow(texts: list[str], limit: float = 0.7) -> list[str]:
    """The texts that the rule accepts, in order, each held against all accepted before."""
    accepted: list[str] = []
    for text in texts:
        if max((f(text, other) for other in accepted), default=0.0) <= limit:
            accepted.append(text)
    return accepted


def is_near(found: Similar | None, text: str, value: float) -> bool:
    """Whether this text was found, with about this value."""
    return found is not None and found.text == text and found.f == pytest.approx(value)


@given(st.lists(TEXTS, max_size=25), st.sampled_from([0.2, 0.5, 0.7, 0.9]), st.sampled_from([0, 3, 512]))
def test_decides_as_the_slow_rule_text_after_text(texts: list[str], limit: float, common: int) -> None:
    """Also where words are common enough to be left out of the count."""
    pool = Novelty(limit=limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty, "_COMMON", common)
        assert [text for text in texts if pool.admit(text) is None] == slow(texts, limit)


@given(st.lists(TEXTS, max_size=15), TEXTS)
def test_the_rival_is_the_most_similar_text_and_the_first_among_equals(texts: list[str], text: str) -> None:
    similar = [Similar(other, f(text, other)) for other in texts]
    best = max(similar, key=lambda each: each.f, default=Similar("", 0.0))
    pool = Novelty(texts)
    assert pool.rival(text) == (best if best.f > 0.7 else None)
    assert pool.most_similar(text, 4) == sorted(similar, key=lambda each: -each.f)[:4]
    assert pool.similarities(text).tolist() == [each.f for each in similar]


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_can_be_asked_for(first: str, second: str) -> None:
    pool = Novelty([first])
    assert (pool.admit(second) is not None) == (f(second, first) > 0.7)


@given(ASCII)
def test_words_of_ascii_are_those_of_rouge_score(text: str) -> None:
    assert words(text) == TOKENIZER.tokenize(text)


@given(st.lists(ASCII, max_size=6), ASCII)
def test_values_are_those_of_rouge_score_to_the_last_bit(texts: list[str], text: str) -> None:
    expected = [REFERENCE.score(text, other)["rougeL"].fmeasure for other in texts]
    assert Novelty(texts).similarities(text).tolist() == expected


def test_decides_as_rouge_score_on_the_published_seeds(data: Path) -> None:
    """Variations of real instructions, many of them near the limit."""
    lines = (data / "self_instruct" / "seed_tasks.jsonl").read_text("utf-8").splitlines()
    seeds = [json.loads(line)["instruction"] for line in lines]
    seeds = [seed for seed in seeds if len(seed) < 120][:40]
    draw = random.Random(0)
    pool, accepted, rejected = Novelty(seeds), list(seeds), 0
    for _ in range(150):
        changed = draw.choice(seeds).split()
        for _ in range(draw.randrange(1, 1 + len(changed) // 2)):
            changed[draw.randrange(len(changed))] = draw.choice(draw.choice(seeds).split())
        text = " ".join(changed)
        new = max(REFERENCE.score(text, other)["rougeL"].fmeasure for other in accepted) <= 0.7
        assert (pool.admit(text) is None) == new, text
        accepted += [text] if new else []
        rejected += not new
    assert 30 < rejected < 120  # the test decides both ways


def test_exactly_the_limit_is_new() -> None:
    """7 of 10 words, which is 0.7 in the reference's rounding; 8 of 10 is more."""
    ten = "a b c d e f g h i j"
    assert Novelty([ten]).rival("a b c d e f g x y z") is None
    assert is_near(Novelty([ten]).rival("a b c d e f g h y z"), ten, 0.8)


def test_japanese_instructions_are_compared() -> None:
    first, second = "次の文章を英語に翻訳してください。", "次の文章を英語に訳してください。"
    assert REFERENCE.score(second, first)["rougeL"].fmeasure == 0  # what it cannot read is always new
    pool = Novelty([first])
    assert is_near(pool.rival(second), first, 30 / 31)  # 15 characters of 16 and 15
    assert pool.rival("この詩の作者について説明してください。") is None


def test_a_later_candidate_is_held_against_an_earlier_one() -> None:
    pool = Novelty(["Name a bird."])
    assert pool.admit("Describe how a bicycle works.") is None
    assert pool.admit("Describe how a bicycle works!") == Similar("Describe how a bicycle works.", 1.0)
    assert len(pool) == 2


def test_common_words_are_only_left_out_where_that_cannot_matter() -> None:
    """More texts than the index counts a common word for: the word still tells near duplicates apart."""
    pool = Novelty([f"please name the {n} best things" for n in range(700)])
    nearest = "please name the 0 best things"
    assert is_near(pool.rival("please name the thirty best things"), nearest, 5 / 6)
    assert pool.rival("please name the") is None  # 3 of 3 and 6 words: 2/3
    assert is_near(pool.rival("please name the best things now"), nearest, 5 / 6)
    assert pool.rival("please the things") is None


def test_words_beyond_the_surrogates_are_told_apart() -> None:
    """Each word is one character inside; a pool of 60,000 words needs those that no text may hold."""
    texts = [" ".join(f"w{n + i}" for i in range(6)) for n in range(0, 60_000, 6)]
    pool = Novelty(texts)
    for text in texts[9_100:9_600:50]:  # around U+D800 to U+DFFF
        assert pool.rival(text) == Similar(text, 1.0)
    assert pool.rival(" ".join(f"w{n}" for n in range(3, 60_000, 9_000))) is None


def test_an_empty_pool_and_texts_without_words() -> None:
    pool = Novelty()
    assert pool.rival("anything") is None
    assert pool.most_similar("anything") == []
    assert np.array_equal(pool.similarities("anything"), np.empty(0))
    assert pool.admit("!?") is None
    assert pool.admit("!?") is None  # a text without words is never a duplicate
