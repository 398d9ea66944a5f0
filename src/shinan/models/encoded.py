"""The decode loop of encoder-decoders, with the surface of `DecodeLoop`.

A prompt is encoded as its row gets a slot. Then all running rows go on together, one token for each in every step, over
one padded cache of transformers' kind. In it the tokens of a row stand at the right end of its line, so that a step
adds one column, whatever the rows' lengths; lines that end make room, and the next rows join.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from shinan.core.errors import DataError
from shinan.models.decode import Row, check_ids, draw
from shinan.models.encoder_decoder import EncoderDecoder, padded, seen
from shinan.models.memory import free_memory
from shinan.models.narrow import narrow_products


class EncodedLoop:
    """Continues rows, at most `slots` of them at a time. Not thread-safe: one thread adds, steps and cancels.

    Attributes:
        slots: rows that run together.
        max_tokens: tokens of both sides whose keys and values are kept at most, padding included; rows wait until
            there is room.
    """

    def __init__(self, model: Any, *, slots: int = 16, max_tokens: int | None = None) -> None:
        """`model` is a transformers encoder-decoder in eval mode, or one wrapped by PEFT. By default, keys and values
        may take a quarter of the memory that is free now.

        Raises ModelError for a model whose head is not one that `Decoder` computes exactly.
        """
        self._decoder = EncoderDecoder(model)
        self.slots = slots
        self.max_tokens = max_tokens or max(1, free_memory(self._decoder.device) // 4 // _token_bytes(self._decoder))
        self._waiting: deque[Row] = deque()
        self._running: list[Row] = []  # in the order of the cache's lines
        self._cache: Any = None
        self._seen = torch.empty(0, 0, dtype=torch.bool, device=self._decoder.device)  # [n, s] of the encoded prompts

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._running and not self._waiting

    def add(self, row: Row) -> None:
        """Queue a row: `row.source` tokens for the encoder, the rest of the prompt for the decoder to begin with.

        Raises DataError for a row that could never run: a side without a token, more tokens than `max_tokens`, more
        positions on one side than the model has learned, a token that it lacks.
        """
        if not 0 < row.source < len(row.prompt):
            raise DataError("the prompt has no tokens", fix="give it at least one, and the decoder its first")
        check_ids(row, len(self._decoder.head.weight))
        sides = row.source, _room(row)
        limit = self._decoder.positions or self.max_tokens
        if max(sides) > limit or sum(sides) > self.max_tokens:
            what = f"the prompt takes {sides[0]:,} tokens and its continuation may take {sides[1]:,}"
            room = f"{limit:,} on each side, {self.max_tokens:,} together"
            raise DataError(f"{what}; there is room for {room}", fix="shorten the prompt, or allow fewer new tokens")
        self._waiting.append(row)

    @torch.inference_mode()
    def cancel(self, row: Row) -> None:
        """Take a row out, whether it waits or runs; it is not returned by `step`. Nothing happens if it has ended."""
        if row.finish:
            return
        row.finish = "cancelled"
        if row in self._waiting:
            self._waiting.remove(row)
        else:
            self._keep([place for place, other in enumerate(self._running) if other is not row])

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Fill free slots, compute one token for every running row; returns the rows that ended by it."""
        ended, fresh = self._admit()
        states = [self._advance()] if self._running else []
        states += [self._begin(list(rows)) for _, rows in groupby(fresh, key=lambda row: len(row.prompt) - row.source)]
        if not states:
            return ended
        draw(self._decoder.head.logits(torch.cat(states)), [(row, ()) for row in self._running])
        ended += [row for row in self._running if row.finish]
        self._keep([place for place, row in enumerate(self._running) if not row.finish])
        return ended

    def _admit(self) -> tuple[list[Row], list[Row]]:
        """Rows that end at once, as they ask for no token, and rows for free slots, as far as there is memory: those
        whose decoder begins with equally many tokens together."""
        ended: list[Row] = []
        fresh: list[Row] = []
        while self._waiting and len(self._running) + len(fresh) < self.slots:
            if self._waiting[0].sampling.max_new_tokens <= 0:
                ended.append(self._waiting.popleft())
                ended[-1].finish = "length"
                continue
            together = [*self._running, *fresh, self._waiting[0]]
            width = max(row.source for row in together) + max(map(_room, together))
            if len(together) > 1 and len(together) * width > self.max_tokens:
                break
            fresh.append(self._waiting.popleft())
        return ended, sorted(fresh, key=lambda row: len(row.prompt) - row.source)

    def _begin(self, rows: list[Row]) -> Tensor:
        """Encode the prompts of rows whose decoder begins with equally many tokens; their next states [n, d]."""
        texts = [tuple(row.prompt[: row.source]) for row in rows]
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        readers = torch.tensor([places[text] for text in texts], device=self._decoder.device)
        known = seen(list(places), self._decoder.device)
        ids = padded(list(places), self._decoder.device)
        begun = padded([row.prompt[row.source :] for row in rows], self._decoder.device)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with narrow_products(self._decoder.lm, max(ids.numel(), begun.numel())):
            encoded = self._decoder.encode(ids, known).index_select(0, readers)
            states = self._feed(begun, None, encoded, known.index_select(0, readers), cache)
        self._join(rows, cache, known.index_select(0, readers))
        return states

    def _advance(self) -> Tensor:
        """Feed the newest token of every running row; their next states [n, d]."""
        device = self._decoder.device
        lengths = torch.tensor([_length(row) - 1 for row in self._running], device=device)  # of what is in the cache
        filled = self._cache.get_seq_length()
        own = torch.arange(filled + 1, device=device) >= filled - lengths[:, None]
        ids = torch.tensor([[row.ids[-1]] for row in self._running], device=device)
        # the keys and values of the prompt are in the cache: of the encoder's states only their shape is asked
        encoded = self._decoder.head.weight.new_empty(1).expand(*self._seen.shape, self._decoder.head.weight.shape[1])
        with narrow_products(self._decoder.lm, len(ids)), _positions(self._decoder.body.decoder, lengths[:, None]):
            return self._feed(ids, own, encoded, self._seen, self._cache)

    def _feed(self, ids: Tensor, own: Tensor | None, encoded: Tensor, known: Tensor, cache: Any) -> Tensor:
        hidden = self._decoder.body.decoder(
            input_ids=ids,
            attention_mask=own,
            encoder_hidden_states=encoded,
            encoder_attention_mask=known,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self._decoder.scaled(hidden[:, -1])

    def _join(self, rows: list[Row], cache: Any, known: Tensor) -> None:
        """Take up rows that have begun."""
        self._running += rows
        if self._cache is None:
            self._cache, self._seen = cache, known
            return
        for ours, new in zip(_layers(self._cache, "self"), _layers(cache, "self"), strict=True):
            ours.keys, ours.values = _stacked(ours.keys, new.keys, 0), _stacked(ours.values, new.values, 0)
        for ours, new in zip(_layers(self._cache, "cross"), _layers(cache, "cross"), strict=True):
            ours.keys, ours.values = _stacked(ours.keys, new.keys, 1), _stacked(ours.values, new.values, 1)
        width = max(self._seen.shape[1], known.shape[1])
        self._seen = torch.cat([F.pad(part, (0, width - part.shape[1])) for part in (self._seen, known)])

    def _keep(self, places: Sequence[int]) -> None:
        """Let go of all running rows but those at `places`, and of the columns that none of these needs."""
        if len(places) == len(self._running):
            return
        self._running = [self._running[place] for place in places]
        if not self._running:
            self._cache = None
            return
        kept = torch.tensor(places, device=self._decoder.device)
        first = self._cache.get_seq_length() - max(_length(row) - 1 for row in self._running)
        width = max(row.source for row in self._running)
        for kind, columns in (("self", slice(first, None)), ("cross", slice(width))):
            for layer in _layers(self._cache, kind):
                layer.keys = layer.keys[:, :, columns].index_select(0, kept)
                layer.values = layer.values[:, :, columns].index_select(0, kept)
        self._seen = self._seen[:, :width].index_select(0, kept)


def _length(row: Row) -> int:
    """Tokens that the decoder has of a row, the newest included, which it may not have read."""
    return len(row.prompt) - row.source + len(row.ids)


def _room(row: Row) -> int:
    """Tokens that the decoder may come to hold of a row."""
    return len(row.prompt) - row.source + row.sampling.max_new_tokens


def _layers(cache: Any, kind: str) -> Sequence[Any]:
    return (cache.self_attention_cache if kind == "self" else cache.cross_attention_cache).layers  # type: ignore[no-any-return]


def _stacked(ours: Tensor, new: Tensor, end: int) -> Tensor:
    """[n + m, h, t, d] of [n, h, *, d] and [m, h, *, d], padded at the beginning, or with `end` 1 at the end."""
    width = max(ours.shape[2], new.shape[2])
    sides = [(0, 0, *((0, width - part.shape[2]) if end else (width - part.shape[2], 0))) for part in (ours, new)]
    return torch.cat([F.pad(part, side) for part, side in zip((ours, new), sides, strict=True)])


@contextmanager
def _positions(decoder: Any, places: Tensor) -> Iterator[None]:
    """Inside, a decoder that has learned positions takes those of `places` [n, 1]: it would count all of a line."""
    module = getattr(decoder, "embed_positions", None)
    if module is None:
        yield
        return
    module.__dict__["forward"] = lambda *_, **__: F.embedding(places + module.offset, module.weight)
    try:
        yield
    finally:
        del module.__dict__["forward"]


def _token_bytes(decoder: EncoderDecoder) -> int:
    """Keys and values of a token, of either side, in all layers of the decoder."""
    config, layers = decoder.lm.config, decoder.body.decoder
    heads = config.num_attention_heads
    width = heads * getattr(config, "d_kv", config.d_model // heads)
    count = len(layers.block if hasattr(layers, "block") else layers.layers)
    return int(2 * count * width * decoder.head.weight.element_size())
