"""Loading and saving: the same numbers, the right stops and template, licences, and a sentence for what is broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from shinan.core.dataset import new_folder
from shinan.core.errors import ModelError, RunError
from shinan.core.example import assistant, user
from shinan.models import tiny
from shinan.models.card import CARD, load_card, write_card
from shinan.models.chat import chat_format
from shinan.models.checkpoint import ARCHITECTURES, load_model, save_adapter, save_model
from shinan.models.quiet import quiet_transformers
from shinan.models.tokenizer import Tokenizer

IDS = torch.tensor([[2, 40, 41, 42, 43]])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    with new_folder(folder) as beside:
        tiny.build("decoder", beside)
        (beside / "notices").mkdir()
        (beside / "notices" / "TERMS.txt").write_text("the terms")
        write_card(beside, name="base-model", licence="toy-licence", notices=["notices/TERMS.txt"])
    return folder


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "base"))


def _save(folder: Path, base: Path, chat: str | None = "gemma", name: str = "tuned") -> Path:
    tokenizer = Tokenizer.load(base)
    with new_folder(folder) as beside:
        save_model(
            beside,
            load_model(base, torch.float32),
            tokenizer,
            chat_format(chat, tokenizer) if chat else None,
            name=name,
            parents=[load_card(base)],
        )
    return folder


def _logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = load_model(folder, torch.float32)(IDS).logits
    return logits


def test_load(made: Path) -> None:
    model = load_model(made, torch.float32)
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert load_model(made, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.promise4
def test_saved_is_loaded(base: Path, tmp_path: Path) -> None:
    tuned = _save(tmp_path / "tuned", base)
    assert torch.equal(_logits(tuned), _logits(base))
    card = load_card(tuned)
    assert (card.name, card.chat, card.licence, card.base) == ("tuned", "gemma", "toy-licence", None)
    assert card.parents == ((load_card(base).name, load_card(base).fingerprint),)
    with quiet_transformers():  # and by transformers alone
        peer = AutoModelForCausalLM.from_pretrained(tuned)
    assert torch.equal(peer(IDS).logits, _logits(base))


@pytest.mark.promise4
def test_another_server_stops_and_renders_as_training_did(base: Path, tmp_path: Path) -> None:
    tuned = _save(tmp_path / "tuned", base)
    assert GenerationConfig.from_pretrained(tuned).eos_token_id == [5, 1]  # <end_of_turn>, then the old <eos>
    tokenizer = Tokenizer.load(tuned)
    messages = [user("Hello"), assistant("Hi"), user("Again")]
    ours = list(chat_format("gemma", tokenizer).render_prompt(messages))
    plain = [{"role": message.role, "content": message.text} for message in messages]
    peer = AutoTokenizer.from_pretrained(tuned)
    assert peer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False) == ours


@pytest.mark.promise4
def test_a_second_tuning_keeps_every_stop_once(base: Path, tmp_path: Path) -> None:
    once = _save(tmp_path / "once", base)
    twice = _save(tmp_path / "twice", once, chat="chatml", name="again")
    assert GenerationConfig.from_pretrained(twice).eos_token_id == [7, 1, 5]
    card = load_card(twice)
    assert card.parents[0].name == "tuned"
    changes = (twice / "notices" / "CHANGES.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in changes] == ["tuned", "again"]


def test_without_a_format_the_tokenizer_keeps_its_own_template(base: Path, tmp_path: Path) -> None:
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ messages }}"}))
    (base / CARD).unlink()
    tuned = _save(tmp_path / "tuned", base, chat=None)
    assert Tokenizer.load(tuned).chat_template == "{{ messages }}"
    assert GenerationConfig.from_pretrained(tuned).eos_token_id == [1]
    assert load_card(tuned).chat is None
    other = _save(tmp_path / "other", base, chat="chatml")
    assert "im_start" in str(Tokenizer.load(other).chat_template)


def test_licences_travel(base: Path, tmp_path: Path) -> None:
    tuned = _save(tmp_path / "tuned", base)
    assert load_card(tuned).notices == ("notices/CHANGES.txt", "notices/TERMS.txt")
    assert (tuned / "notices" / "TERMS.txt").read_text() == "the terms"
    assert "shinan tuned base-model" in (tuned / "notices" / "CHANGES.txt").read_text()


def test_licences_of_two_parents_stay_apart(base: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "other"))
    (other / "notices" / "TERMS.txt").write_text("other terms")
    write_card(other, name="org/other", licence="MIT", notices=["notices/TERMS.txt"])
    tokenizer = Tokenizer.load(base)
    with new_folder(tmp_path / "merged") as beside:
        parents = [load_card(base), load_card(other)]
        save_model(beside, load_model(base, torch.float32), tokenizer, None, name="merged", parents=parents)
    merged = tmp_path / "merged"
    assert load_card(merged).licence == "toy-licence AND MIT"
    assert (merged / "notices" / "TERMS.txt").read_text() == "the terms"
    assert (merged / "notices" / "org_other.TERMS.txt").read_text() == "other terms"


@pytest.mark.promise10
def test_nothing_half_written_remains(base: Path, tmp_path: Path) -> None:
    class Full:
        def save_pretrained(self, folder: Path) -> None:
            from safetensors import SafetensorError

            raise SafetensorError("No space left on device")

    with (
        pytest.raises(RunError, match="cannot write the weights: No space left") as caught,
        new_folder(tmp_path / "tuned") as beside,
    ):
        save_model(beside, Full(), Tokenizer.load(base), None, name="x", parents=[])
    assert "do this: free some space" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def _adapter(folder: Path, base: Path) -> tuple[Path, torch.Tensor]:
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_model(base, torch.float32), config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.linspace(-1, 1, weight.numel()).view_as(weight))
        logits: torch.Tensor = model(IDS).logits
    tokenizer = Tokenizer.load(base)
    chat = chat_format("gemma", tokenizer)
    with new_folder(folder) as beside:
        save_adapter(beside, model, tokenizer, chat, name="ada", base=str(base), parents=[load_card(base)])
    return folder, logits


@pytest.fixture(scope="module")
def ada(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    return _adapter(tmp_path_factory.mktemp("adapter") / "ada", made)


@pytest.fixture
def foreign(ada: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    """The adapter as if made elsewhere: no card."""
    folder = Path(shutil.copytree(ada[0], tmp_path / "ada"))
    (folder / CARD).unlink()
    return folder


@pytest.mark.promise4
def test_adapter(ada: tuple[Path, torch.Tensor], made: Path) -> None:
    folder, logits = ada
    assert not torch.allclose(logits, _logits(made))
    assert torch.equal(_logits(folder), logits)
    assert not load_model(folder, torch.float32).training
    card = load_card(folder)
    assert (card.base, card.chat, card.parents[0].name) == (str(made), "gemma", "base-model")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(made)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [5, 1]
    assert not (folder / "README.md").exists()
    assert (folder / "notices" / "TERMS.txt").is_file()
    assert all("lora_" in name for name in load_file(folder / "adapter_model.safetensors"))


def test_an_adapter_knows_its_base(base: Path, tmp_path: Path) -> None:
    folder, _ = _adapter(tmp_path / "ada", base)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    write_card(base, name="base-model")
    with pytest.raises(ModelError, match="the adapter was trained on another version of its base"):
        load_model(folder, torch.float32)


def test_a_foreign_adapter(foreign: Path, ada: tuple[Path, torch.Tensor]) -> None:
    assert torch.equal(_logits(foreign), ada[1])


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 9), "the model cannot be loaded"),
        (_write("adapter_config.json", "{"), "does not name its base model"),
        (_write("adapter_config.json", '{"base_model_name_or_path": "./gone"}'), "no such model folder"),
    ],
)
def test_a_foreign_adapter_that_is_broken(foreign: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    spoil(foreign)
    with pytest.raises(ModelError, match=sentence):
        load_model(foreign, torch.float32)


def test_an_adapter_on_an_adapter(foreign: Path) -> None:
    path = foreign / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(foreign)}))
    with pytest.raises(ModelError, match="the base of the adapter is itself an adapter"):
        load_model(foreign, torch.float32)


def _edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "config.json").unlink(), "there is no config.json in this folder"),
        (_write("config.json", "{"), "cannot read it"),
        (_write("config.json", "[]"), "cannot read it"),
        (_edit_config(model_type="mamba"), "models of type 'mamba' are not supported"),
        (_edit_config(quantization_config={"quant_method": "bitsandbytes"}), "its weights are quantised already"),
        (_edit_config(hidden_size=32), "the model cannot be loaded"),
        (_edit_config(hidden_size="wide"), "the model cannot be loaded"),
        (_only_pickle, "stored as pickle, which can run code"),
        (lambda f: (f / "model.safetensors").unlink(), "it holds no model\\*.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "the model cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK\3\4" * 99), "the model cannot be loaded"),
        (_drop_weight, "1 weights are missing from its safetensors files, such as model.norm.weight"),
    ],
)
def test_a_foreign_folder_that_is_broken(base: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    (base / CARD).unlink()
    spoil(base)
    with pytest.raises(ModelError, match=sentence) as caught:
        load_model(base, torch.float32)
    assert str(base) in str(caught.value)
    assert "do this:" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.promise10
def test_truncated_weights_of_ours_are_named_before_loading(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"model\.safetensors has .* bytes in place of"):
        load_model(base, torch.float32)


@pytest.mark.promise10
def test_code_in_a_folder_never_runs(base: Path) -> None:
    (base / "evil.py").write_text("raise SystemExit('ran')")
    _edit_config(auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})(base)
    (base / CARD).unlink()
    assert _logits(base).isfinite().all()


_NAMES = {"gpt2": {"n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 64}}


@pytest.mark.promise4
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_supported_type_round_trips(made: Path, tmp_path: Path, kind: str) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if kind not in ("gpt2", "gpt_neox"):
        small |= {"num_key_value_heads": 1, "head_dim": 16}
    config = AutoConfig.for_model(kind, vocab_size=264, pad_token_id=0, **_NAMES.get(kind, small))
    with torch.random.fork_rng(), quiet_transformers():
        model = AutoModelForCausalLM.from_config(config).eval()
    with new_folder(tmp_path / "m") as beside:
        save_model(beside, model, Tokenizer.load(made), None, name=kind, parents=[])
    with torch.no_grad():
        assert torch.equal(_logits(tmp_path / "m"), model(IDS).logits)
    assert load_card(tmp_path / "m").licence == "unknown"


def test_quiet_puts_the_settings_back() -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    with quiet_transformers():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_weights_lie_on_cache_lines(tiny_llama: Path, tmp_path: Path) -> None:
    """Wherever in its file they begin, which depends on the length of the header."""
    shutil.copy(tiny_llama / "config.json", tmp_path)
    tensors = {name: x.bfloat16() for name, x in load_file(tiny_llama / "model.safetensors").items()}
    for length in range(0, 64, 8):
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt", "note": "x" * length})
        model = load_model(tmp_path, torch.bfloat16)
        assert {weight.data_ptr() % 64 for weight in model.parameters()} == {0}
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight, tensors[name], rtol=0, atol=0)
