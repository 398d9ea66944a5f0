"""FLAN-style rendering: hand-written renderings of each form, and what holds for every row, seed and budget."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.core.example import Example, Message, Part, Provenance, assistant
from shinan.formats import flan
from shinan.formats.annotated import TemplateSet, load_set, set_path
from shinan.formats.flan import GAPS, STYLES, Exemplar, Manner, Renderer, Style, question_key
from shinan.formats.instances import Instance, RowError
from shinan.formats.options import Look
from shinan.formats.rows import Where
from tests.formats.annotated_rows import named

NLI = load_set(set_path("nli"))
QA = load_set(set_path("closed_book_qa"))
MATHS = load_set(set_path("maths"))
BASE = Example((), task="d", tags={"dataset": "d"}, provenance=Provenance("rows", 0, "MIT"))
ABC = Look("Pick one:", "(A) ", "- ", ";", "\n")


def nli(premise: str, hypothesis: str, right: int) -> Instance:
    labels = ("entailment", "neutral", "contradiction")
    return Instance({"premise": premise, "hypothesis": hypothesis, "label": labels[right]}, labels, right)


def qa(question: str, *answers: str) -> Instance:
    return Instance({"question": question, "answers": list(answers)})


def pool(shape: TemplateSet, *instances: Instance) -> list[Exemplar]:
    return [Exemplar(n, instance, question_key(shape, instance)) for n, instance in enumerate(instances)]


def only(shape: TemplateSet, language: str, part: str, *names: str) -> TemplateSet:
    """The set with these templates alone in one of its lists."""
    spoken = shape.languages[language]
    chosen = spoken.model_copy(update={part: [named(spoken, name) for name in names]})
    return shape.model_copy(update={"languages": {language: chosen}})


def manner(style: Style = "zero_shot", **more: Any) -> Manner:
    return Manner({style: 1.0}, len, **({"invert": 0.0, "mixed": 0.0, "max_tokens": 10**6} | more))


def rendered(renderer: Renderer, instance: Instance, number: int = 9) -> Example:
    return renderer.render(number, instance, Where("rows", number, number + 1), base=BASE)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No draws but of the template, the demonstrations and their number."""
    monkeypatch.setattr(flan, "GAPS", (("\n", "\n\n"),))
    monkeypatch.setattr(flan, "draw_look", lambda *_: ABC)


# ---- golden: written by hand from the template files ----


@pytest.mark.usefixtures("plain")
def test_zero_shot_with_options_is_written_so() -> None:
    shape = only(NLI, "en", "templates", "follows")
    example = rendered(Renderer(shape, "en", manner("zero_shot_options"), 0), nli("It rains.", "It is wet.", 1))
    asked = "Statement: It rains.\nConclusion: It is wet.\nPick one:\n(A) Yes;\n(B) Maybe;\n(C) No;\nDoes it hold?"
    told = "Read the statement, then say whether the conclusion below it holds."
    assert example == Example(
        (Message("user", (Part(told, "instruction"), Part(asked, "input"))), assistant("(B)")),
        targets=("(B)",),
        choices=("(A)", "(B)", "(C)"),
        task="d",
        tags={
            "dataset": "d",
            "template": "follows",
            "template_index": "0",
            "style": "zero_shot_options",
            "inverted": "false",
            "reasoned": "false",
        },
        provenance=Provenance("rows", 9, "MIT", "template:nli/follows"),
    )


@pytest.mark.usefixtures("plain")
def test_few_shot_without_options_is_written_so() -> None:
    shape = only(QA, "en", "templates", "from_memory")
    shown = pool(QA, qa("1 + 1?", "2", "two"), qa("Capital of Japan?", "Tokyo"))
    example = rendered(Renderer(shape, "en", manner("few_shot", shots=(5,)), 3, shown), qa("Sky?", "blue", "azure"))
    demonstrations = ["1 + 1?\nAnswer: 2", "Capital of Japan?\nAnswer: Tokyo"]
    if example.tags["exemplars"] == "1 0":
        demonstrations.reverse()
    told, asked = Part("Answer from memory, as briefly as you can.", "instruction"), Part("Sky?\nAnswer:", "input")
    assert example.messages[0].parts == (told, *(Part(text, "demonstration") for text in demonstrations), asked)
    assert example.prompt_text == "\n\n".join([told.text, *demonstrations, asked.text])
    assert (example.reply, example.targets, example.choices) == ("blue", ("blue", "azure"), ())
    assert example.tags["style"] == "few_shot"


@pytest.mark.usefixtures("plain")
def test_a_japanese_prompt_with_options_and_a_demonstration_is_written_so() -> None:
    shape = only(NLI, "ja", "templates", "ja_follows")
    renderer = Renderer(shape, "ja", manner("few_shot_options"), 0, pool(NLI, nli("雨です。", "晴れです。", 2)))
    example = rendered(renderer, nli("犬がいる。", "動物がいる。", 0))
    assert example.prompt_text == (
        "前提の文が正しいとき、仮説の文も正しいといえるか答えてください。\n\n"
        "前提：雨です。\n仮説：晴れです。\nPick one:\n(A) はい;\n(B) どちらともいえない;\n(C) いいえ;\n答え：(C)\n\n"
        "前提：犬がいる。\n仮説：動物がいる。\nPick one:\n(A) はい;\n(B) どちらともいえない;\n(C) いいえ;\n答え："
    )
    assert example.reply == "(A)"


@pytest.mark.usefixtures("plain")
def test_an_instruction_that_depends_on_the_row_goes_with_each_demonstration() -> None:
    shape = only(NLI, "en", "inverted", "write_hypothesis")
    renderer = Renderer(shape, "en", manner("few_shot", invert=1e9), 0, pool(NLI, nli("It rains.", "It is dry.", 2)))
    example = rendered(renderer, nli("A dog runs.", "An animal runs.", 0))
    assert example.prompt_text == (
        "Write a sentence that cannot be true if the one below is.\nIt rains.\nSentence: It is dry.\n\n"
        "Write a sentence that must be true if the one below is.\nA dog runs.\nSentence:"
    )
    kinds = [part.kind for part in example.messages[0].parts]
    assert kinds == ["demonstration", "instruction", "text", "input"]
    assert (example.reply, example.tags["inverted"], example.choices) == ("An animal runs.", "true", ())


@pytest.mark.usefixtures("plain")
def test_the_rationale_comes_before_the_answer() -> None:
    shape = only(MATHS, "en", "reasoned", "step_by_step")
    instance = Instance({"question": "2 and 3 apples?", "rationale": "2 + 3 = 5.", "answer": "5"})
    example = rendered(Renderer(shape, "en", manner(cot=1.0), 0), instance)
    assert example.prompt_text == "Solve the problem step by step.\n\n2 and 3 apples?"
    assert example.reply == "2 + 3 = 5.\nThe answer is 5."
    assert example.tags["reasoned"] == "true"


@pytest.mark.usefixtures("plain")
def test_a_rationale_is_asked_for_with_the_options_shown() -> None:
    shape = only(NLI, "en", "reasoned", "reasons_first")
    instance = nli("It rains.", "It is wet.", 0)
    instance = replace(instance, fields={**instance.fields, "rationale": "Rain is wet."})
    example = rendered(Renderer(shape, "en", manner("zero_shot", cot=1.0), 0), instance)
    assert example.prompt_text.endswith("\nPick one:\n(A) Yes;\n(B) Maybe;\n(C) No;")
    assert example.reply == "Rain is wet.\nTherefore the answer is: (A)"
    assert example.targets == (example.reply,)
    assert (example.tags["style"], example.choices) == ("zero_shot_options", ())


# ---- demonstrations ----

ROWS = [qa(f"question {n}?", f"answer {n}") for n in range(40)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 39), st.floats(0, 1), st.sampled_from([0.0, 0.3, 1e9]))
def test_a_demonstration_is_never_the_row_itself_nor_asks_the_same(
    seed: int, number: int, mixed: float, invert: float
) -> None:
    renderer = Renderer(QA, "en", manner("few_shot", mixed=mixed, invert=invert), seed, pool(QA, *ROWS))
    for instance in (ROWS[number], qa(f"question {number}?", "another answer")):
        example = rendered(renderer, instance, number)
        rows = [int(row) for row in example.tags["exemplars"].split()]
        assert number not in rows
        assert len(set(rows)) == len(rows)
        assert len(rows) in (5, 2, 1)
        shown = [part.text for part in example.messages[0].parts if part.kind == "demonstration"]
        assert len(shown) == len(rows)
        for row, text in zip(rows, shown, strict=True):
            assert f"question {row}?" in text
            assert f"answer {row}" in text
            assert f"question {number}?" not in text


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 39), st.integers(10, 600), st.floats(0, 1))
def test_the_budget_is_kept_and_used(seed: int, number: int, budget: int, mixed: float) -> None:
    free = Renderer(QA, "en", manner("few_shot", mixed=mixed), seed, pool(QA, *ROWS))
    whole = rendered(free, ROWS[number], number)
    bounded = replace(free, manner=replace(free.manner, max_tokens=budget))
    rows = whole.tags["exemplars"].split()
    left = 0
    with suppress(RowError):
        example = rendered(bounded, ROWS[number], number)
        assert len(example.prompt_text) <= budget
        left = len(example.tags["exemplars"].split())
        assert example.tags["exemplars"].split() == rows[:left]  # the last go first, as in FLAN
        assert example.reply == whole.reply
    if left < len(rows):  # one more would have been too much
        shown = [part for part in whole.messages[0].parts if part.kind == "demonstration"]
        gone = sum(len(part.text) for part in shown[left + 1 :])
        assert len(whole.prompt_text) - gone > budget


def test_a_prompt_may_be_as_long_as_the_budget_and_no_longer() -> None:
    free = Renderer(QA, "en", manner("few_shot", shots=(5,)), 1, pool(QA, *ROWS))
    for number in range(30):
        whole = rendered(free, ROWS[0], number)
        length = len(whole.prompt_text)
        assert rendered(replace(free, manner=replace(free.manner, max_tokens=length)), ROWS[0], number) == whole
        less = rendered(replace(free, manner=replace(free.manner, max_tokens=length - 1)), ROWS[0], number)
        assert less.tags["exemplars"].split() == whole.tags["exemplars"].split()[:-1]


def test_a_pool_without_another_question_leaves_none() -> None:
    for shown in ([], pool(QA, ROWS[0])):
        with pytest.raises(
            RowError, match=r"rows:1: template '\w+': no demonstration fits beside the question"
        ) as caught:
            rendered(Renderer(QA, "en", manner("few_shot"), 0, shown), ROWS[0], 0)
        assert caught.value.reason == "no_exemplar_fits"


def test_a_row_that_its_template_cannot_say_is_no_demonstration() -> None:
    """Its answer holds what separates accepted answers; the others still stand in."""
    shown = pool(QA, qa("a?", "x ||| y"), qa("b?", "z"))
    for number in range(20):
        example = rendered(Renderer(QA, "en", manner("few_shot", shots=(2,)), 0, shown), ROWS[0], number)
        assert example.tags["exemplars"] == "1"


@pytest.mark.promise10
def test_a_row_that_its_template_cannot_say_is_refused_with_the_template() -> None:
    with pytest.raises(RowError) as caught:
        rendered(Renderer(QA, "en", manner(), 0), qa("a?", "x ||| y"))
    assert caught.value.reason == "template"
    assert caught.value.where == "rows:10"
    assert caught.value.what.endswith("output cannot be split, as the row itself has '|||'")


def test_mixed_demonstrations_have_templates_of_their_own_that_call_the_labels_the_same() -> None:
    shown = pool(NLI, *(nli(f"p{n}", f"h{n}", n % 3) for n in range(30)))
    alone = Renderer(NLI, "en", manner("few_shot", shots=(5,)), 1, shown)
    mixed = replace(alone, manner=replace(alone.manner, mixed=1.0))
    varied = 0
    for number in range(300):
        one, other = (rendered(renderer, nli("P", "H", 0), number) for renderer in (alone, mixed))
        assert one.tags == other.tags
        words = named(NLI.languages["en"], one.tags["template"]).words or ["Yes", "Maybe", "No"]
        for example in (one, other):
            texts = [part.text for part in example.messages[0].parts if part.kind == "demonstration"]
            assert all(text.endswith(tuple(words)) for text in texts)
        varied += one.prompt_text != other.prompt_text
    assert varied > 100


def test_demonstrations_list_their_options_as_the_question_does() -> None:
    shown = pool(NLI, *(nli(f"p{n}", f"h{n}", n % 3) for n in range(30)))
    renderer = Renderer(only(NLI, "en", "templates", "follows"), "en", manner("few_shot_options"), 1, shown)
    for number in range(50):
        example = rendered(renderer, nli("P", "H", 0), number)
        blocks = [
            part.text.partition("\nConclusion: ")[2].partition("\n")[2].partition("Does it hold?")[0]
            for part in example.messages[0].parts
            if part.kind in ("demonstration", "input")
        ]
        assert len(set(blocks)) == 1
        assert "Maybe" in blocks[0]


# ---- draws ----


def within(found: int, total: int, share: float) -> bool:
    """Five standard deviations of a binomial: one false alarm in two million."""
    return abs(found - total * share) <= 5 * sqrt(total * share * (1 - share)) + 1e-9


def drawn(renderer: Renderer, instance: Instance, total: int = 2000) -> list[Example]:
    return [rendered(renderer, instance, number) for number in range(total)]


def test_styles_have_their_shares() -> None:
    shares: dict[Style, float] = {"zero_shot_options": 0.4, "zero_shot": 0.3, "few_shot_options": 0.2, "few_shot": 0.1}
    shown = pool(NLI, *(nli(f"p{n}", f"h{n}", n % 3) for n in range(9)))
    renderer = Renderer(NLI, "en", replace(manner(), styles=shares), 5, shown)
    counts = Counter(example.tags["style"] for example in drawn(renderer, nli("P", "H", 0)))
    assert set(counts) == set(STYLES)
    assert all(within(counts[style], 2000, share) for style, share in shares.items()), counts


def test_templates_shots_and_gaps_are_drawn_alike() -> None:
    renderer = Renderer(QA, "en", manner("few_shot"), 5, pool(QA, *ROWS))
    examples = drawn(renderer, qa("Q?", "A"))
    templates = Counter(example.tags["template"] for example in examples)
    assert len(templates) == 10
    assert all(within(count, 2000, 0.1) for count in templates.values()), templates
    shots = Counter(len(example.tags["exemplars"].split()) for example in examples)
    assert set(shots) == {5, 2, 1}
    assert all(within(count, 2000, 1 / 3) for count in shots.values()), shots
    gaps = Counter(part.text for example in examples for part in example.messages[0].parts if part.kind == "text")
    assert set(gaps) == {"\n", "\n\n\n"}
    assert any("text" not in {part.kind for part in example.messages[0].parts} for example in examples)
    assert {example.tags["template_index"] for example in examples} == set("0123456789")


def test_every_gap_of_flan_is_there() -> None:
    assert {outer for _, outer in GAPS} == {"\n", "\n\n", "\n\n\n"}
    assert all(len(inner) <= len(outer) for inner, outer in GAPS)


def test_rows_are_inverted_as_often_as_cot_ii_beside_cot() -> None:
    """FLAN mixes CoT at 1 and CoT-II at 0.3 (flan/v2/mixtures.py)."""
    examples = drawn(Renderer(QA, "en", manner(invert=0.3), 5), qa("Q?", "A"))
    inverted = sum(example.tags["inverted"] == "true" for example in examples)
    assert within(inverted, 2000, 0.3 / 1.3), inverted


def test_a_share_of_the_rows_asks_for_the_rationale() -> None:
    instance = Instance({"question": "Q", "rationale": "R", "answer": "A"})
    examples = drawn(Renderer(MATHS, "en", manner(cot=0.25, invert=1.0), 5), instance)
    kinds = Counter((example.tags["inverted"], example.tags["reasoned"]) for example in examples)
    assert within(kinds["true", "false"], 2000, 0.5), kinds
    assert within(kinds["false", "true"], 2000, 0.125), kinds


def test_one_template_in_place_of_ten() -> None:
    examples = drawn(Renderer(QA, "en", manner(templates=1, invert=0.3), 5), qa("Q?", "A"), 300)
    assert {example.tags["template"] for example in examples} == {"bare", "which_question"}


def test_a_row_is_drawn_by_its_number_alone() -> None:
    """Not by what it says, nor by what stands around it; the seed and the number decide."""
    renderer = Renderer(NLI, "en", Manner({"zero_shot_options": 0.5, "zero_shot": 0.5}, len), 7)
    one, other = nli("P", "H", 0), nli("Q", "I", 2)
    forms = [rendered(renderer, one, number).tags for number in range(60)]
    assert [rendered(renderer, other, number).tags for number in reversed(range(60))] == forms[::-1]
    assert [rendered(replace(renderer, seed=8), one, number).tags for number in range(60)] != forms


def test_a_changed_share_leaves_the_other_draws_alone() -> None:
    shown = pool(QA, *ROWS)
    one = Renderer(QA, "en", manner("few_shot"), 7, shown)
    other = replace(one, manner=replace(one.manner, styles={"zero_shot": 0.5, "few_shot": 0.5}))
    for number in range(100):
        first, second = rendered(one, qa("Q?", "A"), number), rendered(other, qa("Q?", "A"), number)
        assert first.tags["template"] == second.tags["template"]
        if second.tags["style"] == "few_shot":
            assert first == second


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 10**6), st.sampled_from(["en", "ja"]), st.integers(0, 2))
def test_shown_options_hold_the_answer_and_hidden_ones_are_the_words(
    seed: int, number: int, language: str, right: int
) -> None:
    for style in ("zero_shot_options", "zero_shot"):
        example = rendered(Renderer(NLI, language, manner(style), seed), nli("P", "H", right), number)
        assert example.choices[right] == example.reply == example.targets[0]
        if style == "zero_shot_options":
            assert str(example.reply) in example.prompt_text
        kinds = [part.kind for part in example.messages[0].parts if part.kind != "text"]
        assert kinds in (["instruction", "input"], ["input"])
