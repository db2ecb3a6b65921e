"""Blocks of a Serve config file and other files of settings: how they are read, and how their errors are reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError, ValidationInfo

from classifiers import SetupError
from classifiers.validation import sentence
from graph.pipeline_file import read_yaml

__all__ = ["BLOCKS", "AbsolutePath", "absolute_path", "folder_of", "read_block", "read_json"]

BLOCKS = ("gateway", "intake")
"""The blocks that may have a file of their own, or share one."""

Model = TypeVar("Model", bound=BaseModel)


def folder_of(info: ValidationInfo) -> Path:
    """What relative paths are relative to: the folder of the file that they are in, or else nothing."""
    return Path((info.context or {}).get("folder", ""))


def absolute_path(text: str, info: ValidationInfo) -> str:
    """A path that every process understands; for validators.

    Raises:
        ValueError: it is relative, and in no file.
    """
    path = folder_of(info) / text
    if not text or not path.is_absolute():
        raise ValueError(f"'{text}' must be an absolute path: the replicas run in folders of their own")
    return str(path)


AbsolutePath = Annotated[str, AfterValidator(absolute_path)]


def read_block(
    model: type[Model], name: str, block: str | Path | Mapping[str, Any], missing: Mapping[str, str], **given: str
) -> Model:
    """Read a block, or the YAML file that a path names. Relative paths in a file are relative to it.

    Args:
        missing: for each required key, what to write.
        given: keys that replace those of the block.

    Raises:
        SetupError: it cannot be read, or has errors; the message has a line for each.
    """
    folder: Path | str = ""
    if not isinstance(block, Mapping):
        folder = Path(block).resolve().parent
        block = _in_file(Path(block), name, missing)
    if given and isinstance(block, Mapping):
        block = {**block, **given}
    try:
        return model.model_validate(block, context={"folder": folder})
    except ValidationError as error:
        lines = (_line(mistake, name, model, missing) for mistake in error.errors(include_url=False))
        raise SetupError("\n".join(lines)) from error


def _line(mistake: Any, block: str, model: type[BaseModel], missing: Mapping[str, str]) -> str:
    key = ".".join(map(str, mistake["loc"]))
    is_known = mistake["type"] == "missing" and key in missing
    message = f"is missing; {missing[key]}" if is_known else sentence(mistake, model, values=False)
    return f"{block}.{key}: {message}" if key else f"{block}: {message}"


def _in_file(path: Path, name: str, missing: Mapping[str, str]) -> Any:
    """The block in a file: all of it, or what is under the block's name. Keys at the top of the file that begin with
    ``x-`` are for anchors, and are ignored."""
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the {name}'s configuration {path} cannot be read: {error}") from error
    if document.problems:
        raise SetupError("\n".join(f"{path}:{problem}" for problem in document.problems))
    if not isinstance(document.data, Mapping):
        needs = "; ".join(f"'{key}': {fix}" for key, fix in missing.items())
        raise SetupError(f"{path}: must be a mapping with at least {needs}")
    data = {key: value for key, value in document.data.items() if not key.startswith("x-")}
    if name not in data:
        return data
    if others := [key for key in data if key not in BLOCKS]:
        line = document.lines[others[0],]
        raise SetupError(f"{path}:{line}: unknown key {others[0]!r} beside {name!r}; move it below {name!r}")
    return data[name]


def read_json(text: str | bytes) -> Any:
    """Read a JSON file of settings. Duplicate keys are an error: one of the two would be ignored.

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
