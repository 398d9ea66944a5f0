"""Recipes, planned into stages cached by content; the one place where build, curate, train and evaluate meet."""
