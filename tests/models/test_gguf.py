"""GGUF conversion, checked against files written with the gguf library and its own dequantising."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf as gguf_library
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from shinan.core.errors import ModelError
from shinan.core.store import cache_root
from shinan.models import gguf, sources
from shinan.models.checkpoint import load_model
from shinan.models.tokenizer import Tokenizer

HIDDEN, HEADS, KV_HEADS, HEAD, FFN = 64, 4, 2, 32, 96
LLAMA_NORMS = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
Q8 = gguf_library.GGMLQuantizationType.Q8_0


def _header(path: Path, arch: str, tokens: int) -> Any:
    writer = gguf_library.GGUFWriter(str(path), arch)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(tokens)
    return writer


def _matrices(tokens: int) -> dict[str, tuple[int, int]]:
    return {
        "token_embd": (tokens, HIDDEN),
        "blk.0.attn_q": (HEADS * HEAD, HIDDEN),
        "blk.0.attn_k": (KV_HEADS * HEAD, HIDDEN),
        "blk.0.attn_v": (KV_HEADS * HEAD, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HEADS * HEAD),
        "blk.0.ffn_gate": (FFN, HIDDEN),
        "blk.0.ffn_up": (FFN, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, FFN),
    }


def _finish(writer: Any, tokens: int, norms: dict[str, int]) -> dict[str, Any]:
    """Write random weights, matrices as Q8_0; returns what is really stored, by GGUF name."""
    rng = np.random.default_rng(0)
    stored = {}
    for name, shape in _matrices(tokens).items():
        packed = gguf_library.quantize(rng.normal(size=shape).astype(np.float32), Q8)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=Q8)
        stored[name] = gguf_library.dequantize(packed, Q8)
    for name, size in norms.items():
        stored[name] = rng.normal(size=size).astype(np.float32)
        writer.add_tensor(f"{name}.weight", stored[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def write_gemma(path: Path) -> dict[str, Any]:
    """A one-layer Gemma 3 with the specials, every byte, and a few pieces."""
    kinds = gguf_library.TokenType
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    types = [kinds.CONTROL, kinds.CONTROL, kinds.CONTROL, kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [kinds.BYTE] * 256
    pieces = ["▁", "a", "b", "▁a", "ab"]
    scores = [0.0] * len(tokens) + [-float(rank) for rank in range(len(pieces))]
    tokens, types = tokens + pieces, types + [kinds.NORMAL] * len(pieces)
    writer = _header(path, "gemma3", len(tokens))
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_sliding_window(32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    norms = dict.fromkeys(LLAMA_NORMS, HIDDEN) | {"blk.0.post_attention_norm": HIDDEN, "blk.0.post_ffw_norm": HIDDEN}
    norms |= {"blk.0.attn_q_norm": HEAD, "blk.0.attn_k_norm": HEAD}
    return _finish(writer, len(tokens), norms)


def write_smollm(path: Path) -> dict[str, Any]:
    """A one-layer Llama with a GPT-2 tokenizer of SmolLM's kind."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"0123456789abĠ", "ĠĠ"]
    types = [gguf_library.TokenType.CONTROL] * 3 + [gguf_library.TokenType.NORMAL] * 14
    writer = _header(path, "llama", len(tokens))
    writer.add_rope_dimension_count(HEAD)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    return _finish(writer, len(tokens), dict.fromkeys(LLAMA_NORMS, HIDDEN))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gemma")
    stored = write_gemma(folder / "tiny.gguf")
    gguf.convert(folder / "tiny.gguf", folder / "out")
    return folder / "out", stored


def test_weights_are_the_files_own_rounded_once(gemma: tuple[Path, dict[str, Any]]) -> None:
    folder, stored = gemma
    written = load_file(folder / "model.safetensors")
    same = {
        "model.embed_tokens.weight": stored["token_embd"],
        "model.layers.0.self_attn.q_proj.weight": stored["blk.0.attn_q"],
        "model.layers.0.self_attn.k_proj.weight": stored["blk.0.attn_k"],
        "model.layers.0.self_attn.o_proj.weight": stored["blk.0.attn_output"],
        "model.layers.0.mlp.down_proj.weight": stored["blk.0.ffn_down"],
        # llama.cpp stores 1 + w, because its norm multiplies by the weight and Gemma's by 1 + weight
        "model.norm.weight": stored["output_norm"] - 1,
        "model.layers.0.self_attn.q_norm.weight": stored["blk.0.attn_q_norm"] - 1,
        "model.layers.0.pre_feedforward_layernorm.weight": stored["blk.0.ffn_norm"] - 1,
        "model.layers.0.post_feedforward_layernorm.weight": stored["blk.0.post_ffw_norm"] - 1,
    }
    for name, value in same.items():
        assert torch.equal(written[name], torch.from_numpy(value).to(torch.bfloat16)), name
    assert len(written) == 8 + 7
    assert not any("lm_head" in name for name in written)  # tied


def test_config(gemma: tuple[Path, dict[str, Any]]) -> None:
    config = json.loads((gemma[0] / "config.json").read_text())
    shape = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert [config[key] for key in shape] == [HIDDEN, FFN, HEADS, KV_HEADS, HEAD]
    assert config["model_type"] == "gemma3_text"
    assert config["sliding_window"] == 32
    assert config["rope_parameters"]["full_attention"]["rope_theta"] == 1e6
    assert config["tie_word_embeddings"] is True
    assert config["dtype"] == "bfloat16"
    assert not {"quantization_config", "_name_or_path", "transformers_version"} & set(config)
    generation = json.loads((gemma[0] / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]) == (2, 1, 0)


def test_the_folder_loads_with_tied_embeddings(gemma: tuple[Path, dict[str, Any]]) -> None:
    model = load_model(gemma[0], torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model(torch.tensor([[2, 6, 7]])).logits.isfinite().all()


def test_gemma_tokenizer(gemma: tuple[Path, dict[str, Any]]) -> None:
    peer, ours = AutoTokenizer.from_pretrained(gemma[0]), Tokenizer.load(gemma[0])
    # pieces start at 6 + 256; a character without piece falls back to its bytes
    blank, ab, byte = 262, 266, 6
    assert peer("<start_of_turn>ab é<end_of_turn>").input_ids == [2, 4, ab, blank, byte + 0xC3, byte + 0xA9, 5]
    assert ours.encode("ab") == [ab]
    assert ours.decode(ours.encode(" ab  ü b")) == " ab  ü b"


def test_smollm_tokenizer_takes_each_digit_alone(tmp_path: Path) -> None:
    stored = write_smollm(tmp_path / "tiny.gguf")
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "out")
    backend = Backend.from_file(str(tmp_path / "out" / "tokenizer.json"))
    # digits are cut off first, so that both blanks stay together, as in the original tokenizer.json
    assert backend.encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ messages[0]['content'] }}"
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    # llama.cpp interleaves the two halves of each rotary head: (head, 2, half) -> (head, half, 2)
    query = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    undone = stored["blk.0.attn_q"].reshape(HEADS, HEAD // 2, 2, HIDDEN).swapaxes(1, 2).reshape(HEADS * HEAD, HIDDEN)
    assert torch.equal(query, torch.from_numpy(undone).to(torch.bfloat16))


def test_the_gguf_library_is_left_as_it_was(gemma: tuple[Path, dict[str, Any]]) -> None:
    assert gguf_library.GGUFReader.__name__ == "GGUFReader"
    assert not hasattr(gguf_library.get_tensor_name_map, "cache_info")


@pytest.mark.promise10
@pytest.mark.parametrize("cut", [0, 3, 200, 20_000])
def test_a_broken_file_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "tiny.gguf"
    write_gemma(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match="cannot read this GGUF file") as caught:
        gguf.convert(path, tmp_path / "out")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_gemma(tmp_path / "tiny.gguf")
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "out")
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def _starter(name: str) -> Path:
    folder = cache_root() / "models" / name
    if not (folder / "shinan.json").is_file():
        pytest.skip(f"{folder} is not there; `shinan models` fetches it")
    return folder


@pytest.fixture
def gemma_file(tmp_path: Path) -> Path:
    """The real GGUF file, from the wheels in the cache."""
    starter = sources.STARTERS["gemma-3-270m"]
    wheels = [cache_root() / "downloads" / wheel.file for wheel in starter.wheels]
    if not all(wheel.is_file() for wheel in wheels):
        pytest.skip(f"the packages of {starter.name} are not in {cache_root() / 'downloads'}")
    sources._join(starter, wheels, tmp_path / "gemma.gguf")
    return tmp_path / "gemma.gguf"


@pytest.mark.slow
def test_real_gemma_has_the_files_numbers(gemma_file: Path) -> None:
    written = load_file(_starter("gemma-3-270m") / "model.safetensors")
    stored = {tensor.name: tensor for tensor in gguf_library.GGUFReader(gemma_file).tensors}
    assert len(written) == len(stored) == 236
    for name, ours, shift in (
        ("token_embd.weight", "model.embed_tokens.weight", 0),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", 0),
        ("blk.17.ffn_down.weight", "model.layers.17.mlp.down_proj.weight", 0),
        ("blk.5.attn_output.weight", "model.layers.5.self_attn.o_proj.weight", 0),
        ("blk.3.attn_k_norm.weight", "model.layers.3.self_attn.k_norm.weight", 1),
        ("output_norm.weight", "model.norm.weight", 1),
    ):
        value = gguf_library.dequantize(stored[name].data, stored[name].tensor_type) - np.float32(shift)
        assert torch.equal(written[ours], torch.from_numpy(value).to(torch.bfloat16)), name


def _bits_per_byte(folder: Path, text: str) -> float:
    model, tokenizer = load_model(folder, torch.float32), Tokenizer.load(folder)
    bos = [tokenizer.bos_id] if tokenizer.adds_bos else []
    ids = torch.tensor([[*bos, *tokenizer.encode(text)]])
    with torch.no_grad():
        loss: float = model(ids, labels=ids).loss.item()
    return loss * (ids.shape[1] - 1) / math.log(2) / len(text.encode())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_a_real_starter_knows_english(name: str) -> None:
    text = "The sun rises in the east and sets in the west. Water boils at 100 degrees and freezes at 0 degrees."
    # good small models need about one bit a byte of plain English; a wrong layout or rotation needs over three
    assert _bits_per_byte(_starter(name), text) < 1.2


@pytest.mark.slow
def test_real_tokenizer_of_gemma() -> None:
    tokenizer = Tokenizer.load(_starter("gemma-3-270m"))
    assert (tokenizer.special_id("<start_of_turn>"), tokenizer.special_id("<end_of_turn>")) == (105, 106)
    for text in ("東京は日本の首都です。", "a  b\n\n\tc", "naïve café – 10€"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
