"""Keys and values of the decode loop: shared prefixes once, and each row's own tokens in a pool of rows of like length.

A row hangs on the first tokens of at most one `Prefix`; what comes after them is its own. Own tokens lie in pools of
one capacity each, side by side, so that one call computes attention for a whole pool; a row that outgrows its pool
moves to the next, of twice the capacity. A prompt that is not yet computed to its end has memory of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]
_SMALLEST = 64  # capacity of the first pool, in tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """What one token's keys and values are in a model."""

    layers: int
    groups: int
    size: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, lm: Any) -> Shape:
        """The shape of a transformers causal LM's cache."""
        config, weight = lm.config, lm.get_input_embeddings().weight
        heads = config.num_attention_heads
        # of the modules, for a config may say what its family does not do
        times = next((m.num_key_value_groups for m in lm.modules() if hasattr(m, "num_key_value_groups")), 1)
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(config.num_hidden_layers, heads // times, size, weight.dtype, weight.device)

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in all layers."""
        return 2 * self.layers * self.groups * self.size * self.dtype.itemsize

    def zeros(self, rows: int, capacity: int) -> Tensor:
        """[layers, 2, rows, groups, capacity, size]; zeros, because what is masked is multiplied by 0 all the same."""
        size = (self.layers, 2, rows, self.groups, capacity, self.size)
        return torch.zeros(size, dtype=self.dtype, device=self.device)


@dataclass(slots=True, eq=False)
class Prefix:
    """Tokens that several prompts begin with.

    Attributes:
        tokens: [p].
        memory: [layers, 2, 1, groups, p, size].
        filled: how many of them are computed.
        users: rows that hang on it now.
    """

    tokens: Ints
    memory: Tensor
    filled: int
    users: int = 0


class Prefixes:
    """The shared prefixes that are kept, at most `limit` tokens of them; the one unused for longest goes first."""

    def __init__(self, shape: Shape, limit: int) -> None:
        self._shape = shape
        self._limit = limit
        self._kept: list[Prefix] = []  # the last used last

    @property
    def tokens(self) -> int:
        """Tokens kept."""
        return sum(len(prefix.tokens) for prefix in self._kept)

    @property
    def unfinished(self) -> list[Prefix]:
        """Those that rows wait for."""
        return [prefix for prefix in self._kept if prefix.users and prefix.filled < len(prefix.tokens)]

    def match(self, prompt: Ints) -> tuple[Prefix | None, int]:
        """The prefix that shares most tokens with `prompt`, and how many."""
        shared = [agree(prompt, prefix.tokens) for prefix in self._kept]
        if not any(shared):
            return None, 0
        best = max(range(len(shared)), key=shared.__getitem__)
        self._kept.append(self._kept.pop(best))
        return self._kept[-1], shared[best]

    def make(self, tokens: Ints) -> Prefix | None:
        """A new prefix; what another one has computed of it is copied. None if there is no room."""
        near, shared = self.match(tokens)
        if near:
            near.users += 1  # not to be evicted now
        roomy = self.evict(self._limit - len(tokens))
        if near:
            near.users -= 1
        if not roomy:
            return None
        made = Prefix(tokens, self._shape.zeros(1, len(tokens)), 0)
        if near:
            made.filled = min(shared, near.filled)
            made.memory[..., : made.filled, :] = near.memory[..., : made.filled, :]
        self._kept.append(made)
        return made

    def evict(self, tokens: int) -> bool:
        """Let go of unused prefixes until at most `tokens` are kept; False if that cannot be (then none goes)."""
        used = sum(len(prefix.tokens) for prefix in self._kept if prefix.users)
        if used > tokens:
            return False
        while self.tokens > tokens:
            self._kept.remove(next(prefix for prefix in self._kept if not prefix.users))
        return True


@dataclass(slots=True, eq=False)
class Lane:
    """Where the keys and values of one row lie.

    Attributes:
        prefix: what it hangs on, if anything.
        used: tokens of the prefix that it shares.
        filled: own tokens computed.
        pool: the pool of its own tokens once its prompt is computed, and its place there.
        index: see `pool`.
        memory: [layers, 2, 1, groups, tokens, size] until then.
    """

    prefix: Prefix | None = None
    used: int = 0
    filled: int = 0
    pool: Pool | None = None
    index: int = 0
    memory: Tensor | None = None


@dataclass(slots=True, eq=False)
class Pool:
    """Rows of one capacity, without a gap: those in use come first.

    Attributes:
        memory: [layers, 2, places, groups, capacity, size].
        lanes: in the order of their places.
    """

    memory: Tensor
    lanes: list[Lane] = field(default_factory=list)


class Pools:
    """The pools, by capacity: powers of two."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._pools: dict[int, Pool] = {}

    @property
    def used(self) -> list[Pool]:
        """Pools with rows, the smallest first."""
        return [self._pools[capacity] for capacity in sorted(self._pools) if self._pools[capacity].lanes]

    def settle(self, lane: Lane, tokens: int) -> None:
        """See that `lane` lies in a pool, with room for `tokens` own tokens; what it holds moves along."""
        if lane.pool and lane.pool.memory.shape[-2] >= tokens:
            return
        pool = self._with_place(capacity_for(tokens))
        place = len(pool.lanes)
        source = lane.pool.memory[:, :, lane.index] if lane.pool else lane.memory
        if source is not None:
            held = source.reshape(*source.shape[:2], *source.shape[-3:])[..., : lane.filled, :]
            pool.memory[:, :, place, :, : lane.filled] = held
        self.leave(lane)
        lane.pool, lane.index, lane.memory = pool, place, None
        pool.lanes.append(lane)

    def leave(self, lane: Lane) -> None:
        """Free the lane's place; the pool's last row moves there."""
        if lane.pool is None:
            return
        last = lane.pool.lanes.pop()
        if last is not lane:
            memory = lane.pool.memory
            memory[:, :, lane.index, :, : last.filled] = memory[:, :, last.index, :, : last.filled]
            lane.pool.lanes[lane.index] = last
            last.index = lane.index
        lane.pool = None

    def clear(self) -> None:
        """Give all memory back."""
        self._pools.clear()

    def _with_place(self, capacity: int) -> Pool:
        if capacity not in self._pools:
            self._pools[capacity] = Pool(self._shape.zeros(1, capacity))
        pool = self._pools[capacity]
        count = pool.memory.shape[2]
        if len(pool.lanes) == count:
            grown = self._shape.zeros(2 * count, capacity)
            for lane in pool.lanes:
                grown[:, :, lane.index, :, : lane.filled] = pool.memory[:, :, lane.index, :, : lane.filled]
            pool.memory = grown
        return pool


def capacity_for(tokens: int) -> int:
    """The capacity of the pool for a row of `tokens` own tokens."""
    return max(_SMALLEST, 1 << (tokens - 1).bit_length())


def agree(a: Ints, b: Ints) -> int:
    """Length of the common prefix."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if len(differ) else size
