"""Recipes and template files from strangers: each is read, or refused with its places; no text can fill the memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.core.config import apply_overrides, load_yaml, parse_yaml
from shinan.core.errors import ConfigError, ShinanError
from shinan.formats import load_templates
from shinan.recipe.schema import Recipe, load_recipe
from tests.hostile.corpus import Bad, recipe_files, template_files
from tests.recipe.tiny_recipe import RECIPE, write_recipe

SEED = 20
RECIPES, TEMPLATES = list(recipe_files(SEED)), list(template_files(SEED))


def told(error: ShinanError, path: Path) -> None:
    """Every problem says what and where, and echoes no more than the file itself holds."""
    held = path.stat().st_size if path.is_file() else 0
    assert isinstance(error, ConfigError), error
    for problem in error.problems:
        assert problem.what, path.name
        assert problem.where.startswith(str(path)), problem
        assert len(str(problem)) < 3000 + held, f"{path.name}: {len(str(problem))} characters"
    str(error).encode("utf-8")


def refused(folder: Path, corpus: list[Bad], load: Callable[[Path], object]) -> int:
    """How many of the files were refused, each with its sentence."""
    count = 0
    for bad in corpus:
        path = folder / bad.name
        path.write_bytes(bad.content)
        try:
            load(path)
        except ShinanError as error:
            told(error, path)
            count += 1
    assert len(list(folder.iterdir())) == len(corpus)  # reading leaves nothing behind
    return count


@pytest.mark.promise10
def test_the_corpus_is_large_and_always_the_same() -> None:
    assert len(RECIPES) > 500
    assert len(TEMPLATES) > 300
    assert len({bad.name for bad in [*RECIPES, *TEMPLATES]}) == len(RECIPES) + len(TEMPLATES)
    assert list(recipe_files(SEED)) == RECIPES


@pytest.mark.promise10
def test_every_bad_recipe_is_read_or_refused_with_its_places(tmp_path: Path) -> None:
    count = refused(tmp_path, RECIPES, load_recipe)
    assert 500 < count < len(RECIPES)


@pytest.mark.promise10
def test_every_bad_template_file_is_read_or_refused_with_its_places(tmp_path: Path) -> None:
    count = refused(tmp_path, TEMPLATES, load_templates)
    assert 200 < count < len(TEMPLATES)


_KEYS = st.sampled_from(["name", "build", "tune", "evaluate", "with", "id", "use", "*", "<<"]) | st.text(max_size=3)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.promise10
@given(st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)), _VALUES, max_size=9))
@settings(max_examples=60, deadline=None)
def test_any_values_under_the_keys_of_a_recipe(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(repr(document).replace("None", "null").replace("True", "true"), "utf-8", errors="replace")
    with pytest.raises(ConfigError) as caught:  # no such document is a whole recipe: `use` names no component
        load_recipe(path)
    told(caught.value, path)


# ---- what grows ----


@pytest.mark.promise10
@pytest.mark.parametrize("name", ["recipe-laughs", "recipe-laughs-as-keys", "recipe-merges", "recipe-holds-itself"])
def test_aliases_of_aliases_cost_neither_time_nor_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(next(bad.content for bad in RECIPES if bad.name == f"{name}.yaml"))
    start = time.process_time()
    with pytest.raises(ConfigError):
        load_recipe(path)
    assert time.process_time() - start < 1


@pytest.mark.promise10
def test_a_merge_bomb_is_told_with_its_line() -> None:
    lines = ["a0: &a0 {a: 1, b: 2}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}, *a{i - 1}]}}" for i in range(1, 9))]
    assert parse_yaml("\n".join(lines[:6])).data["a5"] == {"a": 1, "b": 2}
    with pytest.raises(ConfigError, match=r"^b\.yaml:7: not valid YAML: `<<` makes a mapping of more than 1000 keys"):
        parse_yaml("\n".join(lines), "b.yaml")


@pytest.mark.promise10
def test_a_long_key_is_told_in_few_words(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, f"{RECIPE}? {'k' * 300_000}\n: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert "unknown key 'kkkkkkk" in caught.value.problems[0].what
    assert len(caught.value.problems[0].what) < 100


# ---- what is no file, and what is typed ----


@pytest.mark.promise10
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("folder.yaml", "loop.yaml", "gone.yaml", "gone/a.yaml", "a" * 300, "a\0b.yaml", "loop.yaml/a.yaml"):
        with pytest.raises(ConfigError) as caught:
            load_yaml(tmp_path / name)
        assert caught.value.problems[0].where == str(tmp_path / name)


@pytest.mark.promise10
@pytest.mark.parametrize(
    "text",
    [
        *("", "=", "a", "=1", ".=1", "..=1", "a..b=1", "name.x=1", "build.9.id=a", "build.x.id=a"),
        *("build." + "9" * 5000 + "=1", ".".join("a" * 3000) + "=1", "tune=" + "[" * 3000, "tune=\ud800", "tune=a\0b"),
        *("name=&a [*a]", "name=!!python/name:os.system", "seed=" + "9" * 5000, "tune.epochs=: :", "name=../x"),
    ],
)
def test_any_override_is_taken_or_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write_recipe(tmp_path), [text])
    assert caught.value.problems[0].where.startswith(("--set ", str(tmp_path)))


@pytest.mark.promise10
@given(st.text(st.characters(exclude_categories=()) | st.sampled_from(".=[]{}&*0a"), max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_text_as_an_override(text: str) -> None:
    document = parse_yaml("name: x\nbuild: [{id: a, with: {limit: 1}}]\n")
    try:
        apply_overrides(document, [text])
    except ConfigError as error:
        assert error.problems[0].where == f"--set {text}" or error.problems[0].where.startswith(f"--set {text}:")  # noqa: PT017
