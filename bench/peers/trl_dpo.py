"""TRL's DPOTrainer on a workload of tokenised preference pairs; prints one JSON line. Run by a Python that has TRL:

    python -m bench.peers.trl_dpo WORKLOAD.json MODEL_FOLDER [--method lora] [--batching …] [--precision …]

Beta 0.1. The reference model's log-probabilities are computed before training; their seconds are told apart.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer  # type: ignore[import-not-found, unused-ignore]

from bench.peers.measure import Meter, adapter, options, rows_of, settings, tokenizer

BATCHINGS = ("plain", "grouped")  # TRL 1.16 has no packing for pairs and switches padding_free off
LOSSES = ("chunked",)  # and no other way to the log-probabilities


class TokenisedPairs(DPOTrainer):  # type: ignore[misc, unused-ignore]
    """DPOTrainer that takes rows of token ids (it would tokenise text by itself) and times the reference pass."""

    reference_seconds = 0.0

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, *arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        dataset = super()._precompute_ref_logps(*arguments, **keywords)
        self.reference_seconds += time.perf_counter() - start
        return dataset


def main() -> None:
    """Tune once over the pairs."""
    chosen = options(__doc__ or "", BATCHINGS, LOSSES)
    pairs, batch_size = rows_of(chosen, "dpo")
    columns: list[dict[str, Any]] = [{f"{name}_ids": ids for name, ids in pair.items()} for pair in pairs]
    layout: dict[str, Any] = {"beta": 0.1, "precompute_ref_log_probs": True}
    if chosen.batching == "grouped":  # the sampler finds the lengths only in a column that must not be removed
        layout |= {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
        for column, pair in zip(columns, pairs, strict=True):
            column["length"] = len(pair["prompt"]) + max(len(pair["chosen"]), len(pair["rejected"]))
    meter = Meter()
    with tempfile.TemporaryDirectory() as place:
        trainer = TokenisedPairs(
            model=str(chosen.model),
            args=DPOConfig(**settings(chosen, batch_size, place) | layout),
            train_dataset=Dataset.from_list(columns),
            processing_class=tokenizer(chosen.model),
            peft_config=adapter(chosen.method),
        )
        meter.train(trainer, chosen)
    print(meter.line(chosen, reference_seconds=trainer.reference_seconds))


if __name__ == "__main__":
    main()
