"""Every form of export on tiny models: read back by other libraries, compared, and refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Regex, pre_tokenizers

from shinan.core.errors import ConfigError, ModelError, RunError
from shinan.models.card import load_card
from shinan.models.tokenizer import Tokenizer
from shinan.serve import export as export_of
from shinan.serve import gguf_file, gguf_tokens
from shinan.serve.export import Form, check_form, export
from shinan.serve.gguf_file import Type
from shinan.serve.parity import Parity
from tests.disk import disk
from tests.serve import exporting
from tests.serve.exporting import byte_level, gemma, llama, save, sentencepiece

LLAMA3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(gguf_tokens._LLAMA3), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
MODELS: dict[str, Any] = {
    "gemma3": lambda folder: save(folder, gemma, sentencepiece()),
    "gemma3+bytes": lambda folder: save(folder, gemma, byte_level()),
    "smollm": lambda folder: save(folder, llama, byte_level(digits=True), chat="chatml", tie_word_embeddings=True),
    "llama": lambda folder: save(folder, llama, byte_level(LLAMA3), chat="chatml"),
    "base": lambda folder: save(folder, llama, byte_level(), chat=None),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every tiny model of `MODELS`, written once."""
    place = tmp_path_factory.mktemp("models")
    return {name: make(place / name) for name, make in MODELS.items()}


def _export(folder: Path, out: Path, form: Form = "gguf", type_: Type = "f16") -> Parity:
    return export(folder, out, form, lambda parity: {"README.md": "a card\n"}, adapter=None, type_=type_)


@pytest.mark.promise4
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("type_", ["f32", "f16", "q8_0"])
def test_a_gguf_says_what_the_model_says(folders: dict[str, Path], tmp_path: Path, name: str, type_: Type) -> None:
    parity = _export(folders[name], tmp_path / "out", type_=type_)
    assert not parity.problems
    assert parity.mean_difference < {"f32": 1e-5, "f16": 0.004, "q8_0": 0.1}[type_]
    if type_ == "f32":
        assert parity.max_difference < 1e-3
        assert parity.greedy_equal == parity.questions
    written = json.loads((tmp_path / "out" / "parity.json").read_text("utf-8"))
    assert written["max_difference"] == parity.max_difference
    assert (tmp_path / "out" / "notices" / "LICENSE-TERMS.txt").read_text("utf-8") == "terms that must travel\n"


def test_the_layout_is_llama_cpps(folders: dict[str, Path], tmp_path: Path) -> None:
    """By hand, from llama.cpp's description: rotary rows interleaved, Gemma's norms with 1 added, vectors in F32."""
    for name in ("llama", "gemma3"):
        _export(folders[name], tmp_path / name)
    own = load_file(folders["llama"] / "model.safetensors")
    read = gguf.GGUFReader(next((tmp_path / "llama").glob("*.gguf")))
    stored = {tensor.name: tensor for tensor in read.tensors}
    query = own["model.layers.0.self_attn.q_proj.weight"]  # 4 heads of 16
    for row in range(64):
        head, inside = divmod(row, 16)
        half, index = divmod(inside, 8)
        found = stored["blk.0.attn_q.weight"].data[head * 16 + index * 2 + half]
        assert np.array_equal(found, query[row].half().numpy())
    assert np.array_equal(stored["output.weight"].data, own["lm_head.weight"].half().numpy())
    norm = own["model.layers.1.input_layernorm.weight"].numpy()
    assert stored["blk.1.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert np.array_equal(stored["blk.1.attn_norm.weight"].data, norm)
    own = load_file(folders["gemma3"] / "model.safetensors")
    read = gguf.GGUFReader(next((tmp_path / "gemma3").glob("*.gguf")))
    stored = {tensor.name: tensor for tensor in read.tensors}
    norm = own["model.layers.5.self_attn.q_norm.weight"].numpy()
    assert np.array_equal(stored["blk.5.attn_q_norm.weight"].data, norm + np.float32(1))
    fields = {name: read.fields[name].contents() for name in read.fields if "tokens" not in name}
    assert fields["general.architecture"] == "gemma3"
    assert fields["gemma3.attention.sliding_window"] == 16
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (2, 1)
    assert fields["tokenizer.ggml.eot_token_id"] == 5  # <end_of_turn>
    assert fields["general.license"] == "gemma"
    assert "start_of_turn" in fields["tokenizer.chat_template"]
    kinds = fields["tokenizer.ggml.token_type"]
    assert [kinds[i] for i in (0, 5, 8, 9)] == [3, 3, 4, 6]  # control, control, user-defined, byte
    assert kinds[-3:] == [5, 5, 5]  # rows without a token
    scores = fields["tokenizer.ggml.scores"]
    normal = [score for score, kind in zip(scores, kinds, strict=True) if kind == 1]
    assert normal == sorted(set(normal), reverse=True)  # llama.cpp merges the best first: the lowest ids, as tuned


@pytest.mark.promise4
def test_a_merged_folder_is_whole_and_says_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    parity = _export(folders["gemma3"], tmp_path / "out", "safetensors")
    assert parity.max_difference == 0
    assert parity.greedy_equal == 4
    assert load_card(tmp_path / "out").fingerprint == load_card(folders["gemma3"]).fingerprint
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text("utf-8"))["eos_token_id"] == [5, 1]
    assert Tokenizer.load(tmp_path / "out").chat_template
    assert (tmp_path / "out" / "README.md").read_text("utf-8") == "a card\n"
    assert (tmp_path / "out" / "notices" / "LICENSE-TERMS.txt").is_file()


def _no_shift(name: str, values: Any, config: Any) -> Any:
    return values


@pytest.mark.promise4
def test_an_encoder_decoder_is_read_as_one(tiny_seq2seq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parity = _export(tiny_seq2seq, tmp_path / "out", "safetensors")
    assert (parity.greedy_equal, parity.top1_agreement, parity.max_difference) == (4, 1.0, 0.0)

    def other(folder: Path) -> Any:
        model = loaded(folder)
        model.decoder.final_layer_norm.weight.data.mul_(1.01)
        return model

    loaded = export_of._loaded
    monkeypatch.setattr(export_of, "_loaded", other)
    with pytest.raises(ModelError, match="the exported model is not the trained one"):
        _export(tiny_seq2seq, tmp_path / "again", "safetensors")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_a_wrong_layout_is_found_and_nothing_is_left(
    folders: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"gemma3": "gemma3_text"}.get(name, name)
    old = gguf_file.FAMILIES[kind]
    broken = {**gguf_file.FAMILIES, kind: gguf_file.Family(old.arch, old.fixed, _no_shift)}
    monkeypatch.setattr(gguf_file, "FAMILIES", broken)
    with pytest.raises(ModelError, match="the exported model is not the trained one") as caught:
        _export(folders[name], tmp_path / "out")
    assert "was read back with other numbers" in str(caught.value)
    assert "logits differ" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise4
def test_a_wrong_tokenizer_is_found(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tokens, "_cutting", lambda state, where: "llama-bpe")
    with pytest.raises(ModelError, match="the exported tokenizer cuts"):
        _export(folders["base"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "gpt2"}, "no plan for GGUF files of type 'gpt2', only of gemma3_text and llama"),
        ({"attention_bias": True}, "attention_bias is True and not False"),
        ({"query_pre_attn_scalar": 168}, "query_pre_attn_scalar is 168 and not 256"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"layer_types": ["full_attention"] * 6}, "not every sixth layer"),
    ],
)
def test_what_readers_would_compute_otherwise(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(ModelError, match=what):
        _of_changed(folders["gemma3"], tmp_path, changes)


def _of_changed(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Write the GGUF file of a copy of a model with another config."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != "shinan.json":
            (copy / path.name).write_bytes(path.read_bytes())
    exporting.edit(copy / "config.json", **changes)
    gguf_file.write_gguf(copy, tmp_path / "x.gguf", "f16", load_card(copy))


@pytest.mark.promise10
def test_scaled_positions_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    scaled = {"rope_type": "linear", "factor": 8.0, "rope_theta": 10_000.0}
    with pytest.raises(ModelError, match=r"positions are scaled \(linear\)"):
        _of_changed(folders["llama"], tmp_path, {"rope_parameters": scaled})


@pytest.mark.promise10
def test_more_tokens_than_rows(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = len(load_file(folders["base"] / "model.safetensors")["model.embed_tokens.weight"])
    broken = tmp_path / "broken"
    save(broken, llama, byte_level(), chat=None, extra=-2)
    with pytest.raises(ModelError, match=f"the tokenizer has {rows - 3} tokens, and the embedding matrix {rows - 5}"):
        gguf_file.write_gguf(broken, tmp_path / "x.gguf", "f16", load_card(broken))


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("pre", "what"),
    [(pre_tokenizers.Whitespace(), "cuts texts in none of the ways"), (pre_tokenizers.ByteLevel(), "gpt-2, smollm")],
)
def test_a_tokenizer_that_cuts_otherwise(tmp_path: Path, pre: Any, what: str) -> None:
    folder = save(tmp_path / "model", llama, byte_level(pre), chat=None)
    with pytest.raises(ModelError, match=what):
        gguf_file.write_gguf(folder, tmp_path / "x.gguf", "f16", load_card(folder))


@pytest.mark.promise10
def test_a_number_too_large_for_half(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = save(tmp_path / "model", llama, byte_level(), chat=None)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj.weight holds a number that float16 cannot"):
        gguf_file.write_gguf(folder, tmp_path / "x.gguf", "f16", load_card(folder))


@pytest.mark.promise10
def test_forms_and_types_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_form("safetensor", "q8", tmp_path / "out")
    assert "did you mean 'safetensors'?" in str(caught.value)
    assert "did you mean 'q8_0'?" in str(caught.value)
    with pytest.raises(ConfigError, match="a number format is for GGUF files"):
        check_form("adapter", "f16", tmp_path / "out")
    with pytest.raises(RunError, match="nothing is written over"):
        check_form("gguf", None, tmp_path)


@pytest.mark.promise10
@pytest.mark.parametrize(("form", "size"), [("gguf", "40k"), ("safetensors", "40k"), ("gguf", "8k")])
def test_a_full_disk_leaves_nothing(folders: dict[str, Path], tmp_path: Path, form: Form, size: str) -> None:
    with disk(tmp_path / "small", f"size={size}"):
        with pytest.raises(RunError, match="No space left on device"):
            _export(folders["llama"], tmp_path / "small" / "out", form)
        assert list((tmp_path / "small").iterdir()) == []


@pytest.mark.promise10
def test_no_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no adapter: all weights were tuned"):
        _export(folders["llama"], tmp_path / "out", "adapter")
