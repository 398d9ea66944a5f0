"""The chat page: what a browser is told about it, and, in a real browser, what a person can do with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shinan.serve.run import Server
from tests.serve.browser import CHROMIUM, Page, browser
from tests.serve.serving import ask, served, serving, until


@pytest.fixture(scope="module")
def server(tiny_decoder: Path) -> Iterator[Server]:
    model = served(tiny_decoder)
    named = replace(model.card, name="<b>tiny</b>", licence="<i>CC0</i>", notices=("config.json",))
    with serving(replace(model, card=named, names=("<b>tiny</b>",))) as running:
        yield running


class TestAsSent:
    def test_nothing_is_loaded_and_only_the_pages_own_script_may_run(self, server: Server) -> None:
        reply = ask(server, "/")
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["connect-src"] == "'self'"
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy["script-src"])
        assert "unsafe" not in reply.headers["Content-Security-Policy"]
        assert reply.headers["Access-Control-Allow-Origin"] is None

    def test_it_is_one_file(self, server: Server) -> None:
        sources: list[str] = []

        class Links(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                sources.extend(value or "" for name, value in attrs if name in ("src", "href", "style", "onclick"))

        text = ask(server, "/").text
        Links().feed(text)
        assert sources == ["data:,"]
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write|eval\(", text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
@pytest.mark.slow
class TestInABrowser:
    @pytest.fixture
    def page(self, server: Server, tmp_path: Path) -> Iterator[Page]:
        with browser(tmp_path) as page:
            page.go(server.url)
            page.until("document.title.includes('tiny')")
            yield page

    @staticmethod
    def texts(page: Page, selector: str) -> list[str]:
        found: list[str] = page.run(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")
        return found

    def ask(self, page: Page, question: str, limit: int = 12) -> None:
        page.run(f"document.getElementById('limit').value = {limit}; document.getElementById('question').focus()")
        page.type(question)
        page.press("Enter", 13)

    def test_a_talk(self, page: Page, server: Server) -> None:
        self.ask(page, "<img src=x onerror=alert(1)> 猫")
        page.until("document.querySelector('.turn.assistant .note')")
        assert self.texts(page, ".turn.user .text") == ["<img src=x onerror=alert(1)> 猫"]
        [answer] = self.texts(page, ".turn.assistant .text")
        assert answer
        [note] = self.texts(page, ".turn.assistant .note")
        assert re.fullmatch(
            r"12 tokens, [\d.]+ a second, the first after [\d.]+ s, cut at the longest answer; .*", note
        )
        self.ask(page, "And again?")
        page.until("document.querySelectorAll('.turn.assistant .note').length === 2")
        turns = page.run("turns.map(turn => turn.role + ':' + turn.content)")
        assert turns[:3] == ["user:<img src=x onerror=alert(1)> 猫", f"assistant:{answer}", "user:And again?"]
        assert page.problems == []

    def test_what_the_model_is_called_is_text(self, page: Page) -> None:
        assert self.texts(page, "#model") == ["<b>tiny</b>"]
        assert self.texts(page, "#licence") == ["Licence: <i>CC0</i> (notices)"]
        assert page.run("document.querySelectorAll('h1 b, #licence i').length") == 0
        assert page.run("fetch('notices').then(r => r.text())").startswith("config.json\n\n{")

    def test_stop_and_a_new_chat(self, page: Page, server: Server) -> None:
        page.run("document.getElementById('temperature').value = 2")
        self.ask(page, "Go on for long.", 1900)
        page.until("(document.querySelector('.turn.assistant .text')?.textContent.length ?? 0) > 20")
        assert page.run("document.getElementById('send').hidden")
        page.press("Escape", 27)
        page.until("document.querySelector('.turn.assistant .note')?.textContent === 'stopped'")
        until(lambda: server.engine.busy == 0)
        page.run("document.getElementById('new').click()")
        assert self.texts(page, ".turn") == []
        assert page.run("turns.length === 0 && !document.getElementById('welcome').hidden")

    def test_an_error_is_a_sentence_and_the_question_is_not_lost(self, page: Page) -> None:
        self.ask(page, "Too much?", 5000)
        page.until("document.querySelector('.problem')")
        [problem] = self.texts(page, ".problem")
        assert re.fullmatch(
            r"max_tokens: the prompt has \d+ tokens and 5000 more are asked for, the model has room for 2048\n.*",
            problem,
        )
        assert page.run("document.getElementById('question').value") == "Too much?"
        assert page.run("turns.length") == 0

    def test_a_server_that_is_gone(self, page: Page) -> None:
        page.call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        self.ask(page, "Anyone?")
        page.until("document.querySelector('.problem')?.textContent.startsWith('The server cannot be reached')")
        assert page.run("document.getElementById('question').value") == "Anyone?"

    def test_a_key_is_asked_for(self, tiny_decoder: Path, tmp_path: Path) -> None:
        with serving(served(tiny_decoder), key="s3cret") as locked, browser(tmp_path) as page:
            page.go(locked.url)
            page.until("!document.getElementById('key-field').hidden")
            assert self.texts(page, ".problem")[0].startswith("the API key is missing or wrong")
            page.run(
                "key = document.getElementById('key'); key.value = 's3cret'; key.dispatchEvent(new Event('change'))"
            )
            page.until("document.getElementById('model').textContent === 'decoder'")
            assert self.texts(page, ".problem") == []
            assert page.run("Object.keys(localStorage).length + document.cookie.length") == 0
