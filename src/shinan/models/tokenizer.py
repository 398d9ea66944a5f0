"""Text <-> token ids, over a Hugging Face tokenizer folder. Text is always only text.

`encode` adds no special token and never makes one out of text: a row that spells `<end_of_turn>` gets the ids of those
letters. Only a chat format puts special ids into a sequence.

Encoding is not additive: encode(a) + encode(b) need not equal encode(a + b), because tokens may span the cut and
because some tokenizers mark the start of a text as the start of a word. Whoever encodes a text in stretches says where
each one stands (`Place`), and keeps the same cuts in training and in serving.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers

from shinan.core.dataset import write_atomic
from shinan.core.errors import DataError, ModelError
from shinan.core.hashing import content_hash

Place = Literal["start", "after_special", "inside"]
"""Where an encoded stretch stands: at the start of everything, after a special token, or inside running text."""

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
# Files whose content `save` folds into tokenizer_config.json; a stale copy beside it would be believed instead.
_FOLDED = ("chat_template.jinja", "special_tokens_map.json", "added_tokens.json")
_SLOW = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_BROKEN = "\ufffd"
_START = "decoder_start_token_id"  # kept in tokenizer_config.json too: an adapter's folder has no config.json


class Tokenizer:
    """A tokenizer with its special tokens and its chat template.

    Attributes:
        bos_id: id of the declared beginning-of-text token, or None. Whether texts begin with it says `adds_bos`.
        eos_id: id of the end-of-text token, or None.
        pad_id: id for padding: the declared one, else `eos_id`, else 0. Nothing here recognises padding by its id
            (masks are made by position), so sharing the id with eos never hides an eos from the loss.
        adds_bos: whether a text of this model begins with `bos_id`: `add_bos_token` if the folder says it, else what
            the tokenizer itself does. (SmolLM2 declares a bos, GPT-2 too, and neither begins a text with it.)
        vocab_size: number of tokens, added ones included.
        specials: {text: id} of every special token.
        named_specials: {`bos_token`: `<s>`, ...}: the roles that the folder gives to special tokens.
        chat_template: the model's own Jinja chat template, or None.
        decoder_start: what the decoder of an encoder-decoder begins with; None for a model without an encoder.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], *, where: str = "") -> None:
        """Take over `backend` (its truncation and padding are switched off) and what tokenizer_config.json says.

        Raises ModelError if the config names a bos or eos token that the vocabulary lacks.
        """
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._config = dict(config)
        self._backends: dict[Place, tokenizers.Tokenizer] = {"start": backend}
        self.named_specials = {name: text for name in _NAMED if (text := _content(config.get(name)))}
        for name in ("bos_token", "eos_token"):
            text = self.named_specials.get(name)
            if text is not None and backend.token_to_id(text) is None:
                raise ModelError(
                    f"{name} is {text!r}, which the vocabulary lacks",
                    where=where,
                    fix="tokenizer.json and tokenizer_config.json belong to different models; copy both from one",
                )
        self._enter_declared_specials(backend)
        self.specials = {
            token.content: id_ for id_, token in backend.get_added_tokens_decoder().items() if token.special
        }
        self._special_ids = frozenset(self.specials.values())
        self.bos_id = self.special_id(self.named_specials.get("bos_token", ""))
        self.eos_id = self.special_id(self.named_specials.get("eos_token", ""))
        pad_id = self.special_id(self.named_specials.get("pad_token", ""))
        self.pad_id = next(id_ for id_ in (pad_id, self.eos_id, 0) if id_ is not None)
        self._unk_id = self.special_id(self.named_specials.get("unk_token", ""))
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.chat_template = _default_template(config.get("chat_template"))
        self.adds_bos = self._begins_with_bos(backend)
        self.decoder_start: int | None = config.get(_START)

    def _begins_with_bos(self, backend: tokenizers.Tokenizer) -> bool:
        declared = self._config.get("add_bos_token")
        if self.bos_id is None or isinstance(declared, bool):
            return self.bos_id is not None and bool(declared)
        bare = backend.encode("a", add_special_tokens=False)
        return backend.encode("a").ids[:1] == [self.bos_id] != bare.ids[:1]

    def _enter_declared_specials(self, backend: tokenizers.Tokenizer) -> None:
        """Make special in `backend` what only the config calls special, or such tokens could be forged in text."""
        more = self._config.get("extra_special_tokens") or self._config.get("additional_special_tokens") or []
        added = (self._config.get("added_tokens_decoder") or {}).values()
        declared: set[str | None] = {*self.named_specials.values()}
        declared |= {_content(value) for value in (more.values() if isinstance(more, Mapping) else more)}
        declared |= {_content(value) for value in added if value.get("special")}
        already = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        backend.add_special_tokens(
            [
                tokenizers.AddedToken(text, special=True, normalized=False)
                for text in sorted(filter(None, declared - already))
                if backend.token_to_id(text) is not None
            ]
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies go through the constructor: a plain copy of the backend forgets to keep specials out of text."""
        return Tokenizer, (self._backends["start"], self._config)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json, tokenizer_config.json and, where they exist, special_tokens_map.json,
        chat_template.jinja and, for what the decoder of an encoder-decoder begins with, config.json.

        Raises ModelError for a missing or damaged file.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            slow = next((name for name in _SLOW if (folder / name).is_file()), "")
            raise ModelError(
                "no tokenizer.json here" + (f", only a sentencepiece {slow}" if slow else ""),
                where=str(folder),
                fix="load and save it once with transformers' AutoTokenizer" if slow else "name the folder of a model",
            )
        config = _read_json(folder / "special_tokens_map.json", missing_ok=True)
        config |= _read_json(folder / "tokenizer_config.json") | _decoder_start(folder)
        if (template := folder / "chat_template.jinja").is_file():
            config["chat_template"] = _read_text(template)
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(
                f"cannot read it: {error}", where=str(path), fix="fetch the model again, the file is damaged"
            ) from error
        return cls(backend, config, where=str(folder))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json (template and special tokens inside).

        Older files in `folder` that would contradict them are removed. Raises RunError if the disk says no.
        """
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | self._config
        config.pop("chat_template", None)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        write_atomic(folder / "tokenizer.json", self.json())
        write_atomic(folder / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=1) + "\n")
        for name in _FOLDED:
            (folder / name).unlink(missing_ok=True)

    def json(self) -> str:
        """The content of tokenizer.json."""
        text: str = self._backends["start"].to_str()
        return text

    def with_chat_template(self, jinja: str | None) -> Tokenizer:
        """The same tokenizer with another chat template (None: without one)."""
        return Tokenizer(self._backends["start"], self._config | {"chat_template": jinja})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that ids depend on: the tokenizer, the roles of its special tokens, its template."""
        start = [] if self.decoder_start is None else [self.decoder_start]
        return content_hash([self.json(), self.named_specials, self.adds_bos, self.chat_template, *start])

    def special_id(self, text: str) -> int | None:
        """The id of a special token, or None if `text` is no special token here."""
        return self.specials.get(text)

    def beyond(self, embeddings: int, needed: Iterable[int] = ()) -> str:
        """What this tokenizer writes and a model with so many embeddings lacks, in words; empty if nothing.

        Special tokens are no fault, for text never becomes one, unless they have a role or are `needed`.
        """
        roles = (self.pad_id, self.bos_id, self.eos_id, self.decoder_start)
        named = {*needed, *(id_ for id_ in roles if id_ is not None)}
        if strange := sorted(id_ for id_ in named if id_ >= embeddings):
            names = self.decode(strange, keep_special=True)
            return f"the tokenizer's {names} has id {strange[0]}, the model has {embeddings} embeddings"
        special = sum(id_ >= embeddings for id_ in self.specials.values())
        if self.vocab_size - special > embeddings:
            return f"the tokenizer writes {self.vocab_size} tokens, the model has {embeddings} embeddings"
        return ""

    def encode(self, text: str, *, place: Place = "start") -> list[int]:
        """The ids of `text` as plain text: nothing is added, and no special token comes out, whatever it spells.

        `place` keeps tokenizers that mark the first word of a text (`▁word`) from marking it in mid-text.

        Raises DataError for text that is not valid Unicode, or that holds a one-character special token which this
        tokenizer cannot spell.
        """
        try:
            encoding = self._backend(place).encode(text, add_special_tokens=False)
        except TypeError:
            raise DataError("the text is not valid Unicode (a lone surrogate)", fix="drop or repair the row") from None
        ids: list[int] = encoding.ids
        return ids if self._special_ids.isdisjoint(ids) else self._encode_apart(text, place, encoding)

    def _encode_apart(self, text: str, place: Place, encoding: tokenizers.Encoding) -> list[int]:
        """Encode again with a cut inside each stretch that became a special token.

        The backend does not look for special tokens in text, but the model behind it may know one as a plain piece:
        Unigram vocabularies (T5) hold `</s>`, and BPE merges can build one.
        """
        unk = self.named_specials.get("unk_token", "")
        cuts = []
        for id_, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if id_ in self._special_ids and (id_ != self._unk_id or unk in text[start:end]):
                if end - start < 2:
                    raise DataError(
                        f"the text holds {text[start:end]!r}, a special token that cannot be spelt as plain text",
                        fix="remove the character, or use another tokenizer",
                    )
                cuts.append(start + 1)
        if not cuts:  # only characters that the vocabulary lacks
            return list(encoding.ids)
        ids = self.encode(text[: cuts[0]], place=place)
        for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True):
            ids += self.encode(text[start:end], place="inside")
        return ids

    def decode(self, ids: Sequence[int], *, keep_special: bool = False, place: Place = "start") -> str:
        """The text of `ids`. `place="inside"` keeps a first blank that some tokenizers take for the start's mark."""
        text: str = self._backend(place).decode(list(ids), skip_special_tokens=not keep_special)
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, special ones spelt out, for display; joined they are the whole text.

        A character whose bytes lie in several tokens stands at the last of them, the others are empty.
        """
        shown: list[str] = []
        waiting: list[int] = []
        for id_ in ids:
            waiting.append(id_)
            text = self.decode(waiting, keep_special=True, place="inside")
            if text.endswith(_BROKEN) and len(shown) + 1 < len(ids):
                shown.append("")
            else:
                shown.append(text)
                waiting = []
        return shown

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches every special token's text, the longest first."""
        by_first: dict[str, list[str]] = {}
        for text in sorted(self.specials, key=lambda text: (-len(text), text)):
            by_first.setdefault(text[0], []).append(re.escape(text[1:]))
        # grouped by first character, or the search would try thousands of alternatives at every position
        groups = (f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in by_first.items())
        return re.compile("|".join(groups) or "(?!)")

    def split_specials(self, text: str) -> list[str | int]:
        """Cut *markup* (a rendered template, never a user's text) at its special tokens, which become their ids.

        Blanks beside tokens that swallow them (`lstrip`, `rstrip`) are dropped, as the tokenizer itself does.
        """
        parts: list[str | int] = []
        at, swallow = 0, False
        for match in self.special_pattern.finditer(text):
            id_ = self.specials[match.group()]
            before = text[at : match.start()]
            before = before.lstrip() if swallow else before
            parts += [before.rstrip() if id_ in self._swallowing["lstrip"] else before, id_]
            at, swallow = match.end(), id_ in self._swallowing["rstrip"]
        parts.append(text[at:].lstrip() if swallow else text[at:])
        return [part for part in parts if part != ""]

    @cached_property
    def _swallowing(self) -> dict[str, set[int]]:
        added = self._backends["start"].get_added_tokens_decoder().items()
        return {side: {id_ for id_, token in added if getattr(token, side)} for side in ("lstrip", "rstrip")}

    def _backend(self, place: Place) -> tokenizers.Tokenizer:
        if place not in self._backends:
            self._backends[place] = _for_place(self._backends["start"], place)
        return self._backends[place]


def _for_place(backend: tokenizers.Tokenizer, place: Place) -> tokenizers.Tokenizer:
    """`backend` as it encodes a text that is not the first one; itself if that makes no difference."""
    old = {name: _state(getattr(backend, name)) for name in ("normalizer", "pre_tokenizer", "decoder")}
    new = {name: _unmarked(state, place, name == "decoder") for name, state in old.items()}
    if new == old:
        return backend
    other = tokenizers.Tokenizer.from_str(json.dumps(json.loads(backend.to_str()) | new))
    other.encode_special_tokens = True
    return other


def _state(component: Any) -> Any:
    return None if component is None else json.loads(component.__getstate__())


def _unmarked(state: Any, place: Place, decodes: bool) -> Any:
    """A component's state without what marks the start of a text as the start of a word.

    After a special token only Metaspace's scheme `first` stops marking; inside a text nothing marks. (That is what the
    library does when it meets a special token in text.)
    """
    if isinstance(state, list):
        kept = [_unmarked(item, place, decodes) for item in state]
        return [item for item in kept if item is not None]
    if not isinstance(state, dict):
        return state
    state = {key: _unmarked(value, place, decodes) if key in _CHILDREN else value for key, value in state.items()}
    inside = place == "inside"
    match state.get("type"):
        case "Metaspace" if inside or state["prepend_scheme"] == "first":
            state["prepend_scheme"] = "never"
        case "Prepend" if inside:
            return None
        case "ByteLevel" if inside and not decodes:
            state["add_prefix_space"] = False
        case "Strip" if inside and decodes:
            state["start"] = 0
    return state


_CHILDREN = ("normalizers", "pretokenizers", "decoders")


def _content(value: Any) -> str | None:
    """A token as tokenizer_config.json writes it: a string, or an object with `content`."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None


def _default_template(value: Any) -> str | None:
    """The chat template itself, or the one named `default` of several."""
    if isinstance(value, list):
        value = next((item.get("template") for item in value if item.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _decoder_start(folder: Path) -> dict[str, int]:
    """What config.json says of an encoder-decoder. Raises ModelError if that is not enough."""
    config = _read_json(folder / "config.json", missing_ok=True)
    if not config.get("is_encoder_decoder"):
        return {}
    if not isinstance(start := config.get(_START), int):
        what = f"it is of an encoder-decoder and does not say what its decoder begins with ({_START})"
        raise ModelError(what, where=str(folder / "config.json"), fix="copy the model's original config.json")
    return {_START: start}


def _read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    if missing_ok and not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise ModelError(f"not valid JSON: {error}", where=str(path), fix="fetch the model again") from None
    if not isinstance(value, dict):
        raise ModelError("expected a JSON object", where=str(path), fix="fetch the model again")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        fix = "copy it from the model's original folder"
        raise ModelError(f"no {path.name} here", where=str(path.parent), fix=fix) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read it: {error}", where=str(path), fix="fetch the model again") from None
