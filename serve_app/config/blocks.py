"""Blocks of a Serve config file and other files of settings: how they are read, and their mistakes in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from classifiers import SetupError
from classifiers.validation import sentence
from graph.pipeline_file import read_yaml

__all__ = ["BLOCKS", "in_words", "read_block", "read_json"]

BLOCKS = ("gateway", "intake")
"""The blocks that may have a file of their own, or share one."""


def in_words(error: ValidationError, block: str, model: type[BaseModel], missing: Mapping[str, str]) -> str:
    """Every mistake, a line each.

    Args:
        error: what validation found.
        block: the block's key.
        model: what the block must be.
        missing: for keys without a default what to write, by key.
    """
    lines = []
    for mistake in error.errors(include_url=False):
        key = ".".join(map(str, mistake["loc"]))
        is_known = mistake["type"] == "missing" and key in missing
        message = f"is missing; {missing[key]}" if is_known else sentence(mistake, model, values=False)
        lines.append(f"{block}.{key}: {message}" if key else f"{block}: {message}")
    return "\n".join(lines)


def read_block(file: str | Path, name: str, needs: str) -> tuple[Any, Path]:
    """Read a block from a YAML file, in which it may stand under its name. Keys at the top of the file that begin with
    ``x-`` are ignored: they are for anchors.

    Args:
        file: the file.
        name: the block's.
        needs: what must be in it, for the message.

    Returns:
        The block as it stands there, and the folder that its relative paths are relative to.

    Raises:
        SetupError: the file cannot be read, is no mapping, or has mistakes; the message has a line for each.
    """
    path = Path(file)
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the {name}'s configuration {path} cannot be read: {error}") from error
    if document.problems:
        raise SetupError("\n".join(f"{path}:{problem}" for problem in document.problems))
    if not isinstance(document.data, Mapping):
        raise SetupError(f"{path}: must be a mapping with at least {needs}")
    data = {key: value for key, value in document.data.items() if not key.startswith("x-")}
    if name not in data:
        return data, path.resolve().parent
    if others := [key for key in data if key not in BLOCKS]:
        line = document.lines[others[0],]
        raise SetupError(f"{path}:{line}: unknown key {others[0]!r} beside {name!r}; move it below {name!r}")
    return data[name], path.resolve().parent


def read_json(text: str | bytes) -> Any:
    """Read a JSON file of settings. Keys that are there twice are an error: one of the two would be ignored.

    Raises:
        ValueError: it is not JSON, or has a duplicate key.
    """
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}; keep one")
    return found
