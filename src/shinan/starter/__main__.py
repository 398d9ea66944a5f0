"""`python -m shinan.starter`: the collection's data card; `--json`: its counts."""

from __future__ import annotations

import argparse
import json
import sys

from shinan.core.errors import ShinanError
from shinan.starter.collection import KINDS, LICENCE, categories, facts, tasks


def card() -> str:
    """The data card, in Markdown: what the collection is, its size, and a line a category."""
    counts = facts()
    languages = ", ".join(f"{code} {n}" for code, n in counts["languages"].items())
    others = ", ".join(f"{kind.replace('_', ' ')} {counts[kind]}" for kind in KINDS)
    lines = [
        "# The starter collection",
        "",
        f"Written from scratch for this project, {LICENCE}. Held-out categories are for evaluation only.",
        "",
        f"- tasks: {counts['tasks']} in {counts['categories']} categories, of which "
        f"{counts['heldout_tasks']} in {counts['heldout_categories']} held-out ones",
        f"- instances: {counts['instances']}",
        f"- tasks by language: {languages}",
        f"- further rows: {others}",
        "",
        "| category | split | tasks | instances | languages | what it asks for |",
        "|---|---|--:|--:|---|---|",
    ]
    for name, category in categories().items():
        mine = [task for task in tasks() if task.category == name]
        codes = " ".join(sorted({task.language for task in mine}))
        instances = sum(len(task.instances) for task in mine)
        lines.append(f"| {name} | {category.split} | {len(mine)} | {instances} | {codes} | {category.description} |")
    return "\n".join(lines)


def main() -> int:
    """Print the card or the counts."""
    parser = argparse.ArgumentParser(prog="python -m shinan.starter", description="What the starter collection holds.")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    chosen = parser.parse_args()
    try:
        print(json.dumps(facts(), ensure_ascii=False) if chosen.json else card())
    except ShinanError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
