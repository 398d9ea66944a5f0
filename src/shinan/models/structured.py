"""Replies that satisfy a JSON schema: after each token, only those that the schema allows may come next.

llguidance says which (extra `json`): of the three libraries that were measured it has no dependencies, takes any schema
in milliseconds, and refuses what it cannot keep to (LOG.md has the figures).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shinan.core.errors import DataError, RunError
from shinan.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# As Python's json.dumps writes it. Free blanks are what small models lose themselves in.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class JsonFilter:
    """The tokens that may come next in a reply that satisfies a schema; the ids that end it where it is complete."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int], schema: str, begun: str = "") -> None:
        """`schema` is JSON text, `begun` the beginning of the reply that is there already.

        Raises DataError for a schema that is none or asks for what cannot be kept to, or that `begun` breaks; RunError
        without the extra `json`.
        """
        library = _library()
        self._size = tokenizer.vocab_size
        grammar = library.LLMatcher.grammar_from_json_schema(_checked(schema), overrides=_LAYOUT)
        self._matcher: LLMatcher = library.LLMatcher(_vocabulary(tokenizer, tuple(stop_ids)), grammar, log_level=0)
        if self._matcher.is_error():
            raise _no_schema(self._matcher.get_error())
        ids = tokenizer.encode(begun, place="inside")
        if self._matcher.try_consume_tokens(ids) < len(ids):
            what = f"no reply that begins with {begun!r} satisfies the schema"
            raise DataError(what, fix="write it as json.dumps does, or drop it")
        self._words = np.zeros((self._size + 31) // 32, dtype=np.int32)

    def apply(self, logits: Tensor) -> None:
        """Set logits [v] of forbidden tokens to -inf, in place; ids beyond the tokenizer's are forbidden too."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        allowed = np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._size].astype(bool)
        seen = torch.from_numpy(allowed).to(logits.device)
        known = logits[: self._size]  # a tokenizer may have ids that the model lacks, too
        known.masked_fill_(~seen[: len(known)], float("-inf"))
        logits[self._size :] = float("-inf")

    def accept(self, token: int) -> None:
        """Go on past `token`. Raises RuntimeError for one that was forbidden."""
        if not self._matcher.consume_token(token):
            raise RuntimeError(self._matcher.get_error())


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise RunError(
            "replies by a JSON schema need the package llguidance", fix="run: pip install 'shinan[json]'"
        ) from None
    return llguidance


@lru_cache(maxsize=2)  # a vocabulary of 262,144 tokens takes a second or more
def _vocabulary(tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> LLTokenizer:
    return _library().LLTokenizer(tokenizer.json(), n_vocab=tokenizer.vocab_size, eos_token=list(stop_ids))  # type: ignore[no-any-return]


def _checked(schema: str) -> str:
    """The schema; llguidance takes some texts that are none for other things."""
    try:
        value = json.loads(schema)
    except ValueError as error:
        raise _no_schema(str(error)) from None
    if not isinstance(value, dict):
        raise _no_schema("a schema is an object")
    return schema


def _no_schema(why: str) -> DataError:
    why = " ".join(why.split())
    return DataError(f"no reply can be written by this JSON schema: {why}", fix="correct or simplify the schema")
