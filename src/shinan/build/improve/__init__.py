"""Self-improvement: methods in which a model widens the data that it, or its student, learns from."""
