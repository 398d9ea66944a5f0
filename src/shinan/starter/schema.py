"""Schemas of the starter collection's files: what a person writes to add to it.

A task is a YAML file, the categories are a table in another, and every other row is a line of JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from shinan.core.config import Config

Split = Literal["train", "heldout"]
Language = Literal["en", "ja", "es", "fr", "de", "zh"]
Kind = Literal["tasks", "open_ended", "conversations", "constraints", "safety"]
Text = Annotated[str, StringConstraints(pattern=r"\S")]
Texts = Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]  # not strict: YAML has lists, we freeze them


class Demonstration(Config):
    """A worked example: a right answer and why it is right, or a wrong one and why it is wrong."""

    input: Text
    output: Text
    explanation: Text


class Instance(Config):
    """One input and every accepted answer; the first is the one trained on."""

    input: Text
    outputs: Texts


class Task(Config):
    """One task, described so that a reader who sees only `definition` can do it.

    The parts are those of Super-NaturalInstructions (Wang et al. 2022, section 3): definition, things to avoid,
    positive and negative examples with explanations, instances.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    """The file's name; begins with the language code unless the language is English."""
    category: str
    language: Language
    """Language of the definition, the inputs and, unless `output_language` says otherwise, the outputs."""
    output_language: Language | None = None
    labels: Annotated[tuple[Text, ...], Field(strict=False, min_length=2)] | None = None
    """The closed set of answers, where there is one."""
    definition: Text
    avoid: Text
    positive: Annotated[tuple[Demonstration, ...], Field(strict=False, min_length=2, max_length=3)]
    negative: Annotated[tuple[Demonstration, ...], Field(strict=False, min_length=1, max_length=2)]
    instances: Annotated[tuple[Instance, ...], Field(strict=False, min_length=8, max_length=10)]

    @model_validator(mode="after")
    def _agree(self) -> Task:
        """The parts fit together. Raises ValueError with everything that does not."""
        faults = []
        if self.language != "en" and not self.name.startswith(f"{self.language}_"):
            faults.append(f"the name must begin with '{self.language}_'")
        seen = {row.input for row in (*self.positive, *self.negative)}
        for instance in self.instances:
            if instance.input in seen:
                faults.append(f"the input {instance.input[:40]!r} is given twice")
            seen.add(instance.input)
        for label in self.labels or ():
            if label not in self.definition:
                faults.append(f"the definition does not name the label {label!r}")
        right = [row.output for row in self.positive] + [text for row in self.instances for text in row.outputs]
        if self.labels is not None:
            faults += [f"the output {text!r} is not one of the labels" for text in right if text not in self.labels]
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Category(Config):
    """A kind of task, wholly on one side of the split."""

    split: Split
    description: Text


class Categories(Config):
    """The table in `categories.yaml`."""

    categories: dict[str, Category]


class Row(Config):
    """What every row that is no task's has. `split` is fixed by the form: all of it is for training, or none."""

    split: ClassVar[Split] = "train"

    id: Annotated[str, StringConstraints(pattern=r"^[a-z]+(-[a-z_]+)?-[0-9]{3}$")]
    language: Language
    topic: Text


class OpenEnded(Row):
    """A request of any sort and a good answer (after LIMA, Zhou et al. 2023, arXiv 2305.11206)."""

    prompt: Text
    response: Text


class Turn(Config):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Conversation(Row):
    """Two to five user turns, each answered, in some after a system message; later turns depend on earlier ones."""

    messages: Annotated[tuple[Turn, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _alternate(self) -> Conversation:
        roles = [turn.role for turn in self.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if turns != ["user", "assistant"] * (len(turns) // 2) or not 4 <= len(turns) <= 10:
            raise ValueError("the roles must be user and assistant in turn, two to five of each, after a system or not")
        return self


class Constraint(Config):
    """A rule of form that code can check: the name of a verifier of `scorers.verifiers` and its arguments."""

    verifier: str
    args: dict[str, Any]


class Constrained(Row):
    """A request with constraints, and an answer that follows them all. Held out: it measures, by code, who follows."""

    split: ClassVar[Split] = "heldout"

    prompt: Text
    constraints: Annotated[tuple[Constraint, ...], Field(strict=False, min_length=1, max_length=3)]
    reference: Text


Answers = Annotated[tuple[Text, ...], Field(strict=False, min_length=2, max_length=3)]


class Misconception(Row):
    """A question with a common wrong answer (after TruthfulQA, Lin et al. 2021, arXiv 2109.07958). Held out."""

    split: ClassVar[Split] = "heldout"

    kind: Literal["misconception"]
    prompt: Text
    true_answers: Answers
    false_answers: Answers

    @model_validator(mode="after")
    def _differ(self) -> Misconception:
        if len({*self.true_answers, *self.false_answers}) < len(self.true_answers) + len(self.false_answers):
            raise ValueError("an answer is given twice")
        return self


class Harmful(Row):
    """A request to refuse, and a refusal that offers other help; `pair`: the row that only looks like it."""

    kind: Literal["harmful"]
    prompt: Text
    response: Text
    pair: str


class Lookalike(Row):
    """A harmless request that resembles a harmful one, answered in full; `pair`: the harmful row."""

    kind: Literal["lookalike"]
    prompt: Text
    response: Text
    pair: str


class Continuation(Row):
    """A text that begins rudely, and a decent continuation; `respectful`: whether the prompt asks for respect."""

    kind: Literal["continuation"]
    prompt: Text
    respectful: bool
    response: Text


AnyRow = OpenEnded | Conversation | Constrained | Misconception | Harmful | Lookalike | Continuation
