from __future__ import annotations

from collections.abc import Iterator

import pytest

from classifiers import SetupError, VisionError
from serve_app.http.problems import STATUS, status_of


def _all(kind: type[VisionError]) -> Iterator[type[VisionError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _all(below)


@pytest.mark.parametrize("kind", sorted(set(_all(VisionError)), key=lambda k: k.__name__), ids=lambda k: k.__name__)
def test_every_error_that_a_request_can_meet_has_its_row(kind: type[VisionError]) -> None:
    # a setup error never meets a request: it ends the process that starts
    if issubclass(kind, SetupError) or kind.__module__ == "serve_app.sources":
        assert kind not in STATUS
    else:
        assert kind in STATUS


def test_the_most_derived_row_counts() -> None:
    class Special(SetupError):
        pass

    assert status_of(Special("x")) == 500
