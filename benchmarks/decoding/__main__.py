"""python -m benchmarks.decoding PHOTOS: `decode: reduced` against `full`. See README.md."""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from classifiers import InputError
from classifiers.imaging.decoding import decode, probe
from classifiers.objects import ObjectClassifier
from graph import Frame

_REPEATS = 5
_SAME_BOX = 0.5  # share of the union


def main() -> None:
    """Measure every JPEG of a folder that one of the modes makes smaller, and print medians by size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of JPEGs")
    parser.add_argument("--model", default="centernet_mobilenetv3_coco")
    parser.add_argument("--confidence", type=float, default=0.25)
    parser.add_argument("--out", type=Path, default=Path("runs/decoding"))
    options = parser.parse_args()
    detector = ObjectClassifier(model=options.model, confidence=options.confidence)
    size = detector.frame_size or (0, 0)
    rows = [row for path in sorted(options.photos.glob("*.jpg")) if (row := _measure(detector, size, path))]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(rows, indent=1))
    print(f"detector {options.model}, {size[0]} x {size[1]} (HxW), confidence {options.confidence:g}")
    columns = ["reduced to", "photos", "megapixels", "Pillow, ms", "decode, ms", "reduced, ms", "detect, ms"]
    columns += ["objects", "found too", "new"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for factor in (1, 2, 4, 8):
        if own := [row for row in rows if row["factor"] == factor]:
            times = _medians(own, "megapixels", "pillow_ms", "full_ms", "reduced_ms", "detect_ms")
            counts = " | ".join(str(sum(row[key] for row in own)) for key in ("objects", "found_too", "new"))
            print(f"| {_name(factor)} | {len(own)} | {times} | {counts} |")


def _measure(detector: ObjectClassifier, size: tuple[int, int], path: Path) -> dict[str, Any] | None:
    data = path.read_bytes()
    try:
        header = probe(data)
        frame = Frame.from_bytes(data)
        full = decode(data)
    except InputError:
        return None
    reduced, factor = frame.reduced_pixels(size)
    before = detector.process(full, {})["detections"]
    after = detector.process(reduced, {})["detections"]
    boxes = [(d["class_name"], [side * factor for side in d["bbox"]]) for d in after]
    found = sum(_has(d["class_name"], d["bbox"], boxes) for d in before)
    old = [(d["class_name"], d["bbox"]) for d in before]
    return {
        "photo": path.name,
        "megapixels": header.width * header.height / 1e6,
        "factor": factor,
        "pillow_ms": _ms(lambda: np.asarray(PillowImage.open(io.BytesIO(data)).convert("RGB"))),
        "full_ms": _ms(lambda: decode(data)),
        "reduced_ms": _ms(lambda: decode(data, at_least=size)),
        "detect_ms": _ms(lambda: detector.process(reduced, {})),
        "objects": len(before),
        "found_too": found,
        "new": sum(not _has(name, box, old) for name, box in boxes),
    }


def _has(name: str, box: Sequence[float], among: Sequence[tuple[str, Sequence[float]]]) -> bool:
    return any(other == name and _overlap(box, box_) >= _SAME_BOX for other, box_ in among)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _ms(call: Callable[[], object]) -> float:
    """CPU time of this thread, which another process on the machine disturbs least; the median of some calls."""
    times = []
    for _ in range(_REPEATS):
        start = time.process_time()
        call()
        times.append(1000 * (time.process_time() - start))
    return median(times)


def _medians(rows: Sequence[dict[str, Any]], *keys: str) -> str:
    return " | ".join(f"{median(row[key] for row in rows):.1f}" for key in keys)


def _name(factor: int) -> str:
    return "as it is" if factor == 1 else f"1/{factor}"


if __name__ == "__main__":
    main()
