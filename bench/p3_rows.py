"""Rows of annotated datasets, taken back out of prompts that P3's templates once wrote from them (p3/rendered).

A prompt shows all that its template needs, so that the template writes it again from what is found here, to the
character. What it does not show (the other choices, say) is made up.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]
END = "<|endoftext|>"

_GUARD = re.compile(r"\A(\{% (set|if) .*? %\}\s*)+|\{% endif %\}\s*\Z", re.DOTALL)
_GUARDED: Row = {"metadata": {"split": "train"}, "answerKey": "A"}  # what the guards ask of a row
_CONSTANT = re.compile(r"\{\{\s*[\"']([^\"'{}|]*)[\"']\s*\}\}")
_HOLE = re.compile(r"\{% set .*?%\}|\{% for .*?\{% endfor %\}|\{% if .*?\{% endif %\}|\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rendered:
    """One rendered row: the template that wrote it, what it wrote, and the row that it was written from."""

    dataset: str
    template: str
    prompt: str
    reply: str
    row: Row


def rendered(folder: Path) -> Iterator[Rendered]:
    """Every row of every file under `folder`, the folder `p3` of the shared data."""
    templates = {_stem(dataset, entry["name"]): (dataset, entry) for dataset, entry in entries(folder / "templates")}
    for path in sorted((folder / "rendered").glob("*.jsonl.gz")):
        stem = path.name.removesuffix(".jsonl.gz")
        dataset, entry = templates[stem]
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            pair = json.loads(line)
            prompt, reply = pair["prompt"].removesuffix("\n"), pair["completion"].removesuffix(END)
            yield Rendered(dataset, entry["name"], prompt, reply, _row(stem, entry, prompt, reply))


def entries(folder: Path) -> Iterator[tuple[str, Row]]:
    """Dataset and content of each template under `folder`, as PyYAML reads them where its tags are left out."""
    for path in sorted(folder.rglob("templates.yaml")):
        file = yaml.safe_load(re.sub("!Template(Metadata)?$", "", path.read_text("utf-8"), flags=re.MULTILINE))
        for entry in file["templates"].values():
            yield "/".join(filter(None, (file["dataset"], file.get("subset")))), entry


def _stem(dataset: str, template: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", f"{dataset}_{template}")


def _row(stem: str, entry: Row, prompt: str, reply: str) -> Row:
    choices = [choice.strip() for choice in (entry["answer_choices"] or "").split("|||")]
    source = _CONSTANT.sub(r"\1", _GUARD.sub("", entry["jinja"]))
    asked, answered = (side.strip() for side in source.split("|||"))
    if stem in _BY_HAND:
        names, make = _BY_HAND[stem]
        groups = ["(.*)" if name else "" for name in names]
        shown = dict(zip(filter(None, names), _held(asked, groups, prompt), strict=True))
        return shown | make(shown, reply)
    row = dict(_GUARDED)
    for source, text in ((asked, prompt), (answered, reply)):
        read = [_read(hole.strip("{} "), choices) for hole in _holes(source)]
        values = _held(source, [group for group, _ in read], text)
        for make_field, value in zip((make_field for _, make_field in read if make_field), values, strict=True):
            row |= make_field(value)
    return row


def _holes(source: str) -> list[str]:
    return [hole for hole in _HOLE.findall(source) if not hole.startswith("{% set")]


def _held(source: str, groups: Sequence[str], text: str) -> Sequence[str]:
    """What stands in `text` at the groups, which stand for the holes of a template's source."""
    waiting = iter(groups)
    pattern, end = "", 0
    for hole in _HOLE.finditer(source):
        pattern += re.escape(source[end : hole.start()])
        pattern += "" if hole[0].startswith("{% set") else next(waiting)
        end = hole.end()
    found = re.fullmatch(pattern + re.escape(source[end:]), text, re.DOTALL)
    if found is None:
        raise ValueError(f"{source!r} did not write {text!r}")
    return found.groups()


def _read(expression: str, choices: list[str]) -> tuple[str, Callable[[str], Row] | None]:
    """What an expression prints, as a pattern, and how its text becomes a field (None: it is no field)."""
    if found := re.fullmatch(r"answer_choices\s?\[(\d)\]", expression):
        return re.escape(choices[int(found[1])]), None
    if found := re.fullmatch(r"answer_choices\s?\[(\w+)(-1)?\]", expression):
        name, more = found[1], 1 if found[2] else 0
        return f"({'|'.join(map(re.escape, choices))})", lambda text: {name: choices.index(text) + more}
    if found := re.fullmatch(r"(\w+) ?\| ?join\(\"(.*)\"\)", expression):
        name, between = found[1], found[2].encode().decode("unicode_escape")
        return "(.*)", lambda text: {name: text.split(between)}
    if found := re.fullmatch(r"(\w+)\.text ?\| choice", expression):
        name = found[1]
        return "(.*)", lambda text: {name: {"text": [text]}}
    if expression.startswith("output |"):
        return "(.*)", lambda text: {"output": [{"answer": text}]}
    return "(.*)", lambda text: {expression: text}


Shown = dict[str, str]


def _options(texts: list[str]) -> Row:
    return {"text": texts, "label": list("ABCDEFGH"[: len(texts)])}


def _listed(between: str) -> Callable[[Shown, str], Row]:
    """Options that the prompt lists; facts lose their full stop."""

    def row(shown: Shown, reply: str) -> Row:
        options = shown["options"].split(between)
        facts = {name: f"{text}." for name, text in shown.items() if name.startswith("fact")}
        return facts | {"choices": _options(options), "answerKey": "ABCDEFGH"[options.index(reply)]}

    return row


def _quarel(shown: Shown, reply: str) -> Row:
    worlds = {"world1": [shown["one"]], "world2": [shown["two"]]}
    return {"world_literals": worlds, "answer_index": 0 if shown["one"] == reply else 1}


def _quartz(shown: Shown, reply: str) -> Row:
    said, text = re.escape(reply), shown["question"].strip().removesuffix("?")
    # The reply and the other choice stand side by side; how long the other is does not show.
    asked = re.fullmatch(rf"(.*?)({said} or \S+?|\S+ or {said})(\W*|\W.*\w)", text, re.DOTALL)
    if asked is None:
        raise ValueError(f"no two choices: {text!r}")
    before, pair, after = asked.groups()
    if not after.strip(".?!"):  # the end of a question is not printed, so it is the choice's own
        pair, after = pair + after, ""
    options = pair.split(" or ")
    key = "AB"[options.index(reply)]
    fixed = {"para": shown["para"].strip("\n"), "question": f"{before}_____{after}"}
    return fixed | {"choices": _options(options), "answerKey": key}


def _sciq(shown: Shown, reply: str) -> Row:
    others = [shown.get(name, "") for name in "abcd"]
    if reply in others:
        others.remove(reply)
    else:  # one of the template's orders shows the third twice, first and last, and the answer not at all
        others = others[2::-1]
    return {f"distractor{n}": text for n, text in enumerate(others, 1)} | {"correct_answer": reply}


def _wiki_bio(shown: Shown, reply: str) -> Row:
    columns = shown.get("columns", "")  # a column that is not shown leaves two blanks, in the reply two line breaks
    first, last = (len(columns) - len(cut) for cut in (columns.lstrip(" "), columns.rstrip(" ")))
    reply = "\n" * (4 + first // 2 * 2) + reply + "\n" * (4 + last // 2 * 2)
    header, content = [], []
    for n, item in enumerate(re.split(r"(\n{4,})(?=- |\Z)", reply)[1:]):
        if n % 2 == 0:
            hidden = (len(item) - 4) // 2
            header += ["article_title"] * hidden
            content += [""] * hidden
        elif item:
            name, _, value = item.removeprefix("- ").partition(" is ")
            header.append(name)
            content.append(value)
    return {"input_text": {"context": shown["context"], "table": {"column_header": header, "content": content}}}


def _wiki_hop(shown: Shown, reply: str) -> Row:
    return {
        "question": f"{shown['relation'].replace(' ', '_')} {shown['subject']}",
        "supports": shown["supports"].strip("\n").removeprefix("- ").split("\n\n- "),
        "candidates": shown["options"].split("\n - "),
        "answer": reply,
    }


def _documents(shown: Shown, reply: str) -> Row:
    documents = shown["documents"].strip("\n").removeprefix("Article: ").split("\n\n\nArticle: ")
    return {"document": "|||||".join(documents), "summary": f"– {reply}"}


def _effect(shown: Shown, reply: str) -> Row:
    kind = "INPARA_EFFECT" if reply == "yes" else "OUTOFPARA_DISTRACTOR"
    return {"question_para_step": shown["steps"].split("\n- "), "metadata_question_type": kind}


def _valid(shown: Shown, reply: str) -> Row:
    answers = {"answerA": shown["answer"], "answerB": shown["answer"], "answerC": "?"}
    return answers | {"label": "1" if reply == "Yes" else "3"}


_DUORC = ("question", "title", "plot"), lambda shown, reply: {"no_answer": reply == "No answer", "answers": [reply]}
_BY_HAND: dict[str, tuple[Sequence[str], Callable[[Shown, str], Row]]] = {
    "common_gen_choice_in_concept_centric_sentence_generation": (
        ("one", "concepts"),
        lambda shown, reply: {"concepts": shown["concepts"].split(", "), "target": reply},
    ),
    "commonsense_qa_answer_given_question_without_options": (
        ("question",),
        lambda shown, reply: {"choices": _options([reply, "?"]), "answerKey": "A"},
    ),
    "commonsense_qa_most_suitable_answer": (("question", "options"), _listed("\n- ")),
    "cosmos_qa_context_answer_to_question": (
        ("context", "answer"),
        lambda shown, reply: {"answer0": shown["answer"].strip("\n"), "question": reply, "label": 0},
    ),
    "cosmos_qa_context_question_description_text": (
        ("context", "question"),
        lambda shown, reply: {"answer0": reply, "answer1": "?", "answer2": "??", "answer3": "???", "label": 0},
    ),
    "dream_generate_first_utterance": (
        ("rest",),
        lambda shown, reply: {"dialogue": [reply, *shown["rest"].split("\n\n")]},
    ),
    "duorc_ParaphraseRC_answer_question": _DUORC,
    "duorc_SelfRC_answer_question": _DUORC,
    "multi_news_distill": (("documents",), _documents),
    "multi_news_summary_scenario": (("documents",), _documents),
    "qasc_is_correct_1": (
        ("", "combinedfact", "", "question", "", "answer"),
        lambda shown, reply: {
            "choices": _options([shown["answer"]]),
            "answerKey": "A" if reply == "Yes" else "B",
        },
    ),
    "qasc_qa_with_separated_facts_2": (("", "fact1", "", "fact2", "question", "options"), _listed("\n - ")),
    "quarel_choose_between": (("one", "two", "question"), _quarel),
    "quarel_heres_a_story": (("question", "one", "two"), _quarel),
    "quartz_answer_question_based_on": (("question", "para"), _quartz),
    "quartz_paragraph_question_plain_concat": (("para", "question"), _quartz),
    "sciq_Direct_Question": (("support", "question"), _sciq),
    "sciq_Multiple_Choice": (("support", "question", *"abcd"), _sciq),
    "social_i_qa_Check_if_a_random_answer_is_valid_or_not": (("context", "question", "answer"), _valid),
    "social_i_qa_I_was_wondering": (
        ("context", "question"),
        lambda shown, reply: {"answerA": reply, "answerB": "?", "answerC": "??", "label": "1"},
    ),
    "trec_trec1": (("text", "options"), lambda shown, reply: {}),  # the label was lost: every reply is empty
    "wiki_bio_comprehension": (("context", "columns", "target_text"), _wiki_bio),
    "wiki_bio_key_content": (("context", "target_text"), _wiki_bio),
    "wiki_hop_original_choose_best_object_affirmative_1": (("supports", "relation", "subject", "options"), _wiki_hop),
    "wiki_hop_original_choose_best_object_interrogative_2": (("supports", "subject", "relation", "options"), _wiki_hop),
    "wiqa_does_the_supposed_perturbation_have_an_effect": (("steps", "question_stem"), _effect),
    "wiqa_what_is_the_missing_first_step": (
        ("steps",),
        lambda shown, reply: {"question_para_step": [reply, *shown["steps"].split("\n- ")]},
    ),
}
