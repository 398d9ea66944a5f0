"""Constraints on a reply that code can check, and the scorer that counts how many a reply follows.

After IFEval (Zhou et al. 2023, arXiv 2311.07911), but every rule is written to hold for any script and to give the same
verdict each time. A constraint is `{"verifier": NAME, "args": {...}}`; a verifier is a function here, registered under its
own name, and its docstring is its exact rule. Shared terms: a *line* holds more than blanks; a *word* in counts is a run
between blanks that holds a letter or digit, except that in scripts without spaces every character is one; words that are
looked for are compared as `core.text.words`, without case, width and punctuation. An empty reply follows nothing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from shinan.core.config import Config, validate_data
from shinan.core.errors import DataError
from shinan.core.example import Example
from shinan.core.hashing import canonical_json
from shinan.core.registry import Bound, bind, register
from shinan.core.score import Score, Scorer
from shinan.core.text import normalise, unspaced, words
