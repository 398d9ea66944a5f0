"""Tuning: examples -> token rows -> planned steps -> an objective's loss -> weights. One engine, many objectives."""
