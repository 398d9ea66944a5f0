"""Questions and answers of a field, out of a user's own documents: personas ask, and only the documents answer.

The packs hold who asks and what to beware of; every fact comes from the documents. After the persona-driven and
domain data of the survey's section 5 (arXiv 2308.10792); the checks are ours.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, PositiveInt

from shinan.build.author import Ask, Author, Reply
from shinan.build.batches import asked, text_of, texts_of
from shinan.build.faults import unusable
from shinan.build.instructions import as_messages, unmarked
from shinan.build.prompts import Prompt
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling

QUESTIONS, ANSWER = Prompt("domain.questions"), Prompt("domain.answer")

_ASKING = Sampling(max_new_tokens=512, temperature=1.0)
_ANSWERING = Sampling(max_new_tokens=1024)
_ITEM = re.compile(r"^\s*\d+\s*[.):、．]\s*", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_POINTS_AT_IT = re.compile(r"\b(the|this) (document|text|passage)\b|(この|上記の)(文書|文章|資料)", re.IGNORECASE)


class Pack(NamedTuple):
    """Who asks in a field, and what questions and answers in it must beware of."""

    personas: tuple[str, ...]
    care: str = ""


PACKS = {
    "general": Pack(
        ("somebody who hears of the matter for the first time", "somebody who must decide something by it", "an expert")
    ),
    "medical": Pack(
        ("a patient", "a relative who looks after a patient", "a nurse", "a medical student", "a general practitioner"),
        "Make no diagnosis and recommend no dose beyond what the document itself says.",
    ),
    "legal": Pack(
        ("a private person without legal training", "a tenant or consumer", "a clerk in a law office", "a law student"),
        "Name a section, a deadline or a sum only as the document does; give no advice on a particular case.",
    ),
    "education": Pack(
        ("a pupil who is learning this", "a pupil who has misunderstood it", "a teacher who prepares a lesson"),
        "Suit the words to the age of the person who asks.",
    ),
}


class Posed(NamedTuple):
    """A question about a document: its place among the document's, and the reply it was listed in."""

    document: Example
    place: int
    text: str
    reply: Reply


@register("build", "domain", content=content((QUESTIONS, ANSWER), "teacher"))
def domain(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    pack: Literal["general", "medical", "legal", "education"] = "general",
    personas: Annotated[list[str], Field(min_length=1)] | None = None,
    budget: PositiveInt | None = None,
    guard: bool = True,
    questions: PositiveInt = 3,
) -> Iterator[Judged]:
    """Questions that personas of a field ask about documents, and answers that rest on the documents alone.

    An answer with a number that its document does not have is dropped, as is one that the model could not find.

    Args:
        seed: draws each document's persona, and every reply.
        rows: the documents: a row's reply, or all that it says where it has none.
        teacher: the model that asks and answers.
        pack: the field: its personas, and what to beware of in it.
        personas: others in their place.
        budget: no batch begins once so many calls were made; more keeps what fewer have brought.
        guard: drop refusals and loops.
        questions: questions to a document.

    Raises:
        DataError: there is no document.
        ModelError, RunError: the teacher cannot be opened.
    """
    author = Author.of("domain", teacher, seed, budget=budget)
    chosen = PACKS[pack]

    def persona(row: Example) -> str:
        return random.Random(derive_seed(seed, "build.domain/persona", row.row)).choice(personas or chosen.personas)

    def plan(row: Example) -> list[Ask]:
        fields = {"document": text_of(row), "care": chosen.care, "persona": persona(row), "number": str(questions)}
        return [author.ask(QUESTIONS, fields, row.row, sampling=_ASKING, parents=[row.id])]

    for batch in asked(author, texts_of(rows), plan):
        posed: list[Posed] = []
        for row, (reply,) in batch:
            found, verdict = _listed(row, reply, guard=guard)
            posed += found[:questions]
            if verdict:
                yield author.drop(author.row(reply, task=row.task, tags=row.tags), verdict)
        asks = [_answer(author, each, chosen.care) for each in posed]
        for each, reply in zip(posed, author.answers(asks), strict=True):
            made = _row(author, each, reply, persona(each.document))
            verdict = unusable(reply, guard=guard, copies=True) or _unsupported(each, reply)
            yield author.drop(made, verdict) if verdict else made


def _listed(row: Example, reply: Reply, *, guard: bool) -> tuple[list[Posed], Verdict | None]:
    """The questions of a numbered list that can stand alone."""
    if verdict := unusable(reply, guard=guard, copies=True):
        return [], verdict
    items = [" ".join(item.split()) for item in _ITEM.split(unmarked(reply.text))[1:]]
    alone = [item for item in items if item and not _POINTS_AT_IT.search(item)]
    if not alone:
        why = "every question points at the document" if items else "no numbered list"
        return [], Verdict.drop("unparsable", why)
    return [Posed(row, place, text, reply) for place, text in enumerate(alone)], None


def _answer(author: Author, posed: Posed, care: str) -> Ask:
    fields = {"document": text_of(posed.document), "care": care, "question": posed.text}
    key = (posed.document.row, posed.place)
    return author.ask(ANSWER, fields, *key, sampling=_ANSWERING, parents=[posed.document.id])


def _row(author: Author, posed: Posed, reply: Reply, persona: str) -> Example:
    document = posed.document
    tags = {**document.tags, "persona": persona, "asked": posed.reply.ask.prompt.id}
    made = author.row(reply, as_messages(posed.text, output=reply.text.strip()), task=document.task, tags=tags)
    return made.under(document.provenance.licence)


def _unsupported(posed: Posed, reply: Reply) -> Verdict | None:
    text = unmarked(reply.text)
    if re.match(r"\W*no answer\b", text, re.IGNORECASE):
        return Verdict.drop("not_in_document")
    if pointer := _POINTS_AT_IT.search(text):
        return Verdict.drop("points_at_document", pointer[0])
    known = _numbers(text_of(posed.document)) | _numbers(posed.text)
    if new := sorted(_numbers(text) - known - _list_marks(text)):
        return Verdict.drop("number_not_in_document", ", ".join(new[:5]))
    return None


def _numbers(text: str) -> set[str]:
    """The numbers in a text, full-width digits and separators of thousands made alike."""
    return {found.replace(",", "") for found in _NUMBER.findall(unicodedata.normalize("NFKC", text))}


def _list_marks(text: str) -> set[str]:
    return {number for mark in _ITEM.findall(text) for number in _numbers(mark)}
