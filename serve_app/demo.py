"""The demo: serves a pipeline on this machine, posts real photos over HTTP, and shows what was found."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.progress import track
from rich.table import Table

from classifiers import SetupError
from serve_app.cli.arguments import stderr, stdout
from serve_app.local import serving

__all__ = ["demo_photos", "run_demo"]

_TIMEOUT_S = 60.0


def run_demo(pipeline: str, photos: Sequence[Path], out: Path, *, port: int, dashboard_port: int) -> None:
    """Serve, post, show, shut down. Without ``photos``: those of :func:`demo_photos`.

    Raises:
        SetupError: the pipeline or its models are not there, or a port is taken.
    """
    photos = photos or demo_photos()
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    stderr.print("starting Ray and Serve on this machine ...")
    with serving(pipeline, port=port, dashboard_port=dashboard_port) as server:
        stderr.print(
            f"ready after {time.monotonic() - started:.0f} s at {server.http_url} (dashboard: {server.dashboard_url})"
        )
        found = []
        with httpx.Client(base_url=server.http_url, timeout=_TIMEOUT_S) as client:
            for number, photo in enumerate(track(photos, "posting photos", console=stderr, transient=True), 1):
                result = _post(client, photo).json()
                picture = out / f"{number}-{photo.stem}.jpg"
                picture.write_bytes(_post(client, photo, annotate="true").content)
                found.append((photo, result, picture))
        stderr.print("stopping ...")
    stdout.print(_table(found))
    stdout.print("The pictures with boxes and labels:")
    for _, _, picture in found:
        stdout.print(f"  {picture.resolve()}", highlight=False)


def demo_photos() -> list[Path]:
    """The photos that the ultralytics package ships: a street with a bus, and two people.

    Raises:
        SetupError: the package has none.
    """
    spec = importlib.util.find_spec("ultralytics")
    folder = Path(spec.origin).parent / "assets" if spec and spec.origin else Path()
    photos = sorted(folder.glob("*.jpg"))
    if not photos:
        raise SetupError(
            f"the installed ultralytics package has no photos in {folder}; install it again: pip install -U ultralytics"
        )
    return photos


def _post(client: httpx.Client, photo: Path, **query: str) -> httpx.Response:
    try:
        data = photo.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {photo}: {error.strerror or error}") from error
    response = client.post("/v1/images", params=query, content=data, headers={"Content-Type": "image/*"})
    if response.is_error:
        raise SetupError(f"{photo.name} was answered with {response.status_code}: {response.text}")
    return response


def _table(found: Sequence[tuple[Path, Mapping[str, Any], Path]]) -> Table:
    table = Table("photo", "object", "confidence", "what the classifiers say", title="What was found")
    for photo, result, _ in found:
        context = result["context"]
        said: dict[int, list[str]] = {}
        for answer in context.values():
            for item in answer.get("objects", []):
                said.setdefault(item["detection"], []).append(f"{item['label']} {item['confidence']:.0%}")
        detections = [d for answer in context.values() for d in answer.get("detections", [])]
        for index, detection in enumerate(detections):
            words = ", ".join(said.get(index, []))
            table.add_row(
                photo.name if index == 0 else "", detection["class_name"], f"{detection['confidence']:.0%}", words
            )
        for step in result["steps"]:
            if step["status"] != "ok":
                table.add_row(
                    "", f"[dim]{step['name']}[/]", f"[dim]{step['status']}[/]", f"[dim]{step.get('reason', '')}[/]"
                )
        table.add_section()
    return table
