"""The builder `flan`: real annotated files, rows that cannot be used, and mappings that do not fit."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from shinan.build.flan import flan
from shinan.core.dataset import Judged, new_folder, read_dropped, read_rows, write_stream
from shinan.core.errors import ConfigError, DataError
from shinan.core.example import Example
from shinan.core.registry import bind
from shinan.core.verdict import Verdict
from shinan.formats.annotated import set_path
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer
from tests.build.flan_data import published, write

NLI: dict[str, Any] = {
    "shape": "nli",
    "fields": {"premise": "p", "hypothesis": "h", "label": "l"},
    "dataset": "tiny",
    "licence": "MIT",
}


def row(n: int, **more: Any) -> dict[str, Any]:
    return {"p": f"Premise {n}.", "h": f"Hypothesis {n}.", "l": n % 3} | more


def built(path: str, seed: int = 3, **more: Any) -> list[Judged]:
    return list(flan(seed, rows=path, **(NLI | more)))


def kept(rows: list[Judged]) -> list[Example]:
    return [row for row in rows if isinstance(row, Example)]


def dropped(rows: list[Judged]) -> list[tuple[Example, Verdict]]:
    return [row for row in rows if not isinstance(row, Example)]


def test_a_row_says_where_it_comes_from_and_how_it_was_made(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row(n) for n in range(20)])
    rows = built(path, submixture="flan2021", language="en")
    assert len(rows) == len(kept(rows)) == 20
    for number, example in enumerate(kept(rows)):
        assert example.row == f"{path}#{number}"
        assert example.task == example.tags["dataset"] == "tiny"
        assert example.provenance.licence == "MIT"
        assert example.provenance.maker == f"template:nli/{example.tags['template']}"
        expected = {"category": "nli", "language": "en", "prompt_language": "en", "submixture": "flan2021"}
        assert example.tags.items() >= expected.items()
        if example.tags["inverted"] == "false":
            assert f"Premise {number}." in example.prompt_text
    assert kept(built(path, dataset=""))[0].task == "rows"
    assert "submixture" not in kept(built(path))[0].tags


@pytest.mark.promise1
@pytest.mark.promise10
def test_rows_that_cannot_be_used_are_dropped_with_file_line_and_reason(tmp_path: Path) -> None:
    rows: list[Any] = [row(n) for n in range(10)]
    rows[1] = "cut"
    rows[2] = {"p": "A", "h": "B"}
    rows[3] = row(3, l="entailed")
    rows[4] = row(4, p=" ")
    rows[5] = row(0)
    rows[6] = row(6, p=["A"])
    rows[7] = '["p", "h", "l"]'
    rows[8] = row(8, h="a ||| b")  # only a template that asks for the hypothesis itself cannot say it
    path = write(tmp_path / "rows.jsonl", rows)
    made = built(path, styles={"zero_shot": 1.0}, invert=0.0)
    assert [example.provenance.row for example in kept(made)] == [0, 8, 9]
    assert [
        (example.provenance.row, verdict.reason, verdict.detail.removeprefix(str(tmp_path) + "/"))
        for example, verdict in dropped(made)
    ] == [
        (1, "unreadable", "rows.jsonl:2: not valid JSON at column 1: Expecting value"),
        (2, "missing_field", "rows.jsonl:3: label is read from 'l', and there is no 'l' among 'p', 'h'"),
        (3, "unknown_label", "rows.jsonl:4: the label 'entailed' is none of the labels"),
        (4, "empty_field", "rows.jsonl:5: premise is empty"),
        (5, "duplicate_row", "rows.jsonl:6: the same as an earlier row"),
        (6, "wrong_type", "rows.jsonl:7: premise is a list, not text"),
        (7, "unreadable", "rows.jsonl:8: a row is an object with named fields, not a list"),
    ]
    assert {verdict.by for _, verdict in dropped(made)} == {"flan"}
    inverted = built(path, styles={"zero_shot": 1.0}, invert=1e9)
    faults = {e.provenance.row: v for e, v in dropped(inverted) if v.reason == "template"}
    if 8 in faults:  # seed 3 asks for the hypothesis
        assert faults[8].detail.startswith(f"{path}:9: template 'write_hypothesis': output cannot be split")


@pytest.mark.promise10
def test_huge_rows_and_broken_bytes_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row(n)).encode() for n in range(8)]
    lines[2] = json.dumps(row(2, p="x" * 200_000)).encode()
    lines[4] = lines[4].replace(b"Premise", b"Pr\xe9mise")
    lines[6] = json.dumps(row(6, h="\ud800")).encode()
    path.write_bytes(b"\n".join(lines))
    made = built(str(path), invert=0.0)
    assert {e.provenance.row: v.reason for e, v in dropped(made)} == {2: "template", 4: "unreadable", 6: "unreadable"}
    assert "is longer than 100000 characters" in next(v.detail for _, v in dropped(made) if v.reason == "template")
    assert len(kept(made)) == 5


@pytest.mark.promise1
def test_kept_and_dropped_are_written_and_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ["{", *(row(n) for n in range(30)), row(3)])
    with new_folder(tmp_path / "out") as folder:
        tally = write_stream(folder, built(path))
    assert (tally.seen, tally.kept) == (32, 30)
    assert tally.dropped == {"unreadable": 1, "duplicate_row": 1}
    assert read_rows(tmp_path / "out") == kept(built(path))
    assert [verdict for _, verdict in read_dropped(tmp_path / "out")] == [v for _, v in dropped(built(path))]


def test_repeated_ids_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row(0, id="a"), row(1, id="b"), row(2, id="a"), row(3), row(4, id=None)])
    made = built(path, id="id", styles={"zero_shot": 1.0})
    assert [(e.provenance.row, v.reason, v.detail) for e, v in dropped(made)] == [
        (2, "duplicate_id", f"{path}:3: an earlier row has the id 'a' too"),
        (3, "missing_field", f"{path}:4: id is read from 'id', and there is no 'id' among 'p', 'h', 'l'"),
    ]


def test_a_few_shot_row_without_room_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row(0), row(1), row(2, p="long " * 100)])
    made = built(path, styles={"few_shot": 1.0}, max_tokens=100, invert=0.0, pool=2)
    assert [(e.provenance.row, v.reason) for e, v in dropped(made)] == [(2, "no_exemplar_fits")]
    assert "fits beside the question in 100 tokens" in dropped(made)[0][1].detail


@pytest.mark.promise10
def test_a_field_that_no_row_has_is_a_mistake_of_the_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"premise": "A", "h": "B", "l": 0}] * 5)
    with pytest.raises(DataError) as caught:
        flan(0, rows=path, **(NLI | {"fields": NLI["fields"] | {"premise": "premisse"}}))
    assert str(caught.value) == (
        f"{path}:1: none of the first 5 rows can be used; the first: "
        "premise is read from 'premisse', and there is no 'premisse' among 'premise', 'h', 'l'\n"
        "  do this: did you mean 'premise'?"
    )
    with pytest.raises(DataError, match=r"none of the first 5 rows can be used; the first: the label 0 is none"):
        flan(
            0,
            rows=path,
            **(NLI | {"fields": {"premise": "premise", "hypothesis": "h", "label": "l"}}),
            labels={"e": "entailment", "n": "neutral"},
        )


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {"fields": {"premis": "p", "hypothesis": "h", "label": "l"}, "prompts": "fr", "cot": 0.5},
            [
                "prompts: the shape nli has no templates in 'fr' -> "
                "use one of: en, ja; say with `prompts` in which language to ask",
                "fields premis: the shape nli has no field 'premis' -> did you mean 'premise'?",
                "fields: the shape nli needs the field 'premise' -> name its column: what is taken as given",
            ],
        ),
        (
            {"cot": 0.5},
            ["cot: there is no rationale to ask for -> map the field 'rationale'"],
        ),
        (
            {"shape": "summarisation", "fields": {"document": "p", "summary": "h"}, "cot": 1.0, "labels": ["a"]},
            [
                "cot: the shape summarisation has no chain of thought -> take `cot` out",
                "labels: the shape summarisation has no labels -> take `labels` out",
            ],
        ),
        (
            {
                "shape": "summarisation",
                "fields": {"document": "p", "summary": "h"},
                "styles": {"few_shot_options": 0.0},
            },
            [
                "styles few_shot_options: the shape summarisation has no options to show -> "
                "use `zero_shot` and `few_shot`",
                "styles: no style has a weight above 0 -> "
                "name some of: zero_shot_options, zero_shot, few_shot_options, few_shot",
            ],
        ),
        (
            {
                "styles": {"zero_shot": 1.0},
                "shots": [2],
                "tokenizer": "tiny:decoder",
                "kind": "jsonl",
                "rows": "hub:a/b",
            },
            [
                "shots: no effect without a few-shot style -> remove it, or give `few_shot` a weight",
                "tokenizer: no effect without a few-shot style -> remove it, or give `few_shot` a weight",
                "kind: no effect on a hub dataset -> remove it",
            ],
        ),
    ],
)
def test_what_does_not_fit_the_shape_is_told_at_once_before_anything_runs(
    more: dict[str, Any], told: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        bind("build", "flan", NLI | {"rows": "rows.jsonl"} | more)
    assert [f"{p.where}: {p.what} -> {p.fix}" for p in caught.value.problems] == told


@pytest.mark.promise10
def test_a_recipe_gets_a_sentence_for_what_it_mistypes() -> None:
    with pytest.raises(ConfigError) as caught:
        bind("build", "flan", {"shape": "nli", "row": "x", "styles": {"zeroshot": 1.0}, "cot": 2.0}, where="r.yaml:4")
    told = str(caught.value)
    for part in ("'rows' is missing", "unknown key 'row'", "did you mean 'rows'?", "r.yaml:4 cot", "styles.zeroshot"):
        assert part in told, told


@pytest.mark.promise10
def test_an_unknown_shape_or_file_gets_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row(0)])
    with pytest.raises(ConfigError, match=r"^shape: no shape is named 'nil'\n  do this: did you mean 'nli'\?$"):
        bind("build", "flan", NLI | {"rows": path, "shape": "nil"})
    with pytest.raises(DataError, match=r"no such file\n  do this: did you mean 'rows.jsonl'\?"):
        flan(0, rows=path.replace("rows", "row"), **NLI)


@pytest.mark.promise10
def test_faults_of_a_set_of_the_users_own_are_told_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = Path(set_path("nli")).read_text("utf-8")
    path.write_text(
        text.replace("{{ premise }}", "{{ premiss }}", 1).replace("answer: label", "answer: lable"), "utf-8"
    )
    with pytest.raises(
        ConfigError, match=r"^r\.yaml:3 shape .*mine\.yaml:\d+: answer: 'answer' names no field: 'lable'"
    ):
        bind("build", "flan", NLI | {"rows": "rows.jsonl", "shape": str(path)}, where="r.yaml:3")
    with pytest.raises(ConfigError, match=r"shape .*mien\.yaml: no such file\n  do this: did you mean 'mine\.yaml'"):
        bind("build", "flan", NLI | {"rows": "rows.jsonl", "shape": str(tmp_path / "mien.yaml")})


# ---- order, growth, memory ----


@pytest.mark.promise3
def test_the_same_seed_gives_the_same_rows_and_another_gives_others(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row(n) for n in range(60)])
    assert built(path, 1) == built(path, 1)
    same = sum(one == other for one, other in zip(built(path, 1), built(path, 2), strict=True))
    assert same < 20


def test_rows_added_at_the_end_change_none_before_once_the_pool_is_full(tmp_path: Path) -> None:
    short = write(tmp_path / "a.jsonl", [row(n) for n in range(50)])
    long = write(tmp_path / "b.jsonl", [row(n) for n in range(90)])
    made = [[(e.id, e.tags) for e in kept(built(path, pool=50))] for path in (short, long)]
    assert made[1][:50] == made[0]
    # with a larger pool only what demonstrations show is another
    forms = [[(e.reply, e.tags["template"], e.tags["style"]) for e in kept(built(path))] for path in (short, long)]
    assert forms[1][:50] == forms[0]


def test_demonstrations_come_from_the_pool_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row(n) for n in range(60)])
    made = kept(built(path, pool=7, styles={"few_shot": 1.0}))
    assert {int(n) for e in made for n in e.tags["exemplars"].split()} == set(range(7))
    assert not any(str(e.provenance.row) in e.tags["exemplars"].split() for e in made)


def test_a_limit_takes_the_first_rows_and_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*(row(n) for n in range(30)), "{"])
    assert [e.provenance.row for e in kept(built(path, limit=30))] == list(range(30))


def test_rows_are_made_as_they_are_asked_for(tmp_path: Path) -> None:
    """The memory that 20,000 rows take beyond 2,000 is what tells them apart, not the rows."""

    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as stream:
            stream.writelines(json.dumps(row(n, p=f"{n} " + "x" * 2000)) + "\n" for n in range(count))
        made: Iterator[Judged] = iter(flan(0, rows=str(path), **NLI, pool=50, styles={"zero_shot": 1.0}))
        list(islice(made, 100))
        tracemalloc.start()
        assert sum(isinstance(example, Example) for example in made) == count - 100
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(4000) - peak(1000) < 3000 * 200  # bytes; the rows themselves are 2,000 each


# ---- real files and tokens ----


def test_the_tokens_of_a_model_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row(n) for n in range(40)])
    encode = Tokenizer.load(resolve("tiny:decoder")).encode
    budget = 250
    made = built(path, tokenizer="tiny:decoder", styles={"few_shot": 1.0}, max_tokens=budget)
    assert {verdict.reason for _, verdict in dropped(made)} <= {"no_exemplar_fits"}
    lengths = [len(encode(e.prompt_text)) for e in kept(made)]
    assert len(lengths) > 20
    assert budget - 100 < max(lengths) <= budget
    assert len({len(e.tags["exemplars"].split()) for e in kept(made)}) > 1


JAPANESE = {"language": "ja", "prompts": "ja", "licence": "CC-BY-SA-4.0"}


def test_jnli_is_asked_in_japanese_with_japanese_label_words() -> None:
    rows = list(
        flan(
            0,
            shape="nli",
            rows=published("jglue/jnli-valid-v1.3.json.gz"),
            kind="jsonl",
            fields={"premise": "sentence1", "hypothesis": "sentence2", "label": "label"},
            styles={"zero_shot": 1.0},
            invert=0.0,
            limit=400,
            **JAPANESE,  # type: ignore[arg-type]
        )
    )
    assert len(kept(rows)) + len(dropped(rows)) == 400
    assert Counter(verdict.reason for _, verdict in dropped(rows)) == {"duplicate_row": 1}
    neutral = {"どちらともいえない", "中立", "判断できない", "不明"}
    answers = Counter(str(example.reply) for example in kept(rows))
    assert set(answers) == neutral | {"はい", "いいえ", "含意", "矛盾", "正しい", "誤り", "正", "誤"}
    first = kept(rows)[0]  # 時計がついている場所に… / 屋根の上に…: neutral
    assert first.reply in neutral


def test_the_other_arm_asks_japanese_rows_in_english() -> None:
    path = published("jglue/jcommonsenseqa-valid-v1.3.json.gz")
    fields: dict[str, Any] = {
        "question": "question",
        "choices": [f"choice{n}" for n in range(5)],
        "answer": "label",
    }
    arms = {}
    for prompts in ("en", "ja"):
        made = flan(
            1,
            shape="multiple_choice",
            rows=path,
            kind="jsonl",
            fields=fields,
            language="ja",
            prompts=prompts,
            invert=0.0,
            styles={"zero_shot": 1.0},
            limit=50,
        )
        arms[prompts] = kept(list(made))
    for english, japanese in zip(arms["en"], arms["ja"], strict=True):
        assert english.reply == japanese.reply
        assert english.choices == japanese.choices
        assert (english.tags["language"], english.tags["prompt_language"]) == ("ja", "en")
        assert japanese.tags["prompt_language"] == "ja"
    assert arms["ja"][2].choices == ("腰を下す", "座る", "仮眠を取る", "寝る", "起きる")
    assert arms["ja"][2].reply == "腰を下す"


def test_nested_files_are_read_question_by_question() -> None:
    path = published("xquad/xquad.es.json.gz")
    made = list(
        flan(
            0,
            shape="extractive_qa",
            rows=path,
            records="paragraphs.qas",
            fields={"context": "context", "question": "question", "answers": "answers.text"},
            id="id",
            language="es",
            prompts="en",
            invert=0.0,
        )
    )
    assert len(made) == 1190
    for example in kept(made):
        assert str(example.reply) in example.prompt_text  # the answer stands in the passage
        assert "\ufeff" not in example.prompt_text


def test_gsm8k_asks_for_the_steps() -> None:
    made = kept(
        list(
            flan(
                0,
                shape="maths",
                rows=published("gsm8k/train.jsonl.gz"),
                fields={
                    "question": "question",
                    "rationale": "{{ answer.split('####')[0] }}",
                    "answer": "{{ answer.split('####')[1] }}",
                },
                submixture="cot",
                limit=200,
            )
        )
    )
    straight = [example for example in made if example.tags["inverted"] == "false"]
    assert {example.tags["reasoned"] for example in straight} == {"true"}
    first = next(example for example in straight if example.provenance.row < 2)
    assert str(first.reply).count("<<") == 0
