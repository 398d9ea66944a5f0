"""Tuning: examples -> token rows -> planned steps -> an objective's loss -> weights, by one engine for all."""
