"""Pairs of runs: order, medians, the search, and what a command that fails leaves behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import pairs
from shinan.core.errors import RunError


def script(code: str) -> list[str]:
    """A command that runs `code`."""
    return [sys.executable, "-c", code]


def trl(tmp_path: Path, kind: str = "sft") -> pairs.Trl:
    """TRL on a workload of that kind; nothing is run."""
    (tmp_path / "w.json").write_text(json.dumps({"kind": kind}), "utf-8")
    return pairs.Trl(Path("/venv/python"), tmp_path / "w.json", Path("/model"), "lora", 24)


def side(speed: float, memory: float) -> dict[str, Any]:
    """What one run prints."""
    return {"tokens_per_second": speed, "peak_gb": memory}


def test_the_last_line_is_the_result() -> None:
    assert pairs.child(script("print('noise'); print('{\"tokens_per_second\": 2}')")) == {"tokens_per_second": 2}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("raise SystemExit('no memory')", "it ended with code 1: no memory\n  do this: run it alone to see all"),
        ("raise SystemExit(3)", "it ended with code 3: nothing on stderr"),
        ("print('done')", "its last line is no JSON object"),
        ("print('[1]')", "its last line is no JSON object"),
        ("pass", "its last line is no JSON object"),
    ],
)
def test_a_command_without_a_result_is_told(code: str, sentence: str) -> None:
    with pytest.raises(RunError) as error:
        pairs.child(script(code))
    assert sentence in str(error.value)


def test_sides_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"open({str(log)!r}, 'a').write('NAME'); print('{{\"tokens_per_second\": 1}}')"
    ours, peer = (script(code.replace("NAME", name)) for name in "AB")
    assert len(pairs.alternate(ours, peer, 3)) == 3
    assert log.read_text("utf-8") == "ABABAB"


def test_rows_hold_medians_and_the_median_of_the_ratios() -> None:
    runs = [(side(10, 1), side(1, 2)), (side(30, 2), side(2, 2)), (side(20, 3), side(5, 2))]
    speed, memory = pairs.rows("w", runs, "TRL", {"tokens_per_second": 9.0, "peak_gb": 0.75})
    assert speed == pairs.Row("w", "tokens_per_second", 20, 2, "TRL", 10, 9.0, 3)  # ratios 10, 15, 4
    assert memory == pairs.Row("w", "peak_gb", 2, 2, "TRL", 1, 0.75, 3)  # ratios 0.5, 1, 1.5


def test_the_command_of_a_configuration(tmp_path: Path) -> None:
    words = trl(tmp_path).command({"batching": "packed", "compile": True, "warmup": 3})
    assert words[:3] == ["/venv/python", "-m", "bench.peers.trl_sft"]
    assert words[3:5] == [str(tmp_path / "w.json"), "/model"]
    options = "--method lora --max-rows 24 --batching packed --compile --warmup 3"
    assert words[5:] == options.split()


def test_a_search_tries_the_grid_then_the_neighbours_of_the_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fake(command: list[str]) -> dict[str, Any]:
        words = " ".join(command)
        asked.append(words)
        if "autocast" in words and "full-logits" in words:
            raise RunError("out of memory")
        return side(10 + 5 * ("packed" in words) + 3 * ("--compile" in words) + ("full-logits" in words), 1)

    monkeypatch.setattr(pairs, "child", fake)
    trials = pairs.search(trl(tmp_path))
    assert len(asked) == len(set(asked)) == 2 * 3 * 2 + 3
    best = {"loss": "full-logits", "batching": "packed", "precision": "bf16-weights"}
    assert trials[0]["config"] == best | {"compile": True, "warmup": 3}
    assert trials[1]["config"] == best
    assert [trial["error"] for trial in trials if "error" in trial] == ["out of memory"] * 4
    assert all("error" in trial for trial in trials[-4:])


def test_a_search_in_which_everything_fails_has_no_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(command: list[str]) -> dict[str, Any]:
        raise RunError(command[2])

    monkeypatch.setattr(pairs, "child", fake)
    trials = pairs.search(trl(tmp_path, "dpo"))
    assert [trial["error"] for trial in trials] == ["bench.peers.trl_dpo"] * 4


def test_the_best_configuration_is_that_of_the_first_search_that_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "RESULTS", tmp_path)
    assert pairs.best("race-lora", "sft-lora") == pairs.BEST
    for name in ("sft-lora", "race-lora"):
        pairs.save(f"search-{name}", [], trials=[{"config": {"batching": name}}, {"config": {}}])
        assert pairs.best("race-lora", "sft-lora") == {"batching": name}


def test_a_command_gets_further_variables() -> None:
    code = "import json, os; print(json.dumps({'found': os.environ['SHINAN_X']}))"
    assert pairs.child(script(code), SHINAN_X="y") == {"found": "y"}


def test_a_configuration_in_words() -> None:
    config: pairs.Config = {"loss": "chunked", "batching": "plain", "precision": "fp32", "compile": True, "warmup": 3}
    assert pairs.label(config) == "chunked/plain/fp32/compile"
    assert (
        pairs.peer_version({"config": config, "versions": {"trl": "1.16.0"}})
        == "TRL 1.16.0, chunked/plain/fp32/compile"
    )
    assert (
        pairs.peer_version({"config": config | {"compile": False}, "versions": {"trl": "1"}})
        == "TRL 1, chunked/plain/fp32"
    )


def test_results_are_written_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "RESULTS", tmp_path)
    made = [pairs.Row("unique, full", "tokens_per_second", 400.0, 44.0, "TRL 1.16.0", 9.09, 9.0, 3)]
    document = json.loads(pairs.save("unique", made, pairs=[[1, 2]]).read_text("utf-8"))
    assert document["rows"] == [
        {
            "workload": "unique, full",
            "metric": "tokens_per_second",
            "ours": 400.0,
            "peer": 44.0,
            "peer_version": "TRL 1.16.0",
            "ratio": 9.09,
            "target": 9.0,
            "n": 3,
        }
    ]
    assert document["pairs"] == [[1, 2]]
    assert pairs.table(made).splitlines() == [
        "workload      metric              ours  peer  ratio  target  n  against   ",
        "unique, full  tokens_per_second  400.0  44.0   9.09       9  3  TRL 1.16.0",
    ]
