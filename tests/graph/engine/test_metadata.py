from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from graph import Malformed, VisionPipeline
from graph.engine.metadata import MAX_METADATA_BYTES, checked_metadata, parse_metadata

NAN, INFINITY = float("nan"), float("inf")

REFUSED: dict[str, tuple[Any, str]] = {
    "nan": ({"a": NAN}, "NaN"),
    "infinity": ({"a": [{"b": INFINITY}]}, "Infinity"),
    "minus infinity": ({"a": -INFINITY}, "Infinity"),
    "lone surrogate": ({"a": "caf\udce9"}, "surrogate"),
    "lone surrogate in a key": ({"a": {"\ud800": 1}}, "surrogate"),
    "too large": ({"a": "x" * MAX_METADATA_BYTES}, "65,536 bytes"),
    "too large in UTF-8": ({"a": "ü" * 40_000}, "65,536 bytes"),
    "too deep": ({"a": json.loads("[" * 40 + "]" * 40)}, "nested"),
    "a very large integer": ({"a": 10**100}, "256 bits"),
    "not an object": ([1], "object"),
    "text": ("text", "object"),
    "not JSON": ({"a": datetime.now(UTC)}, "not JSON"),
    "a key that is no string": ({"a": {1: 2}}, "key"),
}


@pytest.mark.parametrize(("value", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_stored_is_refused(value: Any, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        checked_metadata(value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": None, "b": [True, 1.5, -(2**63), "é\U0001f600\u202f\0"]},
        {"a": "x" * (MAX_METADATA_BYTES - len('{"a":""}'))},
        {"a": json.loads("[" * 30 + "]" * 30)},
        {"": {"NaN": "Infinity"}},
    ],
)
def test_what_is_json_is_kept(value: dict[str, Any]) -> None:
    assert checked_metadata(value) == value
    assert parse_metadata(json.dumps(value)) == value


def test_null_counts_as_left_out() -> None:
    assert checked_metadata(None) == parse_metadata("null") == {}


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[1]", '{"a": NaN}', '{"a": 1e999}', "[" * 100_000, '{"a": 9' + "9" * 5000]
)
def test_text_that_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="the option"):
        parse_metadata(text, "the option")


def test_the_pipeline_refuses_it_too() -> None:
    with VisionPipeline({"name": "p", "pipeline": [{"name": "detect", "class": "toys.Blobs"}]}) as pipeline:
        with pytest.raises(Malformed, match="NaN"):
            pipeline.run(b"", metadata={"a": NAN})
        with pytest.raises(Malformed, match="surrogate"):
            pipeline.run_batch([b""], metadata={"a": "\udce9"})
