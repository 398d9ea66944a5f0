"""Example: the one type in which rows travel through the whole system.

Instruction/input/output rows, conversations, preference pairs, prompts without a reply and evaluation items
are all Examples; what differs is which fields are filled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

from shinan.core.errors import DataError
from shinan.core.hashing import tagged_hash

Role = Literal["system", "user", "assistant"]
PartKind = Literal["text", "instruction", "input", "demonstration"]


@dataclass(frozen=True, slots=True)
class Part:
    """A typed stretch of a message, so that templates, probes and masks can address it."""

    text: str
    kind: PartKind = "text"


def join_parts(parts: Iterable[Part]) -> str:
    """One text of several parts. Empty parts are left out.

    A blank line stands between two typed parts (instruction, demonstration, input), which hold no separators of their
    own; a `text` part is joined to its neighbours as it is.

    >>> join_parts([Part("Translate.", "instruction"), Part("neko", "input"), Part("!", "text")])
    'Translate.\\n\\nneko!'
    """
    joined, before = "", "text"
    for part in parts:
        if part.text:
            joined += ("" if "text" in (before, part.kind) else "\n\n") + part.text
            before = part.kind
    return joined


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `train` None means the default: assistant turns are trained, others are not."""

    role: Role
    parts: tuple[Part, ...]
    train: bool | None = None

    @property
    def text(self) -> str:
        """The whole turn as text: `join_parts` of its parts."""
        return join_parts(self.parts)

    @property
    def trained(self) -> bool:
        """Whether the loss covers this turn."""
        return self.role == "assistant" if self.train is None else self.train


def system(text: str) -> Message:
    """A system turn of plain text."""
    return Message("system", (Part(text),))


def user(text: str) -> Message:
    """A user turn of plain text."""
    return Message("user", (Part(text),))


def assistant(text: str, train: bool | None = None) -> Message:
    """An assistant turn of plain text."""
    return Message("assistant", (Part(text),), train)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a row comes from.

    Attributes:
        source: file, collection or stage the row was read from, e.g. `collection:starter/train`.
        row: position in that source, counted from 0. (source, row) is the row's identity in counts and verdicts.
        licence: SPDX id where there is one, or the source's own words.
        maker: who wrote it, truthfully: `human`, `model:NAME`, `template:NAME`, `project`.
        parents: ids of the examples it was made from.
    """

    source: str = "memory"
    row: int = 0
    licence: str = "unknown"
    maker: str = "unknown"
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One row of any kind.

    Attributes:
        messages: the conversation; an SFT row ends with an assistant turn, a prompt or evaluation item with a user one.
        rejected: the reply that lost against the last assistant turn (preference pairs).
        targets: accepted reference answers of an evaluation item.
        choices: the options of a multiple-choice item, in order.
        ranked: replies from best to worst.
        thumb: a single vote on the last assistant turn (KTO).
        task: the task the row belongs to: the cluster for statistics.
        weight: multiplies the row's loss.
        tags: facts about the row (category, language, ...); never part of its identity.
        scores: numbers attached by curation; never part of its identity.
        id: hash of all content (messages, rejected, targets, choices, ranked, thumb); exact duplicates share it.
    """

    messages: tuple[Message, ...]
    rejected: tuple[Message, ...] = ()
    targets: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    ranked: tuple[str, ...] = ()
    thumb: bool | None = None
    task: str = ""
    weight: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        lists = (_quoted(self.targets), _quoted(self.choices), _quoted(self.ranked))
        content = (_turns(self.messages), _turns(self.rejected), *lists, _FLAGS[self.thumb])
        object.__setattr__(self, "id", tagged_hash(f"[{','.join(content)}]".encode("utf-8", "surrogatepass")))

    @property
    def row(self) -> str:
        """The row's identity in counts and verdicts, `source#position`. Never shared by two rows."""
        return f"{self.provenance.source}#{self.provenance.row}"

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before a final assistant turn; all of them if there is none."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[:-1]
        return self.messages

    @property
    def reply(self) -> str | None:
        """The text of the final assistant turn, or None if the example ends with another role."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[-1].text
        return None

    @property
    def prompt_text(self) -> str:
        """The prompt's turns joined by blank lines: what n-gram overlap and previews look at."""
        return "\n\n".join(message.text for message in self.prompt)

    def at(self, source: str, row: int) -> Example:
        """The same example as row `row` of `source`."""
        return replace(self, provenance=replace(self.provenance, source=source, row=row))

    def tagged(self, name: str, value: str) -> Example:
        """The same example with one more tag, or another value of it."""
        example = object.__new__(Example)
        for slot in _SLOTS:  # tags are no content: `replace` would work the id out again, which takes longer
            object.__setattr__(example, slot, getattr(self, slot))
        object.__setattr__(example, "tags", {**self.tags, name: value})
        return example

    def under(self, licence: str) -> Example:
        """The same example under another's terms too: those of a text that it holds, beside its maker's.

        >>> Example((), provenance=Provenance(licence="MIT")).under("CC-BY-4.0").provenance.licence
        'CC-BY-4.0 AND MIT'
        """
        both = sorted({each for text in (licence, self.provenance.licence) for each in _joined(text)})
        return replace(self, provenance=replace(self.provenance, licence=" AND ".join(both)))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; `from_dict` reads it back to an equal example."""
        return {
            "id": self.id,
            "messages": [_message_to_dict(message) for message in self.messages],
            "rejected": [_message_to_dict(message) for message in self.rejected],
            "targets": list(self.targets),
            "choices": list(self.choices),
            "ranked": list(self.ranked),
            "thumb": self.thumb,
            "task": self.task,
            "weight": self.weight,
            "tags": dict(self.tags),
            "scores": dict(self.scores),
            "provenance": {
                "source": self.provenance.source,
                "row": self.provenance.row,
                "licence": self.provenance.licence,
                "maker": self.provenance.maker,
                "parents": list(self.provenance.parents),
            },
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Example:
        """Read `to_dict`'s form. Raises DataError if the stored id is not the hash of the content."""
        origin = value["provenance"]
        return cls(
            messages=_messages_from(value["messages"]),
            rejected=_messages_from(value["rejected"]),
            targets=tuple(value["targets"]),
            choices=tuple(value["choices"]),
            ranked=tuple(value["ranked"]),
            thumb=value["thumb"],
            task=value["task"],
            weight=value["weight"],
            tags=dict(value["tags"]),
            scores=dict(value["scores"]),
            provenance=Provenance(
                origin["source"], origin["row"], origin["licence"], origin["maker"], tuple(origin["parents"])
            ),
        ).checked(value.get("id"))

    def checked(self, id_: str | None) -> Example:
        """The example itself. Raises DataError if `id_`, under which it was stored, is not the hash of its content."""
        if id_ is not None and id_ != self.id:
            raise DataError(
                "the stored id is not the hash of the row's content",
                where=self.row,
                fix="the file was changed by hand or damaged; build this stage again",
            )
        return self


def _joined(licence: str) -> list[str]:
    """The licences that all hold; a choice between some (`OR`) is one, in brackets."""
    if " OR " not in licence:
        return licence.split(" AND ")
    return [licence if re.fullmatch(r"\([^()]*\)", licence) else f"({licence})"]


def _message_to_dict(message: Message) -> dict[str, Any]:
    parts = [{"kind": part.kind, "text": part.text} for part in message.parts]
    return {"role": message.role, "train": message.train, "parts": parts}


def _messages_from(values: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    return tuple(
        Message(value["role"], tuple(Part(p["text"], p["kind"]) for p in value["parts"]), value["train"])
        for value in values
    )


_SLOTS = tuple(slot.name for slot in fields(Example))

# An id is the hash of the content as `canonical_json`, written here by hand: it is worked out for each of millions of
# rows, and the general encoder takes four times as long.
_text = json.JSONEncoder(ensure_ascii=False).encode
_name = lru_cache(maxsize=64)(_text)  # roles and kinds of parts
_FLAGS: Mapping[bool | None, str] = {None: "null", True: "true", False: "false"}


def _quoted(texts: Iterable[str]) -> str:
    return f"[{','.join(map(_text, texts))}]" if texts else "[]"


def _turns(messages: Iterable[Message]) -> str:
    return f"[{','.join(map(_turn, messages))}]" if messages else "[]"


def _turn(message: Message) -> str:
    parts = ",".join([f'{{"kind":{_name(part.kind)},"text":{_text(part.text)}}}' for part in message.parts])
    return f'{{"parts":[{parts}],"role":{_name(message.role)},"train":{_FLAGS[message.train]}}}'


ROLES: tuple[str, ...] = get_args(Role)
