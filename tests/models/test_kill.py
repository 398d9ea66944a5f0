"""Promise 2 against kill -9: no row is lost, nothing whose answer had reached the ledger is asked again."""

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

from shinan.core.ledger import Ledger
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
