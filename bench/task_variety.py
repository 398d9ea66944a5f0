"""Do more tasks, shown examples and varied wording help held-out tasks? Real tunings at equal labelled tokens.

    python -m bench.task_variety [--runs runs/task-variety] [--seeds 0 1] [--labelled 1200] [--arms 5 15 all ...]

Super-NaturalInstructions (arXiv 2204.07705, figure 5a) and FLAN (arXiv 2109.01652, figure 6) found that more tasks
help. Every arm is recipes/natural-instructions.yaml with other rows; all are asked the same items of the categories
that the recipe holds out. Finished stages are reused, so that a killed bench goes on where it was. It prints the arms
and the comparisons; both are in `bench/results/task-variety.json`.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.pairs import RESULTS
from bench.workloads import data_folder
from shinan.build.task_split import read_table
from shinan.core.dataset import read_manifest, read_rows, write_atomic
from shinan.core.errors import TrainingError
from shinan.core.example import Example, Message, assistant
from shinan.core.hashing import derive_seed
from shinan.curate.overlap import overlap
from shinan.curate.run import curate
from shinan.evaluate.results import compare_samples, means
from shinan.evaluate.samples import Sample, read_samples
from shinan.formats.instruction_encoding import PARTS, WORDINGS, Encoding, encode
from shinan.formats.natural_instructions import Instance, Task, read_task
from shinan.models.chat import ChatFormat, chat_format
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer
from shinan.recipe.measure import measure
from shinan.recipe.run import run
from shinan.recipe.schema import Decontaminate, EvalTask, Recipe, bound, load_recipe
from shinan.recipe.stages import items_of

RECIPE = Path("recipes/natural-instructions.yaml")
LONGEST = 400  # tokens of a row with both examples; longer ones would cost more than they tell
LEAST = 24  # rows that short which a task must have
ITEMS = 10  # of each held-out task
LONGEST_REPLY = 32
TUNE = {"validation": 0, "instances_per_prompt": 4}  # every row is trained on, and much of a batch is shared
MOST_ROWS = 4096  # of an arm; there are 120 a task
BALANCE = 0.05  # how far the labelled tokens a row of an arm's tasks may be from those of all
METRICS = ("rouge_l", "exact_match")
Logs = dict[tuple[str, str], list[Sample]]
"""{(arm, set): its answers}."""

TK = {"encoding": "definition+2 positive", "layout": "tk_instruct"}
SETS: Mapping[str, Mapping[str, str]] = {
    "examples": TK,
    "definition": TK | {"encoding": "definition"},
    "bare": TK | {"layout": "parts"},
}
"""The ways in which the held-out items are asked; the first is every arm's."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One tuning: how many tasks (None for all), in which encoding and wordings, and asked in which further sets."""

    tasks: int | None
    encoding: str = TK["encoding"]
    wordings: int = 1
    further: tuple[str, ...] = ()


ARMS: Mapping[str, Arm] = {
    "5": Arm(5),
    "all": Arm(None, further=("definition", "bare")),
    "15": Arm(15),
    "all-definition": Arm(None, "definition", further=("definition",)),
    "all-10-wordings": Arm(None, wordings=10, further=("bare",)),
}
BETWEEN = (
    ("5", "15", "examples", "examples"),
    ("5", "all", "examples", "examples"),
    ("15", "all", "examples", "examples"),
    ("all-definition", "all", "definition", "examples"),
    ("all-definition", "all", "definition", "definition"),
    ("all-definition", "all", "examples", "examples"),
    ("all", "all-10-wordings", "examples", "examples"),
    ("all", "all-10-wordings", "bare", "bare"),
)
"""Comparisons: arm, other arm, the set that each is asked in."""


def main() -> None:
    """Run the arms, seed by seed, and print what came out; the file of results is written after each arm."""
    chosen = _options()
    base = load_recipe(RECIPE)
    chat = chat_format(str(base.chat), Tokenizer.load(resolve(base.model)))
    held = base.build[0].params["heldout_categories"]
    tasks = _prepare(chosen.runs / "tasks", chat, held)
    found: dict[str, Any] = {"what": _what(chosen, base, tasks), "arms": [], "comparisons": []}
    for seed in chosen.seeds:
        logs: Logs = {}
        folders = {}
        for name in chosen.arms:
            try:
                folders[name], facts = _run(name, seed, chosen, tasks, chat)
            except TrainingError as error:
                found["arms"].append({"arm": name, "seed": seed, "stopped": error.what})
                continue
            logs |= _answers(name, folders[name], chosen)
            found["arms"].append({"arm": name, "seed": seed} | facts)
            _record(found, logs, seed)
        for name, asked in [(arm, asked) for arm in folders for asked in ARMS[arm].further]:
            task = EvalTask.model_validate(_task(asked, chosen))
            place = chosen.runs / f"{name}-{seed}-{asked}"
            logs[name, asked] = measure(str(folders[name] / "checkpoints" / "best"), [task], place, seed=seed)[asked]
            _record(found, logs, seed)
    print(_table(found))


def _record(found: dict[str, Any], logs: Logs, seed: int) -> None:
    """Score and compare what has been answered so far, and write it down."""
    for arm in found["arms"]:
        if arm["seed"] == seed and "stopped" not in arm:
            mine = {asked: samples for (name, asked), samples in logs.items() if name == arm["arm"]}
            arm["scores"] = {asked: means(samples, METRICS)["alpaca"] for asked, samples in mine.items()}
    found["base"] = means(logs["base", ""], METRICS)
    found["comparisons"] = [row for row in found["comparisons"] if row["seed"] != seed] + _compare(logs, seed)
    write_atomic(RESULTS / "task-variety.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/task-variety"), help="folder for the run folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--labelled", type=int, default=1200, help="labelled tokens of every arm, within 1 %%")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    return parser.parse_args()


def _prepare(folder: Path, chat: ChatFormat, held: Sequence[str]) -> dict[str, float]:
    """Cut the shared tasks to rows that are short with both examples, and the held-out ones to their first items.

    Returns {training task: labelled tokens a row}.
    """
    data = data_folder() / "super_natural_instructions"
    means: dict[str, float] = {}
    for name, (category, source) in read_table(str(data / "tasks.csv")).items():
        path = data / "tasks" / f"{name}.json.gz"
        task = read_task(path)
        labelled = {i.row: size for i in task.instances if (size := _labelled(task, i, chat))}
        if len(labelled) < LEAST:
            continue
        whole = json.loads(gzip.decompress(path.read_bytes()))
        rows = list(labelled)[: ITEMS if category in held else None]
        whole |= {"Categories": [category], "Source": [source], "Instances": [whole["Instances"][row] for row in rows]}
        write_atomic(folder / f"{name}.json", json.dumps(whole, ensure_ascii=False))
        if category not in held:
            means[name] = sum(labelled.values()) / len(labelled)
    return means


def _labelled(task: Task, asked: Instance, chat: ChatFormat) -> int:
    """Labelled tokens of a row, or 0 if the row is too long in one of the two layouts."""
    size = 0
    for wording in (WORDINGS[0], PARTS):
        parts = encode(task, asked, Encoding(positive=2), wording).parts
        rendered = chat.render((Message("user", parts), assistant(asked.outputs[0])))
        if len(rendered.ids) > LONGEST:
            return 0
        size = sum(rendered.mask)
    return size


def _chosen(tasks: Mapping[str, float], count: int | None, seed: int) -> list[str]:
    """`count` tasks: the beginning of the first random order of all in which every arm's tasks have nearly the same
    labelled tokens a row, so that equal labelled tokens are equal rows and steps too."""
    sizes = sorted({arm.tasks or len(tasks) for arm in ARMS.values()})
    goal = sum(tasks.values()) / len(tasks)
    for attempt in itertools.count():
        order = sorted(tasks, key=lambda name: derive_seed(seed, "task-variety", attempt, name))
        if all(abs(sum(tasks[name] for name in order[:size]) / size / goal - 1) < BALANCE for size in sizes):
            break
    return sorted(order[:count])


def _run(
    name: str, seed: int, chosen: argparse.Namespace, tasks: Mapping[str, float], chat: ChatFormat
) -> tuple[Path, dict[str, Any]]:
    """Run an arm with as many rows as give the labelled tokens asked for; its folder, and what it was trained on."""
    low, high = 1, MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        enough = _labels(_curated(_recipe(name, seed, middle, chosen, tasks)), chat) > chosen.labelled
        low, high = (low, middle) if enough else (middle, high)
    recipe = _recipe(name, seed, low, chosen, tasks)
    folder = run(recipe, chosen.runs / recipe.name)
    manifest = read_manifest(folder / "stages" / "tune")
    if manifest is None:
        raise RuntimeError(f"{recipe.name} ended without tuning")
    rows = read_rows(folder / "stages" / "tune")
    keys = ("examples", "tokens", "labelled_tokens", "computed_tokens", "steps", "seconds")
    facts = {key: manifest.facts[key] for key in keys if key in manifest.facts}
    return folder, facts | {"tasks": len({row.task for row in rows}), "labelled": _labels(rows, chat)}


def _recipe(name: str, seed: int, limit: int, chosen: argparse.Namespace, tasks: Mapping[str, float]) -> Recipe:
    arm = ARMS[name]
    rows = _files(chosen) | {"split": "train", "tasks": _chosen(tasks, arm.tasks, seed), "limit": limit}
    rows |= {**TK, "encoding": arm.encoding, "wordings": arm.wordings}
    settings = {
        "name": f"variety-{name}-{seed}",
        "seed": seed,
        "build": [{"id": "super-ni", "use": "natural_instructions", "with": rows}],
        "evaluate": [_task("examples", chosen)],
        **{f"tune.{key}": value for key, value in TUNE.items()},
    }
    return load_recipe(RECIPE, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def _files(chosen: argparse.Namespace) -> dict[str, Any]:
    held = load_recipe(RECIPE).build[0].params["heldout_categories"]
    return {"path": str(chosen.runs / "tasks"), "heldout_categories": held}


def _task(asked: str, chosen: argparse.Namespace) -> dict[str, Any]:
    items = _files(chosen) | {"split": "heldout", **SETS[asked]}
    task = {"id": asked, "use": "natural_instructions", "with": items}
    return task | {"metrics": list(METRICS), "max_new_tokens": LONGEST_REPLY}


def _answers(name: str, folder: Path, chosen: argparse.Namespace) -> Logs:
    """An arm's answers, and the base model's: asked as the arms are and, as suits it, in bare parts."""
    after, before = (read_samples(folder / "eval" / f"examples.{side}.jsonl") for side in ("after", "before"))
    task = EvalTask.model_validate(_task("bare", chosen))
    bare = measure(load_recipe(RECIPE).model, [task], chosen.runs / "base-bare", chat="plain")["bare"]
    marked = [replace(s, style=f"{what}/{s.style}") for what, log in (("tk", before), ("bare", bare)) for s in log]
    return {(name, "examples"): after, ("base", ""): marked}


def _curated(recipe: Recipe) -> list[Example]:
    """The rows that the recipe would be tuned on."""
    built = bound("build", recipe.build[0])(derive_seed(recipe.seed, "build", recipe.build[0].id))
    rows = [row for row in built if isinstance(row, Example)]
    items = [item for task in recipe.evaluate for item in items_of(task, recipe.seed)]
    rule = recipe.decontaminate if isinstance(recipe.decontaminate, Decontaminate) else Decontaminate()
    checks = [(use.use, bound("check", use)()) for use in recipe.curate]
    return curate(rows, [*checks, ("overlap", overlap(items, n=rule.n, share=rule.share))]).kept


def _labels(rows: Sequence[Example], chat: ChatFormat) -> int:
    return sum(sum(chat.render(row.messages).mask) for row in rows)


def _what(chosen: argparse.Namespace, base: Recipe, tasks: Mapping[str, float]) -> dict[str, Any]:
    return {
        "model": base.model,
        "chat": base.chat,
        "tune": base.tune.model_dump(mode="json", by_alias=True, exclude_unset=True) | TUNE,
        "heldout_categories": base.build[0].params["heldout_categories"],
        "labelled": chosen.labelled,
        "longest_row": LONGEST,
        "training_tasks": {name: round(mean, 2) for name, mean in tasks.items()},
        "drawn": {f"{count}-{seed}": _chosen(tasks, count, seed) for seed in chosen.seeds for count in (5, 15)},
        "sets": SETS,
        "metrics": METRICS,
    }


def _compare(logs: Logs, seed: int) -> list[dict[str, Any]]:
    """Each arm against the base model in the format in which that does best, then arms against each other."""
    pairs = [(("base", ""), key) for key in logs if key[0] != "base"]
    pairs += [((one, first), (other, second)) for one, other, first, second in BETWEEN]
    rows = []
    for old, new in pairs:
        if old in logs and new in logs:
            what = f"{' '.join(old).strip()} -> {' '.join(new)}"
            found = compare_samples(logs[old], logs[new], METRICS, task=what, seed=derive_seed(seed, "task-variety"))
            rows += [row | {"seed": seed} for row in found["evaluation"]]
    return rows


def _table(found: Mapping[str, Any]) -> str:
    """What was tuned, then what was compared."""
    keys = ("tasks", "examples", "labelled_tokens", "tokens", "computed_tokens", "steps", "seconds")
    lines = [f"{'arm':16} {'seed':>4} " + " ".join(f"{key:>15}" for key in keys)]
    for arm in found["arms"]:
        told = arm.get("stopped") or " ".join(f"{arm[key]:15}" for key in keys)
        lines.append(f"{arm['arm']:16} {arm['seed']:4} {told}")
    lines += ["", f"{'compared':58} {'seed':>4} {'metric':12} {'first':>6} {'then':>6} {'change':>6} 95 % interval  p"]
    for row in found["comparisons"]:
        low, high = row["ci95"]
        scores = f"{100 * row['before']:6.1f} {100 * row['after']:6.1f} {100 * row['delta']:+6.1f}"
        interval = f"[{100 * low:+.1f}, {100 * high:+.1f}] {row['p']:.3f}"
        lines.append(f"{row['task']:58} {row['seed']:4} {row['metric']:12} {scores} {interval}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
