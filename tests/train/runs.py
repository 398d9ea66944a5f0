"""A small training run that tests can start, kill and start again: `python -m tests.train.runs MODEL FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from shinan.core.example import Example, Provenance, assistant, user
from shinan.models.chat import default_format
from shinan.models.checkpoint import load_model
from shinan.models.forest import Bundle
from shinan.models.tokenizer import Tokenizer
from shinan.train import lora
from shinan.train.engine import Fitted, Places, fit
from shinan.train.rows import tokenise
from shinan.train.settings import TuneSettings
from shinan.train.sft import sft

SETTINGS = TuneSettings(
    method="full", epochs=2, batch_size=4, learning_rate=5e-3, validation=0.2, validate_every=0.25, save_every=1e-6
)


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


def train(model_folder: Path, out: Path, settings: TuneSettings = SETTINGS) -> Fitted:
    """Tune the tiny model in `out`; leaves the last weights in `out/last.safetensors`."""
    torch.use_deterministic_algorithms(True)
    model: Any = load_model(model_folder, torch.float32)
    if settings.method == "lora":
        model = lora.wrap(model, settings.adapter, 0)
    places = Places(out / "states", out / "metrics.jsonl", out / "plan.json")
    fitted = fit(model, sft(), token_rows(model_folder), settings, key="toy", seed=0, places=places)
    trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    save_file(trained, out / "last.safetensors")
    return fitted


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
