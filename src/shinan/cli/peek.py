"""`shinan peek`: rows as a person reads them, or as the model does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shinan.core.errors import DataError, ShinanError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from shinan.core.example import Example
    from shinan.core.verdict import Verdict
    from shinan.models.chat import ChatFormat, Rendered

_ROLES = {"system": "magenta", "user": "cyan", "assistant": "green"}


def peek(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="collection:starter, with /heldout, /train, a /language, a /task or a /kind after it; a data file; "
            "or a stage of a run, like runs/NAME/stages/curate.",
        ),
    ],
    number: Annotated[int, typer.Option("-n", min=1, help="Show this many rows.")] = 5,
    row: Annotated[
        str | None, typer.Option("--row", help="Show only this row: its name, the number after #, or its id.")
    ] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Show what a stage dropped, and why.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="Show the tokens that this model would see.")] = None,
    chat: Annotated[str | None, typer.Option("--chat", help="With --model: the chat format to write them in.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Print the data card of the collection, and no rows.")] = False,
) -> None:
    """Show rows: of the starter collection, a file, or a stage of a run; with --model, as tokens.

    Tokens that are trained on are green; where there is no colour they stand between ⟦ and ⟧.

    Example: shinan peek runs/quickstart/stages/curate --dropped -n 3
    """
    if card:
        _print_card(source)
        return
    if chat and not model:
        raise typer.BadParameter("needs --model: a format is written with a model's tokenizer", param_hint="--chat")
    from rich.console import Console

    from shinan.core.verdict import KEEP
    from shinan.recipe.named import chat_of, dropped_of, model_folder, rows_of

    rows = dropped_of(source) if dropped else [(example, KEEP) for example in rows_of(source)]
    chosen = [pair for pair in rows if row is None or row in (pair[0].row, pair[0].row.rpartition("#")[2], pair[0].id)]
    if row is not None and not chosen:
        first = f"they begin with {rows[0][0].row}" if rows else "there are none at all"
        raise DataError(f"no row {row!r} among the {len(rows)} rows", where=source, fix=f"look at the ids: {first}")
    written = chat_of(model_folder(model), chat) if model else None
    console = Console(highlight=False)
    for example, verdict in chosen[:number]:
        print_row(console, example, verdict, written)
    console.print(f"{min(number, len(chosen)):,} of {len(chosen):,} rows of {source}", style="dim", markup=False)


def _print_card(source: str) -> None:
    if not source.startswith("collection:"):
        raise typer.BadParameter("only a collection has a card: peek collection:starter --card", param_hint="--card")
    from shinan.starter import card

    print(card())


def print_row(console: Console, example: Example, verdict: Verdict, chat: ChatFormat | None) -> None:
    from rich.text import Text

    from shinan.report.wording import printable

    made = example.provenance
    facts = [
        example.row,
        *(f"{name} {example.tags[name]}" for name in ("category", "language") if name in example.tags),
    ]
    title = ", ".join([*facts, f"maker {made.maker}", f"licence {made.licence}"])
    console.print(Text(f"── {printable(title)}", "dim"), soft_wrap=True)
    if not verdict.keep:
        detail = f" ({verdict.detail})" if verdict.detail else ""
        console.print(Text(printable(f"dropped by {verdict.by}: {verdict.reason}{detail}"), "bold red"))
    if chat:
        console.print(tokens(example, chat, marked=console.color_system is None or console.no_color), soft_wrap=True)
    else:
        for label, style, text in stretches(example):
            console.print(Text.assemble((f"{label:<10}", style), printable(text)), soft_wrap=True)
    console.print()


def stretches(example: Example) -> list[tuple[str, str, str]]:
    """(label, style, text) of everything in a row that a person reads."""
    found: list[tuple[str, str, str]] = [
        (message.role, _ROLES[message.role], message.text) for message in example.messages
    ]
    found += [("rejected", "red", message.text) for message in example.rejected]
    if example.targets and example.targets != (example.reply,):
        found.append(("accepted", "yellow", " | ".join(example.targets)))
    if example.choices:
        found.append(("choices", "yellow", " | ".join(example.choices)))
    if example.scores:
        found.append(("scores", "yellow", ", ".join(f"{name} {value:g}" for name, value in example.scores.items())))
    return found


def tokens(example: Example, chat: ChatFormat, *, marked: bool) -> Text:
    """The row as the model sees it: a line break is shown as ⏎, trained tokens are green or between ⟦ and ⟧."""
    from rich.text import Text

    from shinan.report.wording import printable

    try:
        rows = [chat.render(messages) for messages in chat.split(example.messages)]
    except ShinanError as error:
        return Text(printable(f"cannot be written in the format {chat.name}: {error}"), "bold red")
    return Text("\n").join(_written(rendered, chat, marked) for rendered in rows)


def _written(rendered: Rendered, chat: ChatFormat, marked: bool) -> Text:
    from rich.text import Text

    from shinan.report.wording import printable

    specials = set(chat.tokenizer.specials.values())
    text, inside = Text(), False
    pieces = zip(rendered.ids, rendered.mask, chat.tokenizer.pieces(rendered.ids), strict=True)
    for id_, trained, piece in pieces:
        if marked and trained != inside:
            text.append("⟦" if trained else "⟧")
        inside = trained
        style = "bold green" if trained else "dim" if id_ in specials else ""
        text.append(printable(piece).replace("\n", "⏎\n"), style)
    text.append("⟧\n" if marked and inside else "\n")
    text.append(f"{len(rendered.ids)} tokens, {sum(rendered.mask)} of them trained", "dim")
    return text
