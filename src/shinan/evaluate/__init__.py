"""Evaluation: held-out items -> replies -> scores -> a paired comparison of before and after."""
