"""The benchmarks' workloads: tokenised rows in a fixed order, so that every side trains on the very same tokens.

    python -m bench.workloads MODEL_FOLDER WORKLOAD OUT.json

Rows come from public data in the folder that SHINAN_TEST_DATA names (else `../shared/data` beside the project), and are
written in Gemma's turns; a model without those markers gets its own default format. No torch here.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from shinan.core.dataset import write_atomic
from shinan.core.errors import DataError, RunError, nearest
from shinan.core.example import Message, Part, assistant, user
from shinan.models.chat import ChatFormat, default_format
from shinan.models.tokenizer import Tokenizer

Row = dict[str, list[int]]
"""`{ids, mask}`, mask 1 where the loss falls; of a preference pair `{prompt, chosen, rejected}`, all of them ids."""

LONG = 60_000
"""Tokens of a workload that is long enough for a steady state."""

_LARGE = 500_000  # tokens that keep a GPU busy for some tens of steps
_LIMIT = 512  # longer rows are left out: the peers cut at 1,024, and one long row would pad its whole batch


@dataclass(frozen=True, slots=True)
class Workload:
    """Tokenised rows, in the order of training.

    Attributes:
        name: a key of `WORKLOADS`.
        kind: `sft` for rows, `dpo` for preference pairs.
        batch_size: rows (or pairs) of one optimiser step: rows[0:batch_size] are the first step's, and so on.
        rows: see `Row`.
    """

    name: str
    kind: Literal["sft", "dpo"]
    batch_size: int
    rows: list[Row]

    def sequences(self) -> Iterator[list[list[int]]]:
        """The token sequences of each step, as a model without sharing computes them: two of each pair."""
        for start in range(0, len(self.rows), self.batch_size):
            rows = self.rows[start : start + self.batch_size]
            yield [ids for row in rows for ids in _sequences(row)]

    def counts(self) -> dict[str, int]:
        """`tokens` of all sequences, `labelled` ones, and `unique`: those left where each step shares its prefixes."""
        steps = list(self.sequences())
        labelled = (sum(row["mask"]) if "mask" in row else len(row["chosen"] + row["rejected"]) for row in self.rows)
        return {
            "rows": len(self.rows),
            "tokens": sum(len(ids) for step in steps for ids in step),
            "labelled": sum(labelled),
            "unique": sum(map(unique_tokens, steps)),
        }


def _sequences(row: Row) -> list[list[int]]:
    return [row["ids"]] if "ids" in row else [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]


def unique_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Nodes of the trie of `sequences`: the tokens to compute where equal prefixes are computed once."""
    trie: dict[int, Any] = {}
    count = 0
    for ids in sequences:
        node = trie
        for token in ids:
            count += token not in node
            node = node.setdefault(token, {})
    return count


def data_folder() -> Path:
    """The folder of public data. Raises RunError where there is none."""
    folder = Path(os.environ.get("SHINAN_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        raise RunError("no data for the benchmarks", where=str(folder), fix="set SHINAN_TEST_DATA to their folder")
    return folder


def build(name: str, chat: ChatFormat, data: Path) -> Workload:
    """Make the workload `name`. Raises DataError for an unknown name or a missing file."""
    if name not in WORKLOADS:
        raise DataError(f"no workload is named {name!r}", fix=nearest(name, WORKLOADS))
    kind, batch_size, rows, enough = WORKLOADS[name]
    taken: list[Row] = []
    tokens = 0
    for row in rows(chat, data):
        if len(taken) % batch_size == 0 and enough(len(taken), tokens):
            break
        taken.append(row)
        tokens += sum(map(len, _sequences(row)))
    return Workload(name, kind, batch_size, taken)


def _questions(chat: ChatFormat, data: Path) -> Iterator[Row]:
    """GSM8K's training rows in file order: no two share more than the turn's markers."""
    for line in _read(data / "gsm8k" / "train.jsonl.gz").splitlines():
        row = json.loads(line)
        if rendered := _row(chat, user(row["question"]), row["answer"]):
            yield rendered


def _instances(chat: ChatFormat, data: Path) -> Iterator[Row]:
    """Super-NaturalInstructions, five instances of one task after another: definition, two examples, instance.

    After five of each task come the next five of each. A task's instances are taken in file order.
    """
    folder = data / "super_natural_instructions" / "tasks"
    tasks = [_task(chat, json.loads(_read(path))) for path in sorted(folder.glob("*.json.gz"))]
    if not tasks:
        raise DataError("no task files", where=str(folder), fix="fetch the data again")
    while tasks:
        fives = [list(islice(task, 5)) for task in tasks]
        tasks = [task for task, five in zip(tasks, fives, strict=True) if len(five) == 5]
        yield from (row for five in fives if len(five) == 5 for row in five)


def _task(chat: ChatFormat, task: dict[str, Any]) -> Iterator[Row]:
    shown = [f"Input: {e['input']}\nOutput: {e['output']}" for e in task["Positive Examples"][:2]]
    parts = (Part(task["Definition"][0], "instruction"), *(Part(text, "demonstration") for text in shown))
    for instance in task["Instances"]:
        prompt = Message("user", (*parts, Part(f"Input: {instance['input']}", "input")))
        if rendered := _row(chat, prompt, instance["output"][0]):
            yield rendered


def _preferences(chat: ChatFormat, data: Path) -> Iterator[Row]:
    """AlpacaEval: two models' answers to one instruction and GPT-4's preference between them, ties left out."""
    path = data / "alpaca_eval" / "text_davinci_001" / "alpaca_eval_gpt4" / "annotations.json.gz"
    for pair in json.loads(_read(path)):
        answers = [pair["output_1"], pair["output_2"]]
        if pair["preference"] not in (1, 2) or not all(answers) or answers[0] == answers[1]:
            continue
        chosen, rejected = answers if pair["preference"] == 1 else reversed(answers)
        prompt = user(pair["instruction"])
        rows = [_row(chat, prompt, answer) for answer in (chosen, rejected)]
        if rows[0] and rows[1]:
            start = rows[0]["mask"].index(1)
            yield {
                "prompt": rows[0]["ids"][:start],
                "chosen": rows[0]["ids"][start:],
                "rejected": rows[1]["ids"][start:],
            }


def _row(chat: ChatFormat, prompt: Message, reply: str) -> Row | None:
    """The rendered conversation up to its last trained token; None if it is too long."""
    rendered = chat.render((prompt, assistant(reply)))
    end = len(rendered.mask) - rendered.mask[::-1].index(True)  # a line break after the last turn predicts nothing
    return {"ids": list(rendered.ids[:end]), "mask": list(map(int, rendered.mask[:end]))} if end <= _LIMIT else None


def _read(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read it: {error}", where=str(path), fix="fetch the data again") from None


_Rows = Callable[[ChatFormat, Path], Iterator[Row]]
_Enough = Callable[[int, int], bool]
WORKLOADS: dict[str, tuple[Literal["sft", "dpo"], int, _Rows, _Enough]] = {
    "unique": ("sft", 8, _questions, lambda rows, tokens: rows >= 32),
    "unique-long": ("sft", 8, _questions, lambda rows, tokens: tokens >= LONG),
    "shared": ("sft", 5, _instances, lambda rows, tokens: rows >= 65),
    "shared-long": ("sft", 5, _instances, lambda rows, tokens: tokens >= LONG),
    "pairs": ("dpo", 4, _preferences, lambda rows, tokens: rows >= 32),
    "packed": ("sft", 64, _questions, lambda rows, tokens: tokens >= _LARGE),
    "packed-shared": ("sft", 40, _instances, lambda rows, tokens: tokens >= _LARGE),
    "pairs-long": ("dpo", 4, _preferences, lambda rows, tokens: tokens >= LONG),
}
"""Name -> kind, rows of a step, the rows in order, and from which (rows, tokens) on there are enough."""


def save(workload: Workload, path: Path) -> None:
    """Write it as one JSON file, its counts inside. Raises RunError if the disk says no."""
    write_atomic(path, json.dumps(asdict(workload) | {"counts": workload.counts()}))


def load(path: Path) -> Workload:
    """Read what `save` wrote."""
    document = json.loads(path.read_text("utf-8"))
    return Workload(**{name: document[name] for name in ("name", "kind", "batch_size", "rows")})


def main() -> None:
    """Build one workload for one model's tokenizer, write it, print its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    workload = build(options.workload, default_format(Tokenizer.load(options.model)), data_folder())
    save(workload, options.out)
    print(json.dumps({"workload": workload.name, **workload.counts()}), file=sys.stdout)


if __name__ == "__main__":
    main()
