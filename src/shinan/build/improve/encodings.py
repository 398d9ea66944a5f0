"""The surface forms in which Self-Instruct's authors trained on their rows (prepare_for_finetuning.py)."""

from __future__ import annotations

import random
import re

from shinan.build.improve.instances import Instance
from shinan.core.example import Message, assistant, user

WITH_INPUT = (
    "{instruction}\nInput: {input}\nOutput:",
    "{instruction}\n\nInput: {input}\n\nOutput:",
    "Task: {instruction}\nInput: {input}\nOutput:",
    "{instruction}\n\n{input}\n\nOutput:",
    "{instruction}\n\n{input}\n\n",
    "{instruction}\n{input}\n\n",
    "Task: {instruction}\n\n{input}\n\n",
)
WITHOUT_INPUT = (
    "{instruction} Output:",
    "{instruction}\nOutput:",
    "{instruction}\n\nOutput:",
    "{instruction}\n",
    "{instruction}\n\n",
    "Task: {instruction}\n\n",
)


def encoded(instruction: str, instance: Instance, draw: random.Random) -> tuple[Message, ...]:
    """The row as plain text in one of seven forms, or six without input.

    Every other time the name before an input is left out (`Sentence: It rains.` becomes `It rains.`), if the input has
    no other, and its blank lines are closed.
    """
    given = instance.input
    if draw.random() < 0.5:
        if len(set(re.findall(r"(\w+):", given))) == 1:
            given = given.split(":", 1)[1]
        given = given.strip().replace("\n\n", "\n")
    form = draw.choice(WITH_INPUT if given else WITHOUT_INPUT)
    fields = {"instruction": instruction, "input": given}
    return user(re.sub(r"\{(\w+)\}", lambda found: fields[found[1]], form)), assistant(instance.output)
