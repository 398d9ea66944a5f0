"""Task files of both versions: everything they say is kept, and what cannot be used is told with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.errors import DataError
from shinan.formats import natural_instructions
from shinan.formats.natural_instructions import Demonstration, Fault, Instance, read_task
from tests.formats.task_files import VERSION_1, instance, published, version_2, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "task007_riddles.json"


def test_a_task_of_version_2_is_kept_whole(path: Path) -> None:
    task = read_task(write(path, version_2(**{"Instruction Source": "by hand", "Definition": ["Solve", "Guess"]})))
    assert (task.name, task.definitions, task.licence) == ("task007_riddles", ("Solve", "Guess"), "CC-BY-4.0")
    assert (task.categories, task.sources) == (("Riddle Solving",), ("riddles",))
    assert task.positive[1] == Demonstration("I2", "O2", "E2")
    assert task.negative == (Demonstration("N1", "M1", "B1"),)
    assert task.instances[2] == Instance(2, "task-2", "Question 2", ("Answer 2",), {})
    assert task.tags == {
        "contributors": "Ada; Bea",
        "url": "https://example.org/riddles",
        "reasoning": "Deductive Reasoning",
        "domains": "Folklore; Games",
        "input_language": "ja",
        "output_language": "en",
        "instruction_language": "en",
        "language": "en",
        "instruction_source": "by hand",
        "other_definitions": "Guess",
    }


def test_a_task_of_version_1_is_kept_whole(path: Path) -> None:
    task = read_task(write(path, VERSION_1))
    assert task.definitions == (VERSION_1["Definition"],)
    assert (task.title, task.prompt) == ("Asking about colours", "Ask about the colour.")
    assert (task.avoid, task.caution) == ("", "One question only.")  # `- ` is its mark for none
    assert task.positive[1] == Demonstration("A blue door. ", "Which colour is the door?")
    assert task.negative == (Demonstration("It is green.", "Is it green?", "A yes.", "Ask for it."),)
    assert task.instances == (Instance(0, "", "The wall is white. ", ("Which colour is the wall?",), {}),)
    assert (task.categories, task.sources, task.licence, task.tags) == ((), (), "", {})
    none = VERSION_1 | {"Examples": {"Positive Examples": [], "Negative Examples": ["-"]}}
    assert read_task(write(path, none)).negative == ()


def test_every_value_of_the_published_originals_is_somewhere_in_the_task() -> None:
    for file in sorted((published() / "original").rglob("*.json")):
        task = read_task(file)
        kept = json.dumps([repr(task), *task.tags.values()], ensure_ascii=False)
        for key, value in json.loads(file.read_text("utf-8")).items():
            if key.endswith("language"):
                assert task.tags[key.lower()] == "en"
            elif key not in ("Instances", "Positive Examples", "Negative Examples"):
                assert all(json.dumps(text)[1:-1] in kept for text in ([value] if isinstance(value, str) else value))
        assert not task.faults


def test_the_published_tasks_have_the_instances_that_their_readme_counts() -> None:
    tasks = [read_task(file) for file in sorted((published() / "tasks").iterdir())]
    assert len(tasks) == 65
    assert sum(len(task.instances) for task in tasks) == 7650
    assert all(len(task.positive) == 2 and not task.faults for task in tasks)
    early = read_task(published() / "original/early_schema/task062_bigbench_repeat_copy_logic.json")
    late = read_task(published() / "original/task062_bigbench_repeat_copy_logic.json")
    assert early.definitions == late.definitions
    assert [i.input for i in early.instances] == [i.input for i in late.instances]
    assert "language" not in early.tags
    assert not any(i.id for i in early.instances)
    many = read_task(published() / "original/subset/task1728_web_nlg_data_to_text.json.gz")
    assert {len(i.outputs) for i in many.instances} >= {1, 2, 3}


def test_a_gz_file_is_the_same_task(path: Path) -> None:
    plain = read_task(write(path, version_2()))
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))  # with a byte-order mark
    assert read_task(packed) == plain


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        ("text", "wrong_type", "an instance is an object, not text"),
        (instance(9, id=4), "wrong_type", "'id' must be text, not a number"),
        ({"id": "x", "output": ["a"]}, "wrong_type", "'input' must be text, not null"),
        (instance(9, output=[]), "no_output", "it has no accepted output"),
        ({"id": "x", "input": "a"}, "no_output", "it has no accepted output"),
        (instance(9, output=["a", " "]), "no_output", "an accepted output is blank"),
        (instance(9, output=["a", 3]), "wrong_type", "'output' must be text or a list of texts"),
        (instance(9, output={"a": 1}), "wrong_type", "'output' must be text or a list of texts"),
        (instance(9, id="task-1"), "duplicate_id", "instance 1 has the same id"),
        (instance(9, input="a\0b"), "unusable_text", "a NUL character, in 'a\\x00b'"),
        (instance(9, input="x" * (1 << 20) + "x"), "too_long", "a text of 1048577 characters, more than 1048576"),
    ],
)
def test_a_bad_instance_costs_itself_alone(path: Path, bad: Any, reason: str, detail: str) -> None:
    task = read_task(write(path, version_2(Instances=[instance(0), instance(1), bad, instance(3)])))
    assert [i.row for i in task.instances] == [0, 1, 3]
    (fault,) = task.faults
    assert (fault.row, fault.reason, fault.detail) == (2, reason, detail)
    assert fault.id == (bad["id"] if isinstance(bad, dict) and isinstance(bad["id"], str) else "")


@pytest.mark.promise10
def test_mixed_encodings_and_half_characters_cost_their_instance_alone(path: Path) -> None:
    listed = [instance(0, input="日本語 🦊"), instance(1, input="caf\N{LATIN SMALL LETTER E WITH ACUTE}"), instance(2)]
    data = json.dumps(version_2(Instances=listed), ensure_ascii=False).encode()
    data = data.replace("café".encode(), "café".encode("latin-1")).replace(b'"task-2"', b'"\\ud800"')
    path.write_bytes(data)
    task = read_task(path)
    assert [i.input for i in task.instances] == ["日本語 🦊"]
    assert task.faults[0] == Fault(
        1, "task-1", "unusable_text", "not valid UTF-8: byte 0xe9, as from a text in another encoding"
    )
    assert task.faults[1].id == "\\ud800"
    assert task.faults[1].detail.startswith("not valid Unicode: half a surrogate pair")


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("task", "what"),
    [
        ([], "a task file is one object, not a list"),
        (version_2(Instances=[]), "no instances"),
        ({"Definition": "Do it."}, "no instances"),
        (version_2(Instances={"a": 1}), "'Instances' must be a list, not an object"),
        (version_2(Definition=[" "]), "no Definition"),
        (version_2(Definition=[{"a": 1}]), "'Definition' must be text or a list of texts, not an object"),
        (version_2(Categories=3), "'Categories' must be text or a list of texts, not a number"),
        (version_2(Definition=["half \ud800"]), "not valid Unicode: half a surrogate pair"),
        (version_2(Examples=[]), "'Examples' must be an object, not a list"),
        (version_2(**{"Positive Examples": "none of them"}), "'Positive Examples' must be a list, not text"),
        (version_2(**{"Negative Examples": [["a"]]}), "Negative Examples, number 1: an example is an object"),
        (version_2(**{"Positive Examples": [{"input": "a"}]}), "Positive Examples, number 1: 'output' must be text"),
    ],
)
def test_a_useless_task_is_told_with_its_file(path: Path, task: Any, what: str) -> None:
    path.write_text(json.dumps(task), "utf-8")
    with pytest.raises(DataError) as caught:
        read_task(path)
    assert caught.value.what.startswith(what)
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("data", "what", "line"),
    [
        (b'{"Definition": "a",\n "Instances": [}', "not valid JSON at column 16", ":2"),
        (b"", "not valid JSON at column 1", ":1"),
        (b"[" * 100_000, "not usable JSON: nested too deeply", ""),
        (b'{"Instances": ' + b"9" * 5000 + b"}", "not usable JSON: a number of too many digits", ""),
        (b'{"Definition": "a", "Definition": "b"}', "the key 'Definition' is given twice", ""),
        ('{"Definition": "a"}'.encode("utf-16"), "not valid JSON at column 1", ":1"),
    ],
)
def test_broken_json_is_told_with_its_line(path: Path, data: bytes, what: str, line: str) -> None:
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_task(path)
    assert what in str(caught.value)
    assert caught.value.where == f"{path}{line}"


@pytest.mark.promise10
def test_damaged_missing_and_huge_files_are_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot read it"):
        read_task(path)
    packed = path.with_name("task.json.gz")
    packed.write_bytes(gzip.compress(b'{"Definition": "a"}' * 100)[:-20])
    with pytest.raises(DataError, match="cannot read it"):
        read_task(packed)
    monkeypatch.setattr(natural_instructions, "LARGEST_FILE", 1 << 20)
    packed.write_bytes(gzip.compress(b" " * (1 << 20) + b"{}"))
    with pytest.raises(DataError, match="more than 1 MB, and a task file is read whole"):
        read_task(packed)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
instances = st.fixed_dictionaries(
    {}, optional={"id": st.sampled_from(["a", "b", ""]) | json_values, "input": json_values, "output": json_values}
)


@pytest.mark.promise1
@given(listed=st.lists(json_values | instances, min_size=1, max_size=6))
def test_every_instance_is_one_or_has_a_reason(tmp_path_factory: pytest.TempPathFactory, listed: list[Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    task = read_task(write(file, version_2(Instances=listed)))
    assert sorted([i.row for i in task.instances] + [f.row for f in task.faults]) == list(range(len(listed)))
    for found in task.instances:
        given_outputs = listed[found.row]["output"]
        assert set(found.outputs) == set([given_outputs] if isinstance(given_outputs, str) else given_outputs)
        assert found.input == listed[found.row]["input"]
