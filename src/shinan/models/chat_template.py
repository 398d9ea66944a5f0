"""The chat format `tokenizer`: a model's own Jinja template, with reply spans found and verified.

A template returns one text. Where a reply lies in it is found by rendering the conversation up to the reply and up to
its end: both must be true prefixes of the whole text, and the reply must end with a special token. What the template
writes between the prompt and the reply's content (a blank, an empty thinking block) is part of the reply, because a
served model has to write it too.

The text is cut there, so that the prompt's ids are a prefix of the whole's ids, and special tokens that a *message*
spells stay text: before rendering, the first character of each is replaced by a stand-in that no text here uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from shinan.core.errors import DataError, ModelError
from shinan.core.example import Message, Part, assistant, user
from shinan.core.sandbox import FAILURES, Sandbox, written
from shinan.models.rendering import ChatFormat, Piece, stops
from shinan.models.tokenizer import Tokenizer

_OTHER = "choose a chat format by name"


@dataclass(frozen=True, eq=False)
class TemplateFormat(ChatFormat):
    """Whatever the tokenizer's template writes; `end` is the text of the special token that ends a reply."""

    template: jinja2.Template
    end: str

    def lead(self, messages: Sequence[Message]) -> str:
        """What the template writes between the prompt and the content of a reply."""
        (probe,) = _stand_ins(self._texts(messages), 1)
        prompt = self._fill(messages, opens=True)
        whole = self._fill([*messages, assistant(probe)], opens=False)
        if not whole.startswith(prompt) or probe not in whole:
            raise _difference("the template begins a reply in another way than it asks for one", prompt, whole)
        return whole[len(prompt) : whole.index(probe)]

    def _pieces(self, messages: Sequence[Message], *, opens: bool) -> list[Piece]:
        messages, plain = self._disarm(messages)
        whole = self._fill(messages, opens=opens)
        pieces: list[Piece] = []
        at = 0
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            try:
                start, end = self._reply(messages, index, whole)
            except ModelError:
                if message.trained and not opens:
                    raise
                continue  # context only: stays uncut, here and in the full rendering alike
            pieces += self._cut(whole[at:start], plain, index - 1)
            pieces += self._cut(whole[start:end], plain, index, message.trained)
            at = end
        tail = None if messages[-1].role == "assistant" else len(messages) - 1
        return pieces + self._cut(whole[at:], plain, tail)

    def _opening(self, messages: Sequence[Message], prefill: str) -> list[Piece]:
        (reply,), plain = self._disarm([assistant(prefill)])
        return self._cut(self.lead(messages) + reply.text, plain, None)

    def _reply(self, messages: Sequence[Message], index: int, whole: str) -> tuple[int, int]:
        """Where in `whole` the reply `messages[index]` begins and ends. Raises ModelError if it cannot be told."""
        where = f"message {index + 1} (assistant)"
        prompt = self._fill(messages[:index], opens=True)
        turn = self._fill(messages[: index + 1], opens=False)
        if not turn.startswith(prompt):
            raise _difference("the template begins a reply in another way than it asks for one", prompt, turn, where)
        end = turn.find(self.end, len(prompt)) + len(self.end)
        if messages[index].text.strip() not in turn[len(prompt) : end]:
            raise ModelError("the template leaves out or changes part of the reply", where=where, fix=_OTHER)
        if not whole.startswith(turn[:end]):
            what = "the template writes this turn differently when other turns follow"
            raise _difference(what, turn[:end], whole, where, "set train: false on it, or make each turn a row")
        return len(prompt), end

    def _disarm(self, messages: Sequence[Message]) -> tuple[list[Message], dict[int, str]]:
        """The messages as single texts that spell no special token, and the table that restores the spelling."""
        firsts = sorted({text[0] for text in self.tokenizer.specials})
        forward = dict(zip(firsts, _stand_ins(self._texts(messages), len(firsts)), strict=True))
        disarmed = []
        for message in messages:
            letters, at = list(message.text), 0
            while match := self.tokenizer.special_pattern.search(message.text, at):
                letters[match.start()] = forward[message.text[match.start()]]
                at = match.start() + 1  # spellings may overlap
            disarmed.append(replace(message, parts=(Part("".join(letters)),)))
        return disarmed, {ord(stand_in): first for first, stand_in in forward.items()}

    def _cut(self, text: str, plain: Mapping[int, str], message: int | None, trained: bool = False) -> list[Piece]:
        """A stretch of rendered text as pieces, the messages' own spelling restored."""
        parts = self.tokenizer.split_specials(text)
        return [Piece(part.translate(plain) if isinstance(part, str) else part, message, trained) for part in parts]

    def _texts(self, messages: Sequence[Message]) -> list[str]:
        return [self.jinja or "", *(message.text for message in messages)]

    def _fill(self, messages: Sequence[Message], *, opens: bool) -> str:
        """Render the template. Raises ModelError if it refuses or fails."""
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            return written(
                self.template,
                messages=turns,
                add_generation_prompt=opens,
                tools=None,
                documents=None,
                **self.tokenizer.named_specials,
            )
        except FAILURES as error:
            why = str(error) or type(error).__name__
            raise ModelError(f"the tokenizer's chat template fails: {why}", fix=_OTHER) from error


def template_format(tokenizer: Tokenizer) -> ChatFormat:
    """The format of the tokenizer's own template. Raises ModelError if its replies cannot be told apart or ended."""
    source = tokenizer.chat_template or ""
    try:
        template = _environment().from_string(source)
    except FAILURES as error:
        why = str(error) or type(error).__name__
        raise ModelError(f"the tokenizer's chat template is broken: {why}", fix=_OTHER) from error
    draft = TemplateFormat(
        name="tokenizer",
        tokenizer=tokenizer,
        stop_ids=(),
        stop_strings=(),
        trainable=frozenset({"assistant"}),
        jinja=source,
        template=template,
        end="",
    )
    (probe,) = _stand_ins([source], 1)
    whole = draft._fill([user("a"), assistant(probe)], opens=False)
    match = tokenizer.special_pattern.match(whole.partition(probe)[2].lstrip())
    if not match:
        raise ModelError(
            "the tokenizer's chat template ends a reply with no special token: a model could not learn to stop",
            fix=_OTHER,
        )
    made = replace(draft, end=match.group(), stop_ids=stops(tokenizer.specials[match.group()], tokenizer))
    ids = made.render([user("a"), assistant("b")]).ids
    if tokenizer.bos_id is not None and ids[:2] == (tokenizer.bos_id,) * 2:
        raise ModelError("the tokenizer's chat template writes the bos token twice", fix=_OTHER)
    return made


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks replies for other tools: only its body is written."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Sandbox:
    """The environment that chat templates are written for, sandboxed.

    `strftime_now` is left undefined: a prompt must not change with the day. Templates that offer a fixed date use it.
    """
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.add_filter("tojson", _to_json)
    environment.globals["raise_exception"] = _refuse
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _stand_ins(texts: Sequence[str], count: int) -> list[str]:
    """Private-use characters that occur in none of `texts`."""
    used = set().union(*texts)
    free = list(islice((letter for code in _PRIVATE if (letter := chr(code)) not in used), count))
    if len(free) < count:
        raise DataError("the text uses every private-use character", fix="drop the row")
    return free


_PRIVATE = range(0xE000, 0xF900)


def _difference(what: str, wanted: str, got: str, where: str = "", fix: str = _OTHER) -> ModelError:
    """An error that shows the first place where two renderings differ."""
    pairs = zip(wanted, got, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(got)))
    shown = f"after {wanted[max(0, at - 20) : at]!r}: {wanted[at : at + 20]!r}, but then {got[at : at + 20]!r}"
    return ModelError(f"{what} ({shown})", where=where, fix=fix)
