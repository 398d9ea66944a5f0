"""Endpoints behind the environment's proxy, with a real proxy."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import urllib3

from shinan.core.errors import ModelError
from shinan.core.example import user
from shinan.core.ledger import Ledger
from shinan.models.books import Books
from shinan.models.endpoint import parse_endpoint
from shinan.models.generator import Request, Sampling
from shinan.models.http import HttpGenerator
from shinan.models.proxies import way_to
from shinan.models.sending import Patience
from tests.models.endpoint import ScriptedEndpoint

ASK = Request((user("Hi there"),), sampling=Sampling(max_new_tokens=3))


class Proxy(ThreadingHTTPServer):
    """Passes requests for `example.test` on to one port of this machine; notes whole addresses and logins."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = port
        self.asked: list[str] = []
        self.logins: list[str | None] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        self.server.logins.append(self.headers["Proxy-Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        onward = http.client.HTTPConnection("127.0.0.1", self.server.target)
        onward.request("POST", urlsplit(self.path).path, body, {"Content-Type": "application/json"})
        answer = onward.getresponse()
        data = answer.read()
        onward.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def ledger(tmp_path: object) -> Iterator[Ledger]:
    made = Ledger(tmp_path)  # type: ignore[arg-type]
    yield made
    made.close()


def _generator(url: str, ledger: Ledger) -> HttpGenerator:
    endpoint = parse_endpoint(f"endpoint:scripted@{url}")
    patience = Patience(attempts=2, connect=1.0, silence=5.0, answer=5.0, outage=0.5)
    return HttpGenerator(endpoint, Books(ledger, endpoint.model), patience=patience)


@pytest.mark.usefixtures("clean")
def test_an_endpoint_is_reached_through_the_proxy(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedEndpoint() as server, Proxy(server.port) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{proxy.server_port}")
        [reply] = _generator("http://example.test/v1", ledger).generate([ASK])
    assert reply.text == "Hi there"
    assert proxy.asked == ["http://example.test/v1/chat/completions"]
    assert proxy.logins == ["Basic bWU6c2VjcmV0"]


@pytest.mark.usefixtures("clean")
def test_this_machine_and_exempt_hosts_are_asked_directly(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.test")
    with ScriptedEndpoint() as server:
        assert [reply.text for reply in _generator(server.url, ledger).generate([ASK])] == ["Hi there"]
    for url in ("http://localhost:1/v1", "http://[::1]:1/v1", "http://example.test/v1", "https://other.test/v1"):
        assert not isinstance(way_to(url).opener, urllib3.ProxyManager), url
    assert isinstance(way_to("http://other.test/v1").opener, urllib3.ProxyManager)


@pytest.mark.promise10
@pytest.mark.usefixtures("clean")
def test_a_proxy_that_is_down_or_none_is_told(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ModelError, match="no connection") as error:
        _generator("http://example.test/v1", ledger).generate([ASK])
    assert "secret" not in str(error.value)
    monkeypatch.setenv("http_proxy", "socks5://me:secret@127.0.0.1:9")
    with pytest.raises(
        ModelError, match=r"that is no http:// or https:// address\n  do this: correct HTTP_PROXY"
    ) as error:
        _generator("http://example.test/v1", ledger)
    assert "secret" not in str(error.value)
