"""Tuning against TRL on the real starter model: speed and memory.

    python -m bench.tuning [WORKLOAD ...] [--method full lora] [--pairs N] [--max-rows N] [--search N] [--peer PYTHON]

Every workload of performance.md is trained by both sides in processes of their own, in turn (A B A B), on the same
tokens, labels, batches and order; ratios are medians of the pairs. One JSON line a figure, a table last, and all runs
in `bench/results/NAME.json`. TRL's configuration is the fastest that `--search` finds, else the one that it found last;
a search on fewer rows than make four steps leaves `--compile` untried, whose first three warm up.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import workloads
from bench.pairs import Row, Trl, alternate, best, peer_version, rows, save, search, table
from shinan.core.errors import ShinanError
from shinan.models.chat import default_format
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer

MODEL = "starter:gemma-3-270m"
TARGETS = {"unique": 9.0, "shared": 40.0, "pairs": 8.0}  # tokens/s over TRL's, by kind of workload (performance.md)
MEMORY = {"full": 0.75, "lora": None}


def main() -> None:
    """Run what was asked for, workload after workload; every finished one is saved at once."""
    chosen = _options()
    model = resolve(MODEL)
    made: list[Row] = []
    try:
        for name in chosen.workload:
            for method in chosen.method:
                made += _tuning(model, name, method, chosen)
    except ShinanError as error:
        sys.exit(str(error))
    for row in made:
        print(json.dumps(asdict(row)))
    print(f"\n{table(made)}")


def _tuning(model: Path, name: str, method: str, chosen: argparse.Namespace) -> list[Row]:
    with TemporaryDirectory() as place:
        path = Path(place) / f"{name}.json"
        workload = workloads.build(name, default_format(Tokenizer.load(model)), workloads.data_folder())
        workloads.save(workload, path)
        print(f"{name}, {method}: {workload.counts()}", file=sys.stderr)
        peer = Trl(chosen.peer, path, model, method, chosen.max_rows)
        name_of_search = f"{workload.kind}-{method}"
        if chosen.search:
            save(f"search-{name_of_search}", [], trials=search(replace(peer, max_rows=chosen.search)))
        config = best(name_of_search)
        pairs = alternate(_ours(path, model, method, chosen), peer.command(config), chosen.pairs)
    targets = {"tokens_per_second": TARGETS[name.removesuffix("-long")], "peak_gb": MEMORY[method]}
    forests = f", forests of {chosen.forest}" if chosen.forest else ""
    found = rows(f"{name}, {method}{forests}", pairs, peer_version(pairs[0][1]), targets)
    save(f"{name}-{method}" + (f"-{chosen.forest}" if chosen.forest else ""), found, pairs=pairs)
    return found


def _ours(path: Path, model: Path, method: str, chosen: argparse.Namespace) -> Sequence[str]:
    command = [sys.executable, "-m", "bench.ours", str(path), str(model), "--method", method]
    command += ["--max-rows", str(chosen.max_rows)] if chosen.max_rows else []
    command += ["--forest", str(chosen.forest)] if chosen.forest else []
    return [*command, "--compile"] if chosen.compile else command


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*TARGETS, *(f"{name}-long" for name in TARGETS)]
    parser.add_argument("workload", nargs="*", default=list(TARGETS), help=", ".join(names))
    parser.add_argument("--method", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--max-rows", type=int, help="only the first rows of each workload")
    parser.add_argument(
        "--forest", type=int, help="tokens of our largest forest: fewer take less memory, and more time"
    )
    parser.add_argument("--search", type=int, metavar="N", help="search TRL's fastest configuration first, on N rows")
    parser.add_argument("--compile", action="store_true", help="compile our blocks")
    parser.add_argument("--peer", type=Path, default=Path(sys.executable), help="a Python that has TRL")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.workload if name not in names]:
        parser.error(f"no workload {', '.join(unknown)}: choose from {', '.join(names)}")
    return chosen


if __name__ == "__main__":
    main()
