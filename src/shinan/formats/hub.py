"""Rows of a hub dataset, `hub:OWNER/NAME[:CONFIG][/SPLIT]`, as they arrive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from shinan.core.errors import DataError, RunError
from shinan.core.store import offline

_REF = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:/(?P<split>[\w.-]+))?")
_FIX = "check the name, the configuration and the split, the network, and for a gated dataset `hf auth login`"


def dataset_name(ref: str) -> str:
    """What a reference's dataset is called: OWNER/NAME, and its configuration, which is a dataset of its own.

    >>> dataset_name("hub:nyu-mll/glue:mrpc/train")
    'nyu-mll/glue:mrpc'
    """
    match = _REF.fullmatch(ref)
    return ref if match is None else ":".join(filter(None, (match["name"], match["config"])))


def hub_rows(ref: str) -> Iterator[Any]:
    """The rows of a split (`train` unless said), streamed.

    Raises DataError for what is no reference, RunError where the dataset cannot be loaded.
    """
    match = _REF.fullmatch(ref)
    if match is None:
        raise DataError("not a hub dataset", where=ref, fix="write it like hub:OWNER/NAME:CONFIG/SPLIT")
    if offline():
        fix = "unset SHINAN_OFFLINE, or name a local file"
        raise RunError("SHINAN_OFFLINE forbids downloads", where=ref, fix=fix)
    try:
        import datasets
    except ImportError:
        fix = "pip install 'shinan[hub]'"
        raise RunError("hub datasets need the package `datasets`", where=ref, fix=fix) from None
    try:
        split = match["split"] or "train"
        yield from datasets.load_dataset(match["name"], match["config"], split=split, streaming=True)
    except Exception as error:  # the library passes on whatever its HTTP client of the day raises
        raise RunError(f"cannot load the dataset: {error}", where=ref, fix=_FIX) from error
