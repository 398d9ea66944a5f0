"""The text of a reply as it grows: against the whole text, decoded and cut at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shinan.models import tiny
from shinan.models.reply import ReplyText
from shinan.models.tokenizer import Tokenizer
from tests.models import toy_tokenizers

_EOS = 1
NAMES = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
BYTES = Tokenizer(tiny.byte_tokenizer(), NAMES)
FALLBACK = toy_tokenizers.gemma_like()  # bytes as tokens of their own, beside words


def grown(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = (), lead: str = "") -> list[str]:
    """The text after each token, until something ends it, and after the end."""
    reply = ReplyText(tokenizer, stop_ids=(_EOS,), stops=stops, lead=lead)
    shown = []
    for n in range(1, len(ids) + 1):
        ended = reply.take(ids[:n])
        shown.append(reply.text)
        if ended:
            break
    reply.close()
    return [*shown, reply.text]


def whole(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = (), lead: str = "") -> str:
    """The same by definition: cut before the first token that ends it, decode, cut."""
    for n in range(1, len(ids) + 1):
        if ids[n - 1] == _EOS:
            return tokenizer.decode(ids[: n - 1], place="inside").removeprefix(lead)
        text = tokenizer.decode(ids[:n], place="inside")
        ready = not lead.startswith(text) or text == lead
        ends = [at for stop in stops if ready and (at := text.removeprefix(lead).find(stop)) >= 0]
        if ends:
            return text.removeprefix(lead)[: min(ends)]
    return tokenizer.decode(ids, place="inside").removeprefix(lead)


texts = st.text("ab猫é🐈\n ", max_size=12)
byte_ids = st.one_of(
    texts.map(lambda text: BYTES.encode(text, place="inside")),
    st.lists(st.sampled_from([_EOS, *BYTES.encode("a猫é🐈", place="inside")]), max_size=16),
)
stop_lists = st.lists(st.text("ab猫é", min_size=1, max_size=3), max_size=3)


@given(ids=byte_ids, stops=stop_lists, lead=st.sampled_from(["", "a", "ab猫"]))
@example(ids=BYTES.encode("abab猫", place="inside"), stops=["b猫", "abab猫é"], lead="")
@example(ids=BYTES.encode("🐈🐈", place="inside")[:-1], stops=[], lead="")
def test_the_end_is_the_whole_text_and_every_state_its_beginning(ids: list[int], stops: list[str], lead: str) -> None:
    shown = grown(BYTES, ids, stops, lead)
    assert shown[-1] == whole(BYTES, ids, stops, lead)
    assert all(shown[-1].startswith(text) for text in shown)


@given(text=texts, stops=stop_lists)
def test_where_bytes_are_tokens_beside_words(text: str, stops: list[str]) -> None:
    ids = FALLBACK.encode(text, place="inside")
    shown = grown(FALLBACK, ids, stops)
    assert shown[-1] == whole(FALLBACK, ids, stops)
    assert all(shown[-1].startswith(part) for part in shown)


def test_half_a_character_is_never_shown() -> None:
    ids = BYTES.encode("a猫🐈", place="inside")
    assert grown(BYTES, ids) == ["a", "a", "a", "a猫", "a猫", "a猫", "a猫", "a猫🐈", "a猫🐈"]


def test_bytes_that_are_no_character_are_shown_in_the_end() -> None:
    ids = BYTES.encode("猫", place="inside")
    assert grown(BYTES, [*ids[:2], *BYTES.encode("b", place="inside")]) == ["", "", "\ufffdb", "\ufffdb"]
    assert grown(BYTES, ids[:2]) == ["", "", "\ufffd"]


def test_half_a_stop_string_is_never_shown() -> None:
    ids = BYTES.encode("one. two", place="inside")
    assert grown(BYTES, ids, ["e. t"]) == ["o", "on", "on", "on", "on", "on", "on"]
    assert grown(BYTES, ids, ["e. x"])[2:7] == ["on", "on", "on", "one. t", "one. tw"]


def test_a_stop_string_that_did_not_come_to_an_end_is_text() -> None:
    ids = BYTES.encode("one.", place="inside")
    assert grown(BYTES, ids, ["e. t"])[-1] == grown(BYTES, [*ids, _EOS], ["e. t"])[-1] == "one."


def test_the_lead_is_cut_only_where_it_stands_whole() -> None:
    assert grown(BYTES, BYTES.encode("ab!", place="inside"), lead="ab") == ["", "", "!", "!"]
    assert grown(BYTES, BYTES.encode("ac", place="inside"), lead="ab") == ["", "ac", "ac"]
    assert grown(BYTES, BYTES.encode("a", place="inside"), lead="ab") == ["", "a"]


@pytest.mark.parametrize("stops", [("b", "ab"), ("ab", "b")])
def test_of_two_stop_strings_the_one_that_begins_first_cuts(stops: tuple[str, ...]) -> None:
    assert grown(BYTES, BYTES.encode("xxab", place="inside"), stops)[-1] == "xx"


def test_tokens_are_counted_by_whole_characters() -> None:
    ids = BYTES.encode("a猫b", place="inside")
    reply = ReplyText(BYTES)
    assert [(reply.take(ids[: n + 1]), reply.tokens)[1] for n in range(5)] == [1, 1, 1, 4, 5]
