"""Checkpoints to resume from: masters, optimiser and a few scalars, written whole or not at all, and hashed.

Order of examples, learning rate and random draws are functions of the step, so nothing else needs saving.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shinan.core.dataset import describe_files, new_folder, write_atomic
from shinan.core.errors import TrainingError
from shinan.core.hashing import file_sha256
from shinan.train.masters import Masters

_KEEP = 2  # checkpoints kept: one more than needed, in case the newest is found damaged
_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(slots=True)
class Scalars:
    """What feedback creates during a run, beside the weights.

    Attributes:
        step: optimiser steps done.
        seconds: wall time spent so far, over all attempts.
        best_loss: lowest validation loss so far (per token), None before the first validation.
        best_step: the step it was measured at.
        stale: validations since then.
        first_losses: mean losses of the first steps: what an explosion is judged against.
    """

    step: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    stale: int = 0
    first_losses: list[float] = field(default_factory=list)


def save_state(folder: Path, key: str, masters: Masters, optimiser: torch.optim.Optimizer, scalars: Scalars) -> None:
    """Write `folder/step-N` for the run identified by `key`, then remove all but the newest two."""
    with new_folder(folder / f"step-{scalars.step}") as beside:
        save_file(_flatten(masters, optimiser), beside / _TENSORS)
        state = {"key": key, "scalars": asdict(scalars), "files": describe_files(beside, [_TENSORS])}
        write_atomic(beside / _STATE, json.dumps(state))
    for old in _checkpoints(folder)[_KEEP:]:
        shutil.rmtree(old)


def load_state(folder: Path, key: str, masters: Masters, optimiser: torch.optim.Optimizer) -> Scalars | None:
    """Restore the newest checkpoint of the run `key`; None if there is none (or only of another key).

    Raises TrainingError if a checkpoint's bytes are not those that were written.
    """
    for path in _checkpoints(folder):
        try:
            state = json.loads((path / _STATE).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if state["key"] != key:
            continue
        facts = state["files"][_TENSORS]
        tensors = path / _TENSORS
        if not tensors.exists() or file_sha256(tensors) != facts["sha256"]:
            raise TrainingError("this checkpoint is damaged", where=str(path), fix="delete it and run again")
        try:
            _restore(load_file(tensors), masters, optimiser)
        except (SafetensorError, KeyError) as error:
            raise TrainingError(
                f"this checkpoint does not fit: {error}", where=str(path), fix="delete it and run again"
            ) from error
        return Scalars(**state["scalars"])
    return None


def _checkpoints(folder: Path) -> Sequence[Path]:
    """Newest first."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: -int(path.name[5:]))


def _flatten(masters: Masters, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, weight in masters.weights.items():
        tensors[f"{name}|weight"] = weight.detach()
        for part, value in optimiser.state[weight].items():
            tensors[f"{name}|{part}"] = value if value.ndim else value.reshape(1)
    return tensors


def _restore(tensors: dict[str, Tensor], masters: Masters, optimiser: torch.optim.Optimizer) -> None:
    masters.load({name: tensors[f"{name}|weight"] for name in masters.weights})
    for name, weight in masters.weights.items():
        parts = {k.rpartition("|")[2]: v for k, v in tensors.items() if k.startswith(f"{name}|")}
        state = {part: value.to(weight.device) for part, value in parts.items() if part != "weight"}
        if "step" in state:
            state["step"] = state["step"].reshape(())
        optimiser.state[weight] = state
