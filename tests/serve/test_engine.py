"""The engine by itself: who gets a slot and when, who leaves, and what a failing model takes with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shinan.models.checkpoint import load_model
from shinan.models.decode import Row
from shinan.models.generator import Sampling
from shinan.models.reply import ReplyText
from shinan.models.tokenizer import Tokenizer
from shinan.serve.engine import BusyError, Engine, StoppingError, Ticket
from shinan.serve.reading import read
from tests.serve.serving import until


class Held:
    """A model that computes only while it is let: so that tests can look at the queue."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.go = threading.Event()
        self.calls = 0
        self.error: Exception | None = None
        model.get_input_embeddings().register_forward_pre_hook(self._hold)

    def _hold(self, *_: object) -> None:
        self.calls += 1
        assert self.go.wait(30)
        if self.error:
            error, self.error = self.error, None
            raise error


@pytest.fixture
def held(tiny_llama: Path) -> Held:
    return Held(load_model(tiny_llama, torch.float32))


@pytest.fixture
def engine(held: Held) -> Iterator[Engine]:
    made = Engine(held.model, slots=2, queue=2)
    made.start()
    yield made
    held.go.set()
    made.stop(within=0)
    assert made.join(30)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Tokenizer:
    return Tokenizer.load(tiny_llama)


@pytest.fixture
def ticket(tokenizer: Tokenizer) -> Any:
    def make(n: int = 5, read: int | None = None, prompt: tuple[int, ...] = (2, 70, 71)) -> Ticket:
        reply = ReplyText(tokenizer)
        return Ticket(Row(prompt, Sampling(n), 0, reply.take), reply, lambda: None, read)

    return make


def test_tickets_get_slots_in_the_order_in_which_they_came(engine: Engine, held: Held, ticket: Any) -> None:
    first = [ticket(3), ticket(9)]
    engine.submit(first)
    until(lambda: engine.busy == 2)
    later = [ticket(3), ticket(3)]
    engine.submit(later)
    assert (engine.waiting, [t.began > 0 for t in first + later]) == (2, [True, True, False, False])
    held.go.set()
    until(lambda: all(t.finish for t in first + later))
    assert first[0].began <= first[1].began < later[0].began <= later[1].began
    assert all(t.began <= t.first for t in first + later)
    assert [len(t.row.ids) for t in first + later] == [3, 9, 3, 3]
    assert (engine.busy, engine.waiting) == (0, 0)


def test_a_full_queue_takes_all_of_a_request_or_nothing(engine: Engine, held: Held, ticket: Any) -> None:
    engine.submit([ticket(), ticket()])
    until(lambda: engine.busy == 2)
    engine.submit([ticket()])
    with pytest.raises(BusyError) as busy:
        engine.submit([ticket(), ticket()])
    assert 1 <= busy.value.seconds <= 60
    assert engine.waiting == 1
    engine.submit([ticket()])
    with pytest.raises(BusyError):
        engine.submit([ticket()])


def test_who_leaves_frees_the_place_for_the_next(engine: Engine, held: Held, ticket: Any) -> None:
    running, waiting, last = [ticket(1000), ticket(1000)], ticket(), ticket(2)
    engine.submit(running)
    until(lambda: engine.busy == 2)
    engine.submit([waiting, last])
    engine.cancel([waiting])
    assert (waiting.finish, engine.waiting) == ("cancelled", 1)
    engine.cancel([running[0]])
    held.go.set()
    until(lambda: last.finish == "length")
    assert running[0].finish == "cancelled"
    assert len(running[0].row.ids) <= 1
    assert running[1].finish == ""
    engine.cancel([running[1], last])
    until(lambda: engine.busy == 0)
    assert (running[1].finish, last.finish) == ("cancelled", "length")


def test_a_model_that_fails_ends_those_at_hand_and_no_others(engine: Engine, held: Held, ticket: Any) -> None:
    held.error = RuntimeError("out of memory " + "x" * 1000)
    at_hand, waiting = [ticket(), ticket()], ticket(2)
    engine.submit(at_hand)
    until(lambda: engine.busy == 2)
    engine.submit([waiting])
    held.go.set()
    until(lambda: waiting.finish != "")
    assert [t.finish for t in (*at_hand, waiting)] == ["failed", "failed", "length"]
    assert at_hand[0].error.startswith("the model failed: RuntimeError: out of memory xxx")
    assert len(at_hand[0].error) < 400


class TestStopping:
    def test_what_is_nearly_done_is_finished(self, engine: Engine, held: Held, ticket: Any) -> None:
        tickets = [ticket(4) for _ in range(4)]
        engine.submit(tickets)
        held.go.set()
        engine.stop(within=30)
        with pytest.raises(StoppingError):
            engine.submit([ticket()])
        assert engine.join(30)
        assert [t.finish for t in tickets] == ["length"] * 4

    def test_what_takes_too_long_fails_with_a_sentence(self, engine: Engine, held: Held, ticket: Any) -> None:
        tickets = [ticket(2000) for _ in range(4)]
        engine.submit(tickets)
        until(lambda: engine.busy == 2)
        held.go.set()
        engine.stop(within=0.2)
        assert engine.join(30)
        assert {(t.finish, t.error) for t in tickets} == {("failed", "the server is stopping")}

    def test_an_idle_engine_ends_at_once(self, engine: Engine) -> None:
        engine.stop(within=1000)
        assert engine.join(30)


class TestReading:
    def test_stretches_are_the_whole(self, held: Held) -> None:
        held.go.set()
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(8, 264, (1, 300), generator=draw)
        stretches = list(read(held.model, ids[0].tolist(), top=2))
        assert [len(stretch) for stretch in stretches] == [128, 128, 44]
        tokens = [token for stretch in stretches for token in stretch]
        logits = held.model(ids).logits[0].log_softmax(-1).detach()
        exact = logits[:-1].gather(1, ids[0, 1:, None])[:, 0]
        assert [token.id for token in tokens] == ids[0].tolist()
        assert (tokens[0].logprob, tokens[0].top) == (None, [])
        torch.testing.assert_close(torch.tensor([t.logprob for t in tokens[1:]]), exact, atol=1e-4, rtol=0)
        assert [[i for i, _ in t.top] for t in tokens[1:]] == logits[:-1].topk(2).indices.tolist()

    def test_a_read_prompt_is_gone_on_with(self, engine: Engine, held: Held, ticket: Any) -> None:
        held.go.set()
        reading, plain, only = ticket(4, 0), ticket(4), ticket(0, 0)
        engine.submit([reading, plain, only])
        until(lambda: all(t.finish for t in (reading, plain, only)))
        assert reading.row.ids == plain.row.ids
        assert [token.id for token in reading.prompt] == [2, 70, 71] == [token.id for token in only.prompt]
        assert (only.row.ids, only.finish) == ([], "length")

    def test_a_reader_who_leaves_frees_the_slot(self, engine: Engine, held: Held, ticket: Any) -> None:
        reading = ticket(4, 0, prompt=(70,) * 2000)
        engine.submit([reading])
        until(lambda: held.calls == 1)
        engine.cancel([reading])
        held.go.set()
        until(lambda: reading.finish == "cancelled")
        assert held.calls == 1
        assert engine.busy == 0
