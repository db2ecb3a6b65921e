"""All that a store holds, for tests that look for what must not be there; and what happens between its calls."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow.parquet as pq
from pyarrow.fs import FileSelector

from serve_app.results import Objects

__all__ = ["calls_of", "everything"]

_CALLS = ("get", "put", "create", "delete", "info", "entries", "folders")


def everything(*stores: Objects) -> bytes:
    """Names and contents of all objects, and of files that no listing shows; rows of Parquet also as JSON, since they
    are compressed."""
    found = []
    for objects in stores:
        filesystem, root = objects.filesystem()
        for info in filesystem.get_file_info(FileSelector(root, recursive=True, allow_not_found=True)):
            if info.is_file:
                found.append(info.path.encode())
                with filesystem.open_input_stream(info.path) as stream:
                    found.append(stream.read())
                if info.path.endswith(".parquet"):
                    rows = pq.read_table(info.path, filesystem=filesystem, partitioning=None).to_pylist()
                    found.append(json.dumps(rows, default=str).encode())
    return b"\n".join(found)


def calls_of(objects: Objects, before: Callable[[int], None]) -> Objects:
    """The same store, and ``before`` is called with the number of each call."""
    seen, numbers = copy.copy(objects), itertools.count(1)

    def call(name: str, *arguments: Any) -> Any:
        before(next(numbers))
        answer = getattr(objects, name)(*arguments)
        return iter(list(answer)) if name == "entries" else answer

    for name in _CALLS:
        setattr(seen, name, partial(call, name))
    return seen
