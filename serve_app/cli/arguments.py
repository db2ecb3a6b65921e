"""Arguments that several commands share, and where they print."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console

__all__ = ["PipelineArgument", "stderr", "stdout"]


def _with_classes_beside(pipeline: str) -> str:
    """Put the folder of a pipeline file last on the import path, here and in the processes that get ``PYTHONPATH``.

    Only where it holds Python modules: what is rendered names no folder without need.
    """
    folder = Path(pipeline).absolute().parent
    has_modules = any(folder.glob("*.py")) or any(folder.glob("*/__init__.py"))
    if has_modules and str(folder) not in sys.path:
        sys.path.append(str(folder))
        paths = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(folder)]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    return pipeline


PipelineArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="PIPELINE",
        help="The pipeline file, for example configs/demo.yaml. Its classes may be in modules beside it.",
        callback=_with_classes_beside,
    ),
]

stdout = Console(soft_wrap=True)
stderr = Console(stderr=True)
