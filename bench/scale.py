"""How fast rows reach the disk and come back, and in how much memory.

    python -m bench.scale [--rows 5000000] [--mix]
    python -m bench.scale --rendered [--rows 5000000]

Rows of the shape that a prompt template renders go into a Parquet dataset as a build stage writes them, and are read
again; with `--mix`, they are mixed into as many, too. A plain function makes them, since a template takes several
times as long as all the rest; what it takes is measured apart, on one row in fifty.

With `--rendered` no row is spared the template: the component `p3` reads a file of rows and puts each into the words
of one of promptsource's fifteen templates for ANLI, and what it writes is read and mixed. It ends with exit code 1 if
the peak is 2,000 MB or more.

Peaks are of the whole process so far (nothing else is loaded), after each part. One JSON line a part, all in
`bench/results/scale.json` (`scale-rendered.json`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.workloads import data_folder
from shinan.build.mix import mix, mixed
from shinan.build.mixture import Mix
from shinan.build.p3 import Source, p3
from shinan.core.dataset import Judged, iter_rows, write_atomic, write_stream
from shinan.core.example import Example, Message, Part, Provenance, assistant
from shinan.formats.rows import Where
from shinan.formats.template import PromptTemplate

RESULTS = Path(__file__).parent / "results"
TEMPLATE = PromptTemplate.model_validate(
    {
        "name": "nli-question",
        "task": "nli",
        "instruction": "Does the first sentence imply the second?",
        "input": "First: {{ premise }}\nSecond: {{ hypothesis }}",
        "choices": ["Yes", "Maybe", "No"],
        "output": "{{ choices[label] }}",
        "metadata": {"dataset": "made-up", "language": "en"},
    }
)


MOST = 2_000  # MB that rendered rows may take
GENUINE = Path("p3", "templates", "anli")  # in the data folder
_TEMPLATED = 50  # of so many rows, one is rendered by the template, too


@dataclass(frozen=True, slots=True)
class Figure:
    """What one part of the work took.

    Attributes:
        part: its name.
        rows: rows written or read.
        seconds: wall time, of which `cpu_seconds` were spent computing: the rest went to other processes.
        rows_per_second: by wall time.
        rows_per_cpu_second: what an idle machine would come near to.
        peak_mb: the most memory that the process has held until its end.
    """

    part: str
    rows: int
    seconds: float
    cpu_seconds: float
    rows_per_second: int
    rows_per_cpu_second: int
    peak_mb: int


def fields(number: int) -> dict[str, Any]:
    """Row `number` of an annotated dataset, each different."""
    return {
        "premise": f"In shop {number % 977}, a woman buys {number} red umbrellas on a day of heavy rain.",
        "hypothesis": f"Somebody buys {number * 7 % 1000} things.",
        "label": number % 3,
    }


def templated(count: int) -> Iterator[Example]:
    """Rows as the template writes them."""
    for number in range(count):
        example = TEMPLATE.apply(fields(number), Where("made-up", number), number, licence="CC0-1.0")
        yield example.tagged("build", _stage(number))


def plain(count: int) -> Iterator[Example]:
    """The same rows without the template."""
    for number in range(count):
        row = fields(number)
        label = TEMPLATE.choices[row["label"]]
        asked = f"First: {row['premise']}\nSecond: {row['hypothesis']}"
        example = Example(
            (Message("user", (Part(TEMPLATE.instruction, "instruction"), Part(asked, "input"))), assistant(label)),
            targets=(label,),
            choices=tuple(TEMPLATE.choices),
            task=TEMPLATE.task,
            tags=dict(TEMPLATE.metadata),
            provenance=Provenance("made-up", number, "CC0-1.0", f"template:{TEMPLATE.name}"),
        )
        yield example.tagged("build", _stage(number))


def _stage(number: int) -> str:
    return "large" if number % 4 else "small"


def rendered(rows: Path) -> Iterator[Judged]:
    """The rows of a file in the words of genuine templates, one each, as the component makes them."""
    source = Source(templates=str(data_folder() / GENUINE), rows=str(rows), licence="CC0-1.0")
    for judged in p3(0, sources=[source], cap=None):
        if not isinstance(judged, Example):
            raise RuntimeError(f"a row that does not fit: {judged[1].detail}")
        yield judged.tagged("build", _stage(judged.provenance.row))


def _write_fields(path: Path, count: int) -> int:
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            stream.write(json.dumps(fields(number)) + "\n")
    return count


def measure(count: int, folder: Path, *, mixing: bool, rendering: bool) -> Iterator[Figure]:
    """Build `count` rows in `folder`, read them, and mix them."""
    built, again, file = folder / "built", folder / "mixed", folder / "rows.jsonl"
    for place in (built, again):
        place.mkdir()
    yield _timed("start", 0, lambda: 0)
    made: Iterable[Judged] = plain(count)
    if rendering:
        yield _timed("file of rows", count, lambda: _write_fields(file, count))
        made = rendered(file)
    else:
        yield _timed("template", count // _TEMPLATED, lambda: sum(1 for _ in templated(count // _TEMPLATED)))
    yield _timed("render" if rendering else "build", count, lambda: write_stream(built, made).kept)
    yield _timed("read", count, lambda: sum(1 for _ in iter_rows(built)))
    if mixing:
        rule = Mix.model_validate({"weights": {"large": 1, "small": 1}, "total": count})
        yield _timed("mix", count, lambda: _mixed(built, again, rule))


def _mixed(source: Path, out: Path, rule: Mix) -> int:
    return write_stream(out, mixed(source, mix(iter_rows(source), rule, 0))).kept


def _timed(part: str, rows: int, work: Callable[[], int]) -> Figure:
    start, cpu = time.monotonic(), time.process_time()
    if (done := work()) != rows:
        raise RuntimeError(f"{part} gave {done} rows, not {rows}")
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    wall_speed, cpu_speed = (round(rows / spent) if rows else 0 for spent in (seconds, cpu))
    return Figure(part, rows, round(seconds, 1), round(cpu, 1), wall_speed, cpu_speed, round(peak))


def main() -> None:
    """Measure, print and save, part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--mix", action="store_true", help="mix them, too")
    parser.add_argument("--rendered", action="store_true", help="genuine templates for every row, then mixed")
    parser.add_argument("--no-save", action="store_true", help="leave bench/results as it is")
    options = parser.parse_args()
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    parts: list[Figure] = []
    with TemporaryDirectory() as folder:
        work = measure(options.rows, Path(folder), mixing=options.mix or options.rendered, rendering=options.rendered)
        for part in work:
            parts.append(part)
            print(json.dumps(asdict(part)), flush=True)
            if not options.no_save:
                document = {"machine": machine, "parts": [asdict(one) for one in parts]}
                name = "scale-rendered.json" if options.rendered else "scale.json"
                write_atomic(RESULTS / name, json.dumps(document, indent=1) + "\n")
    if options.rendered and part.peak_mb >= MOST:
        sys.exit(f"{part.peak_mb:,} MB at the peak: {MOST:,} are allowed")


if __name__ == "__main__":
    main()
