"""The decode loop of encoder-decoders: its tokens are those of `model.generate`, whatever runs beside a row."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from shinan.core.errors import DataError
from shinan.models.decode import Row
from shinan.models.encoded import EncodedLoop
from shinan.models.family import decode, loop_of
from shinan.models.generator import Sampling
from tests.models.families import ENCODER_DECODERS, VOCABULARY, make_pair

every_family = pytest.mark.parametrize("family", ENCODER_DECODERS)
EOS = 2


def row(prompt: list[int], source: int, new: int, **more: Any) -> Row:
    sampling = Sampling(new, **more)
    return Row(prompt, sampling, seed=len(prompt), stopped=lambda ids: ids[-1] == EOS, source=source)


def rows(model: Any, count: int = 14, **more: Any) -> list[Row]:
    """Prompts and limits of many lengths; some prompts twice, some with a beginning for the decoder."""
    draw = random.Random(3)
    start = model.config.decoder_start_token_id
    made = []
    for number in range(count):
        source = [*(draw.randrange(3, VOCABULARY) for _ in range(1 + number * 7 % 13)), EOS]
        begun = [start, *([5, 6] if number % 4 == 1 else [])]
        made.append(row([*source, *begun], len(source), 3 + number * 5 % 11, **more))
    return [*made, row(list(made[2].prompt), made[2].source, 9, **more)]


def alone(model: Any, one: Row) -> list[int]:
    """What transformers generates for a row, by itself."""
    out = model.generate(
        input_ids=torch.tensor([one.prompt[: one.source]]),
        attention_mask=torch.ones(1, one.source, dtype=torch.int64),
        decoder_input_ids=torch.tensor([one.prompt[one.source :]]),
        max_new_tokens=one.sampling.max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=EOS,
        forced_eos_token_id=None,
    )
    return [int(id_) for id_ in out[0][len(one.prompt) - one.source :]]


@every_family
@pytest.mark.parametrize("slots", [1, 4, 32])
def test_greedy_tokens_are_those_of_generate(family: str, slots: int) -> None:
    model = make_pair(family)
    made = rows(model)
    decode(model, made, slots=slots)
    for one in made:
        assert one.ids == alone(model, one)
        assert one.finish == ("stop" if one.ids[-1] == EOS else "length")
    assert len({len(one.ids) for one in made}) > 4  # rows have ended, and others have taken their slots


@every_family
def test_log_probabilities_are_the_models_own(family: str) -> None:
    model = make_pair(family)
    made = rows(model)
    decode(model, made, slots=4)
    for one in made:
        logits = model(
            input_ids=torch.tensor([one.prompt[: one.source]]),
            decoder_input_ids=torch.tensor([[*one.prompt[one.source :], *one.ids[:-1]]]),
        ).logits[0, len(one.prompt) - one.source - 1 :]
        own = logits.log_softmax(-1)[torch.arange(len(one.ids)), torch.tensor(one.ids)]
        torch.testing.assert_close(torch.tensor(one.logprobs), own.detach(), rtol=1e-4, atol=1e-5)


def test_draws_do_not_depend_on_what_runs_beside() -> None:
    model = make_pair("t5")
    together, apart = rows(model, temperature=1.5), rows(model, temperature=1.5)
    decode(model, together, slots=5)
    for one in apart:
        decode(model, [one])
    assert [one.ids for one in together] == [one.ids for one in apart]
    assert [one.ids for one in together] != [one.ids for one in _decoded(model, rows(model))]


def _decoded(model: Any, made: list[Row]) -> list[Row]:
    decode(model, made)
    return made


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_cancelled_row_leaves_the_others_as_they_are(family: str) -> None:
    model = make_pair(family)
    made, gone = rows(model), rows(model)[3]
    loop = loop_of(model, slots=4)
    assert isinstance(loop, EncodedLoop)
    for one in [*made[:3], gone, *made[3:]]:
        loop.add(one)
    waiting = rows(model)[5]
    loop.add(waiting)
    loop.step()
    loop.cancel(gone)
    loop.cancel(waiting)
    ended = []
    while not loop.idle:
        ended += loop.step()
    assert (gone.finish, waiting.finish) == ("cancelled", "cancelled")
    assert len(ended) == len(made)
    assert all(one.ids == alone(model, one) for one in made)


def test_rows_wait_for_memory() -> None:
    model = make_pair("t5")
    made = rows(model)
    loop = EncodedLoop(model, slots=8, max_tokens=60)
    for one in made:
        loop.add(one)
    most = 0
    while not loop.idle:
        loop.step()
        if loop._running:
            most = max(most, loop._seen.numel() + len(loop._running) * loop._cache.get_seq_length())
    assert 20 < most <= 60
    assert all(one.ids == alone(model, one) for one in made)


def test_a_row_that_asks_for_nothing_ends_at_once() -> None:
    model = make_pair("t5")
    nothing = row([5, EOS, 0], 2, 0)
    decode(model, [nothing])
    assert (nothing.ids, nothing.finish) == ([], "length")


def test_a_prompt_that_several_rows_share_is_encoded_once() -> None:
    model = make_pair("t5")
    counts = []
    handle = model.encoder.register_forward_hook(
        lambda _module, _args, kwargs, _out: counts.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    decode(model, [row([5, 6, EOS, 0], 3, 2) for _ in range(4)])
    handle.remove()
    assert counts == [1]


@pytest.mark.parametrize(
    ("prompt", "source", "new", "said"),
    [
        ([EOS, 0], 0, 4, "the prompt has no tokens"),
        ([5, EOS], 2, 4, "the prompt has no tokens"),
        ([5, EOS, 0], 2, 40, "takes 2 tokens and its continuation may take 41; there is room for 40 on each side"),
        ([5] * 41 + [0], 41, 1, "takes 41 tokens"),
        ([64, EOS, 0], 2, 1, "the prompt holds token 64, and the model has embeddings for 64"),
    ],
)
def test_a_row_that_could_never_run_is_refused(prompt: list[int], source: int, new: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        loop_of(make_pair("bart")).add(row(prompt, source, new))
