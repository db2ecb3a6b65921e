from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from classifiers import BaseClassifier, Image


class Brightness(BaseClassifier):
    """The least that a classifier needs."""

    @property
    def name(self) -> str:
        return "brightness"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return {"brightness": int(image.mean()), "seen": context["seen"]}


class Forgetful(Brightness):
    tunables: ClassVar[frozenset[str]] = frozenset({"threshold"})


def grey(value: int) -> Image:
    return np.full((2, 3, 3), value, np.uint8)


@pytest.mark.parametrize("missing", ["name", "process"])
def test_name_and_process_are_needed(missing: str) -> None:
    members = {member: Brightness.__dict__[member] for member in ("name", "process") if member != missing}
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (BaseClassifier,), members)()


def test_defaults() -> None:
    classifier = Brightness()
    assert classifier.default_crops is None
    assert classifier.tunables == frozenset()
    assert classifier.input_size is None
    assert classifier.resize == "stretch"
    assert classifier.crop_padding == 0
    assert classifier.weights_digest == ""


def test_process_batch_loops_over_process_in_order() -> None:
    results = Brightness().process_batch([grey(1), grey(2), grey(3)], [{"seen": "a"}, {"seen": "b"}, {"seen": "c"}])
    assert results == [{"brightness": value, "seen": seen} for value, seen in ((1, "a"), (2, "b"), (3, "c"))]


def test_empty_batch() -> None:
    assert Brightness().process_batch([], []) == []


def test_images_and_contexts_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Brightness().process_batch([grey(1), grey(2)], [{"seen": "a"}])


def test_reconfigure_without_tunables_is_nothing() -> None:
    Brightness().reconfigure()


def test_tunables_without_reconfigure_are_an_error_that_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Forgetful names tunables \['threshold'\] but does not override"):
        Forgetful().reconfigure(threshold=0.5)


def test_warm_up_is_optional() -> None:
    Brightness().warm_up(8)
