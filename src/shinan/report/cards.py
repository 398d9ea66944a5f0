"""The cards that travel with an exported model: README.md (the model) and DATA.md (what it was tuned on), as Markdown.

All of it comes from the run's own manifests and summary. Text that people or models have written is escaped: it can
neither end a table nor become markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shinan.core.config import dump_yaml
from shinan.core.licence import MEANINGS
from shinan.models.card import Card
from shinan.report.collect import Report
from shinan.report.summary import verdict
from shinan.report.wording import change, count, interval, metric_name, p_value, points, printable

_TRAINING = (
    ("examples", "examples"),
    ("validation_examples", "examples held out for validation"),
    ("tokens", "tokens"),
    ("labelled_tokens", "labelled tokens"),
    ("steps", "steps"),
    ("seconds", "seconds"),
    ("final_loss", "loss of the last steps"),
    ("best_validation_loss", "best validation loss"),
    ("trainable_parameters", "trainable parameters"),
    ("dtype", "number format"),
)
_SETTINGS = ("objective", "method", "epochs", "batch_size", "learning_rate", "schedule", "optimiser", "max_tokens")
_GEMMA = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. Who passes this "
    "model on must pass on those terms, the notices beside it and the use restrictions in section 3.2 of the terms."
)


def model_card(card: Card, report: Report | None, *, use: str, parity: Sequence[str]) -> str:
    """README.md of an exported model.

    Args:
        card: the tuned model's.
        report: the run that made it, or None for a model without a run.
        use: how to load it: Markdown by us.
        parity: what the comparison with the trained model found, lines for people.
    """
    parts = [_front(card, report), f"# {text(card.name)}", *_origin(card)]
    if report:
        parts += [text(verdict(report)), "## Evaluation", *_evaluation(report), "## Training", *_training(report)]
    parts += ["## Use", *_prompting(card, report), use, "## Parity with the trained model", code("\n".join(parity))]
    return "\n\n".join(parts) + "\n"


def data_card(report: Report) -> str:
    """DATA.md: sources, licences, makers, rows kept and dropped with reasons, and the lineage of the stages."""
    licences = report.licences
    rows = [
        (stage.id, stage.use, *(_number(stage.tally.get(name)) for name in ("seen", "kept")), _reasons(stage.tally))
        for stage in report.stages
        if stage.tally
    ]
    parts = [f"# Data of {text(report.name)}", "## Rows", table(("stage", "made by", "seen", "kept", "dropped"), rows)]
    if terms := licences.get("terms"):
        meant = {str(name): words for name, words in MEANINGS.items()}
        parts += ["## Licences", table(("licence", "rows"), _counts(licences.get("rows", {})))]
        asked = [(name.replace("_", " "), meant.get(name, ""), count(n)) for name, n in terms.items()]
        parts += [table(("the rows ask for", "that is", "rows"), asked)]
    for name, title in (("maker", "Makers"), ("language", "Languages"), ("category", "Kinds of task")):
        if counts := report.composition.get(name):
            parts += [f"## {title}", table((name, "rows trained on"), _counts(counts))]
    lineage = [(stage.id, stage.key, ", ".join(stage.manifest.parents)) for stage in report.stages if stage.manifest]
    parts += ["## Lineage", "Each stage's key is a hash of all that decides its result, its parents' keys included."]
    parts += [table(("stage", "key", "made from"), [(a, b[:12], _short(c)) for a, b, c in lineage])]
    return "\n\n".join(parts) + "\n"


def text(value: object) -> str:
    """Data as Markdown text: one line, no markup, no HTML."""
    line = " ".join(printable(str(value)).split())
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", escaped)


def code(value: str) -> str:
    """Data as a block of code; its fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{printable(value)}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table of data."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(text(cell) for cell in row) + " |" for row in rows)])


def _front(card: Card, report: Report | None) -> str:
    """The YAML that the hub reads."""
    facts: dict[str, Any] = {
        "license": card.licence if card.licence != "unknown" else None,
        "base_model": [parent.name for parent in card.parents] or None,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["instruction-tuning", "shinan"],
        "language": sorted(set(report.composition.get("language", {})) - {"not stated"}) if report else None,
    }
    said = dump_yaml({key: value for key, value in facts.items() if value})
    return f"---\n{said}---"


def _origin(card: Card) -> list[str]:
    made = [
        f"Tuned by shinan from {text(parent.name)} (fingerprint {text(parent.fingerprint[:12])})."
        for parent in card.parents
    ]
    notices = ", ".join(text(notice) for notice in card.notices)
    said = [*made, f"Licence: {text(card.licence)}." + (f" Notices that travel with it: {notices}." if notices else "")]
    return [*said, _GEMMA] if "gemma" in card.licence.lower() else said


def _evaluation(report: Report) -> list[str]:
    rows = [
        (
            row.task,
            metric_name(row.metric),
            count(row.n),
            points(row.before),
            points(row.after),
            change(row.delta),
            interval(row.ci95),
            p_value(row.p),
        )
        for row in report.comparisons
    ]
    head = ("task", "metric", "items", "before", "after", "change", "95 % interval", "p")
    held = ", ".join(f"{text(answers.task)} ({count(len(answers.after))} items)" for answers in report.answers)
    trained = "never trained on" if report.decontaminated else "but not searched for in the rows that were trained on"
    said = f"Held out, {trained}: {held}." if held else "Nothing was held out."
    styles = [
        f"Before tuning, {text(answers.task)} was asked in the style that scored best: {text(answers.style)}."
        for answers in report.answers
        if answers.style
    ]
    return [table(head, rows), said, *styles]


def _training(report: Report) -> list[str]:
    facts, settings = report.training, report.training.get("settings", {})
    rows = [(title, _number(facts[name])) for name, title in _TRAINING if facts.get(name) is not None]
    rows += [(name.replace("_", " "), settings[name]) for name in _SETTINGS if name in settings]
    rows.append(("seed", str(report.seed)))
    rows += [(name, version) for name, version in report.versions.items()]
    return [table(("", "value"), rows)]


def _prompting(card: Card, report: Report | None) -> list[str]:
    if card.chat is None:
        return ["It was not tuned to a chat format: it goes on with a text."]
    where = "the chat template in its tokenizer (for GGUF, in the file)"
    return [
        f"It is prompted in the chat format {text(card.chat)}, which {where} writes; other prompts were not trained."
    ]


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str("–" if value is None else value)
    return count(value) if float(value).is_integer() else f"{value:,.4g}"


def _reasons(tally: Mapping[str, Any]) -> str:
    return ", ".join(f"{reason} {count(n)}" for reason, n in tally.get("dropped", {}).items()) or "none"


def _counts(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, count(n)) for name, n in counts.items()]


def _short(keys: str) -> str:
    return ", ".join(key[:12] for key in keys.split(", ") if key)
