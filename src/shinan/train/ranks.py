"""Several processes that tune together, as torchrun starts them: where they meet, agree, add up and end.

A process alone is rank 0 of 1, and for it nothing here does anything. What is said goes as JSON, what is added as
tensors: nothing is pickled.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from shinan.core.errors import Interrupted, RunError
from shinan.models import memory

_MOMENT = 0.2  # seconds between looks at the store
_CALL, _TOLD, _DONE = "call", "told", "done"
_LAST_WORDS = 5.0  # seconds
# How a collective says that the other side has gone, where it does not say it by its type.
_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Gloo", "gloo")


def started() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def place() -> int:
    """This process's number among those that torchrun has started; number 0 does all that is not tuning."""
    return int(os.environ["RANK"]) if started() > 1 else 0


def rank() -> int:
    """This process's number among those that have met."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes have met: 1 outside of `together`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def call(word: Any) -> None:
    """Say something JSON-able, once, to the others, who wait for it in `hear`. For number 0."""
    if started() > 1:
        _store().set(_CALL, json.dumps(word))


def hear() -> Any:
    """What number 0 says in `call`, however long that takes. Ctrl-C ends the process quietly: number 0 tells of it."""
    return json.loads(_awaited(_CALL))


@contextmanager
def together(device: str) -> Iterator[None]:
    """Meet the other processes for a block. Collectives run by gloo on a CPU, by NCCL on CUDA, a GPU for each process.

    If the block ends early, the first process to leave it raises why; the others exit quietly, with the same code.

    Raises RunError if there are more processes than GPUs, or if another process has died.
    """
    if started() == 1:
        yield
        return
    if device == "cuda":
        _take_gpu()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=PrefixStore("together", _store()),
        rank=place(),
        world_size=started(),
    )
    try:
        yield
        if place():
            _awaited(_DONE)  # or the first to finish would look like one that died
        else:
            _store().set(_DONE, "")
    except BaseException as error:
        if _store().add(_TOLD, 1) > 1:
            if isinstance(error, Interrupted):
                raise SystemExit(128 + error.number) from None
            time.sleep(_LAST_WORDS)  # torchrun ends all when the first has ended: that must be the one that tells
            raise SystemExit(1) from None
        if _is_silence(error):
            what, fix = "another process of this run has died", "run the same command again: it goes on from here"
            raise RunError(what, fix=fix) from error
        raise
    dist.destroy_process_group()


def total(*tensors: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Replace each tensor by its sum over all processes, or those of a group, in place."""
    if count() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)


def most(*numbers: int) -> list[int]:
    """The largest that any process has given, of each number."""
    held = torch.tensor(numbers, dtype=torch.int64)
    if count() > 1:
        dist.all_reduce(held, dist.ReduceOp.MAX)
    return held.tolist()


def everyone(value: Any) -> list[Any]:
    """What each process has given, JSON-able, by rank."""
    return [said_by(source, value) for source in range(count())]


def said_by(source: int, value: Any) -> Any:
    """What the process `source` has given, JSON-able; of the others, `value` is not looked at."""
    if count() == 1:
        return value
    said = json.dumps(value).encode() if rank() == source else b""
    size = torch.tensor([len(said)])
    dist.broadcast(size, source)
    data = torch.tensor(list(said) or [0] * int(size), dtype=torch.uint8)
    dist.broadcast(data, source)
    return json.loads(bytes(data.tolist()))


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on a device: those on one CPU share its memory."""
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if count() > 1 and device.type == "cpu" else 1
    return memory.free_memory(device) // sharers


@cache
def _store() -> PrefixStore:
    """The store that torchrun keeps for its processes: it outlives each of them."""
    store, _, _ = next(rendezvous("env://"))
    return PrefixStore("shinan", store)


def _awaited(key: str) -> bytes:
    """What the store holds under `key`, once it does. No timeout: torchrun ends the process if another one fails."""
    try:
        while not _store().check([key]):
            time.sleep(_MOMENT)
        return bytes(_store().get(key))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _take_gpu() -> None:
    local, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= here:
        what = f"torchrun has started {os.environ['LOCAL_WORLD_SIZE']} processes on a machine with {here} GPU(s)"
        raise RunError(what, fix=f"start {here} with --nproc-per-node")
    torch.cuda.set_device(local)


def _is_silence(error: BaseException) -> bool:
    """Whether a collective failed because the other side has gone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _GONE)
    )
