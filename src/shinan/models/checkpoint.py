"""Loading and saving models. A saved folder is enough for chat, evaluation, serving and further tuning.

Only safetensors are read, never pickle, and no code from a model folder ever runs. torch is imported on first use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from shinan.core.dataset import write_atomic
from shinan.core.errors import ModelError, RunError
from shinan.models import sources
from shinan.models.card import CARD, Card, Parent, load_card, write_card
from shinan.models.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from shinan.models.chat import ChatFormat
    from shinan.models.tokenizer import Tokenizer

__all__ = ["ARCHITECTURES", "ENCODER_DECODERS", "Card", "load_card", "load_model", "save_adapter", "save_model"]

# Decoders whose attention and head the forest batch is tested with, and encoder-decoders that padded batches are.
ENCODER_DECODERS = ("bart", "mt5", "t5")
ARCHITECTURES = ("gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "smollm3")
_LONGEST = 300  # characters of another library's message that are shown
_CHANGES = "notices/CHANGES.txt"
_CACHE_LINE = 64  # bytes


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel | PeftModel:
    """The model of a folder, on the CPU, in eval mode; for an adapter folder, its base with the adapter applied.

    Raises ModelError: files missing, truncated or corrupt, weights that do not fit the config, a type not in
    `ARCHITECTURES` or `ENCODER_DECODERS`, an adapter whose base is not the one it was trained on.
    """
    if (folder / "adapter_config.json").is_file():
        return _load_adapter(folder, dtype)
    if (folder / CARD).is_file():
        load_card(folder)  # checks that the files are whole
    kind = _check_loadable(folder)
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForSeq2SeqLM if kind in ENCODER_DECODERS else AutoModelForCausalLM
    with _as_model_error(folder), quiet_transformers():
        model, info = auto.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    # transformers would fill these with random numbers and only warn
    if info["missing_keys"]:
        lost = ", ".join(sorted(info["missing_keys"])[:3])
        what = f"{len(info['missing_keys'])} weights are missing from its safetensors files, such as {lost}"
        raise ModelError(what, where=str(folder), fix="download or copy the folder again")
    _align(model)
    return model.eval()


def _align(model: PreTrainedModel) -> None:
    """Give weights that lie across cache lines memory of their own. Of a safetensors file they are read in place, from
    wherever its header happens to end, which costs a step of decoding a tenth of its time (LOG.md)."""
    for weight in model.parameters():
        if weight.data_ptr() % _CACHE_LINE:
            weight.data = weight.data.clone()


def _load_adapter(folder: Path, dtype: torch.dtype) -> PeftModel:
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError("adapter_model.safetensors is missing", where=str(folder), fix="save the adapter again")
    card = load_card(folder)
    if card.base is None:
        raise ModelError("the adapter does not name its base model", where=str(folder / CARD))
    base = sources.resolve(card.base)
    if (base / "adapter_config.json").is_file():
        raise ModelError("the base of the adapter is itself an adapter", where=str(base), fix="merge that one first")
    if card.parents and load_card(base).fingerprint != card.parents[0].fingerprint:
        what = f"the adapter was trained on another version of its base {card.base}"
        raise ModelError(
            what, where=str(folder), fix=f"bring back the base with fingerprint {card.parents[0].fingerprint}"
        )
    with _as_model_error(folder), quiet_transformers():
        model = PeftModel.from_pretrained(load_model(base, dtype), str(folder), torch_device="cpu")
    return model.eval()


def _check_loadable(folder: Path) -> str:
    """The model's type, if the folder can be loaded."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
        kind, quantised = config.get("model_type"), config.get("quantization_config")
    except FileNotFoundError:
        raise ModelError(
            "there is no config.json in this folder", where=str(folder), fix="name a model folder"
        ) from None
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"cannot read it: {error}", where=str(path), fix="download or copy the folder again"
        ) from error
    if kind not in (*ARCHITECTURES, *ENCODER_DECODERS):
        fix = f"use a model of one of the types {', '.join((*ARCHITECTURES, *ENCODER_DECODERS))}"
        raise ModelError(f"models of type {kind!r} are not supported", where=str(path), fix=fix)
    if quantised:
        fix = "name the model that it was made from (tune.method: qlora makes its linear layers small while it tunes)"
        raise ModelError("its weights are quantised already, which cannot be tuned here", where=str(path), fix=fix)
    if not any(folder.glob("model*.safetensors")):
        pickled = any(folder.glob("pytorch_model*.bin"))
        what = "its weights are stored as pickle, which can run code" if pickled else "it holds no model*.safetensors"
        raise ModelError(what, where=str(folder), fix="use a folder with weights in safetensors files")
    return str(kind)


@contextmanager
def _as_model_error(folder: Path) -> Iterator[None]:
    """transformers, peft and safetensors tell of bad files by these types."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (SafetensorError, StrictDataclassError, OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        why = " ".join(str(error).split())
        what = f"the model cannot be loaded: {why[:_LONGEST] or type(error).__name__}"
        raise ModelError(what, where=str(folder), fix="download or copy the folder again") from error


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    chat: ChatFormat | None,
    *,
    name: str,
    parents: Sequence[Card],
) -> None:
    """Write a whole model into `folder` (made by `core.dataset.new_folder`), with the licences of its parents.

    The chat format's stop ids go into generation_config.json and its template into tokenizer_config.json, so that
    another server ends a reply and renders a prompt as training did.

    Raises RunError if the disk is full or not writable.
    """
    _save_weights(folder, model)
    _save_text_side(folder, model, tokenizer, chat)
    _finish(folder, chat, name, parents, None)


def save_adapter(
    folder: Path,
    model: PeftModel,
    tokenizer: Tokenizer,
    chat: ChatFormat | None,
    *,
    name: str,
    base: str,
    parents: Sequence[Card],
) -> None:
    """`save_model` for a PEFT adapter: only the adapter's weights are written, and the reference `base` of its base.

    `parents` begins with the base's card; loading checks that the base is still that one.
    """
    _save_weights(folder, model, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an unfilled form; the report writes the real card
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": base}, indent=1), "utf-8"
    )
    _save_text_side(folder, model, tokenizer, chat)
    _finish(folder, chat, name, parents, base)


def _save_weights(folder: Path, model: Any, **options: bool) -> None:
    try:
        with quiet_transformers():
            model.save_pretrained(folder, **options)
    except SafetensorError as error:
        fix = "free some space (`shinan clean` shows what can go)"
        raise RunError(f"cannot write the weights: {error}", where=str(folder), fix=fix) from error


def _save_text_side(folder: Path, model: Any, tokenizer: Tokenizer, chat: ChatFormat | None) -> None:
    """Stop ids, tokenizer and chat template."""
    generation = model.generation_config.to_diff_dict()
    own = generation.get("eos_token_id", tokenizer.eos_id)
    stops = [*(chat.stop_ids if chat else ()), *(own if isinstance(own, list) else [own])]
    generation.pop("_from_model_config", None)
    begun = chat.render_text("") if chat else ()
    if chat and len(begun := begun[chat.source(begun) :]) > 1:  # a bos after what the decoder begins with
        generation["forced_bos_token_id"] = begun[1]
    generation["eos_token_id"] = list(dict.fromkeys(stop for stop in stops if stop is not None))
    write_atomic(folder / "generation_config.json", json.dumps(generation, indent=1) + "\n")
    # a format without a template takes the old one away: none is better than one that the model was not tuned with
    (tokenizer.with_chat_template(chat.jinja) if chat else tokenizer).save(folder)


def _finish(folder: Path, chat: ChatFormat | None, name: str, parents: Sequence[Card], base: str | None) -> None:
    write_card(
        folder,
        name=name,
        chat=chat.name if chat else None,
        parents=[Parent(card.name, card.fingerprint) for card in parents],
        licence=" AND ".join(dict.fromkeys(card.licence for card in parents)) or "unknown",
        notices=_copy_notices(folder, name, parents),
        base=base,
    )


def _copy_notices(folder: Path, name: str, parents: Sequence[Card]) -> list[str]:
    """The parents' licence files, and the statement of change that the Gemma terms and Apache-2.0 ask for."""
    kept: dict[str, bytes] = {}
    for card in parents:
        for notice in card.notices:
            data = (card.folder / notice).read_bytes()
            path = f"notices/{Path(notice).name}"
            if kept.setdefault(path, data) != data:  # two parents, one file name
                kept[f"notices/{card.name.replace('/', '_')}.{Path(notice).name}"] = data
    if parents:
        origin = ", ".join(card.name for card in parents)
        changes = f"{name}: these weights are not the original ones; shinan tuned {origin}.\n"
        kept[_CHANGES] = kept.get(_CHANGES, b"") + changes.encode()
    for path, data in kept.items():
        write_atomic(folder / path, data)
    return sorted(kept)
