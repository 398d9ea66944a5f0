"""A small training run that tests can start, kill and start again: `python -m tests.train.runs MODEL OUT [METHOD]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from shinan.core.example import Example, Provenance, assistant, user
from shinan.models import tiny
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.forest import Bundle
from shinan.models.tokenizer import Tokenizer
from shinan.train import methods
from shinan.train.engine import Fitted, Places, fit
from shinan.train.rows import tokenise
from shinan.train.settings import FreezeSettings, LoraSettings, PrefixSettings, PromptSettings, TuneSettings
from shinan.train.sft import sft

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
    rows, dropped = tokenise(examples, chat_format("gemma", Tokenizer.load(folder)), 512)
    assert not dropped
    return rows


def train(model_folder: Path, out: Path, settings: TuneSettings = SETTINGS) -> Fitted:
    """Tune the tiny model in `out`; leaves the last weights in `out/last.safetensors`."""
    torch.use_deterministic_algorithms(True)
    model = methods.wrap(load_model(model_folder, torch.float32), settings, 0)
    places = Places(out / "states", out / "metrics.jsonl", out / "plan.json")
    fitted = fit(model, sft(), token_rows(model_folder), settings, key="toy", seed=0, places=places)
    trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    save_file(trained, out / "last.safetensors")
    return fitted


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), METHODS[sys.argv[3]] if sys.argv[3:] else SETTINGS)
