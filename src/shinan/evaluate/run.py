"""The evaluation loop: planned batches, each asked, scored and logged; a killed run goes on at the next batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shinan.core.errors import DataError
from shinan.core.example import Example
from shinan.core.progress import Progress, progress
from shinan.core.score import Scorer
from shinan.evaluate.samples import Sample, SampleLog, read_samples
from shinan.models.generator import Completion, Done, Generator, Request, Sampling

BATCH = 40  # items asked at once; enough to keep the decode loop busy, few enough to lose little when killed


@dataclass(frozen=True, slots=True)
class Ask:
    """One style of asking: a chat format's name and a generator that uses it."""

    style: str
    generator: Generator


def evaluate(
    items: Sequence[Example],
    asks: Sequence[Ask],
    scorers: Mapping[str, Scorer],
    *,
    max_new_tokens: int,
    log: Path,
    key: str,
    what: str = "evaluating",
    batch_size: int | None = None,
) -> list[Sample]:
    """Ask every item in every style, greedily, score the replies, and log them to `log`.

    Batches are planned from the items alone (like lengths together), so a run that is killed and started again with
    the same `key` asks the remaining batches in the same composition.
    """
    plan = [(ask, batch) for ask in asks for batch in plan_batches(items, batch_size)]
    record = SampleLog(log, key)
    whole = record.rewind([len(batch) for _, batch in plan])
    sampling = Sampling(max_new_tokens=max_new_tokens)
    with progress(what, sum(len(batch) for _, batch in plan), "answers") as bar:
        bar.skip(sum(len(batch) for _, batch in plan[:whole]))
        for ask, batch in plan[whole:]:
            chosen = [items[i] for i in batch]
            requests = [Request(item.prompt, sampling=sampling) for item in chosen]
            replies = ask.generator.generate(requests, _counting(bar, ask.style))
            pairs = zip(chosen, replies, strict=True)
            record.append(_sample(item, reply, ask.style, scorers) for item, reply in pairs)
    return read_samples(log)


def _counting(bar: Progress, style: str) -> Done:
    return lambda _index, _reply: bar.advance(note=style)


def as_items(rows: Sequence[Example]) -> list[Example]:
    """Rows as evaluation items: one without targets has its reply for the accepted answer.

    Raises DataError for a row that has neither.
    """
    items = [row if row.targets or not row.reply else replace(row, targets=(row.reply,)) for row in rows]
    for item in items:
        if not item.targets:
            fix = "end the row with the right answer"
            raise DataError("an evaluation item without an accepted answer", where=item.row, fix=fix)
    return items


def plan_batches(items: Sequence[Example], batch_size: int | None = None) -> Iterator[list[int]]:
    """Indices of the items, longest prompts first, in batches of at most `batch_size` (default `BATCH`)."""
    size = batch_size or BATCH
    order = sorted(range(len(items)), key=lambda i: (-len(items[i].prompt_text), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _sample(item: Example, reply: Completion, style: str, scorers: Mapping[str, Scorer]) -> Sample:
    text, failed = reply.text.strip(), reply.finish == "failed"
    return Sample(
        row=item.row,
        id=item.id,
        task=item.task or item.row,
        category=item.tags.get("category", ""),
        language=item.tags.get("language", ""),
        style=style,
        prompt=item.prompt_text,
        targets=item.targets,
        reply=text,
        finish=reply.finish,
        empty=not text and not failed,
        new_tokens=reply.new_tokens,
        scores={name: None if failed else score(item, text).value for name, score in scorers.items()},
    )
