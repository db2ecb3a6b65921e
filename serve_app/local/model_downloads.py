"""Which models a pipeline needs, and getting those that are not on this machine.

What :mod:`classifiers.weights.catalogue` knows ships with this project. All others are downloaded by the classifier
itself, when it is made, from where its own library gets models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.repocard import metadata_load
from rich.console import Console
from yaml import YAMLError

from classifiers.weights import CATALOGUE, LocalPath, find_model
from graph.pipeline_file import constructor_of
from graph.plan import Plan, PlannedStep

__all__ = ["ModelStatus", "download", "required_models"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ModelStatus:
    """A model that a pipeline needs.

    Attributes:
        ref: as the pipeline file names it.
        source: where it comes from, for a person.
        licence: ``None``: not known here.
        size_bytes: on this machine; ``None``: not known.
        is_there: whether it is on this machine.
        note: what a person should know; may be empty.
        user: a step that uses it; its classifier downloads what its own library can download.
        revision: the commit at the hub of what is on this machine; ``None``: not from the hub.
    """

    ref: str
    steps: tuple[str, ...]
    source: str
    licence: str | None
    size_bytes: int | None
    is_there: bool
    note: str
    user: PlannedStep = field(repr=False, compare=False)
    revision: str | None = None


def required_models(plan: Plan) -> list[ModelStatus]:
    """The models that the steps of a pipeline name, or that their classes use by default, in the order of the file."""
    users: dict[str, list[PlannedStep]] = {}
    for step in plan:
        for name, parameter in constructor_of(step.cls).parameters.items():
            value = step.params.get(name, parameter.default)
            if isinstance(value, str) and _names_model(parameter.annotation):
                users.setdefault(value, []).append(step)
    return [_status(ref, steps) for ref, steps in users.items()]


def download(models: Iterable[ModelStatus], console: Console) -> None:
    """Get the models that are missing.

    Raises:
        SetupError: a model is not available; those before it are there.
    """
    for model in models:
        if not model.is_there:
            with console.status(f"{model.ref}: downloading from {model.source}"):
                model.user.cls(**model.user.params)


def _names_model(annotation: Any) -> bool:
    parts = (*getattr(annotation, "__metadata__", ()), *get_args(annotation))
    return any(isinstance(part, LocalPath) or _names_model(part) for part in parts)


def _status(ref: str, steps: list[PlannedStep]) -> ModelStatus:
    path, known = find_model(ref), CATALOGUE.get(ref)
    source, licence, note, revision = "this machine", None, "", None
    if known is not None:
        source, licence, note = known.origin, known.licence, known.note
    elif path is not None:
        licence = _licence(path)
    elif ref.endswith(".pt") and Path(ref).name == ref:
        source, licence = "ultralytics' releases", "AGPL-3.0"
    elif _HUB_ID.fullmatch(ref):
        source, note = "Hugging Face hub", "for its size and licence see its page at the hub"
        cached = try_to_load_from_cache(ref, "config.json", revision=steps[0].params.get("revision"))
        if isinstance(cached, str):
            path = Path(cached).parent
            licence, revision = _licence(path), path.name
            note = "" if licence else "for its licence see its page at the hub"
    else:
        note = "put it where the pipeline file says it is"
    return ModelStatus(
        ref=ref,
        steps=tuple(step.name for step in steps),
        source=source,
        licence=licence,
        size_bytes=None if path is None else _size(path),
        is_there=path is not None,
        note=note,
        user=steps[0],
        revision=revision,
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _licence(folder: Path) -> str | None:
    """The licence in the model card, if there is one."""
    card = folder / "README.md"
    try:
        about = metadata_load(card) if card.is_file() else None
    except (ValueError, YAMLError):  # some other README
        return None
    licence = (about or {}).get("license")
    return (about or {}).get("license_name", licence) if licence == "other" else licence
