"""`import shinan` and `shinan --help` are quick: no heavy module is loaded. Times are printed, not asserted."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.test_layers import FILES, LIGHT, room_of

HEAVY = ("torch", "transformers", "peft", "numpy", "pyarrow", "pydantic", "httpx", "requests")


def loaded_by(code: str, *suspects: str) -> tuple[set[str], float]:
    """Which of `suspects` are loaded after `code`, and the seconds of processor time that it took, user and system."""
    ask = f"import sys\ntry:\n {code}\nexcept SystemExit: pass\nprint(*(m for m in {suspects!r} if m in sys.modules))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return set(done.stdout.splitlines()[-1].split()), seconds


@pytest.mark.parametrize(
    "code", ["import shinan", "import shinan.cli.main; sys.argv[1:] = ['--help']; shinan.cli.main.main()"]
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    _, bare = loaded_by("pass")
    loaded, seconds = loaded_by(code, *HEAVY)
    print(f"{code}: {seconds - bare:.3f} s above bare Python's {bare:.3f} s")
    assert loaded == set()


def test_light_rooms_load_no_torch() -> None:
    """The same as in test_layers, but through the libraries that they use too."""
    modules = [module for module in FILES if room_of(module) in LIGHT and not module.endswith("__main__")]
    loaded, seconds = loaded_by(f"import {', '.join(modules)}", "torch", "transformers", "peft")
    print(f"all light rooms: {seconds:.2f} s")
    assert loaded == set()
