"""The author: calls planned with seeds of their own, rows signed and numbered, a budget that only adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from shinan.build.author import Ask, Author
from shinan.build.improve.self_instruct import IS_CLASSIFICATION, TASKS
from shinan.build.teachers import Model, Teacher, as_teacher, content
from shinan.core.dataset import read_rows, write_stream
from shinan.core.errors import ConfigError, ModelError
from shinan.core.example import Example, Provenance, assistant, system, user
from shinan.core.ledger import Ledger
from shinan.core.registry import bind, register
from shinan.core.verdict import Verdict
from shinan.models.books import Books, Ledgered
from shinan.models.card import load_card
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Generator, Request, Sampling

SAMPLING = Sampling(8, 0.5)


def author(
    generator: Generator | None = None, *, seed: int = 1, budget: int | None = None, raw: bool = False
) -> Author:
    teacher = Teacher(model=generator or FakeGenerator(), raw=raw, licence="MIT")
    return Author.of("method", teacher, seed, budget=budget)


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


def test_the_call_is_known_by_its_key_in_the_ledger(tmp_path: Path) -> None:
    generator = Ledgered(FakeGenerator(), Books(Ledger(tmp_path), "fake"))
    by = author(generator)
    (reply,) = by.answers([ask(by)])
    assert by.row(reply).tags["call"] == generator.key(reply.ask.request)


def test_a_local_model_is_not_asked_twice(tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by another build that asks the same."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path))
    use = Teacher(model=str(tiny_decoder), chat="gemma")
    request = Request((user("Hi"),), sampling=Sampling(4))
    first, again = use.open("a"), use.open("b")
    assert isinstance(again, Ledgered)
    (reply,) = first.generate([request])
    assert reply.new_tokens == 4
    monkeypatch.setattr(again.inner.__class__, "generate", None)
    assert again.generate([request]) == [reply]


def test_a_model_is_known_by_its_files_or_by_what_an_endpoint_declares(tiny_decoder: Path) -> None:
    fake = FakeGenerator(name="wise")
    assert (as_teacher(fake).identity, as_teacher(fake).terms) == ("wise", "unknown")
    assert as_teacher(fake).open("a") is fake
    remote = Teacher(model="endpoint:wise@http://localhost:1/v1#n+revision=2")
    assert (remote.identity, remote.terms) == ("wise 2", "unknown")
    card = load_card(tiny_decoder)
    local = as_teacher(str(tiny_decoder))
    assert (local.identity, local.terms) == (card.fingerprint, card.licence)
    assert Teacher(model=str(tiny_decoder), licence="MIT").terms == "MIT"
    read = content((TASKS,), "teacher", "judge")
    key = {"models": {"teacher": card.fingerprint}, "prompts": [TASKS.id]}
    assert read({"teacher": str(tiny_decoder), "judge": None}) == key


@register("build", "tests.asks")
def asks(seed: int, *, teacher: Model) -> list[Example]:
    """Nothing; what counts is its parameter."""
    return []


def test_a_recipe_names_a_model_or_says_more_of_it() -> None:
    assert bind("build", "tests.asks", {"teacher": "tiny:decoder"}).params["teacher"] == "tiny:decoder"
    more = bind("build", "tests.asks", {"teacher": {"model": "tiny:decoder", "raw": True}})
    assert more.params["teacher"] == Teacher(model="tiny:decoder", raw=True)
    assert more.identity()["with"]["teacher"]["raw"] is True


def test_how_an_endpoint_is_asked_decides_no_key() -> None:
    def identity(**more: object) -> object:
        return bind("build", "tests.asks", {"teacher": {"model": "endpoint:m@http://h", **more}}).identity()

    assert identity(concurrency=3, price="1,2", spend="5", timeout=30) == identity()
    for other in ({"raw": True}, {"licence": "MIT"}, {"retry_failed": True}):
        assert identity(**other) != identity()


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        (3, "teacher: expected the reference of a model, such as starter:smollm2-135m-instruct"),
        ({"model": "x", "rwa": True}, "teacher.rwa: unknown key 'rwa'\n  do this: did you mean 'raw'?"),
        ({"model": "x", "concurrency": 0}, "teacher.concurrency: Input should be greater than 0 (got 0)"),
        ({"model": ["x"]}, "teacher.model: expected the reference of a model"),
    ],
)
def test_a_mistyped_teacher_is_told(teacher: object, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind("build", "tests.asks", {"teacher": teacher})
    assert told in str(error.value)


@pytest.mark.promise10
def test_a_teacher_that_is_not_there_or_cannot_talk_is_told(tiny_decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such model folder"):
        Author.of("method", "./nowhere", 0)
    with pytest.raises(ConfigError, match="it names no model or no address"):
        Author.of("method", "endpoint:x", 0)
    with pytest.raises(ModelError, match="decoder is a base model: it goes on with a text"):
        Author.of("method", str(tiny_decoder), 0)
    assert Author.of("method", Teacher(model=str(tiny_decoder), raw=True), 0).raw
    with pytest.raises(ConfigError, match="a price or a budget is for endpoints"):
        Author.of("method", Teacher(model=str(tiny_decoder), spend="1"), 0)


def test_half_a_character_in_a_reply_can_be_stored(tmp_path: Path) -> None:
    by = author(FakeGenerator(lambda _: "half \ud83d an emoji"))
    [reply] = by.answers([ask(by)])
    write_stream(tmp_path, [by.row(reply)])
    assert read_rows(tmp_path)[0].reply == "half \ufffd an emoji"
