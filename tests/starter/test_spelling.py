"""English spelling, against pyspellchecker's dictionary. A failure lists every unknown word and its place."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from spellchecker import SpellChecker

from shinan.starter import KINDS, row_examples, tasks
from tests.starter.faults import fail_with

# The dictionary is American: each pair turns an ending or a spelling of the British sort into the one that it has.
BRITISH = [
    (re.compile(british), american)
    for british, american in (
        ("our", "or"),
        ("is(?=[aei])", "iz"),
        ("ys(?=[ei])", "yz"),
        ("re(?=s?$)", "er"),
        ("ogue", "og"),
        ("[ao]e", "e"),
        ("ou(?=l)", "o"),
        ("mme", "m"),
        ("ence", "ense"),
        ("ll(?=ed|ing|er|ou)", "l"),
        ("que(?=s?$)", "ck"),
        ("ium$", "um"),
    )
]

# Right words that the dictionary lacks.
RIGHT = """
app app's basmati cafe coprime debouncing derailleur dibber dieffenbachia draught filesystem flatbread gzip
haemocyanin hashtags haylage hemiola inodes kerb klezmer leafcutter mache manoeuvre maths olds oom papier phacelia
playlists pothos pytest repot retuned screenshots stovetop swimmy syn teether texted tuple tyres unfaded
unseared unstaffed upfield woollen
"""
# Abbreviations, parts of words that are talked of, and names in code.
PIECES = "cof def dict ei endswith ft hrs kg km mins ml mm nums rm"
# Written so by people who ask, on purpose.
CASUAL = "im isnt pls sry theres thx"

# Rows that quote another language at length; and categories of tasks whose inputs hold mistakes or code on purpose.
FOREIGN = {"conv-all-033", "conv-all-045", "conv-all-053", "oe-en_b-047", "oe-en_b-083", "oe-en_b-110"}
FAULTY = ("grammar_correction", "error_detection", "code", "translation")

CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
WORD = re.compile(r"(?<![\w@#/.'’-])[a-z]+(?:['’][a-z]+)*(?![\w@#/=(_]|\.\w)")  # no names: these begin with a capital


def texts() -> Iterator[tuple[str, str]]:
    """(place, text) of everything written in English."""
    for task in tasks(["en"]):
        yield task.name, "\n".join([task.definition, task.avoid])
        yield task.name, "\n".join(row.explanation for row in (*task.positive, *task.negative))
        if task.category not in FAULTY:
            yield task.name, "\n".join(text for row in task.instances for text in (row.input, *row.outputs))
    for kind in KINDS:
        for row in row_examples(kind):
            if row.tags["language"] == "en" and row.task not in FOREIGN:
                yield row.task, row.prompt_text
                if '"verifier":"language"' not in row.tags.get("constraints", ""):
                    yield row.task, "\n".join(row.choices or (row.reply or "",))


def unknown(word: str, known: set[str]) -> bool:
    plain = word.replace("’", "'").removesuffix("'s")
    return plain not in known and not any(british.sub(american, plain) in known for british, american in BRITISH)


def test_english_is_spelled_as_in_a_dictionary() -> None:
    known = set(SpellChecker(language="en").word_frequency.dictionary)
    found = defaultdict(set)
    for where, text in texts():
        for word in WORD.findall(CODE.sub(" ", text)):
            if unknown(word, known):
                found[word].add(where)
    listed = set(f"{RIGHT} {PIECES} {CASUAL}".split())
    offenders = [f"{word}: {', '.join(sorted(found[word])[:4])}" for word in sorted(found.keys() - listed)]
    fail_with(offenders + [f"{word}: listed, but not needed" for word in sorted(listed - found.keys())])


def test_misspelled_words_are_found_and_british_ones_are_not() -> None:
    known = set(SpellChecker(language="en").word_frequency.dictionary)
    wrong = "teh recieve seperate definately occured untill realy usefull wierd adress begining tomatos freind's"
    assert [word for word in wrong.split() if not unknown(word, known)] == []
    right = (
        "colour's organised neighbouring behaviour centres litre analysing travelling mould defence programme cheque"
    )
    assert [word for word in right.split() if unknown(word, known)] == []
