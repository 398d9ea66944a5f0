"""What a person types to add a task to the starter collection: one YAML file a task, and one table of categories."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from shinan.core.config import Config

Split = Literal["train", "heldout"]
Language = Literal["en", "ja", "es", "fr", "de", "zh"]
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
