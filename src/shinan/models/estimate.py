"""What requests will take before they are asked: tokens and money, as a band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from shinan.core.calls import Amount
from shinan.core.store import cache_root
from shinan.models.books import Books
from shinan.models.generator import Request
from shinan.models.tokenizer import Tokenizer

Count = Callable[[str], int]
_OF_A_TURN = 4  # tokens that a chat format adds, about: turn markers and line breaks


class Band(NamedTuple):
    """Lowest, likely and highest number."""

    low: int
    likely: int
    high: int


class Estimate(NamedTuple):
    """What requests will take.

    Attributes:
        requests: all of them, equal ones counted once.
        known: how many the ledger has answers to.
        counted: whether the prompts' tokens were counted with the model's own tokenizer, or guessed from characters.
        prompt_tokens: of all prompts to be sent; what is likely of a guess is a quarter of the characters.
        most_new_tokens: of all replies.
        low: what it takes with the lowest number, and a token for each reply.
        high: what it takes with the highest number, and replies as long as they may be.
    """

    requests: int
    known: int
    counted: bool
    prompt_tokens: Band
    most_new_tokens: int
    low: Amount
    high: Amount


def estimate(requests: Sequence[Request], books: Books, count: Count | None) -> Estimate:
    """The band within which requests fall; retries come on top. `count` counts tokens, if there is a tokenizer here."""
    unique = {books.asked(request): request for request in requests}
    answers = books.find(list(unique))
    open_ = [request for request, answer in zip(unique.values(), answers, strict=True) if answer is None]
    bands = [_prompt(request, count) for request in open_]
    prompt = Band(*(sum(numbers) for numbers in zip(*bands, strict=True))) if bands else Band(0, 0, 0)
    most = sum(request.sampling.max_new_tokens for request in open_)
    low, high = books.price.of(prompt.low, len(open_)), books.price.of(prompt.high, most)
    return Estimate(len(unique), len(unique) - len(open_), count is not None, prompt, most, low, high)


def _prompt(request: Request, count: Count | None) -> Band:
    """The tokens of a prompt: counted, or between a token for six characters and one for two bytes.

    English prose has one for four or five characters; Japanese, with three bytes a character, up to one for each.
    """
    texts = [message.text for message in request.messages] or [request.prompt]
    texts.append(request.prefill)
    markers = _OF_A_TURN * len(request.messages)
    if count:
        tokens = sum(map(count, texts)) + markers
        return Band(tokens, tokens, tokens)
    characters = sum(map(len, texts))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return Band(*(part + markers for part in (characters // 6, characters // 4, size // 2)))


def local_tokenizer(model: str) -> Count | None:
    """Counts tokens as the model does, if its folder is on this machine: named so, or in the cache."""
    for folder in (Path(model).expanduser(), cache_root() / "models" / model):
        if (folder / "tokenizer.json").is_file():
            tokenizer = Tokenizer.load(folder)
            return lambda text: len(tokenizer.encode(text))
    return None
