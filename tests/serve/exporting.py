"""Tiny models that GGUF can hold: Gemma 3 and Llama, with byte-level and SentencePiece tokenizers that have merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from shinan.models.card import load_card
from shinan.models.chat import chat_format
from shinan.models.checkpoint import save_model
from shinan.models.tokenizer import Tokenizer
from shinan.serve.parity import QUESTIONS, TEXTS

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>")
ROLES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
_TEXTS = [*TEXTS, *QUESTIONS, "user\n", "assistant\n", "model\n"] * 2
_IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def byte_level(pre: Any = None, *, digits: bool = False) -> tokenizers.Tokenizer:
    """A byte-level BPE with merges, cutting as GPT-2, or as `pre` says, or each digit alone first."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alone = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre or (pre_tokenizers.Sequence([alone, words]) if digits else words)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def sentencepiece() -> tokenizers.Tokenizer:
    """Gemma's kind: blanks as ▁, bytes for what has no piece, all pairs that make a piece merged, in the ids' order."""
    learnt = tokenizers.Tokenizer(models.BPE())
    learnt.normalizer = normalizers.Replace(" ", "▁")
    learnt.train_from_iterator(_TEXTS, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    ids = learnt.get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    whole = [piece for piece in pieces if len(piece) > 1]
    letters = [piece for piece in pieces if len(piece) == 1 and piece != "\n"]
    tokens = [*SPECIALS, "\n", *(f"<0x{byte:02X}>" for byte in range(256)), *whole, *letters]
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    merges = [(p[:i], p[i:]) for p in whole for i in range(1, len(p)) if p[:i] in vocab and p[i:] in vocab]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return tokenizer


def gemma(rows: int, **more: Any) -> Any:
    """Six layers, the last of them without a window, which is shorter than the questions."""
    config: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 16,
        "max_position_embeddings": 512,
    }
    return Gemma3ForCausalLM(Gemma3TextConfig(**config | _IDS | more))


def llama(rows: int, **more: Any) -> Any:
    """Two layers, with half as many keys as queries, and a head of its own."""
    config: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    return LlamaForCausalLM(LlamaConfig(**config | _IDS | more))


def save(
    folder: Path, make: Any, backend: tokenizers.Tokenizer, *, chat: str | None = "gemma", extra: int = 3, **more: Any
) -> Path:
    """Write a model folder with random weights, large enough for every one of them to matter; `extra` unused rows."""
    tokenizer = Tokenizer(backend, ROLES)
    torch.manual_seed(0)
    model = make(tokenizer.vocab_size + extra, **more).eval()
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape)
            weight.copy_(noise * weight.shape[-1] ** -0.5 if weight.ndim > 1 else weight + 0.2 * noise)
    folder.mkdir(parents=True)
    base = folder.parent / f"{folder.name}-base"
    base.mkdir()
    (base / "LICENSE-TERMS.txt").write_text("terms that must travel\n", "utf-8")
    (base / "README.md").write_text("---\nlicense: gemma\n---\n", "utf-8")
    model.save_pretrained(base)
    format_ = chat_format(chat, tokenizer) if chat else None
    save_model(folder, model, tokenizer, format_, name="toy/best", parents=[load_card(base)])
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
