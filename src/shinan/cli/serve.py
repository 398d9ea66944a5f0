"""`shinan serve`: an OpenAI-compatible server for a tuned model, with a chat page."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from shinan.core.errors import RunError

_EXTRA = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, a model folder, starter:NAME or a hub id.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; one that others reach needs SHINAN_SERVE_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8000,
    format_: Annotated[
        str | None, typer.Option("--format", help="Chat format (default: the one the model was tuned with).")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Replies decoded together.")] = 16,
    queue: Annotated[int, typer.Option(min=0, help="Replies that may wait; more are refused (429).")] = 256,
) -> None:
    """Serve a model: OpenAI's API under /v1, a chat page at /, /health and /metrics.

    Clients send the key of the environment variable SHINAN_SERVE_KEY, if it is set. Ctrl-C stops.

    Example: shinan serve runs/quickstart
    """
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        what = f"the server needs {', '.join(missing)}"
        raise RunError(what, fix="pip install 'shinan[serve]'")
    from shinan.recipe.named import model_folder
    from shinan.serve.run import serve as run
    from shinan.serve.served import load_served

    served = load_served(model_folder(model), format_, alias=model)

    def ready(url: str) -> None:
        how = f"chat format {served.chat.name}" if served.chats else "a base model: only /v1/completions"
        print(f"{served.name} ({how}) at {url}; Ctrl-C stops", flush=True)

    try:
        run(served, host=host, port=port, slots=slots, queue=queue, ready=ready)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise typer.Exit(130) from None
