"""Finding models on this machine by name, and the digest of their weights.

A model is searched, in this order,

1. as written: an absolute path, or one relative to the working folder (``~`` is the home folder),
2. in ``$VISIONGRAPH_MODELS``,
3. in ``models/`` of the user's cache folder (``$VISIONGRAPH_CACHE``, by default ``~/.cache/visiongraph``), where
   ``visiongraph models --download`` stores downloads,
4. in ``classifiers/weights/``, which ships with the package.

Otherwise it may still be the name of a model that its own library can download.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from classifiers.errors import ModelNotFound

__all__ = ["LocalPath", "ModelRef", "cache_folder", "digest_weights", "find_model", "model_not_found", "search_places"]


class LocalPath:
    """Marks a constructor argument that may be a path relative to the pipeline file."""

    def __repr__(self) -> str:
        return "LocalPath()"


ModelRef = Annotated[str, LocalPath()]
"""A model: the path of a file or folder, its name in one of the model folders, or its id at a hub."""


def cache_folder() -> Path:
    """``$VISIONGRAPH_CACHE`` or ``~/.cache/visiongraph``: what is in it can be fetched again. It may not exist yet."""
    return Path(os.environ.get("VISIONGRAPH_CACHE") or "~/.cache/visiongraph").expanduser()


def search_places(ref: str) -> list[Path]:
    """The paths at which a model is looked for, in order."""
    written = Path(ref).expanduser()
    if written.is_absolute():
        return [written]
    folders = [Path.cwd()]
    if configured := os.environ.get("VISIONGRAPH_MODELS"):
        folders.append(Path(configured).expanduser())
    folders += [cache_folder() / "models", Path(__file__).parent]
    return [folder / written for folder in folders]


def find_model(ref: str) -> Path | None:
    """The file or folder that a model reference names on this machine, or ``None``."""
    if not ref.strip():  # the empty path would be the working folder
        return None
    # not resolved: hub caches are links whose targets have lost the file name
    return next((place.absolute() for place in search_places(ref) if place.exists()), None)


def model_not_found(ref: str, fix: str, missing: str | None = None) -> ModelNotFound:
    """The error for a model that is nowhere.

    Args:
        ref: the model as it was written.
        fix: what to do, one sentence without a full stop.
        missing: what exactly is missing, if not all of it.
    """
    places = search_places(ref)
    what = f"{missing} of model {ref!r}" if missing else f"model {ref!r}"
    unset = "" if os.environ.get("VISIONGRAPH_MODELS") or len(places) == 1 else "\n  (VISIONGRAPH_MODELS is not set)"
    looked_at = "".join(f"\n  {place}" for place in places)
    return ModelNotFound(
        f"{what} was not found; looked at{looked_at}{unset}\nfix: {fix}",
        model=ref,
        looked_at=[str(place) for place in places],
    )


def digest_weights(path: Path, names: Collection[str] | None = None) -> str:
    """SHA-256 of a model, as 64 hexadecimal digits.

    Args:
        path: a file, whose bytes are hashed, or a folder, whose files' relative names and bytes are hashed, sorted by
            name. Names that begin with a dot do not count: download tools keep their notes there.
        names: the files of the folder that count; all of them by default.
    """
    if path.is_file():
        return _sha256(path)
    files = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    digest = hashlib.sha256()
    for relative, file in sorted(files.items(), key=lambda item: item[0].as_posix()):
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and (names is None or relative.as_posix() in names):
            digest.update(f"{relative.as_posix()}\0{_sha256(file)}\n".encode())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
