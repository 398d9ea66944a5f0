"""Scorers that several rooms use: metrics, constraints, the n-gram index. Importing the package registers them."""

from shinan.scorers import exact, rouge, verifiers

__all__ = ["exact", "rouge", "verifiers"]
