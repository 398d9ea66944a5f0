"""Where the published data sets lie that some tests read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The data folder, or a skip."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SHINAN_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no data folder: set SHINAN_TEST_DATA")
    return folder
