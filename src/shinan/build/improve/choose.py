"""Several answers to a prompt, and the choice among them: rejection sampling, best of n, and preference pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, PositiveInt

from shinan.build.author import Ask, Author, Reply
from shinan.build.batches import asked, prompts_of
from shinan.build.faults import unusable
from shinan.build.prompts import PLAIN
from shinan.build.rating import RUBRIC, rate, score_of
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.errors import ConfigError, Problem
from shinan.core.example import Example, assistant
from shinan.core.registry import bind, register
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling

Samples = Annotated[int, Field(ge=2)]
Score = Callable[[Sequence[tuple[Example, Reply]]], list[float | Verdict]]
"""The values of answers, or why one has none."""


class Candidate(NamedTuple):
    """An answer with its value, or (`out`) why it has none."""

    reply: Reply
    value: float = 0.0
    out: Verdict | None = None

    @property
    def text(self) -> str:
        """The answer."""
        return self.reply.text.strip()


def _unfit(params: Mapping[str, Any]) -> Iterator[Problem]:
    """Whether there is one way to value answers."""
    scorer = params["scorer"]
    if (scorer is None) == (params["judge"] is None):
        yield Problem("answers are valued by a scorer or by a judge", "scorer", "give one of `scorer` and `judge`")
    elif scorer is not None:
        try:
            bind("scorer", scorer, {}, where="scorer")
        except ConfigError as error:
            yield from error.problems


_asked = content((PLAIN, RUBRIC), "teacher", "judge")


def _content(params: Mapping[str, Any]) -> Any:
    """The models and prompts, and the scorer: its version changes what is chosen."""
    scorer = params["scorer"]
    return _asked(params) | ({"scorer": bind("scorer", scorer, {}).identity()} if scorer else {})


@register("build", "best_of", version=2, content=_content, check=_unfit)
def best_of(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    scorer: str | None = None,
    judge: Model | None = None,
    budget: PositiveInt | None = None,
    guard: bool = True,
    samples: PositiveInt = 4,
    keep: Literal["best", "all"] = "best",
    at_least: float | None = None,
    temperature: NonNegativeFloat = 0.7,
    max_new_tokens: PositiveInt = 512,
) -> Iterator[Judged]:
    """Of several answers of a model to each prompt the best one, or all that are good enough and differ.

    `keep: all` with `at_least` is rejection sampling (Yuan et al. 2023, arXiv 2308.01825, section 3.3: temperature 0.7,
    100 answers, those that are right and no repetition).

    Args:
        seed: every draw derives from it.
        rows: rows with a prompt; a row without targets has its reply for the accepted answer.
        teacher: the model that answers; the one that is to be tuned, for self-improvement.
        scorer: the registered scorer that values answers.
        judge: or the model that does, on Humpback's scale of 1 to 5.
        budget: no batch begins once so many answers were asked for; more keeps what fewer have brought.
        guard: drop refusals, loops and copies of the prompt.
        samples: answers to a prompt.
        keep: the best answer (the first of equals), or all different ones.
        at_least: drop answers of a smaller value.
        temperature: 0 is greedy: all answers alike.
        max_new_tokens: the longest answer; one that is cut is dropped.

    Raises:
        DataError: no row has a prompt.
        ModelError, RunError: a model cannot be opened.
    """
    author = Author.of("best_of", teacher, seed, budget=budget)
    score = _score(author, scorer, judge)
    for row, candidates in _answered(author, rows, score, samples, Sampling(max_new_tokens, temperature), guard):
        chosen = _best(candidates) if keep == "best" else None
        seen: set[str] = set()
        for candidate in candidates:
            text, value = candidate.text, candidate.value
            made = author.row(candidate.reply, (*row.prompt, assistant(text)), task=row.task, tags=row.tags)
            made = made.under(row.provenance.licence)
            if candidate.out:
                yield author.drop(made, candidate.out)
            elif at_least is not None and value < at_least:
                yield author.drop(made, Verdict.drop("below", f"{value:g}"))
            elif chosen and candidate is not chosen:
                yield author.drop(made, Verdict.drop("not_best", f"{value:g}"))
            elif text in seen:
                yield author.drop(made, Verdict.drop("repeated"))
            else:
                seen.add(text)
                yield replace(made, targets=row.targets, scores={scorer or "judge": value})


@register("build", "preferences", version=2, content=_content, check=_unfit)
def preferences(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    scorer: str | None = None,
    judge: Model | None = None,
    budget: PositiveInt | None = None,
    guard: bool = True,
    samples: Samples = 4,
    margin: NonNegativeFloat = 0.0,
    temperature: NonNegativeFloat = 0.7,
    max_new_tokens: PositiveInt = 512,
) -> Iterator[Judged]:
    """Preference pairs: of several answers of a model the best is chosen and the worst rejected.

    As Magpie's preference data (Xu et al. 2024, arXiv 2406.08464, section 3.2), with any scorer or a judge.

    Args:
        margin: drop a prompt whose best and worst answers do not differ by more than this.
        seed, rows, teacher, scorer, judge, budget, guard, samples, temperature, max_new_tokens: as for `best_of`.

    Raises:
        ConfigError, DataError, ModelError, RunError: as `best_of`.
    """
    author = Author.of("preferences", teacher, seed, budget=budget)
    score = _score(author, scorer, judge)
    for row, candidates in _answered(author, rows, score, samples, Sampling(max_new_tokens, temperature), guard):
        best, worst = _best(candidates), _best(candidates, sign=-1)
        if best is None or worst is None:
            made = author.row(candidates[0].reply, row.prompt, task=row.task, tags=row.tags)
            reasons = ", ".join(candidate.out.reason for candidate in candidates if candidate.out)
            yield author.drop(made, Verdict.drop("no_answer", reasons))
            continue
        made = author.row(best.reply, (*row.prompt, assistant(best.text)), task=row.task, tags=row.tags)
        scores = {"chosen": best.value, "rejected": worst.value}
        made = made.under(row.provenance.licence)
        made, gap = replace(made, rejected=(assistant(worst.text),), scores=scores), best.value - worst.value
        yield made if gap > margin else author.drop(made, Verdict.drop("no_margin", f"{gap:g}"))


def _answered(
    author: Author, rows: Sequence[Example], score: Score, samples: int, sampling: Sampling, guard: bool
) -> Iterator[tuple[Example, list[Candidate]]]:
    """Each row with its answers and their values."""

    def plan(row: Example) -> list[Ask]:
        return [
            author.put(row.prompt, row.row, sampling=sampling, parents=[row.id], sample=number)
            for number in range(samples)
        ]

    for batch in asked(author, prompts_of(rows), plan):
        pairs = [(row, reply) for row, replies in batch for reply in replies]
        faults = [unusable(reply, guard=guard) for _, reply in pairs]
        scored = iter(score([pair for pair, fault in zip(pairs, faults, strict=True) if not fault]))
        values = iter([fault or next(scored) for fault in faults])
        yield from [(row, [_candidate(reply, next(values)) for reply in replies]) for row, replies in batch]


def _candidate(reply: Reply, value: float | Verdict) -> Candidate:
    return Candidate(reply, out=value) if isinstance(value, Verdict) else Candidate(reply, value)


def _score(author: Author, scorer: str | None, judge: Model | None) -> Score:
    if judge is not None:
        judging = Author.of(f"{author.method}/judge", judge, author.seed)

        def judged(pairs: Sequence[tuple[Example, Reply]]) -> list[float | Verdict]:
            asks = [
                rate(judging, row.prompt, reply.text.strip(), row.row, reply.ask.request.sample) for row, reply in pairs
            ]
            return [score_of(reply) for reply in judging.answers(asks)]

        return judged
    values = bind("scorer", scorer or "", {})()

    def scored(pairs: Sequence[tuple[Example, Reply]]) -> list[float | Verdict]:
        found: list[float | Verdict] = []
        for row, reply in pairs:
            item = row if row.targets or not row.reply else replace(row, targets=(row.reply,))
            score = values(item, reply.text.strip())
            found.append(Verdict.drop("unscored", score.explanation) if score.value is None else score.value)
        return found

    return scored


def _best(candidates: Sequence[Candidate], sign: int = 1) -> Candidate | None:
    """The candidate of the highest value (of the lowest, with sign -1), the first of equals; None if none has one."""
    return max(
        (candidate for candidate in candidates if not candidate.out),
        key=lambda candidate: sign * candidate.value,
        default=None,
    )
