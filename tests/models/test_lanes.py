"""How many requests may be out: additive increase, multiplicative decrease, and rests."""

from __future__ import annotations

import threading
import time
from threading import Event

import pytest

from shinan.models.lanes import Lane, Lanes, StoppedError, rest, sleep
from shinan.models.wire import UnusableError


def enter(lanes: Lanes) -> Lane:
    """A place that is given back at once."""
    with lanes.lane(Event()) as lane:
        return lane


def test_a_round_of_replies_makes_room_for_one_more_and_a_refusal_halves_it() -> None:
    lanes = Lanes(["a"], 16, 1.0)
    lane = enter(lanes)
    lanes.pushed_back(lane, "429", time.monotonic(), 0.0, 0.0)
    assert int(lane.limit) == 8
    for _ in range(8):
        lanes.went_well(lane)
    assert lane.limit == pytest.approx(9, abs=0.1)
    for _ in range(1000):
        lanes.went_well(lane)
    assert lane.limit == 16


def test_all_that_were_out_together_are_one_refusal() -> None:
    lanes = Lanes(["a"], 16, 1.0)
    lane, sent = enter(lanes), time.monotonic()
    for _ in range(16):
        lanes.pushed_back(lane, "429", sent, 0.0, 0.0)
    assert int(lane.limit) == 8
    for _ in range(9):
        lanes.pushed_back(lane, "429", time.monotonic(), 0.0, 0.0)
    assert int(lane.limit) == 1


def test_no_more_are_out_than_allowed_at_all_addresses_together() -> None:
    lanes = Lanes(["a", "b"], 3, 1.0)
    out, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal out, most
        for _ in range(20):
            with lanes.lane(Event()):
                with lock:
                    out += 1
                    most = max(most, out)
                time.sleep(0.001)
                with lock:
                    out -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3


def test_an_address_rests_as_long_as_it_asks_and_others_go_on() -> None:
    lanes = Lanes(["a", "b"], 4, 1.0)
    first = enter(lanes)
    lanes.pushed_back(first, "429", time.monotonic(), 60.0, 0.0)
    assert {enter(lanes).url for _ in range(5)} == {"a", "b"} - {first.url}


def test_an_address_that_is_down_is_given_up_and_one_that_has_answered_later() -> None:
    lanes = Lanes(["a"], 4, 0.2)
    lane = enter(lanes)
    lanes.unreachable(lane, "no connection: refused", 0.0)
    start = time.monotonic()

    def try_on() -> None:
        while True:
            lanes.unreachable(enter(lanes), "no connection: refused", 0.0)

    with pytest.raises(UnusableError, match="a: no connection: refused"):
        try_on()
    assert 0.2 <= time.monotonic() - start < 2
    lanes.go_on()
    assert enter(lanes) is lane


@pytest.mark.parametrize(("answered", "patience"), [(False, 5), (True, 100)])
def test_an_address_that_never_answered_is_given_up_soon(answered: bool, patience: float) -> None:
    for out, given_up in ((patience - 1, False), (patience + 1, True)):
        lanes = Lanes(["a"], 4, 100.0)
        lane = enter(lanes)
        lane.answered, lane.out_since = answered, time.monotonic() - out
        lanes.unreachable(lane, "", 0.0)
        assert lane.given_up == given_up


def test_who_waits_for_room_alone_is_woken_and_does_not_look_all_the_time() -> None:
    lanes = Lanes(["a", "b"], 16, 1.0)
    assert lanes._rest_left() == 0.5
    lane = enter(lanes)
    lanes.pushed_back(lane, "429", time.monotonic(), 0.2, 0.0)
    assert 0 < lanes._rest_left() <= 0.2


def test_who_waits_is_told_that_the_work_is_called_off() -> None:
    lanes, stop = Lanes(["a"], 1, 1.0), Event()
    told: list[str] = []

    def wait() -> None:
        try:
            with lanes.lane(stop):
                told.append("no")
        except StoppedError:
            told.append("lane")

    def rest_long() -> None:
        try:
            sleep(60, stop)
        except StoppedError:
            told.append("sleep")

    with lanes.lane(Event()):
        threads = [threading.Thread(target=target) for target in (wait, rest_long)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(5)
    assert sorted(told) == ["lane", "sleep"]


def test_rests_grow_to_a_limit_and_jitter_spreads_them() -> None:
    assert [rest(bad, 1.0) for bad in (1, 2, 3, 5, 500)] == [0.5, 1.0, 2.0, 8.0, 8.0]
    assert rest(1, 0.0) == 0.25
