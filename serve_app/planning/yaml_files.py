"""Reads YAML and JSON files into closed models, with errors that name the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from classifiers import SetupError
from classifiers.validation import sentence

__all__ = ["read_model"]

Model = TypeVar("Model", bound=BaseModel)


def read_model(path: str | Path, model: type[Model], what: str) -> Model:
    """Read a file; JSON is YAML.

    Raises:
        SetupError: it cannot be read, is no YAML, or does not have the model's shape.
    """
    try:
        content: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SetupError(f"cannot read the {what} {path}: {reason}") from error
    except yaml.YAMLError as error:
        raise SetupError(f"the {what} {path} is not YAML: {error}") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        found = [
            f"{path}: {'.'.join(map(str, each['loc'])) or what}: {sentence(dict(each), model)}"
            for each in error.errors()
        ]
        raise SetupError("\n".join(found)) from error
