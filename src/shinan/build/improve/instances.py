"""Instances of a task out of a model's reply, and the filters on them, as Self-Instruct's prepare_for_finetuning.py."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from shinan.core.verdict import KEEP, Verdict

_EXAMPLE = re.compile(r"Example\s?\d*[.:]?")  # the reference has no colon, and leaves it before the input
_INPUT = re.compile(r"Input\s*\d*\s*:")
_OUTPUT = re.compile(r"Output\s*\d*\s*:")
_LABEL = "Class label:"


class Instance(NamedTuple):
    """An input, which may be empty, and the output to it."""

    input: str
    output: str


def input_first(text: str) -> list[Instance]:
    """The instances of a reply to the input-first prompt: cut at `Example 1`, then at `Output:`.

    Without either there is none. What follows a second `Input:` of one example is left out.
    """
    text = text.strip()
    if _EXAMPLE.search(text):
        return [_input_and_output(piece.strip()) for piece in _EXAMPLE.split(text) if piece.strip()]
    return [_input_and_output(text)] if _OUTPUT.search(text) else []


def _input_and_output(text: str) -> Instance:
    given, *outputs = _OUTPUT.split(text)
    if not outputs:
        given, outputs = "", [text]
    output = _INPUT.split(outputs[0].strip())[0]
    return Instance(re.sub(rf"^{_INPUT.pattern}", "", given.strip()).strip(), output.strip())


def output_first(text: str) -> list[Instance]:
    """The instances of a reply to the output-first prompt: after each `Class label:` a line with the label, then the
    input."""
    found = []
    for piece in text.split(_LABEL)[1:]:
        label, _, given = piece.strip().partition("\n")
        found.append(Instance(given.strip(), label.strip()))
    return found


def judge(found: list[Instance], *, cut: bool, most: int, seed: int) -> list[Verdict]:
    """A verdict for each instance of one task, in the reference's order of filters.

    Reasons: cut_off (the last one of a reply that was cut), input_is_output, no_output, ends_with_colon, conflicting
    (an input has two outputs: all that are left go), repeated, surplus.

    Args:
        found: the instances, in the order of the reply.
        cut: whether the reply was cut at its longest.
        most: so many are kept, drawn by `seed`.
    """
    verdicts = [_invalid(instance) for instance in found]
    if cut and found:
        verdicts[-1] = Verdict.drop("cut_off")
    left = [place for place, verdict in enumerate(verdicts) if verdict.keep]
    outputs: dict[str, set[str]] = {}
    for place in left:
        outputs.setdefault(found[place].input, set()).add(found[place].output)
    twofold = [given for given, different in outputs.items() if given and len(different) > 1]
    if twofold:
        for place in left:
            verdicts[place] = Verdict.drop("conflicting", twofold[0])
        return verdicts
    first = {found[place]: place for place in reversed(left)}
    for place in left:
        if first[found[place]] != place:
            verdicts[place] = Verdict.drop("repeated")
    left = [place for place in left if verdicts[place].keep]
    chosen = left if len(left) <= most else random.Random(seed).sample(left, most)
    for place in set(left) - set(chosen):
        verdicts[place] = Verdict.drop("surplus", f"more than {most}")
    return verdicts


def _invalid(instance: Instance) -> Verdict:
    if instance.input == instance.output:
        return Verdict.drop("input_is_output")
    if not instance.output:
        return Verdict.drop("no_output")
    if instance.input.endswith(":") or instance.output.endswith(":"):
        return Verdict.drop("ends_with_colon")
    return KEEP
