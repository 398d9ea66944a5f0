"""shinan: instruction tuning with evidence.

Build instruction data, curate it, tune a model, and prove what changed. `shinan run RECIPE` does it all; the same
functions are the Python API:

    from shinan.recipe.schema import load_recipe
    from shinan.recipe.run import run
"""

from shinan.version import __version__

__all__ = ["__version__"]
