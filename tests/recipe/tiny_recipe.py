"""A whole recipe on the tiny model, small enough to be run many times."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RECIPE = """\
name: tiny
seed: 3
model: tiny:decoder
chat: gemma
build:
  - id: starter
    use: collection
    with: {split: train, languages: [en], instances_per_task: 1, limit: 24}
curate:
  - use: structure
  - use: exact_duplicates
tune:
  method: full
  epochs: 2
  batch_size: 4
  learning_rate: 1e-3
  max_tokens: 2048
  validation: 0.1
  save_every: 0.001
evaluate:
  - id: heldout
    use: collection
    with: {split: heldout, languages: [en], limit: 45}
    max_new_tokens: 4
"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe as a file in `folder`."""
    path = folder / "recipe.yaml"
    path.write_text(text, "utf-8")
    return path


def start(recipe: Path, runs: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    """`shinan run` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "shinan", "run", str(recipe), "--runs", str(runs), *more],
        env=os.environ | {"SHINAN_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
