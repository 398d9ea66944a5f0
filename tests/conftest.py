"""Fixtures of the whole suite."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from shinan.models import tiny
from shinan.models.checkpoint import load_model

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would its children
torch.set_num_threads(2)
settings.register_profile("suite", deadline=None)  # a busy machine is no mistake
settings.load_profile("suite")


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny Gemma 3 model."""
    folder = tmp_path_factory.mktemp("models") / "decoder"
    folder.mkdir()
    tiny.build("decoder", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny Llama model."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    folder.mkdir()
    tiny.build("llama", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny T5 model."""
    folder = tmp_path_factory.mktemp("models") / "seq2seq"
    folder.mkdir()
    tiny.build("seq2seq", folder)
    return folder


@pytest.fixture
def fresh(tiny_decoder: Path) -> Callable[..., Any]:
    """Loads the tiny Gemma 3 model anew, so that tests may train it."""

    def load(dtype: torch.dtype = torch.float32) -> Any:
        return load_model(tiny_decoder, dtype)

    return load
