"""Verdicts and the count that must add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.verdict import KEEP, Tally, Verdict


@pytest.mark.promise1
def test_a_drop_has_a_reason() -> None:
    verdict = Verdict.drop("empty_reply", "0 words", by="structure")
    assert verdict == Verdict(keep=False, reason="empty_reply", detail="0 words", by="structure")
    with pytest.raises(ValueError, match="a dropped row needs a reason"):
        Verdict(keep=False)


def test_keep_needs_none() -> None:
    assert KEEP.keep
    assert (KEEP.reason, KEEP.detail, KEEP.by) == ("", "", "")


@pytest.mark.promise1
@given(st.lists(st.sampled_from([KEEP, Verdict.drop("a"), Verdict.drop("b"), Verdict.drop("b", "other detail")])))
def test_kept_and_dropped_are_all_that_was_seen(verdicts: list[Verdict]) -> None:
    tally = Tally()
    for verdict in verdicts:
        tally.add(verdict)
    assert tally.seen == len(verdicts)
    assert tally.kept == sum(verdict.keep for verdict in verdicts)
    assert tally.dropped == {
        reason: sum(verdict.reason == reason for verdict in verdicts) for reason in ("a", "b") if tally.dropped[reason]
    }


def test_to_dict_orders_reasons_by_count_then_name() -> None:
    tally = Tally()
    for reason in ["short", "url", "url", "empty"]:
        tally.add(Verdict.drop(reason))
    tally.add(KEEP)
    assert tally.to_dict() == {"seen": 5, "kept": 1, "dropped": {"url": 2, "empty": 1, "short": 1}}
    dropped = tally.to_dict()["dropped"]
    assert isinstance(dropped, dict)
    assert list(dropped) == ["url", "empty", "short"]


def test_tallies_do_not_share_counts() -> None:
    Tally().add(Verdict.drop("x"))
    assert Tally().seen == 0
