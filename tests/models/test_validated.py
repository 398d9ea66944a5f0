from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.errors import DataError
from shinan.models.validated import checked, parse_schema

AGE = parse_schema('{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"age": 4}', '{"age": 4}'),
        (' \n{"age": 4}\n', '{"age": 4}'),
        ('```json\n{"age": 4}\n```', '{"age": 4}'),
        ('Sure!\n```\n{\n "age": 4}\n```\nAnything else?', '{\n "age": 4}'),
    ],
)
def test_the_json_of_a_reply(text: str, found: str) -> None:
    assert checked(text, AGE) == (found, "")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("four", "it is no JSON: Expecting value"),
        ("", "it is no JSON"),
        ('{"age": 4', "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ('{"age": "4"}', "$.age: '4' is not of type 'integer'"),
        ("{}", "$: 'age' is a required property"),
        ("4", "$: 4 is not of type 'object'"),
    ],
)
def test_what_is_wrong_with_a_reply(text: str, wrong: str) -> None:
    assert wrong in checked(text, AGE)[1]


@given(st.text(max_size=40))
def test_any_reply_is_checked(text: str) -> None:
    found, wrong = checked(text, AGE)
    assert wrong or isinstance(json.loads(found)["age"], int)


@pytest.mark.promise10
@pytest.mark.parametrize("schema", ["", "four", '{"type": "objekt"}', "4", '{"$ref": 4}', "[" * 100_000])
def test_what_is_no_schema(schema: str) -> None:
    with pytest.raises(DataError, match="not a JSON schema: "):
        parse_schema(schema)
