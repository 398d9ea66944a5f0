"""A model behind an endpoint, against a scripted server on real sockets: what it asks, and all that can go wrong."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shinan.core.calls import Amount, Limit
from shinan.core.errors import DataError, ModelError
from shinan.core.example import assistant, system, user
from shinan.core.ledger import Ledger
from shinan.models.books import Books, BudgetError
from shinan.models.endpoint import parse_endpoint
from shinan.models.generator import Completion, Likelihood, Question, Request, Sampling
from shinan.models.http import HttpGenerator
from shinan.models.sending import Patience
from tests.models.endpoint import HTML, SHAPE, TRUNCATED, Body, Fault, Json, ScriptedEndpoint, Status

QUICK = Patience(attempts=3, connect=1.0, silence=0.3, answer=1.0, outage=3.0)
Open = Callable[..., HttpGenerator]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


@pytest.fixture
def open_to(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`open_to(server, "n+logprobs", concurrency=4, **books)`; no key in the environment."""
    for name in ("SHINAN_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def make(
        server: ScriptedEndpoint | str, has: str = "", *, concurrency: int = 8, patience: Patience = QUICK, **books: Any
    ) -> HttpGenerator:
        ref = server if isinstance(server, str) else server.ref
        endpoint = parse_endpoint(f"{ref}#{has}")
        made = Books(ledger, endpoint.model, endpoint.revision, **books)
        return HttpGenerator(endpoint, made, concurrency=concurrency, patience=patience)

    return make


def ask(text: str, *, tokens: int = 8, **fields: Any) -> Request:
    return Request((user(text),), sampling=Sampling(max_new_tokens=tokens), **fields)


def texts(replies: list[Completion]) -> list[str]:
    return [reply.text for reply in replies]


# ---- what is asked ----


def test_a_conversation_is_asked_as_a_chat_and_a_prompt_as_a_completion(open_to: Open) -> None:
    sampling = Sampling(max_new_tokens=9, temperature=0.7, top_p=0.9, presence_penalty=1.5)
    talk = Request(
        (system("Be kind."), user("Hi"), assistant("Hi."), user("x END y")), stop=("END",), sampling=sampling
    )
    with ScriptedEndpoint() as server:
        replies = open_to(server).generate([talk, Request(prompt="Once upon", prefill=" a time", seed=7)])
    assert replies == [
        Completion("x ", finish="stop", prompt_tokens=3, new_tokens=2),
        Completion(" a timeOnce upon a time", finish="stop", prompt_tokens=4, new_tokens=4),
    ]
    bodies = {("messages" in body): body for body in server.calls}
    assert bodies == {
        True: {
            "model": "scripted",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "x END y"},
            ],
            "temperature": 0.7,
            "top_p": 0.9,
            "presence_penalty": 1.5,
            "max_tokens": 9,
            "stop": ["END"],
            "seed": 0,
        },
        False: {"model": "scripted", "prompt": "Once upon a time", "temperature": 0.0, "max_tokens": 256, "seed": 7},
    }


def test_replies_are_cut_at_the_limit_and_log_probabilities_are_told(open_to: Open) -> None:
    with ScriptedEndpoint() as server:
        chat, raw = open_to(server, "logprobs").generate([ask("one two three", tokens=2), Request(prompt="a b")])
    assert (chat.text, chat.finish, chat.logprobs, chat.new_tokens) == ("one two", "length", (-0.5, -0.5), 2)
    assert (raw.finish, raw.logprobs) == ("stop", (-0.5, -0.5))


def test_draws_for_one_prompt_share_a_call_where_the_endpoint_has_n(open_to: Open, ledger: Ledger) -> None:
    requests = [ask("a b", seed=number, sample=number) for number in range(3)] + [ask("c", seed=9)]
    with ScriptedEndpoint() as server:
        replies = open_to(server, "n", concurrency=1).generate(requests)
        assert [body.get("n", 1) for body in server.calls] == [3, 1]
        assert texts(replies) == ["a b", "a b", "a b", "c"]
        assert [ledger.spent("").tokens] == [2 + 6 + 1 + 1]  # the prompt of the three is paid once
        open_to(server.ref, "revision=2").generate(requests)
        assert [body.get("n", 1) for body in server.calls[2:]] == [1, 1, 1, 1]


def test_draws_that_are_asked_again_have_their_own_seed(open_to: Open) -> None:
    """An endpoint that gives fewer than were asked for, and keeps to seeds, must not say the same again."""
    requests = [ask("a", seed=number, sample=number) for number in range(4)]
    with ScriptedEndpoint(lambda body: f"seed {body['seed']}") as server:
        server.most_choices = 1
        replies = open_to(server, "n", concurrency=1).generate(requests)
        assert texts(replies) == [f"seed {number}" for number in range(4)]


def test_choices_are_taken_by_index(open_to: Open) -> None:
    answer = {"choices": [{"index": place, "message": {"content": f"{place}"}} for place in (2, 0, 1)]}
    with ScriptedEndpoint(faults=[Body(json.dumps(answer).encode())]) as server:
        replies = open_to(server, "n", concurrency=1).generate([ask("a", seed=n, sample=n) for n in range(3)])
    assert texts(replies) == ["0", "1", "2"]


def test_what_an_endpoint_is_not_declared_to_have_is_refused_before_anything_is_sent(open_to: Open) -> None:
    with ScriptedEndpoint() as server:
        generator = open_to(server, "n")
        with pytest.raises(
            ModelError, match=r"needs prefill.*\n  do this: do without.*end the reference in #n\+prefill"
        ):
            generator.generate([ask("a"), ask("b", prefill="Yes")])
        with pytest.raises(ModelError, match="needs top_k"):
            generator.generate([Request(prompt="a", sampling=Sampling(top_k=4))])
        with pytest.raises(ModelError, match="neither messages nor a prompt"):
            generator.generate([Request()])
        with pytest.raises(ModelError, match="asks for the user's next turn"):
            generator.generate([Request(as_user=True)])
        with pytest.raises(DataError, match="not a JSON schema"):
            generator.generate([ask("a", schema='{"type": "objekt"}')])
        assert server.calls == []
        generous = open_to(server, "prefill+top_k+max_completion_tokens")
        [reply] = generous.generate(
            [Request((user("a"),), prefill="Yes", sampling=Sampling(max_new_tokens=4, top_k=4))]
        )
    [body] = server.calls
    assert body["messages"][-1] == {"role": "assistant", "content": "Yes"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["top_k"], body["max_completion_tokens"], "max_tokens" in body) == (4, 4, False)
    assert reply.text == "YesYes"  # the scripted model repeats the last turn


def test_equal_requests_are_asked_once_and_everybody_is_told(open_to: Open) -> None:
    told: list[int] = []
    with ScriptedEndpoint() as server:
        replies = open_to(server).generate([ask("a"), ask("b"), ask("a")], lambda index, reply: told.append(index))
    assert texts(replies) == ["a", "b", "a"]
    assert sorted(told) == [0, 1, 2]
    assert len(server.calls) == 2


@pytest.mark.promise2
def test_an_answer_is_in_the_ledger_before_anybody_sees_it(open_to: Open, tmp_path: Path) -> None:
    with ScriptedEndpoint() as server:
        generator = open_to(server)
        requests = [ask(f"q{number}") for number in range(20)]
        seen: list[bool] = []

        def look(index: int, reply: Completion) -> None:
            other = Ledger(tmp_path)
            seen.append(generator.key(requests[index]) in other.find([generator.key(requests[index])]))
            other.close()

        generator.generate(requests, look)
    assert seen == [True] * 20


@pytest.mark.promise2
def test_a_run_is_replayed_byte_for_byte_when_the_endpoint_is_gone(open_to: Open) -> None:
    requests = [ask(f"指南 {number} 🧭 \n", seed=number) for number in range(30)] + [Request(prompt="a b")]
    with ScriptedEndpoint(faults=lambda number, body: Status(400) if "7" in str(body) else None) as server:
        first = open_to(server, "logprobs").generate(requests)
    assert {reply.finish for reply in first} == {"stop", "failed"}
    assert repr(open_to(server, "logprobs").generate(requests)) == repr(first)
    assert repr(open_to("endpoint:scripted@http://elsewhere.invalid/v1").generate(requests)) == repr(first)


def test_an_answer_in_chunks_is_read(open_to: Open) -> None:
    with ScriptedEndpoint(chunked=True) as server:
        assert texts(open_to(server).generate([ask("a"), ask("b")])) == ["a", "b"]


def test_several_endpoints_are_used_at_once(open_to: Open) -> None:
    with ScriptedEndpoint(delay=0.02) as one, ScriptedEndpoint(delay=0.02) as two:
        generator = open_to(f"endpoint:scripted@{one.url},{two.url}", concurrency=8)
        assert len(texts(generator.generate([ask(f"q{number}") for number in range(40)]))) == 40
        assert len(one.calls) + len(two.calls) == 40
        assert min(len(one.calls), len(two.calls)) >= 12
        assert max(one.most_at_once, two.most_at_once) <= 8


def test_when_one_endpoint_is_down_the_other_does_its_work(open_to: Open) -> None:
    with ScriptedEndpoint() as up, ScriptedEndpoint() as down:
        down.stop()
        generator = open_to(f"endpoint:scripted@{down.url},{up.url}")
        assert texts(generator.generate([ask(f"q{n}") for n in range(20)])) == [f"q{n}" for n in range(20)]
        down.start()


# ---- structured output ----

SCHEMA = json.dumps({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})


def test_where_the_server_has_it_the_schema_is_sent(open_to: Open) -> None:
    with ScriptedEndpoint(lambda body: '{"age": 4}') as server:
        assert texts(open_to(server, "schema").generate([ask("How old?", schema=SCHEMA)])) == ['{"age": 4}']
    [body] = server.calls
    assert body["messages"] == [{"role": "user", "content": "How old?"}]
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == json.loads(SCHEMA)


def test_where_it_has_not_it_is_asked_in_words_and_told_what_is_wrong(open_to: Open, ledger: Ledger) -> None:
    replies = iter(['It is "four".', '{"age": "four"}', 'Sure:\n```json\n{"age": 4}\n```'])
    with ScriptedEndpoint(lambda body: next(replies)) as server:
        generator = open_to(server)
        assert texts(generator.generate([ask("How old?", schema=SCHEMA)])) == ['{"age": 4}']
        assert texts(generator.generate([ask("How old?", schema=SCHEMA)])) == ['{"age": 4}']
    first, second, third = (body["messages"] for body in server.calls)
    assert first[0]["content"].startswith("How old?\n\nAnswer with one JSON value and nothing else.")
    assert SCHEMA in first[0]["content"]
    assert second[1] == {"role": "assistant", "content": 'It is "four".'}
    assert "it is no JSON" in second[2]["content"]
    assert third[1]["content"] == '{"age": "four"}'
    assert "$.age: 'four' is not of type 'integer'" in third[2]["content"]
    [call] = ledger.search("How old?")
    assert call.attempts == 3
    assert [loss.why for loss in ledger.losses()] == ["useless", "useless"]


def test_a_schema_never_satisfied_is_a_failure_with_its_cost(open_to: Open, ledger: Ledger) -> None:
    with ScriptedEndpoint(lambda body: "no") as server:
        [reply] = open_to(server).generate([ask("How old?", schema=SCHEMA)])
    assert reply.error.startswith("schema: no reply satisfied the schema; the last one: it is no JSON")
    [letter] = ledger.dead_letters()
    assert (letter.reason, letter.attempts, letter.used) == ("schema", 3, ledger.spent(""))
    assert letter.tokens > 3


def test_a_schema_fetches_nothing(open_to: Open) -> None:
    remote = json.dumps({"$ref": "http://127.0.0.1:9/schema.json"})
    with (
        ScriptedEndpoint(lambda body: "4") as server,
        pytest.raises(DataError, match="refers to what it does not hold"),
    ):
        open_to(server).generate([ask("How old?", schema=remote)])


# ---- scores ----


def test_options_are_scored_through_echo(open_to: Open) -> None:
    """The scripted endpoint's words have minus a tenth of their length; those of even length are the likeliest."""
    questions = [Question(prompt="Sky is", options=(" blue it", " grey")), Question(prompt="A", options=(" b",))]
    with ScriptedEndpoint() as server:
        generator = open_to(server, "echo")
        found = generator.score(questions)
        assert generator.score(questions) == found
        assert len(server.calls) == 3
    [blue, grey], [b] = found
    assert [blue, grey, b] == [
        Likelihood(-0.8, 2, False),
        Likelihood(-0.5, 1, False),
        Likelihood(-0.2, 1, True),
    ]


def test_what_cannot_be_scored_is_refused(open_to: Open) -> None:
    with ScriptedEndpoint(faults=[SHAPE] * 9) as server:
        question = Question(prompt="a", options=(" b",))
        with pytest.raises(ModelError, match="end the reference in #echo"):
            open_to(server).score([question])
        with pytest.raises(ModelError, match="raw prompts only"):
            open_to(server, "echo").score([Question(messages=(user("a"),), options=("b",))])
        assert server.calls == []
        with pytest.raises(ModelError, match="scripted: 1 of 1 options could not be scored: shape: "):
            open_to(server, "echo").score([question])


# ---- what goes wrong ----

FAULTS: dict[str, tuple[Fault, str]] = {
    "server": (Status(500, "boom\x1b[2J"), "the endpoint answered 500: boom [2J"),
    "refused": (Status(400, "context length is 8"), "the endpoint answered 400: context length is 8"),
    "html": (HTML, "a web page came in place of an answer: check the address"),
    "truncated": (TRUNCATED, "the answer is cut off or damaged: 62 bytes that are no JSON"),
    "cut": ("cut", "the answer is cut off: "),
    "shape": (SHAPE, "the answer is not of the protocol's form: no choices"),
    "list": (Body(b"[1]"), "the answer is not of the protocol's form: a list in place of an object"),
    "textless": (Body(b'{"choices": [{}]}'), "the answer is not of the protocol's form: a choice without text"),
    "error": (Body(b'{"error": {"message": "overloaded"}}'), "no choices, but overloaded"),
    "stall": ("stall", "the endpoint sent nothing for 0.3 s"),
    "drip": ("drip", "the answer was not whole after 1 s"),
    "reset": ("reset", "the connection broke: "),
    "large": ("large", "the answer is longer than 10 MB"),
    "deep": (Body(b"[" * 200_000), "the answer is cut off or damaged"),
    "filter": (
        Body(b'{"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}'),
        "the endpoint's content filter cut the reply",
    ),
}


@pytest.mark.promise10
@pytest.mark.promise2
@pytest.mark.parametrize("name", FAULTS)
def test_a_request_that_fails_takes_no_other_with_it(open_to: Open, ledger: Ledger, name: str) -> None:
    fault, sentence = FAULTS[name]
    with ScriptedEndpoint(faults=lambda _, body: fault if "bad" in str(body) else None) as server:
        generator = open_to(server)
        start = time.monotonic()
        replies = generator.generate([ask("a"), ask("bad"), ask("b"), Request(prompt="c")])
        assert time.monotonic() - start < 12  # three attempts of a second each, and the rests between them
        assert texts(replies) == ["a", "", "b", "c"]
        assert replies[1].finish == "failed"
        assert sentence in replies[1].error
        [letter] = ledger.dead_letters()
        assert sentence in letter.error
        assert replies[1].error == f"{letter.reason}: {letter.error}"
        asked = len(server.calls)
        assert generator.generate([ask("bad"), ask("a")]) == [replies[1], replies[0]]
        assert len(server.calls) == asked  # the failure is its answer, until it is retried
        server.faults = ()
        again = open_to(server, retry_failed=True)
        assert texts(again.generate([ask("a"), ask("bad")])) == ["a", "bad"]
        assert ledger.dead_letters() == []
        assert ledger.in_flight() == 0


@pytest.mark.parametrize("fault", [Status(500), Status(502), HTML, TRUNCATED, SHAPE, "cut", "reset", "stall"])
def test_what_may_pass_is_tried_again(open_to: Open, ledger: Ledger, fault: Fault) -> None:
    with ScriptedEndpoint(faults=[fault, fault]) as server:
        assert texts(open_to(server).generate([ask("a")])) == ["a"]
    [call] = ledger.search("")
    assert call.attempts == 3


def test_attempts_that_may_have_been_paid_are_charged_at_the_most_they_can_cost(open_to: Open, ledger: Ledger) -> None:
    with ScriptedEndpoint(faults=["stall", Status(500), "cut"]) as server:
        generator = open_to(server, patience=QUICK._replace(attempts=4))
        generator.generate([ask("a b", tokens=50)])
    reserve = len("a b") + 16 + 50
    assert [(loss.why, loss.used.tokens) for loss in ledger.losses()] == [("uncertain", reserve)] * 2
    assert ledger.spent("").tokens == 2 * reserve + 2 + 2


def test_without_a_bill_an_answer_costs_what_was_reserved(open_to: Open, ledger: Ledger) -> None:
    with ScriptedEndpoint(usage=False) as server:
        [reply] = open_to(server).generate([ask("a b", tokens=50)])
    assert (reply.prompt_tokens, reply.new_tokens) == (0, 0)
    assert ledger.spent("").tokens == len("a b") + 16 + 50


@pytest.mark.promise2
def test_pushing_back_halves_what_is_in_flight_and_loses_nothing(open_to: Open, ledger: Ledger) -> None:
    """A burst: all 16 that are out together are refused once, then the endpoint allows 4 at a time."""

    def busy(number: int, body: Json) -> Fault | None:
        return Status(429, retry_after=0.05) if number < 16 or server.at_once > 4 else None

    with ScriptedEndpoint(faults=busy, delay=0.01) as server:
        replies = open_to(server, concurrency=16).generate([ask(f"q{number}") for number in range(80)])
        assert texts(replies) == [f"q{number}" for number in range(80)]
        assert max(server.answered.values()) == 1
        refused = len(server.calls) - 80
    assert 16 <= refused <= 60
    assert ledger.losses() == []
    assert {call.attempts for call in ledger.search("", 100)} >= {1, 2}


@pytest.mark.parametrize(("after", "seconds"), [(1.2, 1.2), ("not a date", 0.25), (None, 0.25), (0, 0)])
def test_retry_after_is_heeded(open_to: Open, after: float | str | None, seconds: float) -> None:
    """Who does not say how long gets between a quarter and half a second."""
    with ScriptedEndpoint(faults=[Status(429, retry_after=after)]) as server:
        start = time.monotonic()
        assert texts(open_to(server).generate([ask("a")])) == ["a"]
        assert seconds <= time.monotonic() - start < seconds + 0.9


def test_one_that_only_pushes_back_is_given_up_and_asked_again_the_next_time(open_to: Open, ledger: Ledger) -> None:
    with ScriptedEndpoint(faults=lambda *_: Status(429, "slow down", retry_after=0.01)) as server:
        generator = open_to(server, patience=QUICK._replace(outage=0.3))
        with pytest.raises(ModelError, match=r"answered 429: slow down\n  do this: check the address"):
            generator.generate([ask("a")])
        assert len(server.calls) > QUICK.attempts
        assert [letter.reason for letter in ledger.dead_letters()] == ["unreachable"]
        server.faults = ()
        assert texts(generator.generate([ask("a")])) == ["a"]


FATAL: dict[str, tuple[Json, str]] = {
    "key": ({"key": "secret"}, "the endpoint answered 401: .*\n  do this: set SHINAN_API_KEY in the environment"),
    "model": (
        {"models": ["llama", "gemma"]},
        r"has no model 'scripted' \(the endpoint answered 404: .*\n  do this: use one of: llama, gemma",
    ),
    "url": (
        {"faults": lambda *_: Status(404, "Not Found")},
        "answered 404: Not Found\n  do this: check the address: it often",
    ),
    "moved": ({"faults": lambda *_: Status(301)}, "answered 301.*\n  do this: check the address"),
    "credit": (
        {"faults": lambda *_: Status(429, "You exceeded your quota", error_code="insufficient_quota")},
        "answered 429: You exceeded your quota insufficient_quota\n  do this: add credit",
    ),
}


@pytest.mark.promise10
@pytest.mark.parametrize("name", FATAL)
def test_what_no_request_survives_ends_the_work_with_a_sentence(open_to: Open, ledger: Ledger, name: str) -> None:
    script, sentence = FATAL[name]
    with ScriptedEndpoint(**script) as server:
        generator = open_to(server, concurrency=2)
        with pytest.raises(ModelError, match=sentence):
            generator.generate([ask(f"q{number}") for number in range(50)])
        assert len(server.calls) <= 4  # not all fifty
        assert ledger.dead_letters()
        server.key, server.models, server.faults = "", (), ()
        assert len(texts(generator.generate([ask(f"q{number}") for number in range(50)]))) == 50
    assert ledger.dead_letters() == []  # such a failure is not taken for the request's answer


@pytest.mark.promise10
@pytest.mark.parametrize("address", ["http://127.0.0.1:1/v1", "http://no-such-host.invalid/v1"])
def test_an_address_where_nobody_is(open_to: Open, ledger: Ledger, address: str) -> None:
    generator = open_to(f"endpoint:m@{address}", patience=QUICK._replace(outage=0.4))
    with pytest.raises(ModelError, match=rf"{address}: no connection: .*\n  do this: check the address"):
        generator.generate([ask("a")])
    assert [letter.reason for letter in ledger.dead_letters()] == ["unreachable"]


@pytest.mark.promise10
@pytest.mark.promise2
def test_a_server_that_restarts_in_the_middle(open_to: Open, ledger: Ledger) -> None:
    with ScriptedEndpoint(delay=0.02) as server:
        restarted = threading.Event()

        def restart() -> None:
            while len(server.calls) < 30:
                time.sleep(0.005)
            server.stop()
            time.sleep(0.5)
            server.start()
            restarted.set()

        threading.Thread(target=restart).start()
        replies = open_to(server).generate([ask(f"q{number}") for number in range(100)])
        assert restarted.is_set()
        assert texts(replies) == [f"q{number}" for number in range(100)]
        assert len(server.calls) <= 108  # at most what was in flight is asked again
        assert {loss.why for loss in ledger.losses()} <= {"uncertain"}


@pytest.mark.promise2
def test_after_an_interrupt_what_was_in_flight_is_kept(open_to: Open, ledger: Ledger) -> None:
    main = threading.main_thread().ident
    assert main
    with ScriptedEndpoint(delay=1.0) as server:
        generator = open_to(server, concurrency=4, patience=Patience())
        threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            generator.generate([ask(f"q{number}") for number in range(40)])
        assert len(server.calls) == len(ledger.search("", 100)) == 4
        server.delay = 0
        assert len(texts(generator.generate([ask(f"q{number}") for number in range(40)]))) == 40
        assert len(server.calls) == 40


@pytest.mark.promise2
def test_a_failure_in_one_call_does_not_stop_another_of_the_same_generator(open_to: Open) -> None:
    def fail(_: int, body: Json) -> Fault | None:
        return Status(401) if "bad" in str(body) else None

    with ScriptedEndpoint(faults=fail, delay=0.02) as server:
        generator = open_to(server, concurrency=4)
        found: list[list[Completion]] = []
        other = threading.Thread(target=lambda: found.append(generator.generate([ask(f"q{n}") for n in range(40)])))
        other.start()
        with pytest.raises(ModelError):
            generator.generate([ask("bad")] * 3)
        other.join()
        assert texts(found[0]) == [f"q{n}" for n in range(40)]
        assert server.most_at_once <= 4


def test_half_a_character_is_no_request(open_to: Open, ledger: Ledger) -> None:
    with ScriptedEndpoint() as server:
        replies = open_to(server).generate([ask("a\ud800"), ask("b")])
        assert len(server.calls) == 1
    assert replies[0].error == "text: the request holds half a character (a lone surrogate): surrogates not allowed"
    assert replies[1].text == "b"
    assert ledger.spent("").tokens == 2


def test_half_a_character_in_an_answer_is_kept_as_it_is(open_to: Open) -> None:
    with ScriptedEndpoint(lambda body: "a\ud800") as server:
        generator = open_to(server)
        assert texts(generator.generate([ask("a")])) == texts(generator.generate([ask("a")])) == ["a\ud800"]


# ---- keys ----


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    open_to: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHINAN_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-others")
    told: list[str] = []
    with ScriptedEndpoint(
        faults=lambda number, body: Status(400, "bad key sk-very-secret") if number else None
    ) as server:
        generator = open_to(server, concurrency=1)
        told += [repr(reply) for reply in generator.generate([ask("a"), ask("b")])]
        monkeypatch.setenv("SHINAN_API_KEY", " sk-other\n")
        server.key = "sk-right"
        server.faults = ()
        with pytest.raises(ModelError) as caught:
            generator.generate([ask("c")])
        monkeypatch.delenv("SHINAN_API_KEY")
        server.key = ""
        generator.generate([ask("d")])
    assert server.authorizations == ["Bearer sk-very-secret"] * 2 + ["Bearer sk-other", ""]
    assert "bad key [key]" in told[1]
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.sqlite*"))
    for secret in ("sk-very-secret", "sk-other", "sk-not"):
        assert secret not in str(caught.value) + "".join(told)
        assert secret.encode() not in kept


def test_a_placeholder_of_a_key_is_a_word_like_any_other(open_to: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_API_KEY", "token")
    with ScriptedEndpoint(faults=[None, Status(400, "your key token is wrong")]) as server:
        kept, refused = open_to(server, concurrency=1).generate([ask("a token"), ask("b")])
    assert (kept.text, kept.prompt_tokens) == ("a token", 2)
    assert "your key [key] is wrong" in refused.text or "your key [key] is wrong" in repr(refused)


# ---- budgets ----


@pytest.mark.promise2
@pytest.mark.parametrize("concurrency", [1, 7])
def test_a_budget_stops_the_work_and_a_larger_one_goes_on(open_to: Open, ledger: Ledger, concurrency: int) -> None:
    """Each request reserves 2 + 16 + 4 tokens and takes 2."""
    requests = [ask(f"q{number % 10}", tokens=4, sample=number) for number in range(60)]
    with ScriptedEndpoint() as server:

        def run(limit: int) -> list[Completion]:
            generator = open_to(server, concurrency=concurrency, account="mine", limit=Limit(tokens=limit))
            return generator.generate(requests)

        with pytest.raises(BudgetError) as caught:
            run(60)
        spent, done, left = map(
            int, re.findall(r"\((\d+) of 60 tokens\): (\d+) requests are answered, (\d+)", str(caught.value))[0]
        )
        assert done + left == 60
        assert spent == 2 * done == ledger.spent("mine").tokens
        assert 60 - 22 < spent <= 60  # the next one might not have fitted
        with pytest.raises(BudgetError):
            run(60)
        assert len(server.calls) == done
        assert len(run(200)) == 60
        assert len(server.calls) == 60
        assert ledger.spent("mine") == Amount(120)


@pytest.mark.promise2
def test_two_generators_share_a_budget(open_to: Open, ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path)
    stopped: list[str] = []
    with ScriptedEndpoint(delay=0.01) as server:

        def run(books: Ledger, first: int) -> None:
            endpoint = parse_endpoint(server.ref)
            generator = HttpGenerator(endpoint, Books(books, "scripted", account="mine", limit=Limit(tokens=100)))
            try:
                generator.generate([ask(f"q{number}", tokens=4) for number in range(first, first + 60)])
            except BudgetError as error:
                stopped.append(str(error))

        threads = [threading.Thread(target=run, args=pair) for pair in ((ledger, 0), (other, 100))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(stopped) == 2
        assert 100 - 25 < ledger.spent("mine").tokens == 2 * len(server.calls) <= 100
    other.close()
