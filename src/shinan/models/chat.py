"""Chat formats by name: `gemma`, `chatml`, `alpaca`, `plain`, `flan`, and `tokenizer` (the model's own template).

A format belongs to one tokenizer and refuses one that lacks its special tokens: markers written as letters would be
learnt as letters, and no server would stop at them.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shinan.core.errors import ModelError, nearest
from shinan.core.example import Message, Role, join_parts
from shinan.models.chat_flan import flan_format
from shinan.models.chat_template import template_format
from shinan.models.rendering import ChatFormat, Piece, Rendered, Span, stops
from shinan.models.tokenizer import Tokenizer

__all__ = ["ChatFormat", "Rendered", "Span", "chat_format", "default_format", "fits"]


def chat_format(name: str, tokenizer: Tokenizer) -> ChatFormat:
    """The chat format of that name for `tokenizer`.

    Raises ModelError for an unknown name, a tokenizer that lacks a special token the format needs or whose model is of
    another kind (naming the formats that fit), or a template of the tokenizer's own that does not work.
    """
    if name not in _FORMATS:
        raise ModelError(f"no chat format is named {name!r}", fix=nearest(name, _FORMATS))
    if lacking := _lacking(name, tokenizer):
        others = ", ".join(other for other in _FORMATS if not _lacking(other, tokenizer))
        raise ModelError(
            f"chat format {name!r} {lacking}",
            fix=f"use one of: {others}" if others else "use another model: no format can mark the end of its replies",
        )
    return _FORMATS[name](tokenizer)


def default_format(tokenizer: Tokenizer) -> ChatFormat:
    """The format to use where none is named: the tokenizer's own template, else the one whose markers it has, else
    `alpaca`. Raises ModelError if the own template does not work: taking another one in silence would train a model
    on a format it was not made for.
    """
    order = ("flan", "tokenizer", "gemma", "chatml")
    return chat_format(next((name for name in order if not _lacking(name, tokenizer)), "alpaca"), tokenizer)


def fits(name: str, tokenizer: Tokenizer) -> bool:
    """Whether `chat_format` has a format of that name for the tokenizer (its own template may still not work)."""
    return not _lacking(name, tokenizer)


def _lacking(name: str, tokenizer: Tokenizer) -> str:
    """Why the format does not fit the tokenizer, as a predicate; empty if it does."""
    if (name == "flan") != (tokenizer.decoder_start is not None):
        needed = ("a decoder-only model", "an encoder-decoder")[name == "flan"]
        return f"is for {needed}, which this one is not"
    if name == "tokenizer" and not tokenizer.chat_template:
        return "needs a chat template, which this tokenizer lacks"
    if missing := [marker for marker in _MARKERS.get(name, ()) if marker not in tokenizer.specials]:
        return f"needs the special tokens {' and '.join(missing)}, which this tokenizer lacks"
    if name in ("alpaca", "plain", "flan") and tokenizer.eos_id is None:
        return "needs an eos token, which this tokenizer lacks"
    return ""


_MARKERS = {"gemma": ("<start_of_turn>", "<end_of_turn>"), "chatml": ("<|im_start|>", "<|im_end|>")}


@dataclass(frozen=True, eq=False)
class _MarkedTurns(ChatFormat):
    """Turns between two special tokens: `<start>role`, a line break, the text, `<end>`, a line break."""

    start: int
    end: int
    names: Mapping[Role, str]

    def _pieces(self, messages: Sequence[Message], *, opens: bool) -> list[Piece]:
        pieces = _bos(self.tokenizer)
        folded = ""
        for index, message in enumerate(messages):
            if message.role not in self.names:  # a system text, as a paragraph of the first user turn
                folded = message.text + "\n\n"
                continue
            header, folded = f"{self.names[message.role]}\n{folded}", ""
            if message.role == "assistant" or message.trained:
                pieces += [Piece(self.start), Piece(header)]
                pieces += [Piece(message.text, index, message.trained), Piece(self.end, index, message.trained)]
            else:
                pieces += [Piece(self.start, index), Piece(header + message.text, index), Piece(self.end, index)]
            pieces.append(Piece("\n"))
        if opens:
            pieces += [Piece(self.start), Piece(self.names["assistant"] + "\n")]
        return pieces


def _marked(name: str, tokenizer: Tokenizer, names: Mapping[Role, str], jinja: str) -> ChatFormat:
    start, end = (tokenizer.specials[marker] for marker in _MARKERS[name])
    return _MarkedTurns(
        name=name,
        tokenizer=tokenizer,
        stop_ids=stops(end, tokenizer),
        stop_strings=(),
        trainable=frozenset(names),
        jinja=_quoted_bos(tokenizer) + jinja,
        start=start,
        end=end,
        names=names,
    )


def _gemma(tokenizer: Tokenizer) -> ChatFormat:
    """Gemma's turns. There is no system turn: its text goes before the first user text, as in Gemma's own template."""
    jinja = (
        "{% set folded = messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '' %}"
        "{% for message in messages if message['role'] != 'system' %}"
        "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}"
        "{{ (folded if loop.first else '') + message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    )
    return _marked("gemma", tokenizer, {"user": "user", "assistant": "model"}, jinja)


def _chatml(tokenizer: Tokenizer) -> ChatFormat:
    """OpenAI's Chat Markup Language, without a default system turn."""
    jinja = (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    return _marked("chatml", tokenizer, {"system": "system", "user": "user", "assistant": "assistant"}, jinja)


@dataclass(frozen=True, eq=False)
class _TextTurns(ChatFormat):
    """Turns told apart by wording alone; a reply ends with eos. A system text stands first, as a paragraph."""

    eos: int
    gap: str

    def _pieces(self, messages: Sequence[Message], *, opens: bool) -> list[Piece]:
        pieces = _bos(self.tokenizer)
        before = self.gap
        for index, message in enumerate(messages):
            if message.role == "system":
                before += message.text + "\n\n"
            elif message.role == "user":
                first = index == 0 or (messages[0].role == "system" and index == 1)
                pieces.append(Piece(before + self._ask(message, first), index))
            else:
                reply = self.lead(messages[:index]) + message.text
                pieces += [Piece(reply, index, message.trained), Piece(self.eos, index, message.trained)]
                before = "\n\n"
        return pieces

    @abstractmethod
    def _ask(self, message: Message, first: bool) -> str:
        """A user turn up to where the reply begins."""


class _Alpaca(_TextTurns):
    """The prompts of Stanford Alpaca (Taori et al. 2023, PROMPT_DICT in its train.py); later turns without preamble.

    The reply follows `### Response:` directly, as in that code.
    """

    def _ask(self, message: Message, first: bool) -> str:
        instruction, input_ = _instruction_and_input(message)
        preamble = (_ALPACA_INPUT if input_ else _ALPACA_NO_INPUT) if first else ""
        middle = f"\n\n### Input:\n{input_}" if input_ else ""
        return f"{preamble}### Instruction:\n{instruction}{middle}\n\n### Response:"


_COMPLETES = "Write a response that appropriately completes the request.\n\n"
_ALPACA_NO_INPUT = f"Below is an instruction that describes a task. {_COMPLETES}"
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. " + _COMPLETES
)


class _Plain(_TextTurns):
    """For base models: a text that invites its continuation, and in which few-shot demonstrations look natural.

    With an input part: the instruction, the demonstrations (each already of the form `Input: …`, `Output: …`), then
    `Input: …` and `Output:`. The blank after `Output:` is written by the model where words carry their blank (`▁yes`),
    else it ends the prompt. Without an input part: the text and a blank line.
    """

    def _ask(self, message: Message, first: bool) -> str:
        instruction, input_ = _instruction_and_input(message)
        if not input_:
            return f"{instruction}\n\n"
        return f"{instruction}\n\nInput: {input_}\nOutput:" + ("" if self._words_carry_blank() else " ")

    def lead(self, messages: Sequence[Message]) -> str:
        """The blank after `Output:`."""
        return " " if _instruction_and_input(messages[-1])[1] and self._words_carry_blank() else ""

    def _words_carry_blank(self) -> bool:
        return len(self.tokenizer.encode(" a", place="inside")) == 1


def _instruction_and_input(message: Message) -> tuple[str, str]:
    """The text of the input parts, and of all others before it. An input alone is an instruction."""
    instruction = join_parts(part for part in message.parts if part.kind != "input")
    input_ = join_parts(part for part in message.parts if part.kind == "input")
    return (instruction, input_) if instruction else (input_, "")


def _alpaca(tokenizer: Tokenizer) -> ChatFormat:
    preamble = f"({_quoted(_ALPACA_NO_INPUT)} if loop.index0 == first else '')"
    ask = f"{preamble} + '### Instruction:\\n' + message['content'] + '\\n\\n### Response:'"
    return _text(_Alpaca, "alpaca", tokenizer, "\n\n### Instruction:", ask)


def _plain(tokenizer: Tokenizer) -> ChatFormat:
    return _text(_Plain, "plain", tokenizer, "\n\n", "message['content'] + '\\n\\n'")


def _text(make: type[_TextTurns], name: str, tokenizer: Tokenizer, stop: str, jinja_ask: str) -> ChatFormat:
    """`jinja_ask` is the expression that writes a user turn."""
    eos_text = tokenizer.named_specials["eos_token"]
    # Some tokenizers mark the first word of a text, but not if the bos before it is spelt out: a blank does the same.
    marks = tokenizer.encode("a") != tokenizer.encode("a", place="after_special")
    gap = " " if tokenizer.adds_bos and marks else ""
    jinja = (
        f"{_quoted_bos(tokenizer, gap)}{{% set first = 1 if messages[0]['role'] == 'system' else 0 %}}"
        "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        f"{{{{ message['content'] + {_quoted(eos_text)} }}}}"
        "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        f"{{% else %}}{{{{ ('\\n\\n' if loop.index0 > first else '') + {jinja_ask} }}}}{{% endif %}}{{% endfor %}}"
    )
    eos = tokenizer.specials[eos_text]
    return make(
        name=name,
        tokenizer=tokenizer,
        stop_ids=stops(eos, tokenizer),
        stop_strings=(stop,),
        trainable=frozenset({"assistant"}),
        jinja=jinja,
        eos=eos,
        gap=gap,
    )


def _bos(tokenizer: Tokenizer) -> list[Piece]:
    return [Piece(tokenizer.bos_id)] if tokenizer.adds_bos and tokenizer.bos_id is not None else []


def _quoted_bos(tokenizer: Tokenizer, gap: str = "") -> str:
    return f"{{{{ {_quoted(tokenizer.named_specials['bos_token'] + gap)} }}}}" if tokenizer.adds_bos else ""


def _quoted(text: str) -> str:
    """A Jinja string literal (JSON's is one too)."""
    return json.dumps(text, ensure_ascii=False)


_FORMATS: Mapping[str, Callable[[Tokenizer], ChatFormat]] = {
    "gemma": _gemma,
    "chatml": _chatml,
    "alpaca": _alpaca,
    "plain": _plain,
    "flan": flan_format,
    "tokenizer": template_format,
}
