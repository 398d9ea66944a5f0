"""An encoder-decoder as tuning and scoring see it: padded batches, with the surface of `Decoder`.

The encoder runs once over each different prompt of a batch, whatever replies hang on it; the decoder over the padded
replies; the head at supervised positions only. transformers computes the blocks, masks and positions, so that the
maths is the model's own. Where a model's config sets dropout (T5's does, 0.1), training applies it; rows that share a
prompt share what is dropped from its encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor

from shinan.models.batch import Batch, Sources
from shinan.models.decoder import Decoder, Input, refuse_head
from shinan.models.forest import Bundle, TokenRow

Ids = tuple[int, ...]


class EncoderDecoder(Decoder):
    """A transformers model of the T5 or the BART family, or one wrapped by PEFT, over padded batches."""

    def __enter__(self) -> Self:
        return self  # attention is the model's own, inside and outside

    def __exit__(self, *_: object) -> None:
        pass

    def batch(self, bundles: Sequence[Bundle]) -> Batch:
        """All rows of the bundles, padded. See `Decoder.batch`."""
        rows = [row for bundle in bundles for row in bundle]
        places = {source: place for place, source in enumerate(dict.fromkeys(map(_source, rows)))}
        sources = padded(list(places), self.device)
        ids = padded([_target(row) for row in rows], self.device)
        labels = [
            (number * ids.shape[1] + at - row.source - 1, row.ids[at], number, row.weight)
            for number, row in enumerate(rows)
            for at, trained in enumerate(row.mask)
            if trained
        ]
        positions, targets, examples, weights = zip(*labels, strict=True) if labels else ((), (), (), ())
        return Batch(
            ids,
            Sources(sources, seen(list(places), self.device), self._ints([places[_source(row)] for row in rows])),
            positions=self._ints(positions),
            targets=self._ints(targets),
            examples=self._ints(examples),
            weights=torch.tensor(weights, dtype=torch.float32, device=self.device),
            sizes=tuple(len(bundle) for bundle in bundles),
        )

    def pack(self, bundles: Sequence[Bundle], capacity: int) -> list[tuple[int, ...]]:
        """Indices of bundles in batches of at most `capacity` tokens, padding included.

        Bundles are taken in the order of their lengths, those with equal prompts together.
        """
        bins: list[list[int]] = []
        rows: list[TokenRow] = []
        for index in sorted(range(len(bundles)), key=lambda index: _order(bundles[index])):
            rows += bundles[index]
            if not bins or _padded(rows) > capacity:
                bins.append([])
                rows = list(bundles[index])
            bins[-1].append(index)
        return [tuple(inside) for inside in bins]

    def computed(self, bundles: Sequence[Bundle]) -> int:
        """Tokens of each different prompt once, and of all replies. See `Decoder.computed`."""
        rows = [row for bundle in bundles for row in bundle]
        return sum(map(len, {_source(row) for row in rows})) + sum(len(_target(row)) for row in rows)

    def states(self, batch: Input) -> Tensor:
        """[n, d] what the head multiplies, at the supervised positions or wherever it is wanted."""
        sources = cast(Sources, batch.layout)
        encoded = self.encode(sources.ids, sources.seen).index_select(0, sources.readers)
        hidden = self.body.decoder(
            inputs_embeds=self._looked_up(batch.ids),
            encoder_hidden_states=encoded,
            encoder_attention_mask=sources.seen.index_select(0, sources.readers),
            use_cache=False,
        ).last_hidden_state
        return self.scaled(hidden.flatten(0, 1).index_select(0, batch.positions))

    def encode(self, ids: Tensor, seen: Tensor) -> Tensor:
        """[s, t, d] what the encoder makes of texts [s, t], padded where `seen` is False."""
        return self.body.encoder(  # type: ignore[no-any-return]
            inputs_embeds=self._looked_up(ids), attention_mask=seen
        ).last_hidden_state

    def scaled(self, hidden: Tensor) -> Tensor:
        """The decoder's states as the head takes them: T5 divides them by the root of their width where head and
        embedding are one matrix (mesh-tensorflow's way); T5 1.1 and mT5, whose heads are their own, do not."""
        scales = getattr(self.lm.config, "scale_decoder_outputs", False)
        return hidden * self.lm.config.d_model**-0.5 if scales else hidden

    def _ints(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _learned_positions(self) -> int | None:
        """Of each side: BART has learned them, T5 has none."""
        learned = getattr(self.body.decoder, "embed_positions", None)
        return None if learned is None else int(self.lm.config.max_position_embeddings)

    def _refuse(self) -> None:
        refuse_head(self.lm)


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """[n, t] int64, each text from the left on. What stands after a text is not looked at, so it may be anything."""
    width = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (width - len(text))] for text in texts], dtype=torch.int64, device=device)


def seen(texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """[n, t] bool, True where `padded` holds a text."""
    sizes = torch.tensor([len(text) for text in texts], device=device)
    return torch.arange(int(sizes.max()), device=device) < sizes[:, None]


def _source(row: TokenRow) -> Ids:
    return row.ids[: row.source]


def _target(row: TokenRow) -> Ids:
    """What the decoder reads: the last token is only predicted."""
    return row.ids[row.source : -1]


def _order(bundle: Bundle) -> tuple[int, Ids, int]:
    return bundle[0].source, _source(bundle[0]), max(len(row.ids) for row in bundle)


def _padded(rows: Sequence[TokenRow]) -> int:
    """Tokens of a batch of these rows."""
    sources = {_source(row) for row in rows}
    return len(sources) * max(map(len, sources)) + len(rows) * max(len(_target(row)) for row in rows)
