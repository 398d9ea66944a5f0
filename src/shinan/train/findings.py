"""What the supervision audit looks at, and what it says where something is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shinan.core.errors import DataError

_SHOWN = 5  # rows named in a finding


class Rule(NamedTuple):
    """One check.

    Attributes:
        looks: what is looked at, as a list of checks names it.
        fault: what is wrong with the rows; completes `3 of 40 rows …`. Empty for a fault of the whole run.
        fix: what to do.
        limit: the run stops if a larger share of the rows has the fault; up to there it is a warning.
    """

    looks: str
    fault: str
    fix: str
    limit: float = 0.0


# The two lines between a stray row and a fault of the whole data are our own. A row that is left out is counted with
# its reason either way; above one in a hundred it is the import that is wrong, above one half nobody meant it
# (ms-swift#4026: 1.12 million rows became 586 thousand in silence).
_STRAY, _HALF, _NEVER = 0.01, 0.5, 1.0
_STRUCTURE = "`- use: structure` under curate drops such rows with their reason"
_FORMAT = "choose another `chat:` format, and look at the tokens with `shinan check RECIPE --show 3`"

RULES: Mapping[str, Rule] = {
    "no_label": Rule(
        "every row trains on something",
        "train on no turn and are left out",
        f"end each row with an assistant turn; {_STRUCTURE}",
        _STRAY,
    ),
    "too_long": Rule(
        "no labels are lost to length",
        "are longer than tune.max_tokens and are left out",
        "raise tune.max_tokens, or split these rows",
        _HALF,
    ),
    "role_order": Rule(
        "user and assistant take turns",
        "have turns out of order and are left out",
        f"begin with at most one system turn, then user and assistant by turns; {_STRUCTURE}",
        _STRAY,
    ),
    "empty_turn": Rule(
        "no turn is empty",
        "have an empty turn and are left out",
        f"look at how the rows were imported; {_STRUCTURE}",
        _STRAY,
    ),
    "no_pair": Rule(
        "every preference has two replies that differ",
        "have no two replies to compare and are left out",
        "give each row a chosen and a rejected reply that differ",
        _STRAY,
    ),
    "not_renderable": Rule(
        "the chat format can write every row",
        "cannot be written in the chat format and are left out",
        "choose another `chat:` format, or drop these rows",
        _HALF,
    ),
    "cut_context": Rule(
        "no row loses the beginning of its context",
        "have lost the beginning of their context, as tune.too_long says",
        "raise tune.max_tokens, or set `tune.too_long: drop`",
        _NEVER,
    ),
    "weight": Rule(
        "every row has a weight above 0",
        "have a weight that is not a positive number",
        "give each row a weight above 0, or drop it",
    ),
    "turns": Rule(
        "each trained turn is trained, and nothing else",
        "train on other stretches than their trained turns",
        _FORMAT,
    ),
    "terminator": Rule(
        "the end of each trained turn is trained",
        "have a trained turn whose end is not trained: the model would not learn to stop",
        _FORMAT,
    ),
    "stop_set": Rule(
        "each trained turn ends where generation stops",
        "end a trained turn with a token at which nothing stops",
        _FORMAT,
    ),
    "prompt": Rule(
        "evaluation's prompt is the beginning of the row",
        "looked at do not begin with the prompt that evaluation gives",
        _FORMAT,
    ),
    "reply": Rule(
        "the trained tokens spell the reply",
        "train on tokens that do not spell their reply",
        "choose another `chat:` format or another model: this tokenizer loses text",
        _STRAY,
    ),
    "bos_twice": Rule(
        "no row begins with bos twice",
        "begin with bos twice",
        "set `add_bos_token: false` in tokenizer_config.json, or take bos out of the chat template",
    ),
    "bos_missing": Rule(
        "every row begins with bos where the model's texts do",
        "lack the bos with which the model's texts begin",
        _FORMAT,
    ),
    "special": Rule(
        "text never becomes a special token",
        "hold special tokens that the conversation does not ask for",
        "drop these rows, or use the tokenizer of the original model folder",
    ),
    "spelt": Rule(
        "no text spells a special token",
        "spell a special token (trained as plain letters)",
        "if these texts were already written in a chat format, import their turns instead",
        _NEVER,
    ),
    "repeated_turn": Rule(
        "no turn is repeated right after itself",
        "repeat a turn right after itself",
        "look at how the rows were imported",
        _NEVER,
    ),
    "duplicate": Rule(
        "no row is there twice",
        "are copies of an earlier row",
        "`- use: exact_duplicates` under curate drops them",
        _NEVER,
    ),
    "vocabulary": Rule(
        "every token has an embedding",
        "hold a token for which the model has no embedding",
        "use the tokenizer of the original model folder",
    ),
    "context": Rule(
        "every row fits the model's context",
        "are longer than the model's context",
        "lower tune.max_tokens to the model's context",
    ),
    "specials_known": Rule(
        "the tokenizer and the model have the same tokens",
        "",
        "use the tokenizer of the original model folder",
    ),
    "unlearnable": Rule(
        "the model can learn to stop",
        "",
        "set `chat: alpaca`, which ends a reply with the eos that the model knows, or `tune.method: full`",
    ),
    "format": Rule(
        "evaluation and serving write the same prompt",
        "looked at get another prompt in evaluation and serving than in training",
        "take a chat format by its name, as a recipe does",
    ),
    "template": Rule(
        "other servers write the same prompt",
        "looked at get another prompt from the chat template that is saved for other servers",
        _FORMAT,
    ),
    "template_input": Rule(
        "other servers can set inputs apart",
        "looked at have an input that the template saved for other servers writes as part of the instruction",
        "serve the model with shinan, or choose a `chat:` format that does not set inputs apart",
        _NEVER,
    ),
    "saved_stops": Rule(
        "the saved model stops where training ended a reply",
        "",
        "save the model again",
    ),
}
"""Every check by its name, in the order in which they are listed."""

AFTER = frozenset({"saved_stops"})
"""Checks of the saved model, which can only be made after tuning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong.

    Attributes:
        check: name of the rule.
        severity: `stop`, or `warn`.
        count: how many rows have the fault.
        share: their share of the rows looked at; for `too_long` the share of the labels.
        rows: ids of the first few.
        what: the sentence.
        where: the first row, or what else is at fault.
        fix: what to do.
    """

    check: str
    severity: Literal["stop", "warn"]
    count: int
    share: float
    rows: tuple[str, ...]
    what: str
    where: str
    fix: str


Fault = tuple[str, str]
"""Where (a row id, or what else is at fault) and the particulars of it."""


def finding(check: str, faults: Sequence[Fault], of: int, *, share: float | None = None) -> Finding:
    """The finding that `faults`, found among `of` rows, amount to."""
    rule = RULES[check]
    part = len(faults) / max(of, 1) if share is None else share
    where, detail = faults[0]
    what = detail
    if rule.fault:
        what = f"{len(faults):,} of {of:,} rows {rule.fault}" + (f" ({detail})" if detail else "")
    return Finding(
        check=check,
        severity="stop" if part > rule.limit else "warn",
        count=len(faults),
        share=part,
        rows=tuple(row for row, _ in faults[:_SHOWN]) if rule.fault else (),
        what=what,
        where=where,
        fix=rule.fix,
    )


def refuse(findings: Iterable[Finding]) -> None:
    """Raise DataError with every finding that stops a run, if there is one."""
    stops = [DataError(f.what, where=f.where, fix=f.fix) for f in findings if f.severity == "stop"]
    if len(stops) == 1:
        raise stops[0]
    if stops:
        raise DataError("the data cannot be trained on:\n" + "\n".join(map(str, stops)))
