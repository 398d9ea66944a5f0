"""A model behind an endpoint, against a scripted server on real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shinan.core.example import user
from shinan.core.ledger import Ledger
from shinan.models.books import Books
from shinan.models.endpoint import parse_endpoint
from shinan.models.generator import Request, Sampling
from shinan.models.http import HttpGenerator
from tests.models.endpoint import ScriptedEndpoint


def ask(text: str, **fields: Any) -> Request:
    return Request((user(text),), sampling=Sampling(max_new_tokens=fields.pop("tokens", 8)), **fields)


def test_smoke(tmp_path: Path) -> None:
    with ScriptedEndpoint() as server:
        ledger = Ledger(tmp_path)
        g = HttpGenerator(parse_endpoint(server.ref), Books(ledger, "scripted"))
        out = g.generate([ask(f"hello {i}") for i in range(50)])
        assert [r.text for r in out] == [f"hello {i}" for i in range(50)]
        out2 = g.generate([ask(f"hello {i}") for i in range(50)])
        assert out == out2
        assert len(server.calls) == 50
        print(ledger.spend(), server.most_at_once)
