"""`shinan chat`: talk with a tuned model in the terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

import typer

MODEL = "A run folder, a model folder, starter:NAME, a hub id or endpoint:MODEL@URL."


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    format_: Annotated[
        str | None, typer.Option("--format", help="Chat format (default: the one the model was tuned with).")
    ] = None,
    system: Annotated[str, typer.Option(help="What the model is told before the first question.")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Random draws (with a temperature above 0) derive from it.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
) -> None:
    """Talk with a tuned model in the format it was tuned with.

    /reset begins a new conversation, /exit or Ctrl-D leaves. Where there is no terminal, each line of the input is a
    question, and the answers are the output.

    Example: echo 'Name three rivers.' | shinan chat runs/quickstart
    """
    from shinan.models.endpoint import is_endpoint
    from shinan.models.generator import Sampling
    from shinan.recipe.named import model_folder
    from shinan.report.wording import printable
    from shinan.serve.chat import COMMANDS, open_conversation, talk

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    where = model if is_endpoint(model) else str(model_folder(model))
    terminal = sys.stdin.isatty()
    with _waiting(f"loading {model}", terminal):
        conversation = open_conversation(where, format_, sampling, seed=seed, opening=system)
    if terminal:
        form = f"format {conversation.chat.name}" if conversation.chat else "at an endpoint"
        _note(f"{conversation.generator.name}, {form}; {COMMANDS}")
    try:
        talk(
            conversation,
            _ask if terminal else _line,
            lambda answer: print(printable(answer), flush=True),
            _note,
            waiting=lambda: _waiting("writing", terminal),
            patient=terminal,
        )
    except KeyboardInterrupt:
        _note("")


def _waiting(what: str, terminal: bool) -> AbstractContextManager[object]:
    """A sign of life beside a block of work, where someone is watching."""
    if not terminal:
        return nullcontext()
    from rich.console import Console
    from rich.text import Text

    return Console(stderr=True).status(Text(what))


def _note(text: str) -> None:
    from shinan.report.wording import printable

    print(printable(text), file=sys.stderr)


def _ask() -> str | None:
    import readline  # noqa: F401  importing it gives input() a history and editing keys

    try:
        return input("> ")
    except EOFError:
        _note("")
        return None


def _line() -> str | None:
    return sys.stdin.readline() or None
