"""Layer 0: the nouns every room shares. Knows no torch, no transformers, no HTTP."""
