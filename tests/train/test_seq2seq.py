"""Tuning encoder-decoders: the objectives' maths, resume with dropout, adapters, replies of a conversation."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from shinan.core.errors import DataError
from shinan.core.example import Example, Message, Provenance, assistant, user
from shinan.models.chat import ChatFormat, default_format
from shinan.models.checkpoint import load_model
from shinan.models.family import decoder_of
from shinan.models.forest import Bundle, TokenRow
from shinan.models.tokenizer import Tokenizer
from shinan.train import lora
from shinan.train.audit import audit
from shinan.train.dpo import dpo
from shinan.train.facts import ModelFacts, facts_of
from shinan.train.masters import Masters
from shinan.train.rows import TooLong, tokenise
from shinan.train.settings import LoraSettings, SampleSettings, TuneSettings
from shinan.train.sft import sft
from shinan.train.step import add_gradients, mean_loss
from tests.models.families import assert_same, gradients, make_pair, nudge, pair_loss, prompted
from tests.train.runs import SETTINGS, train

TALK = (user("one"), assistant("1"), user("two"), assistant("2"))


@pytest.fixture(scope="module")
def chat(tiny_seq2seq: Path) -> ChatFormat:
    return default_format(Tokenizer.load(tiny_seq2seq))


@pytest.mark.promise9
@pytest.mark.parametrize("family", ["t5", "mt5", "bart"])
@pytest.mark.parametrize("capacity", [60, 10_000])
def test_a_step_of_sft_is_the_mean_over_its_labels(family: str, capacity: int) -> None:
    model = make_pair(family)
    rows = prompted(model.config.decoder_start_token_id)
    bundles: list[Bundle] = [(row,) for row in rows]
    masters = Masters(model)
    with decoder_of(model, masters.sinks) as decoder:
        found = add_gradients(decoder, sft(), bundles, capacity, masters)
        assert mean_loss(decoder, sft(), bundles, capacity) == pytest.approx(found.loss, rel=1e-6)
    assert_same((found.loss, _grads(masters)), gradients(model, pair_loss(model, rows)))


def _grads(masters: Masters) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in masters.weights.items() if weight.grad is not None}


def _pairs(start: int) -> list[Bundle]:
    rows = prompted(start)
    made: list[Bundle] = []
    for one, other in ((1, 6), (0, 7), (8, 4)):
        chosen = rows[one]
        rejected = (*chosen.ids[: chosen.source + 1], *rows[other].ids[rows[other].source + 1 :], 2)
        mask = (False,) * (chosen.source + 1) + (True,) * (len(rejected) - chosen.source - 1)
        made.append((chosen, TokenRow(rejected, mask, chosen.weight, chosen.row, source=chosen.source)))
    return made


def _log_likelihood(model: Any, row: TokenRow) -> Tensor:
    source, target = list(row.ids[: row.source]), list(row.ids[row.source : -1])
    out = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target]))
    own = out.logits[0].double().log_softmax(-1)
    return torch.stack([own[at - row.source - 1, row.ids[at]] for at, on in enumerate(row.mask) if on]).sum()


@pytest.mark.promise9
@pytest.mark.parametrize(("family", "capacity"), [("t5", 10_000), ("bart", 1)])
def test_dpo_is_equation_7(family: str, capacity: int) -> None:
    """-log sigmoid(beta log(pi/ref)(chosen) - beta log(pi/ref)(rejected)), by the models' own logits one by one."""
    model = make_pair(family)
    bundles, untuned, objective, masters = (
        _pairs(model.config.decoder_start_token_id),
        copy.deepcopy(model),
        dpo(beta=0.5),
        Masters(model),
    )
    with decoder_of(model, masters.sinks) as decoder:
        objective.prepare(decoder, bundles, capacity)
        nudge(model)
        found = add_gradients(decoder, objective, bundles, capacity, masters)
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for chosen, rejected in bundles:
        with torch.no_grad():
            was = _log_likelihood(untuned, chosen) - _log_likelihood(untuned, rejected)
        gain = _log_likelihood(model, chosen) - _log_likelihood(model, rejected) - was
        total = total - chosen.weight * torch.sigmoid(0.5 * gain).log()
        weights += chosen.weight
    assert_same((found.loss, _grads(masters)), gradients(model, total / weights))


@pytest.mark.promise3
@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_and_resumed_is_bit_identical_with_dropout(tiny_seq2seq: Path, tmp_path: Path, method: str) -> None:
    assert load_model(tiny_seq2seq, torch.float32).config.dropout_rate == 0.1
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert _start(tiny_seq2seq, whole, method).wait() == 0
    process = _start(tiny_seq2seq, killed, method)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if (killed / "metrics.jsonl").exists() and (killed / "metrics.jsonl").read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.002)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _start(tiny_seq2seq, killed, method).wait() == 0
    assert (killed / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()


def _start(model: Path, out: Path, method: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.train.test_seq2seq", str(model), str(out), method]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def test_dropout_is_drawn_anew_in_every_step(tiny_seq2seq: Path) -> None:
    model = load_model(tiny_seq2seq, torch.float32).train()
    decoder = decoder_of(model)
    batch = decoder.batch([(row,) for row in prompted()])
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(decoder.nll(batch)[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_lora_merges_exactly(tiny_seq2seq: Path) -> None:
    model = lora.wrap(load_model(tiny_seq2seq, torch.float32), LoraSettings(), 0)
    assert type(model).__name__ == "PeftModelForSeq2SeqLM"
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted == {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
    attention = lora.wrap(load_model(tiny_seq2seq, torch.float32), LoraSettings(targets="attention"), 0)
    assert sum("lora_A" in name for name, _ in attention.named_parameters()) == 4 * (2 + 2 + 2)
    nudge(model)
    batch = decoder_of(model).batch([(row,) for row in prompted()])
    before = decoder_of(model).log_probs(batch)
    merged = lora.merge(model)
    torch.testing.assert_close(decoder_of(merged).log_probs(batch), before, rtol=1e-5, atol=1e-5)


def test_training_lowers_the_loss(tiny_seq2seq: Path, tmp_path: Path) -> None:
    fitted = train(tiny_seq2seq, tmp_path, SETTINGS.model_copy(update={"save_every": 30.0, "epochs": 8}))
    assert fitted.facts["final_loss"] < 0.9 * _losses(tmp_path)[0]
    tensors = load_file(tmp_path / "last.safetensors")
    assert "shared.weight" in tensors
    assert "lm_head.weight" not in tensors  # one matrix, trained as one


def test_sample_replies(tiny_seq2seq: Path, tmp_path: Path) -> None:
    train(tiny_seq2seq, tmp_path, SETTINGS.model_copy(update={"epochs": 0.5, "sample": SampleSettings(prompts=2)}))
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) >= 4
    assert all("say " in line["prompt"] for line in lines)
    assert {line["target"].strip() for line in lines} <= {"north", "south", "east", "west", "up", "down"}


def _losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _example(*messages: Message, **more: Any) -> Example:
    return Example(messages, provenance=Provenance("toy", 0), **more)


def _tokens(chat: ChatFormat, bundle: Bundle) -> list[str]:
    return [chat.tokenizer.decode(row.ids, keep_special=True) for row in bundle]


def test_every_reply_of_a_conversation_is_a_row(chat: ChatFormat) -> None:
    example = _example(*TALK)
    [bundle], dropped = tokenise([example], chat, 512)
    assert _tokens(chat, bundle) == [
        "one<eos><pad>1<eos>",
        "User: one\n\nAssistant: 1\n\nUser: two<eos><pad>2<eos>",
    ]
    assert [row.source for row in bundle] == [4, 35]
    assert (dropped, audit([example], [bundle], [], chat, ModelFacts(264))) == ([], [])


def test_a_pair_shares_its_prompt(chat: ChatFormat) -> None:
    example = _example(*TALK, rejected=(assistant("3"),))
    [bundle], _ = tokenise([example], chat, 512, pairs=True)
    assert _tokens(chat, bundle) == [
        f"User: one\n\nAssistant: 1\n\nUser: two<eos><pad>{reply}<eos>" for reply in ("2", "3")
    ]
    assert audit([example], [bundle], [], chat, ModelFacts(264), pairs=True) == []


@pytest.mark.parametrize("too_long", ["truncate", "drop"])
def test_what_is_too_long_loses_the_beginning_of_its_prompt(chat: ChatFormat, too_long: TooLong) -> None:
    example = _example(user("abcdefgh"), assistant("xy"))
    bundles, dropped = tokenise([example], chat, 10, too_long=too_long)
    if too_long == "drop":
        assert [verdict.reason for _, verdict in dropped] == ["too_long"]
        return
    assert _tokens(chat, bundles[0]) == ["aefgh<eos><pad>xy<eos>"]
    assert bundles[0][0].source == 6
    found = audit([example], bundles, [], chat, ModelFacts(264), cut=True)
    assert [(finding.check, finding.severity) for finding in found] == [("cut_context", "warn")]
    assert tokenise([example], chat, 5, too_long="truncate")[1][0][1].reason == "too_long"


def test_an_earlier_reply_that_is_not_trained_is_only_context(chat: ChatFormat) -> None:
    first = Message("assistant", TALK[1].parts, train=False)
    [bundle], _ = tokenise([_example(TALK[0], first, *TALK[2:])], chat, 512)
    assert len(bundle) == 1


def test_the_facts_of_an_encoder_decoder(tiny_seq2seq: Path, chat: ChatFormat) -> None:
    facts = facts_of(load_model(tiny_seq2seq, torch.float32), chat, frozen=True)
    assert facts == ModelFacts(264, None, "")
    long: Sequence[Message] = (user("a" * 30), assistant("b" * 30))
    [bundle], _ = tokenise([_example(*long)], chat, 512)
    assert audit([_example(*long)], [bundle], [], chat, ModelFacts(264, 32)) == []  # on each side
    [finding] = audit([_example(*long)], [bundle], [], chat, ModelFacts(264, 31))
    assert finding.check == "context"


def test_a_tokenizer_larger_than_the_model_stops_the_audit(chat: ChatFormat) -> None:
    example = _example(user("a"), assistant("b"))
    [bundle], _ = tokenise([example], chat, 512)
    found = {finding.check for finding in audit([example], [bundle], [], chat, ModelFacts(100))}
    assert "specials_known" in found


def test_a_refused_length_names_the_row(chat: ChatFormat) -> None:
    with pytest.raises(DataError, match="a row is too long"):
        tokenise([_example(user("a" * 50), assistant("b"))], chat, 10, too_long="refuse")


if __name__ == "__main__":
    rate: dict[str, Any] = {"lora": {"dropout": 0.1}} if sys.argv[3] == "lora" else {}
    options = SETTINGS.model_dump(exclude={"method", "lora", "params"}) | rate
    train(Path(sys.argv[1]), Path(sys.argv[2]), TuneSettings(method=sys.argv[3], **options))  # type: ignore[arg-type]
