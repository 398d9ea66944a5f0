"""The report of a run whose every text is an attack: nothing of it becomes markup, in the page or in a real browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from shutil import copytree

import pytest

from shinan.core.dataset import read_manifest
from shinan.core.errors import ShinanError
from shinan.report.html import write_report
from tests.report.fake_run import make_run
from tests.report.test_html import _BROWSER, _browse, _server

SCRIPT = "document.title='owned'"
ATTACKS = (
    "<script>{x}</script>",
    "</script><script>{x}</script>",
    "<ScRiPt\n>{x}</sCrIpT>",
    "<img src=x onerror={x}>",
    "<img src='x' onerror='{x}'//>",
    '"><img src=x onerror="{x}">',
    "' autofocus tabindex=1 onfocus=\"{x}\" x='",
    '" style=animation:x onanimationstart="{x}',
    "</style><script>{x}</script><style>",
    "</title><script>{x}</script>",
    "</pre></details></table></svg><script>{x}</script>",
    '<svg onload="{x}"><animate onbegin="{x}" attributeName=x dur=1s>',
    '<svg><script href="data:text/javascript,{x}"/></svg>',
    '<svg><style><img title="</style><img src=x onerror={x}>">',
    "<math><mtext><table><mglyph><style><!--</style><img src=x onerror={x}>",
    '<a href="javascript:{x}">x</a><a href=" jAvA\tscript:{x}">y</a>',
    "javascript:{x}",
    '<iframe srcdoc="<script>parent.{x}</script>"></iframe><iframe src=javascript:parent.{x}></iframe>',
    '<object data="data:text/html,<script>{x}</script>"></object><embed src="javascript:{x}">',
    "<form action=javascript:{x}><button autofocus onfocus={x}>x</form><isindex type=image src=1 onerror={x}>",
    '<base href="javascript:/{x}/"><meta http-equiv=refresh content="0;url=javascript:{x}">',
    "<link rel=stylesheet href=data:text/css,*{{background:red}}><style>*{{display:none}}</style>",
    "<body onload={x}><video><source onerror={x}></video><details open ontoggle={x}>",
    '<noscript><p title="</noscript><img src=x onerror={x}>">',
    "<template><script>{x}</script></template><!--><script>{x}</script>-->",
    '<![CDATA[<script>{x}</script>]]><?xml version="1.0"?><!DOCTYPE x>',
    "&lt;script&gt;{x}&lt;/script&gt; &#60;script&#62;{x}",
    "+ADw-script+AD4-{x}+ADw-/script+AD4-",
    "\ufeff<\0script>{x}</script>\u2028\u2029\x0b",
    "{{{{ x.__class__ }}}}{{% for a in x %}}{{% endfor %}}${{x}}`${{{x}}}`",
    "\u202e<script>{x}</script>\u2066\ud83d",
)
SPICE = "".join(f" {number}:{attack.format(x=SCRIPT)}" for number, attack in enumerate(ATTACKS))


class _Markup(HTMLParser):
    """What a page holds beside its text: tags and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.other: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    def handle_pi(self, data: str) -> None:
        self.other.append(data)

    def unknown_decl(self, data: str) -> None:
        self.other.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the hostile run."""
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "hostile", spice=SPICE)).read_text("utf-8")


@pytest.mark.promise10
def test_hostile_text_becomes_no_markup(page: str, tmp_path: Path) -> None:
    found, calm = _Markup(page), _Markup(write_report(make_run(tmp_path / "calm")).read_text("utf-8"))
    assert found.tags == calm.tags
    assert found.attributes.keys() == calm.attributes.keys()
    assert not {name for name in found.attributes if name.startswith("on")}
    assert not found.other
    links = [v for name in ("href", "src", "action", "data", "content") for v in found.attributes.get(name, ())]
    assert not [link for link in links if "script" in link.lower() and "default-src 'none'" not in link]
    assert found.text.count("0:<script>document.title='owned'</script>") > 10  # it is all there, as text


@pytest.mark.promise10
def test_the_page_forbids_scripts_even_if_one_came_in(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'")
    assert "script-src" not in policy[1]
    assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("owned")


@pytest.mark.slow
@pytest.mark.promise10
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed here")
def test_in_a_browser_no_script_runs(page: str, tmp_path: Path) -> None:
    """With and without the page's policy: escaping alone must do."""
    policy = re.search(r"<meta http-equiv=[^>]*>", page)
    assert policy
    (tmp_path / "page.html").write_text(page, "utf-8")
    (tmp_path / "bare.html").write_text(page.replace(policy[0], ""), "utf-8")
    unsafe = f"<!doctype html><title>calm</title>{SPICE}".encode("utf-8", "replace")
    (tmp_path / "control.html").write_bytes(unsafe)
    titles = {}
    with _server(tmp_path) as (address, asked):
        for name in ("control", "bare", "page"):
            asked.clear()
            tree = _browse(f"{address}/{name}.html", tmp_path / "profile")
            titles[name] = re.findall("<title>(.*?)</title>", tree, re.DOTALL)[:1]
            if name != "control":
                assert asked == [f"/{name}.html"]
    assert titles.pop("control") == ["owned"]  # the text is dangerous where it is not escaped
    assert titles["bare"] == titles["page"] != ["owned"]


# ---- a run folder from a stranger ----


@pytest.mark.promise10
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '"a"', "null", "[" * 10_000, '{"a":' * 10_000, "\ud800", "NaN"]
)
@pytest.mark.parametrize("name", ["plan.json", "recipe.yaml", "metrics.jsonl", "stages/curate/manifest.json"])
def test_a_damaged_run_gets_a_page_or_a_sentence(run_copy: Path, name: str, content: str) -> None:
    (run_copy / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    before = sorted(path.name for path in run_copy.iterdir())
    try:
        assert write_report(run_copy).stat().st_size > 1000
    except ShinanError as error:
        text = str(error)
        assert sorted(path.name for path in run_copy.iterdir()) == before
    else:
        text = ""
    assert not text or name in text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run: planned, with two stages done."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", done=("build.collection", "curate"))


@pytest.fixture
def run_copy(run: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return Path(copytree(run, tmp_path / "run"))


@pytest.mark.promise10
@pytest.mark.parametrize("key", ["stage", "use", "key", "parents", "identity", "tally", "facts", "files", "seconds"])
@pytest.mark.parametrize("value", [None, 3, "a", [1], {"a": 1}, [[]]])
def test_a_manifest_of_wrong_types_counts_as_none_or_can_be_used(run_copy: Path, key: str, value: object) -> None:
    path = run_copy / "stages" / "curate" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {key: value}), "utf-8")
    manifest = read_manifest(path.parent)
    if manifest is not None:
        assert all(isinstance(table, dict) for table in (manifest.identity, manifest.tally, manifest.facts))
        assert all(isinstance(facts, dict) for facts in manifest.files.values())
        assert all(isinstance(parent, str) for parent in manifest.parents)
