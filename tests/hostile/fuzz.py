"""Coverage-guided fuzzing of the importers, the recipe loader and the chat formats: `python -m tests.hostile.fuzz`.

Needs Atheris (`pip install -e '.[fuzz]'`). Bytes that raise anything but a ShinanError are kept as `crash-*` in the
working folder, and the run fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["shinan"]):
    from shinan import formats
    from shinan.core.errors import ShinanError
    from shinan.core.example import assistant, user
    from shinan.recipe.schema import import_rooms, load_recipe

    import_rooms()  # or the first recipe would seem to take too long

from tests.hostile.corpus import data_files, recipe_files
from tests.hostile.test_chat import FORMATS, TEXTS, built

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz")


def read_rows(folder: Path, data: bytes) -> None:
    """The first byte chooses the ending."""
    path = folder / f"a{ENDINGS[data[0] % len(ENDINGS)]}"
    path.write_bytes(data[1:])
    formats.read(path)


def read_recipe(folder: Path, data: bytes) -> None:
    """The bytes as a recipe."""
    path = folder / "a.yaml"
    path.write_bytes(data)
    load_recipe(path)


def render(_: Path, data: bytes) -> None:
    """The first byte chooses the format; the rest is what both sides say, no UTF-8 as surrogates."""
    text = data[1:].decode("utf-8", "surrogateescape")
    built(FORMATS[data[0] % len(FORMATS)]).render([user(text), assistant(text)])


TARGETS: dict[str, Callable[[Path, bytes], None]] = {"rows": read_rows, "recipe": read_recipe, "chat": render}


def once(target: Callable[[Path, bytes], None], folder: Path, data: bytes) -> None:
    """One input. Refusing it is right; anything else that is raised is a find."""
    if data:
        try:
            target(folder, data)
        except ShinanError:
            return


def _seeds(target: str) -> list[bytes]:
    if target == "recipe":
        return [bad.content for bad in recipe_files(1)]
    if target == "chat":
        return [b"\0" + text.encode("utf-8", "surrogatepass") for text in TEXTS.values()]
    endings = {bad: next((i for i, end in enumerate(ENDINGS) if bad.name.endswith(end)), 0) for bad in data_files(1)}
    return [bytes([index]) + bad.content for bad, index in endings.items()]


def main() -> None:
    """Fuzz one target for a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=TARGETS, default="rows")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work, seeds = Path(name) / "work", Path(name) / "seeds"
        work.mkdir()
        seeds.mkdir()
        for number, content in enumerate(_seeds(options.target)):
            if len(content) < 4096:
                (seeds / str(number)).write_bytes(content)
        flags = [f"-max_total_time={options.seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=4096"]
        atheris.Setup([sys.argv[0], *flags, str(seeds)], partial(once, TARGETS[options.target], work))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
