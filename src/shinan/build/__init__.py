"""Building instruction data. Importing this registers the builders."""

from shinan.build import collection, files, flan, natural_instructions, p3
from shinan.build.distil import alpaca, answer, dialogue, domain, evolve, magpie, unnatural
from shinan.build.improve import backtranslate, choose, self_instruct, self_play

__all__ = [
    "alpaca",
    "answer",
    "backtranslate",
    "choose",
    "collection",
    "dialogue",
    "domain",
    "evolve",
    "files",
    "flan",
    "magpie",
    "natural_instructions",
    "p3",
    "self_instruct",
    "self_play",
    "unnatural",
]
