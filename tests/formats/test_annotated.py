"""Our template sets: each template says what it must, in words of its own; and what a set of a user's may not be."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from shinan.core.errors import ConfigError
from shinan.core.example import Example
from shinan.formats.annotated import RATIONALE, TemplateSet, load_set, set_path, shape_names
from tests.formats.annotated_rows import cases, named, rendered

SHAPES = shape_names()
CASES = cases()
JAPANESE = re.compile("[\u3041-\u30fa\u4e00-\u9fff]")
case_id = "/".join


def told(example: Example) -> str:
    return f"{example.prompt_text}\n{example.reply}"


def texts_of(shape: TemplateSet, fields: dict[str, object], names: list[str]) -> list[str]:
    """Every text that these fields hold, the other accepted answers left out; labels are told in many words."""
    found: list[str] = []
    for name in names:
        value, kind = fields[name], shape.fields[name].kind
        if kind == "entities":
            assert isinstance(value, list)
            found += [text for entity in value for text in entity.values()]
        elif kind == "texts":
            assert isinstance(value, list)
            found.append(value[0])
        elif isinstance(value, list):
            found += value
        elif kind != "label":
            found.append(str(value))
    return found


def test_every_shape_of_the_issue_has_a_set() -> None:
    assert SHAPES == [
        "abstractive_qa",
        "closed_book_qa",
        "data_to_text",
        "definition_input",
        "extractive_qa",
        "maths",
        "multiple_choice",
        "ner",
        "nli",
        "paraphrase",
        "sentiment",
        "summarisation",
        "topic",
        "translation",
        "word_sense",
        "yes_no_qa",
    ]


@pytest.mark.parametrize("name", SHAPES)
def test_a_set_has_ten_english_and_five_japanese_templates_and_some_inverted_ones(name: str) -> None:
    made = load_set(set_path(name))
    assert made.shape == name
    assert {code: len(language.templates) for code, language in made.languages.items()} == {"en": 10, "ja": 5}
    assert all(language.inverted for language in made.languages.values())
    assert (RATIONALE in made.fields) == all(language.reasoned for language in made.languages.values())


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_template_says_every_field(case: tuple[str, str, str, str]) -> None:
    made = load_set(set_path(case[0]))
    answer = made.fields[made.answer].kind
    for instance, example in rendered(case):
        names = [name for name in made.fields if name != RATIONALE or case[2] == "reasoned"]
        if answer == "choice":  # the options are shown or not, and the answer is one of them
            names.remove(next(name for name in names if made.fields[name].kind == "choices"))
        if case[:3] == ("extractive_qa", case[1], "inverted"):
            names.remove("context" if "context" not in told(example).lower() else "question")
        for text in texts_of(made, dict(instance.fields), [name for name in names if name in instance.fields]):
            assert text in told(example), (text, told(example))


@pytest.mark.parametrize("case", [case for case in CASES if case[2] == "straight"], ids=case_id)
def test_a_question_does_not_tell_its_answer(case: tuple[str, str, str, str]) -> None:
    made = load_set(set_path(case[0]))
    for instance, example in rendered(case):
        for text in texts_of(made, dict(instance.fields), [made.answer]):
            assert text not in example.prompt_text
            assert text in str(example.reply)


@pytest.mark.parametrize("case", [case for case in CASES if case[2] == "inverted"], ids=case_id)
def test_an_inverted_template_shows_the_answer_and_asks_for_something_else(case: tuple[str, str, str, str]) -> None:
    made = load_set(set_path(case[0]))
    prompts = {}
    for instance, example in rendered(case):
        for text in texts_of(made, dict(instance.fields), [made.answer]):
            assert text in example.prompt_text
        assert any(text in str(example.reply) for text in texts_of(made, dict(instance.fields), list(made.asked)))
        prompts[example.prompt_text] = instance.right
    assert len(prompts) == len(instance.options if made.fields[made.answer].kind == "label" else [0])


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_rendered_text_is_clean(case: tuple[str, str, str, str]) -> None:
    for style in ("zero_shot", "zero_shot_options"):
        for _, example in rendered(case, style):
            text = told(example)
            assert not re.search(
                r"[{}%]|  |\n{4}|\bNone\b| \n|\[\]", re.sub(r"\[\{.*\}\]", "", text).replace("[ ]", "")
            ), text
            assert example.prompt_text == example.prompt_text.strip()
            assert example.reply == str(example.reply).strip()
            words = re.sub(r"‹.*?›", "", text)
            foreign = (
                re.search("[A-Za-z]{4,}", re.sub("JSON|text|type", "", words))
                if case[1] == "ja"
                else JAPANESE.search(words)
            )
            assert not foreign, text


def test_no_template_has_blank_lines_of_its_own() -> None:
    """They would hide where a demonstration ends; `gap` is as wide as the prompt allows."""
    for shape, code, _, name in CASES:
        template = named(load_set(set_path(shape)).languages[code], name)
        for text in (template.instruction, template.input, *template.output):
            assert "\n\n" not in text, name


@pytest.mark.parametrize("name", SHAPES)
def test_siblings_differ(name: str) -> None:
    """In more than their line breaks."""
    for code in ("en", "ja"):
        alike = [case for case in CASES if case[:2] == (name, code)]
        for turn in ("straight", "inverted", "reasoned"):
            written = {}
            for case in alike:
                if case[2] == turn:
                    _, example = next(rendered(case))
                    written[case[3]] = told(example).split()
            for one, other in combinations(written, 2):
                assert written[one] != written[other], (one, other)


@pytest.mark.parametrize("name", SHAPES)
def test_layouts_are_of_many_kinds(name: str) -> None:
    """With and without an instruction before the input, with and without a cue after it."""
    for language in load_set(set_path(name)).languages.values():
        templates = language.templates
        assert {bool(template.instruction) for template in templates} == {True, False}
        assert {bool(template.cue) for template in templates} == {True, False}


@pytest.mark.parametrize("name", [name for name in SHAPES if load_set(set_path(name)).labels])
def test_words_of_its_own_are_told_where_options_are_not(name: str) -> None:
    made = load_set(set_path(name))
    for case in CASES:
        if case[0] == name and case[2] == "straight":
            words = named(made.languages[case[1]], case[3]).words
            for _, example in rendered(case):
                if words:
                    assert all(word in example.prompt_text for word in words), example.prompt_text
                assert example.choices == tuple(words or made.languages[case[1]].words)
                assert example.reply in example.choices


@pytest.mark.parametrize(
    ("name", "english", "japanese"),
    [
        (
            "nli",
            {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"},
            ["はい", "どちらともいえない", "いいえ"],
        ),
        ("paraphrase", {"different": "No", "same": "Yes"}, ["いいえ", "はい"]),
        ("word_sense", {"different": "No", "same": "Yes"}, ["いいえ", "はい"]),
        ("yes_no_qa", {"no": "No", "yes": "Yes"}, ["いいえ", "はい"]),
        (
            "sentiment",
            {"negative": "negative", "neutral": "neutral", "positive": "positive"},
            ["否定的", "中立", "肯定的"],
        ),
    ],
)
def test_labels_are_called_by_their_words(name: str, english: dict[str, str], japanese: list[str]) -> None:
    made = load_set(set_path(name))
    assert dict(zip(made.labels, made.languages["en"].words, strict=True)) == english
    assert made.languages["ja"].words == japanese


@pytest.mark.parametrize(
    ("shape", "template", "words"),
    [
        ("nli", "relation", ["entailment", "neutral", "contradiction"]),
        ("nli", "true_or_false", ["true", "undecided", "false"]),
        ("nli", "editor", ["Print it", "Ask again", "It is wrong"]),
        ("nli", "logic_exercise", ["it follows", "it is left open", "it is ruled out"]),
        ("nli", "ja_relation", ["含意", "中立", "矛盾"]),
        ("nli", "ja_claim_first", ["正しい", "判断できない", "誤り"]),
        ("nli", "ja_exam", ["正", "不明", "誤"]),
        ("paraphrase", "pair_label", ["different", "equivalent"]),
        ("paraphrase", "judge", ["not the same claim", "the same claim"]),
        ("paraphrase", "ja_label", ["異なる", "同じ"]),
        ("paraphrase", "ja_casual", ["違う", "同じ"]),
        ("word_sense", "label", ["different", "identical"]),
        ("word_sense", "lexicographer", ["two entries", "one entry"]),
        ("word_sense", "ja_label", ["異なる", "同じ"]),
        ("yes_no_qa", "fact_check", ["That is false", "That is true"]),
        ("yes_no_qa", "single_word", ["false", "true"]),
        ("yes_no_qa", "formal", ["negative", "affirmative"]),
        ("yes_no_qa", "ja_true_false", ["誤り", "正しい"]),
        ("sentiment", "mood", ["bad", "so-so", "good"]),
        ("sentiment", "thumbs", ["down", "sideways", "up"]),
        ("sentiment", "casual", ["no, they didn't", "hard to say", "yes, they did"]),
        ("sentiment", "ja_reviewer", ["悪い", "普通", "良い"]),
        ("sentiment", "ja_casual", ["気に入っていない", "どちらとも言えない", "気に入っている"]),
    ],
)
def test_templates_with_words_of_their_own_call_labels_rightly(shape: str, template: str, words: list[str]) -> None:
    case = next(case for case in CASES if case[0] == shape and case[3] == template)
    assert [example.reply for _, example in rendered(case)] == words


def test_no_other_template_has_words_of_its_own() -> None:
    """So that the table above is complete."""
    own = [
        (name, template.name)
        for name in SHAPES
        for language in load_set(set_path(name)).languages.values()
        for template in (*language.templates, *language.inverted, *language.reasoned)
        if template.words
    ]
    assert len(own) == 23


# ---- sets of a user's own ----

SET = """\
shape: mine
about: A test.
fields:
  text: {kind: text, about: what is asked}
  label: {kind: label, about: the answer}
answer: label
labels: [bad, good]
languages:
  en:
    words: [Bad, Good]
    templates:
      - {name: one, input: "{{ text }}?{{ options }}"}
    inverted:
      - {name: two, input: "Say something {{ label }}.", output: "{{ text }}"}
"""


def problems(folder: Path, old: str, new: str) -> list[str]:
    assert old in SET
    path = folder / "mine.yaml"
    path.write_text(SET.replace(old, new), "utf-8")
    load_set.cache_clear()
    with pytest.raises(ConfigError) as caught:
        load_set(path)
    return [f"{p.where.removeprefix(str(folder) + '/')}: {p.what} -> {p.fix}" for p in caught.value.problems]


def test_a_users_own_set_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SET, "utf-8")
    assert set_path(str(path)) == path
    made = load_set(path)
    assert made.languages["en"].templates[0].output == ["{{ answer }}"]
    assert made.languages["en"].inverted[0].output == ["{{ text }}"]


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "{{ text }}?",
            "{{ txt }}?",
            "mine.yaml:12: languages.en.templates.0.input: no field is named 'txt' -> did you mean 'text'?",
        ),
        (
            'output: "{{ text }}"',
            'output: "{{ answr }}"',
            "mine.yaml:14: languages.en.inverted.0.output: no field is named 'answr' -> did you mean 'answer'?",
        ),
        (
            "{kind: label, about: the answer}",
            "{kind: label, about: the answer, optional: true}",
            "mine.yaml:5: fields.label.optional: the answer is optional -> leave `optional` out",
        ),
        (
            "{kind: label, about: the answer}\nanswer: label\nlabels: [bad, good]\n",
            "{kind: choice, about: the answer}\nanswer: label\n",
            "mine.yaml:6: answer: the answer is one of the choices, and 0 fields are of kind 'choices' "
            "-> have one such field, and not an optional one",
        ),
        (
            "[Bad, Good]",
            "[Bad]",
            "mine.yaml:10: languages.en.words: 1 words for 2 labels -> give each one word",
        ),
        (
            "name: one,",
            "name: one, words: [a, b, c],",
            "mine.yaml:12: languages.en.templates.0.words: 3 words for 2 labels -> give each one word",
        ),
        (
            "name: two",
            "name: one",
            "mine.yaml:14: languages.en.inverted.0.name: two templates are named 'one' -> rename one",
        ),
        (
            "name: one,",
            "name: one, choices: [a, b],",
            "mine.yaml:12: languages.en.templates.0.choices: 'choices' has no effect in a set -> take it out",
        ),
        (
            "answer: label",
            "answer: labl",
            "mine.yaml:6: answer: 'answer' names no field: 'labl' -> did you mean 'label'?",
        ),
        (
            "kind: label,",
            "kind: text,",
            "mine.yaml:7: labels: there are labels, but the answer is not of kind 'label' -> leave them out",
        ),
        (
            "    inverted:",
            '    reasoned: [{name: r, input: "{{ text }}", output: a}]\n    inverted:',
            "mine.yaml:13: languages.en.reasoned: no field is named 'rationale' -> add the field, or take these out",
        ),
        (
            "kind: text,",
            "kind: txt,",
            "mine.yaml:4: fields.text.kind: Input should be 'text', 'steps', 'texts', 'label', 'choices', 'choice', "
            "'facts' or 'entities' (got 'txt') -> ",
        ),
        (
            "    inverted:",
            "    inverse:",
            "mine.yaml:13: languages.en.inverse: unknown key 'inverse' -> did you mean 'inverted'?",
        ),
        (
            "{{ text }}?",
            "{{ text }",
            "mine.yaml:12: languages.en.templates.0.input: not a valid template, line 1 of the text: "
            "unexpected '}' -> ",
        ),
    ],
)
def test_what_is_wrong_with_a_set_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert told in problems(tmp_path, old, new)


@pytest.mark.promise10
def test_an_unknown_shape_gets_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"no shape is named 'summarization'\n  do this: did you mean 'summarisation'\?"
    ):
        set_path("summarization")
