"""Is this machine fit for a run, and is a finished run still what it was?"""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from shinan.core.dataset import Manifest, read_manifest
from shinan.core.errors import RunError
from shinan.core.hashing import file_sha256
from shinan.core.store import Store, cache_root, offline
from shinan.recipe.named import going_on, is_run
from shinan.version import __version__

_NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "peft", "pyarrow", "pydantic")
_EXTRAS = {"datasets": "hub"}  # package -> our extra
_ROOM = 3e9  # bytes: the first starter's packages, its weights, and as much again in a run's checkpoints
_MEMORY = 3e9  # bytes: the first starter's weights three times in float32: tuned, masters, and merged to be saved


class Finding(NamedTuple):
    """One thing looked at: what was found, whether it will do, and what to do if not."""

    what: str
    found: str
    ok: bool = True
    fix: str = ""


def machine() -> list[Finding]:
    """What a run depends on, on this machine. Nothing is changed, nothing is downloaded."""
    return [
        Finding("shinan", __version__),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_package(name) for name in _NEEDED),
        *_computing(),
        _memory(),
        _disk("disk under the cache", cache_root()),
        _disk("disk under this folder", Path.cwd()),
        _cache(),
        *(_extra(name, extra) for name, extra in _EXTRAS.items()),
        Finding("downloads", "forbidden by SHINAN_OFFLINE" if offline() else "allowed"),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", False, f"install it: pip install {name}")


def _extra(name: str, extra: str) -> Finding:
    try:
        return Finding(f"{name} (optional)", version(name))
    except PackageNotFoundError:
        return Finding(f"{name} (optional)", f"not installed; if you want it: pip install 'shinan[{extra}]'")


def _computing() -> list[Finding]:
    try:
        import torch

        from shinan.models.precision import default_device, probe_dtype
    except ImportError as error:
        return [Finding("computing", f"torch cannot be loaded: {error}", False, "install torch again")]
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    dtype = str(probe_dtype(device)).removeprefix("torch.")
    faster = "" if device.type == "cuda" else f" (bfloat16 is {'' if dtype == 'bfloat16' else 'not '}faster here)"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    return [Finding("device", name), Finding("threads", threads), Finding("number format", dtype + faster)]


def _memory() -> Finding:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    fix = "" if total >= _MEMORY else "use a machine with more, or a smaller model"
    return Finding("memory", _gigabytes(total), total >= _MEMORY, fix)


def _disk(what: str, folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    fix = "" if free >= _ROOM else "free some space (`shinan clean` shows what can go)"
    return Finding(what, f"{_gigabytes(free)} free", free >= _ROOM, fix)


def _cache() -> Finding:
    root = cache_root()
    there = next(path for path in (root, *root.absolute().parents) if path.exists())
    ok = there.is_dir() and os.access(there, os.W_OK)
    return Finding("cache", str(root), ok, "" if ok else "set SHINAN_CACHE to a folder that you may write to")


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB"


def verify(run: Path) -> list[Finding]:
    """Whether the files of each stage of a run are, byte for byte, those that its manifest names.

    Raises RunError if the folder is no run.
    """
    if not is_run(run):
        raise RunError("this is no run folder", where=str(run), fix="name a folder that `shinan run` has made")
    folders = sorted((path for path in (run / "stages").glob("*") if path.is_dir()), key=_finished_at)
    return [_stage(run, folder) for folder in folders]


def _finished_at(folder: Path) -> tuple[str, str]:
    manifest = read_manifest(folder)
    return (manifest.created if manifest else "9", folder.name)  # unfinished ones last


def _stage(run: Path, folder: Path) -> Finding:
    manifest = read_manifest(folder)
    if manifest is None:
        return Finding(folder.name, "not finished, or its manifest is damaged: the next run does it")
    if not (faults := _faults(folder, manifest)):
        return Finding(folder.name, f"whole ({len(manifest.files)} files)")
    same = [p for p in Store(cache_root()).find(manifest.key) if p != folder.resolve() and p.is_dir()]
    damaged = [folder, *(path for path in same if _faults(path, manifest))]
    fix = f"delete {' and '.join(map(str, damaged))}, then `{going_on(run)}`"
    return Finding(folder.name, "; ".join(faults), False, fix)


def _faults(folder: Path, manifest: Manifest) -> list[str]:
    found = []
    for name, facts in manifest.files.items():
        path = folder / name
        shown = name.removeprefix("../../")
        if not path.is_file():
            found.append(f"{shown} is missing")
        elif file_sha256(path) != facts["sha256"]:
            found.append(f"{shown} is not what was written")
    return found
