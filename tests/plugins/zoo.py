"""Classifiers whose constructors and attributes try what a pipeline file is checked against. None of them
looks at pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from classifiers import BaseClassifier, Image
from classifiers.weights.finding import ModelRef

if TYPE_CHECKING:
    from fractions import Fraction


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


def _broken(value: int) -> int:
    raise RuntimeError("a validator that fails")


class Zoo:
    """Some other class, which only the constructor that wants it knows how to make."""


class Keeper(BaseClassifier):
    """Finds nothing. Takes no arguments and has no crop rule."""

    @property
    def name(self) -> str:
        return "keeper"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return {"detections": [], "detected_classes": []}


class Detector(Keeper):
    tunables: ClassVar[frozenset[str]] = frozenset({"confidence", "labels"})

    def __init__(
        self,
        model: ModelRef = "model.pt",
        confidence: Annotated[float, Field(ge=0, le=1)] = 0.25,
        labels: list[str] | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        size: tuple[int, int] | None = None,
        half: bool = False,
        classes: Path | None = None,
        extra_models: list[ModelRef] | None = None,
        top: int | Literal["all"] = 5,
        step: Annotated[int, AfterValidator(_even)] = 2,
        odd: Annotated[int, AfterValidator(_broken)] = 1,
        home: Zoo | None = None,
        zoo: Zoo = Zoo(),  # noqa: B008
        share: Fraction | None = None,
        options: Mapping[str, float] | None = None,
        anything=None,  # type: ignore[no-untyped-def]
    ) -> None:
        self.arguments = locals()


class Make(Detector):
    """Passes on what it does not know."""

    default_crops = "detection['class_name'] in ('car', 'truck')"

    def __init__(self, makes: int, **others: Any) -> None:
        super().__init__(**others)


class Anything(Keeper):
    def __init__(self, *numbers: int, **everything: Any) -> None:
        self.everything = everything


class NeedsTunable(Keeper):
    tunables: ClassVar[frozenset[str]] = frozenset({"threshold"})

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold


class ReadsOther(Keeper):
    default_crops = "detection['class_name'] in context['det']['detected_classes']"


class BadRule(Keeper):
    default_crops = "detection.class_name == 'car'"


class CropsNoText(Keeper):
    default_crops: ClassVar[Any] = 3


class TunablesText(Keeper):
    tunables: ClassVar[Any] = "confidence"


class TunablesUnknown(Keeper):
    tunables: ClassVar[frozenset[str]] = frozenset({"confidence"})


class Half(BaseClassifier):
    """Lacks ``name`` and ``process``."""


def function() -> None:
    """No class at all."""


ready = Keeper()
