"""The chat format of encoder-decoders: two texts, encoded as the model's own tokenizer does, mask and ids together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from shinan.core.errors import DataError, ModelError
from shinan.core.example import Message, Part, assistant, system, user
from shinan.models import tiny
from shinan.models.chat import chat_format, default_format, fits
from shinan.models.chat_flan import FlanFormat
from shinan.models.tokenizer import Tokenizer
from tests.models.toy_tokenizers import unigram

TALK = (system("Be brief."), user("one"), assistant("1"), user("two"), assistant("2"))


@pytest.fixture(scope="module")
def chat(tiny_seq2seq: Path) -> FlanFormat:
    made = default_format(Tokenizer.load(tiny_seq2seq))
    assert isinstance(made, FlanFormat)
    return made


def text(chat: FlanFormat, ids: tuple[int, ...]) -> str:
    return chat.tokenizer.decode(ids, keep_special=True)


def test_a_row_is_the_prompt_and_the_reply(chat: FlanFormat) -> None:
    asked = Message("user", (Part("Add.", "instruction"), Part("2, 2", "input")))
    made = chat.render((asked, assistant("4")))
    assert text(chat, made.ids) == "Add.\n\n2, 2<eos><pad>4<eos>"
    trained = tuple(id_ for id_, on in zip(made.ids, made.mask, strict=True) if on)
    assert text(chat, trained) == "4<eos>"
    assert text(chat, made.ids[: chat.source(made.ids)]) == "Add.\n\n2, 2<eos>"
    assert [(span.message, text(chat, made.ids[span.start : span.end])) for span in made.spans] == [
        (0, "Add.\n\n2, 2<eos>"),
        (1, "4<eos>"),
    ]


def test_ids_are_those_of_transformers(chat: FlanFormat, tiny_seq2seq: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(tiny_seq2seq)
    made = chat.render((user("What is 2 + 2?"), assistant("Four. 四")))
    at = chat.source(made.ids)
    assert list(made.ids[:at]) == theirs("What is 2 + 2?").input_ids
    assert list(made.ids[at + 1 :]) == theirs("Four. 四").input_ids


def test_turns_that_came_before_are_paragraphs_of_the_prompt(chat: FlanFormat) -> None:
    first, second = map(chat.render, chat.split(TALK))
    assert text(chat, first.ids) == "Be brief.\n\none<eos><pad>1<eos>"
    assert text(chat, second.ids) == "Be brief.\n\nUser: one\n\nAssistant: 1\n\nUser: two<eos><pad>2<eos>"
    assert (sum(first.mask), sum(second.mask)) == (2, 2)


def test_a_conversation_that_trains_nothing_is_left_whole(chat: FlanFormat) -> None:
    asked = (user("one"), assistant("1"), user("two"))
    untrained = (asked[0], Message("assistant", asked[1].parts, train=False))
    assert chat.split(untrained) == [untrained]
    assert not any(chat.render(untrained).mask)


def test_two_replies_cannot_be_trained_at_once(chat: FlanFormat) -> None:
    with pytest.raises(DataError, match=r"message 3 \(assistant\): an encoder-decoder writes one reply"):
        chat.render(TALK)


@pytest.mark.promise4
@pytest.mark.parametrize(
    "messages", [TALK, (user(" a"), assistant(" b ")), (system("s"), user("<eos>"), assistant("<pad>"))]
)
def test_the_prompt_is_the_beginning_of_the_row(chat: FlanFormat, messages: tuple[Message, ...]) -> None:
    *_, last = chat.split(messages)
    made = chat.render(last)
    prompt = chat.render_prompt(last[:-1])
    assert made.ids[: len(prompt)] == prompt
    assert made.mask == (False,) * len(prompt) + (True,) * (len(made.ids) - len(prompt))
    assert chat.source(prompt) == chat.source(made.ids) == len(prompt) - 1
    with_prefill = chat.render_prompt(last[:-1], last[-1].text)
    assert (*with_prefill, *chat.stop_ids) == made.ids


def test_a_text_that_spells_a_special_token_stays_text(chat: FlanFormat) -> None:
    specials = [id_ for id_ in chat.render_prompt((user("a<eos>b<pad>"),)) if id_ < len(tiny.SPECIALS)]
    assert specials == [1, 0]


def test_raw_text_is_what_the_encoder_reads(chat: FlanFormat) -> None:
    assert text(chat, chat.render_text("Translate: neko", "c")) == "Translate: neko<eos><pad>c"


def test_the_user_is_not_played(chat: FlanFormat) -> None:
    with pytest.raises(DataError, match="writes replies only"):
        chat.render_question()


@pytest.mark.parametrize("name", ["alpaca", "plain", "gemma", "chatml", "tokenizer"])
def test_formats_of_decoders_are_refused(tiny_seq2seq: Path, name: str) -> None:
    tokenizer = Tokenizer.load(tiny_seq2seq)
    assert not fits(name, tokenizer)
    with pytest.raises(ModelError, match=f"'{name}' is for a decoder-only model, which this one is not") as caught:
        chat_format(name, tokenizer)
    assert caught.value.fix == "use one of: flan"


def test_a_decoder_is_refused(tiny_decoder: Path) -> None:
    with pytest.raises(ModelError, match="'flan' is for an encoder-decoder, which this one is not"):
        chat_format("flan", Tokenizer.load(tiny_decoder))


def test_words_that_carry_their_blank() -> None:
    """T5's own kind of tokenizer: both texts begin with a marked word, and a reply's first blank is not part of it."""
    toy = unigram()
    tokenizer = Tokenizer(*[toy.__reduce__()[1][0], toy.__reduce__()[1][1] | {"decoder_start_token_id": toy.pad_id}])
    made = chat_format("flan", tokenizer)
    row = made.render((user("a b"), assistant("a")))
    assert row.ids == (*tokenizer.encode("a b"), tokenizer.eos_id, toy.pad_id, *tokenizer.encode("a"), tokenizer.eos_id)
    reply = row.ids[made.source(row.ids) + 1 : -1]
    assert tokenizer.decode(reply, place="inside") == made.lead(()) + "a"


def test_a_bos_begins_both_texts(tmp_path: Path, tiny_seq2seq: Path) -> None:
    """BART's kind: `</s>`, then bos, and only then what is trained."""
    tiny.byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    settings = json.loads((tiny_seq2seq / "tokenizer_config.json").read_text()) | {"bos_token": "<bos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"is_encoder_decoder": True, "decoder_start_token_id": 1}))
    made = default_format(Tokenizer.load(tmp_path))
    row = made.render((user("a"), assistant("b")))
    assert made.tokenizer.decode(row.ids, keep_special=True) == "<bos>a<eos><eos><bos>b<eos>"
    assert row.mask == (False,) * 5 + (True, True)
    assert made.source(row.ids) == 3


def test_a_config_must_say_what_the_decoder_begins_with(tmp_path: Path, tiny_seq2seq: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_seq2seq / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"is_encoder_decoder": True}))
    with pytest.raises(ModelError, match=r"config.json: it is of an encoder-decoder and does not say what its decoder"):
        Tokenizer.load(tmp_path)


def test_what_the_decoder_begins_with_is_saved(tmp_path: Path, tiny_seq2seq: Path) -> None:
    """An adapter's folder has no config.json."""
    tokenizer = Tokenizer.load(tiny_seq2seq)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.decoder_start == tokenizer.decoder_start == 0
    assert again.fingerprint == tokenizer.fingerprint
