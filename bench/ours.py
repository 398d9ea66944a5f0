"""Our side of a pair: the engine's own step over a workload's rows, in their order; one JSON line last.

    python -m bench.ours WORKLOAD.json MODEL_FOLDER [--method full|lora] [--compile] [--without sharing]

`--without` switches one mechanism off, and `--attention dense` another, for the ablation table:
    sharing   every row is computed whole, prefix and all
    labels    the head runs at every position
    filter    the backward products of the head take in the whole vocabulary

`--until` goes round and round the rows and begins no step after that moment (seconds since 1970: what starts the
process decides from when on time counts); `--save` keeps the adapter, or all weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, get_args

import torch

from bench.peers.measure import RATES, UNTOLD, peak_gb, timed
from bench.workloads import Row, Workload, load
from shinan.models import head
from shinan.models.attention import Backend
from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle, TokenRow
from shinan.models.memory import keep_freed_memory
from shinan.models.precision import default_device
from shinan.train import lora
from shinan.train.dpo import dpo
from shinan.train.masters import Masters
from shinan.train.objective import Objective
from shinan.train.optim import learning_rate, make_optimiser
from shinan.train.settings import LoraSettings, TuneSettings
from shinan.train.sft import sft
from shinan.train.step import add_gradients

_ABLATIONS = ("sharing", "labels", "filter")
_COURSES = ("constant", "timed", "recipe")
_CAPACITY = {"cpu": 2048, "cuda": 16_384}  # what the engine chooses where memory allows


def main() -> None:
    """Train on the workload and print what it took."""
    chosen = _options()
    workload = load(chosen.workload)
    bundles = [bundle(row) for row in workload.rows[: chosen.max_rows]]
    if "labels" in chosen.without:
        bundles = [tuple(_everywhere(row) for row in rows) for rows in bundles]
    if "sharing" in chosen.without:
        bundles = [tuple(_alone(row, 2 * i + j) for j, row in enumerate(rows)) for i, rows in enumerate(bundles)]
    if "filter" in chosen.without:
        head._THRESHOLDS = ()
    steps = [bundles[i : i + workload.batch_size] for i in range(0, len(bundles), workload.batch_size)]
    print(json.dumps(_train(chosen, workload, steps)))


def _train(chosen: argparse.Namespace, workload: Workload, steps: Sequence[Sequence[Bundle]]) -> dict[str, Any]:
    device = default_device()
    keep_freed_memory()
    model: Any = load_model(chosen.model, getattr(torch, chosen.precision)).to(device)
    if chosen.method == "lora":
        model = lora.wrap(model, LoraSettings(), 0)
    masters = Masters(model)
    capacity = chosen.forest or _CAPACITY[device.type]
    objective: Objective = dpo() if workload.kind == "dpo" else sft()
    model.train()
    with Decoder(model, chosen.attention, masters.sinks) as decoder:
        start = time.perf_counter()
        objective.prepare(decoder, [bundle for step in steps for bundle in step], capacity)
        prepared = time.perf_counter() - start
        decoder.arrange(checkpoint=False, compiled=chosen.compile)
        optimiser = make_optimiser(chosen.optimiser, masters, 0.0)
        begun = time.time()
        done, losses, computed, stamps, busy = [], [], [], [time.perf_counter()], [time.process_time()]
        for number, step in enumerate(cycle(steps) if chosen.until else steps):
            rate = _rate(chosen, number, len(steps), begun)
            for group in optimiser.param_groups:
                group["lr"] = rate
            summed = add_gradients(decoder, objective, step, capacity, masters)
            masters.clip(1.0)
            optimiser.step()
            masters.zero()
            masters.publish()
            if device.type == "cuda":
                torch.cuda.synchronize()
            done.append(step)
            losses.append(summed.loss)
            computed.append(summed.computed)
            stamps.append(time.perf_counter())
            busy.append(time.process_time())
            if chosen.until and time.time() >= chosen.until:
                break
    if chosen.save:
        model.save_pretrained(chosen.save)
    warm = chosen.warmup
    rows = [row for step in done[warm:] for pair in step for row in pair]
    seconds = stamps[-1] - stamps[warm]
    tokens, labelled = sum(len(row.ids) for row in rows), sum(row.labelled for row in rows)
    return {
        "seconds": seconds,
        "cpu_seconds": busy[-1] - busy[warm],
        "tokens": tokens,
        "labelled_tokens": labelled,
        "computed_tokens": sum(computed[warm:]),
        "steps": len(done) - warm,
        "tokens_per_second": tokens / seconds,
        "useful_gflops": _useful(decoder, chosen.method, sum(computed[warm:]), labelled) / seconds / 1e9,
        "warmup_seconds": stamps[warm] - stamps[0],
        "reference_seconds": prepared,
        "step_seconds": [round(b - a, 3) for a, b in pairwise(stamps)],
        "peak_gb": peak_gb(),
        "final_loss": losses[-1],
        "losses": losses,
        "config": {name: value for name, value in vars(chosen).items() if name not in UNTOLD},
        "versions": {name: version(name) for name in ("shinan", "torch", "transformers", "peft")},
    }


def bundle(row: Row) -> Bundle:
    """A workload's row as the engine takes it."""
    if "ids" in row:
        return (TokenRow(tuple(row["ids"]), tuple(map(bool, row["mask"])), 1.0, ""),)
    prompt = row["prompt"]
    return tuple(
        TokenRow((*prompt, *reply), (False,) * len(prompt) + (True,) * len(reply), 1.0, "")
        for reply in (row["chosen"], row["rejected"])
    )


def _everywhere(row: TokenRow) -> TokenRow:
    return replace(row, mask=(False, *[True] * (len(row.ids) - 1)))


def _alone(row: TokenRow, number: int) -> TokenRow:
    """The row with a first token of its own, so that it shares nothing."""
    return replace(row, ids=(1000 + number, *row.ids[1:]))


def _useful(decoder: Decoder, method: str, computed: int, labelled: int) -> float:
    """Floating-point operations that no layout could save (performance.md): 6 a weight and token, 4 with LoRA."""
    large = decoder.head.weight.numel()
    blocks = sum(p.numel() for n, p in decoder.lm.named_parameters() if p.ndim > 1 and "lora_" not in n) - large
    factor = 4 if method == "lora" else 6
    return float(factor * (blocks * computed + large * labelled))


def _rate(chosen: argparse.Namespace, step: int, steps: int, begun: float) -> float:
    peak = RATES[chosen.method]
    if chosen.rate == "recipe":
        usual = TuneSettings()
        return learning_rate(step, steps, peak, usual.warmup, usual.schedule)
    return peak * timed(step, begun, chosen.until) if chosen.rate == "timed" else peak


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--method", choices=RATES, default="full")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--optimiser", choices=("adamw", "adamw8bit", "adafactor"), default="adamw")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--without", choices=_ABLATIONS, action="append", default=[])
    parser.add_argument("--attention", choices=get_args(Backend), help="its back end; by default the engine's choice")
    parser.add_argument("--forest", type=int, help="tokens of the largest forest (tune.micro_tokens)")
    parser.add_argument("--max-rows", type=int)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the steady state")
    parser.add_argument(
        "--rate",
        choices=_COURSES,
        default="constant",
        help="timed: down to 0 at --until; recipe: as tuning has it",
    )
    parser.add_argument("--until", type=float)
    parser.add_argument("--save", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
