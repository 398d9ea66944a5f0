"""The check that keeps evaluation data out of training data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shinan.core.example import Example, Message, join_parts
from shinan.core.text import unspaced, words
from shinan.core.verdict import KEEP, Verdict
from shinan.curate.checks import Check
from shinan.scorers.ngrams import Overlap


def overlap(references: Sequence[Example], *, n: int = 8, share: float = 0.5) -> Check:
    """Drops rows that contain more than half of an evaluation item's input, instruction or prompt, in runs of n words.

    The rule, n = 8 and one half are those of Tulu 3 (Lambert et al. 2024, section 3.2): a row is held against one item
    at a time, and only what the user says in the item counts. An item is looked for as a whole, without its
    demonstrations, and part by part: its input may return under another instruction, and its instruction is in every
    row of the same task, which would train on a held-out task. Answers are not looked for: they are often stock.
    Reasons: overlap; the detail names the item, the share and the longest common run of words.

    Args:
        references: the evaluation items.
        n: words in an n-gram (characters in scripts written without spaces).
        share: a row is dropped if more than this share of an item's words stand in n-grams that both have.
    """
    texts: dict[str, str] = {}  # the many items of a task share one instruction: look for it once
    for reference in references:
        for what, text in _searched(reference, n):
            texts.setdefault(text, f"{what} of {reference.row}")
    index = Overlap(((label, text) for text, label in texts.items()), n)
    short = {tuple(words(text)): item.row for item in references if not _distinctive(text := _prompt(item), n)}
    short.pop((), None)  # a prompt without words says nothing

    def judge(example: Example) -> Verdict:
        found = index.coverage(_everything(example))
        if found.share > share:
            detail = f'{found.share:.0%} of the {found.reference_id}, in {n}-grams: "{found.span_text}"'
            return Verdict.drop("overlap", detail)
        if same := short.get(tuple(words(_prompt(example)))):
            return Verdict.drop("overlap", f"the same prompt as {same}")
        return KEEP

    return lambda examples: [judge(example) for example in examples]


def _searched(item: Example, n: int) -> Iterator[tuple[str, str]]:
    """What to look for: (what it is, text). Texts that say too little to be known again are left out."""
    parts = [
        (part.kind, part.text) for turn in _user_turns(item) for part in turn.parts if part.kind != "demonstration"
    ]
    for what, text in [("prompt", _prompt(item)), *parts]:
        if _distinctive(text, n):
            yield what, text


def _distinctive(text: str, n: int) -> bool:
    """Whether the text is at least one n-gram long; two where a character is a word, for eight of these say little."""
    return len(words(text)) >= (2 * n if unspaced(text) else n)


def _prompt(example: Example) -> str:
    """What the user says, without demonstrations."""
    return "\n\n".join(
        join_parts([part for part in turn.parts if part.kind != "demonstration"]) for turn in _user_turns(example)
    )


def _user_turns(example: Example) -> list[Message]:
    """System turns are left out: they are shared by whole data sets and hold nothing of the item."""
    return [turn for turn in example.messages if turn.role == "user"]


def _everything(example: Example) -> str:
    """All text that could be trained on."""
    turns = [turn.text for turn in (*example.messages, *example.rejected)]
    return "\n\n".join([*turns, *example.targets, *example.ranked])
