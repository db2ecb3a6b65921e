from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from classifiers import SetupError, VisionError
from serve_app.http.problems import STATUS, status_of

_ROOT = Path(__file__).parents[3]

# They do not meet a request: the command line's, the workers' and a step's own, and what others translate.
_ELSEWHERE = {
    "graph.runtime.result.BadResult",
    "serve_app.local.serving.NotEnoughResources",
    "serve_app.buckets.BucketUnavailable",
    "serve_app.bulk.running.TooManyFailures",
    "serve_app.queues.job_messages.BadMessage",
    "serve_app.queues.protocol.QueueUnavailable",
    "serve_app.results.object_stores.StoreUnavailable",
    "serve_app.cli.input_files.SourceError",
}


def _all() -> Iterator[type[VisionError]]:
    """Every class of the project that is a VisionError, also of modules that nothing here imports."""
    known, before = {VisionError.__name__: "classifiers.errors"}, 0
    classes = [
        (node, ".".join(path.relative_to(_ROOT).with_suffix("").parts))
        for package in ("classifiers", "graph", "serve_app")
        for path in sorted((_ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    found: dict[tuple[str, str], None] = {}
    while len(known) > before:
        before = len(known)
        for node, module in classes:
            if {base.id for base in node.bases if isinstance(base, ast.Name)} & known.keys():
                known[node.name] = module
                found[node.name, module] = None
    for name, module in found:
        kind = getattr(importlib.import_module(module), name)
        assert issubclass(kind, VisionError)
        yield kind


@pytest.mark.parametrize("kind", sorted(_all(), key=lambda k: k.__name__), ids=lambda k: k.__name__)
def test_every_error_that_a_request_can_meet_has_its_row(kind: type[VisionError]) -> None:
    # a setup error never meets a request: it ends the process that starts
    if issubclass(kind, SetupError) or f"{kind.__module__}.{kind.__name__}" in _ELSEWHERE:
        assert kind not in STATUS
    else:
        assert kind in STATUS


def test_the_most_derived_row_counts() -> None:
    class Special(SetupError):
        pass

    assert status_of(Special("x")) == 500
