"""What the collection holds: its counts, and its data card."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict

from shinan.core.example import Example
from shinan.core.text import words
from shinan.starter.collection import LICENCE, categories, examples, tasks
from shinan.starter.rows import KINDS, row_examples
from shinan.starter.schema import Kind

_UNSPACED = ("ja", "zh")  # measured in characters, the other languages in words
_BINS = (1, 5, 10, 20, 40, 80, 160, 320, 640)  # a bar begins at each
_BAR = 40  # characters of the longest bar
_LEADING = 24  # leading verbs shown
_VERBS = """\
add answer arrange ask assign break build calculate change check choose classify combine compare compose convert
copy correct count create decide describe design draft draw edit explain extract fill find finish fix give help
identify imagine invent join judge keep label list look make mark match mention move name note order pick plan
point predict produce pull put rank rate read rearrange recommend record reduce remove rename repair replace
reply report rephrase reword rewrite round say select set shorten show sketch solve sort split spot state
suggest sum summarise supply tag take teach tell translate turn use work write
"""

_HOW = """\
## How it was made

Every text was written from scratch for this project by its developers with a language model; nothing is copied,
paraphrased or scraped, and no real private person is described. Answers that code can work out (sums, dates, sorting,
counting, forms, code) are recomputed by code, and every reference answer is checked by its verifiers.
Every file had a second reading for truth, clarity and variety. Tests check form, spelling, language, duplicates,
personal data, and that nothing crosses the split. Mistakes will remain: tell us.

## What it is for

Training rows teach a model to answer in the form that was asked for. Held-out categories, constraints and
misconceptions measure whether it does, and are trained on only by those who ask for them by name. The collection is
small: it gives form, not knowledge. The safety rows show how to refuse, and that what merely looks harmful deserves an
answer; they do not make a model safe."""


class Facts(TypedDict):
    """What the collection holds, counted. `tasks` and `categories` include the held-out ones.

    `languages` counts tasks, `row_languages` the rows of the other kinds; `heldout_rows` are those never trained on.
    """

    tasks: int
    heldout_tasks: int
    categories: int
    heldout_categories: int
    languages: dict[str, int]
    instances: int
    open_ended: int
    conversations: int
    constraints: int
    safety: int
    heldout_rows: int
    row_languages: dict[str, int]


def facts() -> Facts:
    """Count what the collection holds."""
    every, heldout = tasks(), tasks(split="heldout")
    rows = {kind: row_examples(kind) for kind in KINDS}
    others = [row for found in rows.values() for row in found]
    return Facts(
        tasks=len(every),
        heldout_tasks=len(heldout),
        categories=len({task.category for task in every}),
        heldout_categories=len({task.category for task in heldout}),
        languages=dict(Counter(task.language for task in every).most_common()),
        instances=sum(len(task.instances) for task in every),
        open_ended=len(rows["open_ended"]),
        conversations=len(rows["conversations"]),
        constraints=len(rows["constraints"]),
        safety=len(rows["safety"]),
        heldout_rows=sum(row.tags["split"] == "heldout" for row in others),
        row_languages=dict(Counter(row.tags["language"] for row in others).most_common()),
    )


def card() -> str:
    """The data card, in Markdown: what the collection is, its size, lengths and subjects, and how it was made."""
    rows: dict[Kind, list[Example]] = {"tasks": [row for task in tasks() for row in examples(task)]}
    rows |= {kind: row_examples(kind) for kind in KINDS}
    parts = [_overview(rows), _categories(), _lengths(rows), _verbs(rows), _HOW]
    return "\n\n".join(parts)


def _overview(rows: Mapping[Kind, Sequence[Example]]) -> str:
    counts = facts()
    lines = [
        "# The starter collection",
        "",
        f"Instruction data in six languages, {LICENCE} (public domain).",
        "",
        f"- tasks: {counts['tasks']} in {counts['categories']} categories, of which "
        f"{counts['heldout_tasks']} in {counts['heldout_categories']} held-out ones",
        f"- instances of tasks: {counts['instances']}",
        f"- tasks by language: {_listed(counts['languages'])}",
        f"- other rows: {sum(counts['row_languages'].values())}, of which {counts['heldout_rows']} held out",
        "",
        "| kind | for training | held out | rows by language | subjects |",
        "|---|--:|--:|---|---|",
    ]
    for kind, found in rows.items():
        heldout = sum(row.tags["split"] == "heldout" for row in found)
        languages = _listed(Counter(row.tags["language"] for row in found))
        topics = Counter(row.tags["category" if kind in ("tasks", "safety") else "topic"] for row in found)
        subjects = _listed(topics) if kind == "safety" else str(len(topics))
        name = kind.replace("_", " ")
        lines.append(f"| {name} | {len(found) - heldout} | {heldout} | {languages} | {subjects} |")
    return "\n".join(lines)


def _listed(counts: Mapping[str, int]) -> str:
    """`en 120, ja 60`, by falling count."""
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda pair: -pair[1]))


def _categories() -> str:
    lines = [
        "## Categories of tasks",
        "",
        "| category | split | tasks | instances | languages | what it asks for |",
        "|---|---|--:|--:|---|---|",
    ]
    for name, category in categories().items():
        mine = [task for task in tasks() if task.category == name]
        codes = " ".join(sorted({task.language for task in mine}))
        instances = sum(len(task.instances) for task in mine)
        lines.append(f"| {name} | {category.split} | {len(mine)} | {instances} | {codes} | {category.description} |")
    return "\n".join(lines)


def _lengths(rows: Mapping[Kind, Sequence[Example]]) -> str:
    """Histograms of prompts and replies, one pair a kind and measure."""
    blocks = ["## Lengths", "Rows by length of prompt and of reply, all turns together."]
    for kind, found in rows.items():
        for unit in ("words", "characters"):
            mine = [row for row in found if (row.tags["language"] in _UNSPACED) == (unit == "characters")]
            for what, roles in (("prompts", ("system", "user")), ("replies", ("assistant",))):
                texts = [" ".join(turn.text for turn in row.messages if turn.role in roles) for row in mine]
                sizes = [len(text.split()) if unit == "words" else len(text) for text in texts]
                if sizes:
                    blocks.append(_histogram(f"{kind.replace('_', ' ')}, {what} in {unit}", sizes))
    return "\n\n".join(blocks)


def _histogram(title: str, sizes: Sequence[int]) -> str:
    """A bar for each doubling of the size that occurs."""
    counts = Counter(bisect_right(_BINS, size) for size in sizes)
    lines = []
    for place in range(min(counts), max(counts) + 1):
        low, high = _BINS[place - 1], _BINS[place] - 1 if place < len(_BINS) else None
        span = f"{low}+" if high is None else f"{low}-{high}"
        bar = "█" * -(-counts[place] * _BAR // max(counts.values()))
        lines.append(f"{span:>9} {counts[place]:>5} {bar}".rstrip())
    median = sorted(sizes)[len(sizes) // 2]
    return "\n".join([f"{title} (median {median}):", "", "```text", *lines, "```"])


def _verbs(rows: Mapping[Kind, Sequence[Example]]) -> str:
    """How often each verb leads an English definition or prompt: the first that a sentence begins with."""
    texts = [task.definition for task in tasks(["en"])]
    for kind in KINDS:
        texts += [row.prompt[-1].text for row in rows[kind] if row.tags["language"] == "en"]
    led = Counter(_leading_verb(text) for text in texts)
    without = led.pop("", 0)
    shown = led.most_common(_LEADING)
    lines = [f"{verb:>12} {n:>4} {'█' * -(-n * _BAR // shown[0][1])}" for verb, n in shown]
    rest = f"{len(led) - len(shown)} further verbs lead {led.total() - sum(n for _, n in shown)}"
    head = (
        f"The first verb that a sentence begins with in {len(texts)} English definitions and prompts (of a "
        f"conversation: the last turn); {rest}; {without} hold a question, a wish or a statement alone."
    )
    return "\n".join(["## Leading verbs", "", head, "", "```text", *lines, "```"])


def _leading_verb(text: str) -> str:
    """The first order of the text, by its verb; empty if no sentence begins with one of `_VERBS`."""
    for sentence in re.split(r"[.!?:;\n]\s*|, ", text):
        first = words(sentence)[:2]
        first = first[1:] if first[:1] in (["please"], ["then"], ["and"]) else first
        if first and first[0] in _VERBS.split():
            return first[0]
    return ""
