"""`shinan trace`: one row's life in a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from shinan.core.example import Example
    from shinan.evaluate.samples import Sample
    from shinan.recipe.trace import Near, Passage, Trace, Training

_EXCERPT = 300  # characters shown of a row that is only near
_STEPS = 12  # steps named; a row of a long run has been in more


def trace(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A row's name, SOURCE#POSITION, or its content id, or the beginning of either, as long as it fits "
            "one row only.",
        ),
    ],
    run: Annotated[Path, typer.Option("--run", help="The run folder, finished or not.", show_default=False)],
) -> None:
    """Follow one row through a run: source, verdicts, tokens, the steps that trained on it, the nearest held-out item.

    An evaluation item is followed backwards: its answers before and after, and the training rows nearest to it.

    Example: shinan trace collection:starter/email_subject_line#3 --run runs/quickstart
    """
    from rich.console import Console

    from shinan.recipe.trace import trace as follow

    found = follow(run, id_)
    console = Console(highlight=False)
    _print_row(console, found)
    for passage in found.passages:
        _say(console, f"{passage.stage:<24} {_verdict(passage)}", "" if passage.verdict.keep else "bold red")
    for use in found.trained:
        _say(console, f"{'training':<24} {_use(use)}")
    if found.missing:
        _say(console, f"{'not finished yet':<24} {', '.join(found.missing)}", "yellow")
    _print_tokens(console, found)
    if found.nearest_item:
        _say(console, "\nthe nearest held-out item", "bold")
        _print_near(console, found.nearest_item)
    _print_answers(console, found)


def _print_row(console: Console, found: Trace) -> None:
    """The row as a person reads it, and where it comes from."""
    from rich.text import Text

    from shinan.cli.peek import stretches
    from shinan.report.wording import printable

    example = found.passages[0].example
    made = example.provenance
    _say(console, f"── {example.row}", "dim")
    facts = {"source": made.source, "licence": made.licence, "maker": made.maker, "id": example.id}
    facts |= {"task": example.task, "parents": ", ".join(made.parents)} | dict(sorted(example.tags.items()))
    shown = {name: value for name, value in facts.items() if value}
    width = max(map(len, shown)) + 1
    _say(console, "\n".join(f"{name:<{width}}{value}" for name, value in shown.items()), "dim")
    for label, style, text in stretches(example):
        console.print(Text.assemble((f"{label:<10}", style), printable(text)), soft_wrap=True)
    console.print()


def _verdict(passage: Passage) -> str:
    """`kept by structure, overlap`, or `kept by structure; dropped by overlap: overlap (60 % of …)`."""
    verdict, kept = passage.verdict, f"kept by {', '.join(passage.passed)}" if passage.passed else ""
    scores = ", ".join(f"{name} {value:g}" for name, value in sorted(passage.example.scores.items()))
    if verdict.keep:
        return f"{kept or 'kept'}{f'; scores: {scores}' if scores else ''}"
    detail = f" ({verdict.detail})" if verdict.detail else ""
    parts = [kept, f"dropped by {verdict.by}: {verdict.reason}{detail}", f"scores: {scores}" if scores else ""]
    return "; ".join(filter(None, parts))


def _use(use: Training) -> str:
    """`in step 3 (epoch 1, loss 2.310), step 17 (epoch 2, loss 1.250)`."""
    if use.held:
        return "held for validation: never trained on"
    steps = [
        f"step {lesson.step} (epoch {lesson.epoch}{'' if lesson.loss is None else f', loss {lesson.loss:.3f}'})"
        for lesson in use.lessons
    ]
    more = f" and {len(steps) - _STEPS} more" if len(steps) > _STEPS else ""
    return f"in {', '.join(steps[:_STEPS])}{more}" if steps else "in no step: the last epoch ended before it"


def _print_tokens(console: Console, found: Trace) -> None:
    from shinan.cli.peek import tokens

    if found.chat:
        example = next(p.example for p in reversed(found.passages) if not p.stage.startswith("items."))
        _say(console, f"\nas the model sees it ({found.chat.name})", "bold")
        marked = console.color_system is None or console.no_color
        console.print(tokens(example, found.chat, marked=marked), soft_wrap=True)


def _print_near(console: Console, near: Near) -> None:
    from shinan.report.wording import excerpt, points, share

    use = f", {_use(near.training)}" if near.training else ""
    numbers = f"ROUGE-L {points(near.rouge_l)}, {share(near.share, 1)} of the held-out prompt in {near.n}-grams"
    _say(console, f"{near.example.row}: {numbers}{use}", "cyan")
    _say(console, "\n".join(f"    {line}" for line in excerpt(_read(near.example), _EXCERPT).splitlines()))


def _read(example: Example) -> str:
    answer = example.reply if example.reply is not None else " | ".join(example.targets)
    return f"{example.prompt_text}\n→ {answer}"


def _print_answers(console: Console, found: Trace) -> None:
    for answered in found.answers:
        before, after = answered.before, answered.after
        changed = f": {'changed' if before.reply != after.reply else 'unchanged'}" if before and after else ""
        _say(console, f"\nanswers in {answered.task}{changed}", "bold")
        for side, sample in (("before", before), ("after", after)):
            for line in _answer(side, sample):
                _say(console, line)
    if found.answers:
        _say(console, f"\nthe {len(found.nearest_rows)} nearest training rows", "bold")
    for near in found.nearest_rows:
        _print_near(console, near)


def _answer(side: str, sample: Sample | None) -> Iterator[str]:
    from shinan.report.wording import metric_name, points

    if sample is None:
        yield f"{side:<7} not asked yet"
        return
    scores = ", ".join(f"{metric_name(name)} {points(value)}" for name, value in sample.scores.items())
    cut = ", cut at the length limit" if sample.finish == "length" else ""
    yield f"{side:<7} {sample.reply or '(empty)'}"
    yield f"        {scores} ({sample.style}{cut})"


def _say(console: Console, text: str, style: str = "") -> None:
    from rich.text import Text

    from shinan.report.wording import printable

    console.print(Text(printable(text), style), soft_wrap=True)
