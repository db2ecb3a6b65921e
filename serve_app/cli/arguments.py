"""Arguments that several commands share, and where they print."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from graph import Malformed
from graph.engine import parse_metadata

__all__ = [
    "DashboardPortOption",
    "GatewayOption",
    "IntakeOption",
    "MetadataOption",
    "OptionalPipelineArgument",
    "PipelineArgument",
    "PortOption",
    "QueueOption",
    "ResultsOption",
    "line_of",
    "print_figures",
    "progress",
    "stderr",
    "stdout",
]


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


def _metadata(text: str) -> dict[str, Any]:
    try:
        return parse_metadata(text)
    except Malformed as error:
        raise typer.BadParameter(str(error)) from error


_PIPELINE = "The pipeline file, for example configs/demo.yaml. Its classes may be in modules beside it."

PipelineArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="PIPELINE", help=_PIPELINE, callback=_with_classes_beside)
]
OptionalPipelineArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="[PIPELINE]",
        help="The pipeline file. Its classes may be in modules beside it.",
        show_default=False,
        callback=lambda pipeline: None if pipeline is None else _with_classes_beside(pipeline),
    ),
]
PortOption = Annotated[int, typer.Option(help="Port of the HTTP endpoint.", min=1, max=65535)]
GatewayOption = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML with the gateway: block.")]
IntakeOption = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML with the intake: block.")]
QueueOption = Annotated[str | None, typer.Option(metavar="URL", help="The queue, instead of the intake block's.")]
ResultsOption = Annotated[str | None, typer.Option(metavar="URI", help="The results, instead of the intake block's.")]
DashboardPortOption = Annotated[int, typer.Option(help="Port of the Ray dashboard.", min=1, max=65535)]
MetadataOption = Annotated[
    dict[str, Any] | None,
    typer.Option(parser=_metadata, metavar="JSON", help="Metadata of all images; rules see it as image['metadata']."),
]

stdout = Console(soft_wrap=True)
stderr = Console(stderr=True)


def progress() -> Progress:
    """A progress bar on stderr."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=stderr
    )


def print_figures(figures: Mapping[str, str], title: str | None = None) -> None:
    """Print a table of names and values on stdout."""
    table = Table("", Column(justify="right"), show_header=False, title=title)
    for name, value in figures.items():
        table.add_row(name, value)
    stdout.print(table)


# Beside those that JSON escapes, what Unicode and Python's splitlines take for the end of a line.
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


def line_of(json_text: str) -> str:
    """JSON as one line, with its end."""
    return _LINE_ENDS.sub(lambda end: f"\\u{ord(end[0]):04x}", json_text) + "\n"
