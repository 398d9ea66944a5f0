"""Building instruction data. Importing this registers the builders."""

from shinan.build import collection, files
from shinan.build.distil import alpaca
from shinan.build.improve import self_instruct

__all__ = ["alpaca", "collection", "files", "self_instruct"]
