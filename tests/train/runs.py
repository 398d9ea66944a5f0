"""Small training runs that tests can start, kill and start again: `python -m tests.train.runs MODEL FOLDER [CASES]`.

CASES is JSON: {name of a folder inside FOLDER: changes to the settings}. torchrun may start it, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from shinan.core.example import Example, Provenance, assistant, user
from shinan.models import tiny
from shinan.models.chat import default_format
from shinan.models.checkpoint import load_model
from shinan.models.forest import Bundle
from shinan.models.tokenizer import Tokenizer
from shinan.train import methods, ranks
from shinan.train.engine import Fitted, Places, fit
from shinan.train.replay import Replay
from shinan.train.rows import tokenise
from shinan.train.settings import (
    FreezeSettings,
    LoraSettings,
    PrefixSettings,
    PromptSettings,
    SampleSettings,
    TuneSettings,
)
from shinan.train.sft import sft

CLOCKED = {"seconds", "labelled_tokens_per_second", "flop_share", "memory_bytes"}
SETTINGS = TuneSettings(
    method="full", epochs=2, batch_size=4, learning_rate=5e-3, validation=0.2, validate_every=0.25, save_every=1e-6
)

_CHANGES: dict[str, dict[str, Any]] = {
    "full": {},
    "full, frozen": {"freeze": FreezeSettings(layers=1, embeddings=True)},
    "lora": {"method": "lora", "lora": LoraSettings(rank=4, dropout=0.1)},
    "rslora": {"method": "lora", "lora": LoraSettings(rank=4, rslora=True, dropout=0.1)},
    "dora": {"method": "lora", "lora": LoraSettings(rank=4, dora=True, targets=["q_proj", "down_proj"])},
    "qlora": {"method": "qlora", "lora": LoraSettings(rank=4, targets="attention")},
    "ia3": {"method": "ia3"},
    "bitfit": {"method": "bitfit"},
    "prefix": {"method": "prefix", "prefix": PrefixSettings(tokens=3)},
    "prefix by a network": {"method": "prefix", "prefix": PrefixSettings(tokens=3, projection=8)},
    "prompt": {"method": "prompt", "prompt": PromptSettings(tokens=3)},
}
# Every method with what it draws: dropout, noise on the embeddings, a random start.
METHODS = {
    name: SETTINGS.model_copy(update={"neftune": 5.0, "learning_rate": 1e-2, **changes})
    for name, changes in _CHANGES.items()
}

# The same without draws of their own, which would differ between ranks.
STEADY = {
    name: METHODS[name].model_copy(update={"neftune": None, "lora": section})
    for name, section in {
        **dict.fromkeys(("full", "ia3", "bitfit", "prefix", "prompt")),
        "lora": LoraSettings(rank=4),
        "rslora": LoraSettings(rank=4, rslora=True),
        "dora": LoraSettings(rank=4, dora=True),
        "qlora": LoraSettings(rank=4),
    }.items()
}


def with_biases(folder: Path) -> Path:
    """A tiny Llama whose linear layers have biases, in `folder`."""
    folder.mkdir()
    tiny.build("llama", folder)
    config = AutoConfig.from_pretrained(folder, attention_bias=True, mlp_bias=True)
    model: Any = AutoModelForCausalLM.from_config(config)
    tiny._fill(model)
    model.save_pretrained(folder)
    return folder


def token_rows(folder: Path, count: int = 24) -> list[Bundle]:
    """Rows of many lengths: say the word back."""
    words = ["north", "south", "east", "west", "up", "down"]
    examples = [
        Example(
            (user("say " + " ".join([words[i % 6]] * (1 + i % 5))), assistant(words[i % 6])),
            provenance=Provenance("toy", i),
        )
        for i in range(count)
    ]
    rows, dropped = tokenise(examples, default_format(Tokenizer.load(folder)), 512)
    assert not dropped
    return rows


def train(
    model_folder: Path,
    out: Path,
    settings: TuneSettings = SETTINGS,
    dtype: torch.dtype = torch.float32,
    text: float = 0.0,
) -> Fitted:
    """Tune the tiny model in `out`; leaves the last weights in `out/last.safetensors`, and as they were computed in
    `computed.safetensors`. `text` is the coefficient of the loss on the rows' own text beside them; 0 for none."""
    torch.use_deterministic_algorithms(True)
    out.mkdir(exist_ok=True)
    model = methods.wrap(load_model(model_folder, dtype), settings, 0)
    places = Places(out / "states", out / "metrics.jsonl", out / "plan.json")
    rows, chat = token_rows(model_folder), default_format(Tokenizer.load(model_folder))
    beside = Replay(rows[:6], text, 3, 0) if text else None
    fitted = fit(model, sft(), rows, settings, key="toy", seed=0, places=places, chat=chat, replay=beside)
    if ranks.rank():
        return fitted
    _save(model, out / "computed.safetensors")
    fitted.restore("last")
    _save(model, out / "last.safetensors")
    return fitted


def _save(model: Any, path: Path) -> None:
    save_file({name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}, path)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run, without what is measured by the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]


def several(model_folder: Path, out: Path, cases: dict[str, dict[str, Any]]) -> None:
    """A run for each case, one after another, by all processes that torchrun has started; {"steady": METHOD} is one of
    `STEADY`."""
    for name, case in cases.items():
        changes = dict(case)
        if steady := changes.get("steady"):
            train(model_folder, out / name, STEADY[steady].model_copy(update={"shard": changes.get("shard", "auto")}))
            continue
        more: dict[str, Any] = {"lora": LoraSettings(rank=4)} if changes.get("method") == "lora" else {}
        more |= {"sample": SampleSettings(**changes["sample"])} if "sample" in changes else {}
        dtype = torch.bfloat16 if changes.get("precision") == "bf16" else torch.float32
        text = changes.pop("text", 0.0)
        train(model_folder, out / name, SETTINGS.model_copy(update=changes | more), dtype, text)


if __name__ == "__main__":
    with ranks.together("cpu"):
        several(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {".": {}})
