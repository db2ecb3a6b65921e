"""``visiongraph run``: images through a pipeline in this process."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from classifiers import VisionError
from classifiers.masking import without_secrets
from graph import Malformed, VisionPipeline, annotate
from graph.metadata import parse_metadata
from serve_app.cli.arguments import PipelineArgument, stderr
from serve_app.sources import expand, read

__all__ = ["run"]


def run(
    pipeline: PipelineArgument,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Files, folders, globs, URLs, s3://bucket/key or s3://bucket/prefix/."),
    ],
    annotate_to: Annotated[
        Path | None,
        typer.Option("--annotate", metavar="DIR", help="Write each picture with boxes and labels into this folder."),
    ] = None,
    metadata: Annotated[
        str, typer.Option(metavar="JSON", help="What is known about the images; rules see it as image['metadata'].")
    ] = "{}",
) -> None:
    """Run images through a pipeline in this process: one JSON result a line on stdout, in the order of the arguments.

    An image that fails is a line with its error, the others are still there, and the exit status is 1.
    """
    known = _metadata(metadata)
    uris = expand(images)
    failed = 0
    with (
        VisionPipeline(pipeline) as vision,
        Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=stderr
        ) as progress,
    ):
        if annotate_to is not None:
            annotate_to.mkdir(parents=True, exist_ok=True)
        bar = progress.add_task("images", total=len(uris))
        loaders = (functools.partial(read, uri) for uri in uris)
        for index, (uri, result) in enumerate(zip(uris, vision.stream(loaders, metadata=known), strict=True)):
            if isinstance(result, VisionError):
                failed += 1
                line: dict[str, Any] = {
                    "image": {"uri": without_secrets(uri)},
                    "error": {"type": type(result).__name__, "detail": str(result)},
                }
            else:
                line = result
                if annotate_to is not None:
                    picture = annotate(read(uri, vision.limits), result)
                    (annotate_to / _picture_name(uri, index, len(uris))).write_bytes(picture)
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()
            progress.advance(bar)
    if failed:
        stderr.print(f"{failed} of {len(uris)} images failed; their lines have an 'error'")
        raise typer.Exit(1)


def _metadata(text: str) -> dict[str, Any]:
    try:
        return parse_metadata(text)
    except Malformed as error:
        raise typer.BadParameter(str(error), param_hint="--metadata") from error


def _picture_name(uri: str, index: int, total: int) -> str:
    """A name in argument order, since two folders may hold files of the same name."""
    stem = Path(urlsplit(uri).path).stem or "image"
    return f"{index:0{len(str(total - 1))}d}-{stem}.jpg"
