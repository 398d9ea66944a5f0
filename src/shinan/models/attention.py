"""Attention over a forest batch, through transformers' attention interface.

A model is switched to the attention function named `shinan_forest`; transformers then builds no mask for it, and hands
the keyword `layout` down to every layer. The function never guesses what belongs together from position ids.

Back ends, all with sliding windows and grouped queries:
- `dense`: one mask over the whole layout. The reference, and the only one that applies attention dropout.
- `tiles`: dense pieces along the forest's branches, with their own backward pass. For CPUs.
- `flex`: FlexAttention with a block mask, compiled. For CUDA.
- `varlen`: variable-length flash attention, for a forest of roots only (plain packing). For CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from shinan.models.forest import Forest, Tile, tiles

NAME = "shinan_forest"
Backend = Literal["dense", "tiles", "flex", "varlen"]


@dataclass(slots=True)
class Layout:
    """Who attends to whom in one forest batch, on the model's device.

    Attributes:
        forest: the batch.
        backend: how attention is computed.
        depths: [t] position of each token.
        ends: [t] one past the last token that descends from this one's segment.
    """

    forest: Forest
    backend: Backend
    depths: Tensor
    ends: Tensor
    _made: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, forest: Forest, backend: Backend, device: torch.device) -> Layout:
        """The layout of a forest; `varlen` falls back to `flex` where the forest branches."""
        if backend == "varlen" and any(segment.parent >= 0 for segment in forest.segments):
            backend = "flex"
        return cls(
            forest, backend, torch.from_numpy(forest.depths).to(device), torch.from_numpy(forest.ends).to(device)
        )

    def mask(self, window: int | None) -> Tensor:
        """[t, t] True where the query (row) attends to the key (column)."""
        key = ("mask", window)
        if key not in self._made:
            place = torch.arange(len(self.ends), device=self.ends.device)
            seen = (place <= place[:, None]) & (place[:, None] < self.ends)
            if window is not None:
                seen &= self.depths[:, None] - self.depths < window
            self._made[key] = seen
        return self._made[key]  # type: ignore[no-any-return]

    def tiles(self, window: int | None, groups: int, dtype: torch.dtype) -> Sequence[_Piece]:
        """The forest's tiles, their masks as [groups * queries, keys] with 0 and -inf."""
        key = ("tiles", window, groups, dtype)
        if key not in self._made:
            device = self.ends.device
            self._made[key] = [_piece(tile, groups, dtype, device) for tile in tiles(self.forest, window)]
        return self._made[key]  # type: ignore[no-any-return]

    def block_mask(self, window: int | None) -> Any:
        """FlexAttention's mask."""
        key = ("flex", window)
        if key not in self._made:
            from torch.nn.attention.flex_attention import create_block_mask

            ends, depths, size = self.ends, self.depths, len(self.ends)

            def seen(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                inside = (key <= query) & (query < ends[key])
                return inside if window is None else inside & (depths[query] - depths[key] < window)

            self._made[key] = create_block_mask(seen, None, None, size, size, device=str(ends.device))
        return self._made[key]

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
        """See `Attends`."""
        groups = query.shape[1] // key.shape[1]
        if dropout > 0 or self.backend == "dense":
            mask = self.mask(window)
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
            return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling).transpose(1, 2)
        if self.backend == "tiles":
            pieces = self.tiles(window, groups, query.dtype)
            return _Tiles.apply(query[0], key[0], value[0], pieces, scaling)[None]  # type: ignore[no-any-return, no-untyped-call]
        if self.backend == "varlen":
            return _varlen(query, key, value, self, scaling, window)
        from torch.nn.attention.flex_attention import flex_attention

        kernel = torch.compile(flex_attention, dynamic=True) if query.is_cuda else flex_attention
        block_mask = self.block_mask(window)
        out = kernel(query, key, value, block_mask=block_mask, scale=scaling, enable_gqa=groups > 1)
        return out.transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tile as tensors; `keys` is a slice where the keys stand side by side."""

    queries: slice
    keys: slice | Tensor
    bias: Tensor | None


def _piece(tile: Tile, groups: int, dtype: torch.dtype, device: torch.device) -> _Piece:
    first, last = int(tile.keys[0]), int(tile.keys[-1])
    beside = last - first + 1 == len(tile.keys)
    keys = slice(first, last + 1) if beside else torch.from_numpy(tile.keys).to(device)
    bias = None
    if tile.mask is not None:
        seen = torch.from_numpy(tile.mask).to(device)
        bias = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))
        bias = bias.repeat(groups, 1)
    return _Piece(slice(tile.start, tile.stop), keys, bias)


class _Tiles(torch.autograd.Function):
    """softmax(q k^T) v over tiles. The probabilities are kept for the backward pass: they are small beside the rest."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[_Piece], scale: float
    ) -> Tensor:  # q [h, t, d]; k, v [g, t, d]
        heads, size, _ = q.shape
        out = q.new_empty(size, heads, v.shape[-1])
        kept = []
        for piece in pieces:
            queries = _grouped(q, piece, len(k))
            bias = queries.new_zeros(()) if piece.bias is None else piece.bias
            scores = torch.baddbmm(bias, queries, k[:, piece.keys].mT, beta=0 if piece.bias is None else 1, alpha=scale)
            probs = scores.softmax(-1)
            out[piece.queries] = (probs @ v[:, piece.keys]).reshape(heads, -1, v.shape[-1]).transpose(0, 1)
            kept.append(probs)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.pieces, ctx.scale = pieces, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        slope = grads[0].transpose(0, 1)  # [h, t, d]
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        for piece, probs in zip(ctx.pieces, kept, strict=True):
            queries, out = _grouped(q, piece, len(k)), _grouped(slope, piece, len(k))
            _add(grad_v, piece.keys, probs.mT @ out)
            grad_scores = torch._softmax_backward_data(out @ v[:, piece.keys].mT, probs, -1, probs.dtype)
            part = (grad_scores @ k[:, piece.keys]).mul_(ctx.scale)
            grad_q[:, piece.queries] = part.reshape(len(q), -1, q.shape[-1])
            _add(grad_k, piece.keys, (grad_scores.mT @ queries).mul_(ctx.scale))
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None


def _grouped(x: Tensor, piece: _Piece, groups: int) -> Tensor:
    """[h, t, d] -> the piece's queries as [g, h / g * n, d]: heads that share keys are one matrix product."""
    return x[:, piece.queries].reshape(groups, -1, x.shape[-1])


def _add(total: Tensor, keys: slice | Tensor, part: Tensor) -> None:
    """In fp32: a shared prefix gathers from many tiles."""
    if isinstance(keys, slice):
        total[:, keys] += part
    else:
        total.index_add_(1, keys, part.float())


class Attends(Protocol):
    """What the keyword `layout` of a forward pass may be."""

    @property
    def depths(self) -> Tensor:
        """[t] position of each token."""
        ...

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
        """Attention of a layer: query [1, h, t, d], key and value [1, g, t, d] -> [1, t, h, d]."""
        ...


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Attends,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface."""
    return layout.attend(module, query, key, value, scaling=scaling, dropout=dropout, window=sliding_window), None


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts = [segment.start for segment in layout.forest.segments]
    bounds = torch.tensor([*starts, query.shape[2]], dtype=torch.int32, device=query.device)
    longest = max(segment.stop - segment.start for segment in layout.forest.segments)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    size = (-1 if window is None else window - 1, 0)
    out = varlen_attn(
        q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=size, enable_gqa=q.shape[1] != k.shape[1]
    )
    return cast(Tensor, out)[None]


AttentionInterface.register(NAME, torch.compiler.disable(_attend))  # type: ignore[no-untyped-call]
