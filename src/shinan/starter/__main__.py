"""`python -m shinan.starter`: the collection's data card; `--json`: its counts."""

from __future__ import annotations

import argparse
import json
import sys

from shinan.core.errors import ShinanError
from shinan.starter.card import card, facts

__all__ = ["card", "main"]


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
