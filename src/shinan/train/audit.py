"""The supervision audit: one look at everything that tuning is about to learn from, before its first step.

It trusts neither chat format nor tokenizer: what a row must look like is worked out from its conversation, and compared
with the ids and the mask that the loss will see.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from shinan.core.errors import ModelError
from shinan.core.example import Example, Message, Part
from shinan.core.text import normalise
from shinan.core.verdict import Verdict
from shinan.models.card import load_card
from shinan.models.chat import chat_format
from shinan.models.forest import Bundle, TokenRow
from shinan.models.rendering import ChatFormat
from shinan.models.tokenizer import Tokenizer
from shinan.train.facts import ModelFacts
from shinan.train.findings import RULES, Fault, Finding, finding
from shinan.train.rows import Loss, taught

Dropped = Sequence[tuple[Example, Verdict]]

Messages = Sequence[Message]

_PROMPTS = 10_000  # rows whose prompt is written anew and compared, evenly spread: it costs as much as all the rest
_PATHS = 64  # rows whose prompt is written on every path to a served model, evenly spread
_LEFT_OUT = ("no_label", "too_long", "role_order", "empty_turn", "no_pair", "not_renderable")


def audit(
    kept: Sequence[Example],
    bundles: Sequence[Bundle],
    dropped: Dropped,
    chat: ChatFormat,
    facts: ModelFacts,
    *,
    pairs: bool = False,
    cut: bool = False,
    loss: Loss = "all",
) -> list[Finding]:
    """Everything wrong with a dataset that `train.rows.tokenise` made into `bundles` and `dropped`.

    `kept[i]` is the example of `bundles[i]`. `pairs`: whether a bundle is a chosen and a rejected row. `cut`: whether
    rows that were too long have lost the beginning of their context. `loss`: which trained turns are trained (see
    `train.rows.taught`). Findings come in the order of `RULES`; `refuse` raises those that stop a run.
    """
    faults: dict[str, list[Fault]] = defaultdict(list)
    for example, verdict in dropped:
        faults[_reason(example, verdict)].append((example.row, verdict.detail))
    examiner = _Examiner(chat, facts, cut, pairs, loss)
    step = max(1, math.ceil(len(bundles) / _PROMPTS))
    for number, (example, bundle) in enumerate(zip(kept, bundles, strict=True)):
        for check, detail in examiner.faults(example, bundle, prompt=number % step == 0).items():
            faults[check].append((example.row, detail))
    for check, fault in _of_the_model(chat, facts):
        faults[check].append(fault)
    sample = _spread(kept)
    on_paths = _paths(chat, sample, chat.tokenizer.with_chat_template(chat.jinja), chat.name)
    long = faults["too_long"]
    shares = {"too_long": _labels_lost(long, bundles, dropped, chat, pairs, loss)} if long else {}
    looked = dict.fromkeys(_LEFT_OUT, len(bundles) + len(dropped)) | dict.fromkeys(on_paths, len(sample))
    looked |= dict.fromkeys(("prompt", "cut_context"), len(range(0, len(bundles), step)))
    return [
        finding(check, found, looked.get(check, len(bundles)), share=shares.get(check))
        for check in RULES
        if (found := faults.get(check) or on_paths.get(check))
    ]


def audit_saved(folder: Path, chat: ChatFormat, kept: Sequence[Example]) -> list[Finding]:
    """`audit` of a model folder that was written after tuning in `chat`: does it stop and prompt as it was trained?"""
    card, tokenizer = load_card(folder), Tokenizer.load(folder)
    stops = json.loads((folder / "generation_config.json").read_text("utf-8"))["eos_token_id"]
    sample = _spread(kept)
    faults = _paths(chat, sample, tokenizer, card.chat or "none")
    if lacking := sorted(set(chat.stop_ids) - set(stops if isinstance(stops, list) else [stops])):
        names = tokenizer.decode(lacking, keep_special=True)
        what = f"the trained end of a reply, {names}, is not among the stops in generation_config.json"
        faults["saved_stops"] = [(str(folder), what)]
    return [finding(check, faults[check], len(sample)) for check in RULES if faults.get(check)]


def _reason(example: Example, verdict: Verdict) -> str:
    """The rule that a row which could not be tokenised has broken."""
    if verdict.reason != "not_renderable":
        return verdict.reason
    if any(not message.text.strip() for message in example.messages if message.role != "assistant" or message.trained):
        return "empty_turn"
    roles = [message.role for message in example.messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    due = [("user", "assistant")[number % 2] for number in range(len(turns))]
    return "not_renderable" if turns and turns == due else "role_order"


def _labels_lost(
    long: list[Fault], bundles: Sequence[Bundle], dropped: Dropped, chat: ChatFormat, pairs: bool, loss: Loss
) -> float:
    """The share of all labels that rows which are too long held; the first fault is made to tell it."""
    long_rows = [example for example, verdict in dropped if verdict.reason == "too_long"]
    texts = [turns for example in long_rows for turns in _conversations(example, chat, pairs, loss)]
    lost = sum(sum(chat.render(turns).mask) for turns in texts)
    share = lost / (lost + sum(row.labelled for bundle in bundles for row in bundle))
    first, detail = long[0]
    long[0] = first, f"{share:.1%} of all labels; the first has {detail}"
    return share


def _conversations(example: Example, chat: ChatFormat, pairs: bool, loss: Loss) -> Sequence[Messages]:
    """The conversation of each row of a bundle: the example's own, or each of its replies if an encoder reads the
    prompt; of a preference, chosen and rejected, of which only the last turns are trained.
    """
    if not pairs:
        return chat.split(taught(example.messages, loss))
    prompt = [replace(turn, train=False) for turn in example.prompt]
    rejected = [replace(turn, train=turn.role == "assistant") for turn in example.rejected]
    return [[*prompt, replace(example.messages[-1], train=True)], [*prompt, *rejected]]


def _spread(examples: Sequence[Example]) -> list[Example]:
    """Some of the examples, evenly spread."""
    return list(examples[:: max(1, math.ceil(len(examples) / _PATHS))])


def _of_the_model(chat: ChatFormat, facts: ModelFacts) -> Iterator[tuple[str, Fault]]:
    """What is wrong whatever the rows are."""
    tokenizer, where = chat.tokenizer, f"chat format {chat.name}"
    if what := tokenizer.beyond(facts.embeddings, chat.stop_ids):
        yield "specials_known", (where, what)
    if facts.unlearnable:
        end = tokenizer.decode(chat.stop_ids[:1], keep_special=True)
        what = f"the format ends a reply with {end}, which the model was never trained on ({facts.unlearnable}); "
        yield (
            "unlearnable",
            (where, what + "the method leaves those weights as they are, so it cannot learn to stop there"),
        )


def _paths(chat: ChatFormat, sample: Sequence[Example], tokenizer: Tokenizer, name: str) -> dict[str, list[Fault]]:
    """Prompts that evaluation and serving, which take the format `name`, or other servers, which take the saved
    `tokenizer`'s template, write otherwise than `chat`.
    """
    faults: dict[str, list[Fault]] = defaultdict(list)
    for check, path in (("format", name), *([("template", "tokenizer")] if chat.jinja else [])):
        try:
            other = chat_format(path, tokenizer)
        except ModelError as error:
            faults[check].append((f"chat format {chat.name}", error.what))
            continue
        for example in sample:
            prompt = example.messages[: _last_user(example) + 1]
            mine, theirs = chat.render_prompt(prompt), other.render_prompt(prompt)
            if mine != theirs:
                apart = check == "template" and any(part.kind == "input" for turn in prompt for part in turn.parts)
                difference = _difference(chat.tokenizer, mine, theirs)
                faults["template_input" if apart else check].append((example.row, difference))
    return faults


def _last_user(example: Example) -> int:
    return max(number for number, message in enumerate(example.messages) if message.role == "user")


def _difference(tokenizer: Tokenizer, mine: Sequence[int], theirs: Sequence[int]) -> str:
    """The first place where two sequences of ids differ, in words."""
    pairs = enumerate(zip(mine, theirs, strict=False))
    at = next((number for number, (a, b) in pairs if a != b), min(len(mine), len(theirs)))
    shown = [tokenizer.decode(ids[at : at + 6], keep_special=True, place="inside") for ids in (mine, theirs)]
    return f"from token {at} on {shown[0]!r}, there {shown[1]!r}"


@dataclass(frozen=True)
class _Examiner:
    """Looks at one row after the other.

    Attributes:
        chat: the format that the rows were written in.
        facts: the model's sizes.
        cut: whether a row may lack tokens after its first, where its context was too long.
        pairs: whether a bundle is a chosen and a rejected row.
        loss: which trained turns are trained.
        layouts: the special tokens that a conversation of some shape consists of.
        seen: {content id: row id} of the examples so far.
    """

    chat: ChatFormat
    facts: ModelFacts
    cut: bool
    pairs: bool
    loss: Loss
    layouts: dict[tuple[tuple[str, bool | None], ...], list[int]] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)

    def faults(self, example: Example, bundle: Bundle, *, prompt: bool) -> Mapping[str, str]:
        """{check: particulars} of what is wrong with an example; prompts are written anew only with `prompt`."""
        told = dict(self._content(example, bundle[0].weight))
        for turns, row in zip(_conversations(example, self.chat, self.pairs, self.loss), bundle, strict=True):
            for check, detail in (*self._ids(turns, row), *self._labels(turns, row)):
                told.setdefault(check, detail)
            if prompt and "turns" not in told:
                told |= self._prompts(turns, row)
        return told

    def _content(self, example: Example, weight: float) -> Iterator[Fault]:
        texts = [message.text for message in example.messages]
        if not (weight > 0 and math.isfinite(weight)):
            yield "weight", f"it is {weight}"
        replies = [message.text for message in example.rejected]
        if spelt := next(filter(None, map(self._spelt, texts + replies)), None):
            yield "spelt", f"{spelt!r}"
        if any(before == after != "" for before, after in pairwise(texts)):
            yield "repeated_turn", ""
        if (first := self.seen.setdefault(example.id, example.row)) != example.row:
            yield "duplicate", f"of {first}"

    def _ids(self, turns: Messages, row: TokenRow) -> Iterator[Fault]:
        bos = self.chat.tokenizer.bos_id
        if bos is not None and row.ids[:2] == (bos, bos):
            yield "bos_twice", ""
        # The model's own template decides for itself: it is what the model was trained with.
        elif self.chat.tokenizer.adds_bos and row.ids[0] != bos and self.chat.name != "tokenizer":
            yield "bos_missing", f"it begins with {self._shown(row.ids[:3])}"
        if (largest := max(row.ids)) >= self.facts.embeddings:
            yield "vocabulary", f"id {largest}, with {self.facts.embeddings} embeddings"
        longest = max(row.source, len(row.ids) - row.source)  # an encoder has as much room as its decoder
        if self.facts.context is not None and longest > self.facts.context:
            yield "context", f"{longest} > {self.facts.context} tokens"
        special = [id_ for id_ in row.ids if id_ in self._specials]
        if not self._fits(special, due := self._layout(turns)):
            yield "special", f"{self._shown(special)} in place of {self._shown(due)}"

    def _labels(self, turns: Messages, row: TokenRow) -> Iterator[Fault]:
        trained = [message for message in turns if message.trained]
        stretches = list(_stretches(row.mask))
        if len(stretches) != len(trained):
            yield "turns", f"{len(stretches)} trained stretches for {len(trained)} trained turns"
            return
        for message, (start, end) in zip(trained, stretches, strict=True):
            if row.ids[end - 1] not in self.chat.stop_ids:
                masked = row.ids[end : end + 1] and row.ids[end] in self.chat.stop_ids
                last = self._shown(row.ids[end - 1 : end + 1] if masked else row.ids[end - 1 : end])
                yield ("terminator", f"the loss ends within {last}") if masked else ("stop_set", f"it is {last}")
            labels = row.ids[start:end]
            text = self.chat.tokenizer.decode(labels, place="inside")
            spells = message.text.strip() in text or normalise(message.text) in normalise(text)
            if not spells and self._unknown not in labels:
                yield "reply", f"{text[:40]!r} for {message.text[:40]!r}"

    def _prompts(self, turns: Messages, row: TokenRow) -> Mapping[str, str]:
        """Up to each trained reply, the row must be the prompt that evaluation gives, or what was left of it."""
        trained = [number for number, message in enumerate(turns) if message.trained]
        for number, (start, _) in zip(trained, _stretches(row.mask), strict=True):
            if turns[number].role != "assistant":
                continue
            prompt, begin = self.chat.render_prompt(turns[:number]), row.ids[:start]
            if not self._fits(begin, prompt):
                return {"prompt": _difference(self.chat.tokenizer, begin, prompt)}
            if len(begin) < len(prompt):
                return {"cut_context": f"{len(prompt) - len(begin)} of {len(prompt)} tokens"}
        return {}

    def _fits(self, part: Sequence[int], whole: Sequence[int]) -> bool:
        """Whether `part` is `whole`, or its first token and its end where rows are cut."""
        gone = len(whole) - len(part) if self.cut else 0
        return [*part] == [*whole[:1], *whole[1 + max(gone, 0) :]]

    def _layout(self, turns: Messages) -> list[int]:
        """The special tokens of a conversation of this shape whose texts hold none."""
        shape = tuple((message.role, message.train) for message in turns)
        if shape not in self.layouts:
            ids = self.chat.render([Message(role, (Part("a"),), train) for role, train in shape]).ids
            self.layouts[shape] = [id_ for id_ in ids if id_ in self._specials]
        return self.layouts[shape]

    def _spelt(self, text: str) -> str:
        """The first special token that a text spells, or nothing. (A pattern of thousands of tokens is too slow.)"""
        for first, (lengths, names) in self._spellings.items():
            at = text.find(first)
            while at >= 0:
                for length in lengths:
                    if (name := text[at : at + length]) in names:
                        return name
                at = text.find(first, at + 1)
        return ""

    @cached_property
    def _spellings(self) -> Mapping[str, tuple[set[int], set[str]]]:
        """{first character: (lengths, texts)} of the special tokens."""
        found: dict[str, tuple[set[int], set[str]]] = defaultdict(lambda: (set(), set()))
        for text in self.chat.tokenizer.specials:
            found[text[0]][0].add(len(text))
            found[text[0]][1].add(text)
        return found

    @cached_property
    def _unknown(self) -> int | None:
        """The id of what the tokenizer cannot write, which text may become."""
        return self.chat.tokenizer.special_id(self.chat.tokenizer.named_specials.get("unk_token", ""))

    @cached_property
    def _specials(self) -> frozenset[int]:
        return frozenset(self.chat.tokenizer.specials.values()) - {self._unknown}

    def _shown(self, ids: Sequence[int]) -> str:
        return repr(self.chat.tokenizer.decode(ids, keep_special=True, place="inside"))


def _stretches(mask: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of True."""
    end = 0
    while True in mask[end:]:
        start = mask.index(True, end)
        end = mask.index(False, start) if False in mask[start:] else len(mask)
        yield start, end
