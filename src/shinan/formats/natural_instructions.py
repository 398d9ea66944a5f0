"""Natural Instructions: task files of versions 1 and 2, read strictly into a frozen Task.

A task is one JSON object: a definition, positive and negative examples with explanations, and instances, each an input
with its accepted outputs. Version 1 (Mishra et al. 2022, arXiv 2104.08773) also has a title, a prompt, things to avoid
and a caution; version 2 (Wang et al. 2022, arXiv 2204.07705) has categories, source datasets, languages, domains and a
licence. What a file says beyond that is kept as tags. An instance that cannot be used becomes a Fault and the rest is
read; what makes the whole task useless raises.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shinan.core.errors import DataError
from shinan.formats.rows import DECODER, fault, kind

LARGEST_FILE = 1 << 28
"""Bytes of a task file, unpacked. It is one JSON object, so it is read whole. GitHub takes none over 100 MB."""
LONGEST_TEXT = 1 << 20
"""Characters of an input or output. Longer ones are no instances."""

ENDINGS = (".json", ".json.gz")
_BOM = b"\xef\xbb\xbf"

_LANGUAGES = """
Afrikaans af, Akan ak, Albanian sq, Amharic am, Arabic ar, Armenian hy, Assamese as, Azerbaijani az, Basque eu,
Belarusian be, Bengali bn, Bosnian bs, Bulgarian bg, Burmese my, Catalan ca, Central Khmer km, Chinese zh, Croatian hr,
Czech cs, Danish da, Dutch nl, English en, Estonian et, Filipino tl, Finnish fi, French fr, Galician gl, Georgian ka,
German de, Greek el, Gujarati gu, Haitian ht, Hausa ha, Hebrew he, Hindi hi, Hungarian hu, Icelandic is, Igbo ig,
Indonesian id, Irish ga, Italian it, Japanese ja, Javanese jv, Kannada kn, Kazakh kk, Khmer km, Korean ko, Kurdish ku,
Kyrgyz ky, Lao lo, Latin la, Latvian lv, Lingala ln, Lithuanian lt, Macedonian mk, Malagasy mg, Malay ms, Malayalam ml,
Maltese mt, Marathi mr, Mongolian mn, Nepali ne, Norwegian no, Oriya or, Panjabi pa, Pashto ps, Persian fa, Polish pl,
Portuguese pt, Punjabi pa, Quechua qu, Romanian ro, Russian ru, Sanskrit sa, Serbian sr, Shona sn, Sindhi sd,
Sinhala si, Slovak sk, Slovenian sl, Somali so, Spanish es, Swahili sw, Swedish sv, Tagalog tl, Tajik tg, Tamil ta,
Telugu te, Thai th, Tibetan bo, Turkish tr, Ukrainian uk, Urdu ur, Uzbek uz, Vietnamese vi, Welsh cy, Xhosa xh,
Yiddish yi, Yoruba yo, Zulu zu
"""
_CODES = dict(entry.rsplit(" ", 1) for entry in _LANGUAGES.replace("\n", " ").strip().split(", "))
# Keys that have a field of their own in Task.
_FIELDS = {"Definition", "Positive Examples", "Negative Examples", "Examples", "Instances", "Categories", "Source"}
_FIELDS |= {"Instance License", "Title", "Prompt", "Things to Avoid", "Emphasis & Caution"}


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A worked example of a task; of a negative one, `output` is an answer that is not wanted.

    Attributes:
        explanation: why the output is right or wrong (`reason` in version 1).
        suggestion: how a wrong one could be mended (version 1).
    """

    input: str
    output: str
    explanation: str = ""
    suggestion: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """One question with its accepted answers.

    Attributes:
        row: position in the file's list, counted from 0.
        id: the file's own id, empty in version 1 and in early files of version 2.
        outputs: accepted answers, each once, in the file's order.
        tags: further keys.
    """

    row: int
    id: str
    input: str
    outputs: tuple[str, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """An instance that cannot be used: its position and id, a short stable reason, and the detail."""

    row: int
    id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task file.

    Attributes:
        name: the file's name without its ending.
        definitions: wordings of the instruction; the first is the one to use.
        positive: right examples.
        negative: wrong examples.
        instances: the usable instances.
        faults: the others.
        categories: kinds of task, the main one first.
        sources: names of the datasets that the instances come from.
        licence: of the instances, in the file's words; empty if it says nothing.
        title: version 1: what the task is called.
        prompt: version 1: the instruction in one sentence.
        avoid: version 1: what not to do.
        caution: version 1: what to mind.
        tags: every further key, in lower case with underscores, its values joined by `; `; and `language`, the codes
            of the output languages.
    """

    name: str
    definitions: tuple[str, ...]
    positive: tuple[Demonstration, ...]
    negative: tuple[Demonstration, ...]
    instances: tuple[Instance, ...]
    faults: tuple[Fault, ...]
    categories: tuple[str, ...]
    sources: tuple[str, ...]
    licence: str
    title: str
    prompt: str
    avoid: str
    caution: str
    tags: Mapping[str, str]


def task_name(path: Path) -> str:
    """The name of the task in a file: `task020` for `tasks/task020.json.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".json")


def read_task(path: Path) -> Task:
    """The task of a .json or .json.gz file. What cannot be decoded or paired up costs the instance, not the task.

    Raises DataError for a file that is missing, damaged, larger than `LARGEST_FILE` or not JSON, for a task without a
    definition or without instances, and for parts of the wrong type, naming the part.
    """
    data = _parsed(_text(path), path)
    if not isinstance(data, dict):
        raise _bad(path, _unusable(data) or f"a task file is one object, not {kind(data)}")
    rest = {key: value for key, value in data.items() if key != "Instances"}
    if problem := _unusable(rest):
        raise _bad(path, problem)
    definitions = _texts(rest, "Definition", path)
    if not definitions:
        raise _bad(path, "no Definition", "say what is to be done")
    instances, faults = _instances(data.get("Instances"), path)
    demonstrations = _demonstrations(rest, path)
    return Task(
        name=task_name(path),
        definitions=definitions,
        positive=demonstrations["Positive Examples"],
        negative=demonstrations["Negative Examples"],
        instances=tuple(instances),
        faults=tuple(faults),
        categories=_texts(rest, "Categories", path),
        sources=_texts(rest, "Source", path),
        licence="; ".join(_texts(rest, "Instance License", path)),
        title="\n".join(_texts(rest, "Title", path)),
        prompt="\n".join(_texts(rest, "Prompt", path)),
        avoid="\n".join(_texts(rest, "Things to Avoid", path)),
        caution="\n".join(_texts(rest, "Emphasis & Caution", path)),
        tags=_tags(rest, definitions),
    )


def _bad(path: Path, what: str, fix: str = "correct the file, or take it out", line: int = 0) -> DataError:
    return DataError(what, where=f"{path}:{line}" if line else str(path), fix=fix)


def _text(path: Path) -> str:
    """The file as text. Bytes that are not UTF-8 become halves of surrogate pairs, which only cost their instance."""
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        refused = isinstance(error, OSError) and error.errno is not None
        fix = "name a file that you may read" if refused else "it may be damaged or cut: copy it again"
        raise _bad(path, f"cannot read it: {error}", fix) from error
    if len(data) > LARGEST_FILE:
        raise _bad(path, f"more than {LARGEST_FILE >> 20} MB, and a task file is read whole", "split its instances")
    return data.removeprefix(_BOM).decode("utf-8", "surrogateescape")


def _parsed(text: str, path: Path) -> Any:
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _bad(path, f"not valid JSON at column {error.colno}: {error.msg}", line=error.lineno) from None
    except RecursionError:
        raise _bad(path, "not usable JSON: nested too deeply") from None
    except ValueError:
        raise _bad(path, "not usable JSON: a number of too many digits") from None


def _unusable(value: Any) -> str:
    """`fault`, which knows nothing of bytes that `_text` could not decode."""
    problem = fault(value)
    undecoded = re.search(r"half a surrogate pair, '\\udc([89a-f][0-9a-f])'", problem)
    return f"not valid UTF-8: byte 0x{undecoded[1]}, as from a text in another encoding" if undecoded else problem


def _texts(data: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    """The texts under a key that holds one or a list of them; blank ones and version 1's mark for none, `-`, not."""
    listed = _listed(data.get(key))
    for item in listed:
        if not isinstance(item, str):
            raise _bad(path, f"{key!r} must be text or a list of texts, not {kind(item)}")
    return tuple(text for text in listed if _said(text))


def _said(text: str) -> bool:
    return text.strip() not in ("", "-")


def _demonstrations(data: Mapping[str, Any], path: Path) -> dict[str, tuple[Demonstration, ...]]:
    """Positive and negative examples, which version 1 has one level deeper, under `Examples`."""
    deeper = data.get("Examples", {})
    if not isinstance(deeper, dict):
        raise _bad(path, f"'Examples' must be an object, not {kind(deeper)}")
    found = {}
    for key in ("Positive Examples", "Negative Examples"):
        listed = data.get(key, deeper.get(key)) or []
        if not isinstance(listed, list):
            raise _bad(path, f"{key!r} must be a list, not {kind(listed)}")
        # Version 1 marks that there is none by the list ["-"].
        shown = [item for item in listed if not isinstance(item, str) or _said(item)]
        found[key] = tuple(_demonstration(item, f"{key}, number {n}", path) for n, item in enumerate(shown, 1))
    return found


def _demonstration(item: Any, place: str, path: Path) -> Demonstration:
    if not isinstance(item, dict):
        raise _bad(path, f"{place}: an example is an object, not {kind(item)}")
    texts = {"explanation": item.get("explanation", item.get("reason", "")), "suggestion": item.get("suggestion", "")}
    texts |= {key: item.get(key) for key in ("input", "output")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise _bad(path, f"{place}: {key!r} must be text, not {kind(value)}")
    return Demonstration(
        texts["input"],
        texts["output"],
        texts["explanation"] if _said(texts["explanation"]) else "",
        texts["suggestion"] if _said(texts["suggestion"]) else "",
    )


def _instances(listed: Any, path: Path) -> tuple[list[Instance], list[Fault]]:
    if not isinstance(listed, list) or not listed:
        what = _unusable(listed) or (f"'Instances' must be a list, not {kind(listed)}" if listed else "no instances")
        raise _bad(path, what, "give at least one input with its outputs, or take the file out")
    instances: list[Instance] = []
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    for row, item in enumerate(listed):
        made = _instance(row, item, seen)
        if isinstance(made, Fault):
            faults.append(made)
        else:
            instances.append(made)
    return instances, faults


def _instance(row: int, item: Any, seen: dict[str, int]) -> Instance | Fault:
    """The instance, or why it is none. `seen` holds the position of each id so far."""
    id_ = item.get("id", "") if isinstance(item, dict) else ""
    if problem := _problem(item):
        shown = id_.encode("utf-8", "backslashreplace").decode() if isinstance(id_, str) else ""
        return Fault(row, shown, *problem)
    if id_ and id_ in seen:
        return Fault(row, id_, "duplicate_id", f"instance {seen[id_]} has the same id")
    seen[id_] = row
    outputs = _listed(item["output"])
    tags = {slug(key): _flat(value) for key, value in item.items() if key not in ("id", "input", "output")}
    return Instance(row, id_, item["input"], tuple(dict.fromkeys(outputs)), tags)


def _problem(item: Any) -> tuple[str, str] | None:
    """What keeps an item from being an instance: the reason and the detail."""
    if problem := _unusable(item):
        return "unusable_text", problem
    if not isinstance(item, dict):
        return "wrong_type", f"an instance is an object, not {kind(item)}"
    for key in ("id", "input"):
        if not isinstance(item.get(key, "" if key == "id" else None), str):
            return "wrong_type", f"{key!r} must be text, not {kind(item.get(key))}"
    outputs = _listed(item.get("output"))
    if not all(isinstance(text, str) for text in outputs):
        return "wrong_type", "'output' must be text or a list of texts"
    if not outputs or not all(text.strip() for text in outputs):
        return "no_output", "an accepted output is blank" if outputs else "it has no accepted output"
    longest = max(map(len, [item["input"], *outputs]))
    if longest > LONGEST_TEXT:
        return "too_long", f"a text of {longest} characters, more than {LONGEST_TEXT}"
    return None


def _listed(value: Any) -> list[Any]:
    """One value or a list of them, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _tags(data: Mapping[str, Any], definitions: Sequence[str]) -> dict[str, str]:
    tags = {slug(key): _flat(value) for key, value in data.items() if key not in _FIELDS and value not in ("", [])}
    for name in ("input_language", "output_language", "instruction_language"):
        if name in tags:
            tags[name] = "; ".join(_CODES.get(language, language) for language in tags[name].split("; "))
    if "output_language" in tags:
        tags["language"] = tags["output_language"]
    if len(definitions) > 1:
        tags["other_definitions"] = "\n".join(definitions[1:])
    return tags


def slug(key: str) -> str:
    """A key of the file as the name of a tag: lower case, underscores for blanks."""
    return "_".join(key.lower().split())


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "; ".join(value)
    return json.dumps(value, ensure_ascii=False)
