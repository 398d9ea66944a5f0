"""A tuned model in the form that others load: a transformers folder, a peft adapter, or a GGUF file.

Each form is loaded again from disk by another library than wrote it, and must say what the trained model says
(`parity`); else nothing is left behind.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from shinan.core.dataset import new_folder, write_atomic
from shinan.core.errors import ConfigError, ModelError, Problem, RunError, nearest
from shinan.models import gguf, sources
from shinan.models.card import CARD, Card, load_card
from shinan.models.checkpoint import load_model
from shinan.models.quiet import quiet_transformers
from shinan.serve.gguf_file import Type, write_gguf
from shinan.serve.parity import BF16, EXACT, F16, Q8_0, Behaviour, Parity, Rounding, compare, observe, refuse

Form = Literal["safetensors", "adapter", "gguf"]
FORMS: tuple[Form, ...] = ("safetensors", "adapter", "gguf")
TYPES: tuple[Type, ...] = ("f16", "q8_0", "f32")
Pages = Callable[[Parity], Mapping[str, str]]
"""The cards to put beside a model, file name -> text, once it is known how near it is."""

_ROUNDING: Mapping[Type, Rounding] = {"f32": EXACT, "f16": F16, "q8_0": Q8_0}


def check_form(form: str, type_: str | None, out: Path) -> None:
    """Raises ConfigError for a form or type that is none, RunError for an `out` that exists."""
    problems = []
    if form not in FORMS:
        problems.append(Problem(f"no form is named {form!r}", "--to", nearest(form, FORMS)))
    if type_ is not None and type_ not in TYPES:
        problems.append(Problem(f"no number format is named {type_!r}", "--type", nearest(type_, TYPES)))
    elif type_ is not None and form != "gguf":
        problems.append(Problem(f"a number format is for GGUF files, not for {form}", "--type", "leave it out"))
    if problems:
        raise ConfigError(problems)
    if out.exists():
        raise RunError("this exists, and nothing is written over", where=str(out), fix="name another --out, or move it")


def export(trained: Path, out: Path, form: Form, pages: Pages, *, adapter: Path | None, type_: Type = "f16") -> Parity:
    """Write a model to the new folder `out`, check it, and put its cards and parity.json beside it.

    Args:
        trained: folder of the whole tuned model, which the export is compared with.
        out: where to; must not exist.
        form: a name in `FORMS`.
        pages: makes the cards.
        adapter: folder of the adapter, for the form `adapter`.
        type_: number format of a GGUF file's matrices.

    Raises ModelError for a model that the form cannot hold, or whose export says something else than the model does;
    RunError if the disk is full.
    """
    card = load_card(trained)
    with new_folder(out) as beside:
        if form == "gguf":
            parity = _gguf(trained, beside, card, type_)
        elif form == "adapter":
            parity = _adapter(trained, beside, adapter)
        else:
            parity = _safetensors(trained, beside, card)
        refuse(parity, out)
        write_atomic(beside / "parity.json", json.dumps(asdict(parity), ensure_ascii=False, indent=1) + "\n")
        for name, text in pages(parity).items():
            write_atomic(beside / name, text)
    return parity


def gguf_name(card: Card, type_: Type) -> str:
    """What the GGUF file of a model is called."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', card.name).strip('-.') or 'model'}-{type_}.gguf"


def _safetensors(trained: Path, out: Path, card: Card) -> Parity:
    _copy(trained, out, card)
    with quiet_transformers():
        model = _loaded(out).eval()
        tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    return _compared(observe(trained), model, tokenizer, EXACT, "safetensors", "transformers", [])


def _adapter(trained: Path, out: Path, adapter: Path | None) -> Parity:
    if adapter is None:
        fix = "export the safetensors form; or tune with `method: lora`"
        raise ModelError("there is no adapter: all weights were tuned", where=str(trained), fix=fix)
    card = load_card(adapter)
    load_model(adapter, torch.float32)  # checks that its base is the one it was trained on
    _copy(adapter, out, card)
    config = trained / "config.json"  # an adapter that was not merged has none
    merged = json.loads(config.read_text("utf-8")).get("dtype") if config.is_file() else "float32"
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(_loaded(sources.resolve(str(card.base))), str(out)).eval()
        tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    rounding = EXACT if merged == "float32" else BF16
    return _compared(observe(trained), model, tokenizer, rounding, "adapter", "peft", [])


def _loaded(folder: Path) -> Any:
    """A whole model by transformers alone, in fp32."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return loader.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _gguf(trained: Path, out: Path, card: Card, type_: Type) -> Parity:
    name = gguf_name(card, type_)
    write_gguf(trained, out / name, type_, card)
    _copy_notices(trained, out, card)
    behaviour = observe(trained)
    original = load_model(trained, torch.float32)
    model, tokenizer = gguf.read(out / name, torch.float32)
    wrong = list(_different_weights(original, model.state_dict(), type_))
    del original
    return _compared(behaviour, model.eval(), tokenizer, _ROUNDING[type_], f"gguf {type_}", "transformers", wrong)


def _compared(
    trained: Behaviour, model: Any, tokenizer: Any, rounding: Rounding, form: str, reader: str, wrong: list[str]
) -> Parity:
    with quiet_transformers():
        return compare(trained, model, tokenizer, rounding, form=form, reader=reader, wrong=wrong)


def _different_weights(original: Any, read: Mapping[str, torch.Tensor], type_: Type) -> list[str]:
    """Weights that are not what the number format makes of the original ones."""
    wrong = []
    for name, weight in original.state_dict().items():
        allowed = _allowed(weight, type_)
        if name not in read or bool(((read[name] - _stored(weight, type_)).abs() > allowed).any()):
            wrong.append(f"{name} was read back with other numbers")
    return wrong[:3]


def _stored(weight: torch.Tensor, type_: Type) -> torch.Tensor:
    """A weight as the form should give it back, but for `_allowed`."""
    halves = type_ == "f16" or (type_ == "q8_0" and weight.shape[-1] % 32)
    return weight.half().float() if halves and weight.ndim > 1 else weight


def _allowed(weight: torch.Tensor, type_: Type) -> torch.Tensor | float:
    """How far a weight may be off: nothing in F32 and F16; in Q8_0 half a step, and 127 times the scale's rounding.

    Vectors are kept in F32, Gemma's norms with 1 added, which rounds numbers under 1 to 2^-24.
    """
    if weight.ndim == 1:
        return 2.0**-23 * (1 + float(weight.abs().max()))
    if type_ != "q8_0" or weight.shape[-1] % 32:
        return 0.0
    largest = weight.reshape(*weight.shape[:-1], -1, 32).abs().amax(-1)
    return (largest * (0.5 / 127 + 2.0**-11) + 1e-7).repeat_interleave(32, -1)


def _copy(folder: Path, out: Path, card: Card) -> None:
    """A model folder with all that it needs, and nothing else that lies there."""
    if (folder / CARD).is_file():
        names = [*json.loads((folder / CARD).read_text("utf-8"))["files"], CARD]
    else:
        names = [path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")]
    for name in names:
        shutil.copyfile(folder / name, out / name)
    _copy_notices(folder, out, card)


def _copy_notices(folder: Path, out: Path, card: Card) -> None:
    for notice in card.notices:
        (out / notice).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / notice, out / notice)
