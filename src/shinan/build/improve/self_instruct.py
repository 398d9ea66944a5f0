"""Self-Instruct (Wang et al. 2022, arXiv 2212.10560): a model proposes tasks after the pattern of seeds, and does them.

Parameters, filters and their order are those of the authors' code (github.com/yizhongw/self-instruct).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import PositiveInt

from shinan.build.author import Ask, Author, Reply
from shinan.build.faults import foreign, unusable, wordless
from shinan.build.improve.encodings import encoded
from shinan.build.improve.instances import Instance, input_first, judge, output_first
from shinan.build.instructions import Seed, as_messages, one_line, seeds_of, unmarked, unsuitable
from shinan.build.prompts import Prompt
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling
from shinan.scorers.language import Language
from shinan.scorers.novelty import Novelty

TASKS = Prompt("self_instruct.tasks")
CLASSIFICATION_TASKS = Prompt("self_instruct.classification_tasks")
IS_CLASSIFICATION = Prompt("self_instruct.is_classification")
INPUT_FIRST = Prompt("self_instruct.input_first")
OUTPUT_FIRST = Prompt("self_instruct.output_first")

SHOWN, OWN = 8, 2  # instructions in a prompt; of them, how many the model's own at most
PROPOSING = Sampling(max_new_tokens=1024, temperature=0.7, top_p=0.5, presence_penalty=2.0)
CLASSIFYING = Sampling(max_new_tokens=3)
DOING = {  # by whether it is classification
    True: Sampling(max_new_tokens=300, presence_penalty=1.5),
    False: Sampling(max_new_tokens=350, presence_penalty=1.5),
}
PATIENCE = 10  # rounds in a row that bring nothing new

_PREFACE = re.compile(r"\A.*?^(?=Example \d)", re.DOTALL | re.MULTILINE)  # what a chat model says before it begins
_NUMBERS = re.compile(r"\n\s*(?:\d+\s?[.)](?:\s+|\Z))+")  # before an instruction in its list


class Proposed(NamedTuple):
    """An accepted instruction: its number among all, the reply that it stands in, and whether it asks for a class."""

    number: int
    instruction: str
    reply: Reply
    classification: bool = False


@dataclass(slots=True)
class Pool:
    """What a round is planned from: the seeds, and the model's own instructions with the id of their first row."""

    seeds: Sequence[Seed]
    novelty: Novelty
    own: list[tuple[str, str]] = field(default_factory=list)


@register(
    "build",
    "self_instruct",
    version=2,
    content=content((TASKS, CLASSIFICATION_TASKS, IS_CLASSIFICATION, INPUT_FIRST, OUTPUT_FIRST), "teacher"),
)
def self_instruct(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    language: Language = "en",
    instructions: PositiveInt = 100,
    requests: PositiveInt = 5,
    instances: PositiveInt = 5,
    classification_only: bool = False,
    encode: bool = False,
) -> Iterator[Judged]:
    """Tasks that a model proposes after the pattern of the rows, with instances that it writes itself.

    Deviations: the three steps are done round by round and not one after the other, which asks the same; the longest
    reply is that of its task and not of its batch; after 10 rounds without a new instruction the search ends; a failed
    call leaves its task out. Of a chat model's reply a sentence before the list or the first example, blank lines and
    Markdown are no part.

    Args:
        seed: every draw derives from it.
        rows: the seeds.
        teacher: the model that is asked (see `Teacher`).
        budget: no round begins once so many calls were made; more keeps what fewer have brought.
        guard: drop refusals, loops, copies of the prompt, instructions without a word and other languages too, which
            the paper does not.
        language: of the instructions; the filter on a first character beyond ASCII is for English alone.
        instructions: rounds go on until so many were accepted (the paper: 52,445).
        requests: prompts of a round.
        instances: the most of one instruction.
        classification_only: show classification tasks only, and ask for such.
        encode: write each row as plain text in one of the surface forms that the authors trained on.

    Raises:
        DataError: no row is fit for a seed.
        ModelError, RunError: the teacher cannot be opened.
    """
    seeds = seeds_of(rows, classification_only=classification_only)
    author = Author.of("self_instruct", teacher, seed, budget=budget)
    pool = Pool(seeds, Novelty(each.instruction for each in seeds))
    prompt = CLASSIFICATION_TASKS if classification_only else TASKS
    round_, idle = 0, 0
    while len(pool.own) < instructions and idle < PATIENCE and not author.spent:
        asks = [_propose(author, pool, prompt, round_, number) for number in range(requests)]
        accepted, before = list[Proposed](), len(pool.own)
        for reply in author.answers(asks):
            yield from _sift(author, pool, reply, accepted, guard=guard, language=language)
        yield from _do(author, pool, accepted, guard=guard, most=instances, encode=encode)
        round_, idle = round_ + 1, 0 if len(pool.own) > before else idle + 1


def _propose(author: Author, pool: Pool, prompt: Prompt, round_: int, number: int) -> Ask:
    """A list to continue: up to two of the model's own instructions, the rest seeds, shuffled."""
    draw = random.Random(derive_seed(author.seed, "build.self_instruct/shown", round_, number))
    shown = draw.sample(pool.own, min(OWN, len(pool.own)))
    seeds = draw.sample(pool.seeds, min(SHOWN - len(shown), len(pool.seeds)))
    shown += [(seed.instruction, seed.id) for seed in seeds]
    draw.shuffle(shown)
    tasks = "\n".join(f"{place}. {one_line(text)}" for place, (text, _) in enumerate(shown, 1))
    last = 2 * SHOWN  # the list ends before it
    stop = (f"\n{last}", f"{last}.", f"{last} .")
    return author.ask(
        prompt,
        {"tasks": tasks, "next": str(len(shown) + 1)},
        round_,
        number,
        sampling=PROPOSING,
        stop=("\n\n", *stop) if author.raw else stop,
        parents=[id_ for _, id_ in shown],
    )


def listed(text: str, *, raw: bool) -> list[str]:
    """The instructions of a numbered list, each on one line and capitalised, which lowers all its other letters.

    A raw reply goes on after the number. A chat model's may begin with it, or with a sentence that ends in a colon; it
    may number with brackets, or twice (its own count, and that of the list that it was to go on with).
    """
    pieces = re.split(r"\n\d+\s?\. ", text) if raw else _NUMBERS.split(f"\n{unmarked(text)}")
    found = [re.sub(r"\s+", " ", piece).strip().capitalize() for piece in pieces]
    if not raw and found[0].endswith(":"):
        del found[0]
    return [instruction for instruction in found if instruction]


def _sift(
    author: Author, pool: Pool, reply: Reply, accepted: list[Proposed], *, guard: bool, language: Language
) -> Iterator[Judged]:
    """Put what passes all filters into `accepted` and into the pool of what later ones are held against."""
    if verdict := unusable(reply, guard=guard):
        yield author.drop(author.row(reply), verdict)
        return
    found = listed(reply.text, raw=author.raw)
    if not found:
        yield author.drop(author.row(reply), Verdict.drop("unparsable", "no list of instructions"))
    for instruction in found:
        verdict = unsuitable(instruction, language=language)
        if guard and not verdict:
            verdict = wordless(instruction) or foreign(instruction, language)
        if not verdict and (rival := pool.novelty.admit(instruction)):
            verdict = Verdict.drop("not_novel", f"{rival.f:.2f} like: {rival.text}")
        if verdict:
            yield author.drop(author.row(reply, as_messages(instruction)), verdict)
        else:
            accepted.append(Proposed(len(pool.novelty) - len(pool.seeds) - 1, instruction, reply))


def _do(
    author: Author, pool: Pool, accepted: list[Proposed], *, guard: bool, most: int, encode: bool
) -> Iterator[Judged]:
    """Have the accepted instructions told apart and instances written, and enter them into the pool."""
    asks = [
        author.ask(
            IS_CLASSIFICATION,
            {"instruction": each.instruction},
            each.number,
            sampling=CLASSIFYING,
            stop=("\n", "Task"),
        )
        for each in accepted
    ]
    tasks = []
    for each, reply in zip(accepted, author.answers(asks), strict=True):
        if reply.completion.finish == "failed":
            row = author.row(reply, as_messages(each.instruction), parents=each.reply.ask.parents)
            yield author.drop(row, Verdict.drop("failed", reply.completion.error))
        else:
            tasks.append(each._replace(classification=reply.text.strip() in ("Yes", "yes", "YES")))
    asks = [
        author.ask(
            OUTPUT_FIRST if task.classification else INPUT_FIRST,
            {"instruction": task.instruction},
            task.number,
            sampling=DOING[task.classification],
            stop=(f"Example {most + 1}", "Task:"),
        )
        for task in tasks
    ]
    for task, reply in zip(tasks, author.answers(asks), strict=True):
        first, *others = _instances(author, task, reply, guard=guard, most=most, encode=encode)
        pool.own.append((task.instruction, (first if isinstance(first, Example) else first[0]).id))
        yield first
        yield from others


def _instances(
    author: Author, task: Proposed, reply: Reply, *, guard: bool, most: int, encode: bool
) -> Iterator[Judged]:
    """The rows of one instruction, one at least: where there is no instance, a dropped row says why."""
    draw = random.Random(derive_seed(author.seed, "build.self_instruct/form", task.number))

    def row(instance: Instance, *, kept: bool = False) -> Example:
        plain = kept and encode
        return author.row(
            reply,
            encoded(task.instruction, instance, draw) if plain else as_messages(task.instruction, *instance),
            parents=task.reply.ask.parents,
            task=f"{author.source}/{task.number}",
            tags={"proposed": task.reply.ask.prompt.id, "classification": "yes" if task.classification else "no"},
        )

    verdict = unusable(reply, guard=guard, whole=False)
    text = reply.text if author.raw else _PREFACE.sub("", unmarked(reply.text))
    found = [] if verdict else (output_first if task.classification else input_first)(text)
    if not found:
        yield author.drop(row(Instance("", reply.text)), verdict or Verdict.drop("unparsable", "no instance"))
    seed = derive_seed(author.seed, "build.self_instruct/instances", task.number)
    cut = reply.completion.finish == "length"
    for instance, judged in zip(found, judge(found, cut=cut, most=most, seed=seed), strict=True):
        yield row(instance, kept=True) if judged.keep else author.drop(row(instance), judged)
