"""Alpaca against a scripted model: what is asked, how its lists are read, what each filter says, and when it ends.

Golden values were worked out by hand from the reference code (tatsu-lab/stanford_alpaca, generate_instruction.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shinan.build.distil.alpaca import TASKS, pieces
from shinan.build.teachers import Teacher
from shinan.core.dataset import Judged
from shinan.core.errors import ConfigError, DataError
from shinan.core.example import Example, Part, assistant, user
from shinan.core.registry import bind
from shinan.core.verdict import Verdict
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Completion, Done, Request, Sampling
from tests.build.improve.test_self_instruct import dropped, kept

SEEDS = [
    Example((user("Name a bird\n of the coast:"), assistant("Tern"))),
    Example((user("Say hello."), assistant("Hello!"))),
    Example((user("What is two and two?"), assistant("Four\nof course."))),
]
LIST = """\
 Explain the moon to a child.
4. Input:
<noinput>
4. Output:
It goes round us.
###
5. Instruction: Shorten this letter to one line.
5. Input:
Dear all, we are moving.
5. Output:
We move.
###
"""


def run(fake: FakeGenerator, seeds: Sequence[Example] = SEEDS, *, raw: bool = True, **more: object) -> list[Judged]:
    teacher = Teacher(model=fake, raw=raw, licence="MIT")
    return list(bind("build", "alpaca", {"teacher": teacher, "requests": 1, **more})(7, seeds))


def entry(number: int, instruction: str, given: str = "<noinput>", output: str = "Done.") -> str:
    return f"{number}. Instruction: {instruction}\n{number}. Input:\n{given}\n{number}. Output:\n{output}\n###\n"


def listing(*instructions: str) -> str:
    """A reply that goes on after `4. Instruction:`."""
    return "".join(entry(n, text) for n, text in enumerate(instructions, 4)).removeprefix("4. Instruction:")


def test_twenty_tasks_are_asked_for_after_three_seeds() -> None:
    fake = FakeGenerator(lambda _: LIST)
    run(fake, requests=5, budget=1)
    assert len(fake.requests) == 5
    for request in fake.requests:
        head, shown = request.prompt.split("List of 20 tasks:\n")
        assert head.startswith("Write 20 different instructions")
        assert "in English" in head
        first, *entries, end = shown.split("###\n")
        assert (first, end) == ("", "4. Instruction:")
        assert len(entries) == 3
        assert "Instruction: Name a bird of the coast\n" in shown
        assert f"{1 + entries.index(next(e for e in entries if 'two' in e))}. Output:\nFour\nof course.\n" in shown
        assert request.sampling == Sampling(3072, 1.0)
        assert request.stop == ("\n20", "20.")
    assert len({request.seed for request in fake.requests}) == 5
    assert len({request.prompt for request in fake.requests}) > 1  # another order of the three


def test_a_prompt_in_full() -> None:
    fake = FakeGenerator(lambda _: LIST)
    run(fake, SEEDS[1:2], budget=1)
    assert fake.requests[0].prompt == TASKS.fill(
        number="20",
        language="English",
        tasks="###\n1. Instruction: Say hello.\n1. Input:\n<noinput>\n1. Output:\nHello!\n###",
        next="2",
    )


def test_entries_become_rows() -> None:
    rows = run(FakeGenerator(lambda _: LIST, name="wise"), instructions=2)
    first, second = kept(rows)
    assert len(rows) == 2
    assert first.messages[0].parts == (Part("Explain the moon to a child.", "instruction"),)
    parts = (Part("Shorten this letter to one line.", "instruction"), Part("Dear all, we are moving.", "input"))
    assert second.messages[0].parts == parts
    assert (first.reply, second.reply) == ("It goes round us.", "We move.")
    assert first.tags == {"prompt": TASKS.id}
    assert (first.provenance.maker, first.provenance.licence) == ("model:wise", "MIT")
    assert set(first.provenance.parents) == {seed.id for seed in SEEDS}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f" A\n4. Input:\nb\n4. Output:\nc\n###\n{entry(5, 'D', 'e', 'f')}", [("A", "b", "c"), ("D", "e", "f"), None]),
        (" A\n4. Input:\n<NoInput>\n4. Output:\n", [("A", "", "")]),
        (" A\n5. Input:\nb\n4. Output:\nc", [None]),  # another number
        (" A\n4. Input: b\n4. Output: c 4. Output: d", [None]),  # nine fields
        (" A\n4. Output:\nc", [None]),
        (f" A\n4. Input:\nb\n4. Output:\nc\n###\n{entry(6, 'D', 'e', 'f')}", [("A", "b", "c"), None, None]),
        (" A ### B", [None, None]),
    ],
)
def test_an_entry_has_seven_fields(text: str, found: list[tuple[str, str, str] | None]) -> None:
    assert [piece.task for piece in pieces(text, 4)] == found


def test_filters_speak_in_the_order_of_the_reference() -> None:
    reply = listing(
        "Short one",
        "Find good music for me",
        "Write a program that sorts",
        "- mend the old net",
        "Écris a letter to the mayor",
        "Name a BIRD of the coast",
        "Mend the net of the fisher",
        "Mend the net of a fisher",
        "MEND the nets in spring",
    )
    rows = run(FakeGenerator(lambda _: reply), instructions=2)
    assert [reason for _, reason in dropped(rows)] == [
        "too_short",
        "unfit_word",
        "write_a_program",
        "starts_with_punctuation",
        "starts_beyond_ascii",
        "not_novel",
        "not_novel",
    ]
    assert [row.messages[0].text for row in kept(rows)] == ["Mend the net of the fisher", "MEND the nets in spring"]


class Cut(FakeGenerator):
    """Every reply is cut at its longest."""

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        return [Completion(reply.text, finish="length", new_tokens=3072) for reply in super().generate(requests, done)]


def test_only_the_last_entry_of_a_reply_that_was_cut_goes() -> None:
    reply = listing("Mend the net of the fisher", "Say what the tide does").removesuffix("\n###\n")
    rows = run(Cut(lambda _: reply), budget=1)
    assert [row.messages[0].text for row in kept(rows)] == ["Mend the net of the fisher"]
    verdicts = [row[1] for row in rows if not isinstance(row, Example)]
    assert verdicts == [Verdict.drop("truncated", "no end after 3072 tokens", "alpaca")]
    assert len(kept(run(Cut(lambda _: f"{reply}\n###\n"), budget=1))) == 2  # cut after the mark: nothing is lost


def endless(request: Request) -> str:
    """Always something new: three times eight words drawn by the request's seed."""
    drawn = [[request.seed // 31**k % 31 + 31 * n for k in range(8)] for n in range(3)]
    return listing(*("Say " + " ".join(f"w{word}" for word in words) for words in drawn))


@pytest.mark.promise2
def test_more_budget_keeps_what_less_has_brought() -> None:
    small, large = FakeGenerator(endless), FakeGenerator(endless)
    less, more = run(small, budget=2), run(large, budget=5)
    assert less == more[: len(less)]
    assert small.requests == large.requests[:2]
    assert len(large.requests) == 5


def test_it_ends_when_enough_are_kept_or_nothing_new_comes() -> None:
    fake = FakeGenerator(endless)
    assert len(kept(run(fake, instructions=4))) == 6
    assert len(fake.requests) == 2
    idle = FakeGenerator(lambda _: LIST)
    assert len(kept(run(idle))) == 2
    assert len(idle.requests) == 1 + 10


def test_a_chat_model_may_repeat_the_beginning() -> None:
    fake = FakeGenerator(lambda _: f"4. **Instruction:**{LIST}".replace("5. Instruction:", "**5. Instruction:**"))
    rows = run(fake, raw=False, instructions=2)
    assert [row.reply for row in kept(rows)] == ["It goes round us.", "We move."]
    assert fake.requests[0].messages[0].text.endswith("4. Instruction:")


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I'm sorry, I can't do that.", "refusal"),
        ("", "empty"),
        (" ".join(["again and"] * 9), "loop"),
        ("Here is a poem about the sea instead.", "unparsable"),
        (listing("Nenne die Stadt, in der das Haus steht."), "other_language"),
        (listing("Name all rivers of Asia").replace("Done.", ""), "no_output"),
    ],
)
def test_bad_replies_are_counted(reply: str, reason: str) -> None:
    rows = run(FakeGenerator(lambda _: reply), budget=1)
    assert [found for _, found in dropped(rows)] == [reason]


def test_without_guard_only_the_reference_speaks() -> None:
    reply = listing("Name all rivers of Asia").replace("Done.", "")
    assert [row.reply for row in kept(run(FakeGenerator(lambda _: reply), budget=1, guard=False))] == [None]


def test_the_prompt_names_the_language() -> None:
    fake = FakeGenerator(lambda _: listing("港の朝の様子を短い詩に書いてください。"))
    assert len(kept(run(fake, language="ja", instructions=1))) == 1
    assert "in Japanese" in fake.requests[0].prompt


@pytest.mark.promise10
def test_a_budget_of_zero_and_seeds_without_a_reply_get_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"budget: Input should be greater than 0 \(got 0\)"):
        bind("build", "alpaca", {"teacher": "tiny:decoder", "budget": 0})
    with pytest.raises(DataError, match="none of 1 rows is a single instruction with a reply"):
        run(FakeGenerator(), [Example((user("Name a bird."),))])
