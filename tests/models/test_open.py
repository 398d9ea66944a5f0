"""Any model reference is a Generator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shinan.core.errors import ConfigError, ModelError
from shinan.core.example import user
from shinan.core.ledger import Ledger
from shinan.models.generator import Request, Sampling
from shinan.models.http import HttpGenerator
from shinan.models.local import LocalGenerator
from shinan.models.open import Terms, open_generator
from tests.models.endpoint import ScriptedEndpoint

ASK = Request((user("Hi there"),), sampling=Sampling(max_new_tokens=3))


def test_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path))
    with ScriptedEndpoint() as server:
        terms = Terms(account="mine", price="1,2", budget="0.01", concurrency=3)
        generator = open_generator(server.ref + "#n", terms=terms)
        assert generator.name == "scripted"
        assert [reply.text for reply in generator.generate([ASK])] == ["Hi there"]
    ledger = Ledger(tmp_path)
    assert ledger.spent("mine") == (4, 2 * 1000 + 2 * 2000)
    ledger.close()


def test_an_endpoint_that_says_nothing_for_too_long_is_asked_again(tmp_path: Path) -> None:
    with ScriptedEndpoint(faults=["stall", None]) as server:
        generator = open_generator(server.ref, terms=Terms(timeout=0.3), ledger=Ledger(tmp_path))
        assert [reply.text for reply in generator.generate([ASK])] == ["Hi there"]
        assert len(server.calls) == 2


def test_a_folder(tiny_llama: Path) -> None:
    generator = open_generator(str(tiny_llama), chat="alpaca", batch_size=2)
    assert isinstance(generator, LocalGenerator)
    assert generator.batch_size == 2
    [reply] = generator.generate([ASK])
    assert reply.new_tokens == 3


@pytest.mark.promise10
def test_what_cannot_be_opened(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a base model.*\n  do this: tune it first, or name a chat format"):
        open_generator(str(tiny_llama))
    with pytest.raises(ConfigError, match="a price or a budget is for endpoints"):
        open_generator(str(tiny_llama), chat="alpaca", terms=Terms(budget="3"))
    with pytest.raises(ConfigError, match="an endpoint writes conversations in its model's own format"):
        open_generator("endpoint:m@http://h", chat="alpaca", ledger=Ledger(tmp_path))
    with pytest.raises(ConfigError, match="needs a price"):
        open_generator("endpoint:m@http://h", terms=Terms(budget="3"), ledger=Ledger(tmp_path))


def test_an_endpoint_needs_no_torch() -> None:
    code = "import sys, shinan.models.open; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_seam(tmp_path: Path) -> None:
    generator = open_generator("endpoint:m@http://h", ledger=Ledger(tmp_path))
    assert isinstance(generator, HttpGenerator)
    assert generator.generate([]) == []
