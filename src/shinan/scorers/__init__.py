"""Scorers that several rooms use: metrics over text, and the n-gram index. Importing the package registers them."""

from shinan.scorers import exact, rouge

__all__ = ["exact", "rouge"]
