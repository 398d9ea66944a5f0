"""Natural Instructions rows: the split, what is drawn, the budget, and faults that cost a row and not the build."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shinan.build.task_split import HELDOUT_CATEGORIES
from shinan.core.dataset import Judged, new_folder, read_dropped, read_rows, write_stream
from shinan.core.errors import ConfigError, DataError
from shinan.core.example import Example
from shinan.core.registry import bind
from shinan.formats.instruction_encoding import TK_INSTRUCT, WORDINGS
from tests.formats.task_files import VERSION_1, instance, published, version_2, write


def built(path: Any, seed: int = 0, **params: Any) -> Iterator[Judged]:
    rows: Iterator[Judged] = bind("build", "natural_instructions", {"path": path, **params})(seed)
    return rows


def kept(path: Any, seed: int = 0, **params: Any) -> list[Example]:
    return [row for row in built(path, seed, **params) if isinstance(row, Example)]


def dropped(path: Any, seed: int = 0, **params: Any) -> list[tuple[str, str, str]]:
    """Row, reason and detail of what is dropped."""
    rows = [row for row in built(path, seed, **params) if not isinstance(row, Example)]
    return [(example.row, verdict.reason, verdict.detail) for example, verdict in rows]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Three training tasks, and one of a held-out category that shares its source with the third."""
    places = {"a": ("Riddles", "x"), "b": ("Riddles", "y"), "c": ("Riddles", "SHARED"), "d": ("Data to Text", "shared")}
    made = tmp_path / "tasks"
    made.mkdir()
    for name, (category, source) in places.items():
        listed = [instance(n, input=f"{name} {n}") for n in range(8)]
        write(made / f"{name}.json", version_2(Categories=[category], Source=[source], Instances=listed))
    return str(made)


def shared(**params: Any) -> dict[str, Any]:
    return {"path": str(published() / "tasks"), "table": str(published() / "tasks.csv"), **params}


def test_a_row_says_where_it_comes_from(folder: str) -> None:
    row = kept(folder, split="all")[3]
    assert row.row == f"{folder}/a.json#3"
    assert row.provenance.licence == "CC-BY-4.0"
    assert row.provenance.maker == "template:natural_instructions/definition+2 positive"
    assert (row.task, row.reply, row.targets) == ("a", "Answer 3", ("Answer 3",))
    assert row.tags == {
        "category": "Riddles",
        "dataset": "x",
        "template": "tk_instruct",
        "style": "few_shot",
        "demonstrations": "2",
        "id": "task-3",
        "submixture": "niv2",
        "contributors": "Ada; Bea",
        "url": "https://example.org/riddles",
        "reasoning": "Deductive Reasoning",
        "domains": "Folklore; Games",
        "input_language": "ja",
        "output_language": "en",
        "instruction_language": "en",
        "language": "en",
    }
    bare = write(Path(folder) / "e.json", VERSION_1)
    assert kept([str(bare)], split="all", licence="MIT")[0].provenance.licence == "MIT"


@pytest.mark.promise8
def test_held_out_is_held_out_by_category_and_by_source(folder: str) -> None:
    assert {row.task for row in kept(folder, split="heldout")} == {"d"}
    assert {row.task for row in kept(folder)} == {"a", "b"}
    assert dropped(folder) == [
        (
            f"{folder}/c.json#0",
            "shares_heldout_source",
            "its source dataset 'SHARED' is that of the held-out task d",
        )
    ]
    assert {row.task for row in kept(folder, split="heldout", heldout_categories=["riddles"])} == {"a", "b", "c"}
    assert {row.task for row in kept(folder, split="all")} == {"a", "b", "c", "d"}


@pytest.mark.promise8
def test_the_published_tasks_are_split_as_their_table_says() -> None:
    """Against a reading of the table of its own."""
    with (published() / "tasks.csv").open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert len(HELDOUT_CATEGORIES) == 12
    assert {row["category"] for row in table} == set(HELDOUT_CATEGORIES) - {
        "Overlap Extraction",
        "Grammar Error Correction",
    }
    categories = ["Question Rewriting", "Coreference Resolution"]
    held = {row["task"] for row in table if row["category"] in categories}
    sources = {row["source"] for row in table if row["task"] in held}
    training = {row["task"] for row in table if row["category"] not in categories and row["source"] not in sources}
    params = shared(instances_per_task=1, heldout_categories=categories)
    assert {row.task for row in kept(**params, split="heldout")} == held
    rows = list(built(**params, split="train"))
    assert {row.task for row in rows if isinstance(row, Example)} == training
    excluded = {row[0].task for row in rows if not isinstance(row, Example)}
    assert excluded == {row["task"] for row in table} - training - held
    assert excluded
    assert len(kept(**shared(split="heldout"))) == 7650


@pytest.mark.promise8
def test_a_task_of_unknown_category_or_source_is_on_no_side(tmp_path: Path) -> None:
    known = write(tmp_path / "known.json", version_2())
    nameless = write(tmp_path / "nameless.json", version_2(Categories=[]))
    sourceless = write(tmp_path / "sourceless.json", version_2(Source=[]))
    files = [str(known), str(nameless), str(sourceless)]
    assert [reason for _, reason, _ in dropped(files)] == ["unknown_category", "unknown_source"]
    assert {row.task for row in kept(files)} == {"known"}
    held = write(tmp_path / "held.json", version_2(Categories=["Textual Entailment"], Source=[]))
    other = write(tmp_path / "other.json", version_2(Categories=["Textual Entailment"]))
    assert [reason for _, reason, _ in dropped([str(held), str(other)], split="heldout")] == ["unknown_source"]
    table = tmp_path / "table.csv"
    table.write_text("task,category,source\nnameless,Data to Text,riddles\nsourceless,Games,chess\n", "utf-8")
    assert {row.task for row in kept(files, table=str(table), split="heldout")} == {"nameless"}
    assert {row.task for row in kept(files, table=str(table))} == {"sourceless"}  # and `known` shares a source
    assert {row.tags["category"] for row in kept(files, table=str(table), split="heldout")} == {"Data to Text"}


def test_what_is_drawn_of_a_task_depends_on_no_other_task(folder: str) -> None:
    def drawn(**params: Any) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row in kept(folder, split="all", instances_per_task=3, **params):
            found.setdefault(row.task, []).append(row.provenance.row)
        return found

    whole = drawn()
    assert whole == drawn()
    assert [len(rows) for rows in whole.values()] == [3, 3, 3, 3]
    assert all(rows == sorted(rows) for rows in whole.values())
    assert len({tuple(rows) for rows in whole.values()}) > 1
    assert drawn(tasks=["c"]) == {"c": whole["c"]}
    Path(folder, "b.json").unlink()
    assert drawn() == {name: rows for name, rows in whole.items() if name != "b"}
    first = kept(folder, split="all", instances_per_task=2)
    assert {row.row for row in first} < {row.row for row in kept(folder, split="all", instances_per_task=3)}
    assert [row.row for row in first] != [row.row for row in kept(folder, 1, split="all", instances_per_task=2)]


def test_a_limit_takes_one_of_each_task_then_a_second(folder: str) -> None:
    def counts(**params: Any) -> list[int]:
        return sorted(Counter(row.task for row in kept(folder, split="all", **params)).values())

    assert counts(limit=3) == [1, 1, 1]
    assert counts(limit=10) == [2, 2, 3, 3]
    assert counts(limit=99) == [8, 8, 8, 8]
    assert counts(limit=10, instances_per_task=2) == [2, 2, 2, 2]
    four = {row.row for row in kept(folder, split="all", limit=4)}
    assert four == {row.row for row in kept(folder, split="all", instances_per_task=1)}
    Path(folder, "b.json").write_text(json.dumps(version_2(Instances=["x"])), "utf-8")
    assert counts(limit=9) == [3, 3, 3]
    assert [reason for _, reason, _ in dropped(folder, split="all", limit=1)] == ["wrong_type"]


def test_the_mix_and_the_wordings_are_drawn_for_each_instance() -> None:
    rows = kept(**shared(split="heldout", instances_per_task=20, encoding="tk_instruct", wordings=10))
    makers = Counter(row.provenance.maker for row in rows)
    assert set(makers) == {f"template:natural_instructions/{encoding.name}" for encoding in TK_INSTRUCT}
    assert min(makers.values()) > 0.15 * len(rows)
    wordings = Counter(row.tags["template"] for row in rows)
    assert set(wordings) == {wording.name for wording in WORDINGS}
    assert min(wordings.values()) > 0.06 * len(rows)
    again = kept(**shared(split="heldout", tasks=["task050"], encoding="tk_instruct", wordings=10))
    assert {row.row: row.id for row in rows if row.task == "task050"}.items() <= {r.row: r.id for r in again}.items()


def test_every_accepted_output_is_a_target_and_one_is_drawn_to_be_trained_on() -> None:
    path = published() / "original/subset/task1728_web_nlg_data_to_text.json.gz"
    rows = kept(str(path), split="all")
    assert len(rows) == 1000
    assert all(row.reply in row.targets for row in rows)
    several = [row for row in rows if len(row.targets) > 2]
    places = Counter(row.targets.index(row.reply or "") for row in several)
    assert set(places) >= {0, 1, 2}


def test_the_other_layouts(folder: str) -> None:
    (bare,) = kept(folder, split="all", tasks=["a"], instances_per_task=1, layout="parts", encoding="definition")
    assert [(part.kind, part.text[:5]) for part in bare.messages[0].parts] == [
        ("instruction", "Solve"),
        ("input", bare.messages[0].parts[1].text[:5]),
    ]
    assert (bare.tags["template"], bare.tags["style"]) == ("parts", "zero_shot")
    (old,) = kept(folder, split="all", tasks=["a"], instances_per_task=1, layout="v1", encoding="1 positive")
    assert old.prompt_text.startswith("input: I1\noutput: O1\ninput: a ")


@pytest.mark.promise1
def test_a_budget_leaves_examples_out_and_drops_what_does_not_fit_at_all(tmp_path: Path, tiny_decoder: Path) -> None:
    listed = [instance(0, input="short"), instance(1, input="x" * 60), instance(2, input="x" * 400)]
    path = str(write(tmp_path / "task.json", version_2(Instances=listed)))
    params: dict[str, Any] = {"split": "all", "tokenizer": str(tiny_decoder), "encoding": "definition+3 positive"}
    rows = kept(path, **params, max_tokens=235)  # the tiny model's tokens are bytes
    assert [(row.provenance.row, row.tags["demonstrations"]) for row in rows] == [(0, "3"), (1, "1")]
    assert dropped(path, **params, max_tokens=235) == [(f"{path}#2", "over_budget", "too long without any example")]
    assert len(kept(path, **params)) == 3  # 1,024, as in Tk-Instruct
    drawn = list(built(path, **params, max_tokens=235, instances_per_task=2))
    assert sum(isinstance(row, Example) for row in drawn) == 2  # a dropped one is drawn for again


@pytest.mark.promise1
@pytest.mark.promise10
def test_faults_cost_a_row_and_are_told_with_file_and_id(folder: str, tmp_path: Path) -> None:
    bad = [instance(0), instance(1, output=[]), instance(0), "x", instance(2, input="\ud800"), instance(3)]
    Path(folder, "b.json").write_text(json.dumps(version_2(Instances=bad)), "utf-8")
    Path(folder, "e.json").write_text('{"Definition": "Do it.",\n"Instances": [', "utf-8")
    write(Path(folder, "f.json"), version_2(Instances=[]))
    write(Path(folder, "g.json"), {"Definition": "Do it."} | {"Instances": [instance(0)], "Categories": ["R"]})
    write(Path(folder, "a.json.gz.json"), version_2())
    with new_folder(tmp_path / "out") as beside:
        tally = write_stream(beside, built(folder, split="all"))
        rows, lost = read_rows(beside), read_dropped(beside)
    assert (tally.seen, tally.kept) == (len(rows) + len(lost), len(rows))
    assert [(e.row.removeprefix(folder), e.tags.get("id"), v.reason) for e, v in lost] == [
        ("/b.json#1", "task-1", "no_output"),
        ("/b.json#2", "task-0", "duplicate_id"),
        ("/b.json#3", None, "wrong_type"),
        ("/b.json#4", "task-2", "unusable_text"),
        ("/e.json#0", None, "unreadable_task"),
        ("/f.json#0", None, "unreadable_task"),
    ]
    assert lost[4][1].detail == f"{folder}/e.json:2: not valid JSON at column 15: Expecting value"
    assert lost[5][1].detail == f"{folder}/f.json: no instances"
    assert {v.by for _, v in lost} == {"natural_instructions"}
    assert len({row.row for row in rows} | {e.row for e, _ in lost}) == tally.seen
    assert [v.reason for e, v in lost if e.task == "b"] == [reason for _, reason, _ in dropped(f"{folder}/b.json")]


@pytest.mark.promise10
def test_a_second_file_of_a_task_and_an_encoding_that_shows_nothing_are_told(folder: str, tmp_path: Path) -> None:
    twin = write(tmp_path / "a.json", version_2())
    assert dropped([f"{folder}/a.json", str(twin)], split="all") == [
        (f"{twin}#0", "duplicate_task", "a second file of the task 'a'")
    ]
    both = [f"{folder}/a.json", str(write(tmp_path / "v.json", VERSION_1))]
    lost = dropped(both, split="all", encoding="prompt", instances_per_task=2)
    assert len(lost) == 8
    assert {(reason, detail) for _, reason, detail in lost} == {
        ("no_instruction", "the file has nothing of the encoding 'prompt'")
    }


@pytest.mark.promise10
def test_nothing_to_read_at_all_is_an_error(folder: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.json or \.json\.gz files"):
        kept(str(tmp_path))
    with pytest.raises(DataError, match=r"a\.jsn: no such file or folder\n  do this: did you mean 'a\.json'\?"):
        kept([f"{folder}/a.jsn"])
    with pytest.raises(DataError, match=r"a\.json: this file is given twice"):
        kept([f"{folder}/a.json", f"{folder}/b.json", f"{folder}/a.json"])
    with pytest.raises(DataError, match="an empty list of files"):
        kept([])
    with pytest.raises(DataError, match=r"no row is left of 2 task files \(no task is on that side\)"):
        kept([f"{folder}/a.json", f"{folder}/b.json"], split="heldout")
    Path(folder, "a.json").write_text("{", "utf-8")
    with pytest.raises(
        DataError, match=r"\(unreadable_task 1\); the first: .*/a\.json#0: .*/a\.json:1: not valid JSON"
    ):
        kept([f"{folder}/a.json"], split="all")
    write(Path(folder, "b.json"), version_2(Instances=[]))
    with pytest.raises(DataError, match=r"\(unreadable_task 2\); the first: .*/b\.json#0: .*/b\.json: no instances"):
        kept([f"{folder}/b.json", f"{folder}/a.json"], split="all")


@pytest.mark.promise10
def test_options_without_effect_and_unknown_names_are_told_together(folder: str) -> None:
    options = {"split": "all", "heldout_categories": ["Riddles"], "layout": "parts", "wordings": 3, "max_tokens": 9}
    with pytest.raises(ConfigError) as caught:
        bind("build", "natural_instructions", {"path": folder, **options})
    assert [problem.where for problem in caught.value.problems] == ["heldout_categories", "wordings", "max_tokens"]
    with pytest.raises(ConfigError) as caught:
        kept(folder, heldout_categories=["Riddels"], tasks=["e", "a"])
    assert [(p.what, p.fix) for p in caught.value.problems] == [
        ("no task is of the category 'Riddels'", "did you mean 'Riddles'?"),
        ("no task is named 'e'", "use one of: a, b, c, d"),
    ]
    with pytest.raises(ConfigError, match="the task 'd' is on the other side of the split"):
        kept(folder, tasks=["d"])
    with pytest.raises(ConfigError, match=r"no part 'definitoin'; did you mean 'definition'\?"):
        bind("build", "natural_instructions", {"path": folder, "encoding": "definitoin"})
    with pytest.raises(ConfigError, match="wordings"):
        bind("build", "natural_instructions", {"path": folder, "wordings": 11})


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("task,category\na,b\n", "no task, category or source here, only task, category"),
        ("task,category,source\na,b,c\na,b,d\n", "a second row for the task 'a'"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_with_its_line(folder: str, tmp_path: Path, text: str, what: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text, "utf-8")
    with pytest.raises(DataError, match=rf"table\.csv:\d: {what}"):
        kept(folder, table=str(table))


def test_the_key_follows_every_file_and_the_table(folder: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("task,category,source\na,Riddles,x\n", "utf-8")

    def key() -> Any:
        return bind("build", "natural_instructions", {"path": folder, "table": str(table)}).identity()["content"]

    first = key()
    assert len(first) == 5
    assert first == key()
    write(Path(folder, "b.json"), version_2())
    second = key()
    table.write_text("task,category,source\na,Riddles,z\n", "utf-8")
    assert first != second != key()
    missing = bind("build", "natural_instructions", {"path": str(tmp_path / "none")}).identity()["content"]
    assert missing == []


def test_rows_come_before_the_next_file_is_read(folder: str) -> None:
    rows = built(folder, split="all")
    assert isinstance(next(rows), Example)
    Path(folder, "b.json").write_text("{", "utf-8")
    assert [row[1].reason for row in rows if not isinstance(row, Example)] == ["unreadable_task"]


_MEASURE = """
import re, sys
from pathlib import Path
from shinan.build.natural_instructions import natural_instructions

def peak():  # ru_maxrss would count the parent's memory too, from before exec
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000

before = peak()
rows = natural_instructions(0, path=sys.argv[1:], split="all", encoding="definition")
kept = sum(not isinstance(row, tuple) for row in rows)
print(kept, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.promise10
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_a_line_of_100_mb_needs_a_few_times_its_size(tmp_path: Path) -> None:
    """One file with ordinary instances, one whose single input fills it: the first is read, the second is a fault."""
    many = version_2(Instances=[instance(n, input="猫 " * 500 + "x" * 8500) for n in range(10_000)])
    one = version_2(Instances=[instance(0, input="x" * 100_000_000)])
    files = [write(tmp_path / "many.json", many), write(tmp_path / "one.json", one)]
    assert all(100e6 <= file.stat().st_size < 110e6 for file in files)
    command = [sys.executable, "-c", _MEASURE, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, megabytes = done.stdout.split()
    print(f"{megabytes} MB above the start")
    assert int(rows) == 10_000
    assert 100 < float(megabytes) < 700
