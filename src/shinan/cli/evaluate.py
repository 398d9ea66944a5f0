"""`shinan eval`: ask one model held-out questions and score its answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shinan.cli.chat import MODEL
from shinan.cli.run import RunsFolder

if TYPE_CHECKING:
    from rich.table import Table

    from shinan.evaluate.samples import Sample
    from shinan.models.estimate import Estimate

Name = Annotated[str | None, typer.Option("--name", help="Name of the folder (default: eval-MODEL).")]
_PRICE = "For endpoints: dollars for a million tokens, IN,OUT, or a YAML file of them by model."
_BUDGET = "For endpoints: spend no more than this, dollars (2.50) or tokens (200000tokens)."


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    recipe: Annotated[
        Path | None, typer.Option(help="Take the tasks of this recipe (default: those of the quickstart).")
    ] = None,
    chat: Annotated[str | None, typer.Option("--chat", help="Chat format (default: the model's own).")] = None,
    name: Name = None,
    runs: RunsFolder = Path("runs"),
    price: Annotated[str, typer.Option(help=_PRICE)] = "",
    budget: Annotated[str, typer.Option(help=_BUDGET)] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="For endpoints: requests in flight.")] = 16,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="For endpoints: ask again what failed.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="For endpoints: seconds that an answer may take.")] = 600.0,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="For endpoints: what it would take; ask nothing.")
    ] = False,
) -> None:
    """Ask one model held-out questions, and score its answers.

    A model that was never tuned in a chat format is asked in two: its likeliest, and a plain one. Answers go to
    RUNS/NAME/eval; after Ctrl-C the same command goes on. `shinan compare` compares such folders, also with a run.
    What an endpoint has answered is in the ledger (`shinan ledger`) and is never paid for twice.

    Example: shinan eval starter:smollm2-135m-instruct --recipe recipes/quickstart.yaml
    """
    from rich.console import Console

    from shinan.models.endpoint import is_endpoint, parse_endpoint
    from shinan.models.open import FREELY, Terms
    from shinan.recipe.measure import HELDOUT, forecast, measure
    from shinan.recipe.named import model_name
    from shinan.recipe.schema import folder_name, load_recipe

    try:
        name = name and folder_name(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--name") from None
    terms = Terms(price=price, budget=budget, concurrency=concurrency, retry_failed=retry_failed, timeout=timeout)
    if not is_endpoint(model) and (terms != FREELY or estimate):
        options = "--price, --budget, --concurrency, --retry-failed, --timeout, --estimate"
        raise typer.BadParameter("is for endpoints only", param_hint=options)
    asked = load_recipe(recipe) if recipe else None
    tasks, seed = (asked.evaluate, asked.seed) if asked else ([HELDOUT], 0)
    if estimate:
        _say(forecast(model, tasks, seed=seed, terms=terms), parse_endpoint(model).model, priced=bool(price))
        return
    stem = model_name(model) + (f"-on-{asked.name}" if asked else "")
    folder = runs / (name or "eval-" + re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-"))
    samples = measure(model, tasks, folder, seed=seed, chat=chat, terms=terms)
    Console().print(_table(samples))
    print(f"answers: {folder / 'eval'}")


def _table(samples: dict[str, list[Sample]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from shinan.evaluate.results import means
    from shinan.report.wording import count, metric_name, points, printable

    table = Table("task", "format", "metric", box=None)
    for heading in ("score", "items", "not scored", "cut at the limit", "empty"):
        table.add_column(heading, justify="right")
    failures = any(sample.finish == "failed" for found in samples.values() for sample in found)
    if failures:
        table.add_column("failed", justify="right")
    for task, found in samples.items():
        for style, scores in means(found, list(found[0].scores)).items():
            mine = [sample for sample in found if sample.style == style]
            failed = sum(s.finish == "failed" for s in mine)
            ends = [count(sum(s.finish == "length" for s in mine)), count(sum(s.empty for s in mine))]
            ends += [count(failed)] if failures else []
            for metric, value in scores.items():
                unscored = count(sum(s.scores[metric] is None for s in mine) - failed)
                name = Text(printable(metric_name(metric)))
                table.add_row(task, style, name, points(value), count(len(mine)), unscored, *ends)
    return table


def _say(found: Estimate, model: str, *, priced: bool) -> None:
    """An estimate in words."""
    from shinan.models.prices import dollars
    from shinan.report.wording import count

    low, likely, high = map(count, found.prompt_tokens)
    how = f"{low} tokens of prompt" if found.counted else f"{low} to {high} tokens of prompt, likely {likely}"
    how += "" if found.counted else f" (characters / 4: the tokenizer of {model} is not on this machine)"
    print(f"{count(found.requests)} requests; the ledger answers {count(found.known)} of them for nothing")
    print(f"{count(found.requests - found.known)} to ask: {how}, at most {count(found.most_new_tokens)} of reply")
    if priced:
        print(f"{dollars(found.low.nanousd)} to {dollars(found.high.nanousd)}, without what is tried again")
