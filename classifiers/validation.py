"""Closed pydantic models, and pydantic's errors in plain sentences: what is expected, an example, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from classifiers.suggestions import did_you_mean

__all__ = ["Closed", "mistake", "sentence", "shown"]


class Closed(BaseModel):
    """Rejects unknown keys, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def mistake(message: str) -> NoReturn:
    """For validators: raise an error with this message."""
    raise PydanticCustomError("mistake", "{message}", {"message": message})


_EXPECTED = {
    "string": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    **dict.fromkeys(("dict", "model", "mapping"), "keys with values"),
    **dict.fromkeys(("list", "tuple", "set", "frozen_set"), "a list"),
}
"""By the first part of an error's type; the rest is ``_type``, ``_parsing`` or ``_from_float``."""

_LIMITS = {
    "greater_than_equal": "at least",
    "less_than_equal": "at most",
    "greater_than": "above",
    "less_than": "below",
}
_PATTERNS = {
    r"^[A-Za-z][A-Za-z0-9_-]*$": "must begin with a letter and have only letters, digits, `_` and `-`",
    r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$": "must be the dotted path of a class",
}


def sentence(detail: Mapping[str, Any], model: type[BaseModel] | None = None, values: bool = True) -> str:
    """One of ``error.errors()`` as a sentence.

    Args:
        detail: the error.
        model: what was validated; it has the examples and the known keys.
        values: whether to show the value; false if it may be a secret.
    """
    kind, loc, context, value = detail["type"], detail["loc"], detail.get("ctx", {}), detail["input"]
    owner, field = _owner_and_field(model, loc) if model is not None else (None, None)
    example = _example(field, loc)
    for_example = f", for example {example}" if example else ""
    got = f"; got {shown(value)}" if values else ""
    base = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    if kind == "extra_forbidden":
        return _unknown_key(str(loc[-1]), owner)
    if kind == "missing":
        return f"is missing; write for example `{loc[-1]}: {example}`" if example else "is missing"
    if kind == "mistake":
        return str(context["message"])
    if kind == "value_error":  # of a validator that raised ValueError
        return f"{context['error']}{got}"
    if base != kind and base in _EXPECTED:
        is_unquoted = kind == "string_type" and isinstance(
            value, bool | int | float
        )  # `no` is false in YAML, 1.10 is 1.1
        return f"expected {_EXPECTED[base]}{for_example}{got}{'; put it in quotes if it is a string' * is_unquoted}"
    if kind in _LIMITS:
        return f"must be {_LIMITS[kind]} {shown(next(iter(context.values())))}{got}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"must be {context['expected']}{got}{did_you_mean(str(value), choices)}"
    if kind == "string_pattern_mismatch":
        return f"{_PATTERNS.get(context['pattern'], 'must match ' + context['pattern'])}{for_example}{got}"
    if kind.endswith("too_short") and context.get("min_length") == 1:
        return f"must not be empty{for_example}"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}{got}"


def shown(value: object) -> str:
    """A value of a file, as messages show it."""
    if isinstance(value, str):
        return f"the string {value!r}" if len(value) <= 60 else f"the string {value[:57]!r}..."
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a huge number"
    return _flow(value)


def _owner_and_field(model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model that has, or should have, the last key of ``loc`` as a field; and that field."""
    field = None
    for key in [part for part in loc if isinstance(part, str)]:
        if field is not None:
            model = _inner_model(field) or model
        field = _fields(model).get(key)
        if field is None:
            break
    return model, field


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _inner_model(field: FieldInfo) -> type[BaseModel] | None:
    annotations: list[Any] = [field.annotation]
    while annotations:
        annotation = annotations.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        annotations += get_args(annotation)
    return None


def _unknown_key(key: str, owner: type[BaseModel] | None) -> str:
    known = {} if owner is None else _fields(owner)
    for name, field in known.items():
        inner = _inner_model(field)
        if inner is not None and get_args(field.annotation)[1:] != (...,) and key in _fields(inner):
            return f"unknown key here; it belongs under `{name}`"
    others = f"; known are {', '.join(known)}" if known else ""
    return f"unknown key{did_you_mean(key, known, others)}"


def _example(field: FieldInfo | None, loc: tuple[str | int, ...]) -> str:
    if field is None or not field.examples:
        return ""
    example = field.examples[0]
    return _flow(example[0] if isinstance(loc[-1], int) and isinstance(example, list) else example)


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) and "'" in value else str(value)
