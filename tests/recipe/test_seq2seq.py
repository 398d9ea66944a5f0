"""The recipe for encoder-decoders, cut small: checked, run, asked again, read by people."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from shinan.cli.main import app
from shinan.core.dataset import read_manifest, read_rows
from shinan.core.errors import ConfigError, ModelError
from shinan.core.example import user
from shinan.models.card import load_card
from shinan.models.chat import default_format
from shinan.models.checkpoint import load_model
from shinan.models.generator import Question, Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.open import open_generator
from shinan.models.tokenizer import Tokenizer
from shinan.recipe.check import check
from shinan.recipe.run import run
from shinan.recipe.schema import Recipe, load_recipe
from shinan.serve.chat import open_conversation

RECIPE = Path(__file__).parents[2] / "recipes/flan-t5.yaml"
SMALL = [
    *("build.0.with.limit=8", "evaluate.0.with.limit=4", "evaluate.0.max_new_tokens=4"),
    *("tune.batch_size=4", "tune.epochs=1", "tune.validation=0.2", "tune.max_tokens=2048"),
]
GREEDY = Sampling(max_new_tokens=6)


def small(*more: str) -> Recipe:
    return load_recipe(RECIPE, [*SMALL, *more])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHINAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run(small(), tmp_path_factory.mktemp("runs") / "flan-t5")


def test_the_recipe_loads_as_it_is() -> None:
    recipe = load_recipe(RECIPE)
    assert (recipe.model, recipe.chat, recipe.tune.learning_rate) == ("tiny:seq2seq", "flan", 5e-4)


@pytest.mark.promise1
def test_the_recipe_runs_from_end_to_end(tuned: Path) -> None:
    training = read_manifest(tuned / "stages" / "tune")
    before = read_manifest(tuned / "stages" / "evaluate.heldout.before")
    compared = read_manifest(tuned / "stages" / "compare")
    assert training is not None
    assert before is not None
    assert compared is not None
    assert training.facts["examples"] + training.facts["validation_examples"] == training.tally["kept"] == 8
    assert {row["metric"] for row in compared.facts["evaluation"]} == {"rouge_l", "exact_match"}
    assert list(before.facts["styles"]) == ["flan"]  # a base model's plain style has no meaning here


@pytest.mark.promise4
def test_the_saved_model_is_what_was_trained(tuned: Path) -> None:
    """Another program gets the same ids for the text, and the same greedy reply."""
    best = tuned / "checkpoints" / "best"
    card = load_card(best)
    assert card.chat == "flan"
    generator = open_generator(str(best))
    assert isinstance(generator, LocalGenerator)
    messages = (user("Say north."),)
    [reply] = generator.generate([Request(messages, sampling=GREEDY)])
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(best)
    ids = tokenizer("Say north.", return_tensors="pt").input_ids
    prompt = generator.chat.render_prompt(messages)
    assert list(prompt[: generator.chat.source(prompt)]) == ids[0].tolist()
    model = AutoModelForSeq2SeqLM.from_pretrained(best, dtype=generator.model.dtype)
    assert generator.chat.stop_ids[0] in model.generation_config.eos_token_id
    out = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0].tolist()
    assert out[: 1 + len(reply.ids)] == [model.config.decoder_start_token_id, *reply.ids]


def test_options_have_the_likelihood_of_the_decoder(tiny_seq2seq: Path) -> None:
    model = load_model(tiny_seq2seq, torch.float32)
    chat = default_format(Tokenizer.load(tiny_seq2seq))
    local = LocalGenerator("tiny", model, chat)
    options = ("yes", "no", "maybe")
    asked, raw = local.score(
        [Question((user("Is it?"),), options=options), Question(prompt="Is it? ", options=options)]
    )
    encode = chat.tokenizer.encode
    for blank, found in (("", asked), (" ", raw)):
        for option, one in zip(options, found, strict=True):
            labels = encode(blank + option)
            logits = model(
                input_ids=torch.tensor([[*encode("Is it?"), 1]]), decoder_input_ids=torch.tensor([[0, *labels[:-1]]])
            ).logits[0]
            exact = logits.log_softmax(-1)[torch.arange(len(labels)), torch.tensor(labels)].sum()
            assert one.logprob == pytest.approx(exact.item(), abs=1e-4)
            assert one.tokens == len(labels)


def test_check_audits_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    checked = check(small(), tmp_path / "run", measure=True)
    assert [finding for finding in checked.findings if finding.severity == "stop"] == []
    assert checked.forecast is not None
    assert checked.forecast.seconds["tune"] > 0


def test_people_can_read_rows_and_follow_them(tuned: Path) -> None:
    best = str(tuned / "checkpoints" / "best")
    seen = CliRunner().invoke(app, ["peek", str(tuned / "stages" / "curate"), "-n", "1", "--model", best])
    assert seen.exit_code == 0, seen.output
    assert "<eos><pad>⟦" in seen.output.replace("\n", "")
    row = read_rows(tuned / "stages" / "curate")[0].row
    traced = CliRunner().invoke(app, ["trace", row, "--run", str(tuned)])
    assert traced.exit_code == 0, traced.output
    assert "<eos><pad>⟦" in traced.output.replace("\n", "")


def test_a_conversation(tuned: Path) -> None:
    talk = open_conversation(str(tuned / "checkpoints" / "best"), None, GREEDY, seed=0, opening="Be brief.")
    assert talk.context == 2048
    talk.ask("one")
    assert talk.ask("two").new_tokens > 0
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 2


def test_adapters_are_tuned_and_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    lora = ["tune.method=lora", "tune.optimiser=adamw"]
    folder = run(small(*lora), tmp_path / "run")
    assert (folder / "checkpoints" / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("tune.instances_per_prompt=4", ConfigError, "an encoder-decoder shares whole prompts only"),
        ("chat=alpaca", ModelError, "chat format 'alpaca' is for a decoder-only model, which this one is not"),
    ],
)
def test_what_has_no_meaning_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, error: type[Exception], said: str
) -> None:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(error, match=said):
        check(small(change), tmp_path / "run")
