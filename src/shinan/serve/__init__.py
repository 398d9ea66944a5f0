"""Serving a tuned model: the conversation loop behind the terminal chat."""
