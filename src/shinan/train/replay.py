"""Text of the kind that a model was pre-trained on, learned beside the rows so that less of it is forgotten.

InstructGPT's ptx (Ouyang et al. 2022, arXiv 2203.02155, equation 2): the gradient of a plain language-modelling loss,
times a coefficient, is added to that of each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from shinan.core.errors import DataError
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.models.forest import Bundle, TokenRow
from shinan.models.tokenizer import Tokenizer
from shinan.train.rows import shuffled
from shinan.train.sft import Sft


class Text(Sft):
    """gamma times the mean of -log p(token) over all tokens of a step's text."""

    def __init__(self, gamma: float) -> None:
        """Take the coefficient."""
        self._gamma = gamma

    def count(self, bundles: Sequence[Bundle]) -> float:
        """See `Objective.count`."""
        return super().count(bundles) / self._gamma


@dataclass(frozen=True, slots=True)
class Replay:
    """The text, and how it is mixed in.

    Attributes:
        texts: one row each, all of whose tokens but the first are trained.
        gamma: coefficient of its mean loss.
        rows: how many a step.
        seed: decides the order.
    """

    texts: Sequence[Bundle]
    gamma: float
    rows: int
    seed: int

    def part(self, number: int) -> tuple[Text, list[Bundle]]:
        """What it minimises in step `number`, and over what."""
        return Text(self.gamma), self.step(number)

    def step(self, number: int) -> list[Bundle]:
        """The texts of step `number` (from 0): each once before any comes again, in an order of each pass's own."""
        drawn = []
        for place in range(number * self.rows, (number + 1) * self.rows):
            turn, index = divmod(place, len(self.texts))
            drawn.append(self.texts[_order(len(self.texts), derive_seed(self.seed, "replay", turn))[index]])
        return drawn


@cache
def _order(count: int, seed: int) -> Sequence[int]:
    return shuffled(count, seed)


def text_rows(examples: Iterable[Example], tokenizer: Tokenizer, max_tokens: int) -> list[Bundle]:
    """Every text as rows of at most `max_tokens`, with bos before each and eos after the last; all of it is trained.

    An example's turns are one text, with blank lines between them and no markers. Raises DataError if there is no text.
    """
    rows: list[Bundle] = [(row,) for example in examples for row in _rows(example, tokenizer, max_tokens)]
    if not rows:
        raise DataError("there is no text to mix in", where="tune.replay", fix="name a build stage that has rows")
    return rows


def _rows(example: Example, tokenizer: Tokenizer, max_tokens: int) -> Iterator[TokenRow]:
    text = "\n\n".join(message.text for message in example.messages if message.text.strip())
    if not text:
        return
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    end = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
    ids = [*tokenizer.encode(text), *end]
    size = max_tokens - len(begin)
    for start in range(0, len(ids), size):
        part = (*begin, *ids[start : start + size])
        if len(part) > 1:
            yield TokenRow(part, (False, *(True for _ in part[1:])), example.weight, example.row, example.task)
