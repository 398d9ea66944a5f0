"""The supervision audit: every failure that it is there for is planted, and must be told with its sentence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.core.dataset import new_folder
from shinan.core.errors import DataError
from shinan.core.example import Example, Message, Part, Provenance, assistant, system, user
from shinan.models import tiny
from shinan.models.card import load_card
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model, save_model
from shinan.models.rendering import ChatFormat, Piece, Rendered
from shinan.models.tokenizer import Tokenizer
from shinan.train.audit import audit, audit_saved
from shinan.train.facts import ModelFacts, facts_of
from shinan.train.findings import RULES, Finding, finding, refuse
from shinan.train.rows import TooLong, tokenise
from tests.models.toy_tokenizers import byte_level, gemma_like, llama_like

pytestmark = pytest.mark.promise5

FACTS = ModelFacts(embeddings=100_000, context=4096)
BOS, EOS, END = 2, 1, 5  # ids of the byte tokenizer
TALK = (user("Name a colour."), assistant("Red."), user("Another one?"), assistant("Blue."))
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tokenizer(**roles: str) -> Tokenizer:
    return Tokenizer(tiny.byte_tokenizer(), {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"} | roles)


def _examples(*conversations: Sequence[Message]) -> list[Example]:
    return [Example(tuple(turns), provenance=Provenance("f", n)) for n, turns in enumerate(conversations)]


def _audit(
    examples: Sequence[Example],
    chat: ChatFormat,
    facts: ModelFacts = FACTS,
    max_tokens: int = 4096,
    too_long: TooLong = "drop",
    pairs: bool = False,
) -> dict[str, Finding]:
    """The findings by check, on the way that a run takes."""
    bundles, dropped = tokenise(examples, chat, max_tokens, too_long=too_long, pairs=pairs)
    lost = [example for example, _ in dropped]
    kept = [example for example in examples if all(example is not other for other in lost)]
    found = audit(kept, bundles, dropped, chat, facts, pairs=pairs, cut=too_long == "truncate")
    return {finding.check: finding for finding in found}


def _stopped(findings: dict[str, Finding]) -> str:
    """What the run stops with."""
    with pytest.raises(DataError) as caught:
        refuse(findings.values())
    return str(caught.value)


@dataclass(frozen=True, eq=False)
class _Broken(ChatFormat):
    """A chat format with a fault: what `inner` renders is passed through `spoil`; prompts are right."""

    inner: ChatFormat
    spoil: Callable[[Rendered], Rendered]

    def render(self, messages: Sequence[Message]) -> Rendered:
        return self.spoil(self.inner.render(messages))

    def render_prompt(self, messages: Sequence[Message], prefill: str = "") -> tuple[int, ...]:
        return self.inner.render_prompt(messages, prefill)

    def _pieces(self, messages: Sequence[Message], *, opens: bool) -> list[Piece]:
        raise NotImplementedError


def _broken(name: str, spoil: Callable[[Rendered], Rendered], tokenizer: Tokenizer | None = None) -> _Broken:
    inner = chat_format(name, tokenizer or _tokenizer())
    own = {item.name: getattr(inner, item.name) for item in fields(ChatFormat)}
    return _Broken(**own, inner=inner, spoil=spoil)


def _masked(rendered: Rendered, where: Callable[[int, int], bool]) -> Rendered:
    """Without the labels for which `where(index, id)`."""
    mask = (on and not where(n, id_) for n, (id_, on) in enumerate(zip(rendered.ids, rendered.mask, strict=True)))
    return replace(rendered, mask=tuple(mask))


class TestSoundData:
    @pytest.mark.parametrize("name", ["gemma", "chatml", "alpaca", "plain"])
    def test_nothing_is_found(self, name: str) -> None:
        conversations = [
            TALK,
            (system("Be brief."), user("Hi."), assistant("Hello.")),
            (user("Hi."), assistant("", train=False), user("Hm?"), assistant("Sorry, hello.")),
            (user("Hi there."), assistant("Bonjour.", train=False), user("In English."), assistant("Hello.")),
        ]
        assert _audit(_examples(*conversations), chat_format(name, _tokenizer())) == {}

    @pytest.mark.parametrize("name", ["gemma", "chatml"])
    def test_trained_questions_are_labels_too(self, name: str) -> None:
        asked = Message("user", (Part("What now?"),), train=True)
        assert _audit(_examples((asked, assistant("Wait."))), chat_format(name, _tokenizer())) == {}

    @settings(max_examples=40, deadline=None)
    @given(
        texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=6, unique=True),
        toy=st.sampled_from(["gemma", "alpaca first", "plain legacy", "chatml", "tokenizer"]),
    )
    def test_no_text_stops_a_run(self, texts: list[str], toy: str) -> None:
        """Whatever the turns say: a sound row is never refused for its content. (What a format refuses is dropped.)"""
        turns = [assistant(text) if n % 2 else user(text) for n, text in enumerate(texts[: len(texts) // 2 * 2])]
        name, _, scheme = toy.partition(" ")
        tokenizers = {"gemma": gemma_like(), "chatml": byte_level(), "tokenizer": byte_level(CHATML)}
        chat = chat_format(name, tokenizers[name] if name in tokenizers else llama_like(scheme))
        found = _audit(_examples(turns), chat)
        assert found.keys() <= {"spelt", "not_renderable"}


class TestRowsThatAreLeftOut:
    """Counted with their reason; a stray one is a warning, many are a mistake."""

    def test_rows_without_a_label(self) -> None:
        rows = _examples((user("a"),), (user("b"), assistant("c", train=False)), *(_asked(n) for n in range(4)))
        found = _audit(rows, chat_format("gemma", _tokenizer()))
        assert (found["no_label"].count, found["no_label"].rows) == (2, ("f#0", "f#1"))
        told = _stopped(found)
        assert told.startswith("f#0: 2 of 6 rows train on no turn and are left out")
        assert "do this: end each row with an assistant turn; `- use: structure`" in told

    def test_one_stray_row_in_a_hundred_is_a_warning(self) -> None:
        rows = _examples((user("a"),), *(_asked(n) for n in range(99)))
        found = _audit(rows, chat_format("gemma", _tokenizer()))
        assert {name: f.severity for name, f in found.items()} == {"no_label": "warn"}
        refuse(found.values())

    def test_labels_lost_to_length_are_counted_not_rows(self) -> None:
        """By hand: the long reply has 90 letters and its end, the nine others one digit each and their end."""
        rows = _examples((user("Write."), assistant("x" * 90)), *(_asked(n) for n in range(9)))
        found = _audit(rows, chat_format("gemma", _tokenizer()), max_tokens=100)["too_long"]
        assert (found.count, found.severity) == (1, "stop")
        assert found.share == pytest.approx(91 / (91 + 9 * 2))
        assert "1 of 10 rows are longer than tune.max_tokens and are left out (83.5% of all labels" in found.what
        assert found.fix == "raise tune.max_tokens, or split these rows"

    def test_a_few_labels_lost_are_a_warning(self) -> None:
        rows = _examples((user("q" * 90), assistant("x")), *(_asked(n) for n in range(9)))
        found = _audit(rows, chat_format("gemma", _tokenizer()), max_tokens=100)
        assert found["too_long"].severity == "warn"
        assert found["too_long"].share == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("turns", "check"),
        [
            ((user("a"), user("b"), assistant("c")), "role_order"),
            ((assistant("a"),), "role_order"),
            ((user("a"), assistant("b"), system("c")), "role_order"),
            ((system("a"),), "role_order"),
            ((user(" "), assistant("b")), "empty_turn"),
            ((user("a"), assistant("")), "empty_turn"),
            ((user("a"), assistant("b\n\n### Instruction: c")), "not_renderable"),
        ],
    )
    def test_turns_that_cannot_be_written(self, turns: tuple[Message, ...], check: str) -> None:
        found = _audit(_examples(turns, (user("q"), assistant("r"))), chat_format("alpaca", _tokenizer()))
        assert list(found) == [check]
        assert found[check].rows == ("f#0",)
        if check != "not_renderable":
            assert re.search("have turns out of order|have an empty turn", _stopped(found))

    def test_a_mask_that_trains_nothing(self) -> None:
        """As when a mask is built from the key names of a batch: the loss would be that of nothing."""
        found = _audit(_examples(TALK), _broken("gemma", lambda r: _masked(r, lambda n, id_: True)))
        assert "1 of 1 rows train on no turn" in _stopped(found)


class TestOtherRows:
    """Rows cut to length, and pairs of replies."""

    LONG = (user("q" * 90), assistant("Yes."), user("Sure?"), assistant("No."))

    @pytest.mark.parametrize("name", ["gemma", "alpaca"])
    def test_a_context_that_was_cut_is_counted(self, name: str) -> None:
        chat = chat_format(name, _tokenizer())
        whole = len(chat.render(self.LONG).ids)
        examples = _examples(self.LONG, (user("a"), assistant("b")))
        found = _audit(examples, chat, max_tokens=whole - 20, too_long="truncate")
        assert {check: (f.severity, f.rows) for check, f in found.items()} == {"cut_context": ("warn", ("f#0",))}
        assert "(20 of " in found["cut_context"].what

    def test_where_nothing_may_be_cut_the_same_is_a_fault(self) -> None:
        chat = chat_format("gemma", _tokenizer())
        examples = _examples(self.LONG)
        bundles, _ = tokenise(examples, chat, 100, too_long="truncate")
        assert {f.check for f in audit(examples, bundles, [], chat, FACTS)} == {"prompt", "special"}

    def test_pairs(self) -> None:
        pair = Example((user("Hi."), assistant("Hello.")), rejected=(assistant("Go away."),))
        single = Example((user("Hi."), assistant("Hello.")), provenance=Provenance("f", 1))
        chat = chat_format("gemma", _tokenizer())
        assert _audit([pair], chat, pairs=True) == {}
        found = _audit([pair, single], chat, pairs=True)
        assert list(found) == ["no_pair"]
        assert "f#1: 1 of 2 rows have no two replies to compare and are left out" in _stopped(found)

    def test_a_rejected_reply_whose_end_is_masked(self) -> None:
        pair = Example((user("Hi."), assistant("Hello.")), rejected=(assistant("Go."),))
        length = len(chat_format("gemma", _tokenizer()).render((user("Hi."), assistant("Go."))).ids)
        chat = _broken("gemma", lambda r: _masked(r, lambda n, _: len(r.ids) == length and n == length - 2))
        assert list(_audit([pair], chat, pairs=True)) == ["terminator"]


def _asked(number: int) -> tuple[Message, ...]:
    return user(f"Digit {number}?"), assistant(f"{number % 10}")


class TestBrokenFormats:
    """Faults that leave a normal-looking loss curve."""

    @pytest.mark.parametrize("name", ["gemma", "chatml", "alpaca", "plain"])
    def test_pad_is_eos_and_masked_by_its_id(self, name: str) -> None:
        tokenizer = _tokenizer(
            pad_token="<eos>", eos_token={"gemma": "<end_of_turn>", "chatml": "<|im_end|>"}.get(name, "<eos>")
        )
        chat = _broken(name, lambda r: _masked(r, lambda n, id_: id_ == tokenizer.eos_id), tokenizer)
        told = _stopped(_audit(_examples(TALK), chat))
        assert "f#0: 1 of 1 rows have a trained turn whose end is not trained" in told
        assert "do this: choose another `chat:` format" in told

    def test_only_the_last_turns_end_is_masked(self) -> None:
        found = _audit(_examples(TALK), _broken("gemma", lambda r: _masked(r, lambda n, _: n == len(r.ids) - 2)))
        assert list(found) == ["terminator"]
        assert found["terminator"].severity == "stop"

    def test_a_turn_that_ends_where_nothing_stops(self) -> None:
        """A base model's eos is `<eos>`, the format's end `<|im_end|>`: it would write on for ever."""
        chat = replace(chat_format("chatml", _tokenizer()), stop_ids=(EOS,))
        told = _stopped(_audit(_examples(TALK), chat))
        assert "1 of 1 rows end a trained turn with a token at which nothing stops (it is '<|im_end|>')" in told

    def test_the_prompt_mask_is_two_tokens_long(self) -> None:
        def spoil(rendered: Rendered) -> Rendered:
            starts = [n for n, on in enumerate(rendered.mask) if on and not rendered.mask[n - 1]]
            return _masked(rendered, lambda n, _: any(start <= n < start + 2 for start in starts))

        told = _stopped(_audit(_examples(TALK), _broken("gemma", spoil)))
        assert "1 of 1 rows looked at do not begin with the prompt that evaluation gives (from token" in told

    def test_the_prompt_is_another_one(self) -> None:
        """Where they differ is shown."""

        def spoil(rendered: Rendered) -> Rendered:
            old, new = _tokenizer().encode("NS")
            return replace(rendered, ids=tuple(new if id_ == old else id_ for id_ in rendered.ids))

        told = _stopped(_audit(_examples(TALK), _broken("alpaca", spoil)))
        assert "'Same a', there 'Name a'" in told

    def test_questions_are_trained_too(self) -> None:
        """The reply's marker was not found: everything is trained, as some trainers do by default."""
        found = _audit(
            _examples(TALK), _broken("gemma", lambda r: replace(r, mask=(False, *[True] * (len(r.ids) - 1))))
        )
        assert "train on other stretches than their trained turns (1 trained stretches for 2" in _stopped(found)

    def test_one_of_two_replies_is_not_trained(self) -> None:
        found = _audit(_examples(TALK), _broken("gemma", lambda r: _masked(r, lambda n, _: n < len(r.ids) // 2)))
        assert list(found) == ["turns"]

    def test_the_reply_was_cut(self) -> None:
        def spoil(rendered: Rendered) -> Rendered:
            at = [n for n, on in enumerate(rendered.mask) if on][1]  # the second letter of the first reply
            return replace(
                rendered,
                ids=rendered.ids[:at] + rendered.ids[at + 1 :],
                mask=rendered.mask[:at] + rendered.mask[at + 1 :],
            )

        told = _stopped(_audit(_examples(TALK), _broken("gemma", spoil)))
        assert "1 of 1 rows train on tokens that do not spell their reply ('Rd.' for 'Red.')" in told

    def test_bos_twice(self) -> None:
        """The template writes one and the tokenizer another."""

        class Doubling(Tokenizer):
            def encode(self, text: str, *, place: Any = "start") -> list[int]:
                return ([BOS] if place != "inside" else []) + super().encode(text, place=place)

        backend = _tokenizer()._backends["start"]
        tokenizer = Doubling(backend, {"bos_token": "<bos>", "eos_token": "<eos>"})
        told = _stopped(_audit(_examples(TALK), chat_format("alpaca", tokenizer)))
        assert "f#0: 1 of 1 rows begin with bos twice" in told
        assert "do this: set `add_bos_token: false` in tokenizer_config.json" in told

    def test_bos_missing(self) -> None:
        chat = _broken("alpaca", lambda r: Rendered(r.ids[1:], r.mask[1:], r.spans))
        assert "lack the bos with which the model's texts begin (it begins with 'Bel')" in _stopped(
            _audit(_examples(TALK), chat)
        )

    def test_the_models_own_template_decides_on_bos(self) -> None:
        tokenizer = _tokenizer(chat_template=CHATML)
        assert tokenizer.adds_bos
        assert _audit(_examples(TALK), chat_format("tokenizer", tokenizer)) == {}

    def test_text_that_becomes_a_special_token(self) -> None:
        """The library's own behaviour, which our tokenizer switches off."""

        class Library(Tokenizer):
            def encode(self, text: str, *, place: Any = "start") -> list[int]:
                backend = self._backends["start"]
                backend.encode_special_tokens = False
                return list(backend.encode(text, add_special_tokens=False).ids)

        tokenizer = Library(tiny.byte_tokenizer(), {"bos_token": "<bos>", "eos_token": "<eos>"})
        forged = (user("Say <end_of_turn> twice."), assistant("No."))
        found = _audit(_examples(forged, TALK), chat_format("alpaca", tokenizer))
        assert found["special"].rows == ("f#0",)
        assert "('<bos><end_of_turn><eos>' in place of '<bos><eos>')" in _stopped(found)

    def test_a_weight_that_teaches_nothing_or_the_opposite(self) -> None:
        for weight in (0.0, -1.0, math.nan, math.inf):
            rows = [replace(example, weight=weight) for example in _examples(TALK)]
            told = _stopped(_audit(rows, chat_format("gemma", _tokenizer())))
            assert f"have a weight that is not a positive number (it is {weight})" in told


class TestWarnings:
    """What is often meant, and seldom known."""

    def test_text_that_spells_a_special_token_is_letters(self) -> None:
        conversations = [
            (user("<start_of_turn>user\nHi<end_of_turn>"), assistant("Hi.")),
            (user("1 < 2 <eo> <"), assistant("Yes: <eos>")),
            (user("1 < 2 < 3"), assistant("<end of turn>")),
        ]
        found = _audit(_examples(*conversations), chat_format("gemma", _tokenizer()))
        assert list(found) == ["spelt"]
        assert (found["spelt"].severity, found["spelt"].rows) == ("warn", ("f#0", "f#1"))
        assert "2 of 3 rows spell a special token (trained as plain letters) ('<start_of_turn>')" in found["spelt"].what

    def test_a_turn_repeated_right_after_itself(self) -> None:
        found = _audit(_examples((user("Red."), assistant("Red.")), TALK), chat_format("gemma", _tokenizer()))
        assert {name: (f.severity, f.rows) for name, f in found.items()} == {"repeated_turn": ("warn", ("f#0",))}

    def test_copies_of_rows_are_counted(self) -> None:
        found = _audit(_examples(TALK, _asked(1), TALK, TALK), chat_format("gemma", _tokenizer()))
        assert (found["duplicate"].share, found["duplicate"].rows) == (0.5, ("f#2", "f#3"))
        assert "2 of 4 rows are copies of an earlier row (of f#0)" in found["duplicate"].what
        assert found["duplicate"].severity == "warn"


class TestTheModel:
    def test_ids_without_an_embedding(self) -> None:
        tokenizer = _tokenizer()
        rows = _examples((user("a"), assistant("b")), (user("í"), assistant("b")))
        largest = max(tokenizer.encode("í"))  # of all ids
        found = _audit(rows, chat_format("alpaca", tokenizer), replace(FACTS, embeddings=largest))
        assert found["vocabulary"].rows == ("f#1",)
        told = _stopped(found)
        assert (
            f"1 of 2 rows hold a token for which the model has no embedding (id {largest}, with {largest} emb" in told
        )
        assert f"the tokenizer writes {tokenizer.vocab_size} tokens, the model has {largest} embeddings" in told

    def test_a_stop_without_an_embedding(self) -> None:
        found = _audit([], chat_format("gemma", _tokenizer()), replace(FACTS, embeddings=END))
        assert "chat format gemma: the tokenizer's <end_of_turn> has id 5, the model has 5 embeddings" in _stopped(
            found
        )

    def test_unused_special_tokens_beyond_the_embeddings_are_harmless(self) -> None:
        """Gemma 3's text models have an image token that their embeddings lack."""
        backend = tiny.byte_tokenizer()
        backend.add_special_tokens(["<image>"])
        tokenizer = Tokenizer(backend, {"bos_token": "<bos>", "eos_token": "<eos>"})
        assert tokenizer.specials["<image>"] == 264
        assert _audit(_examples(TALK), chat_format("gemma", tokenizer), replace(FACTS, embeddings=264)) == {}

    def test_rows_longer_than_the_context(self) -> None:
        found = _audit(
            _examples(TALK, (user("a"), assistant("b"))), chat_format("gemma", _tokenizer()), replace(FACTS, context=40)
        )
        assert found["context"].rows == ("f#0",)
        assert "do this: lower tune.max_tokens to the model's context" in _stopped(found)


class TestTheEndOfAReply:
    """Measured on gemma-3-270m with its turn format and LoRA: 95 of 120 answers ran into the length limit."""

    @pytest.fixture
    def model(self, tiny_decoder: Path) -> Any:
        return load_model(tiny_decoder, torch.float32)

    def test_random_weights_tell_tokens_apart(self, model: Any) -> None:
        facts = facts_of(model, chat_format("gemma", _tokenizer()), frozen=True)
        assert facts == ModelFacts(embeddings=264, context=2048)

    def test_a_terminator_among_untrained_twins(self, model: Any) -> None:
        head = model.get_output_embeddings().weight.detach()
        noise = torch.randn(60, head.shape[1], generator=torch.Generator().manual_seed(0))
        head[100:160] = head[END] + 0.1 * head[END].norm() / head.shape[1] ** 0.5 * noise
        facts = facts_of(model, chat_format("gemma", _tokenizer()), frozen=True)
        assert facts.unlearnable == "60 other tokens have nearly the same weights"
        told = _stopped(_audit(_examples(TALK), chat_format("gemma", _tokenizer()), facts))
        assert (
            "chat format gemma: the format ends a reply with <end_of_turn>, which the model was never trained on"
            in told
        )
        assert "the method leaves those weights as they are, so it cannot learn to stop there" in told
        assert "do this: set `chat: alpaca`, which ends a reply with the eos that the model knows" in told
        assert not facts_of(model, chat_format("gemma", _tokenizer()), frozen=False).unlearnable
        assert not facts_of(model, chat_format("alpaca", _tokenizer()), frozen=True).unlearnable

    def test_a_terminator_near_zero(self, model: Any) -> None:
        model.get_output_embeddings().weight.detach()[END] *= 0.01
        why = facts_of(model, chat_format("gemma", _tokenizer()), frozen=True).unlearnable
        assert re.fullmatch(r"the norm of its weights is 0\.0\d+ of a usual token's", why)

    def test_where_the_model_is_known_to_stop_it_can(self, model: Any) -> None:
        """As an instruct model: its terminator has near twins in the weights, and stops all the same."""
        model.get_output_embeddings().weight.detach()[END] *= 0.01
        model.generation_config.eos_token_id = [EOS, END]
        assert not facts_of(model, chat_format("gemma", _tokenizer()), frozen=True).unlearnable


@pytest.mark.promise4
class TestPathsToAServedModel:
    def test_evaluation_takes_the_format_by_its_name(self) -> None:
        """A format that is not the one its name stands for: tuned in one, asked in the other."""
        chat = replace(chat_format("chatml", _tokenizer()), name="gemma")
        found = _audit(_examples(TALK), chat)
        assert "1 of 1 rows looked at get another prompt in evaluation and serving than in training" in _stopped(found)
        assert found["format"].rows == ("f#0",)

    def test_a_template_that_writes_something_else(self) -> None:
        chat = chat_format("gemma", _tokenizer())
        assert chat.jinja is not None
        found = _audit(_examples(TALK), replace(chat, jinja=chat.jinja.replace("model", "assistant")))
        assert list(found) == ["template"]
        assert "'model\\n', there 'assist'" in _stopped(found)

    def test_a_template_that_does_not_work(self) -> None:
        found = _audit(_examples(TALK), replace(chat_format("gemma", _tokenizer()), jinja="{% if %}"))
        assert "chat format gemma: 1 of 1 rows looked at get another prompt from the chat template" in _stopped(found)
        assert "the tokenizer's chat template is broken" in _stopped(found)

    def test_inputs_that_a_template_cannot_set_apart_are_a_warning(self) -> None:
        asked = Message("user", (Part("Translate.", "instruction"), Part("neko", "input")))
        found = _audit(_examples((asked, assistant("cat")), TALK), chat_format("alpaca", _tokenizer()))
        assert {name: (f.severity, f.rows) for name, f in found.items()} == {"template_input": ("warn", ("f#0",))}

    @pytest.fixture
    def saved(self, tiny_decoder: Path, tmp_path: Path) -> Path:
        """A model tuned in the format gemma and saved."""
        model, tokenizer = load_model(tiny_decoder, torch.float32), Tokenizer.load(tiny_decoder)
        with new_folder(tmp_path / "saved") as beside:
            parents = [load_card(tiny_decoder)]
            save_model(beside, model, tokenizer, chat_format("gemma", tokenizer), name="toy", parents=parents)
        return tmp_path / "saved"

    def test_a_saved_model_is_what_was_trained(self, saved: Path) -> None:
        assert audit_saved(saved, chat_format("gemma", _tokenizer()), _examples(TALK)) == []

    def test_a_saved_model_that_does_not_stop(self, saved: Path) -> None:
        path = saved / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"eos_token_id": EOS}), "utf-8")
        card = json.loads((saved / "shinan.json").read_text("utf-8"))
        card["files"]["generation_config.json"]["bytes"] = path.stat().st_size
        (saved / "shinan.json").write_text(json.dumps(card), "utf-8")
        (found,) = audit_saved(saved, chat_format("gemma", _tokenizer()), _examples(TALK))
        assert (found.check, found.severity, found.where) == ("saved_stops", "stop", str(saved))
        assert found.what == (
            "the trained end of a reply, <end_of_turn>, is not among the stops in generation_config.json"
        )

    def test_a_saved_model_that_is_served_in_another_format(self, saved: Path) -> None:
        found = {f.check: f.severity for f in audit_saved(saved, chat_format("chatml", _tokenizer()), _examples(TALK))}
        assert found == {"format": "stop", "template": "stop", "saved_stops": "stop"}


def test_every_stop_is_told_at_once() -> None:
    found = [
        finding("bos_twice", [("f#1", "")], 4),
        finding("duplicate", [("f#2", "of f#1")], 4),
        finding("weight", [("f#3", "it is 0")], 4),
    ]
    with pytest.raises(DataError) as caught:
        refuse(found)
    assert "f#1: 1 of 4 rows begin with bos twice\n  do this: set" in str(caught.value)
    assert "f#3: 1 of 4 rows have a weight that is not a positive number (it is 0)" in str(caught.value)
    assert "copies" not in str(caught.value)


def test_a_finding_names_the_first_rows_and_counts_all() -> None:
    found = finding("turns", [(f"f#{n}", "") for n in range(9)], 12)
    assert (found.count, found.share, len(found.rows)) == (9, 0.75, 5)


def test_every_rule_says_what_to_do() -> None:
    assert all(rule.looks and rule.fix for rule in RULES.values())


def test_the_table_of_checks_names_every_failure_every_rule_and_real_tests() -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / "checks.md").read_text("utf-8")
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == list(range(1, 31))
    assert set(RULES) <= set(re.findall(r"`(\w+)`", text))
    for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert f"def {name}(" in (root / path).read_text("utf-8"), f"{path}::{name}"
