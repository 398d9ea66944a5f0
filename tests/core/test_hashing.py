"""Content addresses and seeds. Golden digests come from coreutils' b2sum and sha256sum."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.hashing import canonical_json, content_hash, derive_seed, file_sha256

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_canonical_json_is_sorted_and_tight() -> None:
    assert canonical_json({"b": None, "a": [1, "猫"]}) == '{"a":[1,"猫"],"b":null}'.encode()
    assert canonical_json((1, 2)) == canonical_json([1, 2])


def test_content_hash_is_tagged_blake2b_of_the_canonical_form() -> None:
    assert content_hash({"b": None, "a": [1, "猫"]}) == "b2:95f870c04b62d42ed17c035f8ec87764"
    assert content_hash("") == "b2:dd8a9e496bd8c69c5c77db4c77572fb0"


@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=2, max_size=5))
def test_the_order_of_keys_is_of_no_account(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert content_hash(backwards) == content_hash(value)


@given(JSON, JSON)
def test_different_values_have_different_hashes(left: Any, right: Any) -> None:
    assert (content_hash(left) == content_hash(right)) == (repr(left) == repr(right) or _same(left, right))


def _same(left: Any, right: Any) -> bool:
    """Equal JSON values of equal types; keys in any order."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return type(left) is type(right) and repr(left) == repr(right)


def test_half_a_surrogate_pair_can_be_hashed() -> None:
    assert content_hash("\ud83d").startswith("b2:")
    assert content_hash("\ud83d") != content_hash("\ud83e")


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash(value)


def test_file_sha256(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


def test_derive_seed_is_the_top_63_bits_of_the_digest() -> None:
    assert derive_seed(7, "shuffle", 0) == 0xB20887D1C82E3FBC >> 1
    assert derive_seed(7, "shuffle") == 0xCF64650620DB44CD >> 1
    assert derive_seed(-1, "x", "y", 3) == 0x3404817B6EA2FD68 >> 1


def test_every_part_of_a_seed_counts() -> None:
    calls: list[tuple[Any, ...]] = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 0),
        (0, "a", "0"),
        (0, "a", 0, 0),
        (0, "a", "b"),
        (0, "a,b"),
        (0, "ab"),
    ]
    seeds = {derive_seed(*call) for call in calls}
    assert len(seeds) == len(calls)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_neighbouring_seeds_share_no_pattern() -> None:
    seeds = [derive_seed(0, "step", i) for i in range(4_000)]
    ones = sum(seed.bit_count() for seed in seeds)
    assert ones / len(seeds) == pytest.approx(31.5, abs=4 * math.sqrt(63 / 4 / len(seeds)))
