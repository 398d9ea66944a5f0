"""How a Natural Instructions task is put to a model: which of its parts are shown, and in which words.

An Encoding names the parts, as Natural Instructions names its own by what is concatenated; a Wording frames them. The
first wording is Tk-Instruct's (Wang et al. 2022, arXiv 2204.07705, section 4, and the collator of its code), to the
character where the turn is read as one text. Deviations: an explanation that is empty is left out (there it leaves
`Explanation: .`), and a prompt that is too long without any example is not cut in the middle.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shinan.core.errors import nearest
from shinan.core.example import Part, PartKind
from shinan.formats.natural_instructions import Demonstration, Instance, Task

Field = Literal["definition", "title", "prompt", "avoid", "caution"]
_FIELDS: tuple[Field, ...] = ("definition", "title", "prompt", "avoid", "caution")
_LABELS = {"title": "Title", "prompt": "Prompt", "avoid": "Things to Avoid", "caution": "Emphasis & Caution"}
_AMOUNT = re.compile(r"(\d+) (positive|negative)")
_GAP = "\n\n"  # what `join_parts` puts between typed parts


@dataclass(frozen=True, slots=True)
class Encoding:
    """Which parts of a task are shown before the input.

    Attributes:
        fields: texts that make the instruction, in order; all but `definition` are version 1's.
        positive: right examples, at most.
        negative: wrong examples, at most.
        explanations: whether the examples are explained.
    """

    fields: tuple[Field, ...] = ("definition",)
    positive: int = 0
    negative: int = 0
    explanations: bool = False

    @property
    def name(self) -> str:
        """The encoding in words, as `parse` reads it: `definition+2 positive+explanations`."""
        amounts = [f"{n} {what}" for n, what in ((self.positive, "positive"), (self.negative, "negative")) if n]
        return "+".join([*self.fields, *amounts, *(["explanations"] if self.explanations else [])])

    @classmethod
    def parse(cls, text: str) -> Encoding:
        """The encoding of that name.

        Raises ValueError for a part that there is not, one given twice, no part, or explanations of no example.
        """
        fields: list[Field] = []
        amounts = {"positive": 0, "negative": 0}
        explanations = False
        parts = [part.strip() for part in text.split("+")]
        for part in parts:
            if match := _AMOUNT.fullmatch(part):
                amounts[match[2]] += int(match[1])
            elif known := next((name for name in _FIELDS if name == part), None):
                fields.append(known)
            elif part == "explanations":
                explanations = True
            else:
                known_parts = [*_FIELDS, "2 positive", "2 negative", "explanations"]
                raise ValueError(f"an encoding has no part {part!r}; {nearest(part, known_parts)}")
        kinds = [part.partition(" ")[2] or part for part in parts]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"a part of the encoding {text!r} is given twice")
        made = cls(tuple(fields), amounts["positive"], amounts["negative"], explanations)
        if not made.fields and not made.positive and not made.negative:
            raise ValueError(f"the encoding {text!r} shows nothing of the task")
        if explanations and not made.positive and not made.negative:
            raise ValueError(f"the encoding {text!r} has explanations but no examples; add `2 positive`")
        return made


TK_INSTRUCT = tuple(
    map(
        Encoding.parse,
        (
            "definition",
            "2 positive",
            "definition+2 positive",
            "definition+2 positive+2 negative",
            "definition+2 positive+explanations",
        ),
    )
)
"""The five encodings of which Tk-Instruct's mix draws one for each instance."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The words around the parts of a task. Examples are filled with `n`, `input` and `output`, the others with `text`.

    Attributes:
        name: as tags call it.
        definition: around the definition.
        positive: around a right example.
        negative: around a wrong one.
        explanation: follows an example that is explained.
        ask: around the input.
        gap: between the parts.
        stops: whether a full stop follows texts that end without punctuation (ASCII punctuation, as there).
        raw: whether blanks at the ends of examples and inputs stay.
        negative_first: whether wrong examples stand before the right ones.
    """

    name: str
    definition: str
    positive: str
    negative: str
    explanation: str
    ask: str
    gap: str = _GAP
    stops: bool = False
    raw: bool = False
    negative_first: bool = False

    def instruction(self, task: Task, fields: Sequence[Field]) -> str:
        """The texts of `fields` that the task has, one a line."""
        lines = []
        for name in fields:
            text = task.definitions[0] if name == "definition" else str(getattr(task, name))
            if text.strip():
                frame = self.definition if name == "definition" else f"{_LABELS[name]}: {{text}}"
                lines.append(frame.format(text=self._ended(text.strip())))
        return "\n".join(lines)

    def example(self, shown: Demonstration, n: int, *, right: bool, explained: bool) -> str:
        """The `n`-th right or wrong example."""
        frame = self.positive if right else self.negative
        text = frame.format(n=n, input=self._ended(shown.input), output=self._ended(shown.output))
        if explained and shown.explanation:
            text += self.explanation.format(text=self._ended(shown.explanation))
            text += f"suggestion: {shown.suggestion}" if self.raw and shown.suggestion and not right else ""
        return text

    def question(self, asked: str) -> str:
        """The input, up to where the reply begins."""
        return self.ask.format(input=self._ended(asked))

    def _ended(self, text: str) -> str:
        text = text if self.raw else text.strip()
        return text + "." if self.stops and text[-1:] not in [*string.punctuation] else text


def _wording(number: int, definition: str, example: str, negative: str, explanation: str, ask: str) -> Wording:
    return Wording(f"wording-{number}", definition, example, negative, explanation, ask)


WORDINGS = (
    Wording(
        "tk_instruct",
        "Definition: {text}",
        " Positive Example {n} -\nInput: {input}\n Output: {output}",
        " Negative Example {n} -\nInput: {input}\n Output: {output}",
        "\n Explanation: {text}",
        "Now complete the following example -\nInput: {input}\nOutput: ",
        stops=True,
    ),
    _wording(
        2,
        "{text}",
        "Q: {input}\nA: {output}",
        "Q: {input}\nA (not accepted): {output}",
        "\nReason: {text}",
        "Q: {input}\nA:",
    ),
    _wording(
        3,
        "Your task: {text}",
        "For instance, given this:\n{input}\nyou would write this:\n{output}",
        "But given this:\n{input}\nit would be a mistake to write this:\n{output}",
        "\nHere is why: {text}",
        "Do the same for this one:\n{input}",
    ),
    _wording(
        4,
        "## Task\n{text}",
        "## Example {n}\n{input}\n\n## Its answer\n{output}",
        "## Counterexample {n}\n{input}\n\n## A wrong answer\n{output}",
        "\n\n## Why\n{text}",
        "## Now this\n{input}\n\n## Answer",
    ),
    _wording(
        5,
        "Read what is asked of you and then do it. {text}",
        "Case {n}: {input}\nDone right: {output}",
        "Case {n} done badly: {input}\nDone badly: {output}",
        "\nBecause: {text}",
        "Here is your case: {input}\nReply with nothing but the result.",
    ),
    _wording(
        6,
        "<task>{text}</task>",
        "<example>\n<in>{input}</in>\n<out>{output}</out>",
        "<bad-example>\n<in>{input}</in>\n<out>{output}</out>",
        "\n<why>{text}</why>",
        "<in>{input}</in>\n<out>",
    ),
    _wording(
        7,
        "I need help with something. {text}",
        "To show you what I mean, here is one that I did myself.\n{input} -> {output}",
        "This is what I do not want.\n{input} -> {output}",
        "\nMy thinking was: {text}",
        "Could you do this one for me?\n{input} ->",
    ),
    _wording(
        8,
        "Instructions for the annotator: {text}",
        "[Sample {n}]\nItem: {input}\nAnnotation: {output}",
        "[Rejected sample {n}]\nItem: {input}\nAnnotation: {output}",
        "\nNote: {text}",
        "[To be annotated]\nItem: {input}\nAnnotation:",
    ),
    _wording(
        9,
        "What to do\n{text}",
        "Given: {input}\nExpected: {output}",
        "Given: {input}\nNot expected: {output}",
        "\nRemark: {text}",
        "Given: {input}\nExpected:",
    ),
    _wording(
        10,
        "{text}\nFollow the description closely.",
        "{n}. {input}\n   Answer: {output}",
        "{n}. {input}\n   Wrong answer: {output}",
        "\n   Comment: {text}",
        "The next one is yours.\n{input}\n   Answer:",
    ),
)
"""Ten ways to put the same task. The first is Tk-Instruct's, the others are ours."""

PARTS = Wording(
    "parts",
    "{text}",
    "Input: {input}\nOutput: {output}",
    "Input: {input}\nBad output: {output}",
    "\nExplanation: {text}",
    "{input}",
)
"""Hardly any words: for chat formats that place instruction, examples and input themselves (alpaca, plain)."""


def _version_1(positive: str) -> Wording:
    """Natural Instructions' own, as in its encoding script (Mishra et al. 2022, arXiv 2104.08773)."""
    negative = "Negative Example{n}- \ninput: {input}\noutput: {output}"
    ask = "input: {input}\noutput:"
    return Wording(
        "v1", "Definition: {text}", positive, negative, "\nreason: {text}", ask, gap="\n", raw=True, negative_first=True
    )


V1 = _version_1("input: {input}\noutput: {output}")
V1_EXPLAINED = _version_1("Positive Example{n}- \ninput: {input}\noutput: {output}")


class Encoded(NamedTuple):
    """A user turn.

    Attributes:
        parts: its typed parts; joined they are the whole text.
        shown: how many examples it holds.
        fits: whether it fits the budget.
    """

    parts: tuple[Part, ...]
    shown: int
    fits: bool


def encode(
    task: Task, asked: Instance, encoding: Encoding, wording: Wording, fits: Callable[[str], bool] = lambda _: True
) -> Encoded:
    """The task put to a model with one input.

    Examples of a kind are taken in order up to the first with which the text does not fit, as in Tk-Instruct.

    Args:
        task: whose instruction and examples are shown.
        asked: the instance that is asked.
        encoding: what is shown.
        wording: in which words.
        fits: whether a text is within the budget.
    """
    opening = wording.instruction(task, encoding.fields)
    opening += wording.gap if opening else ""
    question = wording.question(asked.input)
    groups = [(True, task.positive[: encoding.positive]), (False, task.negative[: encoding.negative])]
    shown: list[list[str]] = []
    for right, demonstrations in reversed(groups) if wording.negative_first else groups:
        shown.append([])
        for n, demonstration in enumerate(demonstrations, 1):
            text = wording.example(demonstration, n, right=right, explained=encoding.explanations) + wording.gap
            # Tk-Instruct measures with a blank between earlier examples, which the prompt itself does not have.
            if not fits(opening + "".join(" ".join(group) for group in shown) + text + question):
                break
            shown[-1].append(text)
    examples = [text for group in shown for text in group]
    pieces: list[tuple[str, PartKind]] = [(opening, "instruction"), *((text, "demonstration") for text in examples)]
    parts = [Part(text.removesuffix(wording.gap), kind) for text, kind in pieces if text]
    parts += [Part(question, "input")] if question else []
    return Encoded(_spaced(parts, wording.gap), len(examples), fits(opening + "".join(examples) + question))


def _spaced(parts: Sequence[Part], gap: str) -> tuple[Part, ...]:
    """The parts, with another gap than the usual one written out between them."""
    if gap == _GAP:
        return tuple(parts)
    return tuple(piece for part in parts for piece in (Part(gap), part))[1:]
