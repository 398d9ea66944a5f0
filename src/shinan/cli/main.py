"""Entry point: one module per command; errors a user can act on are shown without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shinan.cli import (
    chat,
    check,
    clean,
    compare,
    doctor,
    evaluate,
    export,
    ledger,
    models,
    new,
    peek,
    report,
    run,
    serve,
    trace,
)
from shinan.core.errors import ShinanError
from shinan.version import __version__

# in the order of a user's day
_COMMANDS = (
    "new",
    "models",
    "peek",
    "plan",
    "check",
    "build",
    "curate",
    "tune",
    "run",
    "report",
    "trace",
    "chat",
    "serve",
    "export",
    "eval",
    "compare",
    "ledger",
    "doctor",
    "clean",
)


class _Commands(TyperGroup):
    """Exit codes: 0 done, 1 an error to act on, 2 wrong usage, 130 interrupted, 143 ended by SIGTERM."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_COMMANDS.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ShinanError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(128 + getattr(error, "number", signal.SIGINT)) from None
        except BrokenPipeError:  # the reader (head, less) has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
            raise typer.Exit(0) from None


app = typer.Typer(
    name="shinan", cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def shinan(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Instruction tuning with evidence: build data, curate it, tune a model, and prove what changed."""


app.command("new")(new.new)
app.add_typer(models.app, name="models")
app.command("peek")(peek.peek)
app.command("plan")(run.plan)
app.command("build")(run.build)
app.command("curate")(run.curate)
app.command("tune")(run.tune)
app.command("run")(run.run)
app.command("trace")(trace.trace)
app.command("check")(check.check)
app.command("report")(report.report)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("ledger")(ledger.ledger)
app.command("doctor")(doctor.doctor)
app.command("clean")(clean.clean)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle threads sleep instead of spinning: beside any other busy process, spinning made tuning ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
