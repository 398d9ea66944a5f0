"""Promise 2 against what happens to machines: kill -9, a full disk, several processes at once.

No row is lost, and nothing whose answer had reached the ledger is asked again.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from shinan.core.errors import RunError
from shinan.core.example import user
from shinan.core.ledger import Ledger
from shinan.models.books import Books
from shinan.models.endpoint import parse_endpoint
from shinan.models.generator import Request, Sampling
from shinan.models.http import HttpGenerator
from tests.disk import disk
from tests.models.endpoint import ScriptedEndpoint, prompt_of

CONCURRENCY = 16
_CHILD = """
import sys
from pathlib import Path
from shinan.core.example import user
from shinan.core.ledger import Ledger
from shinan.models.books import Books
from shinan.models.endpoint import parse_endpoint
from shinan.models.generator import Request
from shinan.models.http import HttpGenerator

root, ref, calls, concurrency = sys.argv[1:]
endpoint = parse_endpoint(ref)
generator = HttpGenerator(endpoint, Books(Ledger(Path(root)), endpoint.model), concurrency=int(concurrency))
requests = [Request((user(f"question {number}"),)) for number in range(int(calls))]
print("ready", flush=True)
replies = generator.generate(requests)
assert [reply.text for reply in replies] == [f"question {number}" for number in range(int(calls))]
"""


class Trial(NamedTuple):
    """A ledger of its own, the server that is asked, and how many questions there are."""

    root: Path
    server: ScriptedEndpoint
    questions: int

    def start(self) -> subprocess.Popen[bytes]:
        """A process that asks all questions; it has everything imported when this returns."""
        words = [str(self.root), self.server.ref, str(self.questions), str(CONCURRENCY)]
        process = subprocess.Popen([sys.executable, "-c", _CHILD, *words], stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
        return process

    def asked(self) -> Counter[str]:
        """How often each question has reached the server."""
        return Counter(prompt_of(body) for body in list(self.server.calls))

    def kept(self) -> dict[str, str]:
        """{question: key} of what is in the ledger."""
        ledger = Ledger(self.root)
        found = {json.loads(call.request)["messages"][0][1]: call.key for call in ledger.search("b2:", 10**6)}
        ledger.close()
        return found


@pytest.mark.promise2
@pytest.mark.parametrize(
    ("kills", "questions"),
    [pytest.param(3, 200, id="quick"), pytest.param(20, 1000, marks=pytest.mark.slow, id="whole")],
)
@pytest.mark.timeout(900)
def test_killed_at_random_moments_no_row_is_lost_and_nothing_paid_is_asked_again(
    tmp_path: Path, kills: int, questions: int
) -> None:
    draw = random.Random(kills)
    length = questions * 0.02 / CONCURRENCY
    killed = 0
    for number in count():
        with ScriptedEndpoint(delay=0.02) as server:
            trial = Trial(tmp_path / str(number), server, questions)
            here, paid = 0, list[tuple[dict[str, str], Counter[str]]]()
            while killed < kills:
                process = trial.start()
                time.sleep(draw.uniform(0, length))
                if process.poll() is not None:
                    assert process.returncode == 0
                    break
                process.kill()
                process.wait()
                killed, here = killed + 1, here + 1
                time.sleep(0.1)  # what was on its way to the server arrives
                paid.append((trial.kept(), trial.asked()))
            assert trial.start().wait(120) == 0
            _check(trial, here, paid)
        if killed == kills:
            break


def _check(trial: Trial, kills: int, paid: list[tuple[dict[str, str], Counter[str]]]) -> None:
    """After the last run. `paid`: for each kill what the ledger held, and how often each question had been asked."""
    asked, kept = trial.asked(), trial.kept()
    assert len(kept) == len(asked) == trial.questions
    for held, before in paid:
        assert [question for question in held if asked[question] != before[question]] == []
    ledger = Ledger(trial.root)
    lost = Counter(loss.key for loss in ledger.losses() if loss.why == "killed")
    ledger.close()
    again = {question: times - 1 for question, times in asked.items() if times > 1}
    assert sum(lost.values()) <= CONCURRENCY * kills
    assert [question for question, times in again.items() if times > lost[kept[question]]] == []


@pytest.mark.promise2
def test_processes_that_ask_the_same_at_once_share_the_answers(tmp_path: Path) -> None:
    """Whoever comes second to a request waits for its answer: in all each is asked once."""
    with ScriptedEndpoint(delay=0.02) as server:
        trial = Trial(tmp_path, server, 200)
        processes = [trial.start() for _ in range(2)]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert set(trial.asked().values()) == {1}
        assert len(trial.kept()) == 200


@pytest.mark.promise2
def test_who_waits_for_a_process_that_is_killed_asks_itself(tmp_path: Path) -> None:
    with ScriptedEndpoint(delay=0.5) as server:
        trial = Trial(tmp_path, server, CONCURRENCY)
        first, second = trial.start(), trial.start()
        while len(server.calls) < CONCURRENCY:
            time.sleep(0.01)
        first.kill()
        first.wait()
        server.delay = 0
        assert second.wait(60) == 0
        assert len(trial.kept()) == CONCURRENCY
        _check(trial, 1, [])


@pytest.mark.promise2
@pytest.mark.promise10
def test_a_full_disk_is_a_sentence_and_with_more_room_the_same_process_goes_on(tmp_path: Path) -> None:
    """At most what was in flight is paid without being kept, and it is counted."""
    with ScriptedEndpoint(lambda body: "long answer " * 200) as server, disk(tmp_path / "disk", "size=800k") as change:
        ledger = Ledger(tmp_path / "disk")
        endpoint = parse_endpoint(server.ref)
        generator = HttpGenerator(endpoint, Books(ledger, endpoint.model, account="mine"), concurrency=4)
        requests = [Request((user(f"question {number}"),), sampling=Sampling(500)) for number in range(200)]
        with pytest.raises(RunError) as caught:
            generator.generate(requests)
        assert "cannot use the ledger of calls: database or disk is full\n  do this: free some space" in str(
            caught.value
        )
        kept, asked = len(ledger.search("b2:", 1000)), len(server.calls)
        assert 4 < kept < asked <= kept + 4
        change("size=100m")
        assert {reply.text for reply in generator.generate(requests)} == {"long answer " * 200}
        assert len(server.calls) == 200 + asked - kept
        assert sum(loss.why == "uncertain" for loss in ledger.losses()) >= asked - kept
        assert ledger.in_flight() == 0
        ledger.close()
