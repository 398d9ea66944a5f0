"""The pre-flight of whole recipes: what a run would train on, and the faults that stop it before its first step."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from shinan.core.dataset import write_rows
from shinan.core.errors import DataError, ModelError
from shinan.core.example import Example, Provenance, assistant, user
from shinan.recipe.check import Checked, check
from shinan.recipe.plan import Stage, State
from shinan.recipe.schema import load_recipe
from shinan.train.findings import refuse

pytestmark = pytest.mark.promise5

RECIPE = """\
name: planted
model: MODEL
chat: gemma
build: [{id: mine, use: file, with: {path: DATA, maker: human, licence: CC0-1.0}}]
tune: {method: lora, epochs: 2, batch_size: 4, max_tokens: 300, validation: 0.1, precision: fp32}
evaluate: [{id: heldout, use: file, with: {path: HELD, maker: human, licence: CC0-1.0}}]
"""
Check = Callable[..., Checked]


def _turns(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]}


SOUND = [_turns(f"Write the number {n}.", f"{n}") for n in range(10)]


@pytest.fixture
def checked(tmp_path: Path, tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """`checked(rows, key=value, ...)`: the recipe on these rows, with some of its values changed."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHINAN_OFFLINE", "1")
    monkeypatch.setattr("gc.collect", lambda: 0)  # with torch loaded, most of the time of a small check

    def run(rows: list[dict[str, Any]], *overrides: str, model: Path = tiny_decoder) -> Checked:
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        held = tmp_path / "held.jsonl"
        held.write_text(json.dumps(_turns("Name the largest of the planets.", "Jupiter")) + "\n", "utf-8")
        recipe = tmp_path / "planted.yaml"
        places = {"DATA": data, "MODEL": model, "HELD": held}
        recipe.write_text(re.sub("DATA|MODEL|HELD", lambda found: str(places[found[0]]), RECIPE), "utf-8")
        return check(load_recipe(recipe, list(overrides)), tmp_path / "runs" / "planted")

    return run


def _stopped(checked: Checked) -> str:
    with pytest.raises(DataError) as caught:
        refuse(checked.findings)
    return str(caught.value)


def test_what_a_run_would_train_on(checked: Check, tmp_path: Path) -> None:
    """One token a byte: 38 a row, the digit and `<end_of_turn>` of them trained. One row in ten is for validation."""
    found = checked(SOUND)
    assert found.findings == []
    assert found.counts == {"rows": 10, "tokens": 380, "labelled": 20}
    assert found.steps == 2 * 3
    assert [example.reply for example in found.data.kept] == [str(n) for n in range(10)]
    assert not (tmp_path / "runs").exists()


def test_curation_and_decontamination_are_part_of_it(checked: Check) -> None:
    item = _turns("Name the largest of the planets.", "Jupiter")
    found = checked([*SOUND, SOUND[3], item], "curate=[{use: exact_duplicates}]")
    assert [example.reply for example in found.data.kept] == [str(n) for n in range(10)]
    found = checked([*SOUND, SOUND[3], item], "decontaminate=false")
    assert [f.check for f in found.findings] == ["duplicate"]
    assert found.counts["rows"] == 12


def test_finished_stages_are_taken_from_where_they_are(
    checked: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    done.mkdir()
    write_rows(done, [Example((user("Hi."), assistant("Hello.")), provenance=Provenance("other", 7))])

    def state_of(stage: Stage, run: Path, store: object) -> State:
        assert run == tmp_path / "runs" / "planted"
        return State("cached", "done in this run", done) if stage.id == "curate" else State("run", "not done yet")

    monkeypatch.setattr("shinan.recipe.check.state_of", state_of)
    assert [example.row for example in checked(SOUND).data.kept] == ["other#7"]
    assert (done / "data.parquet").is_file()


@pytest.mark.parametrize(
    ("rows", "overrides", "sentence"),
    [
        ([{"messages": [{"role": "user", "content": "Hi."}]}], [], "1 of 11 rows train on no turn and are left out"),
        (
            [_turns("Tell all.", "word " * 80)],
            [],
            r"longer than tune.max_tokens and are left out \(95.2% of all labels",
        ),
        (
            [{"messages": [{"role": "user", "content": text} for text in ("Hi.", "Hm.")]}],
            [],
            "1 of 11 rows have turns out of order",
        ),
        ([_turns("Say nothing.", " ")], [], "1 of 11 rows have an empty turn"),
        ([], ["tune.max_tokens=8192", "build.0.with.path=LONG"], "longer than the model's context"),
    ],
)
def test_faults_of_the_data(
    checked: Check, tmp_path: Path, rows: list[dict[str, Any]], overrides: list[str], sentence: str
) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps(_turns("Hi.", "word " * 500)) + "\n", "utf-8")
    overrides = [text.replace("LONG", str(long)) for text in overrides]
    assert re.search(sentence, _stopped(checked([*SOUND, *rows], *overrides)))


@pytest.fixture
def model(tiny_decoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, without its card, for tests to damage."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_decoder, folder)
    (folder / "shinan.json").unlink(missing_ok=True)
    return folder


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_a_tokenizer_of_another_model(checked: Check, model: Path) -> None:
    state = json.loads((model / "tokenizer.json").read_text("utf-8"))
    vocabulary = state["model"]["vocab"]
    vocabulary |= {"He": len(vocabulary)}
    state["model"]["merges"] = [["H", "e"]]
    (model / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    told = _stopped(checked([*SOUND, _turns("Greet.", "Hello.")], model=model))
    assert (
        "rows.jsonl#10: 1 of 11 rows hold a token for which the model has no embedding (id 264, with 264 embe" in told
    )
    assert "do this: use the tokenizer of the original model folder" in told


def test_a_base_model_that_never_saw_the_formats_end(checked: Check, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    embeddings[100:150] = embeddings[5] * 1.01  # <end_of_turn> is 5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    found = checked(SOUND, model=model)
    assert "the format ends a reply with <end_of_turn>, which the model was never trained on (50 other" in _stopped(
        found
    )
    assert checked(SOUND, "tune={method: full, max_tokens: 300, precision: fp32}", model=model).findings == []
    assert checked(SOUND, "chat=alpaca", model=model).findings == []


def test_a_template_that_writes_bos_twice(checked: Check, model: Path) -> None:
    template = (
        "<bos><bos>{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
    )
    _edit(model / "tokenizer_config.json", chat_template=template)
    with pytest.raises(ModelError, match="writes the bos token twice"):
        checked(SOUND, "chat=tokenizer", model=model)


def test_a_template_whose_replies_have_no_end(checked: Check, model: Path) -> None:
    _edit(model / "tokenizer_config.json", chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}")
    with pytest.raises(ModelError, match="ends a reply with no special token: a model could not learn to stop"):
        checked(SOUND, "chat=tokenizer", model=model)
