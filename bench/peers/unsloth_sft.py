"""Unsloth on a workload of tokenised rows; prints one JSON line. Run by a Python that has it, on a GPU; not run yet:

    python -m bench.peers.unsloth_sft WORKLOAD.json MODEL_FOLDER [--method lora] [--batching …] [--precision …]

It patches TRL's trainer while it is imported, so that it has to come first, and all else is as in `trl_sft`.
"""

# ruff: noqa: I001
from __future__ import annotations

from unsloth import FastLanguageModel  # type: ignore[import-not-found, unused-ignore]

import tempfile
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found, unused-ignore]

from bench.peers.measure import Meter, adapter, options, rows_of, settings
from bench.peers.trl_sft import labelled, layout

BATCHINGS = ("packed", "padding-free", "plain")
LOSSES = ("own",)
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # it takes no `all-linear`


def main() -> None:
    """Tune once over the rows."""
    chosen = options(__doc__ or "", BATCHINGS, LOSSES)
    rows, batch_size = rows_of(chosen, "sft")
    meter = Meter()
    with tempfile.TemporaryDirectory() as place:
        given = settings(chosen, batch_size, place) | layout(chosen, rows, batch_size)
        model, tokenizer = FastLanguageModel.from_pretrained(
            model_name=str(chosen.model),
            max_seq_length=given["max_length"] or max(len(row["ids"]) for row in rows),
            dtype=given.pop("model_init_kwargs")["dtype"],
            load_in_4bit=False,
            full_finetuning=chosen.method == "full",
        )
        trainer = SFTTrainer(
            model=_adapted(model, chosen.method),
            args=SFTConfig(**given),
            train_dataset=Dataset.from_list([labelled(row) for row in rows]),
            processing_class=tokenizer,
        )
        meter.train(trainer, chosen)
    print(meter.line(chosen, ["unsloth"]))


def _adapted(model: Any, method: str) -> Any:
    config = adapter(method)
    if config is None:
        return model
    return FastLanguageModel.get_peft_model(
        model,
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_LINEAR,
        use_gradient_checkpointing=False,
        random_state=0,
    )


if __name__ == "__main__":
    main()
