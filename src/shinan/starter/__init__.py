"""The starter collection: instruction data written from scratch for this project, public domain (CC0).

A task is a definition with examples and instances (`tasks/<language>/<name>.yaml`); a category is wholly for training
or wholly held out (`categories.yaml`). This package reads and counts it; what to train on is `build`'s business.
"""

from shinan.starter.collection import ROOT, categories, examples, facts, fingerprint, split_of, tasks
from shinan.starter.schema import Category, Demonstration, Instance, Language, Split, Task

__all__ = [
    "ROOT",
    "Category",
    "Demonstration",
    "Instance",
    "Language",
    "Split",
    "Task",
    "categories",
    "examples",
    "facts",
    "fingerprint",
    "split_of",
    "tasks",
]
