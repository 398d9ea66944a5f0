"""Text on disk: files of rows, common row layouts, templates over annotated rows. Knows no models."""

from shinan.formats.promptsource import P3Template, load_promptsource
from shinan.formats.rows import Where, read_rows
from shinan.formats.shapes import SHAPES, Shape, detect, read, write
from shinan.formats.template import PromptTemplate, load_templates

__all__ = [
    "SHAPES",
    "P3Template",
    "PromptTemplate",
    "Shape",
    "Where",
    "detect",
    "load_promptsource",
    "load_templates",
    "read",
    "read_rows",
    "write",
]
