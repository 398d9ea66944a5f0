"""The lock of a run folder: one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shinan.core.dataset import cannot_write
from shinan.core.errors import RunError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` (made if it is not there) for a block. The lock goes with the process, however it ends.

    Raises RunError if another process holds it, or if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("a+")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fix = "wait until it has ended, or work in another folder"
            raise RunError("another run is at work in this folder", where=str(folder), fix=fix) from None
        yield
