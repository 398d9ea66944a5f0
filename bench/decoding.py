"""Decoding against transformers' own `generate`: greedy, batch 16, on the real starter model.

    python -m bench.decoding [--pairs N] [--rows N]
    python -m bench.decoding SIDE WORKLOAD MODEL_FOLDER [--rows N]

The first runs both sides (`ours`, `peer`) on every workload, in processes of their own, in turn (A B A B). The second
is such a process: it prints one JSON line.
Workloads, from public data (see `bench.workloads.data_folder`); a reply is as long as the data set's own answer, up to
96 tokens, and both sides count only those tokens:
    batch     16 prompts of mixed lengths, 48 tokens each: no slot is ever refilled
    mixed     paragraphs with a question (XQuAD) and short instructions (AlpacaEval) in turn, replies of mixed lengths
    few-shot  GSM8K questions after one head of five worked examples
`generate` gets its prompts sorted by length, 16 at a time, and runs each batch to its longest reply, as it must.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.pairs import Row, alternate, rows, save, table
from bench.workloads import data_folder
from shinan.core.errors import ShinanError
from shinan.models import decode, family
from shinan.models.checkpoint import load_model
from shinan.models.generator import Sampling
from shinan.models.memory import keep_freed_memory
from shinan.models.precision import default_device
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer

Task = tuple[list[int], int]
"""A prompt's ids and how many tokens to write after it."""

_TARGETS = {"tokens_per_second": 2.0, "cpu_seconds": None, "peak_gb": None}
_BATCH = 16
_LONGEST = 96


def measure(folder: Path, pairs: int = 3, count: int = 48) -> list[Row]:
    """Both sides on every workload: speed, processor time and peak memory, and the share of equal replies."""
    made: list[Row] = []
    for name in WORKLOADS:
        sides = [
            [sys.executable, "-m", "bench.decoding", side, name, str(folder), "--rows", str(count)]
            for side in ("ours", "peer")
        ]
        done = alternate(sides[0], sides[1], pairs)
        replies = [[run.pop("ids") for run in pair] for pair in done]
        equal = sum(a == b for a, b in zip(*replies[0], strict=True))
        found = rows(f"decoding, {name}", done, f"transformers {version('transformers')} generate", _TARGETS)
        print(f"{name}: {equal} of {len(replies[0][0])} replies are equal to the last token", file=sys.stderr)
        save(f"decoding-{name}", found, pairs=done, equal=equal, replies=len(replies[0][0]))
        made += found
    return made


def main() -> None:
    """Measure both sides, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=("ours", "peer"))
    parser.add_argument("workload", nargs="?", choices=WORKLOADS)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    chosen = parser.parse_args()
    if chosen.side:
        if chosen.model is None:
            parser.error("a side needs its workload and a model's folder")
        _run(chosen)
        return
    try:
        made = measure(resolve("starter:gemma-3-270m"), chosen.pairs, chosen.rows)
    except ShinanError as error:
        sys.exit(str(error))
    for row in made:
        print(json.dumps(asdict(row)))
    print(f"\n{table(made)}")


def _run(chosen: argparse.Namespace) -> None:
    """One side of one workload: load, warm up on two prompts, decode, print."""
    keep_freed_memory()
    model = _LOAD[chosen.side](chosen.model).to(default_device())
    tasks = _tasks(chosen.workload, Tokenizer.load(chosen.model), chosen.rows)
    side = _ours if chosen.side == "ours" else _peer
    side(model, [(prompt, 4) for prompt, _ in tasks[:2]])
    wall, cpu = time.perf_counter(), time.process_time()
    ids = side(model, tasks)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {
        "tokens_per_second": sum(map(len, ids)) / wall,
        "cpu_seconds": cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "prompt_tokens": sum(len(prompt) for prompt, _ in tasks),
        "new_tokens": sum(map(len, ids)),
        "ids": ids,
    }
    print(json.dumps(result))


def _tasks(name: str, tokenizer: Tokenizer, count: int) -> list[Task]:
    texts, fixed = WORKLOADS[name]
    made = []
    for prompt, answer in islice(texts(data_folder()), _BATCH if fixed else count):
        length = min(_LONGEST, max(4, len(tokenizer.encode(answer))))
        made.append(([tokenizer.bos_id or 0, *tokenizer.encode(prompt)], fixed or length))
    return made


def _as_users_do(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def _ours(model: Any, tasks: list[Task]) -> list[list[int]]:
    made = [decode.Row(prompt, Sampling(new), 0, lambda ids: False) for prompt, new in tasks]
    family.decode(model, made, slots=_BATCH)
    return [row.ids for row in made]


def _peer(model: Any, tasks: list[Task]) -> list[list[int]]:
    order = sorted(range(len(tasks)), key=lambda i: len(tasks[i][0]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        width = max(len(tasks[i][0]) for i in batch)
        pads = [width - len(tasks[i][0]) for i in batch]
        ids = torch.tensor([[0] * pad + tasks[i][0] for i, pad in zip(batch, pads, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        longest = max(tasks[i][1] for i in batch)
        out = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=longest,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        for i, row in zip(batch, out[:, width:].tolist(), strict=True):
            found[i] = row[: tasks[i][1]]
    return [found[i] for i in range(len(tasks))]


def _mixed(data: Path) -> Iterator[tuple[str, str]]:
    """(prompt, answer): one from each of the two, in turn."""
    return chain.from_iterable(zip(_paragraphs(data), _instructions(data), strict=False))


def _paragraphs(data: Path) -> Iterator[tuple[str, str]]:
    for article in _read(data / "xquad" / "xquad.en.json.gz")["data"]:
        for paragraph in article["paragraphs"]:
            asked = paragraph["qas"][0]
            yield f"{paragraph['context']}\n\nQuestion: {asked['question']}\nAnswer:", asked["answers"][0]["text"]


def _instructions(data: Path) -> Iterator[tuple[str, str]]:
    for row in _read(data / "alpaca_eval" / "text_davinci_001" / "alpaca_eval_gpt4" / "annotations.json.gz"):
        yield f"{row['instruction']}\n\n", row["output_2"]


def _few_shot(data: Path) -> Iterator[tuple[str, str]]:
    lines = gzip.decompress((data / "gsm8k" / "train.jsonl.gz").read_bytes()).decode("utf-8").splitlines()
    shown = [json.loads(line) for line in lines[:5]]
    head = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in shown)
    for row in map(json.loads, lines[5:]):
        yield f"{head}Question: {row['question']}\nAnswer:", row["answer"]


def _read(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()).decode("utf-8"))


_LOAD: dict[str, Callable[[Path], Any]] = {
    "ours": lambda folder: load_model(folder, torch.bfloat16),
    "peer": _as_users_do,
}
WORKLOADS: dict[str, tuple[Callable[[Path], Iterator[tuple[str, str]]], int]] = {
    "batch": (_mixed, 48),
    "mixed": (_mixed, 0),
    "few-shot": (_few_shot, 0),
}
"""Name -> texts and answers; how many tokens every reply has (0: as many as the answer)."""

if __name__ == "__main__":
    main()
