"""The author: calls planned with seeds of their own, rows signed and numbered, a budget that only adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from shinan.build.author import Ask, Author
from shinan.build.improve.self_instruct import IS_CLASSIFICATION, TASKS
from shinan.build.teachers import content, opened, terms_of
from shinan.core.errors import ModelError
from shinan.core.example import Provenance, assistant, system, user
from shinan.core.verdict import Verdict
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Generator, Request, Sampling

SAMPLING = Sampling(8, 0.5)


def author(
    generator: Generator | None = None, *, seed: int = 1, budget: int | None = None, raw: bool = False
) -> Author:
    return Author.of("method", generator or FakeGenerator(), seed, budget=budget, raw=raw, licence="MIT")


def ask(by: Author, text: str = "Name a bird.", *key: int | str, sample: int = 0) -> Ask:
    return by.ask(IS_CLASSIFICATION, {"instruction": text}, *key, sampling=SAMPLING, parents=["b2:1"], sample=sample)


def test_a_chat_model_gets_a_user_turn_and_a_raw_one_the_bare_prompt() -> None:
    text = IS_CLASSIFICATION.fill(instruction="Name a bird.")
    chat, raw = ask(author()).request, ask(author(raw=True)).request
    assert (chat.messages, chat.prompt) == ((user(text),), "")
    assert (raw.messages, raw.prompt) == ((), text)


def test_earlier_turns_come_before_the_prompt_whatever_the_model() -> None:
    for raw in (False, True):
        planned = author(raw=raw).ask(
            IS_CLASSIFICATION, {"instruction": "x"}, sampling=SAMPLING, before=[system("Be brief.")]
        )
        assert [message.role for message in planned.request.messages] == ["system", "user"]


def test_a_seed_comes_from_what_is_asked_for_and_not_from_how_much_was_asked_before() -> None:
    seeds = [
        ask(author(), "Name a bird.", 0, 1).request.seed,
        ask(author(), "Name a bird.", 0, 2).request.seed,
        ask(author(), "Name a bird.", 0, 1, sample=1).request.seed,
        ask(author(seed=2), "Name a bird.", 0, 1).request.seed,
        author().ask(TASKS, {"tasks": "", "next": "1"}, 0, 1, sampling=SAMPLING).request.seed,
    ]
    assert len(set(seeds)) == 5
    later = author()
    later.answers([ask(later, "Something else.", 7)])
    assert ask(later, "Name a bird.", 0, 1).request.seed == seeds[0]


def test_answers_come_in_the_order_of_the_asks_and_are_counted() -> None:
    by = author(FakeGenerator(lambda request: request.messages[-1].text.splitlines()[-2]), budget=3)
    replies = by.answers([ask(by, name) for name in ("one", "two")])
    assert [reply.text for reply in replies] == ["Task: one", "Task: two"]
    assert (by.calls, by.spent) == (2, False)
    by.answers([ask(by)])
    assert by.spent


def test_rows_are_signed_and_numbered() -> None:
    by = author(FakeGenerator(name="wise"))
    (reply,) = by.answers([ask(by)])
    row = by.row(reply, [user("Hi"), assistant("Hello")], task="t", tags={"more": "x"})
    assert row.provenance == Provenance("method:wise/0000000000000001", 0, "MIT", "model:wise", ("b2:1",))
    assert row.tags == {"prompt": IS_CLASSIFICATION.id, "more": "x"}
    other, verdict = by.drop(by.row(reply, parents=[]), Verdict.drop("loop", "3 times"))
    assert (other.provenance.row, other.provenance.parents, other.reply) == (1, (), reply.text)
    assert verdict == Verdict.drop("loop", "3 times", "method")


def test_a_model_is_named_by_its_folder_or_handed_over(tiny_decoder: Path) -> None:
    fake = FakeGenerator(name="wise")
    assert opened(fake) is fake
    assert terms_of(fake) == ("wise", "unknown")
    generator, terms = opened(str(tiny_decoder)), terms_of(str(tiny_decoder))
    (reply,) = generator.generate([Request((user("Hi"),), sampling=Sampling(4))])
    assert reply.new_tokens == 4
    assert Author.of("method", str(tiny_decoder), 0).licence == terms.licence
    read = content((TASKS,), "teacher", "judge")
    key = {"models": {"teacher": terms.identity}, "prompts": [TASKS.id]}
    assert read({"teacher": str(tiny_decoder), "judge": None}) == key


@pytest.mark.promise10
def test_a_teacher_that_is_not_there_is_told() -> None:
    with pytest.raises(ModelError, match="there is no such model folder"):
        Author.of("method", "./nowhere", 0)
