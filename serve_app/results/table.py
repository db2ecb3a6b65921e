"""The Parquet form of results: one row per image, the same columns for every pipeline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["SCHEMA", "partition_of", "row_of", "rows_to_table", "to_parquet"]

_MAX_NAME = 200

_LABEL = pa.struct([("step", pa.string()), ("label", pa.string()), ("confidence", pa.float64())])
_POINTS = pa.list_(pa.list_(pa.float64()))
_DETECTION = pa.struct(
    [
        ("step", pa.string()),
        ("index", pa.int32()),
        ("class_name", pa.string()),
        ("class_id", pa.int64()),
        ("confidence", pa.float64()),
        ("bbox", pa.list_(pa.float64())),
        ("labels", pa.list_(_LABEL)),
        ("mask", pa.list_(_POINTS)),
        ("keypoints", _POINTS),
        ("corners", _POINTS),
    ]
)
_STEP = pa.struct(
    [
        ("name", pa.string()),
        ("status", pa.string()),
        ("duration_ms", pa.float64()),
        ("reason", pa.string()),
        ("error", pa.string()),
    ]
)

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("finished", pa.timestamp("ms", tz="UTC")),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fingerprint", pa.string()),
        ("detections", pa.list_(_DETECTION)),
        ("labels", pa.list_(_LABEL)),
        ("steps", pa.list_(_STEP)),
        ("context", pa.string()),
        ("metadata", pa.string()),
    ]
)
"""The columns of every file; ``pipeline`` and ``date`` are in the path.

``detections[].labels`` are the labels of other steps for a detection, ``labels`` those for the whole image;
``mask``, ``keypoints`` and ``corners`` are null where a detection has none, and in files of older versions;
``context`` and ``metadata`` are the result's, as JSON text.
"""


def rows_to_table(rows: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, list[tuple[Mapping[str, Any], Exception]]]:
    """The table of rows, in their order; and the rows of which a value does not fit into its column, with the error."""
    try:
        return pa.Table.from_pylist(rows, SCHEMA), []
    except Exception as error:  # noqa: BLE001 - Arrow raises errors of many kinds
        if len(rows) == 1:
            return SCHEMA.empty_table(), [(rows[0], error)]
        half = len(rows) // 2
        (first, misfits), (second, more) = rows_to_table(rows[:half]), rows_to_table(rows[half:])
        return pa.concat_tables([first, second]), [*misfits, *more]


def partition_of(pipeline: str, day: date) -> str:
    """The folder of a pipeline's rows of a day, in UTC."""
    name = quote(pipeline, safe="")
    if len(name) > _MAX_NAME:
        digest = hashlib.sha256(pipeline.encode()).hexdigest()
        name = quote(f"{pipeline[:12]}-{digest[:12]}", safe="")
    return f"parquet/pipeline={name}/date={day.isoformat()}"


def to_parquet(table: pa.Table) -> bytes:
    """The file of a table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def row_of(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an outcome with a result. ``finished`` knows its time zone.

    Raises:
        Exception: it does not have the form of :meth:`serve_app.results.Outcome.encode`.
    """
    finished = datetime.fromisoformat(outcome["finished"])
    result = outcome["result"]
    context: dict[str, Any] = result["context"]
    detectors = [name for name, value in context.items() if "detections" in value]
    # `objects` do not name the step of their detections: with several detectors their labels are in `context` only
    labels = _object_labels(context) if len(detectors) == 1 else {}
    return {
        "id": outcome["id"],
        "finished": finished if finished.tzinfo else finished.replace(tzinfo=UTC),
        "uri": result["image"]["uri"],
        "sha256": result["image"]["sha256"],
        "width": result["image"]["width"],
        "height": result["image"]["height"],
        "fingerprint": result["pipeline"]["fingerprint"],
        "detections": [
            {
                "step": name,
                "index": index,
                "class_name": detection["class_name"],
                "class_id": detection.get("class_id"),
                "confidence": detection.get("confidence"),
                "bbox": detection["bbox"],
                "labels": labels.get(index, []),
                **{shape: detection.get(shape) for shape in ("mask", "keypoints", "corners")},
            }
            for name in detectors
            for index, detection in enumerate(context[name]["detections"])
        ],
        "labels": [_label(name, value) for name, value in context.items() if isinstance(value.get("label"), str)],
        "steps": [
            {**step, "error": f"{step['error']['type']}: {step['error']['detail']}" if "error" in step else None}
            for step in result["steps"]
        ],
        "context": json.dumps(context, ensure_ascii=False),
        "metadata": json.dumps(result["metadata"], ensure_ascii=False),
    }


def _object_labels(context: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    labels: dict[int, list[dict[str, Any]]] = {}
    for name, value in context.items():
        for item in value.get("objects") or ():
            if isinstance(item.get("label"), str):
                labels.setdefault(item["detection"], []).append(_label(name, item))
    return labels


def _label(step: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": step, "label": value["label"], "confidence": value.get("confidence")}
