"""Benchmarks: what is fast and how fast. Not tests: nothing fails on speed."""
