"""`make bench`: tuning and decoding on the real starter model, one JSON line a figure and a table last.

    python -m bench [--rows N] [--items N]

Decoding is timed against transformers' own `generate` on the same prompts, in turn (A B A B), medians of the pairs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shinan.build.collection import collection
from shinan.core.example import Example
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.generator import Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.precision import default_device, probe_dtype
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer
from shinan.train import lora
from shinan.train.engine import Places, fit
from shinan.train.rows import tokenise
from shinan.train.settings import TuneSettings
from shinan.train.sft import sft

MODEL = "starter:gemma-3-270m"
RESULTS = Path(__file__).parent / "results"
Figure = dict[str, Any]


def main() -> None:
    """Run both workloads, write `bench/results/spine.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=48, help="training rows")
    parser.add_argument("--items", type=int, default=16, help="prompts to decode together")
    options = parser.parse_args()
    folder = resolve(MODEL)
    device = default_device()
    dtype = probe_dtype(device)
    print(f"{MODEL}, {dtype}, {device}, {torch.get_num_threads()} threads, torch {version('torch')}", file=sys.stderr)
    figures = [*_tuning(folder, dtype, device, options.rows), *_decoding(folder, dtype, device, options.items)]
    machine = {"system": platform.platform(), "device": str(device), "threads": torch.get_num_threads()}
    for figure in figures:
        print(json.dumps(figure))
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": machine, "versions": {"torch": version("torch")}, "figures": figures}
    (RESULTS / "spine.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"\n{'workload':28} {'metric':12} {'ours':>9} {'peer':>9} {'ratio':>6}")
    for f in figures:
        peer = f"{f['peer']:9.1f} {f['ratio']:6.2f}" if "peer" in f else ""
        print(f"{f['workload']:28} {f['metric']:12} {f['ours']:9.1f} {peer}")


def _tuning(folder: Path, dtype: torch.dtype, device: torch.device, count: int) -> list[Figure]:
    tokenizer = Tokenizer.load(folder)
    examples: list[Example] = collection(0, split="train", languages=["en"], limit=count)
    rows, _ = tokenise(examples, chat_format("alpaca", tokenizer), 1024)
    figures = []
    for method in ("lora", "full"):
        settings = TuneSettings.model_validate({"method": method, "epochs": 1.0, "validation": 0.0})
        model: Any = load_model(folder, dtype).to(device)
        model = lora.wrap(model, settings.adapter, 0) if method == "lora" else model
        with tempfile.TemporaryDirectory() as place:
            places = Places(Path(place) / "states", Path(place) / "metrics.jsonl")
            facts = fit(model, sft(), rows, settings, key="bench", seed=0, places=places).facts
        figures.append(
            {
                "workload": f"sft {method}, batch 16",
                "metric": "tokens/s",
                "ours": facts["tokens_per_second"],
                "n": facts["tokens"],
                "labelled": facts["labelled_tokens"],
            }
        )
    return figures


def _decoding(folder: Path, dtype: torch.dtype, device: torch.device, count: int) -> list[Figure]:
    model: Any = load_model(folder, dtype).to(device)
    chat = chat_format("alpaca", Tokenizer.load(folder))
    items = collection(0, split="heldout", languages=["en"], limit=count)
    new = 48
    requests = [Request(item.prompt, sampling=Sampling(new)) for item in items]
    generator = LocalGenerator("bench", model, chat, batch_size=count)
    prompts = [chat.render_prompt(item.prompt) for item in items]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)

    def ours() -> int:
        return sum(len(done.ids) for done in generator.generate(requests))

    def peer() -> int:
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=chat.stop_ids[0]
        )
        return sum(_until(row, chat.stop_ids) for row in out[:, width:].tolist())

    pairs = [(_rate(ours), _rate(peer)) for _ in range(3)]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return [
        {
            "workload": f"greedy decoding, batch {count}",
            "metric": "tokens/s",
            "ours": mine,
            "peer": theirs,
            "peer_version": f"transformers {version('transformers')} generate",
            "ratio": statistics.median(a / b for a, b in pairs),
            "n": len(pairs),
        }
    ]


def _rate(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def _until(row: list[int], stops: tuple[int, ...]) -> int:
    return next((i + 1 for i, token in enumerate(row) if token in stops), len(row))


if __name__ == "__main__":
    main()
