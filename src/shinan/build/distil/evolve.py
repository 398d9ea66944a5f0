"""Evol-Instruct (Xu et al. 2023, arXiv 2304.12244): instructions made harder or rarer, round by round, and answered.

Operations and rules of elimination are the paper's (section 3 and its appendices); its code
(github.com/nlpxucan/WizardLM) has five operations, one round and no elimination.
"""

from __future__ import annotations

import random
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import PositiveInt

from shinan.build.author import Ask, Author, Reply
from shinan.build.faults import unanswered, unusable
from shinan.build.instructions import as_messages, seeds_of, unmarked
from shinan.build.prompts import PLAIN, Prompt
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.example import Example, Message, user
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling
from shinan.scorers.language import only_common_words

IN_DEPTH, IN_BREADTH = Prompt("evolve.in_depth"), Prompt("evolve.in_breadth")
CODE, EQUAL = Prompt("evolve.code"), Prompt("evolve.equal")

JUDGING = Sampling(max_new_tokens=8)
SORRY = 80  # an answer that is sorry and has fewer words is none (section 3.2)

Kind = Literal["text", "code"]
# The paper's five ways into depth; the sixth operation, in breadth, has a prompt of its own.
_DEPTHS = {
    "constraint": "Add one more constraint or requirement.",
    "deepen": "If it asks about some matter, ask about it more deeply and more widely.",
    "concretise": "Put something more specific in the place of a general notion.",
    "reasoning": "If a few simple steps of thought would solve it, ask expressly for several.",
    "input": "Add input data to it, such as a table, code, a configuration file, XML, SQL, HTML or JSON.",
}
# WizardCoder's five (Luo et al. 2023, arXiv 2306.08568, section 3.1).
_CODE = {
    "constraint": "Add a new constraint or requirement, in about 10 words.",
    "rare": "Replace a requirement that is common in programming by a less common, more specific one.",
    "reasoning": "If a few logical steps solve it, let it take more of them.",
    "misleading": "Show a piece of wrong code with it that leads astray.",
    "complexity": "Demand less time or less memory; but rarely.",
}
OPERATIONS: Mapping[Kind, Mapping[str, str]] = {"text": {**_DEPTHS, "breadth": ""}, "code": _CODE}

_LEAK = re.compile(r"\b(given|rewritten|created) (prompt|task)\b", re.IGNORECASE)


class Chain(NamedTuple):
    """Where the evolution of an instruction stands: its number, its text, and the id and licence of its row."""

    number: int
    text: str
    row: str
    licence: str


class Evolved(NamedTuple):
    """What a chain may become: the new text, and how it came about."""

    chain: Chain
    text: str
    round_: int
    operation: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Course:
    """How instructions evolve: the teacher at work, the kind of task, how is drawn, and what is eliminated."""

    author: Author
    kind: Kind
    sampling: Sampling
    eliminate: bool
    guard: bool

    def row(self, new: Evolved, reply: Reply, messages: Sequence[Message]) -> Example:
        """A signed row of what became of a chain."""
        source = self.author.source
        tags = {"evolved": new.prompt, "operation": new.operation, "round": str(new.round_ + 1)}
        task = f"{source}/{new.chain.number}"
        row = self.author.row(reply, messages, parents=[new.chain.row], task=task, tags=tags)
        return row.under(new.chain.licence)


@register("build", "evolve", version=2, content=content((IN_DEPTH, IN_BREADTH, CODE, EQUAL, PLAIN), "teacher"))
def evolve(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    kind: Kind = "text",
    rounds: PositiveInt = 4,
    together: PositiveInt = 100,
    eliminate: bool = True,
    max_new_tokens: PositiveInt = 2048,
) -> Iterator[Judged]:
    """Instructions that a model makes harder or rarer from round to round, each with the model's answer.

    An instruction whose evolution is eliminated goes into the next round as it was. What can be told from an
    instruction alone is told before its answer is asked for. The rows themselves are not repeated.

    Args:
        seed: every draw derives from it.
        rows: the instructions to begin with; an input counts as part of its instruction.
        teacher: the model that rewrites, judges and answers.
        budget: no batch begins once so many calls were made; more keeps what fewer have brought.
        guard: drop loops and every refusal too, which the paper does not.
        kind: `text`: five ways into depth and one into breadth, each as likely; `code`: WizardCoder's five.
        rounds: evolutions of each instruction (the paper: 4).
        together: instructions of a batch, whose calls are made at once.
        eliminate: apply the paper's four rules; its published code does not.
        max_new_tokens: the longest prompt or answer (the authors' code: 2048, at temperature 1 and top_p 0.95).

    Raises:
        DataError: no row is fit to begin with.
        ModelError, RunError: the teacher cannot be opened.
    """
    author = Author.of("evolve", teacher, seed, budget=budget)
    course = Course(author, kind, Sampling(max_new_tokens, temperature=1.0, top_p=0.95), eliminate, guard)
    pool = [
        Chain(number, "\n".join(filter(None, (start.instruction, start.input))), start.id, start.licence)
        for number, start in enumerate(seeds_of(rows))
    ]
    for round_ in range(rounds):
        for start in range(0, len(pool), together):
            if author.spent:
                return
            place = slice(start, start + together)
            pool[place] = yield from _round(course, pool[place], round_)


def _round(course: Course, batch: Sequence[Chain], round_: int) -> Generator[Judged, None, list[Chain]]:
    """Evolve a batch once; returns where each chain stands now."""
    now = {chain.number: chain for chain in batch}
    evolved = yield from _rewritten(course, batch, round_)
    if course.eliminate:
        evolved = yield from _gaining(course, evolved)
    asks = [course.author.put([user(new.text)], new.chain.number, round_, sampling=course.sampling) for new in evolved]
    for new, reply in zip(evolved, course.author.answers(asks), strict=True):
        row = course.row(new, reply, as_messages(new.text, output=reply.text.strip()))
        if verdict := unusable(reply, guard=course.guard) or _no_answer(course, reply.text):
            yield course.author.drop(row, verdict)
        else:
            now[new.chain.number] = Chain(new.chain.number, new.text, row.id, row.provenance.licence)
            yield row
    return [now[chain.number] for chain in batch]


def _rewritten(course: Course, batch: Sequence[Chain], round_: int) -> Generator[Judged, None, list[Evolved]]:
    """Have a batch rewritten; what cannot be an instruction is dropped at once."""
    found = []
    drawn = [_operation(course, chain.number, round_) for chain in batch]
    asks = [_rewrite(course, chain, operation, round_) for chain, operation in zip(batch, drawn, strict=True)]
    for chain, operation, reply in zip(batch, drawn, course.author.answers(asks), strict=True):
        text = reply.text.strip() if course.author.raw else unmarked(reply.text)
        new = Evolved(chain, text, round_, operation, reply.ask.prompt.id)
        if verdict := unusable(reply, guard=course.guard, copies=True) or _no_instruction(course, new):
            yield course.author.drop(course.row(new, reply, as_messages(text)), verdict)
        else:
            found.append(new)
    return found


def _operation(course: Course, number: int, round_: int) -> str:
    draw = random.Random(derive_seed(course.author.seed, "build.evolve/operation", number, round_))
    return draw.choice(list(OPERATIONS[course.kind]))


def _rewrite(course: Course, chain: Chain, operation: str, round_: int) -> Ask:
    prompt = CODE if course.kind == "code" else IN_BREADTH if operation == "breadth" else IN_DEPTH
    fields = {"prompt": chain.text} | ({} if prompt is IN_BREADTH else {"method": OPERATIONS[course.kind][operation]})
    return course.author.ask(prompt, fields, chain.number, round_, sampling=course.sampling)


def _no_instruction(course: Course, new: Evolved) -> Verdict | None:
    """Rule 4, and an evolution that changed nothing, which rule 1 would call equal."""
    if new.text == new.chain.text:
        return Verdict.drop("unchanged")
    leak = _LEAK.search(new.text) if course.eliminate and not _LEAK.search(new.chain.text) else None
    return Verdict.drop("leaks_prompt", leak[0]) if leak else None


def _gaining(course: Course, evolved: Sequence[Evolved]) -> Generator[Judged, None, list[Evolved]]:
    """Rule 1: what the model itself finds equal to what it came from brings nothing."""
    found = []
    asks = [
        course.author.ask(
            EQUAL, {"first": new.chain.text, "second": new.text}, new.chain.number, new.round_, sampling=JUDGING
        )
        for new in evolved
    ]
    for new, reply in zip(evolved, course.author.answers(asks), strict=True):
        if verdict := unanswered(reply) or _equal(reply.text):
            yield course.author.drop(course.row(new, reply, as_messages(new.text)), verdict)
        else:
            found.append(new)
    return found


def _equal(answer: str) -> Verdict | None:
    said = re.sub(r"[^a-z ]", "", unmarked(answer).lower()).strip()
    if said.startswith("not equal"):
        return None
    return Verdict.drop("no_gain") if said.startswith("equal") else Verdict.drop("unparsable", f"{answer[:40]!r}")


def _no_answer(course: Course, text: str) -> Verdict | None:
    """Rules 2 and 3."""
    if not course.eliminate:
        return None
    if "sorry" in text.lower() and len(text.split()) < SORRY:
        return Verdict.drop("sorry", f"{len(text.split())} words")
    return Verdict.drop("says_nothing") if only_common_words(text) else None
