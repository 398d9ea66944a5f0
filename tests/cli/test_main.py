from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from shinan.cli.main import _COMMANDS, app
from shinan.cli.run import _load
from shinan.core.errors import DataError, Interrupted
from shinan.version import __version__
from tests.cli.conftest import Shinan
from tests.recipe.tiny_recipe import write_recipe

ALL = [(name,) for name in _COMMANDS] + [("models", "get")]


def test_version(shinan: Shinan) -> None:
    assert shinan("--version") == (0, f"{__version__}\n", "")


def test_commands_stand_in_the_order_of_a_day(shinan: Shinan) -> None:
    done = shinan("--help")
    assert done.code == 0
    shown = re.findall(r"^│ ([a-z]+) ", done.out, re.MULTILINE)
    assert shown == list(_COMMANDS)
    assert shown[:9] == ["new", "models", "peek", "plan", "check", "build", "curate", "tune", "run"]


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_each_command_shows_an_example_that_it_understands(shinan: Shinan, command: tuple[str, ...]) -> None:
    done = shinan(*command, "--help")
    assert done.code == 0
    text = " ".join(done.out.split())
    found = re.search(r"Example: (?:echo '[^']*' \| )?shinan ([^╭]+?) ╭", text)
    assert found, text
    words = found[1].split()
    assert words[: len(command)] == list(command)
    step: Any = get_command(app)
    for name in command:
        step = step.commands[name]
    step.make_context("shinan", words[len(command) :])  # parses every word, or raises


@pytest.mark.promise10
def test_a_mistyped_command_or_option_gets_the_nearest(shinan: Shinan) -> None:
    command = shinan("pek", "x")
    assert command.code == 2
    assert "Did you mean 'peek'?" in command.err
    option = shinan("new", "x", "--form", "quickstart")
    assert option.code == 2
    assert "--from" in option.err


@pytest.mark.promise10
def test_an_error_is_a_sentence_without_a_traceback(shinan: Shinan) -> None:
    done = shinan("peek", "no-such-file.jsonl")
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("error: no-such-file.jsonl: no such file")
    assert "Traceback" not in done.err


def test_our_own_mistakes_keep_their_traceback(shinan: Shinan, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("shinan.recipe.templates.new_recipe", mistaken)
    with pytest.raises(AssertionError, match="a bug"):
        shinan("new", "x")


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
        (Interrupted(15), 143, "interrupted; the same command goes on from here\n"),
        (DataError("what", where="where", fix="this"), 1, "error: where: what\n  do this: this\n"),
    ],
)
def test_exit_codes(
    shinan: Shinan, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str
) -> None:
    def stopped(*_: object) -> None:
        raise raised

    monkeypatch.setattr("shinan.recipe.templates.new_recipe", stopped)
    assert shinan("new", "x") == (code, "", said)


def test_a_reader_that_leaves_is_no_error() -> None:
    """As with `shinan peek ... --card | head -1`."""
    code = "import sys, shinan.cli.main as m; sys.argv[1:] = ['peek', 'collection:starter', '--card']; m.main()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize("name", ["5", "null", "1e3", "true"])
def test_a_name_is_text_whatever_yaml_would_make_of_it(tmp_path: Path, name: str) -> None:
    assert _load(write_recipe(tmp_path), None, name).name == name
