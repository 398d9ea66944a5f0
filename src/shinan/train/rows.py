"""From examples to planned steps. Pure functions of (rows, settings, seed): resuming needs no data-loader state."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shinan.core.errors import ShinanError
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.verdict import Verdict
from shinan.models.batch import TokenRow
from shinan.models.chat import ChatFormat

Micro = tuple[int, ...]
"""Row indices of one forward pass."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step: which rows, in which forward passes."""

    micros: tuple[Micro, ...]

    @property
    def rows(self) -> list[int]:
        """Row indices of the step."""
        return [index for micro in self.micros for index in micro]


def tokenise(
    examples: Sequence[Example], chat: ChatFormat, max_tokens: int
) -> tuple[list[TokenRow], list[tuple[Example, Verdict]]]:
    """Render every example into ids and mask.

    Returns the rows, and the examples that cannot be trained on, each with its verdict (`too_long`, `no_label`,
    `not_renderable`). Nothing is cut: an answer without its end would teach not to stop.
    """
    rows: list[TokenRow] = []
    dropped: list[tuple[Example, Verdict]] = []
    for example in examples:
        try:
            rendered = chat.render(example.messages)
        except ShinanError as error:
            dropped.append((example, Verdict.drop("not_renderable", error.what, "tokenise")))
            continue
        if len(rendered.ids) > max_tokens:
            dropped.append(
                (example, Verdict.drop("too_long", f"{len(rendered.ids)} > {max_tokens} tokens", "tokenise"))
            )
        elif not any(rendered.mask):
            dropped.append((example, Verdict.drop("no_label", "no turn of it is trained", "tokenise")))
        else:
            rows.append(TokenRow(rendered.ids, rendered.mask, example.weight, example.row))
    return rows, dropped


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for training and for validation, drawn by seed; each part keeps the order of the data."""
    if not 0 < share < 1 or count < 2:
        return list(range(count)), []
    held = set(random.Random(derive_seed(seed, "validation")).sample(range(count), max(1, round(share * count))))
    return [i for i in range(count) if i not in held], sorted(held)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimiser steps in one pass; the last one may be smaller."""
    return -(-count // batch_size)


def plan_steps(
    lengths: Sequence[int], *, epochs: float, batch_size: int, micro_tokens: int, seed: int
) -> Iterator[Step]:
    """All steps of a run, in order. A step's rows are a plain shuffle's; its forward passes group like lengths.

    Every epoch covers each row exactly once. The order depends on (seed, epoch) and the number of rows alone.
    """
    total = max(1, round(epochs * steps_per_epoch(len(lengths), batch_size)))
    for number in range(total):
        epoch, position = divmod(number, steps_per_epoch(len(lengths), batch_size))
        order = list(range(len(lengths)))
        random.Random(derive_seed(seed, "order", epoch)).shuffle(order)
        chosen = order[position * batch_size : (position + 1) * batch_size]
        yield Step(tuple(group_by_length(chosen, lengths, micro_tokens)))


def group_by_length(rows: Sequence[int], lengths: Sequence[int], capacity: int) -> Iterator[Micro]:
    """Split rows into groups of like length, each at most `capacity` tokens when padded (one row always fits)."""
    group: list[int] = []
    for index in sorted(rows, key=lambda i: (-lengths[i], i)):
        if group and lengths[group[0]] * (len(group) + 1) > capacity:
            yield tuple(group)
            group = []
        group.append(index)
    if group:
        yield tuple(group)
