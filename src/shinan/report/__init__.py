"""Reporting: a run folder -> one Report -> a self-contained page, summary.json and a table for the terminal."""
