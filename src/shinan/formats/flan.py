"""FLAN-style rendering: an instance becomes a prompt in one of many forms, with or without demonstrations and options.

After the FLAN Collection (Longpre et al. 2023, arXiv 2301.13688, section 2; google-research/FLAN, `flan/v2`):

- four styles, {zero-shot, few-shot} x {options shown, not shown}, a quarter of the rows each; where the answer is no
  choice there are no options, and the two styles that are left get half of the rows each;
- 5, 2 or 1 demonstrations, from other rows; those that do not fit into 1,920 tokens with the question are left out,
  the last first, and a few-shot row that has none left is dropped (`prune_fewshot_examples_by_length`,
  `filter_zero_shot_in_few_shot`);
- demonstrations in the question's template or, in half of the few-shot rows, each in one of its own (`template_mix`);
- options in a random dress, and line breaks of one, two or three between the pieces;
- chain of thought: the rationale, then the answer;
- input inversion: the answer is shown and the question asked for, 0.3 such rows for each that is not (`CoT-II`).

What differs: FLAN writes three layouts for 5, 2 and 1 shots and draws 25 for a fourth, of which about a tenth have the
question's template; here every template takes 5, 2 or 1, with equal chance. In FLAN 2021 one template in ten inverts
the task; here `invert` alone says how often. The budget covers the whole prompt, line breaks included.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from shinan.core.errors import DataError
from shinan.core.example import Example, Message, Part, assistant, join_parts
from shinan.core.hashing import content_hash, derive_seed
from shinan.formats.annotated import AskTemplate, TemplateSet
from shinan.formats.instances import Instance, RowError
from shinan.formats.options import Look, draw_look
from shinan.formats.rows import Where

T = TypeVar("T")
Style = Literal["zero_shot_options", "zero_shot", "few_shot_options", "few_shot"]
STYLES: tuple[Style, ...] = ("zero_shot_options", "zero_shot", "few_shot_options", "few_shot")
Turn = Literal["straight", "inverted", "reasoned"]

GAPS = (("\n", "\n"), ("\n", "\n\n"), ("\n\n", "\n\n\n"))
"""Line breaks inside a piece (before options, cue and reply), and between instruction, demonstrations and input."""


@dataclass(frozen=True, slots=True)
class Manner:
    """In which forms rows are rendered.

    Attributes:
        styles: {style: share of the rows}; the shares of styles add up to 1.
        templates: how many templates of each list are used, from the first.
        invert: rows turned around, for each that is not.
        cot: share of the rows that are not turned around which ask for the rationale.
        mixed: share of the few-shot rows whose demonstrations have templates of their own.
        shots: numbers of demonstrations, with equal chance.
        max_tokens: the longest few-shot prompt.
        count: the number of tokens of a text.
    """

    styles: Mapping[Style, float]
    count: Callable[[str], int]
    templates: int = 10
    invert: float = 0.3
    cot: float = 0.0
    mixed: float = 0.5
    shots: tuple[int, ...] = (5, 2, 1)
    max_tokens: int = 1920


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A row that may be shown to others as a demonstration. `key` tells questions apart."""

    number: int
    instance: Instance
    key: str


def question_key(shape: TemplateSet, instance: Instance) -> str:
    """Equal for instances that ask the same, whatever the answer."""
    return content_hash([instance.fields.get(name) for name in shape.asked])


@dataclass(frozen=True, slots=True)
class _Draws:
    """The random choices of one row. Each depends on its own purpose alone."""

    seed: int
    row: int

    def share(self, purpose: str) -> float:
        return derive_seed(self.seed, f"flan/{purpose}", self.row) / 2**63

    def one(self, purpose: str, among: Sequence[T], *index: int) -> T:
        return among[derive_seed(self.seed, f"flan/{purpose}", self.row, *index) % len(among)]

    def weighted(self, purpose: str, shares: Mapping[Style, float]) -> Style:
        drawn, reached = self.share(purpose), 0.0
        for name, share in shares.items():
            reached += share
            if drawn < reached:
                return name
        return name  # the shares add up to 1 but for rounding


@dataclass(frozen=True, slots=True)
class _Form:
    """What the pieces of one prompt have in common.

    Attributes:
        turn: which list its templates are from.
        few: whether there are demonstrations.
        look: how the options are listed; None where they are not shown.
        inner: line breaks inside a piece.
        outer: line breaks between pieces.
    """

    turn: Turn
    few: bool
    look: Look | None
    inner: str
    outer: str

    @property
    def style(self) -> Style:
        shot = "few_shot" if self.few else "zero_shot"
        return next(style for style in STYLES if style == shot + ("_options" if self.look else ""))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One instance in one template, and its reply."""

    instruction: str
    asked: str
    cue: str
    targets: tuple[str, ...]
    choices: tuple[str, ...]

    def question(self, inner: str) -> str:
        return inner.join(filter(None, [self.asked, self.cue.rstrip()]))

    def demonstration(self, inner: str, *, whole: bool) -> str:
        """The piece with its reply; `whole`: with its instruction."""
        reply = self.cue + self.targets[0]
        return inner.join(filter(None, [self.instruction if whole else "", self.asked, reply]))


_Shown = tuple[int, _Piece]  # a demonstration and its row


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders the instances of one dataset.

    Attributes:
        shape: their shape.
        language: the language of the prompts.
        manner: in which forms.
        seed: decides every draw, together with the row's number.
        pool: rows to take demonstrations from, no two of which ask the same.
    """

    shape: TemplateSet
    language: str
    manner: Manner
    seed: int
    pool: Sequence[Exemplar] = ()

    def render(self, number: int, instance: Instance, where: Where, *, base: Example) -> Example:
        """The instance as an example, with tags that say its form: template, template_index, style, inverted, reasoned
        and, where there are demonstrations, exemplars (their rows).

        Args:
            number: the row's number in its source; every draw depends on it, and on nothing else of the row.
            instance: the row.
            where: its place, for errors.
            base: what all examples of the dataset have in common: task, tags, source and licence.

        Raises:
            RowError: a template that cannot be filled (`template`), or a few-shot row for which no demonstration is
                left (`no_exemplar_fits`).
        """
        draws = _Draws(self.seed, number)
        form = self._form(draws)
        templates = self._templates(form.turn)
        template = draws.one("template", templates)
        piece = self._piece(template, instance, form, where)
        shown = list(self._demonstrations(draws, instance, form, template)) if form.few else []
        parts = self._fitting(piece, shown, form, template.name, where)
        tags = {
            "template": template.name,
            "template_index": str(templates.index(template)),
            "style": form.style,
            "inverted": str(form.turn == "inverted").lower(),
            "reasoned": str(form.turn == "reasoned").lower(),
        }
        if shown:
            tags["exemplars"] = " ".join(str(row) for row, _ in shown)
        return Example(
            (Message("user", tuple(parts)), assistant(piece.targets[0])),
            targets=piece.targets,
            choices=piece.choices,
            task=base.task,
            tags={**base.tags, **tags, **template.metadata},
            provenance=replace(base.provenance, row=number, maker=f"template:{self.shape.shape}/{template.name}"),
        )

    def _form(self, draws: _Draws) -> _Form:
        """Draw a form. Questions turned around show no options, questions for a rationale always do."""
        manner = self.manner
        style = draws.weighted("style", manner.styles)
        turn: Turn = "straight"
        if draws.share("invert") < manner.invert / (1 + manner.invert):
            turn = "inverted"
        elif draws.share("cot") < manner.cot:
            turn = "reasoned"
        listed = self.shape.has_options and turn != "inverted" and (turn == "reasoned" or style.endswith("options"))
        look = draw_look(draws.seed, draws.row, self.language) if listed else None
        return _Form(turn, style.startswith("few"), look, *draws.one("gaps", GAPS))

    def _templates(self, turn: Turn) -> list[AskTemplate]:
        language = self.shape.languages[self.language]
        every = {"straight": language.templates, "inverted": language.inverted, "reasoned": language.reasoned}
        return every[turn][: self.manner.templates]

    def _piece(self, template: AskTemplate, instance: Instance, form: _Form, where: Where) -> _Piece:
        words = self._words(template, instance)
        told = self._told(instance, words, form)
        try:
            made = template.apply({**instance.fields, **told}, where, 0)
        except DataError as error:
            raise RowError("template", error.what, where=error.where, fix=error.fix) from None
        by_kind = {part.kind: part.text for part in made.messages[0].parts}
        choices: Sequence[str] = ()
        if words and form.turn == "straight":
            choices = [form.look.answer(words, index) for index in range(len(words))] if form.look else words
        return _Piece(
            by_kind.get("instruction", ""), by_kind.get("input", ""), template.cue, made.targets, tuple(choices)
        )

    def _words(self, template: AskTemplate, instance: Instance) -> list[str]:
        """The possible answers in the words of the template or of its language; none where the answer is open."""
        words = template.words or self.shape.languages[self.language].words
        called = dict(zip(self.shape.labels, words, strict=True))
        return [called.get(option, option) for option in instance.options]

    def _told(self, instance: Instance, words: list[str], form: _Form) -> dict[str, Any]:
        """What a template sees beside the shape's fields."""
        if not words:
            answer = instance.fields[self.shape.answer]
            first = answer[0] if self.shape.fields[self.shape.answer].kind == "texts" else answer
            return {"gap": form.inner, "answer": first, "options": "", "words": []}
        look, right = form.look, instance.right
        return {
            "gap": form.inner,
            "label": instance.options[right],
            "answer": look.answer(words, right) if look else words[right],
            "options": form.inner + look.block(words) if look else "",
            "words": words,
        }

    def _demonstrations(
        self, draws: _Draws, instance: Instance, form: _Form, template: AskTemplate
    ) -> Iterator[_Shown]:
        """Rows of the pool that ask something else, as many as drawn, as far as their templates can be filled."""
        left, own = draws.one("shots", self.manner.shots), question_key(self.shape, instance)
        among = [template]
        if draws.share("mixed") < self.manner.mixed:  # only templates that call the labels the same
            among = [other for other in self._templates(form.turn) if other.words == template.words]
        chance = random.Random(derive_seed(draws.seed, "flan/exemplars", draws.row))
        for exemplar in chance.sample(self.pool, min(len(self.pool), left + 1)):
            if exemplar.key == own or not left:
                continue
            chosen = draws.one("exemplar_template", among, exemplar.number)
            with suppress(RowError):
                yield exemplar.number, self._piece(chosen, exemplar.instance, form, Where("", exemplar.number))
                left -= 1

    def _fitting(self, piece: _Piece, shown: list[_Shown], form: _Form, name: str, where: Where) -> list[Part]:
        """The user turn. Demonstrations are taken out of `shown`, from its end, until it is within the budget."""
        while shown:
            parts = _turn(piece, [demonstration for _, demonstration in shown], form)
            if self.manner.count(join_parts(parts)) <= self.manner.max_tokens:
                return parts
            shown.pop()
        if form.few:
            what = f"template {name!r}: no demonstration fits beside the question in {self.manner.max_tokens} tokens"
            fix = "raise `max_tokens`, or ask with `styles` for zero-shot rows only"
            raise RowError("no_exemplar_fits", what, where=str(where), fix=fix)
        return _turn(piece, [], form)


def _turn(piece: _Piece, demonstrations: Sequence[_Piece], form: _Form) -> list[Part]:
    """Typed parts with the form's line breaks between them. An instruction that all have in common comes first; where
    they differ, each demonstration has its own, and the question's comes before the question."""
    apart = any(shown.instruction != piece.instruction for shown in demonstrations)
    shown = [Part(other.demonstration(form.inner, whole=apart), "demonstration") for other in demonstrations]
    told = [Part(piece.instruction, "instruction")] if piece.instruction else []
    asked = [Part(question, "input")] if (question := piece.question(form.inner)) else []
    first, *rest = [*shown, *told, *asked] if apart else [*told, *shown, *asked]
    parts = [first]
    for part in rest:
        gap = form.inner if apart and parts[-1].kind == "instruction" else form.outer
        parts += [part] if gap == "\n\n" else [Part(gap), part]  # a blank line is what parts are joined with anyway
    return parts
