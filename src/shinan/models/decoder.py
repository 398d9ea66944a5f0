"""A causal language model as tuning and scoring see it: forest batches in, likelihoods at supervised positions out.

transformers computes the blocks; the embedding's lookup, attention and the head are ours. The gradients of the two
large matrices, embedding and head, are added in place to `sinks` in fp32: a dense gradient of a 262,144-token embedding
for each forward pass, most of it zeros, costs more than the rest of a small model's backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from shinan.core.errors import ModelError
from shinan.models.attention import NAME, Attends, Backend, Layout
from shinan.models.batch import Batch, Sources, batch_of
from shinan.models.forest import Bundle, computed, lengths, pack
from shinan.models.head import Head
from shinan.models.virtual import Virtual

# What some models do to their logits after the head, by its name in their configs: Cohere, Granite, Falcon-H1,
# Muse, RecurrentGemma, xLSTM.
_AFTER_HEAD = (
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
    "logits_soft_cap",
    "output_logit_soft_cap",
)
_STACKS = ("layers", "h", "block")  # what models call their blocks
# What some models do inside attention that the forest's back ends do not.
_IN_ATTENTION = ("attn_logit_softcapping", "use_bidirectional_attention", "reorder_and_upcast_attn", "alibi")


class Input(Protocol):
    """What a forward pass takes: a `Batch`, or what the decode loop packs."""

    @property
    def ids(self) -> Tensor:
        """[1, t] token ids."""
        ...

    @property
    def layout(self) -> Attends | Sources:
        """Who attends to whom, and where each token stands; or what an encoder reads."""
        ...

    @property
    def positions(self) -> Tensor:
        """[n] where states are wanted."""
        ...


class Decoder:
    """A transformers causal LM, or one wrapped by PEFT, over forest batches.

    Used as a context manager: inside, the model's attention is the forest's (also in a backward pass that computes
    activations again); outside, it is its own.

    Attributes:
        lm: the causal LM itself.
        body: it without its head.
        head: its head.
        positions: how many positions it has learned; None if it computes them.
        virtual: what stands before every text.
    """

    def __init__(
        self,
        model: Any,
        backend: Backend | None = None,
        sinks: Mapping[nn.Parameter, Tensor] | None = None,
        noise: float = 0.0,
    ):
        """Take a model, a back end for attention (None: the device's), fp32 sinks for its large gradients, and the
        alpha of noise on its embeddings in training (see `_noisy`).

        Raises ModelError where the forest's maths would not be the model's: a head with a bias, scaled logits,
        attention with soft-caps, ALiBi or in both directions.
        """
        self.model = model
        self.lm = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.body = getattr(self.lm, self.lm.base_model_prefix, self.lm)  # T5 has no body of its own
        self._embedding = self.lm.get_input_embeddings()
        self._refuse()
        self.device = self._embedding.weight.device
        self.backend: Backend = backend or ("flex" if self.device.type == "cuda" else "tiles")
        sinks = sinks or {}
        weight = self.lm.get_output_embeddings().weight
        softcap = float(getattr(self.lm.config, "final_logit_softcapping", None) or 0.0)
        self.head = Head(weight, softcap, sinks.get(weight))
        self._sink = sinks.get(self._embedding.weight)
        self._own_attention: str = self.lm.config._attn_implementation
        self.positions = self._learned_positions()
        self.virtual = Virtual(model)
        self._noise = noise

    def __enter__(self) -> Self:
        self.lm.config._attn_implementation = NAME
        return self

    def __exit__(self, *_: object) -> None:
        self.lm.config._attn_implementation = self._own_attention

    def arrange(self, *, checkpoint: bool, compiled: bool) -> None:
        """Choose whether activations are computed again in the backward pass, and whether the blocks are compiled."""
        if checkpoint:
            self.lm.gradient_checkpointing_enable({"use_reentrant": False})
        if compiled:
            for layer in (layer for stack in blocks(self.model) for layer in stack):
                layer.compile(dynamic=True)

    def batch(self, bundles: Sequence[Bundle]) -> Batch:
        """All rows of the bundles, as one forward pass takes them."""
        return batch_of(bundles, self.device, self.backend, self.virtual.ids)

    def pack(self, bundles: Sequence[Bundle], capacity: int) -> list[tuple[int, ...]]:
        """Indices of bundles in batches of at most `capacity` tokens (see `forest.pack`)."""
        return pack(bundles, capacity)

    def computed(self, bundles: Sequence[Bundle]) -> int:
        """Tokens that are computed for these bundles, what they share once; padding is not counted."""
        return computed(bundles)

    def states(self, batch: Input) -> Tensor:
        """[n, d] final hidden states at the supervised positions, or wherever they are wanted."""
        layout = cast(Attends, batch.layout)
        hidden = self.body(
            inputs_embeds=self._embed(batch),
            position_ids=layout.depths[None],
            use_cache=False,
            layout=self.virtual.before(batch.ids, layout),
        ).last_hidden_state
        return hidden[0].index_select(0, batch.positions)  # type: ignore[no-any-return]

    def nll(self, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of the batch's targets, summed with its weights or others (see `Head.nll`)."""
        return self.head.nll(self.states(batch), batch.targets, batch.weights if weights is None else weights)

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> Tensor:
        """Log-probabilities [n] of the batch's targets, without gradient."""
        return self.head.log_probs(self.states(batch), batch.targets)

    def _embed(self, batch: Input) -> Tensor:
        embedded = self._looked_up(batch.ids.clamp_min(0) if self.virtual.ids else batch.ids)
        if self._noise and self.model.training and isinstance(batch, Batch):
            embedded = self._noisy(embedded, batch)
        return self.virtual.embedded(batch.ids, embedded)

    def _noisy(self, embedded: Tensor, batch: Batch) -> Tensor:
        """NEFTune (arXiv 2310.05914, algorithm 1): plus uniform noise in (-1, 1) * alpha / sqrt(length * width).

        The length is that of the longest row which a token is part of: rows that share it share its noise.
        """
        length = torch.from_numpy(lengths(cast(Layout, batch.layout).forest)).to(embedded.device) - len(
            self.virtual.ids
        )
        size = self._noise * (length * embedded.shape[-1]) ** -0.5
        noise = torch.rand(embedded.shape, device=embedded.device).mul_(2).sub_(1)
        return embedded + (noise * size[:, None]).to(embedded.dtype)

    def _looked_up(self, ids: Tensor) -> Tensor:
        scale = getattr(self._embedding, "embed_scale", None)
        if self._sink is None or not torch.is_grad_enabled():
            return self._embedding(ids)  # type: ignore[no-any-return]
        looked_up = _Lookup.apply(self._embedding.weight, ids, self._sink)  # type: ignore[no-untyped-call]
        if isinstance(scale, Tensor):
            scale = scale.to(looked_up.dtype)
        return looked_up if scale is None else looked_up * scale  # type: ignore[no-any-return]

    def _learned_positions(self) -> int | None:
        learned = getattr(self.body, "wpe", None)
        return None if learned is None else int(learned.num_embeddings)

    def _refuse(self) -> None:
        refuse_head(self.lm)
        for name in _IN_ATTENTION:
            if getattr(self.lm.config, name, None):
                what = f"{type(self.lm).__name__}'s attention is not one that forest batches compute exactly ({name})"
                fix = "use a model of another family, or switch the setting off in its config.json"
                raise ModelError(what, fix=fix)


class _Lookup(torch.autograd.Function):
    """Rows of an embedding; their gradients are added to a sink, and autograd is told of none."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, sink: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.sink = sink
        return weight[ids]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.sink.index_add_(0, ids.flatten(), grads[0].flatten(0, -2).float())
        return None, None, None


def blocks(model: Any) -> list[nn.ModuleList]:
    """The stack of blocks of a causal LM, or an encoder's and a decoder's, of a model that PEFT has wrapped or not. The
    blocks of a stack share one compiled code, for each kind of attention."""
    lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = getattr(lm, lm.base_model_prefix, lm)
    sides = (body.encoder, body.decoder) if hasattr(body, "encoder") else (body,)
    return [next(getattr(side, name) for name in _STACKS if hasattr(side, name)) for side in sides]


def refuse_head(lm: Any) -> None:
    """Raise ModelError for a head that does more than multiply states with its weight."""
    kind = type(lm).__name__
    bias = getattr(lm, "final_logits_bias", None)  # BART's, a buffer that is all zeros but in a few models
    if getattr(lm.get_output_embeddings(), "bias", None) is not None or (bias is not None and bool(bias.any())):
        raise ModelError(f"{kind}'s LM head has a bias", fix="use a model without one")
    for name in _AFTER_HEAD:
        if getattr(lm.config, name, None) not in (None, 1):
            raise ModelError(f"{kind} scales its logits ({name})", fix="use a model that does not")
