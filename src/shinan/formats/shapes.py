"""Shapes of rows: the field's common layouts of instruction data, to Examples and back.

| shape      | row                                                                                           |
|------------|-----------------------------------------------------------------------------------------------|
| alpaca     | `{"instruction", "input", "output"[, "system"]}`                                              |
| openai     | `{"messages": [{"role", "content"[, "weight"]}]}`; content is text or a list of text parts    |
| sharegpt   | `{"conversations": [{"from": "human" or "gpt" or "system", "value"}]}`                        |
| preference | `{"prompt", "chosen", "rejected"}`: texts or lists of messages; or, without a prompt, two     |
|            | whole conversations that differ in the last reply                                             |
| completion | `{"prompt", "completion"}`                                                                    |
| seed_task  | `{"instruction", "instances": [{"input", "output"}][, "is_classification"]}`: one instance    |
| text       | `{"text"}`: a text without a prompt, such as pre-training text; taken where no other shape fits |

A shape never loses content in silence: what it cannot hold is an error on both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shinan.core.errors import ConfigError, DataError, Problem, nearest, shown
from shinan.core.example import ROLES, Example, Message, Part, Provenance, Role, assistant, system, user
from shinan.formats.rows import Row, Where, fault, kind, read_rows, write_rows

_SHOWN = 20  # problems of one file that are told; the rest is counted
_SPEAKERS: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}
_NOT_TEXT = ("tool_calls", "function_call", "audio")  # keys of OpenAI messages that say more than their text


@dataclass(frozen=True, slots=True)
class Shape:
    """One layout.

    Attributes:
        name: what a recipe calls it.
        keys: the keys that a row of this shape has.
        variants: keys with which variants of the shape carry content that is not read here; refused unless empty.
    """

    name: str
    keys: tuple[str, ...]
    variants: tuple[str, ...]
    _read: Callable[[Row, str], Example]
    _write: Callable[[Example], Row]

    def to_example(self, row: Row, where: Where | str) -> Example:
        """The row as an example, without provenance. Raises DataError at `where` if the row does not fit."""
        if missing := [key for key in self.keys if key not in row]:
            what = f"a row of shape {self.name} has {_list(self.keys)}; this one lacks {_list(missing)}"
            raise DataError(what, where=str(where), fix=f"its keys are {_list(row)}")
        for key in self.variants:
            if row.get(key):
                fix = "turn the row into a list of text messages (shape openai)"
                raise DataError(f"{key!r} in a row of shape {self.name} is not read", where=str(where), fix=fix)
        return self._read(row, str(where))

    def from_example(self, example: Example) -> Row:
        """The example as a row. Raises DataError if the shape cannot hold all that the example says."""
        return self._write(example)


def detect(row: Row, where: Where | str = "") -> str:
    """The name of the one shape whose keys the row has. Raises DataError if there is none, or more than one."""
    fitting = [shape.name for shape in SHAPES.values() if all(key in row for key in shape.keys)]
    fitting = [name for name in fitting if name != "text"] or fitting  # other rows have such a field beside theirs
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        what, fix = f"the row's keys fit {' and '.join(fitting)}", "say which with `shape`"
    else:
        known = "; ".join(f"{shape.name}: {', '.join(shape.keys)}" for shape in SHAPES.values())
        what, fix = "the row's keys fit no shape", f"rename the fields, or use a template. Shapes and keys: {known}"
    raise DataError(f"{what} (keys: {_list(row)})", where=str(where), fix=fix)


def read(
    path: str | Path,
    shape: str | None = None,
    *,
    source: str | None = None,
    licence: str = "unknown",
    maker: str = "unknown",
    task: str = "",
) -> list[Example]:
    """The examples of a file or hub dataset (see `read_rows`), in order.

    Args:
        path: the file; it is each example's `source` unless `source` is given.
        shape: a name in `SHAPES`; by default the first row's keys decide.
        source: see `Provenance`, as are `licence` and `maker`.
        task: the task of every row.

    Raises:
        ConfigError: no shape has that name.
        DataError: with up to 20 of all rows that cannot be used, so that a file is put right in one go.
        RunError: a hub dataset that cannot be loaded.
    """
    chosen = _named(shape) if shape is not None else None
    origin = source if source is not None else str(path)
    examples: list[Example] = []
    problems: list[DataError] = []
    try:
        for where, row in read_rows(path, refuse=problems.append):
            chosen = chosen or SHAPES[detect(row, where)]
            try:
                example = chosen.to_example(row, where)
            except DataError as error:
                problems.append(error)
            else:
                made = Provenance(origin, where.row, licence, maker)
                examples.append(replace(example, task=task, provenance=made))
    except DataError as error:  # the file itself, or its shape: nothing after it can be read
        problems.append(error)
    if problems:
        raise _together(problems, str(path))
    return examples


def write(examples: Iterable[Example], path: str | Path, shape: str) -> None:
    """Write examples in a shape, as the path's ending says: .jsonl, .json, .csv, .tsv or .parquet; all or nothing.

    Tags, scores, task and provenance have no place in these shapes and are left out.

    Raises:
        ConfigError: no shape has that name.
        DataError: examples that the shape cannot hold (up to 20 are told), an unknown kind of file, or no example.
        RunError: the file cannot be written.
    """
    chosen = _named(shape)
    rows: list[Row] = []
    problems: list[DataError] = []
    for example in examples:
        try:
            rows.append(chosen.from_example(example))
            if problem := fault(rows[-1]):
                raise DataError(problem, where=example.row, fix="correct this row or take it out")
        except DataError as error:
            problems.append(error)
    if problems:
        raise _together(problems, str(path))
    if not rows:
        raise DataError("there are no rows to write", where=str(path), fix="give at least one example")
    write_rows(path, rows)


def _named(shape: str) -> Shape:
    if shape not in SHAPES:
        raise ConfigError([Problem(f"no shape is named {shape!r}", "", nearest(shape, SHAPES))])
    return SHAPES[shape]


def _together(problems: Sequence[DataError], where: str) -> DataError:
    if len(problems) == 1:
        return problems[0]
    lines = [
        f"  {problem.where}: {problem.what}" + (f" ({problem.fix})" if problem.fix else "") for problem in problems
    ]
    rest = len(lines) - _SHOWN
    shown = lines[:_SHOWN] + ([f"  and {rest} more"] if rest > 0 else [])
    what = f"{len(problems)} problems:\n" + "\n".join(shown)
    return DataError(what, where=where, fix="correct these rows or take them out")


def _list(keys: Iterable[str]) -> str:
    names = [repr(key if len(key) <= 40 else key[:37] + "...") for key in keys]
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"


# ---- reading ----


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} is {kind(value)}, not text", where=where, fix=f"write {name} as text in quotes")
    return value


def _optional(row: Row, key: str, where: str) -> str:
    """The text under a key that may be absent, null or empty."""
    return "" if row.get(key) is None else _text(row[key], repr(key), where)


def _items(value: Any, name: str, where: str) -> list[Row]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        got = kind(value) if not isinstance(value, list) else "empty" if not value else "a list of other things"
        raise DataError(f"{name} is {got}, not a list of messages", where=where, fix="write one object a turn")
    return value


def _messages(value: Any, name: str, where: str) -> tuple[Message, ...]:
    return tuple(_message(item, f"{name}[{i}]", where) for i, item in enumerate(_items(value, name, where)))


def _message(item: Row, name: str, where: str) -> Message:
    for key in _NOT_TEXT:
        if item.get(key):
            fix = "only text turns can be trained on: take the row out or write the call as text"
            raise DataError(f"{name} holds {key!r}", where=where, fix=fix)
    role, content, weight = item.get("role"), item.get("content"), item.get("weight")
    if role not in ROLES:
        raise DataError(f"{name} has the role {shown(role)}", where=where, fix=nearest(role, ROLES))
    if isinstance(content, list):
        content = "".join(_text_part(part, f"{name}'s content", where) for part in content)
    text = _text(content, f"{name}'s content", where)
    if weight is not None and (role != "assistant" or weight not in (0, 1)):
        fix = "give only assistant turns a weight, 0 (not trained) or 1"
        raise DataError(f"{name} has the weight {shown(weight)}", where=where, fix=fix)
    return Message(role, (Part(text),), None if weight is None else bool(weight))


def _text_part(part: Any, name: str, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        got = shown(part.get("type")) if isinstance(part, dict) else kind(part)
        raise DataError(f"{name} has a part of type {got}", where=where, fix="only parts of type 'text' can be read")
    return _text(part.get("text"), f"{name}'s text", where)


def _from_alpaca(row: Row, where: str) -> Example:
    extra, before = _optional(row, "input", where), _optional(row, "system", where)
    parts = (Part(_text(row["instruction"], "'instruction'", where), "instruction"),)
    asked = Message("user", (*parts, Part(extra, "input")) if extra else parts)
    turns = (asked, assistant(_text(row["output"], "'output'", where)))
    return Example((system(before), *turns) if before else turns)


def _from_openai(row: Row, where: str) -> Example:
    return Example(_messages(row["messages"], "'messages'", where))


def _from_sharegpt(row: Row, where: str) -> Example:
    turns = []
    for index, item in enumerate(_items(row["conversations"], "'conversations'", where)):
        name, speaker = f"'conversations'[{index}]", item.get("from")
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise DataError(
                f"{name} is from {shown(speaker)}",
                where=where,
                fix=nearest(speaker, _SPEAKERS),
            )
        turns.append(Message(_SPEAKERS[speaker], (Part(_text(item.get("value"), f"{name}'s value", where)),)))
    return Example(tuple(turns))


def _from_preference(row: Row, where: str) -> Example:
    given = row.get("prompt")
    prompt: tuple[Message, ...] = ()
    if given is not None:
        prompt = (user(given),) if isinstance(given, str) else _messages(given, "'prompt'", where)
    chosen, rejected = (_side(row[key], prompt, repr(key), where) for key in ("chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) and _same(chosen[shared], rejected[shared]):
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise DataError("'chosen' and 'rejected' are the same", where=where, fix="take the row out")
    tails = (chosen[shared:], rejected[shared:])
    if not shared or any([message.role for message in tail] != ["assistant"] for tail in tails):
        what = "'chosen' and 'rejected' must be one prompt with two different replies of one assistant turn each"
        raise DataError(what, where=where, fix="cut both after the first turn in which they differ")
    return Example(chosen, rejected=tails[1])


def _side(value: Any, prompt: tuple[Message, ...], name: str, where: str) -> tuple[Message, ...]:
    """Prompt and reply of one side of a pair; a list that does not begin with the reply holds the prompt itself."""
    if isinstance(value, str) and not prompt:
        raise DataError(f"{name} is text, but there is no 'prompt'", where=where, fix="add the prompt to the row")
    reply = (assistant(value),) if isinstance(value, str) else _messages(value, name, where)
    if reply[0].role == "assistant":
        return (*prompt, *reply)
    if not all(any(_same(message, other) for other in reply) for message in prompt):
        fix = "leave 'prompt' out, or begin both lists with the reply"
        raise DataError(f"'prompt' is not part of the conversation in {name}", where=where, fix=fix)
    return reply


def _same(one: Message, other: Message) -> bool:
    return one.role == other.role and one.text == other.text


def _from_completion(row: Row, where: str) -> Example:
    prompt, completion = (_text(row[key], repr(key), where) for key in ("prompt", "completion"))
    return Example((user(prompt), assistant(completion)))


def _from_text(row: Row, where: str) -> Example:
    return Example((assistant(_text(row["text"], "'text'", where)),))


def _from_seed_task(row: Row, where: str) -> Example:
    instances, kind_ = _items(row["instances"], "'instances'", where), row.get("is_classification")
    if len(instances) > 1 or "output" not in instances[0]:
        what = f"'instances' has {len(instances)} entries, the first with the keys {_list(instances[0])}"
        raise DataError(what, where=where, fix="give one instance with 'input' and 'output' a row")
    example = _from_alpaca({"instruction": row["instruction"], **instances[0]}, where)
    return example if kind_ is None else replace(example, tags={"classification": "yes" if kind_ else "no"})


# ---- writing ----


def _holds(example: Example, shape: str, *allowed: str) -> None:
    """Raise DataError for what an example says beyond its messages, unless allowed."""
    beyond = {
        "rejected replies": example.rejected,
        "targets": example.targets,
        "choices": example.choices,
        "ranked replies": example.ranked,
        "a thumb": example.thumb is not None,
        "a row weight": example.weight != 1.0,
        "turn weights": any(message.trained != (message.role == "assistant") for message in example.messages),
    }
    for name, present in beyond.items():
        if present and name not in allowed:
            raise _unfit(example, shape, f"cannot hold {name}")


def _unfit(example: Example, shape: str, why: str) -> DataError:
    return DataError(f"the shape {shape} {why}", where=example.row, fix="choose another shape, or leave this row out")


def _turn(message: Message, example: Example) -> Row:
    if message.train and message.role != "assistant":
        raise _unfit(example, "openai", f"cannot say that a {message.role} turn is trained")
    weight = {} if message.train is None or message.role != "assistant" else {"weight": int(message.train)}
    return {"role": message.role, "content": message.text, **weight}


def _to_alpaca(example: Example) -> Row:
    _holds(example, "alpaca")
    before = [message for message in example.messages[:1] if message.role == "system"]
    turns = example.messages[len(before) :]
    if [message.role for message in turns] != ["user", "assistant"]:
        raise _unfit(example, "alpaca", "holds one user turn and one reply, after at most one system turn")
    if before and not before[0].text:
        raise _unfit(example, "alpaca", "cannot hold an empty system turn")
    asked, extra = turns[0], ""
    text = asked.text
    if [part.kind for part in asked.parts] == ["instruction", "input"]:
        text, extra = asked.parts[0].text, asked.parts[1].text
    row = {"instruction": text, "input": extra, "output": turns[1].text}
    return row | {"system": before[0].text} if before else row


def _to_openai(example: Example) -> Row:
    _holds(example, "openai", "turn weights")
    if not example.messages:
        raise _unfit(example, "openai", "holds at least one turn")
    return {"messages": [_turn(message, example) for message in example.messages]}


def _to_sharegpt(example: Example) -> Row:
    _holds(example, "sharegpt")
    if not example.messages:
        raise _unfit(example, "sharegpt", "holds at least one turn")
    names = {role: speaker for speaker, role in _SPEAKERS.items()}
    return {"conversations": [{"from": names[message.role], "value": message.text} for message in example.messages]}


def _to_preference(example: Example) -> Row:
    """Always lists of messages: to readers that tell the two apart, texts are raw text without a chat format."""
    _holds(example, "preference", "rejected replies", "turn weights")
    *prompt, chosen = example.messages or (None,)
    if chosen is None or not prompt or [m.role for m in (chosen, *example.rejected)] != ["assistant", "assistant"]:
        raise _unfit(example, "preference", "holds a prompt, one reply and one rejected reply")
    if _same(chosen, example.rejected[0]):
        raise _unfit(example, "preference", "holds two different replies")
    sides = {"prompt": prompt, "chosen": [chosen], "rejected": example.rejected}
    return {key: [_turn(message, example) for message in messages] for key, messages in sides.items()}


def _to_completion(example: Example) -> Row:
    _holds(example, "completion")
    if [message.role for message in example.messages] != ["user", "assistant"]:
        raise _unfit(example, "completion", "holds one user turn and one reply")
    return {"prompt": example.messages[0].text, "completion": example.messages[1].text}


def _to_text(example: Example) -> Row:
    _holds(example, "text")
    if [message.role for message in example.messages] != ["assistant"]:
        raise _unfit(example, "text", "holds one turn of the assistant and no prompt")
    return {"text": example.messages[0].text}


def _to_seed_task(example: Example) -> Row:
    _holds(example, "seed_task")
    if [message.role for message in example.messages] != ["user", "assistant"]:
        raise _unfit(example, "seed_task", "holds one user turn and one reply")
    row, kind_ = _to_alpaca(example), example.tags.get("classification")
    task = {"instruction": row.pop("instruction"), "instances": [row]}
    return task if kind_ is None else task | {"is_classification": kind_ == "yes"}


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("alpaca", ("instruction", "output"), ("history", "tools"), _from_alpaca, _to_alpaca),
        Shape("openai", ("messages",), ("tools", "functions"), _from_openai, _to_openai),
        Shape("sharegpt", ("conversations",), ("tools", "system"), _from_sharegpt, _to_sharegpt),
        Shape("preference", ("chosen", "rejected"), ("tools", "system"), _from_preference, _to_preference),
        Shape("completion", ("prompt", "completion"), ("system",), _from_completion, _to_completion),
        Shape("seed_task", ("instruction", "instances"), (), _from_seed_task, _to_seed_task),
        Shape("text", ("text",), (), _from_text, _to_text),
    )
}
