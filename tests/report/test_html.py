"""The page: complete, self-contained, and safe whatever the run's texts hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shinan.core.dataset import Manifest, write_manifest
from shinan.core.errors import RunError
from shinan.core.licence import MEANINGS, Term
from shinan.evaluate.results import compare_samples
from shinan.report.collect import Report, collect
from shinan.report.html import endings, render, showcase, write_report
from shinan.report.mixture import Mixture, Source
from tests.evaluate.answers import answer
from tests.report.fake_run import ALL, key, make_run

_BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_VOID = {"meta", "link", "br", "img"}


class _Page(HTMLParser):
    """Collects tags, attributes and text; refuses tags that don't close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self._open[-1:] != ["style"] else ""


@pytest.fixture(scope="module")
def page(report: Report) -> _Page:
    """The finished run's page."""
    return _Page(render(report))


def test_every_section_is_there(page: _Page) -> None:
    for heading in (
        "Before and after",
        "By category",
        "Tuning",
        "Answers side by side",
        "How answers ended",
        "What was dropped, and why",
        "The data that was trained on",
        "What these numbers don't show",
        "Licences",
        "How to reproduce",
    ):
        assert heading in page.text
    for fact in (
        "34 tasks",
        "near duplicate",
        "Gemma Terms of Use",
        "b2:",
        "torch",
        "2.13.0",
        "its seed is 20",
        "bf16",
    ):
        assert fact in page.text
    assert sum(tag == "svg" and attrs.get("role") == "img" for tag, attrs in page.tags) == 3


def test_the_page_loads_nothing_and_runs_nothing(page: _Page) -> None:
    policies = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert (policies[0] or "").startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    for tag, attrs in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "img", "base", "form", "a")
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcset", "style", "xlink:href")]
        assert attrs.get("href") in (None, "data:,")


def test_no_identifier_is_used_twice(page: _Page) -> None:
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers)) == 6


def test_answers_carry_their_language(page: _Page) -> None:
    assert ("pre", {"class": "prompt", "lang": "ja", "dir": "auto"}) in page.tags


def test_side_by_side_answers_are_chosen_by_the_rule(report: Report) -> None:
    chosen = showcase(report)
    assert chosen is not None
    (answers,) = report.answers
    pairs = answers.pairs("rouge_l")
    for shown, sign in ((chosen.gains, 1), (chosen.losses, -1)):
        assert len(shown) == 3
        assert len({before.task for before, _, _ in shown}) == 3
        assert [sign * d for _, _, d in shown] == sorted((sign * d for _, _, d in shown), reverse=True)
        others = [sign * d for before, _, d in pairs if before.task not in {b.task for b, _, _ in shown}]
        assert min(sign * d for _, _, d in shown) >= max(others)
    assert [before.targets[0] for before, _, _ in chosen.losses[:2]] == ["断り", "libary"]  # equal: by row name


def test_one_task_fills_one_place_only(report: Report) -> None:
    (answers,) = report.answers
    same = replace(answers, before=tuple(replace(sample, task="one") for sample in answers.before))
    chosen = showcase(replace(report, answers=(same,)))
    assert chosen is not None
    assert (len(chosen.gains), len(chosen.losses)) == (1, 1)


def test_endings_add_up(report: Report) -> None:
    before, after = endings(report.answers[0])
    assert (before.n, before.stopped, before.truncated, before.empty) == (96, 76, 20, 0)
    assert (after.side, after.truncated) == ("after", 1)


@pytest.mark.parametrize("number", [0, 1, 3, 4, 6])
def test_an_unfinished_run_has_a_page_that_says_so(tmp_path: Path, number: int) -> None:
    text = _Page(render(collect(make_run(tmp_path / "run", done=ALL[:number])))).text
    assert f"This run is not finished. Missing: {', '.join(ALL[number:])}." in text
    assert "Not finished" in text
    assert "What these numbers don't show" not in text


def test_a_run_without_a_plan_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=())
    (run / "plan.json").unlink()
    assert "it has no plan yet" in _Page(render(collect(run))).text


def test_both_files_are_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = write_report(run)
    assert page == run / "report.html"
    verdict = json.loads((run / "summary.json").read_text("utf-8"))["verdict"]
    assert verdict in " ".join(_Page(page.read_text("utf-8")).text.split())
    assert not list(run.glob(".*"))


def test_a_folder_that_is_no_run_gets_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="this is no run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _hostile(address: str) -> str:
    """Text that would run a script, load an address, or turn the page around, where escaping is forgotten."""
    beacon = f"fetch('{address}/run');document.title='owned'"
    return (
        f'"\'><script>{beacon}</script><img src={address}/img onerror="{beacon}"><svg onload="{beacon}">'
        f"<link rel=stylesheet href={address}/css><style>@import '{address}/import';</style></style></title></pre>"
        f"</svg></desc>{{{{ 7*7 }}}}{{% raw %}}<!-- ]]> -->\u202eevil\u2066 \x00\x1b[2J\x85 \ud83d javascript:{beacon}"
    )


@pytest.mark.promise10
def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run", spice=_hostile("http://127.0.0.1:9"))).read_text("utf-8")
    parsed = _Page(page)  # tags balance, so nothing broke out
    assert {tag for tag, _ in parsed.tags} <= {tag for tag, _ in _Page(_calm(tmp_path)).tags}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    assert "⟨U+202E⟩evil" in parsed.text
    assert "{{ 7*7 }}" in parsed.text
    assert "\ufffd" in parsed.text


def _calm(tmp_path: Path) -> str:
    return render(collect(make_run(tmp_path / "calm")))


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serves a folder on this machine; the list collects the paths that were asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            asked.append(self.path)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def _browse(address: str, profile: Path) -> str:
    """The page's tree after its scripts, if any, have run."""
    assert _BROWSER
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    options = [
        *quiet,
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=3000",
        "--dump-dom",
    ]
    command = [_BROWSER, "--headless", *root, *options, address]
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode("utf-8", "replace")


@pytest.mark.slow
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed here")
def test_in_a_browser_no_script_runs_and_no_request_leaves(tmp_path: Path) -> None:
    with _server(tmp_path) as (address, asked):
        hostile = _hostile(address)
        control = f"<title>x</title>{hostile}"
        (tmp_path / "control.html").write_text(control.encode("utf-8", "replace").decode(), "utf-8")
        write_report(make_run(tmp_path / "run", spice=hostile))
        assert "owned" in _browse(f"{address}/control.html", tmp_path / "profile")
        assert "/run" in asked  # the text is dangerous where it is not escaped
        asked.clear()
        tree = _browse(f"{address}/run/report.html", tmp_path / "profile")
        title = re.search("<title>(.*?)</title>", tree, re.DOTALL)
        assert title
        assert title[1] != "owned"
        assert asked == ["/run/report.html"]


@pytest.mark.slow
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed here")
@pytest.mark.parametrize("width", [390, 1000])
def test_in_a_browser_the_page_is_never_wider_than_the_window(tmp_path: Path, width: int) -> None:
    frame = f"""<iframe src="/run/report.html" width="{width}" height="800" frameborder="0"></iframe><script>
        onload = () => {{ document.title = frames[0].document.documentElement.scrollWidth }}</script>"""
    (tmp_path / "frame.html").write_text(frame, "utf-8")
    write_report(make_run(tmp_path / "run"))
    with _server(tmp_path) as (address, _):
        tree = _browse(f"{address}/frame.html", tmp_path / "profile")
    assert f"<title>{width}</title>" in tree


def test_what_could_not_be_scored_and_what_one_task_can_tell_is_said(tmp_path: Path) -> None:
    """What `evaluate` makes of one task, an unscored category and an unscored metric can be read and shown."""
    run = make_run(tmp_path / "run")
    before, after = (
        [answer(f"a#{i}", {"exact_match": score, "verified": None}, task="only", category="sums") for i in range(2)]
        + [answer("a#2", {"exact_match": None, "verified": None}, task="lost", category="word_forms")]
        for score in (0, 1)
    )
    facts = compare_samples(before, after, ["exact_match", "verified"], task="heldout", seed=0)
    write_manifest(run / "stages" / "compare", Manifest("compare", "compare", key("compare"), facts=facts))
    report = collect(run)
    assert [c.metric for c in report.comparisons] == ["exact_match"]
    assert [c.category for c in report.categories] == ["sums"]
    text = _Page(render(report)).text
    assert "No item of heldout could be scored in verified (of 3): it is in no table and no chart." in text
    assert "No item of word forms (heldout) could be scored in exact match (of 1)" in text
    assert "All items of heldout belong to one task: the interval speaks of other items of that task" in text
    assert "In a category of one task, the interval speaks of other items of that task." in text


def test_the_mixture_and_what_its_rows_ask_for(report: Report) -> None:
    source = Source(("</td><script>x</script>",), 1000, 0.25, 1500, 1000, 2, 1.5)
    sources = (source, replace(source, path=("b",)), replace(source, path=("b", "part")))
    terms: dict[Term, int] = {"unknown": 3, "share_alike": 5}
    mixed = replace(
        report,
        mixture=Mixture(3000, 2000, sources),
        licences={"rows": {}, "terms": {str(term): n for term, n in terms.items()}},
    )
    page = _Page(render(mixed))
    assert "3,000 rows were written to train on, 2,000 of them different" in page.text
    assert "</td><script>x</script>" in page.text
    assert not any(tag == "script" for tag, _ in page.tags)
    assert "b / part" in page.text
    for term, n in terms.items():
        assert re.search(rf"{term.replace('_', ' ')}\s*{re.escape(MEANINGS[term])}\s*{n}\b", page.text)
    assert "The mixture" not in _Page(render(report)).text
