"""Encodings and wordings: Tk-Instruct's and version 1's texts to the character, and what a budget leaves out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.example import join_parts
from shinan.formats.instruction_encoding import (
    PARTS,
    TK_INSTRUCT,
    V1,
    V1_EXPLAINED,
    WORDINGS,
    Encoding,
    Wording,
    encode,
)
from shinan.formats.natural_instructions import Task, read_task
from tests.formats.task_files import VERSION_1, instance, published, version_2, write


@pytest.fixture
def task(tmp_path: Path) -> Task:
    listed = [instance(0, input="  What is it? "), instance(1, input="{n} 日本語。"), instance(2, input="")]
    shown = [{"input": "I1", "output": "O1!", "explanation": "E1"}, {"input": " I2? ", "output": "O2 "}]
    return read_task(write(tmp_path / "task.json", version_2(Instances=listed, **{"Positive Examples": shown})))


@pytest.fixture
def first(tmp_path: Path) -> Task:
    return read_task(write(tmp_path / "first.json", VERSION_1))


def text(task: Task, encoding: str, wording: Wording = WORDINGS[0], row: int = 0) -> str:
    return join_parts(encode(task, task.instances[row], Encoding.parse(encoding), wording).parts)


def test_tk_instructs_text_to_the_character(task: Task) -> None:
    """Written by hand from the rules of its collator: blanks, full stops and line ends are all there."""
    assert text(task, "definition+2 positive+1 negative+explanations") == (
        "Definition: Solve the riddle.\n\n"
        " Positive Example 1 -\nInput: I1.\n Output: O1!\n Explanation: E1.\n\n"
        " Positive Example 2 -\nInput: I2?\n Output: O2.\n\n"
        " Negative Example 1 -\nInput: N1.\n Output: M1.\n Explanation: B1.\n\n"
        "Now complete the following example -\nInput: What is it?\nOutput: "
    )
    assert text(task, "1 positive", row=1) == (
        " Positive Example 1 -\nInput: I1.\n Output: O1!\n\n"
        "Now complete the following example -\nInput: {n} 日本語。.\nOutput: "
    )
    assert text(task, "definition", row=2) == (
        "Definition: Solve the riddle.\n\nNow complete the following example -\nInput: .\nOutput: "
    )


# sha256 over the texts that Tk-Instruct's own collator (yizhongw/Tk-Instruct @ 7c0e400, src/ni_collator.py, run with a
# tokenizer that splits at blanks) writes for every instance in its five encodings; CUT where it cuts a prompt's end.
GOLDEN = {
    ("task062_bigbench_repeat_copy_logic", 1024): "f9427583094d0b6e73ed9fae0673ad0e4cbaaf79e272c12ce8ce5f5cb9ce6a98",
    ("task648_answer_generation", 1024): "d77bf9982853b03cad69c1e32f7e246d54641de33cd030656eab96fa50989d0a",
    ("task698_mmmlu_answer_generation_global_facts", 1024): (
        "df3eccda98001794b8e9c2b15e542763ed2b9aba5608a1d20b27d641f7ebc38a"
    ),
    ("task062_bigbench_repeat_copy_logic", 100): "9c609483aeeb59b0b26ab06959b1b873853704ba81b6a89276119866cbf85a4f",
    ("task648_answer_generation", 100): "3f7229a511d0fbaab7bd4f379bec74d2129d8f5aa1be9f47cf5f99c4aaf713e3",
    ("task698_mmmlu_answer_generation_global_facts", 100): (
        "402868a23c8209f5969ab44294bc15671dcdd2cba84d5132091d21ec2747ef60"
    ),
}


@pytest.mark.parametrize(("name", "budget"), GOLDEN)
def test_published_tasks_read_as_tk_instructs_own_code_writes_them(name: str, budget: int) -> None:
    task = read_task(published() / "original" / f"{name}.json")
    digest = hashlib.sha256()
    for encoding in TK_INSTRUCT:
        for asked in task.instances:
            found = encode(task, asked, encoding, WORDINGS[0], lambda text: len(text.split(" ")) <= budget)
            digest.update((join_parts(found.parts) if found.fits else "CUT").encode() + b"\0")
    assert digest.hexdigest() == GOLDEN[name, budget]


def test_tk_instructs_mix_is_its_five_encodings() -> None:
    assert [(e.fields, e.positive, e.negative, e.explanations) for e in TK_INSTRUCT] == [
        (("definition",), 0, 0, False),
        ((), 2, 0, False),
        (("definition",), 2, 0, False),
        (("definition",), 2, 2, False),
        (("definition",), 2, 0, True),
    ]


def test_version_1s_text_to_the_character(first: Task) -> None:
    """Written by hand from the rules of its encoding script: single line ends, `reason:`, a suggestion glued on."""
    assert text(first, "definition+prompt+avoid+caution+2 positive", V1) == (
        "Definition: You are given a sentence. Ask which colour a thing in it has.\n"
        "Prompt: Ask about the colour.\nEmphasis & Caution: One question only.\n"
        "input: The hat is red.\noutput: Which colour is the hat?\n"
        "input: A blue door. \noutput: Which colour is the door?\n"
        "input: The wall is white. \noutput:"
    )
    assert text(first, "prompt+1 positive+1 negative+explanations", V1_EXPLAINED) == (
        "Prompt: Ask about the colour.\n"
        "Negative Example1- \ninput: It is green.\noutput: Is it green?\nreason: A yes.suggestion: Ask for it.\n"
        "Positive Example1- \ninput: The hat is red.\noutput: Which colour is the hat?\nreason: It asks for it.\n"
        "input: The wall is white. \noutput:"
    )
    assert text(first, "title+avoid") == (
        "Title: Asking about colours.\n\nNow complete the following example -\nInput: The wall is white.\nOutput: "
    )


def test_parts_are_typed_so_that_chat_formats_can_place_them(task: Task) -> None:
    for wording in (*WORDINGS, PARTS):
        found = encode(task, task.instances[1], Encoding.parse("definition+2 positive+1 negative"), wording)
        assert [part.kind for part in found.parts] == ["instruction", *["demonstration"] * 3, "input"]
        assert found.shown == 3
        assert "Solve the riddle" in found.parts[0].text
        assert "I2" in found.parts[2].text
        assert "M1" in found.parts[3].text
        assert "{n} 日本語。" in found.parts[4].text  # braces in data are no places to be filled
    bare = encode(task, task.instances[1], Encoding.parse("definition+1 positive"), PARTS).parts
    assert [part.text for part in bare] == ["Solve the riddle", "Input: I1\nOutput: O1!", "{n} 日本語。"]


def test_the_ten_wordings_differ_in_every_part(task: Task) -> None:
    assert len({wording.name for wording in WORDINGS}) == len(WORDINGS) == 10
    encoding = Encoding.parse("definition+1 positive+1 negative")
    written = [encode(task, task.instances[0], encoding, wording).parts for wording in WORDINGS]
    for parts in zip(*written, strict=True):
        assert len({part.text for part in parts}) == 10
    explained = [text(task, "1 positive+explanations", wording) for wording in WORDINGS]
    assert all("E1" in found for found in explained)


def test_examples_that_do_not_fit_are_left_out_in_order(task: Task) -> None:
    def shown(most: int, wording: Wording = WORDINGS[0]) -> tuple[int, bool, list[str]]:
        encoding = Encoding.parse("definition+2 positive+1 negative")
        found = encode(task, task.instances[0], encoding, wording, lambda text: len(text) <= most)
        return found.shown, found.fits, [part.text[:22].strip() for part in found.parts[1:-1]]

    whole = len(text(task, "definition+2 positive+1 negative"))
    assert shown(whole + 1) == (3, True, ["Positive Example 1 -", "Positive Example 2 -", "Negative Example 1 -"])
    # It fits, but Tk-Instruct measures with one blank more between the first two examples.
    assert shown(whole) == (2, True, ["Positive Example 1 -", "Positive Example 2 -"])
    one = len(text(task, "definition+1 positive"))
    assert shown(one) == (1, True, ["Positive Example 1 -"])
    assert shown(len(text(task, "definition"))) == (0, True, [])
    assert shown(len(text(task, "definition")) - 1) == (0, False, [])


amounts = st.integers(0, 9)
encodings = st.builds(
    Encoding,
    st.lists(st.sampled_from(["definition", "title", "prompt", "avoid", "caution"]), unique=True).map(tuple),
    amounts,
    amounts,
    st.booleans(),
).filter(lambda e: bool(e.positive or e.negative) or bool(e.fields and not e.explanations))


@given(encodings)
def test_an_encodings_name_says_all_of_it(encoding: Encoding) -> None:
    assert Encoding.parse(encoding.name) == encoding
    assert Encoding.parse(encoding.name.replace("+", " + ")) == encoding


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("definition+2 positives", r"no part '2 positives'; did you mean '2 positive'\?"),
        ("defintion", r"no part 'defintion'; did you mean 'definition'\?"),
        ("", "no part ''"),
        ("definition+2 positive+1 positive", "a part of the encoding .* is given twice"),
        ("definition+definition", "is given twice"),
        ("0 positive", "shows nothing of the task"),
        ("definition+explanations", "has explanations but no examples"),
    ],
)
def test_a_mistaken_encoding_is_told(name: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Encoding.parse(name)
