"""Tiny models with random weights and a byte tokenizer: the real architectures, small enough for unit tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from shinan.core.hashing import derive_seed
from shinan.models.quiet import quiet_transformers

# The first four have Gemma's ids.
SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>")
_IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_SHAPE = {
    "vocab_size": len(SPECIALS) + 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}


def _gemma3() -> Any:
    """One layer of each kind of attention; the window is short, so that tests reach beyond it."""
    layers = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**_SHAPE, **_IDS, layer_types=layers, sliding_window=32, query_pre_attn_scalar=16)
    return Gemma3ForCausalLM(config)


def _llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, **_IDS, tie_word_embeddings=False))


def _t5() -> Any:
    """T5 1.1's blocks (gated, with its dropout), and T5's own head: the embedding, and scaled states."""
    config = T5Config(
        vocab_size=_SHAPE["vocab_size"],
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        n_positions=_SHAPE["max_position_embeddings"],
    )
    return T5ForConditionalGeneration(config)


TINY = {"decoder": _gemma3, "llama": _llama, "seq2seq": _t5}


def build(name: str, folder: Path) -> None:
    """Write the tiny model `name` (a key of `TINY`) into `folder`: weights in float32, config, tokenizer."""
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        model = TINY[name]()
        _fill(model)
        model.save_pretrained(folder)
    alone = name != "seq2seq"
    byte_tokenizer(bos=alone).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({"bos_token": "<bos>"} if alone else {}),
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": _SHAPE["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")


def _fill(model: torch.nn.Module) -> None:
    """Draw every matrix from its own name, so that the weights are the same on every version and platform."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                draw = torch.Generator().manual_seed(derive_seed(0, "tiny", name))
                weight.copy_(torch.randn(weight.shape, generator=draw) * weight.shape[1] ** -0.5)


def byte_tokenizer(*, bos: bool = True) -> Tokenizer:
    """One token a byte after the special ones. `<bos>` is put in front, as Gemma's tokenizer does, or else `<eos>` at
    the end, as T5's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=SPECIALS[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A" if bos else "$A <eos>",
        pair="<bos> $A <bos> $B" if bos else "$A <eos> $B <eos>",
        special_tokens=[(name, vocabulary[name]) for name in ("<bos>", "<eos>")],
    )
    return tokenizer
