"""Arguments that several commands share, and where they print."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer
from rich.console import Console

__all__ = ["PipelineArgument", "stderr", "stdout"]

PipelineArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="The pipeline file, for example configs/demo.yaml.")
]

stdout = Console(soft_wrap=True)
stderr = Console(stderr=True)
