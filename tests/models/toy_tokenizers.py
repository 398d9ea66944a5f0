"""Small tokenizers of every family that matters, written by hand, so that ids can be checked on paper."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from shinan.models.tokenizer import Tokenizer

GEMMA_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
LLAMA_SPECIALS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
CHATML_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ["h e", "l l", "he ll", "hell o", "▁ hello", "▁ a", "\n \n", "▁ ▁", "< s"]
_LETTERS = [chr(code) for code in range(33, 127)] + ["▁", "\n"]


def _enter(backend: tokenizers.Tokenizer, specials: tuple[str, ...]) -> None:
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])


def _bytes_and_letters(specials: tuple[str, ...]) -> models.BPE:
    """BPE with byte fallback. Ids: the specials, 256 bytes, printable ASCII from `!`, `▁`, line break, the merges."""
    made = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *_LETTERS, *made]
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in MERGES)]
    return models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)


def _bos_first(backend: tokenizers.Tokenizer, bos: str) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
    )


def gemma_like() -> Tokenizer:
    """Blanks become ▁, nothing is put in front, texts begin with <bos>."""
    backend = tokenizers.Tokenizer(_bytes_and_letters(GEMMA_SPECIALS))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _enter(backend, GEMMA_SPECIALS)
    _bos_first(backend, "<bos>")
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return Tokenizer(backend, roles)


def llama_like(scheme: str, template: str | None = None, **config: Any) -> Tokenizer:
    """The first word gets a ▁: `first` (Metaspace, at the very start only) or `legacy` (after special tokens too)."""
    backend = tokenizers.Tokenizer(_bytes_and_letters(LLAMA_SPECIALS))
    if scheme == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    _enter(backend, LLAMA_SPECIALS)
    _bos_first(backend, "<s>")
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Tokenizer(backend, roles | config | ({"chat_template": template} if template else {}))


def byte_level(template: str | None = None, **config: Any) -> Tokenizer:
    """GPT-2's kind: byte-level BPE, a declared bos that no text begins with."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*CHATML_SPECIALS, *alphabet, "he", "ll", "hell", "hello", "Ġhello", "Ġa", "ĊĊ", "ĠĠ", "<s"]
    merges = [
        ("h", "e"),
        ("l", "l"),
        ("he", "ll"),
        ("hell", "o"),
        ("Ġ", "hello"),
        ("Ġ", "a"),
        ("Ċ", "Ċ"),
        ("Ġ", "Ġ"),
        ("<", "s"),
    ]
    backend = tokenizers.Tokenizer(models.BPE({token: id_ for id_, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    _enter(backend, CHATML_SPECIALS)
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return Tokenizer(backend, roles | config | ({"chat_template": template} if template else {}))


def unigram() -> Tokenizer:
    """T5's kind: special tokens are pieces of the model itself, and the normaliser folds full-width letters."""
    specials = ["<pad>", "</s>", "<unk>"]
    pieces = [(text, 0.0) for text in specials] + [("▁", -2.0)] + [(letter, -5.0) for letter in "abcdehlos/<>"]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    backend.decoder = decoders.Metaspace()
    _enter(backend, ("<pad>", "</s>", "<unk>"))
    return Tokenizer(backend, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})


TOYS = {
    "gemma": gemma_like,
    "llama": lambda: llama_like("first"),
    "legacy": lambda: llama_like("legacy"),
    "bytes": byte_level,
    "unigram": unigram,
}
