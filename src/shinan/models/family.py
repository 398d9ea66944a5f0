"""Which kind of model this is: one text with a forest over it, or an encoder beside a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from shinan.core.errors import ModelError
from shinan.models.decode import DecodeLoop, Row
from shinan.models.decoder import Decoder
from shinan.models.encoded import EncodedLoop
from shinan.models.encoder_decoder import EncoderDecoder
from shinan.models.tokenizer import Tokenizer

# Pre-training length of mT5 (Xue et al. 2021, arXiv 2010.11934, section 3.2), whose config tells none. Its positions
# are relative: more is possible, and untried.
_CONTEXT = 1024


def is_encoder_decoder(model: Any) -> bool:
    """Whether a transformers model, perhaps wrapped by PEFT, has an encoder of its own for the prompt."""
    return bool(model.config.is_encoder_decoder)


def decoder_of(model: Any, sinks: Mapping[nn.Parameter, Tensor] | None = None, noise: float = 0.0) -> Decoder:
    """The model over the batches that fit it (see `Decoder`). Raises ModelError as `Decoder` does."""
    return (EncoderDecoder if is_encoder_decoder(model) else Decoder)(model, sinks=sinks, noise=noise)


def loop_of(model: Any, *, slots: int = 16) -> DecodeLoop | EncodedLoop:
    """The decode loop that fits the model. Raises ModelError as `DecodeLoop` does."""
    return (EncodedLoop if is_encoder_decoder(model) else DecodeLoop)(model, slots=slots)


def decode(model: Any, rows: Sequence[Row], *, slots: int = 16) -> None:
    """Continue every row in place until it stops or has `max_new_tokens`."""
    loop = loop_of(model, slots=slots)
    for row in rows:
        loop.add(row)
    while not loop.idle:
        loop.step()


def check_vocabulary(model: Any, tokenizer: Tokenizer) -> None:
    """Raise ModelError if the tokenizer writes tokens for which the model has no embedding."""
    if why := tokenizer.beyond(model.get_input_embeddings().weight.shape[0]):
        fix = "take tokenizer and weights from the same model folder"
        raise ModelError(why, where=str(model.config.name_or_path), fix=fix)


def context_of(model: Any) -> int | None:
    """Tokens that the model can attend to, or was trained with; None if its config does not say."""
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(said := getattr(model.config, name, None), int):
            return said
    return _CONTEXT if is_encoder_decoder(model) else None
