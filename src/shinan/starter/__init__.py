"""The starter collection: instruction data written from scratch for this project, public domain (CC0).

A task is a definition with examples and instances (`tasks/<language>/<name>.yaml`); a category is wholly for training
or wholly held out (`categories.yaml`). The other kinds are rows, one JSON object a line (`<kind>/<file>.jsonl`):
open-ended requests, conversations, requests with constraints (held out), and safety rows (of which the misconceptions
are held out). This package reads and counts them; what to train on is `build`'s business.
"""

from shinan.starter.card import card, facts
from shinan.starter.collection import ROOT, categories, examples, fingerprint, split_of, tasks
from shinan.starter.rows import KINDS, row_examples
from shinan.starter.schema import Category, Demonstration, Instance, Kind, Language, Split, Task

__all__ = [
    "KINDS",
    "ROOT",
    "Category",
    "Demonstration",
    "Instance",
    "Kind",
    "Language",
    "Split",
    "Task",
    "card",
    "categories",
    "examples",
    "facts",
    "fingerprint",
    "row_examples",
    "split_of",
    "tasks",
]
