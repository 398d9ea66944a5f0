"""The novelty filter against rouge_score, with a pool of 50,000 texts.

    python -m bench.novelty [--pool 50000] [--candidates 1000] [--pairs 20000]

Two pools of real texts, filled up with variations of them in which up to half of the words are drawn anew, so that many
lie near the limit. `instructions`: the 175 seeds of Self-Instruct and its 252 user-oriented instructions (short, as
what a model proposes); `prompts`: what was rendered from P3. Each text is cut to its first 150 words, as the filters
before this one leave it. Candidates are made like the variations. The data: `SHINAN_TEST_DATA`.

Ours is timed end to end: candidate after candidate from its text to the decision, those that are new added to the pool.
rouge_score would take hours: it is timed on pairs of a candidate and a text of the pool, drawn at random, as the
reference calls it (`RougeScorer.score`, here in one process), and the mean multiplied by the size of the pool. The two
take turns in five blocks; the ratio is the median of the blocks'. Every pair that was timed is decided by both sides.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from bench.pairs import Row, save, table
from bench.workloads import data_folder
from shinan.core.errors import ShinanError
from shinan.scorers.novelty import LIMIT, Novelty

BLOCKS = 5
LONGEST = 150  # words: longer instructions are dropped before (self-instruct, bootstrap_instructions.py)
TARGET = 5_000.0


def main() -> None:
    """Time both sides on both pools, print a table, write bench/results/novelty.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=50_000, help="texts of the pool")
    parser.add_argument("--candidates", type=int, default=1_000, help="candidates that we decide on")
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs that rouge_score is timed on")
    chosen = parser.parse_args()
    rows, facts = [], {}
    try:
        for name, read in (("instructions", instructions), ("prompts", prompts)):
            known = list(dict.fromkeys(cut(text) for text in read(data_folder())))
            row, facts[name] = measure(name, known, chosen.pool, chosen.candidates, chosen.pairs)
            rows.append(row)
        path = save("novelty", rows, facts=facts)
    except ShinanError as error:
        sys.exit(str(error))
    print(json.dumps(facts), path, table(rows), sep="\n")


def measure(name: str, known: Sequence[str], size: int, candidates: int, pairs: int) -> tuple[Row, Mapping[str, Any]]:
    """One pool: the row of the results, and the facts behind it; `blocks` has seconds a candidate, ours and theirs."""
    draw = random.Random(0)
    texts = [*known[:size], *(varied(draw, known) for _ in range(size - len(known)))]
    asked = [varied(draw, known) for _ in range(candidates)]
    start = time.perf_counter()
    pool = Novelty(texts)
    built = time.perf_counter() - start
    scorer, blocks, new = RougeScorer(["rougeL"], use_stemmer=False), [], 0
    for block in range(BLOCKS):
        mine = asked[block::BLOCKS]
        start = time.perf_counter()
        new += sum(pool.admit(text) is None for text in mine)
        ours = (time.perf_counter() - start) / len(mine)
        drawn = [(draw.choice(mine), draw.choice(texts)) for _ in range(pairs // BLOCKS)]
        start = time.perf_counter()
        scores = [scorer.score(*pair)["rougeL"].fmeasure for pair in drawn]
        theirs = (time.perf_counter() - start) / len(drawn) * size
        compare(drawn, scores)
        blocks.append((ours, theirs))
        print(f"{name}, block {block + 1} of {BLOCKS}: {1000 * ours:.3f} ms and {theirs:.2f} s", file=sys.stderr)
    mine, theirs = (statistics.median(column) for column in zip(*blocks, strict=True))
    ratio = statistics.median(theirs / ours for ours, theirs in blocks)
    peer = f"rouge_score {version('rouge_score')}, extrapolated from {pairs} pairs"
    words = statistics.mean(len(text.split()) for text in texts)
    facts = {
        "texts": len(known),
        "words": words,
        "build_seconds": built,
        "new": new,
        "of": candidates,
        "blocks": blocks,
    }
    return Row(f"novelty, {size} {name}", "ms", 1000 * mine, 1000 * theirs, peer, ratio, TARGET, BLOCKS), facts


def compare(drawn: Sequence[tuple[str, str]], scores: Sequence[float]) -> None:
    """Raise ValueError if a pair is decided differently. Texts that rouge_score cannot read whole are left out."""
    for (text, other), score in zip(drawn, scores, strict=True):
        if (text + other).isascii() and (Novelty([other]).rival(text) is not None) != (score > LIMIT):
            raise ValueError(f"decided differently from rouge_score ({score}): {text!r} and {other!r}")


def instructions(data: Path) -> Iterator[str]:
    """Self-Instruct's seeds and its user-oriented instructions."""
    for name in ("seed_tasks.jsonl", "human_eval/user_oriented_instructions.jsonl"):
        for line in (data / "self_instruct" / name).read_text("utf-8").splitlines():
            yield json.loads(line)["instruction"]


def prompts(data: Path) -> Iterator[str]:
    """Prompts that were rendered from P3."""
    for path in sorted((data / "p3" / "rendered").glob("*.gz")):
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines():
            yield json.loads(line)["prompt"]


def cut(text: str) -> str:
    """The first 150 words."""
    return " ".join(text.split()[:LONGEST])


def varied(draw: random.Random, known: Sequence[str]) -> str:
    """One of the texts, up to half of its words drawn from others."""
    words = draw.choice(known).split() or ["."]
    for _ in range(draw.randrange(1 + len(words) // 2)):
        words[draw.randrange(len(words))] = draw.choice(draw.choice(known).split() or ["."])
    return " ".join(words)


if __name__ == "__main__":
    main()
