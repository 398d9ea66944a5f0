"""Scorers that several packages use: metrics, constraints, the n-gram index. Importing this registers them."""

from shinan.scorers import exact, rouge, verifiers

__all__ = ["exact", "rouge", "verifiers"]
