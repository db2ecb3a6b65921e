"""``visiongraph run``: images through a pipeline in this process."""

from __future__ import annotations

import functools
import json
import re
import sys
from copy import copy
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer

from classifiers.imaging import ImageLimits
from classifiers.redaction import without_secrets
from graph import Frame, VisionPipeline, annotate
from serve_app.cli.arguments import MetadataOption, PipelineArgument, line_of, progress, stderr
from serve_app.cli.input_files import Found, SourceError, expand, read
from serve_app.uris import scheme_of

__all__ = ["run"]

# A name has at most 255 bytes, on some file systems 143.
_MAX_STEM_BYTES = 120


def run(
    pipeline: PipelineArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, URLs, s3:// objects or prefixes, -.")
    ],
    annotate_to: Annotated[
        str | None, typer.Option("--annotate", metavar="DIR", help="Folder for the pictures with boxes and labels.")
    ] = None,
    metadata: MetadataOption = None,
) -> None:
    """Run images through a pipeline in this process; prints one JSON result per line, in the order of the arguments.

    A folder or a prefix (with / at the end) stands for all images below it, - for an image on stdin. For an image that
    fails, the line holds the error. The others still run, and the exit status is 1.
    """
    found = expand(images)
    if all(isinstance(entry, SourceError) for entry in found):
        raise SourceError("\n".join(map(str, found)))
    pictures = None if annotate_to is None else _make_folder(annotate_to)
    frames: dict[int, Frame] = {}

    def load(index: int, entry: Found, limits: ImageLimits) -> Frame:
        if isinstance(entry, SourceError):
            raise entry
        frame = read(entry, limits)
        if pictures is not None:
            frames[index] = copy(frame)  # the same bytes; not the pixels, once they are decoded
        return frame

    failed = 0
    with VisionPipeline(pipeline) as vision, progress() as bar:
        task = bar.add_task("images", total=len(found))
        loaders = (functools.partial(load, index, entry) for index, entry in enumerate(found))
        for index, result in enumerate(vision.stream(loaders, metadata=metadata or {})):
            entry, frame = found[index], frames.pop(index, None)
            uri = entry if isinstance(entry, str) else str(entry.fields["uri"])
            if isinstance(result, Exception):
                line: dict[str, Any] = {"image": {"uri": without_secrets(_as_utf8(uri))}, "error": _error_of(result)}
            else:
                line = result
                if pictures is not None and frame is not None:
                    try:
                        (pictures / _picture_name(uri, index, len(found))).write_bytes(annotate(frame, result))
                    except Exception as error:  # noqa: BLE001 - this picture's, and ends no other image
                        line = {**result, "error": _error_of(error)}
            failed += "error" in line
            sys.stdout.write(line_of(json.dumps(line, ensure_ascii=False)))
            sys.stdout.flush()
            bar.advance(task)
    if failed:
        stderr.print(f"{failed} of {len(found)} images failed; their lines have an 'error'")
        raise typer.Exit(1)


def _make_folder(path: str) -> Path:
    if not path:
        raise typer.BadParameter("an empty argument names no folder; is a variable unset?", param_hint="--annotate")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot make the folder {folder}: {error.strerror}", param_hint="--annotate"
        ) from error
    return folder


def _error_of(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "detail": _as_utf8(str(error))}


def _as_utf8(text: str) -> str:
    """The text with bytes that are not UTF-8 escaped; they come from names of files and from addresses."""
    return text.encode(errors="backslashreplace").decode()


def _picture_name(uri: str, index: int, total: int) -> str:
    """A name in argument order, since two folders may hold files of the same name."""
    path = re.split("[?#]", uri)[0] if scheme_of(uri) in ("http", "https") else uri
    stem = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\]", "_", PurePosixPath(path).stem)
    short = stem.encode()[:_MAX_STEM_BYTES].decode(errors="ignore")
    return f"{index:0{len(str(total - 1))}d}-{short or 'image'}.jpg"
