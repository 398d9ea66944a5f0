"""New recipes: commented texts to begin from."""

from __future__ import annotations

import re
from pathlib import Path

from shinan.core.config import dump_yaml
from shinan.core.dataset import write_atomic
from shinan.core.errors import ConfigError, Problem, RunError, nearest

_OWN_DATA = """\
# Tune a model on rows of your own, and measure what it has learnt on questions that it never saw.
#
#   shinan peek data/train.jsonl      look at your rows as they will be read
#   shinan plan {name}.yaml           what will be done, and what is done already
#   shinan run {name}.yaml            do it; after Ctrl-C the same command goes on
name: {name} # the results go to runs/{name}
seed: 0 # every random draw derives from it

# What to tune: a starter (`shinan models`), a local folder, or a hub id such as google/gemma-3-270m.
model: starter:gemma-3-270m
# How a conversation is written: alpaca, chatml, gemma, plain or tokenizer. Without this line: the model's own way.
chat: alpaca

# Training rows; several sources are joined in order.
build:
  - id: mine
    use: file
    with:
      path: data/train.jsonl # or .json, .csv, .tsv, .parquet, each also as .gz; or hub:OWNER/NAME
      # The layout is told by the keys of the first row: alpaca (instruction, input, output), openai (messages),
      # sharegpt (conversations), completion (prompt, completion), preference (chosen, rejected).
      # shape: alpaca
      licence: unknown # under which you may use the rows, best as an SPDX id: CC-BY-4.0
      maker: human # who wrote them: human, or model:NAME
  # A share of general tasks keeps the model from forgetting the rest of what it can do:
  # - id: general
  #   use: collection
  #   with: {split: train, languages: [en], instances_per_task: 2}

# Checks, in order. Each row that is dropped keeps its reason: shinan peek runs/{name}/stages/curate --dropped
curate:
  - use: structure
  - use: exact_duplicates
  # - use: near_duplicates # those that nearly repeat an earlier one, text by text
# Rows that hold the text of an evaluation item are dropped too, unless you say `decontaminate: false`.

# Rows under licences that you may not use are dropped, too:
# licences:
#   forbid: [non_commercial, unknown] # terms, SPDX ids or patterns: "*-NC-*"

# How much of each source is trained on; without this, every row once an epoch:
# mix:
#   weights: {mine: 0.8, general: 0.2}
#   total: 2000 # rows; a source that is too small for its share is written again,
#   max_epochs: 4 # but no more often than this

tune:
  method: lora # or full: all weights
  epochs: 3
  batch_size: 8
  learning_rate: 5e-4 # with `method: full` about a tenth of this

# Asked before and after tuning. The first metric is the headline.
evaluate:
  - id: general # tasks of kinds that are never trained on: does it follow instructions at all?
    use: collection
    with: {split: heldout, languages: [en], limit: 60}
    metrics: [rouge_l, exact_match]
    max_new_tokens: 48
  # Rows of your own that are not in the training file; the reply of each is the accepted answer:
  # - id: mine
  #   use: file
  #   with: {path: data/heldout.jsonl}
  #   metrics: [rouge_l, exact_match]
  #   max_new_tokens: 128
"""

_QUICKSTART = """\
# A pretrained base model learns to follow instructions, on two CPU cores, in minutes.
name: {name}
seed: 0
model: starter:gemma-3-270m
chat: alpaca

build:
  - id: starter
    use: collection
    with: {split: train, languages: [en, ja], instances_per_task: 3}

curate:
  - use: structure
  - use: exact_duplicates

tune:
  method: lora
  epochs: 1
  batch_size: 8
  learning_rate: 5e-4
  validate_every: 0.25

evaluate:
  - id: heldout
    use: collection
    with: {split: heldout, languages: [en, ja], limit: 120}
    metrics: [rouge_l, exact_match]
    max_new_tokens: 48
"""

TEMPLATES = {"own-data": _OWN_DATA, "quickstart": _QUICKSTART}


def new_recipe(path: Path, template: str) -> Path:
    """Write a commented recipe to `path` (`.yaml` is added); the run is named like the file.

    Raises ConfigError for an unknown template or a name that no run can have, RunError if the file exists.
    """
    path = path if path.suffix in (".yaml", ".yml") else path.parent / f"{path.name}.yaml"  # of `.` the name is empty
    if template not in TEMPLATES:
        raise ConfigError([Problem(f"no template is named {template!r}", "--from", nearest(template, TEMPLATES))])
    if not re.fullmatch("[a-z0-9][a-z0-9_-]*", path.stem):
        fix = "use lower-case letters, digits, - and _"
        raise ConfigError([Problem(f"{path.stem!r} cannot be the name of a run", str(path), fix)])
    if path.exists():
        raise RunError("this file exists", where=str(path), fix="choose another name, or delete the file first")
    write_atomic(path, _named(TEMPLATES[template], path.stem))
    return path


def _named(text: str, name: str) -> str:
    """The template for a run of this name, in quotes where YAML would read it as a number or the like."""
    return text.replace("name: {name}", dump_yaml({"name": name}).rstrip()).replace("{name}", name)
