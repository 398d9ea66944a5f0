"""promptsource's own `Template.apply` on templates and rows that a file names; run by a Python that has promptsource.

    python -m bench.peers.promptsource_apply WORK.json          the time that all applications take
    python -m bench.peers.promptsource_apply WORK.json --parts  what it writes, `choice` being the first item

WORK.json is a list of {templates: a templates.yaml, rows: [...], names: [...] or null}: every template named (null:
all) is applied to every row. The last line is one JSON object. promptsource 0.2.3 asks for Python < 3.10, and its
templates do without:

    pip install "setuptools<80" jinja2 pyyaml pandas
    pip install --ignore-requires-python --no-deps promptsource==0.2.3
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")  # pkg_resources says that it is deprecated

import yaml  # noqa: E402
from promptsource import templates as peer  # noqa: E402


def main() -> None:
    """Apply, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--parts", action="store_true", help="print what is written, not how fast")
    chosen = parser.parse_args()
    work = [(template, row) for case in json.loads(chosen.work.read_text("utf-8")) for template, row in pairs(case)]
    if chosen.parts:
        peer.env.filters["choice"] = lambda items: items[0]
        print(json.dumps({"parts": [[template.name, template.apply(row)] for template, row in work]}))
        return
    start = time.perf_counter(), time.process_time()
    written = sum(len(template.apply(row)[0]) for template, row in work)
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    result = {"rows_per_second": len(work) / wall, "rows_per_cpu_second": len(work) / cpu, "rows": len(work)}
    versions = {name: version(name) for name in ("promptsource", "jinja2")}
    print(json.dumps(result | {"characters": written} | versions))


def pairs(case: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Template and row of each application of a case."""
    file = yaml.load(Path(case["templates"]).read_text("utf-8"), yaml.FullLoader)  # noqa: S506 (its classes' loader)
    found = [t for t in file["templates"].values() if case["names"] is None or t.name in case["names"]]
    return [(template, row) for row in case["rows"] for template in found]


if __name__ == "__main__":
    main()
