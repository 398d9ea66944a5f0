"""Every method of tuning in a whole recipe: forecast, tuned, saved, loaded, asked and resumed; and what it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shinan.core.dataset import read_dropped, read_manifest, read_rows
from shinan.core.errors import ConfigError, ModelError
from shinan.core.example import user
from shinan.models.card import load_card
from shinan.models.checkpoint import load_model
from shinan.models.generator import Request, Sampling
from shinan.models.open import open_local
from shinan.recipe import dryrun
from shinan.recipe.check import check
from shinan.recipe.run import run
from shinan.recipe.schema import Recipe, load_recipe
from tests.train.runs import with_biases

RECIPE = """\
name: methods
model: MODEL
chat: gemma
build:
  - {id: mine, use: file, with: {path: DATA, maker: human, licence: CC0-1.0}}
  - {id: texts, use: file, train: TRAIN, with: {path: TEXTS, shape: text, maker: human, licence: CC0-1.0}}
tune: {epochs: 1, batch_size: 4, max_tokens: 120, validation: 0.2, precision: fp32, learning_rate: 1e-2}
evaluate:
  - {id: heldout, use: file, with: {path: HELD, maker: human, licence: CC0-1.0}, max_new_tokens: 3}
"""
METHODS: dict[str, list[str]] = {
    "lora": ["tune.method=lora", "tune.lora.rank=2"],
    "rslora": ["tune.method=lora", "tune.lora={rank: 2, rslora: true}"],
    "dora": ["tune.method=lora", "tune.lora={rank: 2, dora: true, targets: [q_proj]}"],
    "qlora": ["tune.method=qlora", "tune.lora.rank=2"],
    "ia3": ["tune.method=ia3"],
    "bitfit": ["tune.method=bitfit"],
    "prefix": ["tune.method=prefix", "tune.prefix.tokens=4"],
    "prompt": ["tune.method=prompt", "tune.prompt.tokens=4"],
    "full": [
        "tune.method=full",
        "tune.freeze={layers: 1, embeddings: true}",
        "tune.neftune=5",
        "tune.loss=last",
        "tune.weights={build: {mine: 2.0}}",
        "tune.replay={from: texts, gamma: 0.5, rows: 2}",
        "build.1.train=false",
    ],
}
ADAPTERS = {"prefix": "embedding", "prompt": "embedding"}
Make = Callable[..., Recipe]


def _turns(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]}


def _lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def make(tmp_path: Path, tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(key=value, ...)`: the recipe with some of its values changed."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHINAN_OFFLINE", "1")
    monkeypatch.setattr("gc.collect", lambda: 0)  # with torch loaded, most of the time of a small run
    rows = [_turns(f"Write {n}.", f"{n}", "And then?", f"{n + 1}") for n in range(10)]
    item = _turns("Name the largest of all the planets of our sun.", "Jupiter")
    texts = [{"text": f"Once upon a time there were {n} bears in the woods. " * (1 + n % 4)} for n in range(9)]
    texts.append({"text": "They said: Name the largest of all the planets of our sun. We did not know."})
    places = {
        "DATA": _lines(tmp_path / "rows.jsonl", rows),
        "TEXTS": _lines(tmp_path / "texts.jsonl", texts),
        "HELD": _lines(tmp_path / "held.jsonl", [item]),
    }

    def made(*overrides: str, model: Path = tiny_decoder) -> Recipe:
        text = RECIPE.replace("MODEL", str(model))
        for name, path in places.items():
            text = text.replace(name, str(path))
        replays = any("replay" in override for override in overrides)
        if not replays:  # a stage that nobody takes is an error
            text = "\n".join(line for line in text.splitlines() if "id: texts" not in line) + "\n"
        path = tmp_path / "methods.yaml"
        path.write_text(text.replace("TRAIN", "true"), "utf-8")
        return load_recipe(path, list(overrides))

    return made


@pytest.mark.promise4
@pytest.mark.parametrize("name", METHODS)
def test_a_whole_run(name: str, make: Make, tmp_path: Path, tiny_decoder: Path) -> None:
    model = with_biases(tmp_path / "biased") if name == "bitfit" else tiny_decoder
    recipe = make(*METHODS[name], model=model)
    forecast = check(recipe, tmp_path / "run", measure=True).forecast
    assert forecast is not None
    assert forecast.seconds["tune"] > 0
    folder = run(recipe, tmp_path / "run")
    best = folder / "checkpoints" / "best"
    samples = [json.loads(line) for line in (folder / "eval/heldout.after.jsonl").read_text("utf-8").splitlines()]
    assert len(samples) >= 1
    tuned, base = load_model(best, torch.float32), load_model(model, torch.float32)
    assert (load_card(best).base is None) == (name not in ADAPTERS)
    assert hasattr(tuned, "peft_config") == (name in ADAPTERS)
    ids = torch.tensor([[2, 40, 41, 42]])
    with torch.no_grad():
        moved = tuned(input_ids=ids).logits[:, -4:] - base(input_ids=ids).logits
    assert float(moved.abs().max()) > 1e-4
    generator = open_local(best, None)  # as chat and serve open it
    [reply] = generator.generate([Request((user("Write 3."),), sampling=Sampling(4))])
    assert reply.new_tokens <= 4
    held = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    assert forecast.disk + 1e6 > 0.2 * held
    again = run(recipe, folder)
    assert read_manifest(again / "stages" / "tune") == read_manifest(folder / "stages" / "tune")


@pytest.mark.promise4
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_knows_its_base(name: str, make: Make, tmp_path: Path, tiny_decoder: Path) -> None:
    """It is small, is loaded beside its base, and refuses another; it is not tuned on."""
    folder = run(make(*METHODS[name]), tmp_path / "run")
    best = folder / "checkpoints" / "best"
    assert not (best / "model.safetensors").exists()
    assert sum(weight.numel() for weight in load_file(best / "adapter_model.safetensors").values()) in (4 * 64, 4 * 128)
    with pytest.raises(ModelError, match="this model is an adapter beside its base"):
        check(make(*METHODS[name], model=best), tmp_path / "other")
    config = tiny_decoder / "generation_config.json"
    before = config.read_bytes() if config.exists() else None
    try:
        config.write_text(json.dumps({"eos_token_id": 7}))
        with pytest.raises(ModelError, match="was trained on another version of its base"):
            load_model(best, torch.float32)
    finally:
        if before is None:
            config.unlink()
        else:
            config.write_bytes(before)


@pytest.mark.promise8
def test_replayed_text_holds_no_evaluation_item(make: Make, tmp_path: Path) -> None:
    folder = run(make(*METHODS["full"]), tmp_path / "run")
    replay = folder / "stages" / "replay"
    assert len(read_rows(replay)) == 9
    assert [verdict.reason for _, verdict in read_dropped(replay)] == ["overlap"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert all(line["replay_loss"] > 0 for line in lines if "loss" in line)
    tune = read_manifest(folder / "stages" / "tune")
    assert tune is not None
    assert tune.tally["seen"] == 10  # the text is no row


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("overrides", "sentences"),
    [
        (["tune.replay={from: text}", "build.1.train=false"], ["'text'", "did you mean 'texts'?"]),
        (["tune.replay={from: texts}"], ["the rows of 'texts' are trained on already", "set `train: false`"]),
        (
            ["tune.method=prompt", "tune.prefix={tokens: 3}", "tune.freeze={layers: 1}", "tune.prompt={tokens: 0}"],
            [
                "--set tune.prefix={tokens: 3}: tune.prefix",
                "`prefix:` has no effect with `method: prompt`",
                "`method: prompt` trains no weight of the model",
                "tune.prompt.tokens",
            ],
        ),
        (["tune.method=dora"], ["tune.method", "qlora"]),
    ],
)
def test_mistakes_in_the_recipe_are_told_together(make: Make, overrides: list[str], sentences: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(*overrides)
    for sentence in sentences:
        assert sentence in str(caught.value)


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["tune.lora.targets=[q_prj]"], "no linear layer of the model's blocks is named 'q_prj'"),
        (["tune.method=bitfit"], "Gemma3ForCausalLM has no biases"),
        (["tune.weights={biuld: {mine: 2.0}}"], "no row has the tag 'biuld'"),
        (["tune.weights={build: {mien: 2.0}}"], "no row has the value 'mien' of the tag 'build'"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_computed(
    make: Make, tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(make(*overrides), tmp_path / "run")


@pytest.mark.promise5
def test_virtual_tokens_take_part_of_the_context(make: Make, tmp_path: Path) -> None:
    """The tiny model has 2,048 positions; 2,020 of them are virtual here."""
    found = check(make("tune.method=prompt", "tune.prompt.tokens=2020"), tmp_path / "run")
    assert [finding.check for finding in found.findings] == ["context"]
    assert check(make("tune.method=prompt", "tune.prompt.tokens=20"), tmp_path / "run").findings == []


def test_what_a_forecast_says_of_the_disk(make: Make, tmp_path: Path) -> None:
    """An adapter's checkpoints are small; merging needs a second model in memory."""
    needs = {}
    for name in ("prompt", "lora"):
        forecast = check(make(*METHODS[name]), tmp_path / name, measure=True).forecast
        assert forecast is not None
        needs[name] = forecast.disk - 2 * dryrun._TOKENIZER
    assert needs["prompt"] < 0.1 * needs["lora"]
