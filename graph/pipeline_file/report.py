"""The errors of a pipeline file: collected while it is read, each with its place, and raised all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from classifiers.errors import SetupError

__all__ = ["Loc", "Mistake", "PipelineError", "Report", "place_text"]

Loc: TypeAlias = tuple[str | int, ...]
"""Keys and indices from the top of the data down, as pydantic's ``loc``."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One error in a pipeline.

    Attributes:
        file: the pipeline file as the caller named it; ``None`` for an inline mapping.
        line: counted from 1; ``None`` if it has no line.
        step: the step's name, or its place (``pipeline[2]``) when it has none; ``None``: it is not in a step.
        key: the key in the step or, outside of one, in the file, for example ``serve.max_batch_size``.
        message: what is wrong and the fix.
        place: where in the data, for example ``pipeline[2].depends_on``.
    """

    file: str | None
    line: int | None
    step: str | None
    key: str | None
    message: str
    place: str = ""

    def __str__(self) -> str:
        where = self.place or "pipeline" if self.file is None else self.file
        if self.line is not None:
            where += f":{self.line}"
        what = []
        if self.step is not None:  # a step without a name is called by its place, which is not quoted
            what.append(f"step {self.step}" if self.step.endswith("]") else f"step {self.step!r}")
        if self.key is not None:
            what.append(f"key {self.key!r}")
        return ": ".join([where, ", ".join(what), self.message] if what else [where, self.message])


class PipelineError(SetupError):
    """A pipeline has errors. ``str(error)`` has one line for each.

    Attributes:
        mistakes: in the order of the file.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))

    def __reduce__(self) -> tuple[type[PipelineError], tuple[tuple[Mistake, ...]]]:
        return type(self), (self.mistakes,)


class Report:
    """Errors found so far.

    Args:
        file: as the caller named it; ``None`` for an inline mapping.
        data: what was read; it has the names of steps.
        lines: the line of each key and list item.
    """

    def __init__(self, file: str | None, data: Any = None, lines: Mapping[Loc, int] | None = None) -> None:
        self._file = file
        self._data = data
        self._lines = lines or {}
        self._mistakes: list[Mistake] = []
        self._unreadable: set[Loc] = set()

    def add(self, loc: Iterable[str | int], message: str, line: int | None = None) -> None:
        """Add an error at ``loc``; ``line`` if it is known more precisely."""
        loc = tuple(loc)
        if any(loc[:end] in self._unreadable for end in range(1, len(loc) + 1)):
            return  # the data there differ from the file
        line = self._line(loc) if line is None else line
        message = " ".join(row.strip() for row in message.splitlines())  # a plug-in's message may have several lines
        self._mistakes.append(Mistake(self._file, line, *self._step_and_key(loc), message, place_text(loc)))

    def add_unreadable(self, loc: Loc, message: str, line: int | None) -> None:
        """Add that the value at ``loc`` could not be read; nothing else is reported about it."""
        self.add(loc, message, line)
        self._unreadable.add(loc)

    def add_at(self, line: int, step: str | None, key: str | None, message: str) -> None:
        """Add an error in text that could not be parsed."""
        self._mistakes.append(Mistake(self._file, line, step, key, message))

    def error(self) -> PipelineError:
        """What was collected, in the order of the file."""
        return PipelineError(sorted(self._mistakes, key=lambda mistake: mistake.line or 0))

    def raise_if_any(self) -> None:
        """Raise what was collected, if anything was."""
        if self._mistakes:
            raise self.error()

    def _line(self, loc: Loc) -> int | None:
        if len(loc) == 3 and loc not in self._lines and (*loc[:2], "serve", loc[2]) in self._lines:
            return self._lines[(*loc[:2], "serve", loc[2])]  # `timeout_ms` and `on_error` may be in either place
        return next((self._lines[loc[:end]] for end in range(len(loc), -1, -1) if loc[:end] in self._lines), None)

    def _step_and_key(self, loc: Loc) -> tuple[str | None, str | None]:
        if len(loc) < 2 or loc[0] != "pipeline" or not isinstance(loc[1], int):
            return None, place_text(loc) or None
        inner = loc[2:3] if loc[2:3] == ("depends_on",) else loc[2:]
        try:
            name = self._data["pipeline"][loc[1]]["name"]
        except (TypeError, LookupError):
            name = None
        step = name if isinstance(name, str) and name else f"pipeline[{loc[1]}]"
        return step, place_text(inner) or "pipeline"


def place_text(loc: Loc) -> str:
    """``("pipeline", 2, "serve")`` as ``pipeline[2].serve``."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text
