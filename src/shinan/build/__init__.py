"""Building instruction data. Importing this registers the builders."""

from shinan.build import collection, files, flan

__all__ = ["collection", "files", "flan"]
