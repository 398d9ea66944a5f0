"""The server under load: tokens a second, and seconds to the first token, with 1, 8 and 64 clients at once.

    python -m bench.serving [--model starter:smollm2-135m-instruct] [--clients 1 8 64] [--tokens 48] [--slots 16]

`shinan serve` runs as a process; each client streams one greedy answer after another. The peer is the same decode loop
without a server: the same requests, all at once, in one process. For the first token it is one prompt read alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bench.pairs import ROOT, Row, save, table
from shinan.build.collection import collection
from shinan.core.errors import RunError
from shinan.core.example import Message
from shinan.models.generator import Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.sources import resolve
from shinan.serve.served import load_served


class Answer(NamedTuple):
    """One streamed answer: seconds to its first token, and its length in tokens."""

    first: float
    tokens: int


@contextmanager
def server(model: str, slots: int) -> Iterator[str]:
    """`shinan serve` as a process; the address, without scheme."""
    command = [sys.executable, "-m", "shinan", "serve", model, "--port", "0", "--slots", str(slots)]
    source = {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | source) as process:
        line = next(iter(process.stdout or ()), "")
        try:
            if not line:
                raise RunError("the server did not start", where=" ".join(command), fix="run it alone to see why")
            yield line.partition(" at http://")[2].partition(";")[0]
        finally:
            process.terminate()


def ask(address: str, body: dict[str, Any]) -> Answer:
    """One streamed answer. Raises RunError for a refusal."""
    connection = http.client.HTTPConnection(address, timeout=600)
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    if response.status != 200:
        raise RunError(f"the server answered {response.status}: {response.read()!r}", where=address)
    first, tokens = 0.0, 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
            first = first or time.perf_counter() - began
        if chunk.get("usage"):
            tokens = chunk["usage"]["completion_tokens"]
    connection.close()
    return Answer(first or time.perf_counter() - began, tokens)


def prompts(count: int) -> list[tuple[Message, ...]]:
    """Held-out questions of the starter collection."""
    return [tuple(item.prompt) for item in collection(0, split="heldout", languages=["en"], limit=count)]


def load(address: str, model: str, talks: Sequence[tuple[Message, ...]], clients: int, tokens: int) -> dict[str, Any]:
    """Ask all `talks` with so many clients at once."""

    def one(talk: tuple[Message, ...]) -> Answer:
        turns = [{"role": message.role, "content": message.text} for message in talk]
        how = {"temperature": 0, "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
        return ask(address, {"model": model, "messages": turns} | how)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(one, talks))
    seconds = time.perf_counter() - began
    firsts = sorted(answer.first for answer in answers)
    print(f"{clients} clients: {len(answers)} answers in {seconds:.1f} s", file=sys.stderr, flush=True)
    return {
        "clients": clients,
        "requests": len(answers),
        "tokens": sum(answer.tokens for answer in answers),
        "tokens_per_second": sum(answer.tokens for answer in answers) / seconds,
        "first_token_seconds": statistics.median(firsts),
        "first_token_seconds_p95": firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
    }


def alone(folder: Path, talks: Sequence[tuple[Message, ...]], tokens: int, slots: int) -> tuple[float, float]:
    """(tokens a second, seconds to a first token) of the same requests without a server."""
    served = load_served(folder)
    local = LocalGenerator(served.name, served.model, served.chat, slots)
    firsts = []
    for talk in talks[:4]:
        began = time.perf_counter()
        local.generate([Request(talk, sampling=Sampling(1))])
        firsts.append(time.perf_counter() - began)
    began = time.perf_counter()
    replies = local.generate([Request(talk, sampling=Sampling(tokens)) for talk in talks])
    return sum(reply.new_tokens for reply in replies) / (time.perf_counter() - began), statistics.median(firsts)


def main() -> None:
    """Measure, print, and write `bench/results/serving.json`."""
    chosen = _options()
    counts = {clients: max(8, clients) for clients in chosen.clients}
    talks = prompts(max(counts.values()))
    with server(chosen.model, chosen.slots) as address:
        load(address, chosen.model, talks[:2], 1, 4)  # the first steps are slower
        runs = [load(address, chosen.model, talks[:n], clients, chosen.tokens) for clients, n in counts.items()]
    speed, first = alone(resolve(chosen.model), talks, chosen.tokens, chosen.slots)
    made = []
    for run in runs:
        name, n = f"{chosen.model}, {run['clients']} clients", run["requests"]
        ours = run["tokens_per_second"]
        made.append(Row(name, "tokens_per_second", ours, speed, "no server, all at once", ours / speed, None, n))
        ours = run["first_token_seconds"]
        made.append(Row(name, "first_token_seconds", ours, first, "no server, one alone", ours / first, None, n))
    save("serving", made, runs=runs, options={"tokens": chosen.tokens, "slots": chosen.slots}, load=os.getloadavg())
    for row in made:
        print(json.dumps(asdict(row)))
    print(f"\n{table(made)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter:smollm2-135m-instruct")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--slots", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    main()
