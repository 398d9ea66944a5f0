"""Attention over the decode loop's cache: one packed forward pass for new prompts and running rows alike.

Each token attends to its own row and, if the row hangs on a shared prefix, to that. The two parts are computed apart
and joined by their log-sum-exps, so that a prefix is read once for all rows that share it (cascade attention, as
FlashInfer has it, arXiv 2501.01005, section 3.1.2); for running rows heads that share keys are one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from shinan.models.cache import Ints, Lane, Pool, Prefix

_ROWS = 256  # queries a piece where a mask is needed


@dataclass(slots=True, eq=False)
class Batch:
    """New tokens of every row of a pool: one, or a few where guesses are checked.

    Attributes:
        pool: the pool.
        tokens: where the new tokens stand in the packed sequence, those of a row together.
        rows: [n] the row of each.
        places: [n] where each goes in its row.
        turns: [n] 0, 1, ... among the new ones of its row.
        table: [rows, most] which of them are each row's; a row with fewer repeats its last.
        longest: own tokens of the longest row, the new ones included.
    """

    pool: Pool
    tokens: slice
    rows: Tensor
    places: Tensor
    turns: Tensor
    table: Tensor
    longest: int
    _made: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, query: Tensor, new: Tensor, scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """See `_part`; query [h, t, d], new keys and values [2, g, t, d] of this batch."""
        count, most = self.table.shape
        memory = self.pool.memory[layer, :, :count]
        memory[:, self.rows, :, self.places] = new.permute(2, 0, 1, 3)
        keys, values = memory[..., : self.longest, :]
        heads, groups = len(query), keys.shape[1]
        times = heads // groups
        asked = query.transpose(0, 1)[self.table] if most > 1 else query.transpose(0, 1)[:, None]
        grouped = asked.transpose(1, 2).reshape(count, groups, times * most, -1)
        out, lse = _part(grouped, keys, values, self._bias(window, new.dtype, times), scaling)
        out, lse = out.reshape(count, heads, most, -1), lse.reshape(count, heads, most)
        return out[self.rows, :, self.turns].transpose(0, 1), lse[self.rows, :, self.turns].T

    def _bias(self, window: int | None, dtype: torch.dtype, times: int) -> Tensor | None:
        """[rows, 1, times * most, longest]."""
        if window is not None and window >= self.longest:
            window = None
        if window not in self._made:
            own = self.places[self.table][..., None]
            places = torch.arange(self.longest, device=own.device)
            seen = places <= own
            if window is not None:
                seen &= own - places < window
            self._made[window] = _bias(seen, dtype).repeat(1, times, 1)[:, None]
        return self._made[window]


@dataclass(slots=True, eq=False)
class Stretch:
    """Tokens [start, stop) of a prompt, after those that its memory holds already.

    Attributes:
        memory: [layers, 2, 1, groups, >= stop, size].
        tokens: where they stand in the packed sequence.
        start: tokens before them in this memory.
        stop: and with them.
    """

    memory: Tensor
    tokens: slice
    start: int
    stop: int

    def attend(
        self, layer: int, query: Tensor, new: Tensor, scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """See `_part`; query [h, t, d], new keys and values [2, g, t, d] of this stretch."""
        memory = self.memory[layer]
        memory[:, 0, :, self.start : self.stop] = new
        if self.start == 0 and (window is None or window >= self.stop):
            keys, values = memory[..., : self.stop, :]
            out, lse = _part(query[None], keys, values, None, scaling, causal=True)
            return out[0], lse[0]
        outs, lses = [], []
        for low in range(self.start, self.stop, _ROWS):
            high = min(low + _ROWS, self.stop)
            first = 0 if window is None else max(0, low - window + 1)
            behind = torch.arange(low, high)[:, None] - torch.arange(first, high)
            seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
            bias = _bias(seen.to(new.device), new.dtype)[None, None]
            keys, values = memory[..., first:high, :]
            part = query[None, :, low - self.start : high - self.start]
            out, lse = _part(part, keys, values, bias, scaling)
            outs.append(out[0])
            lses.append(lse[0])
        return torch.cat(outs, 1), torch.cat(lses, 1)


@dataclass(slots=True, eq=False)
class Hanging:
    """Tokens of all rows that hang on the first `used` tokens of one prefix.

    Attributes:
        prefix: the prefix.
        used: how much of it they share.
        tokens: [n] where they stand in the packed sequence.
        depths: [n] their positions in their rows, prefix included.
    """

    prefix: Prefix
    used: int
    tokens: Tensor
    depths: Tensor

    def join(self, layer: int, query: Tensor, out: Tensor, lse: Tensor, scaling: float, window: int | None) -> None:
        """Add what the prefix contributes to `out` [h, t, d], whose log-sum-exps over own tokens are `lse` [h, t]."""
        tokens, depths, first = self.tokens, self.depths, 0
        bias = None
        if window is not None and int(depths.max()) >= window:
            sees = depths - (self.used - 1) < window
            tokens, depths = tokens[sees], depths[sees]
            if not len(tokens):
                return
            first = max(0, int(depths.min()) - window + 1)
            behind = depths[:, None] - torch.arange(first, self.used, device=depths.device)
            bias = _bias(behind < window, out.dtype)
        keys, values = self.prefix.memory[layer][..., first : self.used, :]
        heads, groups = len(query), keys.shape[1]
        asked = query[:, tokens].reshape(1, groups, heads // groups * len(tokens), -1)
        bias = None if bias is None else bias.repeat(heads // groups, 1)[None, None]
        more, above = _part(asked, keys, values, bias, scaling)
        more, above = more.reshape(heads, len(tokens), -1), above.reshape(heads, len(tokens))
        share = torch.sigmoid(above - lse[:, tokens])[..., None]
        out[:, tokens] = torch.lerp(out[:, tokens].float(), more.float(), share).to(out.dtype)


@dataclass(slots=True, eq=False)
class Plan:
    """What the tokens of one forward pass attend to.

    Attributes:
        depths: [t] position of each token in its row.
        parts: batches and stretches, in the order of their tokens.
        hanging: tokens that also attend to a prefix.
    """

    depths: Tensor
    parts: Sequence[Batch | Stretch]
    hanging: Sequence[Hanging]

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        dropout: float,
        window: int | None,
    ) -> Tensor:
        """See `Attends`; without dropout. New keys and values go into the cache."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        query, new = query[0], torch.cat([key, value])
        found = [
            part.attend(layer, query[:, part.tokens], new[:, :, part.tokens], scaling, window) for part in self.parts
        ]
        out = torch.cat([own for own, _ in found], 1)
        if self.hanging:
            lse = torch.cat([own for _, own in found], 1)
            for group in self.hanging:
                group.join(layer, query, out, lse, scaling, window)
        return out.transpose(0, 1)[None]


@dataclass(frozen=True, slots=True)
class Packed:
    """The input of one forward pass (see `Decoder.states`).

    Attributes:
        ids: [1, t] token ids.
        layout: positions and attention.
        positions: [n] where in the packed sequence final hidden states are wanted.
    """

    ids: Tensor
    layout: Plan
    positions: Tensor


class Packing:
    """Collects the tokens of one forward pass. What it is given counts as computed at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ids: list[Sequence[int] | Ints] = []
        self._depths: list[Ints] = []
        self._parts: list[Batch | Stretch] = []
        self._hanging: dict[tuple[int, int], list[tuple[Prefix, slice]]] = {}
        self._wanted: list[int] = []
        self._size = 0

    def batch(self, pool: Pool, ids: Sequence[Sequence[int]]) -> None:
        """The new tokens of every row of a pool, one or more; the state after each is wanted."""
        counts = np.array([len(own) for own in ids])
        first = counts.cumsum() - counts
        rows = np.repeat(np.arange(len(ids)), counts)
        turns = np.arange(len(rows)) - first[rows]
        filled, used = np.array([(lane.filled, lane.used) for lane in pool.lanes], dtype=np.int64).T
        places = filled[rows] + turns
        tokens = self._take([token for own in ids for token in own], used[rows] + places)
        table = first[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)
        longest, tensor = int(places.max()) + 1, self._tensor
        made = Batch(pool, tokens, tensor(rows), tensor(places), tensor(turns), tensor(table), longest)
        self._parts.append(made)
        self._wanted += range(tokens.start, tokens.stop)
        for lane, start, count in zip(pool.lanes, tokens.start + first, counts, strict=True):
            lane.filled += int(count)
            self._hang(lane, slice(int(start), int(start + count)))

    def prefix(self, prefix: Prefix, limit: int) -> int:
        """At most `limit` tokens more of a prefix; returns how many."""
        start, stop = prefix.filled, min(len(prefix.tokens), prefix.filled + limit)
        if stop > start:
            self._stretch(prefix.memory, prefix.tokens[start:stop], start, start)
            prefix.filled = stop
        return stop - start

    def prompt(self, prompt: Ints, lane: Lane, limit: int) -> int:
        """At most `limit` tokens more of a row's prompt, if its prefix is there; returns how many. The state after the
        last token of the prompt is wanted."""
        if lane.memory is None or (lane.prefix and lane.prefix.filled < lane.used):
            return 0
        start, depth = lane.filled, lane.used + lane.filled
        part = prompt[depth : depth + limit]
        if not len(part):
            return 0
        tokens = self._stretch(lane.memory, part, start, depth)
        lane.filled += len(part)
        self._hang(lane, tokens)
        if depth + len(part) == len(prompt):
            self._wanted.append(tokens.stop - 1)
        return len(part)

    def packed(self) -> Packed:
        """Everything collected."""
        depths = np.concatenate(self._depths)
        hanging = []
        for (_, used), members in self._hanging.items():
            tokens = np.concatenate([np.arange(where.start, where.stop) for _, where in members])
            prefix = members[0][0]
            hanging.append(Hanging(prefix, used, self._tensor(tokens), self._tensor(depths[tokens])))
        ids = np.concatenate([np.asarray(part, dtype=np.int64) for part in self._ids])
        wanted = np.array(self._wanted, dtype=np.int64)
        return Packed(self._tensor(ids)[None], Plan(self._tensor(depths), self._parts, hanging), self._tensor(wanted))

    def _stretch(self, memory: Tensor, part: Ints, start: int, depth: int) -> slice:
        tokens = self._take(part, np.arange(depth, depth + len(part)))
        self._parts.append(Stretch(memory, tokens, start, start + len(part)))
        return tokens

    def _take(self, ids: Sequence[int] | Ints, depths: Ints) -> slice:
        self._ids.append(ids)
        self._depths.append(depths)
        self._size += len(ids)
        return slice(self._size - len(ids), self._size)

    def _hang(self, lane: Lane, tokens: slice) -> None:
        if lane.prefix:
            self._hanging.setdefault((id(lane.prefix), lane.used), []).append((lane.prefix, tokens))

    def _tensor(self, values: Ints) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


def _flash(query: Tensor) -> bool:
    """Whether there is a kernel that tells its log-sum-exps."""
    return query.device.type == "cpu"


def _part(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scaling: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention of query [b, h, t, d] to some keys and values [b, g, k, d], and its log-sum-exps [b, h, t] in fp32.

    Every query sees at least one key.
    """
    if _flash(query):
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return flash(query, keys, values, 0.0, causal, attn_mask=bias, scale=scaling)  # type: ignore[no-any-return]
    times = query.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(times, 1) for x in (keys, values))
    scores = (query @ keys.mT).float() * scaling
    if causal:
        scores.masked_fill_(torch.ones_like(scores[0, 0], dtype=torch.bool).triu_(1), float("-inf"))
    if bias is not None:
        scores += bias
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp().to(values.dtype) @ values, lse
