"""Building instruction data. Importing this registers the builders."""

from shinan.build import collection, files, natural_instructions

__all__ = ["collection", "files", "natural_instructions"]
