"""The card of a model folder, `shinan.json`: name, fingerprint, chat format, parents, licence, notices."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shinan.core.dataset import describe_files, write_atomic
from shinan.core.errors import ModelError
from shinan.core.hashing import content_hash

CARD = "shinan.json"

# The files that decide what a model computes; a change in any of them is another fingerprint.
_CONTENT = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_NOTICES = ("LICENSE*", "LICENCE*", "NOTICE*", "*TERMS*", "USE_POLICY*")


class Parent(NamedTuple):
    """A model that this one was made from."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Card:
    """A model folder's identity.

    Attributes:
        folder: where it lies (not written down: a folder may be moved).
        name: what provenance and reports call it.
        fingerprint: hash over the sha256 of its weight, config and tokenizer files (and of an adapter's base).
        chat: the name of the chat format it was tuned with, or None.
        parents: the models it was made from; an adapter's base comes first.
        licence: an SPDX name or the licence's own; `unknown` where nothing says.
        notices: licence files that must travel with the weights, relative to the folder.
        base: for an adapter, the reference or folder of its base model.
    """

    folder: Path
    name: str
    fingerprint: str
    chat: str | None = None
    parents: tuple[Parent, ...] = ()
    licence: str = "unknown"
    notices: tuple[str, ...] = ()
    base: str | None = None


def write_card(
    folder: Path,
    *,
    name: str,
    chat: str | None = None,
    parents: Sequence[Parent] = (),
    licence: str = "unknown",
    notices: Sequence[str] = (),
    base: str | None = None,
) -> None:
    """Fingerprint a finished model folder and write its `shinan.json`, the last of its files. See `Card`."""
    files = describe_files(folder, _content(folder))
    under = parents[0].fingerprint if base is not None else ""
    fields = {
        "name": name,
        "fingerprint": _fingerprint(files, under),
        "chat": chat,
        "parents": [parent._asdict() for parent in parents],
        "licence": licence,
        "notices": sorted(notices),
        "base": base,
        "files": files,
    }
    write_atomic(folder / CARD, json.dumps(fields, ensure_ascii=False, indent=1) + "\n")


def load_card(folder: Path) -> Card:
    """The folder's card; for a folder made elsewhere, one computed from its files (all are hashed).

    Raises ModelError for a folder without a model, a damaged card, or files that are not those the card names.
    """
    if (folder / CARD).is_file():
        return _read(folder)
    names = _content(folder)
    if not any(name.endswith(".safetensors") for name in names):
        fix = "name a folder with config.json and *.safetensors (weights in pickle files are not read)"
        raise ModelError("there is no model in this folder", where=str(folder), fix=fix)
    return Card(
        folder,
        _foreign_name(folder),
        _fingerprint(describe_files(folder, names), ""),
        licence=_stated_licence(folder),
        notices=tuple(sorted(path.name for pattern in _NOTICES for path in folder.glob(pattern) if path.is_file())),
        base=_stated_base(folder),
    )


def _read(folder: Path) -> Card:
    path = folder / CARD
    try:
        value = json.loads(path.read_text("utf-8"))
        files = {str(name): int(facts["bytes"]) for name, facts in value.pop("files").items()}
        parents = tuple(Parent(**parent) for parent in value.pop("parents"))
        card = Card(folder, parents=parents, notices=tuple(value.pop("notices")), **value)
        if any(Path(notice).is_absolute() or ".." in Path(notice).parts for notice in card.notices):
            raise ValueError("it names a notice outside its folder")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"this model card is damaged: {error}", where=str(path), fix="make the folder again"
        ) from error
    for name, size in files.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes in place of {size}"
            raise ModelError(f"{name} {what}", where=str(folder), fix="copy the folder again, or make it again")
    return card


def _content(folder: Path) -> list[str]:
    return sorted({path.name for pattern in _CONTENT for path in folder.glob(pattern) if path.is_file()})


def _fingerprint(files: Mapping[str, Mapping[str, Any]], base: str) -> str:
    return content_hash({"files": {name: facts["sha256"] for name, facts in files.items()}, "base": base})


def _foreign_name(folder: Path) -> str:
    """The folder's name; for the hub's own cache (`models--ORG--NAME/snapshots/REVISION`) the hub id."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name


def _stated_licence(folder: Path) -> str:
    """`license:` in the front matter of README.md, as hub models state it."""
    readme = folder / "README.md"
    text = readme.read_text("utf-8", errors="replace") if readme.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = head and re.search(r"^license:[ \t]*(\S.*?)[ \t]*$", head[1], re.MULTILINE)
    return found[1] if found else "unknown"


def _stated_base(folder: Path) -> str | None:
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        stated = json.loads(path.read_text("utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("the adapter does not name its base model", where=str(path)) from error
    return str(stated)
