"""Checkpoints to resume from: masters, optimiser and a few scalars, written whole or not at all, and hashed.

Order of examples, learning rate and random draws are functions of the step, so nothing else needs saving.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from shinan.core.dataset import describe_files, new_folder, write_atomic, writing
from shinan.core.errors import TrainingError
from shinan.core.hashing import file_sha256
from shinan.train import ranks
from shinan.train.masters import Masters
from shinan.train.shards import like

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
    """Write `folder/step-N` for the run identified by `key`, then remove all but the newest two, and the best weights
    that neither of these names.

    A process alone writes one file. Several write a file each, of what they hold, by torch.distributed.checkpoint.
    """
    path = folder / f"step-{scalars.step}"
    tensors = _flatten(masters, optimiser)
    if ranks.rank():
        beside = Path(ranks.said_by(0, None))
        with writing(path):
            _write(beside, tensors)
        ranks.said_by(0, None)
        return
    with new_folder(path) as beside:
        ranks.said_by(0, str(beside))
        _write(beside, tensors)
        made = _made(masters)
        files = describe_files(beside, [file.name for file in beside.iterdir()])
        write_atomic(beside / _STATE, json.dumps({"key": key, "scalars": asdict(scalars), "files": files} | made))
    ranks.said_by(0, "done")
    found = _checkpoints(folder)
    for old in found[_KEEP:]:
        shutil.rmtree(old)
    named = {_best(folder, _best_step(path)) for path in found[:_KEEP]}
    for best in set(folder.glob("best-*.safetensors")) - named:
        best.unlink()


def _best_step(path: Path) -> int:
    """The step of the best weights that a checkpoint names; 0 if it was never finished."""
    try:
        return int(json.loads((path / _STATE).read_text("utf-8"))["scalars"]["best_step"])
    except (OSError, ValueError):
        return 0


def load_state(folder: Path, key: str, masters: Masters, optimiser: torch.optim.Optimizer) -> Scalars | None:
    """Restore the newest checkpoint of the run `key`; None if there is none (or only of another key).

    One that was written by another number of ranks, or in groups of another size, or by another torch, is taken, and a
    line says what that means.

    Raises TrainingError if a checkpoint's bytes are not those that were written.
    """
    for path in _checkpoints(folder):
        try:
            state = json.loads((path / _STATE).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if state["key"] != key:
            continue
        if ranks.rank() == 0 and not _is_sound(path, state["files"]):
            raise TrainingError("this checkpoint is damaged", where=str(path), fix="delete it and run again")
        try:
            _restore(_read(path, masters), masters, optimiser)
        except (SafetensorError, KeyError) as error:
            raise TrainingError(
                f"this checkpoint does not fit: {error}", where=str(path), fix="delete it and run again"
            ) from error
        _tell_differences(path, state, _made(masters))
        return Scalars(**state["scalars"])
    return None


def forget_states(folder: Path) -> None:
    """Remove what other runs have left in `folder`; every rank must ask.

    Theirs may be of later steps, and newer than any that is to come; best weights don't say whose they are.
    """
    ranks.everyone(None)  # all have looked for one of their own
    if ranks.rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)


def _is_sound(path: Path, files: dict[str, Any]) -> bool:
    return all((path / name).exists() and file_sha256(path / name) == facts["sha256"] for name, facts in files.items())


def _made(masters: Masters) -> dict[str, Any]:
    """What decides how sums are rounded, and may be another when a run goes on."""
    return {"torch": torch.__version__, "ranks": ranks.count(), "tensor_parallel": masters.division.width}


def _tell_differences(path: Path, state: dict[str, Any], now: dict[str, Any]) -> None:
    other = [f"{name} {state[name]}, now {now[name]}" for name in now if state.get(name, now[name]) != now[name]]
    if other and ranks.rank() == 0:
        print(
            f"note: {path.name} was written with {' and '.join(other)}: the run goes on from it, and ends within "
            "rounding of what it would have been, not at the same bits",
            file=sys.stderr,
        )


def _write(folder: Path, tensors: dict[str, Tensor]) -> None:
    if ranks.count() == 1:
        save_file(tensors, folder / _TENSORS)
        return
    try:
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


def _read(folder: Path, masters: Masters) -> dict[str, Tensor]:
    """What this rank holds of a checkpoint, by whatever number of ranks it was written."""
    reader = HuggingFaceStorageReader(str(folder))
    wanted: dict[str, Tensor] = {}
    for name, facts in reader.read_metadata().state_dict_metadata.items():
        if not isinstance(facts, TensorStorageMetadata):  # safetensors hold nothing else
            raise TypeError(name)
        divided = masters.divided.get(name.rpartition("|")[0])
        if divided is not None and facts.size == divided.shape:
            wanted[name] = torch.zeros_like(divided, dtype=facts.properties.dtype)
        else:
            wanted[name] = torch.empty(facts.size, dtype=facts.properties.dtype)
    try:
        with warnings.catch_warnings():  # of a process alone, torch warns that it is
            warnings.simplefilter("ignore", UserWarning)
            load(wanted, storage_reader=reader, no_dist=ranks.count() == 1)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
    return wanted


def save_best(folder: Path, step: int, masters: Masters) -> None:
    """Write the weights of a step beside the checkpoints. Those of earlier steps stay as long as a checkpoint to resume
    from names them."""
    weights = masters.gathered()
    if ranks.rank():
        return
    path = _best(folder, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    try:
        with writing(path):
            save_file(weights, beside)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_best(folder: Path, step: int) -> dict[str, Tensor]:
    """What `save_best` wrote, by parameter."""
    return load_file(_best(folder, step))


def _best(folder: Path, step: int) -> Path:
    return folder / f"best-{step}.safetensors"


def _checkpoints(folder: Path) -> Sequence[Path]:
    """Newest first."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: -int(path.name[5:]))


def _flatten(masters: Masters, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and optimiser state by `weight's name|part`; parts of what is divided, as parts."""
    tensors: dict[str, Tensor] = {}
    for name, weight in masters.weights.items():
        divided = masters.divided.get(name)
        for part, value in {"weight": weight.detach(), **optimiser.state[weight]}.items():
            if divided is not None and value.shape == weight.shape:
                tensors[f"{name}|{part}"] = like(value, divided)
            else:
                tensors[f"{name}|{part}"] = value if value.ndim else value.reshape(1)
    return tensors


def _restore(tensors: dict[str, Tensor], masters: Masters, optimiser: torch.optim.Optimizer) -> None:
    held = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in tensors.items()}
    masters.load({name: held[f"{name}|weight"] for name in masters.weights})
    for name, weight in masters.weights.items():
        parts = {k.rpartition("|")[2]: v for k, v in held.items() if k.rpartition("|")[0] == name}
        state = {part: value.to(weight.device) for part, value in parts.items() if part != "weight"}
        if "step" in state:
            state["step"] = state["step"].reshape(())
        optimiser.state[weight] = state
