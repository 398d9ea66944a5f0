"""A run folder as the runner leaves it, with invented but plausible contents."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import yaml

from shinan.core.dataset import Manifest, write_manifest, write_rows
from shinan.core.example import Example, Message, Part, Provenance, assistant
from shinan.core.verdict import Tally, Verdict
from shinan.models.card import Parent, write_card

STAGES = ("build.collection", "build.file", "curate", "tune", "evaluate.heldout.before", "evaluate.heldout.after")
ALL = (*STAGES, "compare")


class Item(NamedTuple):
    """An evaluation item, with its answers and ROUGE-L before and after."""

    category: str
    language: str
    prompt: str
    targets: tuple[str, ...]
    before: tuple[str, float]
    after: tuple[str, float]


_ITEMS = (
    Item(
        "title_generation",
        "en",
        "Give the text a title of at most five words.\n\nThe night bus now stops at the hospital, so that nurses on "
        "the late shift no longer walk the last mile. The council will count riders for a year before it decides.",
        ("Night Bus Reaches Hospital", "Night Bus Stops at Hospital"),
        ("Give the text a title of at most five words.\n\n" * 6, 0.09),
        ("Night Bus Stops at Hospital", 1.0),
    ),
    Item(
        "paraphrase",
        "ja",
        "次の文を、意味を変えずに別の言い方で書いてください。\n\n会議は雨のため来週に延期された。",
        ("雨が降ったので、会議は来週に延びた。", "雨のせいで会議は来週に先送りになった。"),
        ("会議は雨のため来週に延期された。会議は雨のため来週に延期された。会議は雨のため", 0.21),
        ("雨が降ったため、会議は来週に延びた。", 0.94),
    ),
    Item(
        "textual_entailment",
        "en",
        "Does the second sentence follow from the first? Answer yes, no or unknown.\n\n1. Every tram on line 4 has a "
        "ramp.\n2. The tram that Mika took on line 4 has a ramp.",
        ("yes",),
        ("3. Every tram on line 5 has a ramp.\n4. Every tram on line 6 has a ramp.", 0.0),
        ("yes", 1.0),
    ),
    Item(
        "error_detection",
        "en",
        "Name the one word that is spelled wrongly.\n\nThe libary opens at nine and closes at six.",
        ("libary",),
        ("libary", 1.0),
        ("The word is “library”.", 0.0),
    ),
    Item(
        "dialogue_acts",
        "ja",
        "B の発言は何をしていますか。「承諾」「断り」「質問」から一つ選んでください。\n\n"
        "A：明日の午後、手伝ってもらえますか。\nB：午後は歯医者なんです。",
        ("断り",),
        ("断り", 1.0),
        ("質問", 0.0),
    ),
    Item(
        "data_to_text",
        "en",
        "Put the record into one sentence.\n\nname: Aoi | role: ferry pilot | since: 2011",
        ("Aoi has been a ferry pilot since 2011.",),
        ("name: Aoi | role: ferry pilot | since: 2012\nname: Aoi | role: ferry pilot | since: 2013", 0.18),
        ("Aoi has been a ferry pilot since 2011.", 1.0),
    ),
)
_CATEGORIES = (
    "title_generation",
    "paraphrase",
    "textual_entailment",
    "error_detection",
    "dialogue_acts",
    "data_to_text",
    "keyword_tagging",
)


def make_run(folder: Path, done: Collection[str] = ALL, spice: str = "") -> Path:
    """Make the run folder with the stages in `done` finished; `spice` is put into every free text."""
    folder.mkdir(parents=True)
    text = spice.encode(
        "utf-8", "ignore"
    ).decode()  # YAML, Parquet and manifests hold no lone surrogates, other JSON may
    recipe = {"name": "quickstart" + text, "seed": 20, "model": "starter:gemma-3-270m" + text, "tune": {"epochs": 3.0}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), "utf-8")
    plan = {
        "stages": [{"id": name, "use": name.split(".")[0] + spice, "key": key(name)} for name in ALL],
        "probe": {"dtype": "bf16", "threads": 2, "attention": {"backend": "sdpa"}},
        "versions": {"shinan": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        "machine": {"system": "Linux x86_64", "cpu": "2 cores" + spice, "memory_gb": 8},
    }
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
    _data(folder, done, text)
    if "tune" in done:
        _tune(folder, text)
    _evaluation(folder, done, spice)
    return folder


def key(name: str) -> str:
    """The key of a stage, in the plan and in its manifest."""
    return "b2:" + f"{sum(map(ord, name)):032x}"


def _finish(folder: Path, name: str, tally: Tally | None = None, facts: dict[str, Any] | None = None) -> None:
    place = folder / "stages" / name
    place.mkdir(parents=True, exist_ok=True)
    counts = tally.to_dict() if tally else {}
    seconds = {"tune": 312.4, "evaluate.heldout.before": 48.2, "evaluate.heldout.after": 31.0}.get(name, 1.5)
    write_manifest(place, Manifest(name, "x", key(name), tally=counts, facts=facts or {}, seconds=seconds))


def _row(number: int, source: str, spice: str) -> Example:
    language = "ja" if number % 3 == 0 else "en"
    text = ("次の文を要約してください。" if language == "ja" else "Sum up the text in one sentence.") + spice
    return Example(
        messages=(
            Message("user", (Part(text, "instruction"), Part(f"Text number {number}.", "input"))),
            assistant(f"Number {number}." + spice),
        ),
        task=f"task_{number % 40}",
        tags={"category": ("summarization", "translation", "code")[number % 3 - 1] + spice, "language": language},
        provenance=Provenance(source + spice, number, "CC0-1.0" if source[0] == "c" else "MIT", "project" + spice),
    )


def _data(folder: Path, done: Collection[str], spice: str) -> None:
    collection = [_row(number, "collection:starter", spice) for number in range(240)]
    file = [_row(number, "team.jsonl", spice) for number in range(240, 310)]
    empty = [(row, Verdict.drop("empty_reply", by="read")) for row in file[:2]]
    twin = Verdict.drop("near_duplicate", f"0.93 like {file[0].row}" + spice, "near_duplicates")
    overlap = Verdict.drop("overlaps_evaluation", "13 words in a row" + spice, "decontaminate")
    short = Verdict.drop("too_short" + spice, "1 word", "length")
    gone = [(row, twin) for row in file[10:31]]
    gone += [(row, overlap) for row in collection[:8]] + [(row, short) for row in collection[8:12]]
    lost = {row.row for row, _ in [*gone, *empty]}
    kept = [row for row in collection + file if row.row not in lost]
    plan = {
        "build.collection": (collection, []),
        "build.file": (file[2:], empty),
        "curate": (kept, gone),
        "tune": (kept[:-2], [(row, Verdict.drop("too_long", "1,180 tokens", "tokenise")) for row in kept[-2:]]),
    }
    for name, (rows, dropped) in plan.items():
        if name in done:
            place = folder / "stages" / name
            place.mkdir(parents=True)
            _finish(folder, name, write_rows(place, rows, dropped))


def _tune(folder: Path, spice: str) -> None:
    draw, steps = random.Random(1), 198
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 1.35 + 2.4 * math.exp(-step / 30) + draw.gauss(0, 0.09)
        line = {"step": step, "loss": loss, "learning_rate": 5e-4, "gradient_norm": 0.8, "tokens": 2560 + step}
        lines.append(line | {"labelled_tokens": 640, "seconds": 1.5})
        if step % 33 == 0:
            held = 1.62 + 2.0 * math.exp(-step / 32) + max(0, step - 130) * 0.002
            lines.append({"step": step, "validation_loss": held, "seconds": 2.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    held_losses = [(line["validation_loss"], line["step"]) for line in lines if "validation_loss" in line]
    facts = {
        "examples": 259,
        "validation_examples": 14,
        "tokens": sum(line.get("tokens", 0) for line in lines),
        "labelled_tokens": 640 * steps,
        "computed_tokens": 584_000,
        "steps": steps,
        "seconds": 301.9,
        "tokens_per_second": 1744.3,
        "final_loss": fmean(line["loss"] for line in lines[-9:] if "loss" in line),
        "best_validation_loss": min(held_losses)[0],
        "best_step": min(held_losses)[1],
        "dtype": "bf16",
        "trainable_parameters": 3_796_992,
        "settings": {"method": "lora", "epochs": 3.0, "learning_rate": 5e-4, "batch_size": 16, "note": spice},
    }
    tally = json.loads((folder / "stages/tune/manifest.json").read_text("utf-8"))["tally"]
    write_manifest(
        folder / "stages" / "tune", Manifest("tune", "tune.sft", key("tune"), tally=tally, facts=facts, seconds=312.4)
    )
    model = folder / "stages" / "tune" / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "NOTICE").write_text("Gemma is provided under and subject to the Gemma Terms of Use." + spice, "utf-8")
    parents = [Parent("gemma-3-270m" + spice, "b2:0")]
    write_card(model, name="quickstart/tune" + spice, parents=parents, licence="gemma" + spice, notices=["NOTICE"])


def _samples() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """96 items of 34 tasks, the written ones first; before in two prompt styles."""
    draw = random.Random(7)
    before, after = [], []
    for number in range(96):
        if number < len(_ITEMS):
            item = _ITEMS[number]
        else:
            category, score = _CATEGORIES[number % 34 % len(_CATEGORIES)], min(max(draw.gauss(0.12, 0.1), 0), 1)
            gain = draw.gauss(0.22, 0.2) + 0.03 * (number % 34 % len(_CATEGORIES) - 3)
            answers = (("It is item it is item", score), ("Item.", min(max(score + gain, 0), 1)))
            item = Item(category, "en", f"Name the key word of item {number}.", (f"item {number}",), *answers)
        shared = {
            "row": f"collection:starter/{item.category}_{number % 34}#{number // 34}",
            "id": f"b2:{number:032x}",
            "task": f"{item.category}_{number % 34}",
            "category": item.category,
            "language": item.language,
            "prompt": item.prompt,
            "targets": list(item.targets),
        }
        cut = number % 5 == 0
        before.append(shared | _answer("plain", *item.before, cut=cut))
        before.append(shared | _answer("gemma", "", 0.0, cut=False))
        after.append(shared | _answer("gemma", *item.after, cut=number == 40))
    return before, after


def _answer(style: str, reply: str, score: float, *, cut: bool) -> dict[str, Any]:
    return {
        "style": style,
        "reply": reply,
        "finish": "length" if cut else "stop",
        "empty": not reply,
        "new_tokens": 128 if cut else len(reply) // 4 + 1,
        "scores": {"rouge_l": score, "exact_match": float(score == 1.0)},
    }


def _evaluation(folder: Path, done: Collection[str], spice: str) -> None:
    before, after = _samples()
    (folder / "eval").mkdir()
    styles = {style: {m: _mean(before, style, m) for m in ("rouge_l", "exact_match")} for style in ("plain", "gemma")}
    for side, samples in (("before", before), ("after", after)):
        name = f"evaluate.heldout.{side}"
        if name in done:
            for sample in samples:
                for field in ("row", "task", "language", "prompt", "reply"):
                    sample[field] += spice
                sample["targets"] = [target + spice for target in sample["targets"]]
            lines = "".join(json.dumps(sample) + "\n" for sample in samples)
            (folder / "eval" / f"heldout.{side}.jsonl").write_text(lines, "utf-8")
            facts = {"style": "plain", "styles": styles, "n": 96} if side == "before" else {"style": "gemma", "n": 96}
            _finish(folder, name, facts=facts)
    if "compare" in done:
        plain = [sample for sample in before if sample["style"] == "plain"]
        _finish(folder, "compare", facts=_compare(plain, after))


def _mean(samples: Sequence[dict[str, Any]], style: str, metric: str) -> float:
    return fmean(sample["scores"][metric] for sample in samples if sample["style"] == style)


def _compare(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    evaluation, categories = [], []
    for metric in ("rouge_l", "exact_match"):
        pairs = [(b, b["scores"][metric], a["scores"][metric]) for b, a in zip(before, after, strict=True)]
        cut_before, cut_after = (sum(s["finish"] == "length" for s in side) for side in (before, after))
        more = {
            "unscored": 0,
            "mde80": 0.041,
            "wins": sum(new > old for _, old, new in pairs),
            "losses": sum(new < old for _, old, new in pairs),
            "ties": sum(new == old for _, old, new in pairs),
            "truncated_before": cut_before,
            "truncated_after": cut_after,
            "empty_before": 0,
            "empty_after": 0,
            "style_before": "plain",
        }
        evaluation.append(_line(metric, [(old, new) for _, old, new in pairs]) | more)
        groups = defaultdict(list)
        for sample, old, new in pairs:
            groups[sample["category"]].append((old, new))
        categories += [_line(metric, group) | {"category": name} for name, group in groups.items()]
    return {"evaluation": evaluation, "categories": categories}


def _line(metric: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Means, and a normal interval that is good enough for a picture."""
    deltas = [new - old for old, new in pairs]
    delta, half = fmean(deltas), 1.96 * stdev(deltas) / math.sqrt(len(deltas))
    p = math.erfc(abs(delta) / (half / 1.96 + 1e-12) / math.sqrt(2))
    return {
        "task": "heldout",
        "metric": metric,
        "n": len(pairs),
        "before": fmean(old for old, _ in pairs),
        "after": fmean(new for _, new in pairs),
        "delta": delta,
        "ci95": [delta - half, delta + half],
        "p": p,
    }
