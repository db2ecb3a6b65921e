"""Arguments that several commands share, and where they print."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["PipelineArgument", "progress", "stderr", "stdout"]

PipelineArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="The pipeline file, for example configs/demo.yaml.")
]

stdout = Console(soft_wrap=True)
stderr = Console(stderr=True)


def progress() -> Progress:
    """A progress bar on stderr."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=stderr
    )
