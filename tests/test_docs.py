"""What the READMEs say is so: every file is in the tree, every command and recipe they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from shinan.cli.main import app
from shinan.recipe.schema import load_recipe
from shinan.version import __version__

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.ja.md"]


def tree() -> list[str]:
    """The package's files, each with the first line of its docstring."""
    lines = []
    for path in sorted((ROOT / "src" / "shinan").rglob("*.py")):
        name = path.relative_to(ROOT / "src").as_posix()
        if path.name == "__init__.py" and not path.read_text("utf-8").strip():
            continue
        lines.append(f"{name:36} {_summary(path)}")
    return lines


def _summary(path: Path) -> str:
    first = path.read_text("utf-8").split('"""')[1].strip().splitlines()[0]
    return first.replace("`", "")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_tree_names_every_file(readme: Path) -> None:
    text = readme.read_text("utf-8")
    shown = text.split("<!-- tree -->")[1].split("<!-- /tree -->")[0]
    named = set(re.findall(r"^ *([\w/]+\.py) ", shown, re.MULTILINE))
    assert named == {line.split()[0] for line in tree()}


def test_the_english_tree_says_what_the_files_say() -> None:
    shown = READMES[0].read_text("utf-8").split("<!-- tree -->")[1].split("<!-- /tree -->")[0]
    assert [line.rstrip() for line in shown.strip("\n").splitlines() if line.strip(" `")] == [
        f"    {line}".rstrip() for line in tree()
    ]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_command_is_named_and_exists(readme: Path) -> None:
    named = set(re.findall(r"^    shinan (\w+)", readme.read_text("utf-8"), re.MULTILINE))
    commands = set(getattr(get_command(app), "commands"))  # noqa: B009
    assert named == commands


def test_every_command_has_help_with_an_example() -> None:
    for name in getattr(get_command(app), "commands"):  # noqa: B009
        shown = CliRunner().invoke(app, [name, "--help"])
        assert shown.exit_code == 0, name
        assert "Example" in shown.output, name


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_make_targets_and_files_exist(readme: Path) -> None:
    text = readme.read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_recipe_shown_can_be_run(readme: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "shown.yaml"
    path.write_text(block, "utf-8")
    assert load_recipe(path).name == "quickstart"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_loads(path: Path) -> None:
    load_recipe(path)


def test_the_changelog_knows_the_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_module_entry_point() -> None:
    shown = subprocess.run([sys.executable, "-m", "shinan", "--version"], capture_output=True, text=True, check=True)
    assert __version__ in shown.stdout


def test_every_test_of_the_table_of_checks_exists() -> None:
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", (ROOT / "docs/checks.md").read_text("utf-8"))
    assert len(named) > 30
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text("utf-8"), f"{path}::{test}"
