"""Serving a tuned model: to a person in the terminal, to OpenAI's clients, and to people at a page."""
