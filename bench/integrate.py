"""PromptSource's templates over rows: ours against promptsource's own `Template.apply`, on the same templates and rows.

    python -m bench.integrate PEER_PYTHON [--pairs N] [--repeat N]

Rows are those behind the published prompts of P3 (`bench.p3_rows`); each goes with every template of its dataset that
writes something for it. Each side runs in a process of its own, in turn; PEER_PYTHON has promptsource (see
bench/peers/promptsource_apply.py). Ours is measured twice: `apply`, which makes an Example, and the whole component,
from a file of rows to Parquet. Results go to bench/results/integrate.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.p3_rows import rendered
from bench.pairs import Result, child, rows, save, table
from bench.workloads import data_folder
from shinan.build.p3 import Source, p3
from shinan.core.dataset import write_stream
from shinan.core.errors import DataError, ShinanError
from shinan.formats.promptsource import P3Template, load_promptsource
from shinan.formats.rows import Where
from shinan.formats.rows import write_rows as write_file

TARGET = 5.0  # times promptsource's rows a second
METRICS = {"rows_per_second": TARGET, "rows_per_cpu_second": TARGET}  # the second is steadier on a busy machine


def main() -> None:
    """Measure both sides, or (as a child) one of ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", help="a Python that has promptsource; or, for one side alone, `apply` or `component`")
    parser.add_argument("work", nargs="?", type=Path, help="with one side: what is applied, as written by this module")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side")
    parser.add_argument("--repeat", type=int, default=1, help="how often all rows come in one run")
    chosen = parser.parse_args()
    try:
        if chosen.work:
            print(json.dumps({"apply": apply, "component": component}[chosen.peer](chosen.work)))
        else:
            measure(chosen.peer, chosen.pairs, chosen.repeat)
    except ShinanError as error:
        sys.exit(str(error))


def measure(peer: str, count: int, repeat: int) -> None:
    """Run apply, component, peer, apply, ... and save the medians."""
    with TemporaryDirectory() as place:
        work = Path(place) / "work.json"
        work.write_text(json.dumps(list(cases(data_folder() / "p3", repeat))), "utf-8")
        found: dict[str, list[tuple[Result, Result]]] = {"apply": [], "component": []}
        for number in range(1, count + 1):
            ours = {side: child([sys.executable, "-m", "bench.integrate", side, str(work)]) for side in found}
            theirs = child([peer, "-m", "bench.peers.promptsource_apply", str(work)])
            for side, pairs in found.items():
                pairs.append((ours[side], theirs))
            speeds = [f"{result['rows_per_cpu_second']:.0f}" for result in (*ours.values(), theirs)]
            print(f"{number} of {count}: {', '.join(speeds)} rows a CPU second", file=sys.stderr)
    version = f"promptsource {theirs['promptsource']} apply, Jinja {theirs['jinja2']}"
    names = {"apply": "p3, apply", "component": "p3, rows to Parquet"}
    made = [row for side in found for row in rows(names[side], found[side], version, METRICS)]
    save("integrate", made, pairs=found)
    for row in made:
        print(json.dumps(asdict(row)))
    print(f"\n{table(made)}")


def cases(p3_folder: Path, repeat: int) -> Iterator[dict[str, Any]]:
    """For each row, the templates of its dataset that write something for it: {templates, rows, names}."""
    load = cache(load_promptsource)
    grouped: dict[tuple[Path, tuple[str, ...]], list[dict[str, Any]]] = defaultdict(list)
    for number, old in enumerate(rendered(p3_folder)):
        path = p3_folder / "templates" / old.dataset / "templates.yaml"
        names = tuple(made.name for made in load(path) if _writes(made, old.row, number))
        grouped[path, names].append(old.row)
    for (path, names), taken in grouped.items():
        if names:
            yield {"templates": str(path), "rows": taken * repeat, "names": names}


def _writes(made: P3Template, row: dict[str, Any], number: int) -> bool:
    with suppress(DataError):
        return bool(made.apply(row, Where("", number)).reply)
    return False


def apply(work: Path) -> Result:
    """Rows a second of `P3Template.apply`."""
    pairs = [
        (made, row, Where(case["templates"], number))
        for case in json.loads(work.read_text("utf-8"))
        for made in load_promptsource(Path(case["templates"]))
        if made.name in case["names"]
        for number, row in enumerate(case["rows"])
    ]
    start = time.perf_counter(), time.process_time()
    written = sum(len(made.apply(row, where).prompt_text) for made, row, where in pairs)
    return _result(len(pairs), start, characters=written)


def component(work: Path) -> Result:
    """Rows a second of the component, from files of rows to a Parquet file. Rows that are dropped take time, and do not
    count: those of the datasets' other templates.
    """
    with TemporaryDirectory() as place:
        sources = []
        for number, case in enumerate(json.loads(work.read_text("utf-8"))):
            path = Path(place) / f"{number}.jsonl"
            write_file(path, case["rows"])
            sources.append(Source(templates=case["templates"], rows=str(path)))
        folder = Path(place) / "out"
        folder.mkdir()
        start = time.perf_counter(), time.process_time()
        tally = write_stream(folder, p3(0, sources=sources, templates_per_row="all"))
        return _result(tally.kept, start, dropped=tally.dropped.total())


def _result(count: int, start: tuple[float, float], **more: int) -> Result:
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    return {"rows_per_second": count / wall, "rows_per_cpu_second": count / cpu, "rows": count} | more


if __name__ == "__main__":
    main()
