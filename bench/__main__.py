"""`make bench`: the rows of performance.md, one part after another, and one table last.

    python -m bench [PART ...] [--budget MINUTES] [--peer PYTHON]

A part is a script of this folder, run in a process of its own; it saves its rows in `bench/results/` as soon as it has
them. Without a budget every part is run whole, TRL's best configuration searched first: six hours or so on two cores.
With one, parts are cut to their quick form (about 40 minutes for all on two idle cores), whole again in the order of
the list where time is left, and none is begun after the budget is spent. What was cut stands in the output.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import pairs


@dataclass(frozen=True, slots=True)
class Form:
    """One size of a part: its command (`PEER` stands for the Python that has TRL), a forecast of its minutes on two
    idle cores, and what it leaves out."""

    command: str
    minutes: float
    cut: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One script in its two sizes."""

    whole: Form
    quick: Form


PARTS: Mapping[str, Part] = {
    "unique": Part(
        Form("bench.tuning unique --search 32 --compile --peer PEER", 95),
        Form("bench.tuning unique --pairs 1 --max-rows 24 --compile --peer PEER", 4, "24 of 32 rows, n 1, no search"),
    ),
    "shared": Part(
        Form("bench.tuning shared --compile --peer PEER", 20),
        Form("bench.tuning shared --pairs 1 --max-rows 20 --compile --peer PEER", 3, "20 of 65 rows, n 1"),
    ),
    "pairs": Part(
        Form("bench.tuning pairs --search 16 --compile --peer PEER", 100),
        Form(
            "bench.tuning pairs --method lora --pairs 1 --max-rows 12 --compile --peer PEER",
            5,
            "12 of 32 pairs, n 1, LoRA only, no search",
        ),
    ),
    "memory": Part(
        Form("bench.tuning unique --method full --forest 1024 --compile --peer PEER", 10),
        Form(
            "bench.tuning unique --method full --forest 1024 --pairs 1 --max-rows 24 --compile --peer PEER",
            3,
            "24 of 32 rows, n 1",
        ),
    ),
    "decoding": Part(Form("bench.decoding", 12), Form("bench.decoding --pairs 1", 4, "n 1")),
    "novelty": Part(Form("bench.novelty", 5), Form("bench.novelty --pairs 4000", 2, "4,000 of 20,000 pairs")),
    "near-duplicates": Part(Form("bench.near_duplicates", 4), Form("bench.near_duplicates --rounds 1", 1.5, "n 1")),
    "precision": Part(Form("bench.precision", 40), Form("bench.precision --steps 6", 9, "6 of 24 steps")),
    "race": Part(
        Form("bench.race --search 32 --peer PEER", 115),
        Form(
            "bench.race --minutes 2 --seeds 0 --items 24 --peer PEER",
            8,
            "2 of 10 minutes, n 1, 24 of 120 items, no search",
        ),
    ),
    "cuda": Part(
        Form("bench.cuda --peer PEER", 0),
        Form("bench.cuda --pairs 1 --peer PEER", 0, "n 1"),
    ),
}
"""In the order of running. Peak memory is a row of every tuning part; `memory` takes less at the price of time. The
CUDA part, whose minutes are not known yet, says so where there is no GPU."""


def main() -> None:
    """Run the parts, and show all their rows; ends with code 1 if a part failed."""
    chosen = _options()
    start, begun = time.time(), time.monotonic()
    failed = []
    for name, form in plan(chosen.parts, chosen.budget).items():
        if chosen.budget and time.monotonic() - begun >= 60 * chosen.budget:
            print(f"{name}: not run, the budget is spent", flush=True)
            continue
        cut = f" (cut: {form.cut})" if form.cut else ""
        print(f"{name}: {f'about {form.minutes:g} min' if form.minutes else 'no forecast'}{cut}", flush=True)
        since = time.monotonic()
        words = [str(chosen.peer.absolute()) if word == "PEER" else word for word in shlex.split(form.command)]
        if subprocess.run([sys.executable, "-m", *words], cwd=pairs.ROOT, check=False).returncode:
            failed.append(name)
        print(f"{name}: {'failed after' if name in failed else 'took'} {(time.monotonic() - since) / 60:.1f} min\n")
    print(pairs.table(rows_since(start)))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def plan(names: Sequence[str], budget: float | None) -> dict[str, Form]:
    """The form of each part: whole ones if there is no budget; else quick ones, and whole where time is left."""
    if budget is None:
        return {name: PARTS[name].whole for name in names}
    forms = {name: PARTS[name].quick for name in names}
    for name in names:
        longer = forms | {name: PARTS[name].whole}
        if sum(form.minutes for form in longer.values()) <= budget:
            forms = longer
    return forms


def rows_since(moment: float) -> list[pairs.Row]:
    """The rows of every results file that was written since then (seconds since 1970), the oldest file's first."""
    written = [(path.stat().st_mtime, path) for path in pairs.RESULTS.glob("*.json")]
    documents = [json.loads(path.read_text("utf-8")) for time_, path in sorted(written) if time_ >= moment]
    return [pairs.Row(**row) for document in documents for row in document.get("rows", [])]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="cut the parts so that they take so long")
    parser.add_argument("--peer", type=Path, default=Path(sys.executable), help="a Python that has TRL")
    chosen = parser.parse_args()
    chosen.parts = chosen.parts or list(PARTS)
    if unknown := [name for name in chosen.parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    return chosen


if __name__ == "__main__":
    main()
