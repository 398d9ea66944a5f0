"""Our side of a pair, on a tiny model: the course of the rate, and a time limit."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from bench import ours


def test_under_a_time_limit_it_goes_round_and_keeps_what_it_learned(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"ids": [2, 5, 6, 7 + n], "mask": [0, 0, 1, 1]} for n in range(4)]
    path = tmp_path / "w.json"
    path.write_text(json.dumps({"name": "w", "kind": "sft", "batch_size": 2, "rows": rows}), "utf-8")

    def run(*words: str) -> dict[str, Any]:
        command = ["ours", str(path), str(tiny_decoder), "--method", "lora", "--precision", "float32", "--warmup", "0"]
        monkeypatch.setattr("sys.argv", [*command, *words])
        seconds = itertools.count()
        monkeypatch.setattr("time.time", lambda: next(seconds))
        ours.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return result

    found = run("--rate", "timed", "--until", "12", "--save", str(tmp_path / "adapter"))
    assert found["steps"] == len(found["losses"]) == 6
    assert found["tokens"] == 8 * 6
    assert found["losses"][-1] < found["losses"][0]
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert run("--until", "-1")["steps"] == 1  # as on the other side, the first step is made
    whole = run()
    assert whole["steps"] == 2
    assert run("--forest", "4")["losses"] == pytest.approx(whole["losses"], rel=1e-5)


def test_courses_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def course(name: str) -> list[float]:
        seconds = itertools.count(100)
        monkeypatch.setattr("time.time", lambda: next(seconds))
        chosen = argparse.Namespace(method="lora", rate=name, until=120.0)
        return [ours._rate(chosen, step, 40, 100.0) / 5e-4 for step in range(40)]

    assert course("constant") == [1.0] * 40
    assert course("timed")[:4] == pytest.approx([1 / 3, 19 / 20 * 2 / 3, 18 / 20, 17 / 20])
    assert course("timed")[20:] == [0.0] * 20
    assert course("recipe")[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert course("recipe")[-1] < 0.01
