"""The rows of performance.md that need a GPU. Not run on one yet.

    python -m bench.cuda [--model starter:gemma-3-270m] [--method full lora] [--pairs 3] [--peer PYTHON]

Two workloads: `packed` (64 GSM8K rows a step) against the faster of TRL with Liger's kernels, packed or padding-free,
and Unsloth where the peer's Python has it; `packed-shared` (eight tasks of five instances a step) against the same.
Every candidate runs once, the fastest is the peer of the pairs. Ours is `bench.ours`, as on a CPU, with the back end
that the engine takes on CUDA (FlexAttention); it also runs once over variable-length flash attention, nothing shared.
Of the packed workload, useful FLOP a second (performance.md's count) are held against the card's published rate for
dense bf16, else against what large products reach here. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench import workloads
from bench.pairs import Config, Result, Row, Trl, alternate, child, label, rows, save, table
from shinan.core.errors import RunError, ShinanError
from shinan.models.chat import default_format
from shinan.models.precision import matrix_rate
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer

TARGETS = {"packed": 1.3, "packed-shared": 3.0}
UTILISATION = 0.5
PUBLISHED = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""FLOP a second in dense bf16 by the vendor's data sheets (SXM), by what a card's name holds."""

LIGER: Config = {"loss": "chunked", "precision": "bf16-weights", "liger": True}


def main() -> None:
    """Run both workloads with each method; what is finished is saved at once."""
    chosen = _options()
    if why := missing(chosen.peer):
        print(f"no CUDA rows: {why}")
        return
    made: list[Row] = []
    try:
        for name in TARGETS:
            for method in chosen.method:
                made += _measured(name, method, resolve(chosen.model), chosen)
    except ShinanError as error:
        sys.exit(str(error))
    for row in made:
        print(json.dumps(asdict(row)))
    print(f"\n{table(made)}")


def missing(peer: Path) -> str | None:
    """What is not here that these rows need."""
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return None if _has(peer, "liger_kernel") else f"{peer} has no liger-kernel to give TRL its best"


def _has(python: Path, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([str(python), "-c", code], check=False).returncode == 0


def _measured(name: str, method: str, model: Path, chosen: argparse.Namespace) -> list[Row]:
    with TemporaryDirectory() as place:
        path = Path(place) / f"{name}.json"
        workload = workloads.build(name, default_format(Tokenizer.load(model)), workloads.data_folder())
        workloads.save(workload, path)
        ours = [sys.executable, "-m", "bench.ours", str(path), str(model), "--method", method, "--compile"]
        ours += ["--warmup", str(_WARM)]
        peers = list(candidates(Trl(chosen.peer, path, model, method), _has(chosen.peer, "unsloth")))
        trials = [_tried(command) for command in peers]
        fastest = peers[fastest_of(trials)]
        pairs = alternate(ours, fastest, chosen.pairs)
        varlen = _tried([*ours, "--attention", "varlen", "--without", "sharing"]) if name == "packed" else None
    against = named(pairs[0][1])
    card = torch.cuda.get_device_name()
    found = rows(f"{name}, {method}, {card}", pairs, against, {"tokens_per_second": TARGETS[name], "peak_gb": None})
    peak, source = peak_of(card) or (matrix_rate(torch.bfloat16, torch.device("cuda")), "measured")
    if name == "packed":
        found.append(utilisation([mine for mine, _ in pairs], peak, f"{card}, {source}", found[0].workload))
    save(f"cuda-{name}-{method}", found, pairs=pairs, trials=trials, varlen=varlen, peak=peak)
    return found


_WARM = 3  # steps: the first shape is compiled, then any shape


def candidates(trl: Trl, unsloth: bool) -> Iterator[list[str]]:
    """The command of every peer."""
    for batching in ("packed", "padding-free"):
        yield trl.command(LIGER | {"batching": batching, "warmup": _WARM})
    if unsloth:
        words = trl.command({"batching": "packed", "precision": "bf16-weights", "warmup": _WARM})
        yield [word.replace("bench.peers.trl_sft", "bench.peers.unsloth_sft") for word in words]


def _tried(command: Sequence[str]) -> Result:
    """What the command prints, or `{error}`."""
    try:
        return child(command)
    except RunError as error:
        print(error, file=sys.stderr)
        return {"error": str(error)}


def fastest_of(results: Sequence[Result]) -> int:
    """The place of the fastest one that ended well. Raises RunError if none did."""
    well = [place for place, result in enumerate(results) if "error" not in result]
    if not well:
        raise RunError("no peer ran", where="bench.cuda", fix="run one of them alone to see what it lacks")
    return max(well, key=lambda place: float(results[place]["tokens_per_second"]))


def named(peer: Result) -> str:
    """Whose result it is: `TRL 1.16.0, Liger 0.6.2, chunked/packed/bf16-weights`."""
    whose = {"trl": "TRL", "liger-kernel": "Liger", "unsloth": "Unsloth"}
    versions = [f"{word} {peer['versions'][name]}" for name, word in whose.items() if name in peer["versions"]]
    config = {name: peer["config"][name] for name in ("loss", "batching", "precision")}
    return ", ".join([*versions, label(config)])


def peak_of(card: str) -> tuple[float, str] | None:
    """The published rate of a card, and that it is one; None for a card that is not in the table."""
    known = [rate for name, rate in PUBLISHED.items() if name in card]
    return (known[0], "published") if known else None


def utilisation(runs: Sequence[dict[str, Any]], peak: float, source: str, workload: str) -> Row:
    """Useful FLOP a second against the card's: the ratio is the model-FLOP utilisation."""
    useful = statistics.median(float(run["useful_gflops"]) for run in runs) / 1e3
    return Row(workload, "useful TFLOP/s", useful, peak / 1e12, source, useful * 1e12 / peak, UTILISATION, len(runs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter:gemma-3-270m", help="any model reference")
    parser.add_argument("--method", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--peer", type=Path, default=Path(sys.executable), help="a Python that has TRL and Liger")
    return parser.parse_args()


if __name__ == "__main__":
    main()
