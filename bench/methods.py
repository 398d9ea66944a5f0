"""What each method of tuning takes on a real model: memory and speed of a few optimiser steps.

    python -m bench.methods WORKLOAD.json MODEL_FOLDER [--methods NAME ...] [--steps N] [--rounds N] [--no-save]

Each method runs in a process of its own, in turn, `--rounds` times over (A B C A B C), with its default settings, on
the same batches of a workload (see `bench.workloads`). The first steps warm up and are not counted. One JSON line a
method (the median of its rounds), all in `bench/results/methods.json`. `--one NAME` is such a process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.ours import bundle
from bench.workloads import Workload, load
from shinan.core.dataset import write_atomic
from shinan.core.errors import ShinanError
from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.models.memory import keep_freed_memory
from shinan.models.precision import default_device, probe_dtype
from shinan.train.masters import Masters
from shinan.train.methods import wrap
from shinan.train.optim import make_optimiser
from shinan.train.settings import TuneSettings
from shinan.train.sft import sft
from shinan.train.step import add_gradients

RESULTS = Path(__file__).parent / "results"
CHOICES: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full, adamw8bit": {"method": "full", "optimiser": "adamw8bit"},
    "full, half frozen": {"method": "full", "freeze": {"layers": 9, "embeddings": True}},
    "lora": {"method": "lora"},
    "rslora": {"method": "lora", "lora": {"rslora": True}},
    "dora": {"method": "lora", "lora": {"dora": True}},
    "qlora": {"method": "qlora"},
    "ia3": {"method": "ia3"},
    "bitfit": {"method": "bitfit"},
    "prefix": {"method": "prefix"},
    "prompt": {"method": "prompt"},
}
"""Settings by the name that results give them."""
_WARM = 2
_MICRO = 2048


def one(name: str, workload: Workload, folder: Path, steps: int) -> dict[str, Any]:
    """Measure a method in this process."""
    keep_freed_memory()
    bundles, size = [bundle(row) for row in workload.rows], workload.batch_size
    settings = TuneSettings.model_validate(CHOICES[name])
    device = default_device()
    model: Any = load_model(folder, probe_dtype(device)).to(device)
    try:
        model = wrap(model, settings, 0).train()
    except ShinanError as error:
        return {"method": name, "refused": error.what}
    masters = Masters(model)
    optimiser = make_optimiser(settings.optimiser, masters, 0.0)
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate / 100  # of a warm-up
    seconds, tokens, computed = [], 0, 0
    with Decoder(model, sinks=masters.sinks) as decoder:
        for number in range(_WARM + steps):
            part = [bundles[i % len(bundles)] for i in range(number * size, (number + 1) * size)]
            start = time.perf_counter()
            summed = add_gradients(decoder, sft(), part, _MICRO, masters)
            masters.clip(1.0)
            optimiser.step()
            masters.zero()
            masters.publish()
            if number >= _WARM:
                seconds.append(time.perf_counter() - start)
                tokens += sum(len(row.ids) for bundle in part for row in bundle)
                computed += summed.computed
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {
        "method": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "trained": sum(weight.numel() for weight in masters.weights.values()),
        "tokens_per_second": round(tokens / sum(seconds), 1),
        "computed_per_second": round(computed / sum(seconds), 1),
        "peak_gb": round(peak / 1e9, 3),
    }


def measure(arguments: list[str], names: list[str], rounds: int) -> list[dict[str, Any]]:
    """Every method, `rounds` times in turn, each time in a process of its own: medians."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, "-m", "bench.methods", *arguments, "--one", name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return [_median(runs) for runs in found.values()]


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One of several measurements, with the median of each number that can differ, and all speeds."""
    if "refused" in runs[0]:
        return runs[0]
    middle = {
        key: statistics.median(run[key] for run in runs)
        for key in ("tokens_per_second", "computed_per_second", "peak_gb")
    }
    return runs[0] | middle | {"speeds": [run["tokens_per_second"] for run in runs]}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--methods", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=CHOICES, help="measure this one, in this process")
    parser.add_argument("--no-save", action="store_true", help="leave bench/results as it is")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, load(options.workload), options.model, options.steps)))
        return
    fixed = [str(options.workload), str(options.model), "--steps", str(options.steps)]
    lines = measure(fixed, options.methods, options.rounds)
    for line in lines:
        print(json.dumps(line))
    if not options.no_save:
        machine = {"system": platform.platform(), "cores": os.cpu_count(), "torch": version("torch")}
        document = {"machine": machine, "workload": options.workload.stem, "methods": lines}
        write_atomic(RESULTS / "methods.json", json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
