"""Layer 0: what every other package shares. Knows no torch, no transformers, no HTTP."""
