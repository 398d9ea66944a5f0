"""Recipes: the only place that knows every room. A recipe is planned into stages; each stage is cached by content."""
