"""What a recipe may say of its mixture: which rows form a source, and how much each source is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shinan.core.config import Config

Weight = Annotated[float, Field(ge=0)]
Limit = Annotated[int, Field(ge=0)]
Preset = Literal["flan2021", "flan2022"]

UNTAGGED = "untagged"
"""The source of the rows that lack the tag by which rows are divided."""

# FLAN 2021 (arXiv 2109.01652, section 2.2): 30,000 rows of a dataset, and a mixing rate of at most 3,000
# (google-research/FLAN: flan/tasks.py, flan/mixtures.py). FLAN 2022 (arXiv 2301.13688): the weights of the submixtures
# from flan/v2/run_example.py, which gives each submixture's prompt styles equal shares; the largest rates of a dataset
# and the 0.3 of inverted tasks from flan/v2/mixtures.py.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "flan2021": {"by": "dataset", "max_rate": 3_000, "caps": {"dataset": 30_000}},
    "flan2022": {
        "by": "submixture",
        "weights": {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03},
        "within": {
            "by": "style",
            "weights": "equal",
            "within": {
                "by": "inverted",
                "weights": {UNTAGGED: 1, "false": 1, "true": 0.3},
                "within": {
                    "by": "dataset",
                    "max_rate": {"flan2021": 30_000, "t0": 20_000, "niv2": 5_000, "cot": 100_000, "dialog": 200_000},
                },
            },
        },
    },
}


class Division(Config):
    """How rows are divided into sources, and how much each source is given."""

    by: str = "build"
    """What makes a source: `build` (the stage that rows come from), `task`, or a tag (`dataset`, `language`, ...)."""
    weights: dict[str, Weight] | Literal["rows", "equal"] = "rows"
    """How much each source is given: a number for each (0 leaves it out), `equal`, or `rows`, as many as it has.

    A row without the tag belongs to the source `untagged`."""
    max_rate: Limit | dict[str, Limit] | None = None
    """With `weights: rows`, the most rows that a source counts for, or one such number for each source around it.

    Examples-proportional mixing with a limit (T5, arXiv 1910.10683, section 3.5.2)."""
    temperature: float = Field(1.0, gt=0)
    """Each weight is raised to 1/temperature (T5, section 3.5.2): above 1, sources are mixed more evenly."""
    within: Division | None = None
    """How the rows of each source are divided again."""

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> Division:
        if self.max_rate is not None and self.weights != "rows":
            raise ValueError("max_rate has no effect beside weights: leave one of the two out")
        if self.temperature != 1 and self.weights == "equal":
            raise ValueError("temperature has no effect on equal weights: leave it out")
        if isinstance(self.weights, dict) and not any(self.weights.values()):
            raise ValueError("the weights add up to 0: give at least one source a weight")
        return self


class Mix(Division):
    """Which rows are trained on, and how often, in place of all rows once."""

    preset: Preset | None = None
    """A published mixture: `flan2021` or `flan2022`, whose values hold where the recipe does not say its own.

    flan2022 needs the tags `submixture` (flan2021, t0, niv2, cot, dialog; or say `by: build`) and `dataset`, and heeds
    the tags `style` and `inverted` (true or false). The rows of `p3` are tagged t0, those of `natural_instructions`
    niv2, those of `flan` as its option `submixture` says. Where there is not all of it, say the weights of the rest."""
    total: int | None = Field(None, gt=0)
    """Rows written. By default as many as there are without writing a row twice."""
    epochs: Weight | dict[str, Weight] | None = None
    """In place of weights and total: how many times each source is written, as one number or one for each source."""
    max_epochs: float | None = Field(None, gt=0)
    """The most times that a source may be written to fill its share; by default as many as it takes."""
    caps: dict[str, Limit | dict[str, Limit]] = Field(default_factory=dict)
    """The most different rows of each value of a tag, of `task` or of `build`, drawn by seed: `{dataset: 30000}`, or
    a number for some values: `{language: {ja: 500}}`. Rows without the tag count as one value, `untagged`."""

    @model_validator(mode="before")
    @classmethod
    def _preset_first(cls, value: Any) -> Any:
        """What the preset says, under what the recipe says."""
        name = value.get("preset") if isinstance(value, dict) else None
        return {**PRESETS[name], **value} if isinstance(name, str) and name in PRESETS else value

    @model_validator(mode="after")
    def _epochs_stand_alone(self) -> Mix:
        others = {
            "weights": self.weights != "rows",
            "max_rate": self.max_rate is not None,
            "temperature": self.temperature != 1,
            "total": self.total is not None,
            "max_epochs": self.max_epochs is not None,
        }
        if self.epochs is not None and (beside := [name for name, given in others.items() if given]):
            raise ValueError(f"epochs says how often each source is written: leave out {', '.join(beside)}")
        passes = self.epochs.values() if isinstance(self.epochs, dict) else [self.epochs]
        if self.epochs is not None and not any(passes):
            raise ValueError("the epochs are all 0: nothing would be written")
        return self

    @property
    def levels(self) -> list[Division]:
        """This division and those within it, outermost first."""
        found: list[Division] = [self]
        while (inner := found[-1].within) is not None:
            found.append(inner)
        return found
