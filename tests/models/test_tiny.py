"""The tiny models: real architectures, reproducible weights, a byte tokenizer that loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from shinan.models import tiny
from shinan.models.checkpoint import load_model
from shinan.models.sources import TINY
from shinan.models.tokenizer import Tokenizer


def test_the_names_are_those_of_sources() -> None:
    assert tuple(tiny.TINY) == TINY


@pytest.mark.parametrize(("name", "kind", "tied"), [("decoder", "gemma3_text", True), ("llama", "llama", False)])
def test_build(tmp_path: Path, name: str, kind: str, tied: bool) -> None:
    state = torch.random.get_rng_state()
    tiny.build(name, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left alone
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.tie_word_embeddings, config.num_hidden_layers) == (kind, tied, 2)
    model = load_model(tmp_path, torch.float32)
    ids = torch.tensor([[2, *range(8, 48)]])
    changed = ids.clone()
    changed[0, 3] = 200
    logits, other = model(ids).logits, model(changed).logits
    assert logits.shape == (1, 41, 264)
    assert torch.equal(logits[:, :3], other[:, :3])  # causal
    assert not torch.allclose(logits[:, -1], other[:, -1])  # and attentive, beyond the sliding window


def test_weights_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        torch.manual_seed(len(name))
        tiny.build("decoder", tmp_path / name)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    matrix = one["model.layers.0.mlp.up_proj.weight"]
    assert matrix.std().item() == pytest.approx(64**-0.5, rel=0.03)


def test_tokenizer(tmp_path: Path) -> None:
    tiny.build("decoder", tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert len(peer) == ours.vocab_size == 264
    # bytes in the order of GPT-2's alphabet, in which `!` comes first and the blank is `Ġ`
    assert peer("<start_of_turn>!<end_of_turn>").input_ids == [2, 4, 8, 5]
    assert ours.encode("!") == [8]
    assert (ours.pad_id, ours.eos_id, ours.bos_id, ours.adds_bos) == (0, 1, 2, True)
    assert [ours.special_id(text) for text in tiny.SPECIALS] == list(range(8))


@given(st.text())
def test_every_text_comes_back_at_one_token_a_byte(text: str) -> None:
    backend = tiny.byte_tokenizer()
    ids = backend.encode(text, add_special_tokens=False).ids
    assert backend.decode(ids, skip_special_tokens=False) == text
    if not any(special in text for special in tiny.SPECIALS):
        assert len(ids) == len(text.encode())
