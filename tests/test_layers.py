"""The layers of docs/design: imports go down only, siblings never import each other, and the light rooms stay light."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shinan

ROOT = Path(shinan.__file__).parent
LAYERS = (
    ("core",),
    ("formats", "models", "scorers", "starter"),
    ("build", "curate", "train", "evaluate"),
    ("report", "serve"),
    ("recipe",),
    ("cli", "studio"),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
HEAVY = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}
HTTP = {"httpx", "requests", "urllib3", "aiohttp", "huggingface_hub"}
LIGHT = ("core", "formats", "scorers", "starter", "build", "curate", "report")
FILES = {
    ".".join(("shinan", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(nodes: Iterator[ast.AST], module: str) -> Iterator[str]:
    """The modules that the import statements among `nodes` name; relative ones would have no name, so none may be."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module}:{node.lineno}: a relative import"
            assert not node.level, f"{module}:{node.lineno}: a relative import"
            yield node.module
            yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in FILES)


def at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: no function body, no `if TYPE_CHECKING` block."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import_time(node)


def room_of(module: str) -> str:
    """`shinan.core.text` -> `core`; empty for the package itself and its version; `python -m shinan` is the cli."""
    name = f"{module}.".split(".")[1]
    return {"version": "", "__main__": "cli"}.get(name, name)


def tree_of(module: str) -> ast.AST:
    """The parsed module."""
    return ast.parse(FILES[module].read_text("utf-8"))


def test_every_room_has_its_layer() -> None:
    assert {room_of(module) for module in FILES} - {""} <= LEVEL.keys()


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down_only(module: str) -> None:
    """Anywhere in the file, also in functions and for type checking. Rooms of one layer are siblings."""
    room = room_of(module)
    for name in imported(ast.walk(tree_of(module)), module):
        other = room_of(name)
        if name.startswith("shinan.") and other not in ("", room):
            assert room, f"{module} is every room's and imports {name}"
            assert LEVEL[other] < LEVEL[room], f"{module} (layer {LEVEL[room]}) imports {name} (layer {LEVEL[other]})"


@pytest.mark.parametrize("module", [module for module in FILES if room_of(module) == "core"])
def test_core_knows_no_torch_no_transformers_and_no_http(module: str) -> None:
    outside = {name.split(".")[0] for name in imported(ast.walk(tree_of(module)), module)}
    assert not outside & (HEAVY | HTTP)


@pytest.mark.parametrize("module", [m for m in FILES if room_of(m) in LIGHT and not m.endswith("__main__")])
def test_light_rooms_import_no_torch_even_through_others(module: str) -> None:
    seen: set[str] = set()
    waiting = {module: module}  # module -> through which it is imported
    while waiting:
        name, path = waiting.popitem()
        seen.add(name)
        for other in imported(at_import_time(tree_of(name)), name):
            assert other.split(".")[0] not in HEAVY, f"{path} -> {other}"
            parents = [other.rsplit(".", n)[0] for n in range(other.count(".") + 1)]  # packages run their __init__
            waiting |= {p: f"{path} -> {p}" for p in parents if p in FILES and p not in seen}


def test_these_tests_would_notice() -> None:
    text = "import torch\nif TYPE_CHECKING:\n import peft\ndef f():\n import transformers\nclass A:\n import jax\n"
    assert list(imported(at_import_time(ast.parse(text)), "x")) == ["torch", "jax"]
    assert set(imported(ast.walk(ast.parse(text)), "x")) == {"torch", "peft", "transformers", "jax"}
    assert list(imported(ast.walk(ast.parse("from shinan.core import text")), "x")) == [
        "shinan.core",
        "shinan.core.text",
    ]
