"""`shinan eval`: ask one model held-out questions and score its answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shinan.cli.run import RunsFolder

if TYPE_CHECKING:
    from rich.table import Table

    from shinan.evaluate.samples import Sample

Name = Annotated[str | None, typer.Option("--name", help="Name of the folder (default: eval-MODEL).")]


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, a model folder, starter:NAME or a hub id.")
    ],
    recipe: Annotated[
        Path | None, typer.Option(help="Take the tasks of this recipe (default: those of the quickstart).")
    ] = None,
    chat: Annotated[str | None, typer.Option("--chat", help="Chat format (default: the model's own).")] = None,
    name: Name = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Ask one model held-out questions, and score its answers.

    A model that was never tuned in a chat format is asked in two: its likeliest, and a plain one. Answers go to
    RUNS/NAME/eval; after Ctrl-C the same command goes on. `shinan compare` compares such folders, also with a run.

    Example: shinan eval starter:smollm2-135m-instruct --recipe recipes/quickstart.yaml
    """
    from rich.console import Console

    from shinan.models.card import load_card
    from shinan.recipe.measure import HELDOUT, measure
    from shinan.recipe.named import model_folder
    from shinan.recipe.schema import load_recipe

    asked = load_recipe(recipe) if recipe else None
    tasks = asked.evaluate if asked else [HELDOUT]
    stem = load_card(model_folder(model)).name + (f"-on-{asked.name}" if asked else "")
    folder = runs / (name or "eval-" + re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-"))
    samples = measure(model, tasks, folder, seed=asked.seed if asked else 0, chat=chat)
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
    for task, found in samples.items():
        for style, scores in means(found, list(found[0].scores)).items():
            mine = [sample for sample in found if sample.style == style]
            ends = count(sum(s.finish == "length" for s in mine)), count(sum(s.empty for s in mine))
            for metric, value in scores.items():
                unscored = count(sum(s.scores[metric] is None for s in mine))
                name = Text(printable(metric_name(metric)))
                table.add_row(task, style, name, points(value), count(len(mine)), unscored, *ends)
    return table
