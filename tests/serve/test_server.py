"""The server as OpenAI's own client sees it: every answer is what the model gives when it is asked alone."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from shinan.core.example import Message, assistant, system, user
from shinan.core.hashing import derive_seed
from shinan.models.generator import Completion, Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.serve.metrics import Metrics
from shinan.serve.run import Server
from shinan.serve.served import Served
from tests.serve.serving import TALK, ask, chat, complete, events, served, serving

MAKE = {"system": system, "user": user, "assistant": assistant}


@pytest.fixture(scope="module")
def model(tiny_decoder: Path) -> Served:
    return served(tiny_decoder)


@pytest.fixture(scope="module")
def server(model: Served) -> Iterator[Server]:
    with serving(model) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def alone(model: Served) -> Callable[..., Completion]:
    """Asks the model itself, one request at a time."""
    local = LocalGenerator("tiny", model.model, model.chat)

    def ask_alone(messages: list[dict[str, Any]] | None = None, **asked: Any) -> Completion:
        penalty = asked.pop("presence_penalty", 0.0)
        how = Sampling(
            asked.pop("n", 8), asked.pop("temperature", 0.0), asked.pop("top_p", 1.0), presence_penalty=penalty
        )
        talk = tuple(message(turn) for turn in messages or [])
        [reply] = local.generate([Request(talk, sampling=how, **asked)])
        return reply

    return ask_alone


def message(turn: dict[str, Any]) -> Message:
    return MAKE[turn["role"]](turn["content"])


def talk_of(number: int) -> list[dict[str, Any]]:
    """Conversations of many lengths."""
    draw = random.Random(number)
    words = " ".join(draw.choice(["blue", "猫", "seven", "é", "why"]) for _ in range(draw.randrange(1, 30)))
    return [{"role": "system", "content": "Be brief."}] * (number % 2) + [{"role": "user", "content": words}]


class TestChat:
    @pytest.mark.promise4
    def test_an_answer_is_what_the_model_says_alone(
        self, client: openai.OpenAI, alone: Callable[..., Completion]
    ) -> None:
        for number in range(6):
            expected = alone(talk_of(number))
            done = client.chat.completions.create(model="tiny", messages=talk_of(number), temperature=0, max_tokens=8)  # type: ignore[arg-type]
            [choice] = done.choices
            assert (choice.message.content, choice.finish_reason) == (expected.text, expected.finish)
            assert choice.message.role == "assistant"
            assert done.usage is not None
            counts = done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens
            assert counts == (expected.prompt_tokens, 8, expected.prompt_tokens + 8)
            assert done.model == "decoder"

    def test_a_stream_is_the_same_in_pieces(self, client: openai.OpenAI) -> None:
        how: Any = {"model": "tiny", "messages": talk_of(3), "temperature": 1.3, "seed": 5, "max_tokens": 60}
        whole = client.chat.completions.create(**how)
        chunks = list(client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
        assert chunks[0].choices[0].delta.role == "assistant"
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
        assert len(pieces) > 10
        assert "".join(pieces) == whole.choices[0].message.content
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
        assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
        assert len({chunk.id for chunk in chunks}) == 1

    def test_without_being_asked_a_stream_tells_no_usage(self, server: Server) -> None:
        assert all(chunk["choices"] for chunk in events(chat(server, stream=True).text))

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_stop_string_ends_the_answer_and_no_part_of_it_is_told(
        self, server: Server, alone: Callable[..., Completion], stream: bool
    ) -> None:
        how: dict[str, Any] = {"temperature": 1.0, "seed": 11}
        free = alone(TALK, n=40, **how).text
        at = next(
            i for i in range(4, len(free)) if free.index(free[i : i + 2]) == i and "\ufffd" not in free[i : i + 3]
        )
        for stop in (free[at : at + 2], [free[at : at + 2], "never in here"]):
            reply = chat(server, max_tokens=40, stop=stop, stream=stream, **how)
            if stream:
                chunks = [chunk["choices"][0] for chunk in events(reply.text)]
                text = "".join(chunk["delta"].get("content", "") for chunk in chunks)
                finish = chunks[-1]["finish_reason"]
            else:
                [choice] = reply.json["choices"]
                text, finish = choice["message"]["content"], choice["finish_reason"]
            assert (text, finish) == (free[:at], "stop")

    def test_each_choice_has_its_own_draws_and_the_first_those_of_the_seed(
        self, server: Server, alone: Callable[..., Completion]
    ) -> None:
        choices = chat(server, n=3, temperature=1.0, seed=7).json["choices"]
        seeds = [7, derive_seed(7, "choice", 1), derive_seed(7, "choice", 2)]
        expected = [alone(TALK, temperature=1.0, seed=seed).text for seed in seeds]
        assert [choice["message"]["content"] for choice in choices] == expected
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        assert len(set(expected)) == 3
        usage = chat(server, n=3, temperature=1.0, seed=7).json["usage"]
        assert usage == chat(server).json["usage"] | {
            "completion_tokens": 24,
            "total_tokens": usage["prompt_tokens"] + 24,
        }

    def test_the_choices_of_a_stream_come_apart(self, server: Server) -> None:
        how: dict[str, Any] = {"n": 3, "temperature": 1.0, "seed": 7, "max_tokens": 20}
        texts = ["", "", ""]
        for chunk in events(chat(server, stream=True, **how).text):
            [choice] = chunk["choices"]
            texts[choice["index"]] += choice["delta"].get("content", "")
        assert texts == [choice["message"]["content"] for choice in chat(server, **how).json["choices"]]

    def test_without_a_seed_answers_differ(self, server: Server) -> None:
        texts = {chat(server, temperature=1.0).json["choices"][0]["message"]["content"] for _ in range(5)}
        assert len(texts) > 1

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_the_limit_goes_by_both_names(self, server: Server, name: str) -> None:
        reply = chat(server, **{"max_tokens": None, name: 3})
        assert reply.json["usage"]["completion_tokens"] == 3

    def test_without_a_limit_the_context_is_the_limit(self, model: Served, tiny_decoder: Path) -> None:
        with serving(served(tiny_decoder, context=50)) as short:
            usage = chat(short, max_tokens=None, stop=None).json["usage"]
        assert usage["total_tokens"] == 50

    @pytest.mark.parametrize("stream", [False, True])
    def test_logprobs_are_those_of_the_model(
        self, server: Server, model: Served, alone: Callable[..., Completion], stream: bool
    ) -> None:
        expected = alone(TALK, temperature=1.0, seed=3)
        reply = chat(server, temperature=1.0, seed=3, logprobs=True, top_logprobs=2, stream=stream)
        choices = [chunk["choices"][0] for chunk in events(reply.text)] if stream else reply.json["choices"]
        entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
        assert [entry["logprob"] for entry in entries] == pytest.approx(expected.logprobs, abs=1e-4)
        assert "".join(entry["token"] for entry in entries) == expected.text
        assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)
        ids = torch.tensor([[*model.chat.render_prompt([user("Name a colour.")]), *expected.ids]])
        logits = model.model(ids).logits[0, -9:-1].log_softmax(-1)
        best = [[top["logprob"] for top in entry["top_logprobs"]] for entry in entries]
        torch.testing.assert_close(torch.tensor(best), logits.topk(2).values, atol=1e-4, rtol=0)

    @pytest.mark.promise4
    def test_a_last_turn_of_the_assistant_is_gone_on_with(
        self, server: Server, alone: Callable[..., Completion]
    ) -> None:
        reply = chat(server, messages=[*TALK, {"role": "assistant", "content": "Blu"}])
        assert "Blu" + reply.json["choices"][0]["message"]["content"] == alone(TALK, prefill="Blu").text

    def test_vllms_options_for_that_may_not_say_otherwise(self, server: Server) -> None:
        begun = [*TALK, {"role": "assistant", "content": "Blu"}]
        names = ("continue_final_message", "add_generation_prompt")
        for talk, goes_on in ((begun, True), (TALK, False)):
            right = dict(zip(names, (goes_on, not goes_on), strict=True))
            assert chat(server, messages=talk, **right).json["choices"] == chat(server, messages=talk).json["choices"]
            for name, value in right.items():
                assert name in chat(server, messages=talk, **{name: not value}).error

    def test_a_turn_may_come_in_parts(self, server: Server) -> None:
        parts = [{"type": "text", "text": "Name a "}, {"type": "text", "text": "colour."}]
        whole, split = (chat(server, messages=[{"role": "user", "content": c}]) for c in ("Name a colour.", parts))
        assert split.json["choices"] == whole.json["choices"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_schema_is_kept_to(self, server: Server, alone: Callable[..., Completion], stream: bool) -> None:
        schema = {
            "type": "object",
            "properties": {"colour": {"enum": ["blue", "猫"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["colour", "n"],
            "additionalProperties": False,
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
        how: dict[str, Any] = {"temperature": 1.0, "seed": 3}
        reply = chat(server, response_format=wanted, max_tokens=60, n=2, stream=stream, **how)
        texts = ["", ""]
        for part in events(reply.text) if stream else [reply.json]:
            for choice in part["choices"]:
                texts[choice["index"]] += choice.get("delta", choice.get("message")).get("content", "")
        for text in texts:
            value = json.loads(text)
            assert (value.keys(), value["colour"] in ("blue", "猫")) == ({"colour", "n"}, True)
        assert texts[0] == alone(TALK, schema=json.dumps(schema), n=60, **how).text

    def test_what_was_said_is_penalised_as_alone(self, server: Server, alone: Callable[..., Completion]) -> None:
        how = {"temperature": 1.0, "seed": 5}
        plain, bound = (alone(TALK, n=24, presence_penalty=penalty, **how).text for penalty in (0.0, 2.0))
        reply = chat(server, max_tokens=24, presence_penalty=2, **how)
        assert reply.json["choices"][0]["message"]["content"] == bound != plain

    def test_options_without_effect_may_be_sent_if_they_ask_for_nothing(self, server: Server) -> None:
        fields: dict[str, Any] = {
            "frequency_penalty": 0,
            "presence_penalty": 0.0,  # which would have an effect if it were not 0
            "logit_bias": None,
            "tools": [],
            "user": None,
        }
        assert chat(server, **fields).json["choices"] == chat(server).json["choices"]


class TestCompletions:
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_text_goes_on_as_the_model_goes_on_alone(
        self, server: Server, alone: Callable[..., Completion], stream: bool
    ) -> None:
        expected = alone(prompt="Once", temperature=1.0, seed=2, n=20)
        reply = complete(server, temperature=1.0, seed=2, max_tokens=20, stream=stream)
        choices = [chunk["choices"][0] for chunk in events(reply.text)] if stream else reply.json["choices"]
        assert "".join(choice["text"] for choice in choices) == expected.text
        assert choices[-1]["finish_reason"] == "length"

    def test_prompts_may_be_many_and_may_be_ids(self, server: Server, model: Served) -> None:
        texts = ["Once", "Twice upon"]
        ids = [[2, *model.chat.tokenizer.encode(text)] for text in texts]
        by_text, by_ids = (complete(server, prompt=prompt, n=2, temperature=1.0, seed=1) for prompt in (texts, ids))
        assert by_text.json["choices"] == by_ids.json["choices"]
        assert [choice["index"] for choice in by_text.json["choices"]] == [0, 1, 2, 3]
        assert by_text.json["usage"]["prompt_tokens"] == sum(map(len, ids))
        [one] = complete(server, prompt=ids[1], temperature=1.0, seed=1).json["choices"]
        assert one["text"] == by_text.json["choices"][2]["text"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_echo_tells_the_prompt_and_how_likely_it_is(self, server: Server, model: Served, stream: bool) -> None:
        text = "Once 猫 upon a time. " * 12  # longer than one stretch of reading
        ids = [2, *model.chat.tokenizer.encode(text)]
        reply = complete(server, prompt=text, max_tokens=2, echo=True, logprobs=1, stream=stream)
        choices = [chunk["choices"][0] for chunk in events(reply.text)] if stream else reply.json["choices"]
        shown = "".join(choice["text"] for choice in choices)
        told = {
            name: [value for choice in choices if choice["logprobs"] for value in choice["logprobs"][name]]
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        assert shown.startswith(text)
        assert "".join(told["tokens"]).replace("\ufffd" * 2 + "猫", "猫") == shown
        assert told["tokens"][0] == ""  # the bos, which is no part of the text
        for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
            assert shown[offset : offset + len(token)] == token or token == "\ufffd"
        logits = model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        exact = logits[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
        assert told["token_logprobs"][1 : len(ids)] == pytest.approx(exact, abs=1e-4)
        best = [max(top.values()) for top in told["top_logprobs"][1 : len(ids)]]
        assert best == pytest.approx(logits[:-1].max(1).values.tolist(), abs=1e-4)
        assert len(told["tokens"]) == len(ids) + 2

    def test_reading_alone_writes_nothing(self, server: Server) -> None:
        reply = complete(server, prompt=["Once", "ab"], max_tokens=0, echo=True, logprobs=0).json
        assert [choice["text"] for choice in reply["choices"]] == ["Once", "ab"]
        assert [len(choice["logprobs"]["tokens"]) for choice in reply["choices"]] == [5, 3]
        assert reply["usage"] == {"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8}
        assert [choice["finish_reason"] for choice in reply["choices"]] == ["length", "length"]

    def test_what_lm_evaluation_harness_scores_with(self, server: Server, model: Served) -> None:
        """Its request for a log-likelihood, and how it reads the answer (its `parse_logprobs`)."""
        context, ids = 3, [2, *model.chat.tokenizer.encode("Once upon")]
        how = {"max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
        [choice] = complete(server, prompt=[ids], **how).json["choices"]
        logprobs = choice["logprobs"]["token_logprobs"][context:-1]
        tops = choice["logprobs"]["top_logprobs"][context:-1]
        logits = model.model(torch.tensor([ids])).logits[0].log_softmax(-1)[context - 1 : -1]
        exact = logits.gather(1, torch.tensor(ids[context:])[:, None])[:, 0]
        assert sum(logprobs) == pytest.approx(exact.sum().item(), abs=1e-4)
        greedy = [value == max(top.values()) for value, top in zip(logprobs, tops, strict=True)]
        assert greedy == (exact == logits.max(1).values).tolist()

    def test_a_base_model_completes_and_does_not_chat(self, tiny_decoder: Path) -> None:
        with serving(served(tiny_decoder, chats=False)) as base:
            assert complete(base).status == 200
            refused = chat(base)
        assert refused.status == 400
        assert refused.error.startswith("messages: decoder is a base model: it was not tuned to answer")


class TestMany:
    def test_64_clients_get_what_each_gets_alone(
        self, server: Server, client: openai.OpenAI, alone: Callable[..., Completion]
    ) -> None:
        """Greedy and drawn, streamed and not, all at once, with four slots."""
        expected = [alone(talk_of(i), n=24, temperature=float(i % 3 > 0), seed=i).text for i in range(64)]

        def one(i: int) -> str:
            how: Any = {"model": "tiny", "messages": talk_of(i), "max_tokens": 24, "temperature": i % 3 > 0, "seed": i}
            how["temperature"] = float(how["temperature"])
            if i % 2:
                return client.chat.completions.create(**how).choices[0].message.content or ""
            chunks = client.chat.completions.create(**how, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

        with ThreadPoolExecutor(64) as pool:
            assert list(pool.map(one, range(64))) == expected
        assert (server.engine.busy, server.engine.waiting) == (0, 0)

    def test_what_does_not_fit_into_the_queue_is_to_come_again(self, tiny_decoder: Path) -> None:
        with serving(served(tiny_decoder), slots=1, queue=1) as small:
            with ThreadPoolExecutor(6) as pool:
                replies = list(pool.map(lambda _: chat(small, max_tokens=300), range(6)))
            late = chat(small)
            never = chat(small, n=3)
        statuses = sorted(reply.status for reply in replies)
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 2
        refused = next(reply for reply in replies if reply.status == 429)
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.json["error"]["type"] == "rate_limit_error"
        assert late.status == 200
        assert (never.status, never.error) == (400, "n: 3 replies are asked for at once\n  do this: ask for at most 2")


class TestFailures:
    def test_a_model_that_fails_says_so_and_answers_the_next(self, tiny_decoder: Path) -> None:
        failing = served(tiny_decoder)
        left = [2]

        def fail(*_: object) -> None:
            if left[0]:
                left[0] -= 1
                raise RuntimeError("out of memory")

        with serving(failing) as server:
            failing.model.get_input_embeddings().register_forward_pre_hook(fail)
            whole, stream, after = chat(server), chat(server, stream=True), chat(server)
        assert (whole.status, whole.error) == (500, "the model failed: RuntimeError: out of memory")
        *_, last, nothing = stream.text.split("\n\n")
        assert json.loads(last.removeprefix("data: ")) == whole.json
        assert (stream.status, nothing, after.status) == (200, "", 200)

    def test_a_mistake_of_our_own_is_told_as_one(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Metrics, "text", lambda _: 1 / 0)
        reply = ask(server, "/metrics")
        assert (reply.status, reply.error) == (500, "a mistake of the server's own; its log says more")
        assert reply.json["error"]["type"] == "server_error"


class TestAround:
    def test_the_model_is_told(self, client: openai.OpenAI, server: Server) -> None:
        [model] = client.models.list().data
        assert model.id == "decoder" == client.models.retrieve("decoder").id
        told = ask(server, "/v1/models").json["data"][0]
        assert (told["licence"], told["context"], told["chat_format"]) == ("unknown", 2048, "chatml")

    def test_health(self, server: Server) -> None:
        assert ask(server, "/health").json == {"status": "ok", "model": "decoder"}

    @pytest.mark.skipif(sys.platform != "linux", reason="where 127.0.0.2 is this machine, too")
    def test_another_address_of_this_machine(self, model: Served) -> None:
        with serving(model, host="127.0.0.2") as server:
            assert server.url.startswith("http://127.0.0.2:")
            assert ask(server, "/health").status == 200
            assert ask(server, "/health", headers={"Host": "evil.example"}).status == 403

    def test_metrics_count(self, tiny_decoder: Path) -> None:
        with serving(served(tiny_decoder), slots=3) as fresh:
            usage = chat(fresh, n=2).json["usage"]
            chat(fresh, stream=True)
            chat(fresh, model="other")
            ask(fresh, "/nowhere/1")
            ask(fresh, "/nowhere/2")
            text = ask(fresh, "/metrics").text
        found = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert found["shinan_requests_total", "/v1/chat/completions", "200"] == 2
        assert found["shinan_requests_total", "/v1/chat/completions", "404"] == 1
        assert found["shinan_requests_total", "404", "other"] == 2
        assert found["shinan_tokens_total", "generated"] == usage["completion_tokens"] + 8
        assert found["shinan_tokens_total", "prompt"] == 3 * usage["prompt_tokens"]
        assert found["shinan_slots", "all"] == 3
        assert found["shinan_slots", "busy"] == found["shinan_queue",] == 0
        assert found["shinan_request_seconds_count",] == 2
        assert found["shinan_first_token_seconds_count",] == 3
