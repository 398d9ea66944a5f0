"""Building instruction data. Importing this registers the builders."""

from shinan.build import collection, files, p3

__all__ = ["collection", "files", "p3"]
