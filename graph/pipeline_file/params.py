"""A step's ``params`` against the constructor of its class, without making an instance."""

from __future__ import annotations

import inspect
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from classifiers.base import BaseClassifier
from classifiers.suggestions import did_you_mean, nearest
from classifiers.validation import sentence, shown
from classifiers.weights import LocalPath
from graph.pipeline_file.classes import Constructor, constructor_of
from graph.pipeline_file.report import Loc

__all__ = ["absolute_paths", "checked_params"]


def absolute_paths(cls: type[BaseClassifier], params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``params`` with relative paths made absolute.

    A string that begins with ``./`` or ``../`` is relative to ``folder``. So is one for an argument that is annotated
    as a path, if ``folder`` has a file or folder of that name.
    """
    parameters = constructor_of(cls).parameters
    return {
        key: _absolute(value, folder, key in parameters and _names_path(parameters[key].annotation))
        for key, value in params.items()
    }


def checked_params(
    cls: type[BaseClassifier], params: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[Loc, str]]]:
    """Check ``params`` by name and by annotated type and range.

    Returns:
        The arguments for the constructor, and the errors: the place in ``params`` and the message.
    """
    constructor = constructor_of(cls)
    arguments: dict[str, Any] = {}
    problems: list[tuple[Loc, str]] = []
    for key, value in params.items():
        parameter = constructor.parameters.get(key)
        if parameter is None and not constructor.is_open:
            problems.append(((key,), _unknown(key, cls, constructor)))
        elif parameter is None or key in constructor.inherited or parameter.annotation is inspect.Parameter.empty:
            arguments[key] = value
        else:
            arguments[key], found = _checked(parameter, value)
            if isinstance(value, str) and min(value, default=" ") < " " and _names_path(parameter.annotation):
                fix = "in double quotes a backslash begins an escape; use single quotes"
                found.append(((), f"a path has no control characters; got {value!r}; {fix}"))
            problems += [((key, *loc), message) for loc, message in found]
    for parameter in constructor.parameters.values():
        if constructor.requires(parameter.name) and parameter.name not in params:
            kind = _type_text(parameter.annotation)
            needs = f"is missing: {cls.__name__} needs it{f' ({kind})' if kind else ''}"
            others = params.keys() - constructor.parameters.keys()
            meant = nearest(parameter.name, others) if constructor.is_open else None
            problems.append(((parameter.name,), f"{needs}; is it {meant!r}?" if meant else needs))
    return arguments, problems


def _unknown(key: str, cls: type[BaseClassifier], constructor: Constructor) -> str:
    known = "; it takes " + (", ".join(constructor.parameters) or "none")
    return f"{cls.__name__} has no parameter {key!r}{did_you_mean(key, constructor.parameters, known)}"


def _checked(parameter: inspect.Parameter, value: Any) -> tuple[Any, list[tuple[Loc, str]]]:
    try:
        try:
            adapter = TypeAdapter[Any](parameter.annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:  # a model, a dataclass or a typed dict has its own configuration
            adapter = TypeAdapter[Any](parameter.annotation)
    except Exception:  # noqa: BLE001 - an annotation may be anything; if it is no type, the constructor checks the value
        return value, []
    try:
        # as strict as a file: a list may become a tuple and a string a path, but a string no number
        return adapter.validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        if any(detail["type"] == "needs_python_object" for detail in details):
            return value, []  # a class of the plug-in: its constructor checks the value
        arms = {*typing.get_args(_bare(parameter.annotation))} - {type(None)}
        if len(arms) > 1 and typing.get_origin(_bare(parameter.annotation)) in (typing.Union, types.UnionType):
            return value, [((), f"expected {_type_text(parameter.annotation)}; got {shown(value)}")]
        return value, [(tuple(detail["loc"]), sentence(detail)) for detail in details]
    except Exception as error:  # noqa: BLE001 - a plug-in's validator may raise anything
        return value, [((), f"checking it failed: {type(error).__name__}: {error}")]


def _type_text(annotation: Any) -> str:
    """A type as Python writes it; empty if there is none."""
    bare = _bare(annotation)
    text = inspect.formatannotation(bare).replace("typing.", "")
    return "" if bare is inspect.Parameter.empty else text


def _bare(annotation: Any) -> Any:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _names_path(annotation: Any) -> bool:
    stack = [annotation]
    while stack:
        part = stack.pop()
        if isinstance(part, LocalPath) or part is LocalPath or (isinstance(part, type) and issubclass(part, PurePath)):
            return True
        stack += typing.get_args(part)
        stack += getattr(part, "__metadata__", ())
    return False


def _absolute(value: Any, folder: Path, is_path: bool) -> Any:
    if isinstance(value, list):
        return [_absolute(item, folder, is_path) for item in value]
    if isinstance(value, dict):
        return {key: _absolute(item, folder, is_path) for key, item in value.items()}
    if not isinstance(value, str) or not value.strip():
        return value
    explicit = value in (".", "..") or value.startswith(("./", "../"))
    if not explicit and not (is_path and os.path.exists(folder / value)):  # noqa: PTH110 - unlike Path.exists, never raises
        return value
    return os.path.normpath(folder / value)  # not resolve(): a link's name may have the suffix that tells the format
