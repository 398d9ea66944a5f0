"""Conversations: written by one model alone (Baize), or by two models that talk with each other (UltraChat)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt

from shinan.build.author import Ask, Author, Reply
from shinan.build.batches import TOGETHER, asked, prompts_of
from shinan.build.faults import truncated, unanswered, unusable
from shinan.build.prompts import PLAIN, Prompt
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.errors import Problem
from shinan.core.example import Example, Message, assistant, system, user
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling

SELF_CHAT, ASKER = Prompt("dialogue.self_chat"), Prompt("dialogue.asker")

_TURN = re.compile(r"^[ \t]*\[(Human|AI)\][:.]?[ \t]*", re.MULTILINE | re.IGNORECASE)


@register("build", "self_chat", content=content((SELF_CHAT,), "teacher"))
def self_chat(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    temperature: NonNegativeFloat = 1.0,
    max_new_tokens: PositiveInt = 2048,
) -> Iterator[Judged]:
    """Conversations of which a model writes both sides in one call (Baize, Xu et al. 2023, arXiv 2304.01196).

    Args:
        seed: every draw derives from it.
        rows: the questions that conversations are about: each row's last user turn.
        teacher: the model that writes.
        budget: no batch begins once so many calls were made; more keeps what fewer have brought.
        guard: drop conversations with a refusal in them, and loops.
        temperature: the paper's API default.
        max_new_tokens: the longest conversation; of one that is cut the last turn is left out.

    Raises:
        DataError: no row has a prompt.
        ModelError, RunError: the teacher cannot be opened.
    """
    author = Author.of("self_chat", teacher, seed, budget=budget)
    sampling = Sampling(max_new_tokens, temperature)

    def plan(row: Example) -> list[Ask]:
        topic = {"topic": row.prompt[-1].text.strip()}
        return [author.ask(SELF_CHAT, topic, row.row, sampling=sampling, parents=[row.id])]

    for batch in asked(author, prompts_of(rows), plan):
        for row, (reply,) in batch:
            messages, verdict = transcript(reply.text, cut=truncated(reply) is not None)
            verdict = unanswered(reply) or verdict
            if guard and not verdict:
                verdict = unusable(reply, whole=False)
            made = author.row(reply, messages, task=row.task, tags=row.tags)
            yield author.drop(made, verdict) if verdict else made


def transcript(text: str, *, cut: bool = False) -> tuple[list[Message], Verdict | None]:
    """The turns of a text with [Human] and [AI] before each, as far as they make a conversation, and what is wrong.

    The greetings of the prompt are no part of it; a last question without an answer is left out, and so is the last
    turn of a text that was cut.
    """
    marks = list(_TURN.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    turns = [(mark[1].lower(), text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=False)]
    turns = turns[:-1] if cut else turns
    if turns and turns[-1][0] == "human":
        turns.pop()
    if len(turns) < 2:
        return [], Verdict.drop("unparsable", f"{len(turns)} turns")
    messages = [user(said) if who == "human" else assistant(said) for who, said in turns]
    for place, ((who, said), due) in enumerate(zip(turns, ["human", "ai"] * len(turns), strict=False), 1):
        if who != due or not said:
            return messages, Verdict.drop("unparsable", f"turn {place}: {'empty' if who == due else 'out of order'}")
    return messages, None


@dataclass(slots=True)
class Talk:
    """A conversation under way.

    Attributes:
        row: the row that it began with.
        rounds: how many questions and answers it is to have; fewer once the asker has nothing usable to say.
        turns: what was said so far.
        replies: the teacher's.
        verdict: why it is dropped.
    """

    row: Example
    rounds: int
    turns: list[Message] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def open(self) -> bool:
        """Whether another round is to come, or is under way."""
        return not self.verdict and len(self.turns) < 2 * self.rounds


def _unfit(params: Mapping[str, Any]) -> Iterator[Problem]:
    fewest, most = params["fewest"], params["most"]
    if fewest > most:
        yield Problem(f"fewest ({fewest}) is more than most ({most})", "fewest", "swap them")


@register("build", "dialogue", version=2, content=content((PLAIN, ASKER), "teacher", "asker"), check=_unfit)
def dialogue(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    asker: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    fewest: PositiveInt = 3,
    most: PositiveInt = 7,
    temperature: NonNegativeFloat = 1.0,
    max_new_tokens: PositiveInt = 512,
) -> Iterator[Judged]:
    """Conversations between a model that answers and one that plays the person who asks (UltraChat, Ding et al. 2023,
    arXiv 2305.14233).

    A conversation ends early, and is kept, where the asker has nothing usable to say; it is dropped where an answer is
    not usable.

    Args:
        seed: draws the number of rounds, and every reply.
        rows: the opening questions: each row's last user turn.
        teacher: the model that answers, and whose turns are trained on.
        asker: the model that asks; it may be the same.
        budget: no batch begins once so many answers were asked for; more keeps what fewer have brought.
        guard: drop refusals, loops and copies.
        fewest: rounds of the shortest conversation (the paper, questions about the world: 3).
        most: rounds of the longest (7).
        temperature: 0 is greedy.
        max_new_tokens: the longest turn; a conversation with an answer that is cut is dropped.

    Raises:
        DataError: no row has a prompt.
        ModelError, RunError: a model cannot be opened.
    """
    author = Author.of("dialogue", teacher, seed, budget=budget)
    other = Author.of("dialogue/asker", asker, seed)
    sampling = Sampling(max_new_tokens, temperature)
    openings = prompts_of(rows)
    for start in range(0, len(openings), TOGETHER):
        if author.spent:
            return
        talks = [Talk(row, _rounds(row, seed, fewest, most)) for row in openings[start : start + TOGETHER]]
        for round_ in range(most):
            _question(other, [talk for talk in talks if talk.open], round_, sampling, guard)
            _answer(author, [talk for talk in talks if talk.open], round_, sampling, guard)
        for talk in talks:
            tags = {**talk.row.tags, "asker": other.generator.name}
            row = author.row(talk.replies[-1], talk.turns, task=talk.row.task, tags=tags)
            row = row.under(other.licence).under(talk.row.provenance.licence)
            yield author.drop(row, talk.verdict) if talk.verdict else row


def _rounds(row: Example, seed: int, fewest: int, most: int) -> int:
    return random.Random(derive_seed(seed, "build.dialogue/rounds", row.row)).randint(fewest, most)


def _question(other: Author, talks: Sequence[Talk], round_: int, sampling: Sampling, guard: bool) -> None:
    """Let the person speak: the row's own question first, then what the asker makes of the answers."""
    if round_ == 0:
        for talk in talks:
            talk.turns.append(talk.row.prompt[-1])
        return
    asks = [other.put(_mirrored(talk), talk.row.row, round_, sampling=sampling) for talk in talks]
    for talk, reply in zip(talks, other.answers(asks), strict=True):
        if unusable(reply, guard=guard):
            talk.rounds = round_
        else:
            talk.turns.append(user(reply.text.strip()))


def _mirrored(talk: Talk) -> list[Message]:
    """The conversation as the asker sees it: the assistant's turns come from its user, and its own are replies."""
    opening = ASKER.fill(question=talk.turns[0].text.strip())
    swapped = [assistant(turn.text) if turn.role == "user" else user(turn.text) for turn in talk.turns[1:]]
    return [system(opening), *swapped]


def _answer(author: Author, talks: Sequence[Talk], round_: int, sampling: Sampling, guard: bool) -> None:
    asks = [author.put(talk.turns, talk.row.row, round_, sampling=sampling, parents=[talk.row.id]) for talk in talks]
    for talk, reply in zip(talks, author.answers(asks), strict=True):
        talk.turns.append(assistant(reply.text.strip()))
        talk.replies.append(reply)
        talk.verdict = unusable(reply, guard=guard)
