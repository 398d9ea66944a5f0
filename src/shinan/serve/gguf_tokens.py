"""A model folder's tokenizer -> what GGUF says of it: tokens, their kinds and scores or merges, and the special ids.

Two kinds are known: SentencePiece BPE as Gemma has it, and byte-level BPE whose cutting of text llama.cpp knows by a
name. Any other is refused: a reader would cut texts otherwise than the model was tuned with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gguf

from shinan.core.errors import ModelError
from shinan.models.tokenizer import Tokenizer

_KINDS = gguf.TokenType
# Llama 3's cutting of text; llama.cpp calls it llama-bpe.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL_SCORE = -1000.0  # what Gemma's own files give tokens that no merge makes
_OTHER = "export the safetensors form: servers that read transformers folders take any tokenizer"


def add_tokenizer(writer: Any, tokenizer: Tokenizer, stop_ids: Sequence[int], rows: int, *, where: str) -> None:
    """Add all keys `tokenizer.*` to a `gguf.GGUFWriter`.

    Args:
        writer: the writer, before its file is opened.
        tokenizer: the model's.
        stop_ids: ids that end a reply; the first that is not the eos token becomes the end of a turn.
        rows: rows of the embedding matrix; ids that the tokenizer lacks are filled up with unused tokens.
        where: the model folder, for messages.

    Raises ModelError for more tokens than rows, and for a tokenizer of neither kind.
    """
    if tokenizer.vocab_size > rows:
        what = f"the tokenizer has {tokenizer.vocab_size} tokens, and the embedding matrix {rows} rows"
        raise ModelError(what, where=where, fix="tokenizer and weights belong to different models; copy both from one")
    state = json.loads(tokenizer.json())
    model = state["model"]
    tokens, kinds = _tokens(state, rows)
    if model["type"] == "BPE" and model.get("byte_fallback"):
        _sentencepiece(writer, state, tokens, kinds, where)
    elif model["type"] == "BPE":
        _byte_level(writer, state, tokens, where)
    else:
        raise ModelError(f"a tokenizer of kind {model['type']} has no plan for GGUF", where=where, fix=_OTHER)
    writer.add_token_types([int(kind) for kind in kinds])
    _special_ids(writer, tokenizer, stop_ids)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _tokens(state: Mapping[str, Any], rows: int) -> tuple[list[str], list[gguf.TokenType]]:
    """Every id's text and kind."""
    tokens = [f"[PAD{id_}]" for id_ in range(rows)]
    kinds = [_KINDS.UNUSED] * rows
    for text, id_ in state["model"]["vocab"].items():
        byte = state["model"].get("byte_fallback") and len(text) == 6 and text.startswith("<0x")
        tokens[id_], kinds[id_] = text, _KINDS.BYTE if byte else _KINDS.NORMAL
    for added in state["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = _KINDS.CONTROL if added["special"] else _KINDS.USER_DEFINED
    return tokens, kinds


def _sentencepiece(
    writer: Any, state: Mapping[str, Any], tokens: list[str], kinds: list[gguf.TokenType], where: str
) -> None:
    """Readers merge the pair whose whole has the best score, so scores must tell the order of the merges: by id."""
    vocab = state["model"]["vocab"]
    made = [vocab["".join(pair)] for pair in map(_pair, state["model"]["merges"])]
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if state["normalizer"] != blanks or made != sorted(made):
        what = "its SentencePiece tokenizer is not of Gemma's kind (blanks as ▁, merges in the order of the ids)"
        raise ModelError(what, where=where, fix=_OTHER)
    scores = [float(-id_) if kind == _KINDS.NORMAL else _SPECIAL_SCORE for id_, kind in enumerate(kinds)]
    scores = [0.0 if kind == _KINDS.BYTE else score for score, kind in zip(scores, kinds, strict=True)]
    # as in Gemma's own files, tokens that are taken whole from the text are spelt as they stand there
    spelt = [
        token.replace("▁", " ") if kind == _KINDS.USER_DEFINED else token
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(spelt)
    writer.add_token_scores(scores)
    writer.add_add_space_prefix(False)


def _byte_level(writer: Any, state: Mapping[str, Any], tokens: list[str], where: str) -> None:
    merges = [_pair(pair) for pair in state["model"]["merges"]]
    if not merges:
        raise ModelError("its tokenizer has no merges, which llama.cpp asks for", where=where, fix=_OTHER)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cutting(state, where))
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) for pair in merges])


def _pair(merge: str | Sequence[str]) -> Sequence[str]:
    """Older tokenizer.json files write a merge as `a b`."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _cutting(state: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name for how the tokenizer cuts a text into words."""
    pre = state["pre_tokenizer"] or {}
    steps = [_core(step) for step in (pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre])]
    digits = {"type": "Digits", "individual_digits": True}
    words = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False}
    known: dict[str, list[dict[str, Any]]] = {
        "gpt-2": [words],
        "smollm": [digits, words],
        "llama-bpe": [split, words | {"use_regex": False}],
    }
    found = next((name for name, plan in known.items() if plan == steps), None)
    if found is None or state["normalizer"] is not None:
        what = f"its tokenizer cuts texts in none of the ways that are known here ({', '.join(known)})"
        raise ModelError(what, where=where, fix=_OTHER)
    return found


def _core(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what does not decide the cuts."""
    return {name: value for name, value in step.items() if name != "trim_offsets"}


def _special_ids(writer: Any, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
    eos = tokenizer.eos_id if tokenizer.eos_id is not None else next(iter(stop_ids), None)
    if tokenizer.bos_id is not None:
        writer.add_bos_token_id(tokenizer.bos_id)
    if eos is not None:
        writer.add_eos_token_id(eos)
    turn = next((stop for stop in stop_ids if stop != eos), None)
    if turn is not None:
        writer.add_eot_token_id(turn)
    for name, add in (("unk_token", writer.add_unk_token_id), ("pad_token", writer.add_pad_token_id)):
        id_ = tokenizer.special_id(tokenizer.named_specials.get(name, ""))
        if id_ is not None:
            add(id_)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(False)
