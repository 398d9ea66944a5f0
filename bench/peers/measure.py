"""What every TRL run shares: its options, its clock and counts, and the JSON line that it prints."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback

PRECISIONS = {
    "bf16-weights": ("bfloat16", False),
    "autocast": ("float32", True),
    "bf16-autocast": ("bfloat16", True),
    "fp32": ("float32", False),
}
"""Name -> dtype that the weights are loaded in, and whether bf16 autocast is on (TRL's own default: autocast)."""

RATES = {"full": 5e-5, "lora": 5e-4}  # those of TuneSettings, so that losses can be laid side by side

UNTOLD = ("workload", "model", "until", "save")
"""Options that say nothing of how it was computed."""

_ENDLESS = 10_000  # epochs
_RISE = 3  # steps: under a time limit a slow side makes few, and a share of them is not known before the end


def timed(step: int, begun: float, until: float) -> float:
    """The share of the peak rate at `step` (from 0) under a time limit, on both sides.

    It rises over the first steps, and falls to 0 with the time from `begun`, when training began, to `until`.
    """
    left = (until - time.time()) / max(until - begun, 1e-9)
    return min(1.0, (step + 1) / _RISE) * min(1.0, max(0.0, left))


def options(
    description: str, batchings: Sequence[str], losses: Sequence[str], flags: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse the command line; `flags` are those of one peer.

    `learning_rate` is filled in from the method where it is not given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", type=Path, help="JSON file that bench.workloads wrote")
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--method", choices=RATES, default="full")
    parser.add_argument("--batching", choices=batchings, default="plain")
    parser.add_argument("--loss", choices=losses, default=losses[0])
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16-weights")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--max-rows", type=int, help="only the first rows of the workload")
    parser.add_argument("--warmup", type=int, default=1, help="steps before the steady state")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--until", type=float, help="begin no step after it (seconds since 1970); the rate ends at 0")
    parser.add_argument("--save", type=Path, help="folder for the adapter, or for all weights")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    chosen = parser.parse_args()
    chosen.learning_rate = chosen.learning_rate or RATES[chosen.method]
    return chosen


def rows_of(chosen: argparse.Namespace, kind: str) -> tuple[list[dict[str, list[int]]], int]:
    """The workload's rows and its batch size. Ends the script with a sentence where there is nothing to measure."""
    workload = json.loads(chosen.workload.read_text("utf-8"))
    if workload["kind"] != kind:
        sys.exit(f"{chosen.workload}: a workload of kind {workload['kind']}, this peer trains {kind}")
    rows, batch_size = workload["rows"][: chosen.max_rows], workload["batch_size"]
    if len(rows) <= batch_size * chosen.warmup:
        sys.exit(f"{len(rows)} rows in batches of {batch_size}: no step is left after {chosen.warmup} for warm-up")
    return rows, batch_size


def settings(chosen: argparse.Namespace, batch_size: int, place: str) -> dict[str, Any]:
    """The arguments that every TRL config takes here: plain steps in the given order, nothing saved, nothing logged.

    Gradient checkpointing (TRL's default) is off: it buys memory with a second forward pass.
    """
    dtype, autocast = PRECISIONS[chosen.precision]
    return {
        "output_dir": place,
        "model_init_kwargs": {"dtype": dtype},
        "bf16": autocast,
        "use_cpu": not torch.cuda.is_available(),
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": _ENDLESS if chosen.until else 1,
        "train_sampling_strategy": "sequential",
        "optim": "adamw_torch_fused",
        "learning_rate": chosen.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "torch_compile": chosen.compile,
        "max_length": None,
        "seed": 0,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
    }


def adapter(method: str) -> LoraConfig | None:
    """LoRA of rank 16, alpha 32, on all linear layers but the head; None for full tuning."""
    if method == "full":
        return None
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def tokenizer(folder: Path) -> Any:
    """The model's tokenizer; the trainers ask it for the padding id only."""
    return AutoTokenizer.from_pretrained(folder)


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Wall and processor time at the start of training, then at the end of each step, optimiser included."""

    def __init__(self) -> None:
        self.stamps: list[float] = []
        self.busy: list[float] = []

    def _stamp(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.stamps.append(time.perf_counter())
        self.busy.append(time.process_time())

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._stamp()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._stamp()


class _Limit(TrainerCallback):  # type: ignore[misc]
    """Ends training at a moment, and lets the rate follow the time."""

    def __init__(self, until: float, peak: float) -> None:
        self._begun, self._until, self._peak = time.time(), until, peak

    def on_step_begin(self, _: Any, state: Any, __: Any, **given: Any) -> None:
        rate = self._peak * timed(state.global_step, self._begun, self._until)
        for group in given["optimizer"].param_groups:
            group["lr"] = rate

    def on_step_end(self, _: Any, __: Any, control: Any, **___: Any) -> None:
        control.should_training_stop = time.time() >= self._until


@dataclass
class Meter:
    """What a trainer did, step by step.

    Attributes:
        clock: when training began and each step ended.
        counts: of each batch in order: tokens, labelled tokens, and tokens computed, padding included.
        losses: of each step.
    """

    clock: _Clock = field(default_factory=_Clock)
    counts: list[dict[str, int]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def train(self, trainer: Any, chosen: argparse.Namespace) -> None:
        """Let `trainer` do its work, and listen."""
        trainer.add_callback(self.clock)
        if chosen.until:
            trainer.add_callback(_Limit(chosen.until, chosen.learning_rate))
        trainer.data_collator = self._counting(trainer.data_collator)
        step = trainer.training_step

        def recorded(*arguments: Any, **keywords: Any) -> Any:
            loss = step(*arguments, **keywords)
            self.losses.append(float(loss))
            return loss

        trainer.training_step = recorded
        trainer.train()
        if chosen.save:
            trainer.save_model(str(chosen.save))

    def _counting(self, collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counted(examples: Any) -> Any:
            batch = collate(examples)
            computed = batch["input_ids"].numel()
            real = batch["attention_mask"].sum() if "attention_mask" in batch else computed
            labelled = batch["labels"] != -100 if "labels" in batch else batch["completion_mask"]
            self.counts.append({"tokens": int(real), "labelled": int(labelled.sum()), "computed": computed})
            return batch

        return counted

    def line(self, chosen: argparse.Namespace, packages: Sequence[str] = (), **more: Any) -> str:
        """The result as JSON. Totals are those of the steady state, after the warm-up steps.

        `packages` are named with their versions besides those that every peer uses.
        """
        warm = chosen.warmup
        stamps = self.clock.stamps
        seconds = stamps[-1] - stamps[warm]
        totals = {name: sum(count[name] for count in self.counts[warm : len(self.losses)]) for name in self.counts[0]}
        document = {
            "seconds": seconds,
            "cpu_seconds": self.clock.busy[-1]
            - self.clock.busy[warm],  # far below cores x seconds: others were at work
            "tokens": totals["tokens"],
            "labelled_tokens": totals["labelled"],
            "computed_tokens": totals["computed"],
            "steps": len(self.losses) - warm,
            "tokens_per_second": totals["tokens"] / seconds,
            "warmup_seconds": stamps[warm] - stamps[0],
            "step_seconds": [round(end - start, 3) for start, end in pairwise(stamps)],
            "peak_gb": peak_gb(),
            "final_loss": self.losses[-1],
            "losses": self.losses,
            **more,
            "config": {name: value for name, value in vars(chosen).items() if name not in UNTOLD},
            "versions": {name: version(name) for name in ("trl", "transformers", "peft", "torch", *packages)},
        }
        return json.dumps(document)


def peak_gb() -> float:
    """The most memory held, in units of 10^9 bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
