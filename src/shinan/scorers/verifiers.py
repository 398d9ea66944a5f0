"""Constraints on a reply that code can check, and the scorer that says how many of them a reply follows.

After IFEval (Zhou et al. 2023, arXiv 2311.07911), with rules that hold for any script and never change their verdict.
A constraint is `{"verifier": NAME, "args": {...}}`; a verifier is a function here, registered under its own name, and
its docstring is its exact rule. Terms that the rules share:

- A *line* holds more than blanks.
- A *word*, where words are counted, is a run without blanks that holds a letter or digit and is no list marker; in
  scripts written without spaces every letter is one, so that Japanese is better limited by `char_count`.
- Where words are looked for, those of `core.text.words` count: without case, width and punctuation, and one after
  another for a phrase. In scripts without spaces that finds the phrase inside longer words too.
- `relation` is `at least`, `at most` or `exactly`.
- A reply of blanks alone follows no constraint.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from shinan.core.errors import ConfigError, DataError, Problem
from shinan.core.example import Example
from shinan.core.hashing import canonical_json
from shinan.core.registry import Bound, bind, register
from shinan.core.score import Score, Scorer
from shinan.core.text import normalise, unspaced, words
from shinan.scorers.language import Language, language_fault

Relation = Literal["at least", "at most", "exactly"]
JsonType = Literal["any", "string", "number", "integer", "boolean", "list", "object", "null"]


def verify(constraint: Mapping[str, Any], reply: str, *, where: str = "constraint") -> bool:
    """Whether the reply follows the constraint, `{"verifier": NAME, "args": {...}}`.

    Raises ConfigError, at `where`, for an unknown verifier or argument (with the nearest name) or an unfit value.
    """
    check = _bound(canonical_json(dict(constraint)), where)
    return bool(reply.strip()) and bool(check(unicodedata.normalize("NFC", reply)))


@lru_cache(maxsize=4096)
def _bound(form: bytes, where: str) -> Bound:
    constraint = json.loads(form)
    name, args = constraint.pop("verifier", None), constraint.pop("args", {})
    if constraint or not isinstance(name, str) or not isinstance(args, dict):
        fix = 'write it like {"verifier": "no_commas", "args": {}}'
        raise ConfigError([Problem("a constraint has a verifier and its args, and nothing else", where, fix)])
    return bind("verifier", name, args, where=f"{where} {name}")


@register("scorer", "constraints")
def constraints() -> Scorer:
    """Constraints followed: 1 if the reply follows every constraint of the example, else 0.

    They are a JSON list in the tag `constraints`. `parts` has the share that is followed, and the explanation names the
    others. The value is None if the example has no such tag.
    """

    def score(example: Example, reply: str) -> Score:
        if "constraints" not in example.tags:
            return Score(None, explanation="the example has no constraints", by="constraints")
        asked = _constraints_of(example)
        broken = [each["verifier"] for each in asked if not verify(each, reply, where=example.row)]
        said = f"not followed: {', '.join(broken)}" if broken else "all followed"
        share = 1 - len(broken) / len(asked)
        return Score(float(not broken), explanation=said, by="constraints", parts={"share": share})

    return score


def _constraints_of(example: Example) -> list[dict[str, Any]]:
    """The constraints in the example's tag. Raises DataError unless it is a JSON list of objects, at least one."""
    try:
        asked = json.loads(example.tags["constraints"])
    except ValueError:
        asked = None
    if not isinstance(asked, list) or not asked or not all(isinstance(each, dict) for each in asked):
        raise DataError(
            "the tag 'constraints' is not a JSON list of constraints",
            where=example.row,
            fix='write it like [{"verifier": "no_commas", "args": {}}]',
        )
    return asked


def _searchable(text: str) -> str:
    if not words(text):
        raise ValueError(f"{text!r} holds no letter or digit to look for")
    return text


def _visible(text: str) -> str:
    if not text or text != text.strip():
        raise ValueError(f"{text!r} is empty or has blanks at an end, which are not compared")
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


Phrase = Annotated[str, AfterValidator(_searchable)]
Phrases = Annotated[list[Phrase], Field(min_length=1)]
Visible = Annotated[str, AfterValidator(_visible)]
Pattern = Annotated[str, AfterValidator(_pattern)]


def _holds(count: int, relation: Relation, n: int) -> bool:
    if relation == "exactly":
        return count == n
    return count >= n if relation == "at least" else count <= n


def _lines(reply: str) -> list[str]:
    return [line.strip() for line in reply.splitlines() if line.strip()]


_MARKER = re.compile(r"^(?:[-*+•‣#>]+\s+|\d+[.)]\s+|・)")


def _runs(reply: str) -> list[str]:
    """The words of spaced scripts as written, with the punctuation that touches them; no list markers."""
    text = " ".join(_MARKER.sub("", line) for line in _lines(reply))
    return [run for run in text.split() if any(c.isalnum() for c in run)]


def _occurrences(phrase: str, reply: str) -> int:
    """How often the phrase's words stand in the reply, one after another."""
    sought, found = words(phrase), words(reply)
    return sum(found[i : i + len(sought)] == sought for i in range(len(found) - len(sought) + 1))


# --- counts


@register("verifier", "word_count")
def word_count(reply: str, *, relation: Relation, n: NonNegativeInt) -> bool:
    """The reply has at least, at most or exactly n words."""
    return _holds(sum(len(words(run)) if unspaced(run) else 1 for run in _runs(reply)), relation, n)


@register("verifier", "char_count")
def char_count(reply: str, *, relation: Relation, n: NonNegativeInt) -> bool:
    """The reply has so many characters. Punctuation counts; blanks, line ends and combining marks do not."""
    return _holds(sum(not c.isspace() and unicodedata.category(c)[0] != "M" for c in reply), relation, n)


_TITLES = re.compile(r"\b(Mr|Mrs|Ms|Dr|Prof|St|e\.g|i\.e)\.")
_SENTENCE_END = re.compile(r"""[.!?…]+["'”’)\]»*_]*(?=\s|$)|[。！？．]+(?![」』）。！？．])""")


@register("verifier", "sentence_count")
def sentence_count(reply: str, *, relation: Relation, n: NonNegativeInt) -> bool:
    """The reply has so many sentences.

    A sentence ends at . ! ? … before a blank, at 。！？ not before a closing bracket, and at the end of a line. The
    points of Mr. Mrs. Ms. Dr. Prof. St. e.g. i.e. end none; other abbreviations do. List markers are no sentences.
    """
    plain = [_MARKER.sub("", _TITLES.sub(r"\1", line)) for line in _lines(reply)]
    pieces = [piece for line in plain for piece in _SENTENCE_END.split(line)]
    return _holds(sum(any(c.isalnum() for c in piece) for piece in pieces), relation, n)


@register("verifier", "paragraph_count")
def paragraph_count(reply: str, *, relation: Relation, n: NonNegativeInt) -> bool:
    """The reply has so many paragraphs: blocks with a blank line between them."""
    return _holds(len(re.split(r"\n\s*\n", reply.strip())), relation, n)


@register("verifier", "line_count")
def line_count(reply: str, *, relation: Relation, n: NonNegativeInt) -> bool:
    """The reply has so many lines; blank ones do not count."""
    return _holds(len(_lines(reply)), relation, n)


# --- words


@register("verifier", "contains_words")
def contains_words(reply: str, *, words: Phrases) -> bool:
    """Each of these words or phrases occurs."""
    return all(_occurrences(phrase, reply) for phrase in words)


@register("verifier", "forbidden_words")
def forbidden_words(reply: str, *, words: Phrases) -> bool:
    """None of these words or phrases occurs."""
    return not any(_occurrences(phrase, reply) for phrase in words)


@register("verifier", "word_frequency")
def word_frequency(reply: str, *, word: Phrase, relation: Relation, n: NonNegativeInt) -> bool:
    """The word or phrase occurs so many times. Other forms of the word are other words."""
    return _holds(_occurrences(word, reply), relation, n)


@register("verifier", "unique_words")
def unique_words(reply: str) -> bool:
    """No word occurs twice (in scripts without spaces: no character)."""
    found = words(reply)
    return bool(found) and len(set(found)) == len(found)


@register("verifier", "longest_word")
def longest_word(reply: str, *, n: PositiveInt) -> bool:
    """No word has more than n letters. An apostrophe or hyphen divides words."""
    found = words(reply)
    return bool(found) and all(len(word) <= n for word in found)


@register("verifier", "starts_with")
def starts_with(reply: str, *, text: Visible) -> bool:
    """The reply begins with exactly this text; blanks before it do not matter."""
    return reply.lstrip().startswith(unicodedata.normalize("NFC", text))


@register("verifier", "ends_with")
def ends_with(reply: str, *, text: Visible) -> bool:
    """The reply ends with exactly this text; blanks after it do not matter."""
    return reply.rstrip().endswith(unicodedata.normalize("NFC", text))


@register("verifier", "no_commas")
def no_commas(reply: str) -> bool:
    """No comma of any script occurs: , ， 、 ､ ، ﹐."""
    return not set(reply) & set(",，、､،﹐")


@register("verifier", "no_digits")
def no_digits(reply: str) -> bool:
    """No digit of any script occurs, ² and ① included. Numbers in letters or in kanji are allowed."""
    return not any(c.isdigit() for c in reply)


# --- letters and language


@register("verifier", "all_lowercase")
def all_lowercase(reply: str) -> bool:
    """There are small letters, and no capital one."""
    return reply.islower()


@register("verifier", "all_uppercase")
def all_uppercase(reply: str) -> bool:
    """There are capital letters, and no small one."""
    return reply.isupper()


_SMALL_WORDS = "a an the and but or nor so yet as at by for from in into of off on onto over to up via with"


@register("verifier", "title_case")
def title_case(reply: str) -> bool:
    """Every word begins with a capital, and some letter is small.

    Short articles, conjunctions and prepositions may be small, unless first or last. Words that begin with a digit or a
    letter without case are passed over. Of a word with a hyphen, only the beginning counts.
    """
    found, small = _runs(reply), _SMALL_WORDS.split()
    firsts = [next(c for c in run if c.isalnum()) for run in found]
    inner = range(1, len(found) - 1)
    wrong = [i for i, c in enumerate(firsts) if c.islower() and not (i in inner and "".join(words(found[i])) in small)]
    return not wrong and any(c.isupper() for c in firsts) and any(c.islower() for c in reply)


@register("verifier", "language")
def language(reply: str, *, language: Language) -> bool:
    """The reply is in this language (en ja es fr de zh), judged coarsely: see `scorers.language.language_fault`."""
    return not language_fault(reply, language)


# --- forms

_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL | re.IGNORECASE)
_NOT_JSON = object()


def _json(reply: str) -> Any:
    """The reply's JSON value, also from inside one code fence; `_NOT_JSON` if it is none."""
    fenced = _FENCE.fullmatch(reply.strip())
    try:
        return json.loads(fenced[1] if fenced else reply, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_TYPES = {int: "integer number", float: "number", bool: "boolean", str: "string", list: "list", dict: "object"}


def _is_json(value: Any, wanted: JsonType) -> bool:
    return wanted == "any" or wanted in _TYPES.get(type(value), "null").split()


@register("verifier", "valid_json")
def valid_json(reply: str, *, required: dict[str, JsonType] | None = None) -> bool:
    """The whole reply is JSON, bare or in one code fence; with `required`, an object with these keys of these types.

    An integer is a number too, 3.0 is no integer, and further keys are allowed.
    """
    value = _json(reply)
    if required is None:
        return value is not _NOT_JSON
    return isinstance(value, dict) and all(k in value and _is_json(value[k], kind) for k, kind in required.items())


@register("verifier", "json_list_of")
def json_list_of(reply: str, *, n: NonNegativeInt, of: JsonType = "any") -> bool:
    """The whole reply is a JSON list, bare or in one code fence, of exactly n items of this type."""
    value = _json(reply)
    return isinstance(value, list) and len(value) == n and all(_is_json(item, of) for item in value)


_BULLET = re.compile(r"(?:[-*+•‣]\s+|・)\S")
_NUMBERED = re.compile(r"(\d{1,9})(?:[.)]\s+|[．）、]\s*)\S")


@register("verifier", "bullet_count")
def bullet_count(reply: str, *, relation: Relation, n: NonNegativeInt) -> bool:
    """So many lines begin with - * + • ‣ and a blank, or with ・."""
    return _holds(sum(bool(_BULLET.match(line)) for line in _lines(reply)), relation, n)


@register("verifier", "numbered_list")
def numbered_list(reply: str, *, n: PositiveInt) -> bool:
    """The lines that begin with a number and a point or bracket are numbered 1 to n, in order."""
    found = [match for line in _lines(reply) if (match := _NUMBERED.match(line))]
    return [int(match[1]) for match in found] == list(range(1, n + 1))


@register("verifier", "table_columns")
def table_columns(reply: str, *, n: PositiveInt, rows: NonNegativeInt | None = None) -> bool:
    """The lines that begin and end with | are one Markdown table of n columns: a header, a rule of dashes, rows.

    `rows`: exactly so many rows below the rule (default: at least one). Lines before and after the table are allowed.
    """
    lines = [line[1:-1] for line in _lines(reply) if len(line) > 1 and line[0] == line[-1] == "|"]
    table = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    ruled = len(table) >= 2 and all(re.fullmatch(":?-+:?", cell) for cell in table[1])
    enough = len(table) > 2 if rows is None else len(table) == rows + 2
    return ruled and enough and all(len(cells) == n for cells in table)


@register("verifier", "headings")
def headings(reply: str, *, texts: Annotated[list[Visible], Field(min_length=1)]) -> bool:
    """The Markdown headings (# to ######) are exactly these, in this order."""
    found = [match[1] for line in _lines(reply) if (match := re.fullmatch(r"#{1,6}\s+(.*?)(?:\s+#+)?\s*", line))]
    return found == [unicodedata.normalize("NFC", text) for text in texts]


@register("verifier", "quoted")
def quoted(reply: str) -> bool:
    """The whole reply stands between one pair of quotation marks: "" “” „“ «» 「」 『』."""
    text = reply.strip()
    return len(text) > 2 and text[0] + text[-1] in ('""', "“”", "„“", "«»", "「」", "『』")


@register("verifier", "each_line_starts_with")
def each_line_starts_with(reply: str, *, text: Visible) -> bool:
    """Every line begins with exactly this text."""
    return all(line.startswith(unicodedata.normalize("NFC", text)) for line in _lines(reply))


@register("verifier", "acrostic")
def acrostic(reply: str, *, word: Phrase) -> bool:
    """The first letters or digits of the lines, from top to bottom, spell the word; case does not matter."""
    firsts = [next((c for c in line if c.isalnum()), "") for line in _lines(reply)]
    return normalise("".join(firsts)) == "".join(words(word))


@register("verifier", "sorted_lines")
def sorted_lines(reply: str) -> bool:
    """There are two or more lines, in the order of their characters' code points, without case and list markers.

    That is the alphabet for unaccented letters, and the order of the kana for kana.
    """
    keys = [normalise(_MARKER.sub("", line)) for line in _lines(reply)]
    return len(keys) > 1 and all(a <= b for a, b in pairwise(keys))


@register("verifier", "regex_full")
def regex_full(reply: str, *, pattern: Pattern) -> bool:
    """The whole reply, without blanks at its ends, matches the regular expression (Python's syntax)."""
    return re.fullmatch(pattern, reply.strip()) is not None
