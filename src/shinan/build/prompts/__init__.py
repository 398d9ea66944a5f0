"""The texts with which models are asked: one file a prompt beside this one, all in words of our own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shinan.core.hashing import content_hash

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Prompt:
    """The text `NAME.txt` of this folder, with `{fields}` to fill.

    Its version is a hash of the text: nobody can forget to raise it.

    >>> Prompt("self_instruct.tasks").fill(tasks="1. Name a bird.", next="2").splitlines()[-1]
    '2.'
    """

    name: str

    @cached_property
    def text(self) -> str:
        """The text, without the line feed that ends the file."""
        path = Path(__file__).with_name(f"{self.name}.txt")
        return path.read_text("utf-8").removesuffix("\n")

    @property
    def id(self) -> str:
        """Name and version, for the rows that were written with it."""
        return f"{self.name}@{content_hash(self.text).removeprefix('b2:')[:8]}"

    def fill(self, **fields: str) -> str:
        """The text with its fields filled. Raises ValueError where a field is missing, or is none of the text's."""
        known = set(_FIELD.findall(self.text))
        if known != fields.keys():
            raise ValueError(f"the prompt {self.name} has the fields {sorted(known)}, given are {sorted(fields)}")
        return _FIELD.sub(lambda found: fields[found[1]], self.text)


PLAIN = Prompt("plain")
"""What is asked as it stands."""
