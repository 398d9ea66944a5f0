"""What Self-Instruct gives with small models: how much survives, what it costs, and what tuning on it does.

    python -m bench.self_instruct [--runs runs/self-instruct] [--instructions 40] [--budget 20] [--rows 40] [--seed 0]

Two teachers write tasks from the starter seeds by recipes/self-instruct.yaml, with the same budget of calls: the base
model, tuned on starter rows as recipes/quickstart.yaml does it, and an instruct model of half the size, asked in both
ways. Then the base model is tuned on equally many starter rows and rows of each teacher that brought enough, in equal
steps, and all are asked the same held-out items. Stages that are done are reused and answers are in the ledger, so that
a killed bench goes on where it was. What survived, then the comparisons, all of it in
`bench/results/self-instruct.json`. Beside other work OMP_NUM_THREADS=1 is several times as fast as 2: in decoding,
threads wait for each other after every small product.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.pairs import RESULTS
from shinan.build.improve.self_instruct import CLASSIFYING, PROPOSING, TASKS, self_instruct
from shinan.build.teachers import Teacher, as_teacher
from shinan.core.dataset import Judged, read_manifest, write_atomic
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.curate.overlap import overlap
from shinan.curate.run import curate
from shinan.evaluate.results import compare_samples, means
from shinan.evaluate.samples import Sample, read_samples
from shinan.models.books import Ledgered
from shinan.models.generator import Completion, Done, Request
from shinan.recipe.run import run
from shinan.recipe.schema import Decontaminate, Recipe, bound, load_recipe
from shinan.recipe.stages import items_of

STARTER, WRITTEN = Path("recipes/quickstart.yaml"), Path("recipes/self-instruct.yaml")
STUDENT = "starter:gemma-3-270m"
INSTRUCT = "starter:smollm2-135m-instruct"
REQUESTS = 20  # prompts of a round: decoded together, they take hardly longer than five
INSTANCES = 2  # of each starter task that it is tuned on
LEAST = 8  # rows of a teacher, a batch: with fewer nothing is tuned
EPOCHS = 4  # of the arms: so few rows would else make hardly a step
ITEMS = 66  # held out: three of each of the 22 English tasks
METRICS = ("rouge_l", "exact_match")
STEPS = {PROPOSING.max_new_tokens: "propose", CLASSIFYING.max_new_tokens: "classify"}  # any other call does a task
Logs = dict[str, list[Sample]]
"""{arm: its answers}."""


@dataclass(frozen=True, slots=True)
class Counted(Ledgered):
    """A teacher as the recipe opens it, with all that it was asked and answered."""

    calls: list[tuple[Request, Completion]] = field(default_factory=list)

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """See `Generator.generate`."""
        replies = Ledgered.generate(self, requests, done)
        self.calls.extend(zip(requests, replies, strict=True))
        return replies


def main() -> None:
    """Tune the teacher, have all write, tune on what they wrote, and print what came of it."""
    chosen = _options()
    first = _starter(chosen, "teacher", {})
    folder = run(first, chosen.runs / first.name)
    teachers = _teachers(folder)
    found: dict[str, Any] = {"what": _what(chosen), "teachers": {}, "arms": {}, "comparisons": []}
    left = {}
    for name, teacher in teachers.items():
        found["teachers"][name], left[name] = _write(_written(chosen, name, teacher, {}))
        _save(found)
    enough = {name: rows for name, rows in left.items() if rows >= LEAST}
    rows = min([chosen.rows, *enough.values()])
    found["what"]["rows"] = rows
    cut = {"mix": {"caps": {"build": rows}}, "tune.validation": 0, "tune.epochs": EPOCHS}
    recipes = {"starter": _starter(chosen, "starter", cut)}
    recipes |= {name: _written(chosen, name, teachers[name], cut) for name in enough}
    logs: Logs = {"base": _answers(folder, "before"), "teacher": _answers(folder, "after")}
    for name, recipe in recipes.items():
        place = run(recipe, chosen.runs / recipe.name)
        logs[name] = _answers(place, "after")
        found["arms"][name] = _facts(place)
        found["scores"] = {arm: means(log, METRICS) for arm, log in logs.items()}
        found["comparisons"] = _compare(logs, chosen.seed)
        _save(found)
    print(f"{_survival(found)}\n\n{_table(found)}")


def _teachers(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Who writes, and how it is asked: the tuned model answers a user turn in a word or two, and so only goes on with
    the list as it lies; the instruct model is asked in both ways."""
    return {
        "tuned": {"model": str(folder / "checkpoints" / "best"), "raw": True},
        "instruct-raw": {"model": INSTRUCT, "raw": True},
        "instruct-chat": {"model": INSTRUCT},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/self-instruct"), help="folder for the run folders")
    parser.add_argument("--instructions", type=int, default=40, help="that each teacher is to bring")
    parser.add_argument("--budget", type=int, default=20, help="calls of a teacher after which no round begins")
    parser.add_argument("--rows", type=int, default=40, help="the most rows that a tuning has")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _starter(chosen: argparse.Namespace, name: str, more: Mapping[str, Any]) -> Recipe:
    """The quickstart's recipe in English alone."""
    rows = {"split": "train", "languages": ["en"], "instances_per_task": INSTANCES}
    build = [{"id": "starter", "use": "collection", "with": rows}]
    return _recipe(STARTER, chosen, name, {"build": build, **more})


def _written(chosen: argparse.Namespace, name: str, teacher: Mapping[str, Any], more: Mapping[str, Any]) -> Recipe:
    """The recipe with the teacher, tuned as the quickstart is."""
    wanted = {
        "teacher": teacher,
        "requests": REQUESTS,
        "instructions": chosen.instructions,
        "budget": chosen.budget,
    }
    written = {f"build.1.with.{key}": value for key, value in wanted.items()}
    tune = load_recipe(STARTER).tune.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return _recipe(WRITTEN, chosen, name, {**written, "tune": tune, **more})


def _recipe(path: Path, chosen: argparse.Namespace, name: str, more: Mapping[str, Any]) -> Recipe:
    items = {"split": "heldout", "languages": ["en"], "limit": ITEMS}
    task = {"id": "heldout", "use": "collection", "with": items, "metrics": METRICS, "max_new_tokens": 48}
    settings = {"name": f"self-instruct-{name}", "seed": chosen.seed, "model": STUDENT, "evaluate": [task], **more}
    return load_recipe(path, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def _write(recipe: Recipe) -> tuple[dict[str, Any], int]:
    """What the recipe's teacher writes, counted, and how many rows curation leaves of it.

    The run of the recipe finds each of these calls in the ledger, and so makes the same rows.
    """
    seeds, own = (derive_seed(recipe.seed, "build", use.id) for use in recipe.build)
    shown, written = (bound("build", use) for use in recipe.build)
    teacher = as_teacher(written.params["teacher"])
    opened = teacher.open(f"build.self_instruct/{own:016x}")
    if not isinstance(opened, Ledgered):
        raise TypeError(f"{opened.name} is asked without a ledger")
    counted = Counted(opened.inner, opened.books)
    told = Teacher(model=counted, raw=teacher.raw, licence=teacher.terms)
    rows = list(self_instruct(own, shown(seeds), **{**written.params, "teacher": told}))
    kept = [row for row in rows if isinstance(row, Example)]
    items = [item for task in recipe.evaluate for item in items_of(task, recipe.seed)]
    rule = Decontaminate()
    checks = [(use.use, bound("check", use)()) for use in recipe.curate]
    curated = curate(kept, [*checks, ("overlap", overlap(items, n=rule.n, share=rule.share))])
    lost = Counter(f"{verdict.by}: {verdict.reason}" for _, verdict in curated.dropped)
    facts = {"model": teacher.model, "raw": teacher.raw, **_counts(counted, rows)}
    return facts | {"kept": len(kept), "curated": len(curated.kept), "curation": lost}, len(curated.kept)


def _counts(teacher: Counted, rows: Sequence[Judged]) -> dict[str, Any]:
    """Calls and new tokens by step; instructions proposed and accepted; instances found and kept; what was dropped."""
    calls, tokens, cut = Counter[str](), Counter[str](), Counter[str]()
    for request, reply in teacher.calls:
        step = STEPS.get(request.sampling.max_new_tokens, "do")
        calls[step] += 1
        tokens[step] += reply.new_tokens
        cut[step] += reply.finish == "length"
    dropped = {"instructions": Counter[str](), "instances": Counter[str]()}
    for row, verdict in (row for row in rows if not isinstance(row, Example)):
        step = "instructions" if row.tags["prompt"] == TASKS.id else "instances"
        dropped[step][verdict.reason] += 1
    accepted = {row.task for row in map(_row, rows) if row.task}
    useful = {row.task for row in rows if isinstance(row, Example)}
    return {
        "calls": calls,
        "new_tokens": tokens,
        "cut_at_the_longest": cut,
        "accepted": len(accepted),
        "classification": len({row.task for row in map(_row, rows) if row.tags.get("classification") == "yes"}),
        "with_a_row": len(useful),
        "dropped": dropped,
    }


def _row(judged: Judged) -> Example:
    return judged if isinstance(judged, Example) else judged[0]


def _answers(folder: Path, side: str) -> list[Sample]:
    return read_samples(folder / "eval" / f"heldout.{side}.jsonl")


def _facts(folder: Path) -> dict[str, Any]:
    """What an arm was trained on."""
    manifest = read_manifest(folder / "stages" / "tune")
    if manifest is None:
        raise RuntimeError(f"{folder} holds no tuning")
    keys = ("examples", "tokens", "labelled_tokens", "steps", "seconds")
    return {key: manifest.facts[key] for key in keys if key in manifest.facts}


def _compare(logs: Logs, seed: int) -> list[dict[str, Any]]:
    """Every arm against the base model in the format in which that does best, and against starter rows."""
    rows = []
    for old, new in itertools.product(("base", "starter"), logs):
        if old in logs and new not in ("base", old) and (old, new) != ("starter", "teacher"):
            found = compare_samples(logs[old], logs[new], METRICS, task=f"{old} -> {new}", seed=derive_seed(seed, old))
            rows += found["evaluation"]
    return rows


def _what(chosen: argparse.Namespace) -> dict[str, Any]:
    tune = load_recipe(STARTER).tune.model_dump(mode="json", by_alias=True, exclude_unset=True)
    asked = {"requests": REQUESTS, "instructions": chosen.instructions, "budget": chosen.budget, "seed": chosen.seed}
    return {
        "student": STUDENT,
        "tune": tune | {"validation": 0, "epochs": EPOCHS},
        "heldout": ITEMS,
        **asked,
        "machine": platform.platform(),
    }


def _save(found: Mapping[str, Any]) -> None:
    write_atomic(RESULTS / "self-instruct.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _survival(found: Mapping[str, Any]) -> str:
    """What each teacher was asked, and what became of what it wrote."""
    lines = []
    for name, facts in found["teachers"].items():
        lines.append(f"{name}: calls {dict(facts['calls'])}, new tokens {dict(facts['new_tokens'])}")
        for step, dropped in facts["dropped"].items():
            lines.append(f"  {step} dropped: {dict(dropped)}")
        summary = f"{facts['accepted']} instructions accepted, {facts['with_a_row']} of them with a row"
        lines.append(f"  {summary}; {facts['kept']} rows kept, {facts['curated']} after curation")
    return "\n".join(lines)


def _table(found: Mapping[str, Any]) -> str:
    lines = [f"{'compared':24} {'metric':12} {'first':>6} {'then':>6} {'change':>6} 95 % interval  p"]
    for row in found["comparisons"]:
        low, high = row["ci95"]
        scores = f"{100 * row['before']:6.1f} {100 * row['after']:6.1f} {100 * row['delta']:+6.1f}"
        interval = f"[{100 * low:+.1f}, {100 * high:+.1f}] {row['p']:.3f}"
        lines.append(f"{row['task']:24} {row['metric']:12} {scores} {interval}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
