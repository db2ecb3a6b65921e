"""pydantic's errors in plain sentences: what is expected, an example, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from graph.pipeline_file.mistakes import did_you_mean
from graph.pipeline_file.report import Loc, Report

__all__ = ["report_validation_error", "sentence", "shown"]

_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
}
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


def report_validation_error(error: ValidationError, model: type[BaseModel], report: Report) -> None:
    """Report each of the errors that validating data as ``model`` gave."""
    for detail in error.errors(include_url=False):
        loc = tuple(detail["loc"])
        if detail["type"] == "too_short" and detail["input"]:
            continue  # pydantic counts the items without mistakes only
        owner, field = _owner_and_field(model, loc)
        example = _example(field, loc)
        if detail["type"] == "extra_forbidden":
            message = _unknown_key(loc, owner)
        elif detail["type"] == "missing":
            message = f"is missing; write for example `{loc[-1]}: {example}`"
        else:
            message = sentence(detail, example)
        report.add(loc, message)


def sentence(detail: ErrorDetails, example: str = "") -> str:
    """One error as a sentence.

    Args:
        detail: the error.
        example: a right value, as it would stand in the file.
    """
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    for_example = f", for example {example}" if example else ""
    got = f"; got {shown(value)}"
    if kind == "pipeline_mistake":
        return str(context["message"])
    if kind == "string_type" and isinstance(value, bool | int | float):  # `no` is false in YAML, and 1.10 is 1.1
        return f"expected a string{for_example}{got}; put it in quotes if it is a string"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}{for_example}{got}"
    if kind in _LIMITS:
        return f"must be {_LIMITS[kind]} {shown(next(iter(context.values())))}{got}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"must be {context['expected']}{got}{did_you_mean(str(value), choices)}"
    if kind == "string_pattern_mismatch":
        rule = _PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
        return f"{rule}{for_example}{got}"
    if kind.endswith("too_short") and context.get("min_length") == 1:
        return f"must not be empty{for_example}"
    if kind == "value_error":  # of a plug-in's validator
        return f"{context['error']}{got}"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}{got}"


def shown(value: object) -> str:
    """A value of the file as a person would call it."""
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:57]!r}..."
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a huge number"
    return _flow(value)


def _owner_and_field(model: type[BaseModel], loc: Loc) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model in which the last key of ``loc`` is, or should be, a field; and that field."""
    keys = [part for part in loc if isinstance(part, str)]
    field = None
    for key in keys:
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


def _unknown_key(loc: Loc, owner: type[BaseModel]) -> str:
    key, known = str(loc[-1]), _fields(owner)
    if key in ("timeout_ms", "on_error") and loc[-2] == "serve":
        return "stands beside `serve` too; keep one of the two"
    for name, field in known.items():
        inner = _inner_model(field)
        if inner is not None and key in _fields(inner) and name != "pipeline":
            return f"unknown key here; it belongs under `{name}`"
    others = f"; known are {', '.join(known)}"
    if "params" in known:
        others += "; what the class's constructor takes stands under `params`"
    return f"unknown key{did_you_mean(key, known, others)}"


def _example(field: FieldInfo | None, loc: Loc) -> str:
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
