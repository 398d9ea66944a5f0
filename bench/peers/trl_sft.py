"""TRL's SFTTrainer on a workload of tokenised rows; prints one JSON line. Run by a Python that has TRL:

python -m bench.peers.trl_sft WORKLOAD.json MODEL_FOLDER [--method lora] [--loss …] [--batching …] [--precision …]

`--liger` takes Liger's kernels for norms, rotations and MLPs (TRL keeps its own loss). Not run yet: they need a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from datasets import Dataset
from transformers import Trainer
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found, unused-ignore]

from bench.peers.measure import Meter, adapter, options, rows_of, settings, tokenizer

BATCHINGS = ("plain", "grouped", "packed", "padding-free")
"""As in the file; by TRL's length grouping; TRL's best-fit packs; each batch laid out in one row without padding."""

LOSSES = ("chunked", "full-logits")
"""TRL's own loss (`nll`, and since 1.16 also `chunked_nll`: one code path), or transformers' over all the logits."""


class FullLogits(SFTTrainer):  # type: ignore[misc, unused-ignore]
    """SFTTrainer with the loss of transformers' Trainer.

    TRL's own computes the head a second time in the backward pass and, where no Triton kernel runs (on a CPU), at
    unlabelled positions too: whether it is the faster one there has to be measured.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own cross-entropy over logits of every position."""
        return Trainer.compute_loss(self, model, inputs | {"use_cache": False}, return_outputs, num_items_in_batch)


def main() -> None:
    """Tune once over the rows."""
    chosen = options(__doc__ or "", BATCHINGS, LOSSES, ["--liger"])
    rows, batch_size = rows_of(chosen, "sft")
    kernels = {"use_liger_kernel": True} if chosen.liger else {}
    meter = Meter()
    with tempfile.TemporaryDirectory() as place:
        trainer = (SFTTrainer if chosen.loss == "chunked" else FullLogits)(
            model=str(chosen.model),
            args=SFTConfig(**settings(chosen, batch_size, place) | layout(chosen, rows, batch_size) | kernels),
            train_dataset=Dataset.from_list([labelled(row) for row in rows]),
            processing_class=tokenizer(chosen.model),
            peft_config=adapter(chosen.method),
        )
        meter.train(trainer, chosen)
    print(meter.line(chosen, ["liger-kernel"] if chosen.liger else []))


def labelled(row: dict[str, list[int]]) -> dict[str, list[int]]:
    """A workload's row in TRL's columns."""
    labels = [token if on else -100 for token, on in zip(row["ids"], row["mask"], strict=True)]
    return {"input_ids": row["ids"], "labels": labels}


def layout(chosen: argparse.Namespace, rows: list[dict[str, list[int]]], batch_size: int) -> dict[str, Any]:
    """The settings of a batching. A pack holds what a batch holds on average, so that the steps are about as many."""
    if chosen.batching == "grouped":
        return {"train_sampling_strategy": "group_by_length"}
    if chosen.batching == "padding-free":
        return {"padding_free": True}
    if chosen.batching == "packed":
        lengths = [len(row["ids"]) for row in rows]
        capacity = max(*lengths, -(-sum(lengths) * batch_size // len(rows)))  # longer rows would be cut
        order = "random" if chosen.until else "sequential"  # packs come longest rows first: a limit would cut the short
        packs = {"packing": True, "packing_strategy": "bfd", "max_length": capacity, "per_device_train_batch_size": 1}
        return packs | {"train_sampling_strategy": order}
    return {}


if __name__ == "__main__":
    main()
