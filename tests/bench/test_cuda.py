"""The GPU rows, as far as a CPU can tell: when they are skipped, what is run, and how its figures are read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bench import cuda
from bench.pairs import Trl
from shinan.core.errors import RunError


def trl(tmp_path: Path) -> Trl:
    """TRL on a workload; nothing is run."""
    (tmp_path / "w.json").write_text('{"kind": "sft"}', "utf-8")
    return Trl(Path("/venv/python"), tmp_path / "w.json", Path("/model"), "lora")


def test_without_a_gpu_it_says_so_and_ends(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench.cuda"])
    cuda.main()
    assert capsys.readouterr().out == "no CUDA rows: torch finds no GPU\n"


def test_a_peer_without_liger_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "_has", lambda python, module: False)
    assert cuda.missing(Path("python")) == "python has no liger-kernel to give TRL its best"


def test_modules_are_looked_for_in_the_peers_python() -> None:
    assert cuda._has(Path(sys.executable), "json")
    assert not cuda._has(Path(sys.executable), "no_such_module")


def test_unsloth_is_a_candidate_where_it_is_installed(tmp_path: Path) -> None:
    two, three = (list(map(" ".join, cuda.candidates(trl(tmp_path), unsloth))) for unsloth in (False, True))
    assert two == three[:2]
    assert all("bench.peers.trl_sft" in words and "--liger" in words for words in two)
    assert ["packed" in words for words in two] == [True, False]
    assert "bench.peers.unsloth_sft" in three[2]
    assert "--liger" not in three[2]


def test_the_fastest_that_ended_well_is_the_peer() -> None:
    assert cuda.fastest_of([{"error": "no"}, {"tokens_per_second": 1}, {"tokens_per_second": 2}]) == 2
    with pytest.raises(RunError, match="no peer ran"):
        cuda.fastest_of([{"error": "no"}])


def test_utilisation_is_useful_work_over_the_cards_rate() -> None:
    assert cuda.peak_of("NVIDIA H200") == (989e12, "published")
    assert cuda.peak_of("another card") is None
    row = cuda.utilisation([{"useful_gflops": 495e3}, {"useful_gflops": 494e3}], 989e12, "published", "packed, full")
    assert (row.ours, row.peer, row.ratio, row.target) == pytest.approx((494.5, 989, 0.5, 0.5))


def test_the_peer_is_named_with_its_kernels() -> None:
    config = {"loss": "chunked", "batching": "packed", "precision": "bf16-weights"}
    found = cuda.named({"config": config, "versions": {"trl": "1.16.0", "torch": "2", "liger-kernel": "0.6"}})
    assert found == "TRL 1.16.0, Liger 0.6, chunked/packed/bf16-weights"
