"""Row shapes: each way, round trips, and a sentence for whatever does not fit."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.workloads import data_folder
from shinan import formats
from shinan.core.errors import ConfigError, DataError, RunError, ShinanError
from shinan.core.example import Example, Message, Part, PartKind, Provenance, Role, assistant, system, user
from shinan.formats import SHAPES, detect

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def error_of(shape: str, row: formats.rows.Row) -> DataError:
    with pytest.raises(DataError) as caught:
        SHAPES[shape].to_example(row, "f:7")
    assert caught.value.where == "f:7"
    return caught.value


def refusal(shape: str, example: Example) -> str:
    with pytest.raises(DataError) as caught:
        SHAPES[shape].from_example(example)
    assert caught.value.where == example.row
    return caught.value.what


# ---- one row of each shape, as the formats' own documentation writes them ----

COLOUR = (user("What color is the sky?"),)
BLUE, GREEN = assistant("It is blue."), assistant("It is green.")
ASK = {"role": "user", "content": "What color is the sky?"}
SAY_BLUE = {"role": "assistant", "content": "It is blue."}
SAY_GREEN = {"role": "assistant", "content": "It is green."}
PAIR = Example((*COLOUR, BLUE), rejected=(GREEN,))
ASKED = Message("user", (Part("Add.", "instruction"), Part("1 + 1", "input")))

GOOD = {
    "alpaca": (
        "alpaca",
        {"instruction": "Add.", "input": "1 + 1", "output": "2"},
        Example((ASKED, assistant("2"))),
    ),
    "alpaca with a system turn, without input": (
        "alpaca",
        {"instruction": "Add.", "input": "", "output": "2", "system": "Be brief.", "text": "Below is an instruction"},
        Example((system("Be brief."), Message("user", (Part("Add.", "instruction"),)), assistant("2"))),
    ),
    "alpaca as Parquet and CSV fill it": (
        "alpaca",
        {"instruction": "Add.", "input": None, "output": "2", "system": "", "history": None},
        Example((Message("user", (Part("Add.", "instruction"),)), assistant("2"))),
    ),
    "openai": ("openai", {"messages": [ASK, SAY_BLUE]}, Example((*COLOUR, BLUE))),
    "openai prompt": ("openai", {"messages": [ASK]}, Example(COLOUR)),
    "openai text parts": (
        "openai",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("What color ", "is it?")]}]},
        Example((user("What color is it?"),)),
    ),
    "openai weights": (
        "openai",
        {"messages": [ASK, SAY_GREEN | {"weight": 0}, ASK, SAY_BLUE | {"weight": 1, "tool_calls": None}]},
        Example((*COLOUR, assistant("It is green.", train=False), *COLOUR, assistant("It is blue.", train=True))),
    ),
    "sharegpt": (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "What color is the sky?"},
                {"from": "gpt", "value": "It is blue."},
            ]
        },
        Example((system("Be brief."), *COLOUR, BLUE)),
    ),
    "preference, texts": (
        "preference",
        {"prompt": "What color is the sky?", "chosen": "It is blue.", "rejected": "It is green."},
        PAIR,
    ),
    "preference, lists": ("preference", {"prompt": [ASK], "chosen": [SAY_BLUE], "rejected": [SAY_GREEN]}, PAIR),
    "preference, implicit prompt": ("preference", {"chosen": [ASK, SAY_BLUE], "rejected": [ASK, SAY_GREEN]}, PAIR),
    "preference, prompt said twice": (
        "preference",
        {"prompt": ASK["content"], "chosen": [ASK, SAY_BLUE], "rejected": [ASK, SAY_GREEN]},
        PAIR,
    ),
    "preference, longer prompt": (
        "preference",
        {"chosen": [ASK, SAY_BLUE, ASK, SAY_BLUE], "rejected": [ASK, SAY_BLUE, ASK, SAY_GREEN]},
        Example((*COLOUR, BLUE, *COLOUR, BLUE), rejected=(GREEN,)),
    ),
    "completion": (
        "completion",
        {"prompt": "What color is the sky?", "completion": "It is blue."},
        Example((*COLOUR, BLUE)),
    ),
    "seed task": (
        "seed_task",
        {"id": "seed_task_1", "name": "add", "instruction": "Add.", "instances": [{"input": "1 + 1", "output": "2"}]},
        Example((ASKED, assistant("2"))),
    ),
    "seed task of classification": (
        "seed_task",
        {"instruction": "Add.", "instances": [{"input": "1 + 1", "output": "2"}], "is_classification": True},
        Example((ASKED, assistant("2")), tags={"classification": "yes"}),
    ),
    "text": ("text", {"text": "Once upon a time."}, Example((assistant("Once upon a time."),))),
    "rows that are written out as a text beside": (
        "completion",
        {"prompt": "What color is the sky?", "completion": "It is blue.", "text": "Q: What color is the sky? A: …"},
        Example((*COLOUR, BLUE)),
    ),
}


@pytest.mark.parametrize(("shape", "row", "example"), GOOD.values(), ids=GOOD)
def test_a_row_becomes_its_example(shape: str, row: dict[str, Any], example: Example) -> None:
    assert SHAPES[shape].to_example(row, "f:1") == example
    assert detect(row) == shape
    back = SHAPES[shape].from_example(example)
    assert SHAPES[shape].to_example(back, "f:1") == example


TURN = "'messages'[0]"
BAD_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("alpaca", {"instruction": "a"}, "a row of shape alpaca has 'instruction', 'output'; this one lacks 'output'"),
    ("alpaca", {"instruction": 3, "output": "b"}, "'instruction' is a number, not text"),
    ("alpaca", {"instruction": "a", "output": None}, "'output' is null, not text"),
    ("alpaca", {"instruction": "a", "input": [], "output": "b"}, "'input' is a list, not text"),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["c", "d"]]},
        "'history' in a row of shape alpaca is not read",
    ),
    (
        "seed_task",
        {"instruction": "a", "instances": [{"output": "b"}, {"output": "c"}]},
        "'instances' has 2 entries, the first with the keys 'output'",
    ),
    ("seed_task", {"instruction": "a", "instances": [{}]}, "'instances' has 1 entries, the first with the keys none"),
    ("seed_task", {"instruction": 3, "instances": [{"output": "b"}]}, "'instruction' is a number, not text"),
    ("openai", {"messages": []}, "'messages' is empty, not a list of messages"),
    ("openai", {"messages": "hi"}, "'messages' is text, not a list of messages"),
    ("openai", {"messages": ["hi"]}, "'messages' is a list of other things, not a list of messages"),
    ("openai", {"messages": [{"role": "usr", "content": "a"}]}, f"{TURN} has the role 'usr'"),
    ("openai", {"messages": [{"role": [], "content": "a"}]}, f"{TURN} has the role []"),
    ("openai", {"messages": [{"role": "user"}]}, f"{TURN}'s content is null, not text"),
    (
        "openai",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        f"{TURN}'s content has a part of type 'image_url'",
    ),
    ("openai", {"messages": [{"role": "user", "content": ["a"]}]}, f"{TURN}'s content has a part of type text"),
    ("openai", {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, f"{TURN} holds 'tool_calls'"),
    ("openai", {"messages": [{"role": "user", "content": "a", "weight": 1}]}, f"{TURN} has the weight 1"),
    ("openai", {"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}, f"{TURN} has the weight 0.5"),
    ("openai", {"messages": [ASK], "tools": [{}]}, "'tools' in a row of shape openai is not read"),
    ("sharegpt", {"conversations": [{"from": "humen", "value": "a"}]}, "'conversations'[0] is from 'humen'"),
    ("sharegpt", {"conversations": [{"from": {}, "value": "a"}]}, "'conversations'[0] is from {}"),
    ("sharegpt", {"conversations": [{"from": "gpt"}]}, "'conversations'[0]'s value is null, not text"),
    (
        "sharegpt",
        {"conversations": [{"from": "gpt", "value": "a"}], "system": "b"},
        "'system' in a row of shape sharegpt is not read",
    ),
    ("preference", {"chosen": "a", "rejected": "b"}, "'chosen' is text, but there is no 'prompt'"),
    ("preference", {"prompt": "p", "chosen": "a", "rejected": "a"}, "'chosen' and 'rejected' are the same"),
    ("preference", {"prompt": [], "chosen": "a", "rejected": "b"}, "'prompt' is empty, not a list of messages"),
    (
        "preference",
        {"prompt": "p", "chosen": [ASK, SAY_BLUE], "rejected": [ASK, SAY_GREEN]},
        "'prompt' is not part of the conversation in 'chosen'",
    ),
    ("completion", {"prompt": [ASK], "completion": "b"}, "'prompt' is a list, not text"),
]


@pytest.mark.promise10
@pytest.mark.parametrize(("shape", "row", "what"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_row_that_does_not_fit_gets_a_sentence(shape: str, row: dict[str, Any], what: str) -> None:
    assert error_of(shape, row).what == what


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ([SAY_BLUE], [SAY_GREEN]),  # no prompt
        ([ASK, SAY_BLUE, ASK, SAY_BLUE], [ASK, SAY_GREEN, ASK, SAY_GREEN]),  # they differ before the last reply
        ([ASK, SAY_BLUE], [ASK]),  # one side has no reply
    ],
)
def test_a_pair_is_one_prompt_and_two_replies(chosen: list[Any], rejected: list[Any]) -> None:
    assert error_of("preference", {"chosen": chosen, "rejected": rejected}).what == (
        "'chosen' and 'rejected' must be one prompt with two different replies of one assistant turn each"
    )


@pytest.mark.promise10
def test_mistyped_names_get_the_nearest_one() -> None:
    assert error_of("openai", {"messages": [{"role": "usr", "content": "a"}]}).fix == "did you mean 'user'?"
    assert error_of("sharegpt", {"conversations": [{"from": "humen"}]}).fix == "did you mean 'human'?"


def test_detect_names_the_keys_when_it_cannot_tell() -> None:
    with pytest.raises(DataError) as unknown:
        detect({"question": "a", "answer": "b"}, "f:1")
    assert str(unknown.value) == (
        "f:1: the row's keys fit no shape (keys: 'question', 'answer')\n"
        "  do this: rename the fields, or use a template. Shapes and keys: alpaca: instruction, output; "
        "openai: messages; sharegpt: conversations; preference: chosen, rejected; completion: prompt, completion; "
        "seed_task: instruction, instances; text: text"
    )
    with pytest.raises(DataError, match=r"fit openai and preference .*\n  do this: say which with `shape`"):
        detect({"messages": [], "chosen": [], "rejected": []})
    with pytest.raises(DataError, match=r"\(keys: none\)"):
        detect({})


# ---- examples that a shape cannot hold ----


@pytest.mark.promise1
def test_no_shape_loses_content_in_silence() -> None:
    two_turns = Example((*COLOUR, BLUE, *COLOUR, BLUE))
    assert refusal("alpaca", two_turns) == (
        "the shape alpaca holds one user turn and one reply, after at most one system turn"
    )
    assert refusal("completion", two_turns) == "the shape completion holds one user turn and one reply"
    assert refusal("alpaca", Example((system(""), *COLOUR, BLUE))) == (
        "the shape alpaca cannot hold an empty system turn"
    )
    assert refusal("openai", PAIR) == "the shape openai cannot hold rejected replies"
    assert refusal("preference", two_turns) == "the shape preference holds a prompt, one reply and one rejected reply"
    assert refusal("preference", Example((BLUE,), rejected=(GREEN,))).endswith(
        "holds a prompt, one reply and one rejected reply"
    )
    assert refusal("preference", replace(PAIR, rejected=(BLUE,))) == "the shape preference holds two different replies"
    assert refusal("openai", Example(())) == refusal("sharegpt", Example(())).replace("sharegpt", "openai")
    assert refusal("openai", Example((Message("user", (), train=True),))) == (
        "the shape openai cannot say that a user turn is trained"
    )
    untrained = Example((*COLOUR, assistant("a", train=False)))
    for shape in ("alpaca", "sharegpt", "completion"):
        assert refusal(shape, untrained) == f"the shape {shape} cannot hold turn weights"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"targets": ("a",)}, "targets"),
        ({"choices": ("a", "b")}, "choices"),
        ({"ranked": ("a", "b")}, "ranked replies"),
        ({"thumb": False}, "a thumb"),
        ({"weight": 2.0}, "a row weight"),
    ],
)
def test_no_shape_holds_evaluation_fields(shape: str, change: dict[str, Any], name: str) -> None:
    example = PAIR if shape == "preference" else Example((*COLOUR, BLUE))
    assert refusal(shape, replace(example, **change)) == f"the shape {shape} cannot hold {name}"


# ---- round trips ----

roles = st.sampled_from(get_args(Role))
plain = st.builds(lambda role, text: Message(role, (Part(text),)), roles, texts)
weighted = st.builds(assistant, texts, st.sampled_from([None, True, False]))
parts = st.lists(st.builds(Part, texts, st.sampled_from(get_args(PartKind))), max_size=4).map(tuple)
anything = st.builds(
    Example,
    st.lists(st.builds(Message, roles, parts, st.sampled_from([None, True, False])), max_size=4).map(tuple),
    rejected=st.lists(plain, max_size=2).map(tuple),
)


@settings(max_examples=50)
@given(st.lists(plain | weighted, min_size=1, max_size=5))
def test_openai_round_trip(messages: list[Message]) -> None:
    example = Example(tuple(messages))
    assert SHAPES["openai"].to_example(SHAPES["openai"].from_example(example), "f:1") == example


@settings(max_examples=50)
@given(st.lists(plain, min_size=1, max_size=5))
def test_sharegpt_round_trip(messages: list[Message]) -> None:
    example = Example(tuple(messages))
    assert SHAPES["sharegpt"].to_example(SHAPES["sharegpt"].from_example(example), "f:1") == example


@settings(max_examples=50)
@given(st.lists(plain | weighted, min_size=1, max_size=4), weighted, texts)
def test_preference_round_trip(prompt: list[Message], chosen: Message, rejected: str) -> None:
    example = Example((*prompt, chosen), rejected=(assistant(rejected),))
    if rejected == chosen.text:
        assert refusal("preference", example).endswith("holds two different replies")
    else:
        assert SHAPES["preference"].to_example(SHAPES["preference"].from_example(example), "f:1") == example


@settings(max_examples=50)
@given(st.fixed_dictionaries({"instruction": texts, "input": texts, "output": texts}))
def test_alpaca_round_trip(row: dict[str, str]) -> None:
    example = SHAPES["alpaca"].to_example(row, "f:1")
    assert SHAPES["alpaca"].from_example(example) == row


@settings(max_examples=50)
@given(st.fixed_dictionaries({"prompt": texts, "completion": texts}))
def test_completion_round_trip(row: dict[str, str]) -> None:
    assert SHAPES["completion"].from_example(SHAPES["completion"].to_example(row, "f:1")) == row


@settings(max_examples=60)
@given(st.sampled_from(sorted(SHAPES)), anything)
def test_what_a_shape_writes_reads_back_as_the_same_conversation(shape: str, example: Example) -> None:
    try:
        row = SHAPES[shape].from_example(example)
    except DataError:
        return
    back = SHAPES[shape].to_example(json.loads(json.dumps(row)), "f:1")
    for one, other in ((back.messages, example.messages), (back.rejected, example.rejected)):
        assert [(m.role, m.text, m.trained) for m in one] == [(m.role, m.text, m.trained) for m in other]


def test_the_published_seeds_can_be_read() -> None:
    """175 tasks, 26 of them classification, 50 without input (counted in the file)."""
    try:
        path = data_folder() / "self_instruct" / "seed_tasks.jsonl"
    except RunError as error:
        pytest.skip(str(error))
    rows = formats.read(path)
    assert len(rows) == 175
    assert sum(row.tags["classification"] == "yes" for row in rows) == 26
    assert sum(len(row.messages[0].parts) == 1 for row in rows) == 50


# ---- files ----


def test_read_gives_provenance_and_task(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "p", "completion": "a"}\n\n{"prompt": "q", "completion": "b"}\n', "utf-8")
    first, second = formats.read(path)
    assert first.provenance == Provenance(str(path), 0, "unknown", "unknown")
    assert (second.provenance.row, second.reply, second.task) == (1, "b", "")
    named = formats.read(str(path), "completion", source="mine", licence="CC0-1.0", maker="human", task="qa")
    assert named[1].provenance == Provenance("mine", 1, "CC0-1.0", "human")
    assert named[1].task == "qa"


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("shape", ["openai", "preference"])
def test_nested_shapes_survive_files(tmp_path: Path, ending: str, shape: str) -> None:
    path = tmp_path / f"a{ending}"
    rejected = (GREEN,) if shape == "preference" else ()
    weighted = Example((system("s"), *COLOUR, assistant("x", train=False), *COLOUR, BLUE), rejected=rejected)
    examples = [Example((*COLOUR, BLUE), rejected=rejected), weighted]
    formats.write(examples, path, shape)
    back = formats.read(path)
    assert [(e.messages, e.rejected) for e in back] == [(e.messages, e.rejected) for e in examples]


def test_flat_shapes_survive_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    examples = [Example((ASKED, assistant("2\n"))), Example((system("s"), ASKED, assistant('"x", y')))]
    formats.write(examples, path, "alpaca")
    assert [example.messages for example in formats.read(path)] == [example.messages for example in examples]


@pytest.mark.promise10
def test_read_tells_all_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good, bad = '{"instruction": "a", "output": "b"}', '{"instruction": 1, "output": "b"}'
    path.write_text("\n".join([good, "{broken", bad, *[bad] * 30]), "utf-8")
    with pytest.raises(DataError) as caught:
        formats.read(path)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{path}: 32 problems:"
    assert lines[1].startswith(f"  {path}:2: not valid JSON at column 2: Expecting property name")
    assert lines[2] == f"  {path}:3: 'instruction' is a number, not text (write 'instruction' as text in quotes)"
    assert lines[-2:] == ["  and 12 more", "  do this: correct these rows or take them out"]
    assert len(lines) == 1 + 20 + 2


def test_one_problem_is_told_as_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}\n{"prompt": "a", "completion": "b"}\n', "utf-8")
    with pytest.raises(DataError) as caught:
        formats.read(path)
    assert str(caught.value) == (
        f"{path}:2: a row of shape alpaca has 'instruction', 'output'; this one lacks 'instruction', 'output'\n"
        "  do this: its keys are 'prompt', 'completion'"
    )
    with pytest.raises(DataError, match="no such file"):
        formats.read(tmp_path / "b.jsonl")


def test_an_unknown_shape_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no shape is named 'alpacca'\n  do this: did you mean 'alpaca'\?"):
        formats.read(tmp_path / "a.jsonl", "alpacca")
    with pytest.raises(ConfigError, match="did you mean 'sharegpt'"):
        formats.write([PAIR], tmp_path / "a.jsonl", "share_gpt")


@pytest.mark.promise10
def test_write_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old", "utf-8")
    bad = replace(PAIR, provenance=Provenance("f", 3))
    with pytest.raises(DataError, match=r"a.jsonl: 2 problems:\n  f#3: the shape alpaca cannot hold rejected replies"):
        formats.write([bad, Example((*COLOUR, BLUE)), bad], path, "alpaca")
    with pytest.raises(DataError, match="memory#0: not valid Unicode: half a surrogate pair"):
        formats.write([Example((*COLOUR, assistant("\ud800")))], path, "alpaca")
    with pytest.raises(DataError, match="there are no rows to write"):
        formats.write([], path, "alpaca")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]
    assert path.read_text("utf-8") == "old"


# ---- fuzz ----

words = st.sampled_from(
    ["role", "content", "from", "value", "user", "assistant", "human", "gpt", "system", "weight", "type", "text"]
)
tops = st.sampled_from(
    [*(key for shape in SHAPES.values() for key in (*shape.keys, *shape.variants)), "input", "prompt"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)
turns = st.lists(st.fixed_dictionaries({"role": words, "content": values, "from": words, "value": values}), max_size=3)


@pytest.mark.promise10
@settings(max_examples=50)
@given(st.dictionaries(tops, values | turns, max_size=5))
def test_arbitrary_rows_give_an_example_or_a_sentence(row: dict[str, Any]) -> None:
    for shape in SHAPES.values():
        with suppress(ShinanError):
            assert isinstance(shape.to_example(row, "f:1"), Example)
    with suppress(ShinanError):
        assert detect(row) in SHAPES
