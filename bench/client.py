"""How busy the HTTP client keeps an endpoint: `python -m bench.client [--runs N]`.

1,000 requests to a scripted endpoint (a process of its own) that answers each after 50 ms, everything through a new
ledger on the disk. The peer is the ideal: requests x 50 ms / requests in flight. Results: `bench/results/client.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.pairs import ROOT, Row, save, table
from shinan.core.example import user
from shinan.core.ledger import Ledger
from shinan.models.books import Books
from shinan.models.endpoint import parse_endpoint
from shinan.models.generator import Request
from shinan.models.http import HttpGenerator

REQUESTS, DELAY = 1000, 0.05
IN_FLIGHT = (8, 16, 32, 64)  # 16 unless told otherwise
TARGET = 0.9


@contextmanager
def endpoint() -> Iterator[str]:
    """A scripted endpoint in a process of its own; gives its reference."""
    command = [sys.executable, "-m", "tests.models.endpoint", "0", str(DELAY)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin  # noqa: S101  both are pipes
        assert server.stdout  # noqa: S101
        yield f"endpoint:scripted@http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.stdin.close()


def seconds(ref: str, concurrency: int, place: Path) -> float:
    """Time for all requests through a new ledger in `place`."""
    ledger = Ledger(place)
    asked = parse_endpoint(ref)
    generator = HttpGenerator(asked, Books(ledger, asked.model), concurrency=concurrency)
    requests = [Request((user(f"Question {number}: " + "what is it? " * 40),)) for number in range(REQUESTS)]
    start = time.perf_counter()
    replies = generator.generate(requests)
    taken = time.perf_counter() - start
    assert all(reply.finish != "failed" for reply in replies)  # noqa: S101
    ledger.close()
    return taken


def measure(runs: int) -> list[Row]:
    """A row for each number of requests in flight: seconds taken, ideal seconds, and the ideal's share of them."""
    found = []
    with endpoint() as ref, TemporaryDirectory() as place:
        for concurrency in IN_FLIGHT:
            taken = [seconds(ref, concurrency, Path(place) / f"{concurrency}-{run}") for run in range(runs)]
            ideal = REQUESTS * DELAY / concurrency
            middle = statistics.median(taken)
            name = f"{REQUESTS} requests, {concurrency} in flight"
            found.append(Row(name, "seconds", middle, ideal, "ideal", ideal / middle, TARGET, runs))
    return found


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    made = measure(parser.parse_args().runs)
    save("client", made)
    for row in made:
        print(json.dumps(asdict(row)))
    print(f"\n{table(made)}")


if __name__ == "__main__":
    main()
