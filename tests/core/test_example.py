"""Example: what its identity is, how its parts read, and that nothing is lost on the way to disk and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.errors import DataError
from shinan.core.example import (
    ROLES,
    Example,
    Message,
    Part,
    PartKind,
    Provenance,
    assistant,
    join_parts,
    system,
    user,
)
from shinan.core.hashing import content_hash

KINDS: tuple[PartKind, ...] = ("text", "instruction", "input", "demonstration")
texts = st.text(max_size=8)
parts = st.builds(Part, texts, st.sampled_from(KINDS))
messages = st.lists(
    st.builds(
        Message, st.sampled_from(ROLES), st.lists(parts, max_size=3).map(tuple), st.sampled_from([None, True, False])
    ),
    max_size=3,
).map(tuple)
strings = st.lists(texts, max_size=3).map(tuple)
examples = st.builds(
    Example,
    messages=messages,
    rejected=messages,
    targets=strings,
    choices=strings,
    ranked=strings,
    thumb=st.sampled_from([None, True, False]),
    task=texts,
    weight=st.floats(0, 10),
    tags=st.dictionaries(texts, texts, max_size=2),
    scores=st.dictionaries(texts, st.floats(-1, 1), max_size=2),
    provenance=st.builds(Provenance, texts, st.integers(0, 9), texts, texts, strings),
)
PAIR = Example((user("2 + 2?"), assistant("4")), rejected=(assistant("5"),))


class TestText:
    @pytest.mark.parametrize(
        ("given_parts", "text"),
        [
            ([("Add.", "instruction"), ("2, 2", "input")], "Add.\n\n2, 2"),
            ([("Add.", "instruction"), ("1, 1: 2", "demonstration"), ("2, 2", "input")], "Add.\n\n1, 1: 2\n\n2, 2"),
            ([("a", "input"), ("b", "input")], "a\n\nb"),
            ([("Add ", "text"), ("2, 2", "input"), (" now", "text")], "Add 2, 2 now"),
            ([("a", "text"), ("b", "text")], "ab"),
            ([("Add.", "instruction"), ("", "input")], "Add."),
            ([("", "instruction"), ("2, 2", "input")], "2, 2"),
            ([("a", "instruction"), ("", "text"), ("b", "input")], "a\n\nb"),
            ([], ""),
        ],
    )
    def test_blank_lines_stand_between_typed_parts_only(
        self, given_parts: list[tuple[str, PartKind]], text: str
    ) -> None:
        made = tuple(Part(*part) for part in given_parts)
        assert Message("user", made).text == text
        assert join_parts(made) == text

    @given(st.lists(texts, max_size=4))
    def test_plain_text_parts_are_joined_as_they_are(self, pieces: list[str]) -> None:
        assert join_parts(Part(piece) for piece in pieces) == "".join(pieces)

    @pytest.mark.promise5
    def test_only_assistant_turns_are_trained_unless_told(self) -> None:
        assert [system("s").trained, user("u").trained, assistant("a").trained] == [False, False, True]
        assert not assistant("a", train=False).trained
        assert Message("user", (), train=True).trained

    def test_prompt_and_reply(self) -> None:
        row = Example((system("s"), user("u"), assistant("a")))
        assert row.prompt == (system("s"), user("u"))
        assert row.reply == "a"
        assert row.prompt_text == "s\n\nu"
        question = Example((user("u"),))
        assert (question.prompt, question.reply) == ((user("u"),), None)
        assert (Example(()).prompt, Example(()).reply, Example(()).prompt_text) == ((), None, "")


ODD = Example(
    (
        system("Be brief."),
        Message(
            "user",
            (
                Part("翻訳してください。", "instruction"),
                Part('cat "\\ \n\t\x00\x7f\u2028 🐈', "input"),
                Part("", "demonstration"),
            ),
        ),
        assistant("猫だ。", train=False),
    ),
    rejected=(assistant("犬\ud800"),),
    targets=("猫だ。", "ねこ"),
    choices=("a", "b"),
    ranked=("x",),
    thumb=True,
)
"""Everything that JSON escapes, text of several planes, half a surrogate pair, each list and both flags."""


class TestIdentity:
    def test_a_known_id(self) -> None:
        """The hash of the documented content as sorted, compact JSON, worked out with the library's blake2b alone."""
        import hashlib

        content = (
            '[[{"parts":[{"kind":"text","text":"2 + 2?"}],"role":"user","train":null},'
            '{"parts":[{"kind":"text","text":"4"}],"role":"assistant","train":null}],'
            '[{"parts":[{"kind":"text","text":"5"}],"role":"assistant","train":null}],[],[],[],null]'
        )
        assert PAIR.id == "b2:" + hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    @pytest.mark.parametrize(
        ("example", "digits"),
        [
            (Example(()), "c030c4335ad4e5eb3cfe60ab777167db"),
            (Example((user("2 + 2?"), assistant("4"))), "5fa63b3d1b818e4564485a1f42c2228e"),
            (Example((Message("user", (), True),), thumb=False), "b8a76e4c2edbafd1baeb754530804127"),
            (ODD, "68d39d9f16cc6eb6b80d978bd4a12951"),
        ],
    )
    def test_ids_never_change(self, example: Example, digits: str) -> None:
        """As the first version, which encoded the content as JSON by the library, worked them out."""
        assert example.id == f"b2:{digits}"

    @given(examples)
    def test_an_id_is_the_hash_of_the_content_as_json(self, example: Example) -> None:
        row = example.to_dict()
        names = ("messages", "rejected", "targets", "choices", "ranked", "thumb")
        assert example.id == content_hash([row[name] for name in names])

    @given(examples, texts, texts)
    def test_a_tag_more_changes_nothing_else(self, example: Example, name: str, value: str) -> None:
        before = example.to_dict()
        assert example.tagged(name, value) == replace(example, tags={**example.tags, name: value})
        assert example.to_dict() == before

    @pytest.mark.parametrize(
        "change",
        [
            {"messages": (user("2 + 2?"), assistant("4."))},
            {"messages": (user("2 + 2?"), assistant("4", train=False))},
            {"messages": (Message("user", (Part("2 + 2?", "input"),)), assistant("4"))},
            {"messages": (Message("user", (Part("2 "), Part("+ 2?"))), assistant("4"))},
            {"rejected": ()},
            {"targets": ("4",)},
            {"choices": ("4", "5")},
            {"ranked": ("4",)},
            {"thumb": True},
        ],
    )
    def test_content_changes_the_id(self, change: dict[str, Any]) -> None:
        assert replace(PAIR, **change).id != PAIR.id

    @pytest.mark.parametrize(
        "change",
        [
            {"task": "sums"},
            {"weight": 2.0},
            {"tags": {"language": "en"}},
            {"scores": {"loss": 1.0}},
            {"provenance": Provenance("elsewhere", 7)},
        ],
    )
    def test_facts_about_the_row_do_not(self, change: dict[str, Any]) -> None:
        assert replace(PAIR, **change).id == PAIR.id

    def test_lists_are_not_mixed_up(self) -> None:
        assert Example((), targets=("a",)).id != Example((), choices=("a",)).id != Example((), ranked=("a",)).id

    def test_a_row_is_source_and_position(self) -> None:
        moved = PAIR.at("data.jsonl", 3)
        assert moved.row == "data.jsonl#3"
        assert (moved.id, moved.provenance.licence) == (PAIR.id, PAIR.provenance.licence)
        assert PAIR.row == "memory#0"


class TestRoundTrip:
    @given(examples)
    def test_through_json_and_back(self, example: Example) -> None:
        again = Example.from_dict(json.loads(json.dumps(example.to_dict())))
        assert again == example
        assert again.id == example.id

    def test_a_row_changed_by_hand_is_found(self) -> None:
        row = PAIR.at("data.jsonl", 3).to_dict()
        row["messages"][1]["parts"][0]["text"] = "five"
        with pytest.raises(DataError) as caught:
            Example.from_dict(row)
        assert str(caught.value) == (
            "data.jsonl#3: the stored id is not the hash of the row's content\n"
            "  do this: the file was changed by hand or damaged; build this stage again"
        )

    def test_a_row_without_id_gets_one(self) -> None:
        row = PAIR.to_dict()
        del row["id"]
        assert Example.from_dict(row).id == PAIR.id


@pytest.mark.parametrize(
    ("own", "other", "both"),
    [
        ("MIT", "MIT", "MIT"),
        ("CC-BY-4.0 AND MIT", "MIT", "CC-BY-4.0 AND MIT"),
        ("MIT OR GPL-3.0", "CC0-1.0", "(MIT OR GPL-3.0) AND CC0-1.0"),
        ("(MIT OR GPL-3.0) AND CC0-1.0", "(MIT OR GPL-3.0)", "((MIT OR GPL-3.0) AND CC0-1.0) AND (MIT OR GPL-3.0)"),
    ],
)
def test_terms_of_two_texts_hold_together(own: str, other: str, both: str) -> None:
    row = Example((user("a"),), provenance=Provenance(licence=own))
    assert row.under(other).provenance.licence == both
