"""`shinan ledger`, and evaluations and talks with models behind endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shinan.evaluate.samples import read_samples
from tests.cli.conftest import Shinan
from tests.models.endpoint import ScriptedEndpoint, Status, prompt_of

RECIPE = """\
name: asked
model: tiny:decoder
build: [{id: mine, use: collection, with: {limit: 4}}]
evaluate:
  - {id: own, use: file, with: {path: items.json}, metrics: [exact_match], max_new_tokens: 4}
"""
ITEMS = [{"prompt": f"Say {n}", "completion": f"Say {n}"} for n in range(30)]


@pytest.fixture
def server() -> Iterator[ScriptedEndpoint]:
    """It repeats what it is told: right answers, all of them."""
    with ScriptedEndpoint() as made:
        yield made


@pytest.fixture
def asked(place: Path, server: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The command that evaluates the scripted model on 30 items of our own."""
    monkeypatch.setenv("COLUMNS", "150")
    (place / "asked.yaml").write_text(RECIPE, "utf-8")
    (place / "items.json").write_text(json.dumps(ITEMS), "utf-8")
    return ("eval", server.ref, "--recipe", "asked.yaml", "--price", "1,2")


def row(out: str) -> list[str]:
    """The numbers of the one line of the table of an evaluation."""
    [line] = [line.split() for line in out.splitlines() if line.strip().startswith("own")]
    return line[line.index("match") + 1 :]


def test_an_endpoint_is_evaluated_once_and_for_all(
    place: Path, shinan: Shinan, asked: tuple[str, ...], server: ScriptedEndpoint
) -> None:
    done = shinan(*asked)
    assert (done.code, row(done.out)) == (0, ["100.0", "30", "0", "0", "0"])
    log = place / "runs/eval-scripted-on-asked/eval/own.jsonl"
    whole = log.read_bytes()
    assert {(sample.style, sample.finish) for sample in read_samples(log)} == {("endpoint", "stop")}
    server.stop()
    assert shinan(*asked).code == 0
    log.unlink()
    assert shinan(*asked).code == 0  # from the ledger: nobody is there to be asked
    assert log.read_bytes() == whole
    server.start()


@pytest.mark.promise2
def test_a_budget_stops_an_evaluation_and_the_same_command_goes_on(
    shinan: Shinan, asked: tuple[str, ...], server: ScriptedEndpoint
) -> None:
    """The longest come first: `Say 10` takes 2 + 2 tokens, $0.000006, and reserves 6 + 16 and 4, $0.00003. After twelve
    of them $0.000072 are spent, and the next might not fit."""
    stopped = shinan(*asked, "--budget", "0.0001")
    assert stopped.code == 1
    assert "error: the budget is spent ($0.000072 of $0.0001): 12 requests are answered, 18 are left" in stopped.err
    assert len(server.calls) == 12
    assert shinan(*asked, "--budget", "0.0001").code == 1
    assert len(server.calls) == 12
    done = shinan(*asked, "--budget", "1")
    assert row(done.out)[1] == "30"
    assert len(server.calls) == 30


def test_what_failed_is_counted_apart_never_scored_and_asked_again_on_demand(
    shinan: Shinan, asked: tuple[str, ...], server: ScriptedEndpoint
) -> None:
    server.faults = lambda _, body: Status(400, "too long") if prompt_of(body) in ("Say 3", "Say 7") else None
    done = shinan(*asked)
    assert row(done.out) == ["100.0", "30", "0", "0", "0", "2"]
    dead = shinan("ledger", "--failed")
    assert dead.out.count("refused: the endpoint answered 400: too long") == 2
    assert [json.loads(line)["reason"] for line in shinan("ledger", "--failed", "--json").out.splitlines()] == (
        ["refused"] * 2
    )
    server.faults = ()
    assert row(shinan(*asked).out)[-1] == "2"
    assert row(shinan(*asked, "--retry-failed").out) == ["100.0", "30", "0", "0", "0"]
    assert len(server.calls) == 32
    assert shinan("ledger", "--failed").out == "No request failed.\n"
    both = shinan("ledger", "Say", "--failed")
    assert both.code == 2
    assert "leave TEXT out" in both.err


def test_an_estimate_asks_nothing(shinan: Shinan, asked: tuple[str, ...], server: ScriptedEndpoint) -> None:
    """5 or 6 characters: none of 6, one of 4, two or three of 2 bytes; 4 for the turn. 30 to 34 and 120 tokens."""
    before = shinan(*asked, "--estimate")
    assert server.calls == []
    assert before.out == (
        "30 requests; the ledger answers 0 of them for nothing\n"
        "30 to ask: 140 to 200 tokens of prompt, likely 150"
        " (characters / 4: the tokenizer of scripted is not on this machine), at most 120 of reply\n"
        "$0.0002 to $0.00044, without what is tried again\n"
    )
    shinan(*asked)
    after = shinan(*asked, "--estimate")
    assert after.out.startswith("30 requests; the ledger answers 30 of them for nothing\n0 to ask: 0 ")


def test_the_ledger_shows_what_was_spent_and_finds_calls(shinan: Shinan, asked: tuple[str, ...]) -> None:
    assert shinan("ledger").out == "The ledger is empty: no model behind an endpoint was asked yet.\n"
    shinan(*asked)
    [line] = [line.split() for line in shinan("ledger").out.splitlines() if "scripted" in line]
    assert line[1:] == ["scripted", "30", "0", "0", "120", "$0.00018"]
    [spend] = [json.loads(line) for line in shinan("ledger", "--json").out.splitlines()]
    assert (spend["calls"], spend["tokens"], spend["nanousd"]) == (30, 120, 180_000)
    found = shinan("ledger", "Say 1", "--json", "--limit", "3").out.splitlines()
    assert len(found) == 3
    call = json.loads(found[0])
    assert call["response"]["text"] == call["request"]["messages"][0][1]
    shown = shinan("ledger", call["key"]).out
    assert shown.startswith(f"{call['key']}  {call['at']}  scripted  4 tokens  $0.000006  1 attempts\n  asked: ")
    assert shinan("ledger", "nobody said this").out == "No call holds 'nobody said this'.\n"


@pytest.mark.promise2
def test_cleaning_the_cache_leaves_what_was_paid_for(place: Path, shinan: Shinan, asked: tuple[str, ...]) -> None:
    shinan(*asked)
    before = shinan("ledger").out
    assert shinan("clean", "--cache", "--yes").code == 0
    assert "ledger" not in shinan("clean").out
    assert shinan("ledger").out == before


@pytest.mark.promise10
def test_a_refused_key_is_a_sentence(shinan: Shinan, asked: tuple[str, ...], server: ScriptedEndpoint) -> None:
    server.key = "right"
    done = shinan(*asked)
    assert done.code == 1
    assert "the endpoint answered 401" in done.err
    assert "do this: set SHINAN_API_KEY in the environment to the endpoint's key" in done.err


@pytest.mark.promise10
def test_options_of_endpoints_are_refused_elsewhere(shinan: Shinan, place: Path) -> None:
    for option in (("--budget", "3"), ("--retry-failed",), ("--estimate",), ("--concurrency", "2"), ("--timeout", "9")):
        done = shinan("eval", "tiny:decoder", *option)
        assert done.code == 2
        assert "is for endpoints only" in done.err
    done = shinan("eval", "endpoint:m@http://h", "--chat", "alpaca", "--budget", "a")
    assert done.code == 1
    assert "leave out the chat format" in done.err


def test_a_talk_with_an_endpoint(shinan: Shinan, server: ScriptedEndpoint, place: Path) -> None:
    done = shinan("chat", server.ref, stdin="One\nTwo\n")
    assert (done.code, done.out) == (0, "One\nTwo\n")
    assert [len(body["messages"]) for body in server.calls] == [1, 3]
    server.faults = lambda *_: Status(400, "too long")
    failed = shinan("chat", server.ref, stdin="Three\n")
    assert failed.code == 1
    assert "scripted: refused: the endpoint answered 400: too long\n  do this: ask again" in failed.err
    server.faults = ()
    assert shinan("chat", server.ref, stdin="Three\n").out == "Three\n"


def test_an_evaluation_by_an_endpoint_is_compared_with_another(shinan: Shinan, asked: tuple[str, ...]) -> None:
    shinan(*asked)
    shinan(*asked, "--name", "again")
    done = shinan("compare", "runs/eval-scripted-on-asked", "runs/again")
    assert done.code == 0
    assert "0 better, 0 worse, 30 the same" in done.out


@pytest.mark.promise10
def test_an_evaluation_is_kept_among_the_runs(shinan: Shinan, place: Path) -> None:
    done = shinan("eval", "tiny:decoder", "--name", "../up")
    assert done.code == 2
    assert "names no folder" in done.err
    assert not (place.parent / "up").exists()
