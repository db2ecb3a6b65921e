"""Blocks of a Serve config file: read from a file of their own, and their mistakes in words: where, what, the fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from classifiers import SetupError

__all__ = ["in_words", "read_block"]


def in_words(error: ValidationError, block: str, model: type[BaseModel], missing: Mapping[str, str]) -> str:
    """Every mistake, a line each.

    Args:
        error: what validation found.
        block: the block's key.
        model: what the block must be.
        missing: for keys without a default what to write, by key.
    """
    return "\n".join(_line(mistake, block, model, missing) for mistake in error.errors())


def _line(mistake: Any, block: str, model: type[BaseModel], missing: Mapping[str, str]) -> str:
    loc = [str(part) for part in mistake["loc"]]
    where = ".".join([block, *loc])
    if mistake["type"] == "extra_forbidden":
        known = _keys_at(model, loc[:-1])
        near = difflib.get_close_matches(loc[-1], known, 1)
        fix = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known))}"
        return f"{where}: there is no such key; {fix}"
    if mistake["type"] == "missing":
        return f"{where}: is missing; {missing.get('.'.join(loc), 'write it')}"
    return f"{where}: {mistake['msg'].removeprefix('Value error, ')}"


def _keys_at(model: type[BaseModel], loc: Sequence[str]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)


def read_block(file: str | Path, name: str, needs: str) -> tuple[Any, Path]:
    """Read a block from a YAML file, in which it may stand under its name.

    Args:
        file: the file.
        name: the block's.
        needs: what must be in it, for the message.

    Returns:
        The block as it stands there, and the folder that its relative paths are relative to.

    Raises:
        SetupError: the file cannot be read, or is no mapping.
    """
    path = Path(file)
    try:
        block = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SetupError(f"the {name}'s configuration {path} cannot be read: {error}") from error
    if not isinstance(block, Mapping):
        raise SetupError(f"{path}: must be a mapping with at least {needs}")
    return block.get(name, block), path.resolve().parent
