"""Replies that must satisfy a JSON schema: ask for it in words, check it, and say what is wrong."""

from __future__ import annotations

import json
import re
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

from shinan.core.errors import DataError, shown

_NOTHING_FETCHED: Registry[Any] = Registry()  # jsonschema's own would fetch what a $ref names from the network
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


def parse_schema(schema: str) -> Any:
    """A JSON schema from its text. Raises DataError for what is none."""
    try:
        value = json.loads(schema)
        Draft202012Validator.check_schema(value)
    except (ValueError, RecursionError, SchemaError) as error:
        why = error.message if isinstance(error, SchemaError) else str(error)
        raise DataError(f"not a JSON schema: {why}", where=shown(schema), fix="give a schema as JSON text") from None
    return value


def checked(text: str, schema: Any) -> tuple[str, str]:
    """(the JSON in a reply, what is wrong with it). A code fence around it is taken off; nothing wrong is empty."""
    fenced = _FENCE.search(text)
    candidate = (fenced[1] if fenced else text).strip()
    try:
        value = json.loads(candidate)
    except (ValueError, RecursionError) as error:
        return candidate, f"it is no JSON: {error}"
    try:
        wrong = best_match(Draft202012Validator(schema, registry=_NOTHING_FETCHED).iter_errors(value))
    except Unresolvable as error:
        raise DataError(f"the JSON schema refers to what it does not hold: {error}", fix="put it into $defs") from None
    return candidate, f"{wrong.json_path}: {wrong.message[:300]}" if wrong else ""


def instruction(schema: str) -> str:
    """What is added to the question."""
    return f"Answer with one JSON value and nothing else. It must satisfy this JSON schema:\n{schema}"


def complaint(wrong: str) -> str:
    """What a reply that does not satisfy the schema is answered with."""
    return f"This does not satisfy the schema ({wrong}). Answer again, with the corrected JSON value and nothing else."
