"""Virtual tokens: learned vectors before every text, as prompt tuning and prefix tuning have them.

In a forest or a prompt they are tokens with negative ids at its beginning: virtual token j is -1 - j. What all rows
begin with they share, so that a forest holds the virtual tokens once, as the root of all its trees, and the decode loop
keeps them like any other beginning. Prompt tuning learns their embeddings; prefix tuning their keys and values in every
layer, which take the place of those that the layer computes there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shinan.models.attention import Attends


class Virtual:
    """The virtual tokens of a model that PEFT has wrapped.

    Attributes:
        ids: their ids, in order; empty for a model without.
    """

    def __init__(self, model: Any) -> None:
        """Take any causal LM, wrapped or not."""
        config: Any = model.active_peft_config if hasattr(model, "peft_config") else None
        learns: bool = config is not None and config.is_prompt_learning
        self.ids: tuple[int, ...] = tuple(range(-1, -1 - config.num_virtual_tokens, -1)) if learns else ()
        self._encoder = model.prompt_encoder[model.active_adapter] if learns else None
        self._shape = (config.num_layers, 2, config.num_attention_heads) if learns else ()
        self._in_layers = learns and config.peft_type == "PREFIX_TUNING"

    def embedded(self, ids: Tensor, embedded: Tensor) -> Tensor:
        """`embedded` [1, t, d], with what is learned in the places of virtual tokens; `ids` are [1, t]."""
        if not self.ids or self._in_layers:
            return embedded
        learned = self._learned().to(embedded.dtype)[(-1 - ids).clamp_min(0)]
        return torch.where(ids[..., None] < 0, learned, embedded)

    def before(self, ids: Tensor, layout: Attends) -> Attends:
        """`layout`, in which keys and values of virtual tokens are what is learned; `ids` are [1, t]."""
        if not self._in_layers:
            return layout
        places = (ids[0] < 0).nonzero()[:, 0]
        if not len(places):
            return layout
        learned = self._learned()[-1 - ids[0, places]]  # [n, layers * 2 * groups * size]
        return _Behind(layout, places, learned.view(len(places), *self._shape, -1).permute(1, 2, 3, 0, 4))

    def _learned(self) -> Tensor:
        """[tokens, width], as peft makes them: while it trains, perhaps by a network."""
        encoder: Any = self._encoder
        if hasattr(encoder, "transform"):
            return encoder(torch.arange(len(self.ids), device=encoder.embedding.weight.device))  # type: ignore[no-any-return]
        return encoder.embedding.weight  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Behind:
    """A layout some of whose keys and values are learned.

    Attributes:
        layout: the layout.
        places: [n] where the virtual tokens are.
        learned: [layers, 2, groups, n, size] their keys and values.
    """

    layout: Attends
    places: Tensor
    learned: Tensor

    @property
    def depths(self) -> Tensor:
        """See `Attends`."""
        return self.layout.depths

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
        learned = self.learned[module.layer_idx].to(key.dtype)  # type: ignore[index]
        key, value = (x.index_copy(2, self.places, new[None]) for x, new in zip((key, value), learned, strict=True))
        return self.layout.attend(module, query, key, value, scaling=scaling, dropout=dropout, window=window)
