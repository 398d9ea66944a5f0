"""Is bf16 as good as fp32? The same rows in the same order, with fp32 masters on both sides; the loss of every step.

    python -m bench.precision [--methods lora full] [--steps 24]

Steps of eight GSM8K rows, none of them seen twice. The rate takes the course that tuning has by default: it rises over
5 % of the steps, three at least, and falls along a cosine. What counts is the mean loss of the last quarter of the
steps: 0.5 % of the fp32 run's is allowed, in either direction. Results: `bench/results/precision.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import workloads
from bench.pairs import Row, child, save, table
from shinan.core.errors import ShinanError
from shinan.models.chat import default_format
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer

MODEL = "starter:gemma-3-270m"
ALLOWED = 0.5  # percent


def main() -> None:
    """Run both formats of each method; what is finished is saved at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--steps", type=int, default=24)
    chosen = parser.parse_args()
    made: list[Row] = []
    losses: dict[str, dict[str, list[float]]] = {}
    try:
        for method in chosen.methods:
            losses[method] = _losses(method, chosen.steps)
            print(shown(method, **losses[method]))
            made.append(row(method, **losses[method]))
            save("precision", made, losses=losses)
    except ShinanError as error:
        sys.exit(str(error))
    for line in made:
        print(json.dumps(asdict(line)))
    print(f"\n{table(made)}")


def _losses(method: str, steps: int) -> dict[str, list[float]]:
    """{number format: the loss of each step}."""
    model = resolve(MODEL)
    with TemporaryDirectory() as place:
        path = Path(place) / "rows.json"
        rows = workloads.build("unique-long", default_format(Tokenizer.load(model)), workloads.data_folder())
        workloads.save(rows, path)
        command = [sys.executable, "-m", "bench.ours", str(path), str(model), "--method", method]
        command += ["--rate", "recipe", "--warmup", "0", "--max-rows", str(steps * rows.batch_size)]
        return {name: child([*command, "--precision", name])["losses"] for name in ("bfloat16", "float32")}


def row(method: str, bfloat16: Sequence[float], float32: Sequence[float]) -> Row:
    """The row of the results: how far the means of the last quarter are apart, against what is allowed."""
    found = 100 * abs(last_quarter(bfloat16) / last_quarter(float32) - 1)
    name = f"bf16 for fp32, {method}, {len(float32)} steps"
    return Row(name, "loss apart, %", found, ALLOWED, "what is allowed", found / ALLOWED, 1.0, 1)


def last_quarter(losses: Sequence[float]) -> float:
    """The mean of the last quarter of the steps, of at least one."""
    return statistics.mean(losses[-max(1, len(losses) // 4) :])


def shown(method: str, bfloat16: Sequence[float], float32: Sequence[float]) -> str:
    """Every step's losses, and the difference of the last quarter's mean with its sign."""
    lines = [f"{method}: step, bf16, fp32"]
    lines += [f"{n:4} {a:8.4f} {b:8.4f}" for n, (a, b) in enumerate(zip(bfloat16, float32, strict=True), 1)]
    difference = 100 * (last_quarter(bfloat16) / last_quarter(float32) - 1)
    return "\n".join([*lines, f"last quarter: bf16 is {difference:+.2f} % away from fp32 ({ALLOWED} % are allowed)"])


if __name__ == "__main__":
    main()
