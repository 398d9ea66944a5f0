"""Quality at equal wall time: held-out ROUGE-L gained in ten minutes of tuning, ours against TRL's fastest.

    python -m bench.race [--minutes 10] [--seeds 0 1 2] [--items 120] [--search N] [--peer PYTHON] [--runs FOLDER]

Data: recipes/natural-instructions.yaml, with every instance that the public files hold, and definitions without worked
examples. It is the benchmark that the metric comes from; neither side's authors wrote it, holding categories out is its
own idea, and it is large enough that nobody is slowed down by seeing rows again (the starter collection is ours, and
one pass over it takes minutes). Behind two worked examples the untuned model, in its best format, already answers
better than after a short tuning (bench/results/task-variety.json), so that there would be no gain to compare.

Both sides train LoRA at the recipe's rank, rate and batch on the same token ids and labels in the same order, drawn by
the seed, round and round. The rate rises over three steps and falls to 0 with the time that is left, so that both sides
end as with a schedule made for their number of steps. TRL runs as it was found fastest on N rows of these data
(`--search`, else the last such search, else that of `bench.tuning`); where it packs, its steps hold the same number of
tokens on average, in random order. Sides take turns, seed by seed, each in a process of its own.

The clock starts when the process does: imports, loading, packing, compiling (with an empty cache) and training count;
a step that was begun in time is finished, which is worth more to the side with longer steps. Saving does not count.
Ours compiles its blocks where the engine's own forecast would. Both adapters are merged by the same code, and both
models, like the base model in the better of two formats, answer the same items of our evaluation: about as many of each
held-out task.

Results: `bench/results/race.json`. Intervals are over tasks; scores of an item are means over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.pairs import ROOT, Result, Row, Trl, best, child, peer_version, save, search, table
from bench.workloads import Workload, data_folder
from bench.workloads import save as write_workload
from shinan.core.dataset import new_folder, write_atomic
from shinan.core.errors import ShinanError
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.curate.overlap import overlap
from shinan.curate.run import curate
from shinan.evaluate.compare import Comparison, compare
from shinan.evaluate.results import best_style
from shinan.evaluate.samples import Sample
from shinan.models.chat import ChatFormat, chat_format
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer
from shinan.recipe.measure import measure
from shinan.recipe.schema import Decontaminate, Recipe, bound, load_recipe
from shinan.recipe.stages import PLAIN, items_of
from shinan.train.rows import plan_bundles, tokenise

RECIPE = ROOT / "recipes" / "natural-instructions.yaml"
METRIC = "rouge_l"
TARGET = 1.5
COMPILES = (
    385  # seconds from which on the engine's forecast says that compiling pays (train.schedule: 13 % against 50 s)
)
Scores = Mapping[str, float | None]
"""{item: score}."""


def main() -> None:
    """Race, seed by seed; what is finished is saved at once. With `--runs`, a race that was stopped goes on."""
    chosen = _options()
    recipe = recipe_of(chosen.items)
    try:
        with TemporaryDirectory() as beside:
            place = chosen.runs or Path(beside)
            clusters, base = _base(recipe, place)
            runs: list[dict[str, Any]] = []
            for seed in chosen.seeds:
                runs.append(_pair(recipe, seed, place, chosen))
                made, facts = result(base, clusters, runs, chosen.minutes)
                save("race", made, **facts)
    except ShinanError as error:
        sys.exit(str(error))
    for row in made:
        print(json.dumps(asdict(row)))
    print(f"\n{table(made)}\n{words(facts)}")


def recipe_of(items: int) -> Recipe:
    """The recipe, with all instances of its training tasks, definitions alone, and so many items."""
    recipe = load_recipe(RECIPE)
    data = data_folder() / "super_natural_instructions"
    common = {"path": str(data / "tasks"), "table": str(data / "tasks.csv"), "encoding": "definition"}
    (built,), (task,) = recipe.build, recipe.evaluate
    rows, asked = (
        {name: value for name, value in use.params.items() if name != "instances_per_task"} | common
        for use in (built, task)
    )
    return recipe.model_copy(
        update={
            "build": [built.model_copy(update={"params": rows})],
            "evaluate": [task.model_copy(update={"params": asked | {"limit": items}, "metrics": [METRIC]})],
        }
    )


def workload(recipe: Recipe, chat: ChatFormat, seed: int) -> Workload:
    """What both sides train on: the recipe's rows in the order in which the engine would draw them."""
    built = bound("build", recipe.build[0])(derive_seed(recipe.seed, "build", recipe.build[0].id))
    examples = [row for row in built if isinstance(row, Example)]
    items = items_of(recipe.evaluate[0], recipe.seed)
    rule = recipe.decontaminate if isinstance(recipe.decontaminate, Decontaminate) else Decontaminate()
    checks = [(use.use, bound("check", use)()) for use in recipe.curate]
    kept = curate(examples, [*checks, ("overlap", overlap(items, n=rule.n, share=rule.share))]).kept
    bundles, _ = tokenise(kept, chat, recipe.tune.max_tokens)
    epoch = recipe.tune.model_copy(update={"epochs": 1.0})
    order = [bundles[i][0] for step in plan_bundles(bundles, epoch, seed) for i in step]
    rows = [{"ids": list(row.ids), "mask": list(map(int, row.mask))} for row in order]
    return Workload("race", "sft", recipe.tune.batch_size, rows)


def _base(recipe: Recipe, place: Path) -> tuple[dict[str, str], Scores]:
    """{item: its task}, and the base model's scores in its best format."""
    samples: list[Sample] = []
    for chat in (str(recipe.chat), PLAIN):
        answers = measure(recipe.model, recipe.evaluate, place / f"base-{chat}", seed=recipe.seed, chat=chat)
        samples += answers[recipe.evaluate[0].id]
    style = best_style(samples, METRIC)
    return {_item(s): s.task for s in samples}, _scores([s for s in samples if s.style == style])


def _scores(samples: Sequence[Sample]) -> Scores:
    return {_item(sample): sample.scores[METRIC] for sample in samples}


def _item(sample: Sample) -> str:
    """The item's file and place in it, without the folder, which is another one elsewhere."""
    return Path(sample.row).name


def _pair(recipe: Recipe, seed: int, place: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Both sides' runs and scores with one seed."""
    model = resolve(recipe.model)
    chat = chat_format(str(recipe.chat), Tokenizer.load(model))
    path = place / f"rows-{seed}.json"
    rows = workload(recipe, chat, seed)
    write_workload(rows, path)
    print(f"seed {seed}: {rows.counts()}", file=sys.stderr)
    peer = Trl(chosen.peer, path, model, recipe.tune.method)
    if chosen.search and seed == chosen.seeds[0]:
        save(f"search-race-{peer.method}", [], trials=search(replace(peer, max_rows=chosen.search)))
    commands = {
        "ours": [sys.executable, "-m", "bench.ours", str(path), str(model), "--method", recipe.tune.method],
        "peer": peer.command(best(f"race-{peer.method}", f"sft-{peer.method}")),
    }
    commands["ours"] += ["--rate", "timed", *(["--compile"] if 60 * chosen.minutes >= COMPILES else [])]
    found: dict[str, Any] = {"seed": seed}
    for side, command in commands.items():
        folder = place / f"{side}-{seed}-{chosen.minutes:g}"
        note = folder / "run.json"
        if not note.exists():
            tuned = _tuned(command, folder, chosen.minutes)
            _merge(folder, model, chat, f"{side}-{seed}")
            write_atomic(note, json.dumps(tuned))
        run = json.loads(note.read_text("utf-8"))
        samples = measure(str(folder / "merged"), recipe.evaluate, folder / "answers", seed=recipe.seed)
        found[side] = {"run": run, "scores": _scores(samples[recipe.evaluate[0].id])}
        print(f"seed {seed}, {side}: {run['steps']} steps, {run['tokens']} tokens", file=sys.stderr)
    return found


def _tuned(command: Sequence[str], folder: Path, minutes: float) -> Result:
    """Let a side train for so long, with nothing compiled before; its adapter is saved."""
    with TemporaryDirectory() as cache:
        until = time.time() + 60 * minutes
        words = [*command, "--warmup", "0", "--until", str(until), "--save", str(folder / "adapter")]
        return child(words, TORCHINDUCTOR_CACHE_DIR=cache)


def _merge(folder: Path, base: Path, chat: ChatFormat, name: str) -> None:
    from peft import PeftModel

    from shinan.models.checkpoint import load_card, load_model, save_model
    from shinan.models.precision import default_device, probe_dtype
    from shinan.train import lora

    tuned = PeftModel.from_pretrained(load_model(base, probe_dtype(default_device())), str(folder / "adapter"))
    with new_folder(folder / "merged") as beside:
        save_model(beside, lora.merge(tuned), chat.tokenizer, chat, name=name, parents=[load_card(base)])


def result(
    base: Scores, clusters: Mapping[str, str], runs: Sequence[Mapping[str, Any]], minutes: float
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of the results, and the facts behind them: gains in points, with their intervals over tasks."""
    items = sorted(base)
    sides = {side: _means([run[side]["scores"] for run in runs], items) for side in ("ours", "peer")}

    def paired(before: Sequence[float | None], after: Sequence[float | None]) -> Comparison:
        return compare(before, after, [clusters[item] for item in items], derive_seed(0, "race"))

    start = [base[item] for item in items]
    gains = {side: paired(start, scores) for side, scores in sides.items()}
    each = {side: [paired(start, _means([run[side]["scores"]], items)) for run in runs] for side in sides}
    ours, peer = 100 * gains["ours"].delta, 100 * gains["peer"].delta
    against, name = peer_version(runs[0]["peer"]["run"]), f"race, {minutes:g} min"
    ratio = ours / peer if peer > 0 else None
    made = [Row(name, f"{METRIC} gain, points", ours, peer, against, ratio, TARGET, len(runs))]
    for metric in ("steps", "tokens", "labelled_tokens", "peak_gb"):
        mine, theirs = (statistics.median(run[side]["run"][metric] for run in runs) for side in ("ours", "peer"))
        made.append(Row(name, metric, mine, theirs, against, mine / theirs, None, len(runs)))
    facts = {
        "gains": {side: asdict(gain) for side, gain in gains.items()},
        "by_seed": {side: [asdict(gain) for gain in found] for side, found in each.items()},
        "ours_over_peer": asdict(paired(sides["peer"], sides["ours"])),
        "base": base,
        "runs": runs,
    }
    return made, facts


def _means(columns: Sequence[Scores], items: Sequence[str]) -> list[float | None]:
    """Each item's mean over the columns; None where it has no score in one of them."""
    rows = [[column[item] for column in columns] for item in items]
    known = [[value for value in row if value is not None] for row in rows]
    return [statistics.mean(row) if len(row) == len(columns) else None for row in known]


def words(facts: Mapping[str, Any]) -> str:
    """The comparisons, a line each."""
    lines = []
    shown = {"ours over base": facts["gains"]["ours"], "TRL over base": facts["gains"]["peer"]}
    for name, found in (shown | {"ours over TRL": facts["ours_over_peer"]}).items():
        ends = [found["ci_low"], found["ci_high"]]
        interval = "" if None in ends else f" [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"
        lines.append(
            f"{name}: {100 * found['delta']:+.1f}{interval} points, p {found['p']:.3f}, "
            f"{found['n']} items of {found['clusters']} tasks"
        )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of tuning, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--items", type=int, default=120, help="held-out items")
    parser.add_argument("--search", type=int, metavar="N", help="search TRL's fastest configuration first, on N rows")
    parser.add_argument("--peer", type=Path, default=Path(sys.executable), help="a Python that has TRL")
    parser.add_argument("--runs", type=Path, help="keep rows, models and answers here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
