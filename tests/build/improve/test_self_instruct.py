"""Self-Instruct against a scripted model: what is asked, how often, what each filter says, and when it ends.

Golden values were worked out by hand from the reference code (yizhongw/self-instruct, 0b26cca).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from shinan.build.improve.self_instruct import (
    INPUT_FIRST,
    IS_CLASSIFICATION,
    OUTPUT_FIRST,
    TASKS,
    listed,
)
from shinan.build.teachers import Teacher
from shinan.core.dataset import Judged
from shinan.core.errors import ConfigError, DataError
from shinan.core.example import Example, Part, assistant, user
from shinan.core.registry import bind
from shinan.core.verdict import Verdict
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Completion, Done, Request, Sampling

TOPICS = ["rain", "wool", "bees", "tides", "maple", "ferries", "chess", "opals", "yeast", "looms"]
SEEDS = [Example((user(f"Explain how {topic} came into our village."), assistant("By cart."))) for topic in TOPICS]


def kind(request: Request) -> str:
    """Which of the steps a request belongs to."""
    text = request.messages[-1].text if request.messages else request.prompt
    if text.endswith("Is it classification?"):
        return "check"
    return "propose" if re.search(r"\n\d+\.$", text) else "do"


def instruction_of(request: Request) -> str:
    """The task that the second and third steps ask about."""
    text = request.messages[-1].text if request.messages else request.prompt
    return text.removesuffix("\nIs it classification?").rstrip().rsplit("Task: ", 1)[1]


class Script:
    """A model that proposes the given lists in turn, then nothing new, and does every task with two instances."""

    def __init__(self, *lists: str, check: Callable[[str], str] = lambda _: " No") -> None:
        self.lists = list(lists)
        self.check = check

    def __call__(self, request: Request) -> str:
        if kind(request) == "propose":
            return self.lists.pop(0) if self.lists else " Explain how rain came into our village."
        if kind(request) == "check":
            return self.check(instruction_of(request))
        return "Example 1\nPlace: the mill\nOutput: one\nExample 2\nPlace: the inn\nOutput: two"


def run(fake: FakeGenerator, seeds: Sequence[Example] = SEEDS, *, raw: bool = True, **more: object) -> list[Judged]:
    teacher = Teacher(model=fake, raw=raw, licence="MIT")
    return list(bind("build", "self_instruct", {"teacher": teacher, **more})(7, seeds))


def kept(rows: Sequence[Judged]) -> list[Example]:
    return [row for row in rows if isinstance(row, Example)]


def dropped(rows: Sequence[Judged]) -> list[tuple[str, str]]:
    """(instruction or reply, reason) of the dropped rows."""
    return [(row[0].messages[0].text, row[1].reason) for row in rows if not isinstance(row, Example)]


def test_the_first_round_shows_eight_seeds_and_asks_for_the_ninth() -> None:
    fake = FakeGenerator(Script())
    run(fake, budget=1)
    assert [kind(request) for request in fake.requests] == ["propose"] * 5
    for request in fake.requests:
        header, *tasks, end = request.prompt.split("\n")
        assert (header, end) == ("Think of a series of different tasks:", "9.")
        assert [task.split(". ")[0] for task in tasks] == list("12345678")
        shown = [task.split(". ", 1)[1] for task in tasks]
        assert len(set(shown)) == 8
        assert set(shown) <= {seed.messages[0].text for seed in SEEDS}
        assert request.sampling == Sampling(1024, 0.7, 0.5, presence_penalty=2)
        assert request.stop == ("\n\n", "\n16", "16.", "16 .")
    assert len({request.prompt for request in fake.requests}) == 5
    assert len({request.seed for request in fake.requests}) == 5


def test_later_rounds_show_two_of_its_own() -> None:
    first = " Paint a sign for the baker's door\n10. Count the steps up to the church"
    fake = FakeGenerator(Script(first))
    run(fake, instructions=3, budget=10)
    later = [request.prompt for request in fake.requests[5:] if kind(request) == "propose"]
    assert len(later) == 5
    for prompt in later:
        assert prompt.endswith("\n9.")
        assert "Paint a sign for the baker's door" in prompt
        assert "Count the steps up to the church" in prompt
        assert len(re.findall(r"Explain how \w+ came", prompt)) == 6


def test_each_accepted_instruction_is_checked_and_then_done() -> None:
    lists = (" Paint a sign for the baker\n10. Is the tide high or low?", " Count the steps up to the church")
    fake = FakeGenerator(Script(*lists, check=lambda task: " Yes" if task.startswith("Is") else " No"))
    rows = run(fake, instructions=3)
    assert [kind(request) for request in fake.requests] == ["propose"] * 5 + ["check"] * 3 + ["do"] * 3
    checks, work = fake.requests[5:8], fake.requests[8:]
    tasks = ["Paint a sign for the baker", "Is the tide high or low?", "Count the steps up to the church"]
    assert [request.prompt for request in checks] == [IS_CLASSIFICATION.fill(instruction=task) for task in tasks]
    assert all((r.sampling, r.stop) == (Sampling(3), ("\n", "Task")) for r in checks)
    prompts = [INPUT_FIRST, OUTPUT_FIRST, INPUT_FIRST]
    assert [r.prompt for r in work] == [p.fill(instruction=t) for p, t in zip(prompts, tasks, strict=True)]
    assert [r.sampling for r in work] == [Sampling(most, presence_penalty=1.5) for most in (350, 300, 350)]
    assert all(r.stop == ("Example 6", "Task:") for r in work)
    assert len(kept(rows)) == 4
    # three prompts of the round brought a seed back; the classification task has no label in its reply
    reply = "Example 1\nPlace: the mill\nOutput: one\nExample 2\nPlace: the inn\nOutput: two"
    seed = "Explain how rain came into our village."
    assert dropped(rows) == [(seed, "not_novel")] * 3 + [("Is the tide high or low?", "unparsable")]
    assert next(row[0] for row in rows if not isinstance(row, Example) and row[1].reason == "unparsable").reply == reply


def test_a_row_says_where_it_comes_from() -> None:
    fake = FakeGenerator(Script(" Paint a sign for the baker"), name="wise")
    row, other = kept(run(fake, instructions=1))
    assert row.messages[0].parts == (
        Part("Paint a sign for the baker", "instruction"),
        Part("Place: the mill", "input"),
    )
    assert (row.reply, other.reply) == ("one", "two")
    assert row.tags == {"prompt": INPUT_FIRST.id, "proposed": TASKS.id, "classification": "no"}
    assert (row.provenance.maker, row.provenance.licence) == ("model:wise", "MIT")
    assert len(row.provenance.parents) == 8
    assert set(row.provenance.parents) <= {seed.id for seed in SEEDS}
    assert row.task == other.task


def test_a_parent_of_its_own_is_the_first_row_of_that_instruction() -> None:
    fake = FakeGenerator(Script(" Paint a sign for the baker", "", "", "", "", " Count the steps up to the church"))
    rows = run(fake, instructions=2)
    first, _, later, _ = kept(rows)
    assert first.id in later.provenance.parents
    assert later.messages[0].parts[0].text == "Count the steps up to the church"


def test_filters_speak_in_the_order_of_the_reference() -> None:
    proposed = (
        " Too short it\n10. Draw a map of the harbour\n11. Write a program that sorts names\n12. - mend the old net"
        "\n13. Écris a letter to the mayor\n14. Explain how RAIN came into our village\n15. Mend the net of the fisher"
        "\n15. mend the NET of a fisher"
    )
    rows = run(FakeGenerator(Script(proposed)), instructions=1, requests=1)
    assert dropped(rows) == [
        ("Too short it", "too_short"),
        ("Draw a map of the harbour", "unfit_word"),
        ("Write a program that sorts names", "write_a_program"),
        ("- mend the old net", "starts_with_punctuation"),
        ("Écris a letter to the mayor", "starts_beyond_ascii"),
        ("Explain how rain came into our village", "not_novel"),
        ("Mend the net of a fisher", "not_novel"),  # held against the one before, which was just accepted
    ]
    assert {row.messages[0].parts[0].text for row in kept(rows)} == {"Mend the net of the fisher"}


def test_a_reply_that_was_cut_is_dropped_as_a_whole() -> None:
    rows = run(FakeGenerator(Script(" ".join(["word"] * 5 + ["other"] * 1100))), requests=1, budget=1, guard=False)
    assert [reason for _, reason in dropped(rows)] == ["truncated"]


def test_it_ends_when_enough_are_accepted_and_a_round_is_never_cut() -> None:
    many = [f" Paint the {a} of the {b} {c}" for a, b, c in (("door", "old", "mill"), ("roof", "new", "inn"))]
    many += [" Count all the steps up there", " Sing about the long winter"]
    fake = FakeGenerator(Script(*many))
    rows = run(fake, instructions=1, requests=4)
    assert Counter(map(kind, fake.requests)) == {"propose": 4, "check": 4, "do": 4}
    assert len({row.task for row in kept(rows)}) == 4


def test_it_ends_after_ten_rounds_without_anything_new() -> None:
    fake = FakeGenerator(Script())
    rows = run(fake)
    assert Counter(map(kind, fake.requests)) == {"propose": 50}
    assert [reason for _, reason in dropped(rows)] == ["not_novel"] * 50


def endless(request: Request) -> str:
    """Always something new: ten words drawn by the request's seed."""
    if kind(request) == "propose":
        return " Say " + " ".join(f"w{request.seed // 31**n % 31}" for n in range(10))
    return Script()(request)


@pytest.mark.promise2
def test_more_budget_keeps_what_less_has_brought_and_asks_the_same_first() -> None:
    small, large = FakeGenerator(endless), FakeGenerator(endless)
    less, more = run(small, budget=20), run(large, budget=45)
    assert less == more[: len(less)]
    assert small.requests == large.requests[: len(small.requests)]
    assert len(less) < len(more)
    target = run(FakeGenerator(endless), instructions=6)
    assert target == run(FakeGenerator(endless), instructions=12)[: len(target)]


class Backwards(FakeGenerator):
    """Answers the last request first, as a pool of connections may."""

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        return super().generate(requests[::-1], done)[::-1]


def test_the_order_of_completion_changes_nothing() -> None:
    assert run(Backwards(endless), budget=30) == run(FakeGenerator(endless), budget=30)


@pytest.mark.promise1
def test_rows_are_numbered_without_a_gap() -> None:
    rows = run(FakeGenerator(endless), budget=40)
    every = [row if isinstance(row, Example) else row[0] for row in rows]
    assert [row.provenance.row for row in every] == list(range(len(rows)))
    assert len({row.provenance.source for row in every}) == 1


class Broken(FakeGenerator):
    """Fails every request of one step."""

    def __init__(self, step: str, replies: Callable[[Request], str]) -> None:
        super().__init__(replies)
        self.step = step

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        replies = super().generate(requests, done)
        bad = Completion("", finish="failed", error="the server answers 500")
        return [bad if kind(q) == self.step else r for q, r in zip(requests, replies, strict=True)]


@pytest.mark.promise10
@pytest.mark.parametrize(("step", "rows"), [("propose", 10), ("check", 1), ("do", 1)])
def test_a_call_that_fails_is_a_counted_row(step: str, rows: int) -> None:
    found = run(Broken(step, Script(" Paint a sign for the baker")), instructions=1, requests=1)
    assert kept(found) == []
    verdicts = [row[1] for row in found if not isinstance(row, Example)]
    assert verdicts.count(Verdict.drop("failed", "the server answers 500", "self_instruct")) == rows


@pytest.mark.promise10
def test_new_instructions_that_can_never_be_done_end_it_too() -> None:
    broken = Broken("check", endless)
    run(broken, requests=1)
    assert Counter(map(kind, broken.requests))["propose"] == 10


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I'm sorry, but I can't think of any tasks.", "refusal"),
        ("", "empty"),
        (" Say it again." * 9, "loop"),
        ("1. 2. 3.", "too_short"),
        (" 2. 3. 4. 5. 6. 7. 8. 9.", "no_words"),
        (" Schreibe ein Gedicht, das mit dem Wort Regen beginnt und nicht reimt.", "other_language"),
    ],
)
def test_bad_replies_are_counted(reply: str, reason: str) -> None:
    rows = run(FakeGenerator(Script(reply)), requests=1, budget=1)
    assert [found for _, found in dropped(rows)] == [reason]


@pytest.mark.promise10
def test_a_model_that_repeats_the_prompt_is_counted() -> None:
    rows = run(FakeGenerator(), requests=2, budget=1)
    assert [found for _, found in dropped(rows)] == ["copy", "copy"]


def test_without_guard_only_the_reference_speaks() -> None:
    refused = " I'm sorry, but I can't think of any tasks."
    rows = run(FakeGenerator(Script(refused)), requests=1, budget=1, guard=False)
    assert {row.messages[0].parts[0].text for row in kept(rows)} == {"I'm sorry, but i can't think of any tasks."}


def test_classification_tasks_only() -> None:
    chosen = [Example((user(f"Is {topic} wet or dry?"), assistant("wet")), choices=("wet", "dry")) for topic in TOPICS]
    fake = FakeGenerator(lambda _: " Is rain wet or dry?")
    run(fake, [*SEEDS, *chosen], classification_only=True, budget=1)
    assert len(fake.requests) == 5
    for request in fake.requests:
        assert request.prompt.startswith("Think of a series of different classification tasks.")
        assert "Explain how" not in request.prompt


def test_a_chat_model_is_asked_the_same_and_may_number_and_mark_its_list() -> None:
    listing = (
        "Sure, here are more tasks:\n\n9. **Paint a sign for the baker**\n\n10. Count the steps up to the church\n"
    )
    instances = "Here are examples.\n\n**Example 1**\nPlace: the mill\n**Output:** one"
    fake = FakeGenerator(lambda r: {"propose": listing, "check": "No", "do": instances}[kind(r)])
    rows = run(fake, raw=False, requests=1, instructions=2)
    assert {row.messages[0].parts[0].text for row in kept(rows)} == {
        "Paint a sign for the baker",
        "Count the steps up to the church",
    }
    assert {row.reply for row in kept(rows)} == {"one"}
    assert fake.requests[0].messages[0].text.endswith("\n9.")
    assert fake.requests[0].stop == ("\n16", "16.", "16 .")


@pytest.mark.parametrize(
    ("text", "raw", "found"),
    [
        (" Paint a SIGN\n10. Count  all\nsteps\n11 . end", True, ["Paint a sign", "Count all steps", "End"]),
        ("9. Paint\n10. Count", True, ["9. paint", "Count"]),  # the reference keeps the number
        ("9. Paint\n10. Count", False, ["Paint", "Count"]),
        ("Paint\n10. Count", False, ["Paint", "Count"]),
        ("Sure:\n9. Paint", False, ["Paint"]),
        ("1. 1. Paint\n2. 2. \nCount 3.5 m\n3. 3.", False, ["Paint", "Count 3.5 m"]),  # as smollm2-135m-instruct does
        ("9) Paint\n10) Count", False, ["Paint", "Count"]),
        ("", False, []),
        ("\n", True, []),
    ],
)
def test_lists(text: str, raw: bool, found: list[str]) -> None:
    assert listed(text, raw=raw) == found


def test_japanese_instructions_are_proposed_compared_and_done() -> None:
    seeds = [
        Example((user(f"{topic}について村の人に説明してください。"), assistant("はい。")))
        for topic in "雨羊蜂潮楓船石麦布"
    ]
    proposed = " 雪について村の人に説明してください。\n10. 港の朝の様子を短い詩に書いてください。"
    rows = run(FakeGenerator(Script(proposed)), seeds, language="ja", requests=1, instructions=1)
    assert dropped(rows) == [("雪について村の人に説明してください。", "not_novel")]
    assert {row.messages[0].parts[0].text for row in kept(rows)} == {"港の朝の様子を短い詩に書いてください。"}


@pytest.mark.promise10
def test_a_budget_of_zero_and_seeds_that_are_none_get_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"budget: Input should be greater than 0 \(got 0\)"):
        bind("build", "self_instruct", {"teacher": "tiny:decoder", "budget": 0})
    with pytest.raises(DataError, match="no seed is left"):
        run(FakeGenerator(), [])


def test_rows_can_be_written_in_the_forms_of_the_reference() -> None:
    def texts(*, encode: bool) -> list[str]:
        rows = run(FakeGenerator(Script(" Paint a sign for the baker")), instructions=1, encode=encode)
        return [row.messages[0].text for row in kept(rows)]

    assert texts(encode=False) == [
        "Paint a sign for the baker\n\nPlace: the mill",
        "Paint a sign for the baker\n\nPlace: the inn",
    ]
    encoded = texts(encode=True)
    assert encoded == texts(encode=True) != texts(encode=False)
    assert all("Paint a sign for the baker" in text and "the" in text for text in encoded)
