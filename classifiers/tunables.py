"""Arguments that can be changed while a model stays loaded, checked in the constructor and when they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from classifiers.errors import SetupError
from classifiers.validation import Closed, sentence

__all__ = ["Tunables", "check"]

T = TypeVar("T", bound="Tunables")


class Tunables(Closed):
    """Base of a classifier's tunables, one field each."""


def check(kind: type[T], owner: str, values: Mapping[str, Any]) -> T:
    """The tunables with these values.

    Raises:
        SetupError: a name or a value is wrong; the message lists all of them.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {sentence(fault, kind)}" for fault in error.errors()]
        raise SetupError(f"{owner}: {'; '.join(faults)}") from error
