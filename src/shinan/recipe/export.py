"""Exporting what a command line names: a run's tuned model with its whole story, or any whole model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from shinan.core.errors import ModelError, RunError
from shinan.models.card import CARD, Card, load_card
from shinan.recipe.named import going_on, is_run, model_folder
from shinan.recipe.stages import ADAPTER
from shinan.report.cards import data_card, model_card
from shinan.report.collect import Report, collect
from shinan.serve.export import Form, check_form, export, gguf_name
from shinan.serve.gguf_file import Type
from shinan.serve.parity import Parity


def export_named(ref: str, form: str, *, type_: str | None, out: Path | None) -> tuple[Path, Parity]:
    """Export the model that `ref` names (see `recipe.named.model_folder`); returns the new folder and its parity.

    Raises ConfigError for an unknown form, RunError for a run without a tuned model or an `out` that exists, and what
    `serve.export.export` raises.
    """
    folder = Path(ref).expanduser()
    run = folder if is_run(folder) else None
    source = model_folder(ref)
    place = out or Path("exports") / f"{(run or source).resolve().name}-{form}"
    check_form(form, type_, place)
    report = _finished(run) if run else None
    card = load_card(source)
    kind, size = cast(Form, form), cast(Type, type_ or "f16")

    def pages(parity: Parity) -> Mapping[str, str]:
        readme = model_card(card, report, use=_use(card, kind, size), parity=parity.lines())
        return {"README.md": readme} | ({"DATA.md": data_card(report)} if report else {})

    if card.base is not None and form != "adapter":
        fix = "export the adapter, or name the run that tuned it if its method ends as whole weights"
        raise ModelError("this is an adapter, and an export begins with the whole model", where=ref, fix=fix)
    beside = source if card.base is not None else source.parent / ADAPTER
    adapter = beside if (beside / CARD).is_file() and (run or card.base is not None) else None
    return place, export(source, place, kind, pages, adapter=adapter, type_=size)


def _finished(run: Path) -> Report:
    """The run's report; an evaluation may be missing, and its cards say so. Raises RunError for one without tuning."""
    report = collect(run)
    if "tune" in report.missing:
        what = f"this run is not tuned as its recipe says: {', '.join(report.missing)} not finished"
        raise RunError(what, where=str(run), fix=f"finish it with `{going_on(run)}`")
    return report


def _use(card: Card, form: Form, type_: Type) -> str:
    """How others load the export."""
    if form == "gguf":
        return f"With llama.cpp, in this folder:\n\n```\nllama-cli -m ./{gguf_name(card, type_)} -cnv\n```"
    ask = (
        'messages = [{"role": "user", "content": "What is the capital of Japan?"}]\n'
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)\n"
        if card.chat
        else 'inputs = tokenizer("The capital of Japan is", return_tensors="pt")\n'
    )
    load = 'model = AutoModelForCausalLM.from_pretrained(".")\n'
    more = ""
    if form == "adapter":
        load = 'base = AutoModelForCausalLM.from_pretrained("BASE")\nmodel = PeftModel.from_pretrained(base, ".")\n'
        more = "from peft import PeftModel\n"
    said = "With peft, on the very base model named above (other weights under its name give other answers)"
    return (
        f"{said if form == 'adapter' else 'With transformers'}, in this folder:\n\n```python\n{more}"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'{load}tokenizer = AutoTokenizer.from_pretrained(".")\n{ask}'
        "reply = model.generate(**inputs, max_new_tokens=64)\n"
        'print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))\n```'
    )
