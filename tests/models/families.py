"""A small random model of every supported family, rows that share beginnings, and the reference to compare with."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from shinan.models.forest import Bundle, TokenRow

Gradients = dict[str, Tensor]

VOCABULARY = 64
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
_NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}

# Windows are shorter than the rows. The name up to a `+` is the family's in transformers.
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"layer_types": _LAYERS, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "gemma3_text+softcap": {"layer_types": _LAYERS, "sliding_window": 6, "final_logit_softcapping": 1.5},
    "gpt2": _NO_DROPOUT,
    "gpt2+scaled": _NO_DROPOUT | {"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False},
    "gpt_neox": {},
    "gpt_neox+sequential": {"use_parallel_residual": False, "tie_word_embeddings": True},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "llama+tied": {"tie_word_embeddings": True, "num_key_value_heads": 1},
    "mistral": {"sliding_window": 6},
    "qwen2": {},
    "qwen2+window": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen3": {"tie_word_embeddings": True},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
}


_BESIDE = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_T5 = _BESIDE | {
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
_BART = _BESIDE | {
    "bos_token_id": 1,
    "decoder_start_token_id": 2,
    "max_position_embeddings": 40,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "dropout": 0.0,
}

# T5 1.1 and mT5 as they are published: with a head that is not the embedding, and no scaling before it.
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": _T5,
    "t5+1.1": _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": _T5,
    "bart": _BART,
    "bart+scaled": _BART | {"scale_embedding": True},
}


def make(name: str, *, attention: str = "sdpa", **more: Any) -> Any:
    """The model `name` of `FAMILIES`, or of any family of transformers, in eval mode, fp32, without dropout.

    Weights are large enough for attention to choose and for every token to matter.
    """
    kind = name.partition("+")[0]
    config: Any = AutoConfig.for_model(kind, **_SHAPE | FAMILIES.get(name, {}) | more)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=source)
            weight.copy_(noise * weight.shape[-1] ** -0.5 if weight.ndim > 1 else weight + 0.1 * noise)
    return model.eval()


def make_pair(name: str, **more: Any) -> Any:
    """The encoder-decoder `name` of `ENCODER_DECODERS`, as `make` makes decoders."""
    kind = name.partition("+")[0]
    config: Any = AutoConfig.for_model(kind, **ENCODER_DECODERS[name] | more)
    model: Any = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    if name in ("t5+1.1", "mt5"):
        model.lm_head.weight = torch.nn.Parameter(model.shared.weight.detach().clone())
        model.all_tied_weights_keys.pop("lm_head.weight")
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=source)
            weight.copy_(noise * weight.shape[-1] ** -0.5 if weight.ndim > 1 else weight + 0.1 * noise)
    return model.eval()


def prompted(start: int = 0, weights: Sequence[float] = (0.5, 1.0, 2.0)) -> list[TokenRow]:
    """Replies after `start` to prompts of many lengths, ended by 2; some prompts have several replies."""
    source = random.Random(5)
    prompts = [(*(source.randrange(3, VOCABULARY) for _ in range(size)), 2) for size in (3, 11, 6, 1, 11, 20)]
    rows = []
    for number, prompt in enumerate([*prompts, prompts[1], prompts[0], prompts[1]]):
        reply = [source.randrange(3, VOCABULARY) for _ in range(1 + number * 5 % 7)]
        untrained = number % 3 == 2  # a beginning that is given, as after a prefill
        mask = [False] * (len(prompt) + 1 + untrained) + [True] * (len(reply) + 1 - untrained)
        ids = (*prompt, start, *reply, 2)
        rows.append(TokenRow(ids, tuple(mask), source.choice(weights), f"toy#{number}", source=len(prompt)))
    return rows


def _draw(*sizes: int, shared: Sequence[int] = ()) -> list[TokenRow]:
    """Rows after `shared`, about half of their tokens trained, with weights of their own."""
    source = random.Random(sum(sizes))
    rows: list[TokenRow] = []
    for size in sizes:
        ids = (*shared, *(source.randrange(3, VOCABULARY) for _ in range(size)))
        mask = (False, *(source.random() < 0.5 for _ in ids[1:]))
        rows.append(TokenRow(ids, mask, source.choice([0.5, 1.0, 2.0]), f"toy#{len(rows)}"))
    return rows


def branching() -> list[TokenRow]:
    """Rows that part at several depths, one that another begins with, a pair of twins, a single token."""
    trunk = _draw(12)[0].ids
    rows = [row for depth in (12, 8, 3) for row in _draw(3, 9, shared=trunk[:depth])]
    rows += [TokenRow(trunk, (False,) * 11 + (True,), 1.0, "trunk"), rows[1], *_draw(1, 7)]
    return rows


def apart() -> list[TokenRow]:
    """Rows that differ from their first token on."""
    return [row for first in range(3, 8) for row in _draw(5 * first - 12, shared=[first])]


def pairs() -> list[Bundle]:
    """Chosen and rejected replies, of unlike lengths, to prompts that share a beginning."""
    trunk, replies = _draw(9)[0].ids, _draw(*range(1, 9))
    made: list[Bundle] = []
    for number, (chosen, rejected) in enumerate(zip(replies, reversed(replies), strict=True)):
        prompt = (*trunk[: 3 + number % 3 * 3], *trunk[: 1 + number])
        made.append((_reply(prompt, chosen, 0.5 + number % 2), _reply(prompt, rejected, 0.5 + number % 2)))
    return made


def _reply(prompt: tuple[int, ...], to: TokenRow, weight: float) -> TokenRow:
    return TokenRow((*prompt, *to.ids), (False,) * len(prompt) + (True,) * len(to.ids), weight, to.row)


def nudge(model: Any) -> None:
    """Move every trained weight, as a step of training would."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=source) * weight.shape[-1] ** -0.5


def padded_loss(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    """The reference: padding, the model's own attention and logits, torch's cross-entropy; the weighted mean."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    seen = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    mask = torch.tensor([[*row.mask, *[False] * (width - len(row.ids))] for row in rows])
    weights = torch.tensor([[row.weight] for row in rows]).expand(mask.shape)[mask]
    logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits[mask[:, 1:]], ids[mask], reduction="none")
    return (losses * weights).sum() / weights.sum()


def told_by(model: Any, rows: Sequence[TokenRow]) -> Any:
    """What an encoder-decoder of transformers says of rows, padded, with labels: its own `loss` and `logits`."""

    def padded(texts: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*text, *[fill] * (max(map(len, texts)) - len(text))] for text in texts])

    sources = [row.ids[: row.source] for row in rows]
    targets = [
        [id_ if trained else -100 for id_, trained in zip(row.ids, row.mask, strict=True)][row.source + 1 :]
        for row in rows
    ]
    return model(
        input_ids=padded(sources, 0),
        attention_mask=padded([[1] * len(source) for source in sources], 0),
        decoder_input_ids=padded([row.ids[row.source : -1] for row in rows], 0),
        labels=padded(targets, -100),
        use_cache=False,
    )


def pair_loss(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    """The reference for encoder-decoders: the weighted mean over their own logits."""
    logits = told_by(model, rows).logits
    losses, weights = [], []
    for own, row in zip(logits, rows, strict=True):
        labels = [at for at, trained in enumerate(row.mask) if trained]
        places = torch.tensor([at - row.source - 1 for at in labels])
        losses.append(F.cross_entropy(own[places], torch.tensor([row.ids[at] for at in labels]), reduction="sum"))
        weights.append(row.weight)
    counts = [weight * row.labelled for weight, row in zip(weights, rows, strict=True)]
    return torch.stack([loss * weight for loss, weight in zip(losses, weights, strict=True)]).sum() / sum(counts)


def gradients(model: Any, loss: Tensor) -> tuple[float, Gradients]:
    """A loss and its gradients, by autograd."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    grads = torch.autograd.grad(loss, list(trained.values()))
    return loss.item(), dict(zip(trained, grads, strict=True))


def padded_gradients(model: Any, rows: Sequence[TokenRow]) -> tuple[float, Gradients]:
    """`padded_loss` and its gradients, by autograd."""
    return gradients(model, padded_loss(model, rows))


def assert_same(
    ours: tuple[float, Mapping[str, Tensor]], exact: tuple[float, Mapping[str, Tensor]], within: float = 1e-5
) -> None:
    """The loss and every parameter's gradient, to a relative 1e-5."""
    assert abs(ours[0] - exact[0]) <= within * abs(exact[0]), f"loss: {ours[0]}, not {exact[0]}"
    assert ours[1].keys() == exact[1].keys()
    for name, grad in exact[1].items():
        if name.endswith("k_proj.bias") and float(grad.norm()) < 1e-7:  # softmax takes no note of it: rounding
            assert float(ours[1][name].norm()) < 1e-7, name
            continue
        size = float(grad.norm())
        assert size > 0, f"{name}: the reference has no gradient"
        away = float((ours[1][name] - grad).norm()) / size
        assert away <= within, f"{name}: {away:.1e} away"
