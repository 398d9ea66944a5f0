from __future__ import annotations

import re
from pathlib import Path

import pytest

from shinan.recipe.schema import Recipe, load_recipe
from shinan.recipe.templates import TEMPLATES
from tests.cli.conftest import Shinan

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_recipe_is_valid_and_named_like_its_file(place: Path, shinan: Shinan, template: str) -> None:
    done = shinan("new", "support-desk", "--from", template)
    assert done.code == 0
    assert done.out.startswith("wrote support-desk.yaml\n")
    recipe = load_recipe(place / "support-desk.yaml")
    assert recipe.name == "support-desk"
    assert "{name}" not in (place / "support-desk.yaml").read_text("utf-8")


@pytest.mark.parametrize("name", ["2024", "null", "true", "1e5"])
def test_a_name_is_text_whatever_yaml_would_make_of_it(place: Path, shinan: Shinan, name: str) -> None:
    assert shinan("new", name).code == 0
    assert load_recipe(place / f"{name}.yaml").name == name


def test_what_is_commented_out_is_valid_too(place: Path, shinan: Shinan) -> None:
    """A person takes the `# ` away from the further sources and tasks."""
    shinan("new", "full")
    lines = (place / "full.yaml").read_text("utf-8").splitlines()
    opened = [line.replace("  # ", "  ", 1) if line.startswith("  # ") and ":" in line else line for line in lines]
    opened = [line for line in opened if not line.startswith(("  A share", "  Rows of"))]
    opened = [re.sub(r"^# (licences:|mix:|  \w+: )", r"\1", line) for line in opened]
    (place / "full.yaml").write_text("\n".join(opened), "utf-8")
    recipe: Recipe = load_recipe(place / "full.yaml")
    assert [use.id for use in recipe.build] == ["mine", "general"]
    assert [task.id for task in recipe.evaluate] == ["general", "mine"]
    assert recipe.licences.forbid == ["non_commercial", "unknown"]
    assert recipe.mix
    assert recipe.mix.weights == {"mine": 0.8, "general": 0.2}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_examples_in_recipes_are_what_new_writes(place: Path, shinan: Shinan, template: str) -> None:
    """If this fails, a template and its copy have drifted apart: change both."""
    shinan("new", template, "--from", template)
    assert (RECIPES / f"{template}.yaml").read_text("utf-8") == (place / f"{template}.yaml").read_text("utf-8")


@pytest.mark.promise10
def test_nothing_is_written_over(place: Path, shinan: Shinan) -> None:
    (place / "mine.yaml").write_text("precious", "utf-8")
    done = shinan("new", "mine.yaml")
    assert done == (
        1,
        "",
        "error: mine.yaml: this file exists\n  do this: choose another name, or delete the file first\n",
    )
    assert (place / "mine.yaml").read_text("utf-8") == "precious"


@pytest.mark.promise10
def test_bad_names_and_templates_are_explained(place: Path, shinan: Shinan) -> None:
    name = shinan("new", "My Recipe")
    assert name.code == 1
    assert "'My Recipe' cannot be the name of a run" in name.err
    template = shinan("new", "x", "--from", "quickstrat")
    assert template.code == 1
    assert "did you mean 'quickstart'?" in template.err
    for nothing in (".", "", "..", "/"):
        done = shinan("new", nothing)
        assert (done.code, "cannot be the name of a run" in done.err) == (1, True)
    assert list(place.iterdir()) == []
