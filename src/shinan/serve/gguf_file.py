"""A whole model folder -> one GGUF file, as llama.cpp reads it. Tensor by tensor: the model is never in memory whole.

The layout is that of llama.cpp's convert_hf_to_gguf.py: names by `gguf.TensorNameMap`, rows of Llama's query and key
matrices permuted to its rotary layout, Gemma's norms stored with 1 added, vectors in F32 in every form.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from transformers import AutoConfig

from shinan.core.dataset import cannot_write
from shinan.core.errors import ModelError, RunError
from shinan.models.card import Card
from shinan.models.tokenizer import Tokenizer
from shinan.serve.gguf_tokens import add_tokenizer

Type = Literal["f32", "f16", "q8_0"]
Array = npt.NDArray[Any]

_SAFETENSORS = "export the safetensors form instead"
_FILE_TYPES: Mapping[Type, int] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_SIZES: Mapping[Type, gguf.GGMLQuantizationType] = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
_BLOCK = 32  # numbers of a Q8_0 block, which share a scale


@dataclass(frozen=True, slots=True)
class Family:
    """How a family of models is written.

    Attributes:
        arch: its name in GGUF.
        fixed: settings that the format does not hold: config key -> the only value that readers compute with.
        layout: (tensor name in transformers, its values, config) -> the values as stored.
    """

    arch: gguf.MODEL_ARCH
    fixed: Mapping[str, Any]
    layout: Callable[[str, Array, Any], Array]


def _permute(name: str, values: Array, config: Any) -> Array:
    """Each rotary head's halves, which transformers keeps apart, interleaved (convert_hf_to_gguf.py, LlamaModel)."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )


def _add_one(name: str, values: Array, config: Any) -> Array:
    """llama.cpp's norm multiplies with the weight, Gemma's with 1 + weight."""
    return values + np.float32(1) if name.endswith("norm.weight") else values


_GEMMA_LOCAL = {"rope_type": "default", "rope_theta": 10_000.0}
FAMILIES: Mapping[str, Family] = {
    "gemma3_text": Family(
        gguf.MODEL_ARCH.GEMMA3,
        {
            "hidden_activation": "gelu_pytorch_tanh",
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "attention_bias": False,
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
        },
        _add_one,
    ),
    "llama": Family(
        gguf.MODEL_ARCH.LLAMA, {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}, _permute
    ),
}


def write_gguf(folder: Path, path: Path, type_: Type, card: Card) -> None:
    """Write the model in `folder` as the GGUF file `path`; matrices in the number format `type_`.

    Raises ModelError for a family without a plan, settings that the format cannot hold, a number that float16 cannot,
    and what `add_tokenizer` refuses; RunError if the disk is full.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    family = _family(config, folder)
    tensors = _Tensors(folder)
    writer = gguf.GGUFWriter(str(path), gguf.MODEL_ARCH_NAMES[family.arch])
    _describe(writer, config, card, type_)
    rows = tensors.shape("model.embed_tokens.weight")[0]
    tokenizer = Tokenizer.load(folder)
    add_tokenizer(writer, tokenizer, _stops(folder), rows, where=str(folder))
    names = _names(tensors, family, config, folder)
    sizes = {name: _size(tensors.shape(name), type_) for name in names}
    for name, stored in names.items():
        shape, size = tensors.shape(name), sizes[name]
        block, width = gguf.GGML_QUANT_SIZES[size]
        writer.add_tensor_info(stored, shape, np.dtype(np.float32), int(np.prod(shape)) // block * width, size)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, size in sizes.items():
            values = family.layout(name, tensors.read(name), config)
            writer.write_tensor_data(_packed(values, size, name, folder))
        writer.flush()
    except OSError as error:  # numpy tells a short write without a number
        raise cannot_write(path, error if error.errno else OSError(errno.ENOSPC, "")) from error
    finally:
        _close(writer)


def _close(writer: Any) -> None:
    """Close the file; what a full disk refuses then has been told already."""
    for file in writer.fout or ():
        with suppress(OSError):
            file.close()


def _family(config: Any, folder: Path) -> Family:
    """The plan for a model. Raises ModelError where readers of the format would compute something else."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        what = f"there is no plan for GGUF files of type {config.model_type!r}, only of {' and '.join(FAMILIES)}"
        raise ModelError(what, where=str(folder), fix=_SAFETENSORS)
    wrong = [
        f"{key} is {getattr(config, key, None)} and not {value}"
        for key, value in family.fixed.items()
        if getattr(config, key, None) != value
    ]
    wrong += _wrong_positions(config)
    if wrong:
        what = f"GGUF readers would compute another model: {'; '.join(wrong)}"
        raise ModelError(what, where=str(folder / "config.json"), fix=_SAFETENSORS)
    return family


def _wrong_positions(config: Any) -> Iterator[str]:
    """What of the positions the format cannot say."""
    rope = config.rope_parameters
    if config.model_type == "gemma3_text":
        if rope["sliding_attention"] != _GEMMA_LOCAL:
            yield f"the positions of sliding layers are {rope['sliding_attention']} and not {_GEMMA_LOCAL}"
        every = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(len(config.layer_types))]
        if config.layer_types != every:
            yield "not every sixth layer, and only these, attends to the whole text"
        rope = rope["full_attention"]
    if rope["rope_type"] != "default":
        yield f"positions are scaled ({rope['rope_type']})"


def _describe(writer: Any, config: Any, card: Card, type_: Type) -> None:
    rope = config.rope_parameters
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(card.name)
    writer.add_license(card.licence)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(_FILE_TYPES[type_])
    if type_ == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
        rope = rope["full_attention"]
    else:
        writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])


def _stops(folder: Path) -> list[int]:
    """The ids at which generation_config.json says that a reply ends."""
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").is_file():
        return []
    said = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    return said if isinstance(said, list) else [] if said is None else [said]


def _names(tensors: _Tensors, family: Family, config: Any, folder: Path) -> dict[str, str]:
    """{name in transformers: name in GGUF}, in the order of the layers."""
    known = gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)
    found = {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in tensors.names}
    if config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    lost = [name for name, stored in found.items() if stored is None]
    if lost:
        what = f"the format has no name for {len(lost)} of its weights, such as {lost[0]}"
        raise ModelError(what, where=str(folder), fix=_SAFETENSORS)
    return {name: stored for name, stored in found.items() if stored is not None}


def _size(shape: tuple[int, ...], type_: Type) -> gguf.GGMLQuantizationType:
    """Vectors stay F32; rows that do not divide into blocks stay F16."""
    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    if type_ == "q8_0" and shape[-1] % _BLOCK:
        return gguf.GGMLQuantizationType.F16
    return _SIZES[type_]


def _packed(values: Array, size: gguf.GGMLQuantizationType, name: str, folder: Path) -> Array:
    if size == gguf.GGMLQuantizationType.F16 and float(np.abs(values).max(initial=0)) > float(np.finfo(np.float16).max):
        what = f"{name} holds a number that float16 cannot"
        raise ModelError(what, where=str(folder), fix="export it with --type f32")
    packed: Array = gguf.quantize(np.ascontiguousarray(values), size)
    return packed


class _Tensors:
    """The weights of a folder's safetensors files, read one at a time, in fp32."""

    def __init__(self, folder: Path) -> None:
        """Look the names up. Raises RunError for files that cannot be read."""
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("model*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    self._files |= dict.fromkeys(file.keys(), path)
            except Exception as error:  # the library's own kind, which it does not document
                raise RunError(f"cannot read it: {error}", where=str(path), fix="make the model again") from error
        self.names = sorted(self._files, key=_by_layer)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        with safe_open(self._files[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Array:
        """The values of a tensor."""
        with safe_open(self._files[name], "pt") as file:
            values: Array = file.get_tensor(name).float().numpy()
        return values


def _by_layer(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
