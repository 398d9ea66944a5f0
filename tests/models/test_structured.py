"""Replies by a schema: whatever a model would rather write, they parse and validate, or are cut by length."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shinan.core.errors import DataError, RunError
from shinan.core.example import user
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.generator import Completion, Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.sources import resolve
from shinan.models.structured import JsonFilter
from shinan.models.tokenizer import Tokenizer

ASK = (user("Describe it."),)
NESTED = {
    "type": "object",
    "properties": {
        "label": {"enum": ["yes", "no", "わからない"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 12},
        "place": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 4},
                "zip": {"type": "string", "pattern": "^[0-9]{3}$"},
            },
            "required": ["city", "zip"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 3},
        "題名": {"type": ["null", "boolean"]},
    },
    "required": ["label", "count", "place", "tags", "題名"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def local(tiny_llama: Path) -> LocalGenerator:
    chat = chat_format("gemma", Tokenizer.load(tiny_llama))
    return LocalGenerator("tiny", load_model(tiny_llama, torch.float32), chat)


def ask(local: LocalGenerator, schema: object, n: int = 400, **more: Any) -> Completion:
    sampling = Sampling(n, temperature=more.pop("temperature", 1.0))
    (reply,) = local.generate([Request(ASK, schema=json.dumps(schema), sampling=sampling, **more)])
    return reply


class TestReplies:
    @pytest.mark.parametrize("seed", range(4))
    def test_a_nested_schema_is_satisfied(self, local: LocalGenerator, seed: int) -> None:
        reply = ask(local, NESTED, seed=seed)
        assert reply.finish == "stop"
        assert reply.ids[-1] in local.chat.stop_ids
        jsonschema.validate(json.loads(reply.text), NESTED)

    @given(
        st.recursive(
            st.sampled_from(
                [
                    {"type": "null"},
                    {"type": "boolean"},
                    {"type": "integer", "minimum": -3, "maximum": 300},
                    {"enum": ["赤", "blue", 3, None]},
                    {"const": '🐈\n"quoted"'},
                    {"type": "string", "maxLength": 5},
                    {"type": "string", "pattern": "^[A-Z][a-z]{1,3}$"},
                ]
            ),
            lambda inner: (
                st.builds(lambda items: {"type": "array", "items": items, "minItems": 1, "maxItems": 2}, inner)
                | st.dictionaries(st.sampled_from(["a", "猫", "c d"]), inner, min_size=1).map(
                    lambda fields: {
                        "type": "object",
                        "properties": fields,
                        "required": list(fields),
                        "additionalProperties": False,
                    }
                )
            ),
            max_leaves=4,
        ),
        st.integers(0, 2**40),
    )
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_schema_is_satisfied_unless_the_reply_is_cut(
        self, local: LocalGenerator, schema: dict[str, Any], seed: int
    ) -> None:
        reply = ask(local, schema, n=160, seed=seed)
        if reply.finish == "stop":
            jsonschema.validate(json.loads(reply.text), schema)
        else:
            assert len(reply.ids) == 160

    def test_rows_beside_it_are_free(self, local: LocalGenerator) -> None:
        free = Request(ASK, sampling=Sampling(20))
        bound = Request(ASK, schema='{"enum": ["one", "two"]}', sampling=Sampling(20))
        (alone,), both = local.generate([free]), local.generate([free, bound])
        assert both[0].ids == alone.ids
        assert json.loads(both[1].text) in ("one", "two")

    def test_a_prefill_is_part_of_what_must_satisfy_it(self, local: LocalGenerator) -> None:
        reply = ask(local, NESTED, prefill='{"label": "no", "count": 1')
        assert reply.text.startswith('{"label": "no", "count": 1')
        jsonschema.validate(json.loads(reply.text), NESTED)
        with pytest.raises(
            DataError, match=r"^no reply that begins with .* satisfies the schema\n  do this: write it as"
        ):
            ask(local, NESTED, prefill='{"label": "perhaps')

    def test_the_formats_stop_strings_do_not_cut_it(self, local: LocalGenerator) -> None:
        alpaca = replace(local, chat=chat_format("alpaca", local.chat.tokenizer))
        text = f"a{alpaca.chat.stop_strings[0]}b"
        # as text, not as escapes
        reply = ask(alpaca, {"const": text})
        assert json.loads(reply.text) == text

    def test_a_cut_reply_is_the_beginning_of_one(self, local: LocalGenerator) -> None:
        whole, part = ask(local, NESTED, seed=3), ask(local, NESTED, n=5, seed=3)
        assert (part.finish, part.ids) == ("length", whole.ids[:5])


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "a schema is an object"),
        ('{"type": "objekt"}', "Invalid type: objekt"),
        ('{"type": "string", "pattern": "("}', "regex parse error"),
        ('{"$ref": "http://localhost/x"}', "not present"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "minimum (5) is greater than maximum (3)"),
    ],
)
def test_a_schema_that_cannot_be_kept_to(local: LocalGenerator, schema: str, why: str) -> None:
    with pytest.raises(DataError) as caught:
        local.generate([Request(ASK, schema=schema)])
    assert str(caught.value).startswith("no reply can be written by this JSON schema: ")
    assert why in str(caught.value)
    assert str(caught.value).endswith("\n  do this: correct or simplify the schema")


@pytest.mark.promise10
def test_without_the_extra(local: LocalGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(RunError, match=r"need the package llguidance\n  do this: run: pip install 'shinan\[json\]'"):
        ask(local, {"type": "null"})


def test_ids_beyond_the_tokenizers_are_forbidden(local: LocalGenerator) -> None:
    size = local.chat.tokenizer.vocab_size
    for more in (8, 0, -1):  # or the tokenizer has one that the model lacks
        logits = torch.zeros(size + more)
        JsonFilter(local.chat.tokenizer, local.chat.stop_ids, '{"type": "null"}').apply(logits)
        assert logits.isfinite().nonzero()[:, 0].tolist() == local.chat.tokenizer.encode("n", place="inside")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["starter:smollm2-135m-instruct", "starter:gemma-3-270m"])
def test_real_models_keep_to_it(name: str) -> None:
    folder = resolve(name)
    tokenizer = Tokenizer.load(folder)
    chat = chat_format("tokenizer" if tokenizer.chat_template else "alpaca", tokenizer)
    local = LocalGenerator(name, load_model(folder, torch.bfloat16), chat)
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 30}, "大陸": {"enum": ["ヨーロッパ", "アジア"]}},
        "required": ["capital", "大陸"],
        "additionalProperties": False,
    }
    request = Request((user("What is the capital of France?"),), schema=json.dumps(schema), sampling=Sampling(60))
    (reply,) = local.generate([request])
    jsonschema.validate(json.loads(reply.text), schema)
    assert "Paris" in reply.text
