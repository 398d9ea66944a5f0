"""Curation: checks that judge rows, and the run that applies them. Importing this registers the checks."""

from shinan.curate import checks, duplicates, near_duplicates, overlap
from shinan.curate.checks import Check
from shinan.curate.run import Curated, curate

__all__ = ["Check", "Curated", "checks", "curate", "duplicates", "near_duplicates", "overlap"]
