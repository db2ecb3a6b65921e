"""Mistakes in a block of a Serve config file, in words: where, what, the fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

__all__ = ["in_words"]


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
