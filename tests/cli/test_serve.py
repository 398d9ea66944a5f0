"""`shinan serve` as a process: it says where it is, stops when it is told to, and listens to others only with a key."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import openai
import pytest

from shinan import core
from tests.cli.conftest import Shinan

SOURCE = Path(core.__file__).parents[2]
TALK: Any = [{"role": "user", "content": "Name a colour."}]


@contextmanager
def started(model: str, *options: str, key: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, and its address."""
    command = [sys.executable, "-m", "shinan", "serve", model, "--port", "0", *options]
    environment = os.environ | {"SHINAN_SERVE_KEY": key, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            found = re.search(r"at (http://[^;]+); Ctrl-C stops", line)
            assert found, line + process.communicate()[1]
            yield process, found[1]
        finally:
            process.kill()


def client(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_answers_and_stops_within_seconds(place: Path, sent: signal.Signals, code: int) -> None:
    with started("tiny:decoder", "--format", "gemma") as (process, url):
        with client(url) as asking:
            [model] = asking.models.list().data
            assert model.id == "tiny-decoder"
            reply = asking.chat.completions.create(model="tiny:decoder", messages=TALK, max_tokens=3, temperature=0)
            assert reply.usage is not None
            assert reply.usage.completion_tokens == 3
            stream = asking.chat.completions.create(
                model="tiny:decoder", messages=TALK, max_tokens=2000, n=128, stream=True, temperature=0
            )  # more than can be written while it stops
            next(iter(stream))
            process.send_signal(sent)
            began = time.monotonic()
            with pytest.raises(openai.APIError, match="the server is stopping"):
                list(stream)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert time.monotonic() - began < 30
    assert (out, err) == ("", "stopped\n" if code else "")


def test_others_need_a_key_which_is_never_told(place: Path, shinan: Shinan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHINAN_SERVE_KEY", raising=False)
    refused = shinan("serve", "tiny:decoder", "--host", "0.0.0.0")  # noqa: S104
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(
        "error: --host: at 0.0.0.0 others can reach the server, and no API key is set\n"
        "  do this: set SHINAN_SERVE_KEY to a secret of your own, or leave --host out"
    )
    with started("tiny:decoder", "--host", "0.0.0.0", "--format", "gemma", key="s3cret") as (process, url):  # noqa: S104
        address = url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        with client(address, "wrong") as asking, pytest.raises(openai.AuthenticationError):
            asking.models.list()
        with client(address, "s3cret") as asking:
            assert len(asking.models.list().data) == 1
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert "s3cret" not in out + err


def test_a_port_that_is_taken(place: Path, shinan: Shinan) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = shinan("serve", "tiny:decoder", "--port", str(port))
    assert done.code == 1
    assert f"127.0.0.1:{port}: cannot listen: " in done.err
    assert "do this: choose another --port, or stop what is listening there" in done.err


def test_a_host_that_is_none(place: Path, shinan: Shinan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_SERVE_KEY", "s3cret")
    done = shinan("serve", "tiny:decoder", "--host", "nowhere.invalid")
    assert done.code == 1
    assert "nowhere.invalid:8000: cannot listen: " in done.err


def test_without_the_extra_there_is_a_sentence(shinan: Shinan, monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr("shinan.cli.serve.find_spec", lambda name: None if name == "uvicorn" else find(name))
    done = shinan("serve", "tiny:decoder")
    assert (done.code, done.err) == (1, "error: the server needs uvicorn\n  do this: pip install 'shinan[serve]'\n")


def test_a_run_is_served_in_its_own_format(mine: Path) -> None:
    with started("runs/mini") as (_, url), client(url) as asking:
        [model] = asking.models.list().data
        assert (model.model_extra or {})["chat_format"] == "gemma"
        assert asking.chat.completions.create(model="runs/mini", messages=TALK, max_tokens=2).choices
