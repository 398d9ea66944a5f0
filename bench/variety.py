"""Does more task variety help held-out tasks? The quickstart with 25, 50 and 100 % of its tasks, rows held equal.

FLAN (arXiv 2109.01652, figure 6) and Super-NaturalInstructions (arXiv 2204.07705, figure 5a) found that it does.
`python -m bench.variety [--rows 240] [--runs runs]`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shinan.core.dataset import read_manifest
from shinan.core.hashing import derive_seed
from shinan.recipe.run import run
from shinan.recipe.schema import load_recipe
from shinan.starter import tasks

RECIPE = Path("recipes/quickstart.yaml")
SHARES = (0.25, 0.5, 1.0)


def main() -> None:
    """Run the three recipes (finished stages are reused) and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=240, help="training rows of every arm")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the run folders")
    options = parser.parse_args()
    names = sorted(
        (task.name for task in tasks(["en", "ja"], "train")), key=lambda name: derive_seed(0, "variety", name)
    )
    lines = []
    for share in SHARES:
        chosen = names[: round(share * len(names))]
        each = -(-options.rows // len(chosen))
        recipe = load_recipe(
            RECIPE,
            [
                f"name=variety-{round(100 * share)}",
                f"build.0.with.tasks=[{', '.join(sorted(chosen))}]",
                f"build.0.with.instances_per_task={each}",
                f"build.0.with.limit={options.rows}",
            ],
        )
        manifest = read_manifest(run(recipe, options.runs / recipe.name) / "stages" / "compare")
        if manifest is None:
            raise RuntimeError(f"{recipe.name} ended without a comparison")
        for row in manifest.facts["evaluation"]:
            low, high = row["ci95"]
            scores = f"{100 * row['before']:6.1f} {100 * row['after']:6.1f} {100 * row['delta']:+6.1f}"
            interval = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
            lines.append(f"{len(chosen):5} {options.rows:5} {row['metric']:12} {scores} {interval}")
    print(f"{'tasks':>5} {'rows':>5} {'metric':12} {'before':>6} {'after':>6} {'change':>6} 95 % interval")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
