"""Lines by file and the longest functions: growth is looked at, not forbidden. `make size`."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path("src/shinan")


def main() -> None:
    """Print lines a room, the five longest files and functions, and the ninth decile of function length."""
    lines = {path: path.read_text("utf-8").count("\n") for path in sorted(SOURCE.rglob("*.py"))}
    rooms: dict[str, int] = {}
    for path, count in lines.items():
        room = path.relative_to(SOURCE).parts[0]
        rooms[room] = rooms.get(room, 0) + count
    functions = sorted((length, where) for path in lines for length, where in _functions(path))
    for room, count in sorted(rooms.items(), key=lambda item: -item[1]):
        print(f"{count:6} {room}")
    print(f"{sum(lines.values()):6} in all, {len(lines)} files")
    print("\nlongest files")
    for path, count in sorted(lines.items(), key=lambda item: -item[1])[:5]:
        print(f"{count:6} {path}")
    print(f"\nfunctions: {len(functions)}, ninth decile {functions[int(0.9 * len(functions))][0]} lines; longest")
    for length, where in functions[:-6:-1]:
        print(f"{length:6} {where}")


def _functions(path: Path) -> list[tuple[int, str]]:
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [((node.end_lineno or node.lineno) - node.lineno + 1, f"{path}:{node.lineno} {node.name}") for node in found]


if __name__ == "__main__":
    main()
