"""Content addresses and derived seeds: everything that must be equal on every run comes from here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes. NaN is refused (ValueError)."""
    return _ENCODER.encode(value).encode("utf-8", "surrogatepass")


def content_hash(value: Any) -> str:
    """The tagged hash of a JSON-able value, 128 bits. The tag `b2:` makes a later change of form detectable."""
    return tagged_hash(canonical_json(value))


def tagged_hash(canonical: bytes) -> str:
    """`content_hash` of a value that is already in the form of `canonical_json`."""
    return "b2:" + hashlib.blake2b(canonical, digest_size=16).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash64(content: bytes) -> int:
    """64 bits that stand for some bytes: equal ones for equal bytes, and for others with a chance of 2**-64."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def derive_seed(seed: int, purpose: str, *index: int | str) -> int:
    """A 63-bit seed that depends on (seed, purpose, index) alone, never on what was drawn before."""
    return hash64(canonical_json([seed, purpose, *index])) >> 1
