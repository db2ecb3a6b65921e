"""What is wrong with a pipeline file, all of it at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from classifiers.errors import SetupError

__all__ = ["Mistake", "PipelineError"]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake.

    Attributes:
        file: the pipeline file as the caller named it; ``None`` for an inline mapping.
        line: counted from 1; ``None`` where the mistake has no line.
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
        if self.file is None:
            where = self.place or "pipeline"
        else:
            where = self.file if self.line is None else f"{self.file}:{self.line}"
        what = []
        if self.step is not None:
            # a step without a name is called by its place, which is no text of the file
            what.append(f"step {self.step}" if self.step.endswith("]") else f"step {self.step!r}")
        if self.key is not None:
            what.append(f"key {self.key!r}")
        return f"{where}: {', '.join(what)}: {self.message}" if what else f"{where}: {self.message}"


class PipelineError(SetupError):
    """A pipeline has mistakes. ``str(error)`` has one line for each.

    Attributes:
        mistakes: in the order of the file.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))

    def __reduce__(self) -> tuple[type[PipelineError], tuple[tuple[Mistake, ...]]]:
        return type(self), (self.mistakes,)
