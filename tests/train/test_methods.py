"""Methods of tuning: what each trains, that it is folded back exactly, and what is refused."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from shinan.core.errors import ConfigError, ModelError, RunError
from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.train import engine, quantised
from shinan.train.masters import Masters
from shinan.train.methods import METHODS, check, is_adapter, trains_head, whole, wrap
from shinan.train.settings import RATES, FreezeSettings, LoraSettings, TuneSettings
from shinan.train.sft import sft
from shinan.train.step import add_gradients
from tests.models.families import assert_same, branching, make, padded_gradients
from tests.train import runs

MERGING = {
    "lora": TuneSettings(lora=LoraSettings(rank=4)),
    "rslora": TuneSettings(lora=LoraSettings(rank=4, rslora=True)),
    "dora": TuneSettings(lora=LoraSettings(rank=4, dora=True)),
    "rsdora on attention": TuneSettings(lora=LoraSettings(rank=4, rslora=True, dora=True, targets="attention")),
    "ia3": TuneSettings(method="ia3"),
}
IDS = torch.tensor([[5, 9, 33, 12, 7, 60]])


def tuned(model: Any, settings: TuneSettings) -> Any:
    """A wrapped model that has moved away from its start."""
    made = wrap(model, settings, 0)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad:
                weight += (0.2 * torch.randn(weight.shape, generator=source)).to(weight.dtype)
    return made


@pytest.mark.promise4
@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("family", ["gemma3_text", "gpt2", "llama"])
def test_what_is_learned_is_merged_as_peft_merges_in_float64(family: str, name: str) -> None:
    """In fp32 to its last digits; in bf16 rounded once, so that hardly a weight is another than float64's rounded."""
    for dtype in (torch.float32, torch.bfloat16):
        model = tuned(make(family).to(dtype), MERGING[name])
        exact = copy.deepcopy(model).double().merge_and_unload().state_dict()
        merged = whole(model, MERGING[name]).state_dict()
        moved = {weight.data_ptr() for weight in model.parameters()}
        assert merged.keys() == exact.keys()
        for key, weight in merged.items():
            assert weight.data_ptr() not in moved
            assert weight.dtype == dtype
            if dtype is torch.float32:
                torch.testing.assert_close(weight.double(), exact[key], rtol=1e-6, atol=1e-6)
            else:
                near = exact[key].to(dtype)
                assert float((weight == near).double().mean()) > 0.998, key
                torch.testing.assert_close(weight, near, rtol=2**-7, atol=1e-6)


@pytest.mark.promise4
@pytest.mark.parametrize("name", [*MERGING, "qlora", "qdora"])
def test_the_merged_model_computes_what_the_trained_one_did(name: str) -> None:
    lora = LoraSettings(rank=4, targets="attention", dora=name == "qdora")
    settings = MERGING.get(name) or TuneSettings(method="qlora", lora=lora)
    plain = make("llama")
    model = tuned(make("llama"), settings)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        merged = whole(model, settings)
        assert type(merged) is type(plain)
        torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(input_ids=IDS).logits, expected)  # which has stayed as it was
        assert not torch.allclose(plain(input_ids=IDS).logits, expected, atol=1e-2)


def test_four_bits_are_those_of_bitsandbytes() -> None:
    """Each weight is one of 16 values times the scale of its block of 64; the head stays as it is."""
    model = quantised.quantise(make("llama", hidden_size=64))
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == 64 * 32 / 2
    assert layer.weight.quant_state.nested
    assert model.lm_head.weight.dtype == torch.float32
    plain = quantised.restore(model).model.layers[0].self_attn.q_proj.weight
    blocks = plain.view(-1, 64)
    assert max(len(block.unique()) for block in blocks) <= 16
    shares = (blocks / blocks.abs().amax(1, keepdim=True)).unique().tolist()
    # the values of the paper's appendix E
    values = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    values += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    assert all(min(abs(share - value) for value in values) < 1e-6 for share in shares)


@pytest.mark.promise9
@pytest.mark.parametrize("name", [*MERGING, "qlora", "bitfit"])
def test_loss_and_gradients_are_those_of_padded_batches(name: str) -> None:
    settings = MERGING.get(name) or runs.METHODS[name].model_copy(update={"neftune": None})
    rows = branching()
    within = 1e-4 if name == "qlora" else 1e-5  # products of four bits are summed otherwise for each shape
    for family in ("gpt2", "gemma3_text") if name in MERGING else ("llama",):
        model = tuned(make(family), settings)
        masters = Masters(model)
        with Decoder(model, sinks=masters.sinks) as decoder:
            summed = add_gradients(decoder, sft(), [(row,) for row in rows], 40, masters)
        found = {key: weight.grad for key, weight in masters.weights.items() if weight.grad is not None}
        assert_same((summed.loss, found), padded_gradients(tuned(make(family), settings), rows), within)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("full", {""}),
        ("lora", {"lora_A", "lora_B"}),
        ("dora", {"lora_A", "lora_B", "lora_magnitude_vector"}),
        ("qlora", {"lora_A", "lora_B"}),
        ("ia3", {"ia3_l"}),
        ("bitfit", {"bias"}),
        ("prefix", {"prompt_encoder.default.embedding"}),
        ("prefix by a network", {"prompt_encoder.default.embedding", "prompt_encoder.default.transform"}),
        ("prompt", {"prompt_encoder.default.embedding"}),
    ],
)
def test_what_is_trained(name: str, parts: set[str]) -> None:
    model = wrap(make("llama"), runs.METHODS[name], 0)
    trained = [key for key, weight in model.named_parameters() if weight.requires_grad]
    assert all(any(part in key for key in trained) for part in parts)
    assert all(any(part in key for part in parts) for key in trained)


def test_ia3_scales_keys_values_and_the_inside_of_mlps() -> None:
    model = wrap(make("gemma3_text"), TuneSettings(method="ia3"), 0)
    trained = (key for key, weight in model.named_parameters() if weight.requires_grad)
    layers = {key.partition(".layers.")[2].split(".ia3_l")[0] for key in trained}
    assert layers == {
        f"{i}.{layer}" for i in range(3) for layer in ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
    }
    assert model.base_model.model.model.layers[0].mlp.down_proj.is_feedforward
    assert not model.base_model.model.model.layers[0].self_attn.k_proj.is_feedforward


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
def test_the_start_depends_on_the_seed_alone(name: str) -> None:
    def start(seed: int) -> list[Tensor]:
        torch.manual_seed(random.randrange(10**6))
        model = wrap(make("llama"), runs.METHODS[name], seed)
        return [weight for weight in model.parameters() if weight.requires_grad and weight.any()]

    first, again, other = start(3), start(3), start(4)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))


@pytest.mark.parametrize("method", ["full", "lora", "bitfit"])
def test_frozen_blocks_stay(method: Any) -> None:
    model = wrap(make("llama"), TuneSettings(method=method, freeze=FreezeSettings(layers=2)), 0)
    trained = [key for key, weight in model.named_parameters() if weight.requires_grad]
    assert any(".layers.2." in key for key in trained)
    assert not any(".layers.0." in key or ".layers.1." in key for key in trained)


@pytest.mark.promise5
def test_which_methods_train_the_head() -> None:
    tied, apart = make("llama+tied"), make("llama")
    held = TuneSettings(method="full", freeze=FreezeSettings(embeddings=True))
    assert [trains_head(model, held) for model in (tied, apart)] == [False, True]
    trained = wrap(tied, held, 0)
    assert not trained.lm_head.weight.requires_grad
    for method in METHODS:
        settings = TuneSettings(method=method)
        model = wrap(make("llama"), settings, 0)
        head = (model.get_base_model() if hasattr(model, "peft_config") else model).lm_head.weight
        assert trains_head(make("llama"), settings) == head.requires_grad == (method == "full")
        assert is_adapter(settings) == (method in ("prefix", "prompt"))
        assert settings.learning_rate == RATES[method]


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("family", "settings", "sentences"),
    [
        (
            "llama",
            {"lora": {"targets": ["q_prj", "v_proj", "mlp", "lm_head"]}, "freeze": {"layers": 3}},
            [
                "tune.lora.targets: no linear layer of the model's blocks is named 'q_prj'",
                "do this: did you mean 'q_proj'?",
                "no linear layer of the model's blocks is named 'mlp'",
                "no linear layer of the model's blocks is named 'lm_head'",
                "tune.freeze.layers: 3 of 3 blocks are frozen: all\n  do this: freeze at most 2",
            ],
        ),
        ("llama", {"lora": {"targets": []}}, ["no layer is named\n  do this: name some of down_proj, gate_proj"]),
        ("gemma3_text", {"method": "bitfit"}, ["Gemma3ForCausalLM has no biases, and `bitfit` trains nothing else"]),
        ("gpt2", {"method": "qlora"}, ["GPT2LMHeadModel has no layers that can be quantised"]),
        ("llama", {"method": "full", "freeze": {"layers": 4}}, ["4 of 3 blocks are frozen: there are not so many"]),
    ],
)
def test_settings_that_do_not_fit_the_model(family: str, settings: dict[str, Any], sentences: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(make(family), TuneSettings.model_validate(settings))
    for sentence in sentences:
        assert sentence in str(caught.value)


@pytest.mark.promise10
def test_an_adapter_is_not_tuned_again() -> None:
    model = wrap(make("llama"), TuneSettings(method="prompt"), 0)
    with pytest.raises(ModelError, match="this model is an adapter beside its base"):
        wrap(model, TuneSettings(), 0)


@pytest.mark.promise10
def test_quantising_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"needs bitsandbytes\n  do this: install it: pip install 'shinan\[quant\]'"):
        check(make("llama"), TuneSettings(method="qlora"))


@pytest.mark.promise10
def test_options_without_effect_are_told_together() -> None:
    wrong = {
        "method": "full",
        "lora": {"rank": 4},
        "prefix": {},
        "loss": "last",
        "objective": "dpo",
        "optimiser": "lomo",
        "replay": {"from": "texts"},
        "freeze": {},
    }
    with pytest.raises(ValidationError) as caught:
        TuneSettings.model_validate(wrong)
    told = [str(error["ctx"]["error"]) for error in caught.value.errors()]
    assert told == [
        "`lora:` has no effect with `method: full`; remove it or choose `method: lora`",
        "`prefix:` has no effect with `method: full`; remove it or choose `method: prefix`",
        "it freezes nothing; give a number of `layers`, or `embeddings: true`",
        "`objective: dpo` compares the last turns alone; remove it",
        "`optimiser: lomo` keeps no gradients to add those of other text to; choose another",
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "prompt", "freeze": {"layers": 1}}, "`method: prompt` trains no weight of the model"),
        ({"method": "ia3", "freeze": {"embeddings": True}}, "`method: ia3` leaves the embeddings as they are"),
        ({"method": "qlora", "optimiser": "adafactor"}, "saves nothing with `method: qlora`"),
        ({"method": "lora", "prompt": {}}, "`prompt:` has no effect with `method: lora`"),
    ],
)
def test_an_option_without_effect(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        TuneSettings.model_validate(settings)


def test_defaults() -> None:
    assert TuneSettings().lora == LoraSettings(rank=16, alpha=32.0)
    assert LoraSettings(rslora=True).alpha == 8.0
    assert LoraSettings(rslora=True, alpha=16.0).alpha == 16.0
    assert TuneSettings(method="qlora").lora is not None
    assert TuneSettings(method="prompt").prompt is not None
    assert TuneSettings(method="full", optimiser="adafactor").learning_rate == 1e-3
    assert TuneSettings(method="prompt", learning_rate=0.3).learning_rate == 0.3


class _Killed(Exception):  # noqa: N818
    """Ends a run in the middle of a step."""


@pytest.mark.promise3
@pytest.mark.parametrize("name", runs.METHODS)
def test_interrupted_and_continued_is_bit_identical(
    name: str, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended after a step's weights have moved and before they are saved, at a step drawn by the method's name."""
    settings = runs.METHODS[name].model_copy(update={"epochs": 1.0})
    model = runs.with_biases(tmp_path / "model") if name == "bitfit" else tiny_decoder
    stop = random.Random(name).randrange(2, 5)
    log = engine._log

    def logged(run: Any, line: dict[str, Any]) -> None:
        log(run, line)
        if line["step"] == stop and "loss" in line:
            raise _Killed

    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    fitted = runs.train(model, tmp_path / "whole", settings)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "_log", logged)
        with pytest.raises(_Killed):
            runs.train(model, tmp_path / "killed", settings)
    runs.train(model, tmp_path / "killed", settings)
    saved = [(tmp_path / folder / "last.safetensors").read_bytes() for folder in ("whole", "killed")]
    assert saved[0] == saved[1]
    assert fitted.facts["trainable_parameters"] > 0
    moved = load_model(model, torch.float32)
    assert any(_moved(moved, tmp_path / "whole" / "last.safetensors")), "nothing was trained"


def _moved(model: nn.Module, saved: Path) -> list[bool]:
    from safetensors.torch import load_file

    own = dict(model.named_parameters())
    return [name not in own or not torch.equal(weight, own[name]) for name, weight in load_file(saved).items()]


@pytest.mark.promise4
def test_adapters_start_at_the_model(fresh: Callable[..., Any]) -> None:
    """Before the first step, every method that changes weights computes what the model does."""
    ids = torch.tensor([[2, 40, 41, 42]])
    with torch.no_grad():
        expected = fresh()(input_ids=ids).logits
        for name in ("lora", "rslora", "dora", "ia3"):
            found = wrap(fresh(), runs.METHODS[name], 0).eval()(input_ids=ids).logits
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_table_in_the_docs_is_this_one() -> None:
    """docs/methods.md: a row a method, its default rate, and whether it merges."""
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    table = {cells[0].strip("`"): cells for cells in rows if len(cells) == 6}
    assert {name for name in table if " with " not in name} == set(METHODS)
    for name, (_, source, _, merges, rate, when) in table.items():
        method: Any = name.split("`")[0]
        assert float(rate) == RATES[method]
        known = {True: "no", False: "yes"}[METHODS[method].adapter] if METHODS[method].merge or merges != "–" else "–"
        assert merges.startswith(known)
        assert (merges == "–") == (method in ("full", "bitfit"))
        assert when
        assert source == "–" or "arxiv.org/abs/" in source
