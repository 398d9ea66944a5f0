"""Exporting a finished run: every form with its cards, and sentences for what cannot be exported."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from shinan.cli.main import app
from shinan.core.errors import ModelError, RunError
from shinan.models.card import load_card
from shinan.models.checkpoint import load_model
from shinan.recipe.export import export_named
from shinan.recipe.run import run
from shinan.recipe.schema import load_recipe
from tests.recipe.tiny_recipe import RECIPE, write_recipe

LORA = RECIPE.replace("method: full", "method: lora").replace("epochs: 2", "epochs: 0.5")
LORA = LORA.replace("limit: 45", "limit: 5").replace("max_tokens: 2048", "max_tokens: 2048\n  precision: fp32")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run that has tuned an adapter, with the cache that it was made with."""
    place = tmp_path_factory.mktemp("exported")
    old = os.environ.get("SHINAN_CACHE")
    os.environ["SHINAN_CACHE"] = str(place / "cache")
    try:
        yield run(load_recipe(write_recipe(place, LORA)), place / "runs" / "tiny")
    finally:
        os.environ.pop("SHINAN_CACHE") if old is None else os.environ.update(SHINAN_CACHE=old)


@pytest.mark.promise4
def test_the_adapter_is_peft_s_own(done: Path, tmp_path: Path) -> None:
    folder, parity = export_named(str(done), "adapter", type_=None, out=tmp_path / "out")
    assert not parity.problems
    card = load_card(folder)
    assert card.base == "tiny:decoder"
    base = AutoModelForCausalLM.from_pretrained(Path(os.environ["SHINAN_CACHE"]) / "models" / "tiny-decoder")
    adapted = PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    best = load_model(done / "checkpoints" / "best", torch.float32)
    ids = torch.tensor([[2, 40, 50, 60]])
    assert torch.allclose(adapted(ids).logits, best(ids).logits, atol=1e-5)
    assert not torch.allclose(base(ids).logits, load_model(_base(), torch.float32)(ids).logits, atol=1e-4)


def _base() -> Path:
    return Path(os.environ["SHINAN_CACHE"]) / "models" / "tiny-decoder"


@pytest.mark.promise10
def test_an_adapter_of_another_base(done: Path, tmp_path: Path) -> None:
    config = _base() / "config.json"
    card = _base() / "shinan.json"
    old = card.read_bytes()
    try:
        card.write_text(json.dumps(json.loads(old) | {"fingerprint": "0" * 64}), "utf-8")
        with pytest.raises(ModelError, match="trained on another version of its base tiny:decoder"):
            export_named(str(done), "adapter", type_=None, out=tmp_path / "out")
    finally:
        card.write_bytes(old)
    assert config.is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise1
def test_the_cards_tell_the_whole_story(done: Path, tmp_path: Path) -> None:
    folder, _ = export_named(str(done), "safetensors", type_=None, out=tmp_path / "out")
    readme, data = ((folder / name).read_text("utf-8") for name in ("README.md", "DATA.md"))
    front = yaml.safe_load(readme.split("---\n")[1])
    assert front["base_model"] == ["tiny-decoder"]
    assert "| heldout | ROUGE-L | 5 |" in readme
    assert "Held out, never trained on: heldout (5 items)." in readme
    assert "| method | lora |" in readme
    assert "chat format gemma" in readme
    assert "logits differ by" in readme
    tally = json.loads((done / "stages" / "curate" / "manifest.json").read_text("utf-8"))["tally"]
    assert f"| curate | curate | {tally['seen']} | {tally['kept']} |" in data
    assert "| project |" in data  # who made the rows
    assert "## Lineage" in data


@pytest.mark.promise10
def test_a_family_or_shape_without_a_plan(done: Path, tmp_path: Path) -> None:
    """The tiny decoder has two layers: GGUF readers would give both of them a window."""
    with pytest.raises(ModelError, match="not every sixth layer"):
        export_named(str(done), "gguf", type_="f16", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise10
def test_a_run_that_is_not_tuned(done: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(done, half)
    (half / "stages" / "tune" / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"this run is not tuned as its recipe says: tune not finished"):
        export_named(str(half), "safetensors", type_=None, out=tmp_path / "out")
    shutil.rmtree(half / "checkpoints" / "best")
    with pytest.raises(RunError, match="this run has no tuned model"):
        export_named(str(half), "safetensors", type_=None, out=tmp_path / "out")


@pytest.mark.promise10
def test_an_adapter_alone_is_no_model_to_export(done: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="an export begins with the whole model"):
        export_named(str(done / "checkpoints" / "adapter"), "gguf", type_=None, out=tmp_path / "out")


@pytest.mark.promise4
def test_an_adapter_folder_as_an_adapter(done: Path, tmp_path: Path) -> None:
    folder, parity = export_named(str(done / "checkpoints" / "adapter"), "adapter", type_=None, out=tmp_path / "out")
    assert parity.greedy_equal == parity.questions
    assert "PeftModel.from_pretrained" in (folder / "README.md").read_text("utf-8")
    assert not (folder / "DATA.md").exists()  # nothing is known of the run


def test_the_command(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["export", str(done), "--to", "safetensors", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "same greedy reply to 4 of 4 questions" in result.output
    assert f"export: {out}" in result.output
    again = CliRunner().invoke(app, ["export", str(done), "--to", "gguff", "--out", str(out)])
    assert again.exit_code == 1
    assert "Example: shinan export" in CliRunner().invoke(app, ["export", "--help"]).output
