"""From requests to prompts: what is served is what was trained on, token for token, in every chat format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shinan.core.errors import ConfigError, DataError, ShinanError
from shinan.core.example import assistant, system, user
from shinan.models.card import Card, Parent, write_card
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.tokenizer import Tokenizer
from shinan.serve.engine import Ticket
from shinan.serve.orders import UnknownModelError, chat_tickets, completion_tickets
from shinan.serve.protocol import ChatBody, CompletionBody, parse
from shinan.serve.served import Served, load_served
from shinan.train.methods import wrap
from shinan.train.settings import PromptSettings, TuneSettings
from tests.models import toy_tokenizers

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALKS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "Name a colour."}],
    "system": [{"role": "system", "content": "Be kind. 猫"}, {"role": "user", "content": " Hi "}],
    "developer": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
    "several": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b 🐈"},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
    ],
    "markers": [{"role": "user", "content": "<|im_end|><end_of_turn>\n<|im_start|>assistant\n<bos>"}],
}
MAKE = {"system": system, "developer": system, "user": user, "assistant": assistant}


def model(name: str, tokenizer: Tokenizer, *, context: int = 2048, chats: bool = True) -> Served:
    """What the routes know of a model whose weights nobody asks."""
    card = Card(Path(), "toy", "b2:0")
    return Served(card, ("toy", "runs/toy"), None, chat_format(name, tokenizer), chats, context)


@pytest.fixture(params=["gemma", "chatml", "alpaca", "plain", "tokenizer"])
def toy(request: pytest.FixtureRequest, tiny_decoder: Path) -> Served:
    tokenizer = Tokenizer.load(tiny_decoder)
    return model(request.param, tokenizer.with_chat_template(TEMPLATE) if request.param == "tokenizer" else tokenizer)


def chats(served: Served, **fields: Any) -> list[Ticket]:
    body = parse(json.dumps({"model": "toy", "messages": TALKS["one"]} | fields).encode(), ChatBody)
    return chat_tickets(served, body, lambda: None)


def completes(served: Served, **fields: Any) -> list[Ticket]:
    body = parse(json.dumps({"model": "toy", "prompt": "Once"} | fields).encode(), CompletionBody)
    return completion_tickets(served, body, lambda: None)


def written(talk: list[dict[str, Any]]) -> list[Any]:
    """The turns as training sees them."""
    texts = [c if isinstance(c := turn["content"], str) else "".join(part["text"] for part in c) for turn in talk]
    return [MAKE[turn["role"]](text) for turn, text in zip(talk, texts, strict=True)]


@pytest.mark.promise4
@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS)
def test_the_served_prompt_is_the_training_prompt(toy: Served, talk: list[dict[str, Any]]) -> None:
    [ticket] = chats(toy, messages=talk)
    turns = written(talk)
    assert tuple(ticket.row.prompt) == toy.chat.render_prompt(turns)
    trained = toy.chat.render([*turns, assistant("The reply.")])
    first = trained.mask.index(True, trained.spans[-1].start)
    assert tuple(ticket.row.prompt) == trained.ids[:first]


@pytest.mark.promise4
@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS)
def test_a_begun_reply_is_the_start_of_a_trained_one(toy: Served, talk: list[dict[str, Any]]) -> None:
    """One token a byte, so that a text can be cut anywhere."""
    [ticket] = chats(toy, messages=[*talk, {"role": "assistant", "content": "The re"}])
    trained = toy.chat.render([*written(talk), assistant("The reply.")])
    assert tuple(ticket.row.prompt) == trained.ids[: len(ticket.row.prompt)]
    assert toy.chat.tokenizer.decode(ticket.row.prompt).endswith("The re")


@pytest.mark.promise4
@pytest.mark.parametrize("scheme", ["first", "legacy"])
def test_also_where_words_carry_their_blank(scheme: str) -> None:
    llama = model("alpaca", toy_tokenizers.llama_like(scheme))
    [ticket] = chats(llama, messages=TALKS["one"])
    trained = llama.chat.render([user("Name a colour."), assistant("hello")])
    assert tuple(ticket.row.prompt) == trained.ids[: trained.mask.index(True)]


@pytest.mark.promise4
def test_the_format_is_the_one_that_the_model_was_tuned_with(tiny_decoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    for path in tiny_decoder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert not load_served(folder).chats
    for name in ("gemma", "alpaca"):
        write_card(folder, name="tuned", chat=name, parents=[Parent("base", "b2:0")])
        served = load_served(folder, alias="runs/tuned")
        assert (served.chat.name, served.chats, served.names) == (name, True, ("tuned", "runs/tuned"))
    assert load_served(folder, "chatml").chat.name == "chatml"


def test_the_formats_own_stops_end_a_chat_and_no_text(toy: Served) -> None:
    for stop in toy.chat.stop_strings:
        ids = toy.chat.tokenizer.encode(f"a{stop}", place="inside")
        [talk], [text] = chats(toy), completes(toy)
        stopped = [[t.row.stopped(ids[: n + 1]) for n in range(len(ids))] for t in (talk, text)]
        assert [any(each) for each in stopped] == [True, False]
        assert (talk.reply.text, text.reply.text) == ("a", f"a{stop}")


def test_a_text_begins_with_the_bos_and_ids_are_taken_as_they_are(toy: Served) -> None:
    [text], [ids] = completes(toy, prompt="Once"), completes(toy, prompt=[70, 71])
    assert text.row.prompt == [2, *toy.chat.tokenizer.encode("Once")]
    assert ids.row.prompt == [70, 71]
    [bos] = completes(toy, prompt="")
    assert bos.row.prompt == [2]


@pytest.mark.promise10
def test_a_prompt_behind_virtual_tokens_is_not_read(tiny_decoder: Path) -> None:
    """Read as if nothing stood before it, it would be told wrong likelihoods."""
    settings = TuneSettings(method="prompt", prompt=PromptSettings(tokens=3))
    served = replace(
        model("plain", Tokenizer.load(tiny_decoder)), model=wrap(load_model(tiny_decoder, torch.float32), settings, 0)
    )
    assert served.virtual == 3
    assert completes(served)
    with pytest.raises(ConfigError, match="echo: virtual tokens stand before the prompt"):
        completes(served, echo=True, logprobs=1)


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no messages\n  do this: give at least one user turn"),
        ({"messages": [{"role": "system", "content": "a"}]}, "no user turn\n  do this: give at least one user turn"),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1 (user): an empty user turn\n  do this: drop the"),
        ({"messages": TALKS["one"] * 2}, "message 2 (user): a turn of the assistant is due here\n  do this: begin"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "the text is not valid Unicode (a lone surrogate)"),
        (
            {"messages": [*TALKS["one"], {"role": "assistant", "content": ""}]},
            "messages: the last turn is an empty one of the assistant\n  do this: leave it out",
        ),
        (
            {"max_tokens": 10_000_000},
            "max_tokens: the prompt has 30 tokens and 10000000 more are asked for, the model has room for 2048\n"
            "  do this: ask for at most 2018",
        ),
        ({"max_completion_tokens": 2019}, "max_completion_tokens: the prompt has 30 tokens and 2019 more"),
        (
            {"messages": [{"role": "user", "content": "a" * 2048}]},
            "max_tokens: the prompt has 2064 tokens and 1 more are asked for, the model has room for 2048\n"
            "  do this: shorten the prompt",
        ),
        ({"model": "toi"}, "model: no model is named 'toi' here\n  do this: did you mean 'toy'?"),
    ],
)
def test_talks_that_cannot_be_served(tiny_decoder: Path, fields: dict[str, Any], sentence: str) -> None:
    """`<bos>`, `<>user\\n`, the text, `<>\\n` and `<>model\\n`: 1 + 6 + 14 + 2 + 7 = 30 tokens."""
    gemma = model("gemma", Tokenizer.load(tiny_decoder))
    with pytest.raises(ShinanError) as refused:
        chats(gemma, **fields)
    assert str(refused.value).startswith(sentence)
    kinds = {"model": UnknownModelError, "max_tokens": ConfigError, "max_completion_tokens": ConfigError}
    assert isinstance(refused.value, kinds.get(next(iter(fields)), DataError | ConfigError))


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": [70, 264]}, "prompt: the model has no token 264, only 264 of them\n  do this: encode the text"),
        ({"prompt": ["a", "b" * 2040]}, "prompt.1: the prompt has 2041 tokens and 16 more are asked for"),
        ({"model": "x"}, "model: no model is named 'x' here\n  do this: use one of: toy"),
    ],
)
def test_texts_that_cannot_be_served(tiny_decoder: Path, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ShinanError) as refused:
        completes(model("gemma", Tokenizer.load(tiny_decoder)), **fields)
    assert str(refused.value).startswith(sentence)


def test_an_empty_text_is_nothing_to_go_on_with_for_a_model_without_bos() -> None:
    bare = model("chatml", toy_tokenizers.byte_level())
    with pytest.raises(ConfigError, match="prompt: an empty prompt is nothing to go on with"):
        completes(bare, prompt="")
