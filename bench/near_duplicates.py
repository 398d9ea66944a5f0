"""Near-duplicate removal against datasketch and rensa: rows a second, and what is found.

    python -m bench.near_duplicates [--rows 20000] [--rounds 5]

Real texts: instances of Super-NaturalInstructions, GSM8K and P3's rendered prompts, input and answer as one text, in a
random order. After about every seventh stands a copy of an earlier one with some words replaced, left out or put in, up
to one in twelve. What is near is a Jaccard similarity of at least 0.8 of the sets of three-word shingles.

Each side goes from texts to which rows are dropped, in a process of its own with one thread; the sides take turns.
Words are `core.text.words` for all; the others get sets of strings, as their manuals have it. CPU seconds are counted,
those of making shingles apart; ours are those that `scorers.shingles` takes. datasketch: 128 permutations and its LSH,
a MinHash made for each row, or all from its generator, which is faster. rensa: its two deduplicators and the `rho`
pipeline of its own benchmark with 8 bands, which flags all that are alike and does not say which to keep.

Right is what comparing every two rows decides, here by counting shared shingles: a row is dropped if a kept one is
near. `recall`: of the rows that are rightly dropped, how many a side drops; `precision`: of those that it drops, how
many rightly. Ours must be right in every row, else the bench ends.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bench.novelty import prompts
from bench.pairs import Result, Row, child, rows, save, table
from bench.workloads import data_folder
from shinan.core.errors import ShinanError
from shinan.core.text import normalise, words
from shinan.scorers.nearness import BLOCK, near_duplicates
from shinan.scorers.shingles import shingles

N, THRESHOLD, PERMUTATIONS = 3, 0.8, 128
TARGETS = {"datasketch": 10.0, "datasketch-generator": 10.0, "rensa-r": 1.0, "rensa-c": 1.0, "rensa-rho": 1.0}
S = TypeVar("S")
_ONE = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Timed(NamedTuple):
    """The CPU seconds of making shingles and of all after it, and whether each row is dropped."""

    making: float
    judging: float
    dropped: list[bool]


Side = Callable[[Sequence[str]], Timed]


def main() -> None:
    """Run all sides in turn, print a table, write bench/results/near-duplicates.json; with --side, run one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="texts, copies included")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs")
    parser.add_argument("--side", choices=SIDES, help="one side alone: a JSON line of what it took and dropped")
    chosen = parser.parse_args()
    try:
        data = texts(data_folder(), chosen.rows)
        if chosen.side:
            print(json.dumps(measured(SIDES[chosen.side], data)))
            return
        path, made = compare(data, chosen.rounds)
    except ShinanError as error:
        sys.exit(str(error))
    print(path, table(made), sep="\n")


def compare(data: Sequence[str], rounds: int) -> tuple[Path, list[Row]]:
    """All sides in turn, and their rows."""
    right = by_counting(data)
    results: dict[str, list[Result]] = {name: [] for name in SIDES}
    for number in range(1, rounds + 1):
        for name, mine in results.items():
            command = [sys.executable, "-m", "bench.near_duplicates", "--side", name, "--rows", str(len(data))]
            mine.append(judged(child(command, **_ONE), right))
            print(f"round {number} of {rounds}, {name}: {mine[-1]}", file=sys.stderr)
    if any(result["recall"] < 1 or result["precision"] < 1 for result in results["shinan"]):
        raise ValueError("decided differently from comparing every two rows")
    made = []
    for name, target in TARGETS.items():
        peer = f"{name} {version(name.partition('-')[0])}"
        targets = {"rows_per_second": target, "judged_per_second": None, "recall": 1.0, "precision": None}
        both = list(zip(results["shinan"], results[name], strict=True))
        made += rows(f"near-duplicates, {len(data)} texts", both, peer, targets)
    facts = {
        "words": sum(len(words(text)) for text in data) / len(data),
        "dropped": sum(right),
        "results": results,
    }
    return save("near-duplicates", made, facts=facts), made


def measured(side: Side, data: Sequence[str]) -> Result:
    """Rows a second of one side, and the places of the rows that it drops."""
    took = side(data)
    return {
        "rows_per_second": len(data) / (took.making + took.judging),
        "judged_per_second": len(data) / took.judging,
        "dropped": [place for place, drop in enumerate(took.dropped) if drop],
    }


def judged(result: Result, right: Sequence[bool]) -> Result:
    """The result with recall and precision in place of what was dropped."""
    dropped = result.pop("dropped")
    hits = sum(right[place] for place in dropped)
    return result | {"recall": hits / max(sum(right), 1), "precision": hits / max(len(dropped), 1)}


def by_counting(data: Sequence[str]) -> list[bool]:
    """Which rows are near an earlier one that is kept, by counting the shingles that they share with each."""
    having: dict[str, list[int]] = {}
    sizes: dict[int, int] = {}
    dropped = []
    for place, mine in enumerate(strings(data)):
        shared: Counter[int] = Counter()
        for shingle in mine:
            shared.update(having.get(shingle, ()))
        near = any(count / (len(mine) + sizes[other] - count) >= THRESHOLD for other, count in shared.items())
        dropped.append(near)
        if not near:
            sizes[place] = len(mine)
            for shingle in mine:
                having.setdefault(shingle, []).append(place)
    return dropped


def texts(data: Path, size: int) -> list[str]:
    """The first `size` of real texts in a random order, with copies that differ in some words."""
    draw = random.Random(0)
    known = [*_instances(data), *_problems(data), *prompts(data)]
    draw.shuffle(known)
    made: list[str] = []
    for text in known:
        made.append(text)
        if draw.random() < 0.15:
            made.append(edited(draw, draw.choice(made), known))
    return made[:size]


def edited(draw: random.Random, text: str, known: Sequence[str]) -> str:
    """The text with up to one word in twelve, and one at least, replaced, left out or put in."""
    split = text.split()
    for _ in range(1 + draw.randrange(1 + len(split) // 12)):
        place = draw.randrange(max(len(split), 1))
        out, put = draw.choice([(1, 1), (1, 0), (0, 1)])
        split[place : place + out] = [draw.choice(draw.choice(known).split() or ["."])] * put
    return " ".join(split)


def _instances(data: Path) -> Iterator[str]:
    for path in sorted((data / "super_natural_instructions" / "tasks").glob("*.gz")):
        for instance in json.loads(gzip.decompress(path.read_bytes()))["Instances"]:
            output = instance["output"]
            yield f"{instance['input']}\n\n{output if isinstance(output, str) else output[0]}"


def _problems(data: Path) -> Iterator[str]:
    for name in ("train", "test"):
        for line in gzip.decompress((data / "gsm8k" / f"{name}.jsonl.gz").read_bytes()).decode("utf-8").splitlines():
            problem: Mapping[str, Any] = json.loads(line)
            yield f"{problem['question']}\n\n{problem['answer']}"


def strings(data: Sequence[str]) -> list[list[str]]:
    """The shingles of each text, each once, in their order (rho looks at it); of a text without any its normal form."""
    return [list(dict.fromkeys(_shingles(words(text)))) or [normalise(text)] for text in data]


def _shingles(found: Sequence[str]) -> list[str]:
    return [" ".join(found[place : place + N]) for place in range(len(found) - N + 1)]


def shinan(data: Sequence[str]) -> Timed:
    """Ours; its shingles are made once more to know what they take of it."""
    start = time.process_time()
    found = near_duplicates([{"": text} for text in data], threshold=THRESHOLD, n=N)
    done = time.process_time()
    for first in range(0, len(data), BLOCK):
        shingles(data[first : first + BLOCK], N)
    making = time.process_time() - done
    return Timed(making, done - start - making, [near is not None for near in found])


def datasketch(data: Sequence[str]) -> Timed:
    """A MinHash for each row."""
    from datasketch import MinHash

    def sketched(sets: Sequence[Sequence[bytes]]) -> Iterator[Any]:
        for each in sets:
            sketch = MinHash(num_perm=PERMUTATIONS)
            sketch.update_batch(each)
            yield sketch

    return _stopped(_encoded, lambda sets: _by_lsh(sketched(sets)), data)


def datasketch_generator(data: Sequence[str]) -> Timed:
    """All from the generator, which draws the permutations once."""
    from datasketch import MinHash

    return _stopped(_encoded, lambda sets: _by_lsh(MinHash.generator(sets, num_perm=PERMUTATIONS)), data)


def _encoded(data: Sequence[str]) -> list[list[bytes]]:
    return [[shingle.encode("utf-8", "surrogatepass") for shingle in each] for each in strings(data)]


def _by_lsh(sketches: Iterable[Any]) -> list[bool]:
    from datasketch import MinHashLSH

    index, dropped = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS), []
    for place, sketch in enumerate(sketches):
        dropped.append(bool(index.query(sketch)))
        if not dropped[-1]:
            index.insert(place, sketch, check_duplication=False)
    return dropped


def rensa_r(data: Sequence[str]) -> Timed:
    """R-MinHash with LSH, as the README has it."""
    from rensa import RMinHashDeduplicator

    return _added(RMinHashDeduplicator(threshold=THRESHOLD, num_perm=PERMUTATIONS, use_lsh=True), data)


def rensa_c(data: Sequence[str]) -> Timed:
    """C-MinHash."""
    from rensa import CMinHashDeduplicator

    return _added(CMinHashDeduplicator(threshold=THRESHOLD, num_perm=PERMUTATIONS), data)


def _added(deduplicator: Any, data: Sequence[str]) -> Timed:
    def judge(sets: Sequence[Sequence[str]]) -> list[bool]:
        kept = deduplicator.add_pairs((str(place), each) for place, each in enumerate(sets))
        return [not keep for keep in kept]

    return _stopped(strings, judge, data)


def rensa_rho(data: Sequence[str]) -> Timed:
    """The pipeline of rensa's own benchmark."""
    from rensa import RMinHash, RMinHashLSH

    def judge(sets: Sequence[Sequence[str]]) -> list[bool]:
        matrix = RMinHash.digest_matrix_from_token_sets_rho(sets, num_perm=PERMUTATIONS, seed=42)
        index = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=8)
        return list(index.query_duplicate_flags_matrix_one_shot(matrix))

    return _stopped(strings, judge, data)


def _stopped(make: Callable[[Sequence[str]], S], judge: Callable[[S], list[bool]], data: Sequence[str]) -> Timed:
    start = time.process_time()
    sets = make(data)
    made = time.process_time()
    dropped = judge(sets)
    return Timed(made - start, time.process_time() - made, dropped)


SIDES: Mapping[str, Side] = {
    "shinan": shinan,
    "datasketch": datasketch,
    "datasketch-generator": datasketch_generator,
    "rensa-r": rensa_r,
    "rensa-c": rensa_c,
    "rensa-rho": rensa_rho,
}


if __name__ == "__main__":
    main()
