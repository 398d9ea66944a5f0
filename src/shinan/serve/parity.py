"""Does an exported model say what the trained one says? Both are asked the same things; the report has the numbers.

The trained model is asked as it is served; the exported one is loaded again from disk by transformers or peft alone,
and asked through its own tokenizer and chat template.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shinan.core.errors import ModelError
from shinan.core.example import Message, Part
from shinan.models.card import load_card
from shinan.models.chat import ChatFormat, chat_format, default_format
from shinan.models.checkpoint import load_model
from shinan.models.generator import Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.tokenizer import Tokenizer
from shinan.serve.served import own_format

QUESTIONS = (
    "What is the capital of Japan?",
    "日本でいちばん高い山は何ですか。一文で答えてください。",
    "Write a Python function that adds two numbers.\n\n```python\ndef add(a, b):\n```",
    "List three fruits, one a line, with their colours.",
)
TEXTS = (
    "The quick brown fox doesn't jump over 12,345 lazy dogs.",
    "東京は日本の首都です。ｶﾀｶﾅ、ひらがな、漢字。",
    "for i in range(10):\n    if i % 2:\n\t\tprint(f'{i}')  # odd\n\n\n",
    "  two  blanks   three    four\n\n and a tab\t.",
    "naïve café – 10€ 🙂 \u200b",
)
_NEW = 24  # tokens of a greedy reply
_MEAN, _MOST = 4.0, 40.0  # times the error that is to be expected
_SAME = 2.0**-20  # what summing the same fp32 numbers in another order changes of a result, at most


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far a form's number format moves weights.

    Attributes:
        error: root mean square error of a weight, relative to the root mean square of the weights around it.
        why: where that number comes from, for people.
    """

    error: float
    why: str


EXACT = Rounding(0.0, "the same weights: only sums may be rounded in another order")
F16 = Rounding(2.0**-12, "float16 keeps 11 bits of each weight")
BF16 = Rounding(2.0**-9, "the trained weights are the merged ones, rounded to bfloat16")
Q8_0 = Rounding(
    0.0068, "each block of 32 weights is rounded to 1/127 of its largest, taken as three times their root mean square"
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the trained model does.

    Attributes:
        chat: the format it was asked in, or None for a base model.
        tokenizer: its tokenizer.
        stop_ids: ids that end its replies.
        prompts: token ids of each question.
        sources: how many of them an encoder reads; 0 for a model without one.
        replies: token ids of each greedy reply, without its terminator.
        logits: [prompt and reply, vocabulary] in fp32 for each question; of what the decoder reads, if there are two.
        layers: its number of layers.
    """

    chat: ChatFormat | None
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    prompts: list[list[int]]
    sources: list[int]
    replies: list[list[int]]
    logits: list[Tensor]
    layers: int


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison.

    Attributes:
        form: what was exported.
        reader: what loaded it.
        questions: how many were asked.
        positions: at how many tokens logits were compared.
        max_difference: largest difference of two logits.
        mean_difference: mean difference.
        max_tolerance: what `max_difference` may be at most.
        mean_tolerance: what `mean_difference` may be at most.
        why: what the tolerances rest on.
        top1_agreement: share of the positions where both would choose the same token.
        greedy_equal: how many greedy replies are the same, token for token.
        greedy_near_ties: how many part where the trained model's first two tokens lie nearer than the logits differ.
        texts: texts that both tokenizers cut into the same tokens, prompts included.
        problems: why the check failed; empty if it passed.
    """

    form: str
    reader: str
    questions: int
    positions: int
    max_difference: float
    mean_difference: float
    max_tolerance: float
    mean_tolerance: float
    why: str
    top1_agreement: float
    greedy_equal: int
    greedy_near_ties: int
    texts: int
    problems: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report for a terminal."""
        apart = f", {self.greedy_near_ties} part at a near tie" if self.greedy_near_ties else ""
        return [
            f"{self.form}, loaded again by {self.reader}, against the trained model:",
            f"  logits differ by {self.mean_difference:.2g} in the mean and {self.max_difference:.2g} at most, at "
            f"{self.positions} tokens of {self.questions} questions",
            f"  tolerance: {self.mean_tolerance:.2g} and {self.max_tolerance:.2g} ({self.why})",
            f"  same first choice at {100 * self.top1_agreement:.1f} % of the tokens",
            f"  same greedy reply to {self.greedy_equal} of {self.questions} questions{apart}",
            f"  same tokens in {self.texts} texts",
        ]


def observe(folder: Path) -> Behaviour:
    """Ask the trained model in `folder`, in fp32, on the CPU. Raises what loading it raises."""
    tokenizer, card, model = Tokenizer.load(folder), load_card(folder), load_model(folder, torch.float32)
    chat = own_format(folder)
    raw = default_format(tokenizer) if tokenizer.decoder_start is not None else chat_format("plain", tokenizer)
    generator = LocalGenerator(card.name, model, chat or raw)
    sampling = Sampling(max_new_tokens=_NEW)
    requests = [
        Request(messages=_question(text), sampling=sampling) if chat else Request(prompt=text, sampling=sampling)
        for text in QUESTIONS
    ]
    stop_ids = chat.stop_ids if chat else generator.chat.stop_ids
    prompts = [list(chat.render_prompt(_question(text)) if chat else raw.render_text(text)) for text in QUESTIONS]
    replies = [[id_ for id_ in reply.ids if id_ not in stop_ids] for reply in generator.generate(requests)]
    sources = [(chat or generator.chat).source(prompt) for prompt in prompts]
    logits = [_logits(model, *asked) for asked in zip(prompts, sources, replies, strict=True)]
    layers = model.config.num_hidden_layers
    del model, generator
    gc.collect()
    return Behaviour(chat, tokenizer, stop_ids, prompts, sources, replies, logits, layers)


def compare(
    trained: Behaviour, model: Any, tokenizer: Any, rounding: Rounding, *, form: str, reader: str, wrong: Sequence[str]
) -> Parity:
    """Ask an exported model the same.

    The tolerances: relative errors of the weights add up like independent ones over the residual stream's
    2 x layers + 1 products; that times the spread of the logits is the size to expect of a logit's error. The mean may
    be four times that. The largest may be forty times: among a million logits chance makes five of it, and where
    attention sits between two tokens an error grows.

    Args:
        trained: what it is measured against.
        model: the exported model, in fp32 and eval mode.
        tokenizer: its tokenizer, of transformers.
        rounding: of its weights.
        form: what was exported, for people.
        reader: what loaded it, for people.
        wrong: what is known to be wrong already.
    """
    asked = list(zip(trained.prompts, trained.sources, trained.replies, strict=True))
    logits = [_logits(model, *each) for each in asked]
    expected = math.sqrt(2 * trained.layers + 1) * max(rounding.error, _SAME) * float(torch.cat(trained.logits).std())
    gaps = [(ours - theirs).abs() for ours, theirs in zip(trained.logits, logits, strict=True)]
    most = max(float(gap.max()) for gap in gaps)
    mean = sum(float(gap.sum()) for gap in gaps) / sum(gap.numel() for gap in gaps)
    same = [ours.argmax(1) == theirs.argmax(1) for ours, theirs in zip(trained.logits, logits, strict=True)]
    problems = [*wrong, *_different_texts(trained, tokenizer)]
    for name, found, allowed in (("in the mean", mean, _MEAN * expected), ("at most", most, _MOST * expected)):
        if not found <= allowed:
            problems.append(f"logits differ by {found:.3g} {name}, and {allowed:.2g} is the tolerance ({rounding.why})")
    equal, ties = 0, 0
    for index, (prompt, source, reply) in enumerate(asked):
        found_reply, start = _greedy(model, prompt, source, trained.stop_ids), len(prompt) - source - 1
        if found_reply == reply:
            equal += 1
        elif _parts_at_tie(found_reply, reply, trained.logits[index][start:], gaps[index][start:]):
            ties += 1
        else:
            problems.append(f"the greedy reply to {QUESTIONS[index]!r} is another one")
    return Parity(
        form=form,
        reader=reader,
        questions=len(QUESTIONS),
        positions=sum(len(gap) for gap in gaps),
        max_difference=most,
        mean_difference=mean,
        max_tolerance=_MOST * expected,
        mean_tolerance=_MEAN * expected,
        why=rounding.why,
        top1_agreement=float(torch.cat(same).float().mean()),
        greedy_equal=equal,
        greedy_near_ties=ties,
        texts=len(TEXTS) + len(QUESTIONS),
        problems=tuple(problems),
    )


def refuse(parity: Parity, where: Path) -> None:
    """Raise ModelError if the comparison failed."""
    if parity.problems:
        what = f"the exported model is not the trained one: {'; '.join(parity.problems)}"
        raise ModelError(what, where=str(where), fix="nothing was exported; report this with the recipe")


def _question(text: str) -> tuple[Message, ...]:
    return (Message("user", (Part(text),)),)


@torch.no_grad()
def _logits(model: Any, prompt: Sequence[int], source: int, reply: Sequence[int]) -> Tensor:
    first, rest = torch.tensor([[*prompt[:source]]]), torch.tensor([[*prompt[source:], *reply]])
    read = {"input_ids": first, "decoder_input_ids": rest} if source else {"input_ids": rest}
    logits: Tensor = model(**read, use_cache=False).logits[0].float()
    return logits


@torch.no_grad()
def _greedy(model: Any, prompt: Sequence[int], source: int, stop_ids: Sequence[int]) -> list[int]:
    """The greedy reply by transformers' own `generate`, without its terminator."""
    ids = torch.tensor([list(prompt[:source] or prompt)])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=_NEW,
        do_sample=False,
        eos_token_id=list(stop_ids),
        pad_token_id=0,
    )
    return [id_ for id_ in out[0, len(prompt) - source :].tolist() if id_ not in stop_ids]


def _parts_at_tie(found: Sequence[int], reply: Sequence[int], logits: Tensor, gaps: Tensor) -> bool:
    """Whether the first different token is chosen where the first two logits lie nearer than both can have moved.

    `logits` and `gaps` [reply, vocabulary] begin where the reply's first token is chosen.
    """
    at = next((i for i, (a, b) in enumerate(zip(found, reply, strict=False)) if a != b), min(len(found), len(reply)))
    first, second = logits[at].topk(2).values.tolist()
    return bool(first - second <= 2 * float(gaps[at].max()))


def _different_texts(trained: Behaviour, tokenizer: Any) -> Iterator[str]:
    """Texts and prompts that the exported tokenizer writes with other tokens."""
    own = trained.tokenizer
    begin, end = (own.named_specials.get(name, "") for name in ("bos_token", "eos_token"))
    for text in (*TEXTS, *QUESTIONS):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids != own.encode(text):
            yield f"the exported tokenizer cuts {text!r} into other tokens"
    for special in filter(None, (begin, end)):
        if tokenizer.convert_tokens_to_ids(special) != own.special_id(special):
            yield f"the special token {special} has another id"
    if trained.chat is None or trained.chat.jinja is None:
        return
    for text, prompt in zip(QUESTIONS, trained.prompts, strict=True):
        asked = [{"role": "user", "content": text}]
        if _templated(tokenizer, asked) != prompt:
            yield f"the exported chat template writes {text!r} with other tokens"


def _templated(tokenizer: Any, asked: list[dict[str, str]]) -> list[int]:
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(ids)
