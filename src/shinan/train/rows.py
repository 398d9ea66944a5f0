"""From examples to planned steps. Pure functions of (rows, settings, seed): resuming needs no data-loader state."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from shinan.core.errors import ConfigError, DataError, Problem, ShinanError, nearest
from shinan.core.example import Example, Message
from shinan.core.hashing import derive_seed
from shinan.core.verdict import Verdict
from shinan.models.chat import ChatFormat
from shinan.models.forest import Bundle, TokenRow
from shinan.train.settings import TuneSettings

Step = tuple[int, ...]
"""Indices of the bundles of one optimiser step."""
TooLong = Literal["drop", "refuse", "truncate"]
Loss = Literal["all", "last"]
Weights = Mapping[str, Mapping[str, float]]
"""{tag: {value: weight}}: rows with that tag count so many times."""


class _Unfit(Exception):  # noqa: N818 - a verdict on its way, not an error
    """Carries the reason and the detail of a row that cannot be trained on."""


def tokenise(
    examples: Sequence[Example],
    chat: ChatFormat,
    max_tokens: int,
    *,
    too_long: TooLong = "drop",
    pairs: bool = False,
    loss: Loss = "all",
    weights: Weights | None = None,
) -> tuple[list[Bundle], list[tuple[Example, Verdict]]]:
    """Render every example into ids and mask: one row (one for each trained reply, if an encoder reads the prompt), or
    with `pairs` its chosen and its rejected row.

    Returns the bundles, and the examples that cannot be trained on, each with its verdict (`too_long`, `no_label`,
    `no_pair`, `not_renderable`). An answer is never cut, for one without its end would teach not to stop: what is
    longer than `max_tokens` is dropped, refused, or loses the beginning of its context.

    Raises DataError for a row that is too long, with `refuse`, and ConfigError for tags in `weights` that no row has.
    """
    weights = weights or {}
    _check_tags(examples, weights)
    bundles: list[Bundle] = []
    dropped: list[tuple[Example, Verdict]] = []
    for example in examples:
        try:
            bundle = _weighted(_bundle(example, chat, pairs, loss), example, weights)
            size = max(len(row.ids) for row in bundle)
            if size > max_tokens and too_long == "truncate":
                alike = [bundle] if pairs else [(row,) for row in bundle]  # a pair keeps the prompt that it shares
                bundle = tuple(row for rows in alike for row in _shorten(rows, max_tokens))
            elif size > max_tokens:
                raise _Unfit("too_long", f"{size} > {max_tokens} tokens")
            bundles.append(bundle)
        except _Unfit as unfit:
            reason, detail = unfit.args
            if reason == "too_long" and too_long == "refuse":
                fix = "raise tune.max_tokens, or set tune.too_long to drop or truncate"
                raise DataError(f"a row is too long: {detail}", where=example.row, fix=fix) from None
            dropped.append((example, Verdict.drop(reason, detail, "tokenise")))
    return bundles, dropped


def taught(messages: Sequence[Message], loss: Loss) -> Sequence[Message]:
    """The turns of a row, of which with `last` only the last trained one is trained."""
    trained = [number for number, turn in enumerate(messages) if turn.trained]
    if loss == "all" or not trained:
        return messages
    return tuple(turn if number == trained[-1] else replace(turn, train=False) for number, turn in enumerate(messages))


def _check_tags(examples: Sequence[Example], weights: Weights) -> None:
    problems = []
    for tag, values in weights.items():
        found = {example.tags[tag] for example in examples if tag in example.tags}
        if not found:
            known = {name for example in examples for name in example.tags}
            problems.append(Problem(f"no row has the tag {tag!r}", f"tune.weights.{tag}", nearest(tag, known)))
            continue
        for value in sorted(values.keys() - found):
            what = f"no row has the value {value!r} of the tag {tag!r}"
            problems.append(Problem(what, f"tune.weights.{tag}.{value}", nearest(value, found)))
    if problems:
        raise ConfigError(problems)


def _weighted(bundle: Bundle, example: Example, weights: Weights) -> Bundle:
    factor = math.prod(values.get(example.tags.get(tag, ""), 1.0) for tag, values in weights.items())
    return bundle if factor == 1 else tuple(replace(row, weight=row.weight * factor) for row in bundle)


def _bundle(example: Example, chat: ChatFormat, pairs: bool, loss: Loss) -> Bundle:
    if not pairs:
        turns = taught(example.messages, loss)
        return tuple(_row(example, messages, chat) for messages in chat.split(turns))
    if not example.rejected or example.reply is None:
        raise _Unfit("no_pair", "it has no rejected reply beside the chosen one")
    # Of a pair, only the two last turns differ, and only they are compared.
    prompt = tuple(replace(turn, train=False) for turn in example.prompt)
    chosen = _row(example, (*prompt, replace(example.messages[-1], train=True)), chat)
    last = tuple(replace(turn, train=turn.role == "assistant") for turn in example.rejected)
    rejected = _row(example, (*prompt, *last), chat)
    if chosen.ids == rejected.ids:
        raise _Unfit("no_pair", "chosen and rejected are the same")
    return chosen, rejected


def _row(example: Example, messages: Sequence[Message], chat: ChatFormat) -> TokenRow:
    try:
        rendered = chat.render(messages)
    except ShinanError as error:
        raise _Unfit("not_renderable", error.what) from error
    if not any(rendered.mask):
        raise _Unfit("no_label", "no turn of it is trained")
    source = chat.source(rendered.ids)
    return TokenRow(rendered.ids, rendered.mask, example.weight, example.row, example.task, source)


def _shorten(bundle: Bundle, max_tokens: int) -> Bundle:
    """Leave out what is too much of what the rows share before their first label.

    The first token (BOS) is kept; of what an encoder reads, the last one (its end) too.
    """
    size = max(len(row.ids) for row in bundle)
    excess = max(0, size - max_tokens)
    context = min((row.source or row.mask.index(True) + 1) for row in bundle) - 2
    if context < excess:
        raise _Unfit("too_long", f"{size} tokens, of which only {context} are context that could be cut")
    gone = slice(1, 1 + excess)
    return tuple(
        replace(
            row,
            ids=row.ids[:1] + row.ids[gone.stop :],
            mask=row.mask[:1] + row.mask[gone.stop :],
            source=row.source and row.source - excess,
        )
        for row in bundle
    )


def split(rows: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for training and for validation, drawn by seed; each part keeps the order of the data.

    `rows` names each row: all copies of one, as a mixture writes them, are on the same side.
    """
    once = list(dict.fromkeys(rows))
    if not 0 < share < 1 or len(once) < 2:
        return list(range(len(rows))), []
    draw = random.Random(derive_seed(seed, "validation"))
    held = {once[place] for place in draw.sample(range(len(once)), _held(share, len(once)))}
    return [i for i, row in enumerate(rows) if row not in held], [i for i, row in enumerate(rows) if row in held]


def _held(share: float, count: int) -> int:
    """How many of at least two rows are for validation: one at least, and one less than all at most."""
    return min(count - 1, max(1, round(share * count)))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimiser steps in one pass; the last one may be smaller."""
    return -(-count // batch_size)


def plan_steps(
    count: int, *, epochs: float, batch_size: int, seed: int, tasks: Sequence[str] = (), together: int = 1
) -> Iterator[Step]:
    """All steps of a run, in order. Every epoch covers each bundle exactly once, in an order of its own.

    The order is a plain shuffle's. With `together` above 1, bundles of a task (by `tasks`, one name each) are shuffled
    among themselves and drawn that many at a time, so that they meet in a step and share their prompt's beginning.
    """
    per_epoch = steps_per_epoch(count, batch_size)
    total = max(1, round(epochs * per_epoch))
    order: list[int] = []
    for number in range(total):
        epoch, position = divmod(number, per_epoch)
        if position == 0:
            order = _order(count, tasks, together, derive_seed(seed, "order", epoch))
        yield tuple(order[position * batch_size : (position + 1) * batch_size])


def plan_bundles(bundles: Sequence[Bundle], settings: TuneSettings, seed: int) -> Iterator[Step]:
    """`plan_steps` as the settings say."""
    return plan_steps(
        len(bundles),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=seed,
        tasks=[bundle[0].task for bundle in bundles],
        together=settings.instances_per_prompt,
    )


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count` in an order drawn by seed."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _order(count: int, tasks: Sequence[str], together: int, seed: int) -> list[int]:
    if together == 1:
        return shuffled(count, seed)
    draw = random.Random(seed)
    order = list(range(count))
    draw.shuffle(order)
    members: dict[str, list[int]] = {}
    for index in order:
        members.setdefault(tasks[index], []).append(index)
    groups = [rows[i : i + together] for rows in members.values() for i in range(0, len(rows), together)]
    draw.shuffle(groups)
    return [index for group in groups for index in group]
