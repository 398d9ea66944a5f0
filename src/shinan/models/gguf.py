"""A GGUF file -> a model folder: dequantised weights, config, tokenizer."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from shinan.core.dataset import write_atomic
from shinan.core.errors import ModelError
from shinan.models.quiet import quiet_transformers

_MACHINE_FACTS = (
    "_name_or_path",
    "_from_model_config",
    "transformers_version",
    "is_local",
    "local_files_only",
    "backend",
)


def convert(path: Path, folder: Path) -> None:
    """Write config.json, model.safetensors (bfloat16), generation_config.json and the tokenizer's files into `folder`.

    transformers dequantises in float32 and rounds once. Raises ModelError for a file that is not a readable GGUF.
    """
    model, tokenizer = read(path, torch.bfloat16)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder, save_jinja_files=False)
    # any server reads tokenizer.json as it is under this class, whatever its version of transformers
    _edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    _edit(folder / "config.json")
    _edit(folder / "generation_config.json")


def read(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """A GGUF file as transformers reads it: model and tokenizer. Raises ModelError for a file that is not readable."""
    # transformers draws a bar on stderr that none of its settings switches off
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        try:
            with _parsed_once(path) as reader:
                model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
                tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
            fix = "delete it and try again"
            raise ModelError(f"cannot read this GGUF file: {error}", where=str(path), fix=fix) from error
    _forget_quantisation(model)
    _split_digits(reader, tokenizer)
    return model, tokenizer


@contextlib.contextmanager
def _parsed_once(path: Path) -> Iterator[Any]:
    """Parse the file for the block and lend the result to transformers.

    It would parse it three times, 10 s each for Gemma's vocabulary, and build the table of names once a module.
    """
    original, name_map = gguf.GGUFReader, gguf.get_tensor_name_map
    reader = original(path)
    gguf.GGUFReader, gguf.get_tensor_name_map = lambda *_: reader, functools.cache(name_map)
    try:
        yield reader
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = original, name_map


def _forget_quantisation(model: Any) -> None:
    """transformers refuses to save a model that came from GGUF, though its weights are plain numbers by now."""
    vars(model.config).pop("quantization_config", None)
    model.hf_quantizer = None


def _split_digits(reader: Any, tokenizer: Any) -> None:
    """SmolLM's tokenizer takes each digit alone; the GGUF says so by a name, which transformers does not look at.

    Without it `a  1` (two blanks) and the like give other tokens than the model was trained on.
    """
    field = reader.fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def _edit(path: Path, **changes: str) -> None:
    """Rewrite a JSON file without what only tells of this machine, so that equal models have equal fingerprints."""
    value = json.loads(path.read_text("utf-8"))
    kept = {key: item for key, item in value.items() if key not in _MACHINE_FACTS} | changes
    write_atomic(path, json.dumps(kept, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
