"""The ledger before any Generator: what was answered once is never asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.calls import Amount, Turn
from shinan.core.errors import DataError, ModelError
from shinan.core.example import Message, Part, user
from shinan.core.ledger import Ledger
from shinan.models.books import Books, Ledgered, failure
from shinan.models.estimate import estimate, local_tokenizer
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Completion, Done, Generator, Likelihood, Question, Request, Sampling
from shinan.models.prices import Price


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


def ledgered(ledger: Ledger, fake: Generator, **books: object) -> Ledgered:
    return Ledgered(fake, Books(ledger, fake.name, **books))  # type: ignore[arg-type]


# ---- keys ----

PLAIN = Request((user("2 + 2?"),))


def test_the_key_is_that_of_what_is_asked_and_nothing_else(ledger: Ledger) -> None:
    books = Books(ledger, "m")
    same = Request((Message("user", (Part("2 + 2", "text"), Part("?")), train=False),))
    assert books.asked(PLAIN) == books.asked(same)
    assert Books(ledger, "m", account="x", price=Price(Decimal(1), Decimal(2)), retry_failed=True).asked(PLAIN) == (
        books.asked(PLAIN)
    )
    others = [
        Books(ledger, "n").asked(PLAIN),
        Books(ledger, "m", "2").asked(PLAIN),
        books.asked(Request(prompt="2 + 2?")),
        books.asked_option(Question(PLAIN.messages), "4"),
        *(
            books.asked(replace(PLAIN, **change))
            for change in (
                {"prefill": "4"},
                {"stop": ("\n",)},
                {"schema": "{}"},
                {"seed": 1},
                {"sample": 1},
                {"sampling": Sampling(max_new_tokens=4)},
                {"sampling": Sampling(temperature=0.5)},
                {"sampling": Sampling(top_p=0.5)},
                {"sampling": Sampling(top_k=5)},
            )
        ),
    ]
    assert len({asked.key for asked in [books.asked(PLAIN), *others]}) == 1 + len(others)


def test_what_is_empty_is_no_part_of_the_key(ledger: Ledger) -> None:
    """Fields that requests get in later versions, empty by default, change no key of what was paid before."""
    written = '{"messages":[["user","2 + 2?"]],"sampling":{"max_new_tokens":256,"top_p":1.0}}'
    digest = hashlib.blake2b(f'["m","r1",{written}]'.encode(), digest_size=16).hexdigest()
    assert Books(ledger, "m", "r1").asked(PLAIN) == (f"b2:{digest}", written)


# ---- what is kept ----


@given(
    st.builds(
        Completion,
        st.text(st.characters(exclude_categories=())),
        st.lists(st.integers(0, 10**6)).map(tuple),
        st.lists(st.floats(-100, 0)).map(tuple),
        st.sampled_from(["stop", "length"]),
        st.integers(0, 1000),
        st.integers(0, 1000),
    )
)
def test_a_completion_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, reply: Completion) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    books = Books(ledger, "m")
    books.settle(books.asked(PLAIN), reply)()
    assert books.find([books.asked(PLAIN)]) == [reply]
    ledger.close()


@pytest.mark.promise2
def test_what_was_answered_is_not_asked_again(ledger: Ledger) -> None:
    fake = FakeGenerator()
    requests = [Request(prompt=text) for text in "abca"]
    told: list[tuple[int, str]] = []
    first = ledgered(ledger, fake).generate(requests, lambda index, reply: told.append((index, reply.text)))
    assert [reply.text for reply in first] == list("abca")
    assert sorted(told) == [(0, "a"), (1, "b"), (2, "c"), (3, "a")]
    assert [request.prompt for request in fake.requests] == list("abc")
    other = FakeGenerator(lambda request: "asked again", name=fake.name)
    assert ledgered(ledger, other).generate(requests) == first
    assert other.requests == []
    [new] = ledgered(ledger, other, revision="2").generate(requests[:1])
    assert new.text == "asked again"


@pytest.mark.promise2
def test_what_came_before_a_failure_is_kept(ledger: Ledger) -> None:
    fake = FakeGenerator(fail_on=3)
    requests = [Request(prompt=text) for text in "abcd"]
    with pytest.raises(ModelError):
        ledgered(ledger, fake).generate(requests)
    assert [reply.text for reply in ledgered(ledger, fake).generate(requests)] == list("abcd")
    assert [request.prompt for request in fake.requests] == ["a", "b", "c", "c", "d"]


class Failing:
    """Fails to answer, without an exception."""

    name = "fake"

    def __init__(self) -> None:
        self.asked = 0

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """Fail."""
        replies = [failure("timeout", "nothing came") for _ in requests]
        for index, reply in enumerate(replies):
            self.asked += 1
            if done:
                done(index, reply)
        return replies

    def score(self, questions: Sequence[Question]) -> list[tuple[Likelihood, ...]]:
        """Not asked."""
        raise NotImplementedError


def test_a_failure_is_the_answer_until_it_is_retried(ledger: Ledger) -> None:
    failing = Failing()
    [first] = ledgered(ledger, failing).generate([PLAIN])
    assert first == Completion("", finish="failed", error="timeout: nothing came")
    assert ledgered(ledger, failing).generate([PLAIN]) == [first]
    assert failing.asked == 1
    [again] = ledgered(ledger, FakeGenerator(), retry_failed=True).generate([PLAIN])
    assert again.text == "2 + 2?"
    assert ledger.dead_letters() == []


def test_an_answer_costs_what_its_tokens_do(ledger: Ledger) -> None:
    """A generator without flights of its own (no endpoint): prompt and reply have three words each."""
    price = Price(Decimal(1), Decimal(10))
    ledgered(ledger, FakeGenerator(), account="mine", price=price).generate([PLAIN])
    assert ledger.spent("mine") == Amount(6, 3 * 1000 + 3 * 10_000)


def test_provenance_names_the_key(ledger: Ledger) -> None:
    teacher = ledgered(ledger, FakeGenerator())
    teacher.generate([PLAIN])
    assert ledger.find([teacher.key(PLAIN)])


def test_a_known_turn_is_answered_from_the_ledger(ledger: Ledger) -> None:
    books = Books(ledger, "m")
    asked = books.asked(PLAIN)
    with pytest.raises(KeyError):
        books.answer(asked)
    assert books.begin(asked, 10, 10) is Turn.GO
    books.settle(asked, Completion("4"))()
    assert books.begin(asked, 10, 10) is Turn.KNOWN
    assert books.answer(asked) == Completion("4")


@pytest.mark.promise2
def test_an_option_that_was_scored_is_not_scored_again(ledger: Ledger) -> None:
    fake = FakeGenerator({"Sky is": " blue", "A": "x"})
    sky = Question(prompt="Sky is", options=(" blue", " grey"))
    more = Question(prompt="Sky is", options=(" grey", " red", " blue"))
    other = Question(prompt="A", options=("b",))
    first = ledgered(ledger, fake).score([sky, other, sky])
    assert first == fake.score([sky, other, sky])
    known = ledgered(ledger, FakeGenerator({}, name=fake.name))
    assert known.score([sky, other]) == first[:2]
    with pytest.raises(ModelError, match="no reply to 'Sky is'"):
        known.score([more])
    assert ledgered(ledger, fake).score([more]) == fake.score([more])
    assert len(ledger.search("option")) == 4
    with pytest.raises(DataError, match="it has no options"):
        known.score([Question(prompt="a")])


# ---- estimates ----


def test_an_estimate_counts_what_is_left_to_ask(ledger: Ledger) -> None:
    books = Books(ledger, "fake", price=Price(Decimal(1), Decimal(10)))
    requests = [Request(prompt="a" * 120, sampling=Sampling(max_new_tokens=50), sample=n) for n in (0, 1, 2, 2)]
    Ledgered(FakeGenerator(), books).generate(requests[:1])
    found = estimate(requests, books, None)
    assert (found.requests, found.known, found.counted) == (3, 1, False)
    assert found.prompt_tokens == (2 * 20, 2 * 30, 2 * 60)
    assert found.most_new_tokens == 100
    assert found.low == Amount(42, 40 * 1000 + 2 * 10_000)
    assert found.high == Amount(220, 120 * 1000 + 100 * 10_000)
    counted = estimate(requests, books, lambda text: 7)
    assert (counted.counted, counted.prompt_tokens) == (True, (28, 28, 28))
    assert estimate(requests[:1], books, None).high == Amount()


def test_tokens_are_counted_where_the_models_tokenizer_is_here(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model has a token for each byte."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path))
    assert local_tokenizer("mine") is None
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(tiny_decoder)
    for name in ("mine", str(tiny_decoder)):
        count = local_tokenizer(name)
        assert count
        assert count("指南") == 6


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 3))
def test_a_band_holds_its_guess(text: str, turns: int) -> None:
    ledger = Ledger.__new__(Ledger)
    ledger.find = lambda keys: {}  # type: ignore[method-assign]
    request = Request(tuple(user(text) for _ in range(turns)))
    band = estimate([request], Books(ledger, "m"), None).prompt_tokens
    assert band.low <= band.likely <= band.high
