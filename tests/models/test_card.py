"""Model cards: identity, integrity, and what folders made elsewhere say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from shinan.core.errors import ModelError
from shinan.models.card import CARD, Parent, load_card, write_card


def _folder(path: Path, weights: bytes = b"weights", config: str = "{}") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.safetensors").write_bytes(weights)
    (path / "config.json").write_text(config)
    return path


def test_card_round_trip(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m")
    parents = (Parent("base", "b2:1"), Parent("other", "b2:2"))
    write_card(folder, name="tuned", chat="gemma", parents=parents, licence="MIT", notices=["notices/B", "notices/A"])
    card = load_card(folder)
    assert (card.name, card.chat, card.parents, card.licence) == ("tuned", "gemma", parents, "MIT")
    assert card.notices == ("notices/A", "notices/B")
    assert card.folder == folder
    written = json.loads((folder / CARD).read_text())
    assert written["files"]["model.safetensors"] == {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}


def test_fingerprint_follows_content_and_nothing_else(tmp_path: Path) -> None:
    here, there = _folder(tmp_path / "a"), _folder(tmp_path / "b")
    (there / "README.md").write_text("another text")
    (there / "optimizer.pt").write_bytes(b"x")
    write_card(here, name="a")
    assert load_card(here).fingerprint == load_card(there).fingerprint
    for changed in (_folder(tmp_path / "c", weights=b"Weights"), _folder(tmp_path / "d", config="{ }")):
        assert load_card(changed).fingerprint != load_card(here).fingerprint
    (there / "tokenizer.json").write_text("{}")
    assert load_card(there).fingerprint != load_card(here).fingerprint


def test_an_adapter_on_another_base_has_another_fingerprint(tmp_path: Path) -> None:
    prints = []
    for base in ("b2:1", "b2:2"):
        folder = tmp_path / base
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"a")
        write_card(folder, name="a", parents=[Parent("base", base)], base="tiny:decoder")
        prints.append(load_card(folder).fingerprint)
    assert prints[0] != prints[1]


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"w"), "model.safetensors has 1 bytes in place of 7"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / CARD).write_text("{"), "this model card is damaged"),
        (lambda f: (f / CARD).write_text("[]"), "this model card is damaged"),
        (lambda f: (f / CARD).write_text('{"files": {}, "parents": [], "notices": []}'), "this model card is damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, spoil: object, what: str) -> None:
    folder = _folder(tmp_path / "m")
    write_card(folder, name="m")
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(ModelError, match=what) as caught:
        load_card(folder)
    assert str(folder) in str(caught.value)
    assert "do this:" in str(caught.value)


def test_a_folder_made_elsewhere(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "models--org--name" / "snapshots" / "0a1b")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Name\nlicense: no\n")
    (folder / "LICENSE.txt").write_text("...")
    card = load_card(folder)
    assert (card.name, card.licence, card.notices, card.chat) == ("org/name", "apache-2.0", ("LICENSE.txt",), None)
    assert not (folder / CARD).exists()


def test_an_adapter_made_elsewhere_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"a")
    path = tmp_path / "adapter_config.json"
    path.write_text('{"base_model_name_or_path": "org/base"}')
    assert load_card(tmp_path).base == "org/base"
    path.write_text("{}")
    with pytest.raises(ModelError, match="does not name its base model"):
        load_card(tmp_path)


@pytest.mark.promise10
def test_no_model_here(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model in this folder") as caught:
        load_card(tmp_path)
    assert str(tmp_path) in str(caught.value)
