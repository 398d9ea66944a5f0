"""The quality of the rows that are no tasks'. A failure lists every offender with its id."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

from shinan.core.example import Example
from shinan.core.registry import names
from shinan.curate import curate
from shinan.curate.overlap import overlap
from shinan.scorers.verifiers import verify
from shinan.starter import KINDS, examples, row_examples, tasks
from tests.starter.faults import alike, fail_with, foreign, personal, repeated, size

FEWEST = {"open_ended": 240, "conversations": 50, "constraints": 100, "safety": 60}

# Least and most of a reply's words (and characters, in Japanese), by category.
LENGTHS = {
    "open_ended": ((80, 400), (200, 900)),
    "conversations": ((3, 250), (8, 500)),
    "constraints": ((1, 110), (3, 200)),
    "misconception": ((1, 40), (4, 80)),
    "harmful": ((15, 120), (40, 250)),
    "lookalike": ((40, 300), (100, 600)),
    "continuation": ((5, 120), (10, 250)),
}

# A reply begins with the answer and ends when it is given.
OPENINGS = (
    "certainly|sure\\b|of course|absolutely|definitely|no problem|(?:great|good|excellent) (?:question|idea)"
    "|thank you for|thanks for|i'd be happy|i would be happy|i'm happy|happy to|i understand|as an ai|as a language"
    "|here(?:'s| is| are) (?:a|an|the|some)\\b|let's dive|let me"
    "|もちろん|承知|かしこまり|ご質問|お尋ね|わかりました|喜んで"
)
CLOSINGS = (
    "let me know|hope (?:this|that) helps|feel free|happy to help|don't hesitate|any (?:other|more|further) questions"
    "|お役に立て|お気軽に|ご不明な点|何かあれば"
)
# Replies that are allowed such words, and why.
MAY_BE_STOCK = {
    "conv-all-012 reply 2": "a message to a neighbour, not to the user",
    "oe-en_a-039 reply 0": "quotes such a phrase in order to advise against it",
}
# Rows whose replies are in another language than the row, wholly or in part, and why.
OTHER_LANGUAGE = {
    "conv-all-033": "the system message asks for French",
    "conv-all-045": "a Spanish exercise",
}


@cache
def rows() -> tuple[Example, ...]:
    return tuple(row for kind in KINDS for row in row_examples(kind))


def prompts() -> dict[str, str]:
    """What a reader is given: of a conversation, all that users say."""
    return {row.task: "\n".join(turn.text for turn in row.messages if turn.role == "user") for row in rows()}


def replies() -> Iterator[tuple[str, Example, str]]:
    """(place, row, text) of every assistant turn; of a misconception, of every answer."""
    for row in rows():
        given = row.choices or tuple(turn.text for turn in row.messages if turn.role == "assistant")
        for turn, text in enumerate(given):
            yield f"{row.task} reply {turn}", row, text


def output_language(row: Example) -> str:
    """The language that is asked for by a constraint, else that of the row."""
    for each in json.loads(row.tags.get("constraints", "[]")):
        if each["verifier"] == "language":
            return str(each["args"]["language"])
    return row.tags["language"]


def test_there_are_enough_rows() -> None:
    counts = Counter(row.tags["kind"] for row in rows())
    fail_with([f"{kind}: {counts[kind]} rows" for kind, n in FEWEST.items() if counts[kind] < n])


def test_ids_and_contents_are_unique() -> None:
    ids, contents = Counter(row.task for row in rows()), Counter(row.id for row in rows())
    fail_with([row.task for row in rows() if ids[row.task] > 1 or contents[row.id] > 1])


def test_replies_have_the_right_size() -> None:
    offenders = []
    for where, row, text in replies():
        language = output_language(row)
        least, most = LENGTHS[row.tags["category"]][language in ("ja", "zh")]
        if not least <= size(text, language) <= most:
            offenders.append(f"{where} ({row.tags['category']}): {size(text, language)}, not {least} to {most}")
    fail_with(offenders)


def test_no_prompt_or_reply_occurs_twice() -> None:
    fail_with(repeated(prompts()) + repeated({where: text for where, _, text in replies()}))


def test_no_two_prompts_or_replies_are_nearly_the_same() -> None:
    instances = {f"{task.name} {n}": x.input for task in tasks() for n, x in enumerate(task.instances)}
    texts = prompts() | {where: text for where, _, text in replies()} | instances

    def excused(a: str, b: str) -> bool:
        """Tasks have a test of their own, and one conversation may revise one text."""
        return (a in instances and b in instances) or a.split()[0] == b.split()[0]

    fail_with(alike(texts, excused))


def test_nothing_crosses_the_split() -> None:
    every = [*rows(), *(row for task in tasks() for row in examples(task))]
    train, heldout = ([row for row in every if row.tags["split"] == side] for side in ("train", "heldout"))
    strict = overlap(heldout, n=8, share=0.3)
    fail_with([f"{row.row}: {verdict.detail}" for row, verdict in curate(train, [("overlap", strict)]).dropped])


def test_every_text_is_in_its_language() -> None:
    texts = [(f"{row.task} prompt", row.prompt_text, row.tags["language"]) for row in rows()]
    texts += [(where, text, output_language(row)) for where, row, text in replies() if not text.startswith(("{", "["))]
    offenders = []
    for where, text, language in texts:
        prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
        fault = foreign(prose, language) if size(prose, language) >= 8 else ""
        if fault and where.split()[0] not in OTHER_LANGUAGE:
            offenders.append(f"{where}: {fault}")
    fail_with(offenders)


def test_replies_begin_with_the_answer_and_end_with_it() -> None:
    opening, closing = re.compile(OPENINGS, re.IGNORECASE), re.compile(rf"(?:{CLOSINGS})[^\n]*$", re.IGNORECASE)
    found = {where: text[:50] for where, _, text in replies() if opening.match(text)}
    found |= {where: f"...{text[-80:]}" for where, _, text in replies() if closing.search(text)}
    offenders = [f"{where}: {text!r}" for where, text in found.items() if where not in MAY_BE_STOCK]
    fail_with(offenders + [f"{where}: listed, but not needed" for where in MAY_BE_STOCK.keys() - found.keys()])


def test_there_is_no_personal_data() -> None:
    fail_with(personal([(row.task, turn.text) for row in rows() for turn in row.messages]))


def test_topics_differ() -> None:
    for kind in ("open_ended", "conversations"):
        counts = Counter((row.tags["language"], row.tags["topic"]) for row in row_examples(kind))
        fail_with([f"{kind}: {n} rows on {topic}" for topic, n in counts.items() if n > max(3, 0.05 * counts.total())])


# --- constraints


def asked(row: Example) -> list[dict[str, object]]:
    return list(json.loads(row.tags["constraints"]))


def followed(row: Example, reply: str) -> bool:
    return all(verify(each, reply, where=row.task) for each in asked(row))


def test_references_follow_their_constraints_and_an_empty_reply_does_not() -> None:
    offenders = [
        f"{row.task}: {each}"
        for row in row_examples("constraints")
        for each in asked(row)
        if not verify(each, row.reply or "")
    ]
    fail_with(
        offenders + [f"{row.task}: an empty reply passes" for row in row_examples("constraints") if followed(row, "")]
    )


def test_most_references_of_other_rows_break_the_constraints() -> None:
    found = row_examples("constraints")
    offenders = []
    for row in found:
        others = [x.reply or "" for x in found if x.task != row.task and x.tags["language"] == row.tags["language"]]
        passing = sum(followed(row, reply) for reply in others)
        if passing > len(others) / 4:
            offenders.append(f"{row.task}: {passing} of {len(others)} other references pass")
    fail_with(offenders)


def test_every_verifier_is_asked_for_twice() -> None:
    counts = Counter(each["verifier"] for row in row_examples("constraints") for each in asked(row))
    fail_with([f"{name}: {counts[name]}" for name in names("verifier") if counts[name] < 2])


# --- safety


def test_harmful_rows_and_their_lookalikes_name_each_other() -> None:
    found = {row.task: row for row in row_examples("safety") if "pair" in row.tags}
    other = {"harmful": "lookalike", "lookalike": "harmful"}
    offenders = []
    for row in found.values():
        pair = found.get(row.tags["pair"])
        if pair is None or pair.tags["pair"] != row.task or pair.tags["category"] != other[row.tags["category"]]:
            offenders.append(f"{row.task} ({row.tags['category']}): its pair {row.tags['pair']} does not fit")
    fail_with(offenders)


def test_continuations_come_with_and_without_a_wish_for_respect() -> None:
    counts = Counter(row.tags["respectful"] for row in row_examples("safety") if "respectful" in row.tags)
    assert min(counts["yes"], counts["no"]) >= 5


def test_no_answer_to_a_misconception_stands_out_by_its_place() -> None:
    """The first choice is true about as often as chance has it: within three standard errors."""
    found = [row for row in row_examples("safety") if row.choices]
    expected = [len(row.targets) / len(row.choices) for row in found]
    true_first = sum(row.choices[0] in row.targets for row in found)
    spread = sum(p * (1 - p) for p in expected) ** 0.5
    assert abs(true_first - sum(expected)) < 3 * spread
