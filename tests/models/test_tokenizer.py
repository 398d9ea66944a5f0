"""The tokenizer: text stays text, stretches know their place, folders survive saving, damage gets a sentence."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shinan.core.errors import DataError, ModelError
from shinan.core.store import cache_root
from shinan.models.tokenizer import Place, Tokenizer
from tests.models.toy_tokenizers import TOYS, byte_level, gemma_like, llama_like, unigram

BUILT = {name: make() for name, make in TOYS.items()}
PLACES: tuple[Place, ...] = get_args(Place)
WORDS = ["hello", " ", "  ", "\n", "\n\n", "a", "日本", "é", "🙂", "<", "/", "\t"]
SPELT = [
    "<s>",
    "</s>",
    "<bos>",
    "<eos>",
    "<end_of_turn>",
    "<|im_end|>",
    "[INST]",
    "<unk>",
    "＜/s＞",
    "<0x0A>",
    "</",
    "s>",
]

texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=8).map("".join)
forged = st.lists(st.sampled_from(WORDS + SPELT), max_size=8).map("".join)


def backend_of(tokenizer: Tokenizer, folder: Path) -> tokenizers.Tokenizer:
    """The library's own tokenizer, as a user would load it."""
    tokenizer.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.promise5
class TestTextStaysText:
    @pytest.mark.parametrize("name", TOYS)
    @settings(max_examples=40, deadline=None)
    @given(text=forged, place=st.sampled_from(PLACES))
    def test_no_text_becomes_a_special_token(self, name: str, text: str, place: Place) -> None:
        tokenizer = BUILT[name]
        unknown = tokenizer.special_id("<unk>")
        special = set(tokenizer.encode(text, place=place)) & set(tokenizer.specials.values())
        # Unigram has no bytes to fall back to: characters it lacks are <unk> by right
        assert special <= ({unknown} if name == "unigram" else set())

    def test_the_library_alone_would_make_special_tokens_of_text(self, tmp_path: Path) -> None:
        plain = backend_of(gemma_like(), tmp_path)
        assert plain.encode("<eos>", add_special_tokens=False).ids == [1]
        plain = backend_of(unigram(), tmp_path)
        plain.encode_special_tokens = True  # even so: the model behind it knows the piece
        assert 1 in plain.encode("a</s>＜/s＞", add_special_tokens=False).ids

    def test_spelt_tokens_come_back_as_they_were_spelt(self) -> None:
        assert unigram().decode(unigram().encode("a</s></s>b")) == "a</s></s>b"
        ids = gemma_like().encode("<eos>")  # "<", "e", "o", "s", ">": 6 specials and 256 bytes before "!" (33)
        assert ids == [262 + ord(letter) - 33 for letter in "<eos>"]

    @pytest.mark.parametrize("place", PLACES)
    def test_spelt_tokens_get_the_ids_that_any_letters_get(self, place: Place) -> None:
        """`<s` is a merge, the last one: looking for special tokens in text and then cutting them up would lose it."""
        tokenizer = llama_like("first")
        ids = tokenizer.encode("<s>", place=place)
        assert ids[-2:] == [tokenizer.vocab_size - 1, 261 + ord(">") - 33]

    def test_many_spelt_tokens_do_not_slow_it_down(self) -> None:
        assert len(unigram().encode("</s>" * 2000, place="inside")) == 8000

    def test_a_special_token_of_one_letter_cannot_be_spelt(self) -> None:
        tokenizer = unigram()
        forged = Tokenizer(copy.deepcopy(tokenizer)._backends["start"], {"eos_token": "a"})
        with pytest.raises(DataError, match="the text holds 'a', a special token that cannot be spelt as plain text"):
            forged.encode("cab")

    def test_a_lone_surrogate_is_refused(self) -> None:
        with pytest.raises(DataError, match="not valid Unicode"):
            gemma_like().encode("a\ud800")

    def test_copies_keep_specials_out_of_text(self) -> None:
        """A plain copy of the library's object loses the setting."""
        assert copy.deepcopy(gemma_like()).encode("<eos>") == gemma_like().encode("<eos>")

    @pytest.mark.parametrize(
        "config",
        [
            {"additional_special_tokens": ["<x>"]},
            {"extra_special_tokens": {"image_token": {"content": "<x>"}}},
            {"added_tokens_decoder": {"6": {"content": "<x>", "special": True}}},
            {"mask_token": "<x>"},
        ],
    )
    def test_tokens_that_only_the_config_calls_special_are_special(self, config: dict[str, Any]) -> None:
        backend = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate("<x>")}, []))
        backend.add_tokens([tokenizers.AddedToken("<x>", special=False)])
        assert backend.encode("<x>").ids == [3]
        tokenizer = Tokenizer(backend, config)
        assert tokenizer.special_id("<x>") == 3
        assert tokenizer.encode("<x>") == [0, 1, 2]


class TestPlace:
    def test_only_the_first_word_of_a_text_is_marked(self) -> None:
        """Ids on paper: 5 specials, 256 bytes, 94 letters, ▁ (355), line break, then the merges from 357."""
        hello, marked_hello = 360, 361
        tokenizer = llama_like("first")
        assert tokenizer.encode("hello") == [marked_hello]
        assert tokenizer.encode("hello", place="after_special") == [hello]
        assert tokenizer.encode("hello", place="inside") == [hello]
        legacy = llama_like("legacy")
        assert legacy.encode("hello", place="after_special") == [marked_hello]
        assert legacy.encode("hello", place="inside") == [hello]

    def test_encoding_is_not_additive(self) -> None:
        """Why stretches are cut at the same places in training and serving."""
        tokenizer = gemma_like()
        whole, halves = tokenizer.encode("\n\n"), [*tokenizer.encode("\n"), *tokenizer.encode("\n")]
        assert len(whole) == 1
        assert len(halves) == 2
        marked = llama_like("first")
        assert marked.encode("hellohello") != marked.encode("hello") + marked.encode("hello")

    @pytest.mark.parametrize("name", TOYS)
    @settings(max_examples=40, deadline=None)
    @given(text=texts)
    def test_start_and_after_special_are_what_the_library_does(self, name: str, text: str) -> None:
        tokenizer = BUILT[name]
        assume(not any(spelt in text for spelt in tokenizer.specials))
        plain = copy.deepcopy(tokenizer._backends["start"])
        plain.encode_special_tokens = False
        special = next(iter(tokenizer.specials))
        assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids
        joined = plain.encode(special + text, add_special_tokens=False).ids
        assert [tokenizer.specials[special], *tokenizer.encode(text, place="after_special")] == joined

    @pytest.mark.parametrize("name", ["gemma", "llama", "legacy", "bytes"])
    @settings(max_examples=40, deadline=None)
    @given(text=texts | forged)
    def test_inside_a_text_decoding_undoes_encoding(self, name: str, text: str) -> None:
        tokenizer = BUILT[name]
        text = text.replace("▁", "")  # these vocabularies write blanks with it
        assert tokenizer.decode(tokenizer.encode(text, place="inside"), place="inside") == text

    def test_a_byte_level_prefix_blank_is_for_the_start_alone(self) -> None:
        backend = copy.deepcopy(byte_level()._backends["start"])
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer = Tokenizer(backend, {})
        assert tokenizer.decode(tokenizer.encode("hello")) == " hello"
        assert tokenizer.decode(tokenizer.encode("hello", place="inside")) == "hello"

    def test_other_places_share_the_backend_where_nothing_marks(self) -> None:
        tokenizer = gemma_like()
        tokenizer.encode("a", place="inside")
        assert tokenizer._backends["inside"] is tokenizer._backends["start"]


class TestRoles:
    @pytest.mark.promise5
    @pytest.mark.parametrize(
        ("make", "declared", "adds"),
        [(gemma_like, 2, True), (lambda: llama_like("first"), 1, True), (byte_level, 1, False), (unigram, None, False)],
    )
    def test_a_declared_bos_begins_texts_only_where_the_tokenizer_puts_it(
        self, make: Callable[[], Tokenizer], declared: int | None, adds: bool
    ) -> None:
        tokenizer = make()
        assert (tokenizer.bos_id, tokenizer.adds_bos) == (declared, adds)

    def test_the_folder_may_overrule_what_the_tokenizer_does(self) -> None:
        backend = gemma_like()._backends["start"]
        assert not Tokenizer(backend, {"bos_token": "<bos>", "add_bos_token": False}).adds_bos
        assert byte_level(add_bos_token=True).adds_bos
        assert not unigram().adds_bos

    @pytest.mark.promise5
    def test_padding_falls_back_to_eos_then_to_zero(self) -> None:
        backend = gemma_like()._backends["start"]
        assert Tokenizer(backend, {"pad_token": "<unk>", "eos_token": "<eos>"}).pad_id == 3
        assert Tokenizer(backend, {"eos_token": {"content": "<eos>"}}).pad_id == 1
        assert Tokenizer(backend, {"pad_token": "<nowhere>"}).pad_id == 0

    def test_a_named_token_that_the_vocabulary_lacks(self) -> None:
        with pytest.raises(ModelError, match=r"eos_token is '<end>', which the vocabulary lacks"):
            Tokenizer(gemma_like()._backends["start"], {"eos_token": "<end>"}, where="folder")

    def test_vocab_size_counts_added_tokens(self) -> None:
        assert gemma_like().vocab_size == 6 + 256 + 94 + 2 + 9

    def test_special_ids(self) -> None:
        tokenizer = gemma_like()
        assert tokenizer.special_id("<end_of_turn>") == 5
        assert tokenizer.special_id("hello") is None
        assert tokenizer.special_id("<nowhere>") is None

    def test_truncation_and_padding_of_the_file_are_switched_off(self) -> None:
        backend = gemma_like()._backends["start"]
        backend.enable_truncation(2)
        backend.enable_padding(length=9)
        assert len(Tokenizer(backend, {}).encode("abcdefg")) == 7


class TestPieces:
    @pytest.mark.parametrize("name", ["gemma", "llama", "bytes"])
    @settings(max_examples=40, deadline=None)
    @given(text=texts)
    def test_joined_they_are_the_text(self, name: str, text: str) -> None:
        tokenizer = BUILT[name]
        ids = tokenizer.encode(text.replace("▁", ""), place="inside")
        pieces = tokenizer.pieces(ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == text.replace("▁", "")

    @pytest.mark.parametrize("name", ["gemma", "bytes"])
    def test_a_character_of_several_tokens_stands_at_the_last(self, name: str) -> None:
        tokenizer = BUILT[name]
        ids = tokenizer.encode("日a")
        assert tokenizer.pieces(ids) == ["", "", "日", "a"]
        assert tokenizer.pieces(ids[:2])[0] == ""  # cut in the middle of the character: still valid text
        assert "\ufffd" in tokenizer.pieces(ids[:2])[1]

    def test_special_tokens_are_spelt_out(self) -> None:
        assert gemma_like().pieces([2, 4, 5]) == ["<bos>", "<start_of_turn>", "<end_of_turn>"]
        assert gemma_like().decode([2, 4, 5]) == ""
        assert gemma_like().decode([2], keep_special=True) == "<bos>"


class TestMarkup:
    @settings(max_examples=40, deadline=None)
    @given(text=forged, left=st.booleans(), right=st.booleans())
    def test_splitting_at_specials_is_what_the_library_does(self, text: str, left: bool, right: bool) -> None:
        backend = tokenizers.Tokenizer(tokenizers.models.BPE({}, [], unk_token=None))
        tokens = [tokenizers.AddedToken("<s>", special=True, normalized=False, lstrip=left, rstrip=right)]
        backend.add_special_tokens([*tokens, tokenizers.AddedToken("</s>", special=True, normalized=False)])
        parts = Tokenizer(copy.deepcopy(backend), {}).split_specials(text)
        assert [part for part in parts if isinstance(part, int)] == backend.encode(text).ids
        if not left and not right:
            names = {0: "<s>", 1: "</s>"}
            assert "".join(part if isinstance(part, str) else names[part] for part in parts) == text

    def test_tokens_swallow_blanks_as_they_say(self) -> None:
        backend = byte_level()._backends["start"]
        backend.add_special_tokens([tokenizers.AddedToken("<L>", special=True, lstrip=True, normalized=False)])
        backend.add_special_tokens([tokenizers.AddedToken("<R>", special=True, rstrip=True, normalized=False)])
        tokenizer = Tokenizer(backend, {})
        left, right = tokenizer.specials["<L>"], tokenizer.specials["<R>"]
        assert tokenizer.split_specials("a \n<L> b <R>\n c<R> <R>") == ["a", left, " b ", right, "c", right, right]
        assert tokenizer.split_specials("") == []

    def test_the_longest_token_wins(self) -> None:
        backend = byte_level()._backends["start"]
        backend.add_special_tokens(
            [tokenizers.AddedToken(text, special=True, normalized=False) for text in ("<a", "<ab")]
        )
        tokenizer = Tokenizer(backend, {})
        assert tokenizer.split_specials("<ab<a") == [tokenizer.specials["<ab"], tokenizer.specials["<a"]]


class TestFolder:
    @pytest.mark.parametrize("name", TOYS)
    def test_saving_and_loading_changes_nothing(self, name: str, tmp_path: Path) -> None:
        before = TOYS[name]().with_chat_template("{{ messages }}é")
        before.save(tmp_path)
        after = Tokenizer.load(tmp_path)
        assert after.fingerprint == before.fingerprint
        assert after.chat_template == "{{ messages }}é"
        assert (after.bos_id, after.eos_id, after.pad_id, after.adds_bos, after.specials) == (
            (before.bos_id, before.eos_id, before.pad_id, before.adds_bos, before.specials)
        )

    @pytest.mark.promise4
    @pytest.mark.parametrize("name", ["gemma", "llama", "bytes"])
    def test_transformers_reads_the_folder_alike(self, name: str, tmp_path: Path) -> None:
        from transformers import AutoTokenizer

        ours = BUILT[name].with_chat_template("{{ bos_token }}hi")
        ours.save(tmp_path)
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        for text in ("hello hello", "日本 a\n\n", "<s></s><eos><|im_end|>", ""):
            assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ours.encode(text)
            bos = [ours.bos_id] if ours.adds_bos else []
            assert theirs.encode(text, split_special_tokens=True) == bos + ours.encode(text)
        assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
        assert theirs.chat_template == ours.chat_template
        assert len(theirs) == ours.vocab_size

    def test_stale_files_beside_do_not_survive(self, tmp_path: Path) -> None:
        (tmp_path / "chat_template.jinja").write_text("old", "utf-8")
        (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<unk>"}', "utf-8")
        gemma_like().with_chat_template("new").save(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
        assert Tokenizer.load(tmp_path).chat_template == "new"
        gemma_like().with_chat_template("new").with_chat_template(None).save(tmp_path)
        assert Tokenizer.load(tmp_path).chat_template is None

    def test_where_templates_and_roles_may_stand(self, tmp_path: Path) -> None:
        byte_level().save(tmp_path)
        config = tmp_path / "tokenizer_config.json"
        config.write_text(json.dumps({"chat_template": [{"name": "rag", "template": "r"}]}), "utf-8")
        (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>"}}', "utf-8")
        loaded = Tokenizer.load(tmp_path)
        assert (loaded.eos_id, loaded.chat_template) == (2, None)
        config.write_text(json.dumps({"chat_template": [{"name": "default", "template": "d"}]}), "utf-8")
        assert Tokenizer.load(tmp_path).chat_template == "d"
        (tmp_path / "chat_template.jinja").write_text("file wins", "utf-8")
        assert Tokenizer.load(tmp_path).chat_template == "file wins"

    def test_the_fingerprint_sees_what_changes_ids(self) -> None:
        prints = [
            byte_level().fingerprint,
            byte_level("template").fingerprint,
            byte_level(add_bos_token=True).fingerprint,
            byte_level(eos_token="<|endoftext|>").fingerprint,
            gemma_like().fingerprint,
        ]
        assert len(set(prints)) == len(prints)
        assert byte_level().fingerprint == prints[0]

    @pytest.mark.promise10
    def test_no_tokenizer_there(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"no tokenizer\.json here"):
            Tokenizer.load(tmp_path / "nowhere")
        (tmp_path / "tokenizer.model").write_bytes(b"")
        with pytest.raises(ModelError, match=r"only a sentencepiece tokenizer.model\n  do this: load and save it once"):
            Tokenizer.load(tmp_path)

    @pytest.mark.promise10
    @pytest.mark.parametrize(
        ("name", "content", "sentence"),
        [
            ("tokenizer.json", "{", r"tokenizer.json: cannot read it: .*\n  do this: fetch the model again"),
            ("tokenizer_config.json", "{", "tokenizer_config.json: not valid JSON: "),
            ("tokenizer_config.json", "[]", "tokenizer_config.json: expected a JSON object"),
            ("tokenizer_config.json", None, "no tokenizer_config.json here"),
            ("special_tokens_map.json", "[]", "special_tokens_map.json: expected a JSON object"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, name: str, content: str | None, sentence: str) -> None:
        gemma_like().save(tmp_path)
        (tmp_path / name).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / name).write_text(content, "utf-8")
        with pytest.raises(ModelError, match=sentence):
            Tokenizer.load(tmp_path)

    def test_a_template_that_is_not_text(self, tmp_path: Path) -> None:
        gemma_like().save(tmp_path)
        (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
        with pytest.raises(ModelError, match=r"chat_template.jinja: cannot read it: "):
            Tokenizer.load(tmp_path)


def test_no_torch_and_no_transformers() -> None:
    code = "import sys, shinan.models.chat, shinan.models.fake;print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.slow
def test_the_real_gemma_tokenizer() -> None:
    folder = cache_root() / "models" / "gemma-3-270m"
    if not folder.is_dir():
        pytest.skip("gemma-3-270m is not in SHINAN_CACHE")
    from transformers import AutoTokenizer

    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.adds_bos) == (2, 1, 0, True)
    assert (ours.special_id("<start_of_turn>"), ours.special_id("<end_of_turn>")) == (105, 106)
    for text in ("Hello  there,\n\n\tyou", "指南車は南を指す。", "<start_of_turn>user", "x<eos>\n", " 12345", "é🙂"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.decode(ids) == text
        assert "".join(ours.pieces(ids)) == text
    specials = set(ours.specials.values())
    assert all(specials.isdisjoint(ours.encode(text)) for text in ours.specials)
