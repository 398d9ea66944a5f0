"""A local model as a Generator: against transformers, and side by side with the fake that stands in for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from transformers import AutoTokenizer

from shinan.core.errors import DataError
from shinan.core.example import Message, Part, assistant, user
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Completion, Generator, Question, Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer

TALKS = [
    (user("Name a colour."),),
    (user("Hello"), assistant("Hello."), user("Say it again, and then say something else.")),
    (Message("user", (Part("Add.", "instruction"), Part("2, 2", "input"))),),
]


@pytest.fixture(scope="module")
def local(tiny_llama: Path) -> LocalGenerator:
    chat = chat_format("gemma", Tokenizer.load(tiny_llama))
    return LocalGenerator("tiny", load_model(tiny_llama, torch.float32), chat)


def one(generator: Generator, **request: Any) -> Completion:
    request["sampling"] = Sampling(max_new_tokens=request.pop("n", 24), **request.pop("how", {}))
    [reply] = generator.generate([Request(**request)])
    return reply


def letters(text: str) -> list[str]:
    """Stretches of two characters of a reply, each of one byte, in order: what may be cut at."""
    pairs = [text[i : i + 2] for i in range(len(text) - 1)]
    return [pair for pair in pairs if pair.isascii() and pair.isprintable()]


class TestGreedy:
    @pytest.mark.promise4
    def test_the_tokens_are_those_of_transformers(self, local: LocalGenerator) -> None:
        replies = local.generate([Request(talk, sampling=Sampling(12)) for talk in TALKS])
        for talk, reply in zip(TALKS, replies, strict=True):
            ids = torch.tensor([local.chat.render_prompt(talk)])
            expected = local.model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
            cut = [int(token) for token in expected[0, ids.shape[1] :]][: len(reply.ids)]
            assert list(reply.ids) == cut
            assert reply.prompt_tokens == ids.shape[1]
            assert len(reply.logprobs) == len(reply.ids)

    @pytest.mark.promise9
    @pytest.mark.parametrize("size", [1, 2])
    def test_replies_come_in_the_order_of_requests_in_whatever_batches(self, local: LocalGenerator, size: int) -> None:
        requests = [Request(talk, sampling=Sampling(8)) for talk in [*TALKS, *reversed(TALKS)]]
        together = local.generate(requests)
        apart = replace(local, batch_size=size).generate(requests)
        assert [reply.ids for reply in apart] == [reply.ids for reply in together]
        assert [reply.ids for reply in together[:3]] == [reply.ids for reply in reversed(together[3:])]

    def test_each_reply_is_told_as_it_ends(self, local: LocalGenerator) -> None:
        told: list[int] = []
        requests = [Request(TALKS[0], sampling=Sampling(n)) for n in (9, 3, 2, 5, 0)]
        replies = replace(local, batch_size=2).generate(requests, lambda i, reply: told.append(i))
        assert told == [1, 2, 0, 4, 3]
        assert [len(reply.ids) for reply in replies] == [9, 3, 2, 5, 0]


class TestStops:
    def test_a_stop_string_ends_the_reply_and_is_cut(self, local: LocalGenerator) -> None:
        free = one(local, messages=TALKS[0])
        assert free.finish == "length"
        assert len(letters(free.text)) > 3
        for stop in letters(free.text):
            reply = one(local, messages=TALKS[0], stop=("never in here", stop))
            assert reply.text == free.text[: free.text.index(stop)]
            assert reply.finish == "stop"
            assert reply.ids == free.ids[: len(reply.ids)]
            assert stop in local.chat.tokenizer.decode(reply.ids, place="inside")
            assert stop not in local.chat.tokenizer.decode(reply.ids[:-1], place="inside")

    def test_the_first_in_the_text_counts_not_the_first_in_the_list(self, local: LocalGenerator) -> None:
        """Two stop strings that end at one place: the reply ends where the longer one begins, whatever their order."""
        free = one(local, messages=TALKS[0])
        stop = next(pair for pair in letters(free.text) if pair[1] not in free.text[: free.text.index(pair) + 1])
        for stops in ((stop[1], stop), (stop, stop[1])):
            assert one(local, messages=TALKS[0], stop=stops).text == free.text[: free.text.index(stop)]

    def test_a_stop_string_of_several_letters_beyond_ascii(self, local: LocalGenerator) -> None:
        ids = local.chat.tokenizer.encode("猫が。寝る", place="inside")  # one token a byte
        stopped = local._reply(Request(TALKS[0], stop=("。寝",))).take
        ends = [stopped(ids[: i + 1]) for i in range(len(ids))]
        assert ends.index(True) == len("猫が。寝".encode()) - 1

    @pytest.mark.promise4
    def test_a_terminator_ends_the_reply_and_is_no_text(self, local: LocalGenerator) -> None:
        free = one(local, messages=TALKS[0])
        token = free.ids[5]
        at = free.ids.index(token)
        ended = replace(local, chat=replace(local.chat, stop_ids=(token,)))
        reply = one(ended, messages=TALKS[0])
        assert (reply.ids, reply.finish) == (free.ids[: at + 1], "stop")
        assert reply.text == local.chat.tokenizer.decode(free.ids[:at], place="inside")
        assert one(ended, messages=TALKS[0], n=at + 1).finish == "stop"
        assert one(ended, messages=TALKS[0], n=at).finish == "length"

    def test_the_chat_formats_own_stop_strings_are_not_for_raw_prompts(self, local: LocalGenerator) -> None:
        plain = replace(local, chat=chat_format("plain", local.chat.tokenizer))
        assert plain.chat.stop_strings
        assert plain._stop_strings(Request(TALKS[0], stop=("x",))) == ("x", *plain.chat.stop_strings)
        assert plain._stop_strings(Request(prompt="a", stop=("x",))) == ("x",)


class TestPrompts:
    def test_a_raw_prompt_is_what_the_tokenizer_itself_makes_of_it(
        self, local: LocalGenerator, tiny_llama: Path
    ) -> None:
        backend = tokenizers.Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
        expected = backend.encode("Once upon a time").ids
        assert list(local._row(Request(prompt="Once upon a time"))[0].prompt) == expected
        assert one(local, prompt="Once upon a time", n=1).prompt_tokens == len(expected)

    def test_a_prefill_is_continued_and_is_part_of_the_text(self, local: LocalGenerator) -> None:
        raw = one(local, prompt="Once upon ", prefill="a time", n=8)
        assert raw.ids == one(local, prompt="Once upon a time", n=8).ids
        assert raw.text.startswith("a time")
        talk = local.chat.render_prompt(TALKS[0], "Blue")
        reply = one(local, messages=TALKS[0], prefill="Blue", n=8)
        assert reply.prompt_tokens == len(talk) == len(local.chat.render_prompt(TALKS[0])) + 4
        assert reply.text == "Blue" + local.chat.tokenizer.decode(reply.ids, place="inside")

    @pytest.mark.promise4
    def test_what_the_format_writes_before_a_reply_is_cut(
        self, local: LocalGenerator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = one(local, messages=TALKS[0]).text
        monkeypatch.setattr(type(local.chat), "lead", lambda self, messages: whole[:2])
        assert one(local, messages=TALKS[0]).text == whole[2:]
        assert one(local, prompt="a").text  # a raw prompt has no format

    def test_a_request_that_asks_nothing(self, local: LocalGenerator) -> None:
        with pytest.raises(DataError, match="the request has neither messages nor a prompt\n  do this: give one of"):
            local.generate([Request(prompt="a"), Request()])

    def test_a_conversation_that_cannot_be_written(self, local: LocalGenerator) -> None:
        with pytest.raises(DataError, match=r"message 2 \(assistant\): a prompt must end with a user turn"):
            local.generate([Request((user("a"), assistant("b")))])


def test_draws_come_from_the_requests_seed_alone(local: LocalGenerator) -> None:
    how = Sampling(8, temperature=1.0)
    first, other = (Request(TALKS[0], sampling=how, seed=seed) for seed in (1, 2))
    alone, again = (local.generate([first])[0] for _ in range(2))
    assert alone == again
    assert local.generate([other])[0].ids != alone.ids
    together = local.generate([Request(TALKS[1], sampling=how, seed=1), first, other])
    assert together[1].ids == alone.ids


class TestContract:
    """What holds for a local model holds for the fake: tests with the one can speak for the other."""

    @pytest.fixture(params=["local", "fake"])
    def generator(self, request: pytest.FixtureRequest) -> Generator:
        if request.param == "local":
            found: Generator = request.getfixturevalue("local")
            return found
        return FakeGenerator(lambda asked: f"one two three four {asked.seed} five six seven eight nine", name="tiny")

    @pytest.fixture
    def ask(self, generator: Generator) -> Callable[..., Completion]:
        return lambda **request: one(generator, **request)

    def test_nothing_asked_is_nothing_answered(self, generator: Generator) -> None:
        assert generator.generate([]) == []
        assert generator.name == "tiny"

    def test_one_reply_a_request(self, generator: Generator) -> None:
        requests = [Request(talk, sampling=Sampling(n)) for n, talk in enumerate(TALKS, 2)]
        replies = generator.generate(requests)
        assert [len(reply.ids) for reply in replies] == [2, 3, 4]
        assert all(reply.prompt_tokens > 0 for reply in replies)

    def test_the_limit_is_on_new_tokens(self, ask: Callable[..., Completion]) -> None:
        for n in (0, 1, 4):
            reply = ask(messages=TALKS[0], n=n, prefill="P: ")
            assert (len(reply.ids), reply.finish) == (n, "length")
            assert reply.text.startswith("P: ")
        assert ask(messages=TALKS[0], n=0).text == ""

    def test_what_was_cut_short_is_the_start_of_the_whole(self, ask: Callable[..., Completion]) -> None:
        whole, part = ask(messages=TALKS[0], n=8), ask(messages=TALKS[0], n=3)
        assert part.ids == whole.ids[:3]

    def test_stop_strings_are_never_in_the_text(self, ask: Callable[..., Completion]) -> None:
        whole = ask(messages=TALKS[0], n=8)
        pairs = letters(whole.text)
        for stops in ((pairs[0],), (pairs[1], pairs[0]), (pairs[0][0], pairs[0][1])):
            reply = ask(messages=TALKS[0], n=8, stop=stops)
            assert reply.finish == "stop"
            assert reply.text == whole.text[: min(whole.text.index(stop) for stop in stops)]

    def test_a_stop_string_in_the_prefill_is_not_one_of_the_reply(self, ask: Callable[..., Completion]) -> None:
        assert ask(messages=TALKS[0], prefill="a. b", stop=(". ",), n=2).text.startswith("a. b")

    def test_each_option_is_judged(self, generator: Generator) -> None:
        questions = [Question(TALKS[0], options=("one", "one two", "other")), Question(prompt="Say: ", options=("a",))]
        judged = generator.score(questions)
        assert [len(options) for options in judged] == [3, 1]
        assert all(option.logprob < 0 < option.tokens for options in judged for option in options)
        assert judged == generator.score(questions)
        assert generator.score([]) == []

    @pytest.mark.promise10
    def test_an_empty_option_is_refused(self, generator: Generator) -> None:
        with pytest.raises(DataError, match="question 2: option 3 is empty: no token is there to be likely or not"):
            generator.score([Question(prompt="a", options=("b",)), Question(prompt="a", options=("b", "c", ""))])
        with pytest.raises(DataError, match="question 1: it has no options\n  do this: give it at least one"):
            generator.score([Question(prompt="a")])


@pytest.mark.slow
@pytest.mark.promise4
def test_the_instruct_starter_answers_in_its_own_format() -> None:
    folder = resolve("starter:smollm2-135m-instruct")
    local = LocalGenerator(
        "smollm2", load_model(folder, torch.bfloat16), chat_format("tokenizer", Tokenizer.load(folder))
    )
    question = user("What is the capital of France?")
    turns = [{"role": "user", "content": question.text}]
    peer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    written = peer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert list(local.chat.render_prompt((question,))) == peer(written, add_special_tokens=False)["input_ids"]
    (reply,) = local.generate([Request((question,), sampling=Sampling(32))])
    assert (reply.text, reply.finish) == ("The capital of France is Paris.", "stop")
    assert reply.ids[-1] == local.chat.tokenizer.specials["<|im_end|>"]
    (judged,) = local.score([Question((question,), options=("Paris", "Rome", reply.text))])
    assert judged[0].logprob > judged[1].logprob
    assert judged[2].greedy
