"""Instructions as Self-Instruct and Alpaca handle them: seeds out of rows, and the filters on what a model proposes."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from shinan.core.errors import DataError
from shinan.core.example import Example, Message, Part, assistant
from shinan.core.text import words
from shinan.core.verdict import Verdict
from shinan.scorers.language import Language

SHORTEST, LONGEST = 4, 150  # words of an instruction (self-instruct, bootstrap_instructions.py)

# What a model that reads and writes text alone cannot do (the same file; Alpaca's generate_instruction.py adds to it).
_NOUNS = ("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps")
UNFIT = (*_NOUNS, "draw", "plot", "go to")
UNFIT_ALPACA = (*UNFIT, "video", "audio", "music", "flowchart", "diagram")


class Seed(NamedTuple):
    """A task to show a model: the id and the licence of the row it comes from, instruction, input and output (both may
    be empty)."""

    id: str
    instruction: str
    input: str
    output: str
    classification: bool
    licence: str


def seeds_of(rows: Sequence[Example], *, answered: bool = False, classification_only: bool = False) -> list[Seed]:
    """The task of every row that has one user turn; rows of one instruction give one seed, the first.

    A row with choices, or with the tag `classification: yes`, is a classification task. Worked examples in a row are
    left out. With `answered` a row needs a reply too.

    Raises DataError if no row is fit.
    """
    seeds: dict[str, Seed] = {}
    for row in rows:
        seed = _seed(row)
        if seed and (seed.output or not answered) and (seed.classification or not classification_only):
            seeds.setdefault(seed.instruction, seed)
    if not seeds:
        kind = "classification task" if classification_only else "single instruction" + " with a reply" * answered
        fix = "name other build stages under `from`, or loosen what they take"
        raise DataError(f"no seed is left: none of {len(rows)} rows is a {kind}", where="seeds", fix=fix)
    return list(seeds.values())


def _seed(row: Example) -> Seed | None:
    turns = [message for message in row.messages if message.role != "system"]
    if [turn.role for turn in turns] not in (["user"], ["user", "assistant"]):
        return None
    parts = {kind: [part.text for part in turns[0].parts if part.kind == kind] for kind in ("instruction", "input")}
    instruction, given = ("\n\n".join(texts).strip() for texts in parts.values())
    if not parts["instruction"]:
        instruction, given = turns[0].text.strip(), ""
    output = (row.reply or "").strip()
    classification = bool(row.choices) or row.tags.get("classification") == "yes"
    licence = row.provenance.licence
    return Seed(row.id, instruction, given, output, classification, licence) if instruction else None


def one_line(instruction: str) -> str:
    """An instruction as prompts list it: on one line, without a colon at its end."""
    return re.sub(r"\s+", " ", instruction).strip().rstrip(":")


def unmarked(text: str) -> str:
    """A chat model's reply without the Markdown that it may put around names and numbers, and without blank lines."""
    return re.sub(r"\n\s*\n", "\n", re.sub(r"\*\*|^#+[ \t]+", "", text.strip(), flags=re.MULTILINE))


def as_messages(instruction: str, given: str = "", output: str = "") -> tuple[Message, ...]:
    """A task as turns; without an output the prompt alone."""
    parts = (Part(instruction, "instruction"), *((Part(given, "input"),) if given else ()))
    return (Message("user", parts), *((assistant(output),) if output else ()))


def unsuitable(instruction: str, unfit: Sequence[str] = UNFIT, language: Language = "en") -> Verdict | None:
    """The reference's filters on a proposed instruction, in its order; None if it passes.

    Reasons: too_short, too_long, unfit_word, write_a_program, starts_with_punctuation, starts_beyond_ascii. The last
    holds for English alone; in other languages words are counted by `core.text.words`, where a character of an unspaced
    script is a word, and not by blanks.
    """
    count = len(instruction.split() if language == "en" else words(instruction))
    if count < SHORTEST:
        return Verdict.drop("too_short", f"{count} words")
    if count > LONGEST:
        return Verdict.drop("too_long", f"{count} words")
    if found := next((word for word in unfit if re.search(rf"\b{word}\b", instruction, re.IGNORECASE)), None):
        return Verdict.drop("unfit_word", found)
    if instruction.startswith("Write a program"):
        return Verdict.drop("write_a_program")
    if instruction[0] in string.punctuation:
        return Verdict.drop("starts_with_punctuation", instruction[0])
    if language == "en" and not instruction[0].isascii():
        return Verdict.drop("starts_beyond_ascii", instruction[0])
    return None
