"""Distillation: methods in which a stronger model writes the data that a weaker one learns from."""
