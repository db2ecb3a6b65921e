"""The demo: serves a pipeline on this machine, posts real photos over HTTP, and shows what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from classifiers import SetupError
from graph import load_plan
from serve_app.cli.arguments import stderr, stdout
from serve_app.cli.phases import phases
from serve_app.deployments import OPEN_GATEWAY
from serve_app.deployments.fitting import Machine, fit_to
from serve_app.local import serving
from serve_app.photos import demo_photos, fetch_car_photos

__all__ = ["Found", "run_demo", "show"]

_TIMEOUT_S = 60.0
_SURE = 0.5
"""Below this confidence the next best labels are shown too."""
_ALTERNATIVES = 2


class Found(NamedTuple):
    """A photo, its result, and the path of the picture with boxes and labels."""

    photo: Path
    result: Mapping[str, Any]
    picture: Path


def run_demo(pipeline: str, photos: Sequence[Path], out: Path, *, port: int) -> None:
    """Serve, post, show, shut down. Without ``photos``: a street, two people and, where they can be downloaded, two
    cars.

    Raises:
        SetupError: the pipeline or its models are missing, or a port is taken.
    """
    packaged = photos or demo_photos()  # before anything starts
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with phases(stderr) as begin:
            begin("checking the pipeline")
            fitted = fit_to(Machine.this(), load_plan(pipeline), OPEN_GATEWAY)
            server = stack.enter_context(
                serving(fitted.plan, gateway=fitted.gateway, port=port, dashboard_port=None, report=begin)
            )
        stderr.print(f"  it answers at {server.http_url}", highlight=False)
        # only once the pipeline and its models are known to work
        photos = photos or [*packaged, *_car_photos(stderr)]
        with phases(stderr) as begin:
            begin("posting the photos")
            found = list(_posted(server.http_url, photos, out))
            begin("stopping")
            stack.close()
    show(found, stdout)


def show(found: Sequence[Found], console: Console) -> None:
    """A table of what was found, and where the pictures are."""
    table = Table("photo", "object", "confidence", "labels", title="What was found")
    for photo, result, _ in found:
        for number, cells in enumerate(_rows(result)):
            table.add_row(escape(photo.name) if number == 0 else "", *cells)
        table.add_section()
    console.print(table)
    console.print("The pictures with boxes and labels:")
    for one in found:
        console.print(f"  {escape(str(one.picture.resolve()))}", highlight=False, soft_wrap=True)


def _car_photos(console: Console) -> list[Path]:
    try:
        return fetch_car_photos()
    except SetupError as error:
        console.print(f"[yellow]No photo of a car, so no make will be named:[/] {escape(str(error))}", soft_wrap=True)
        console.print("or try photos of your own: visiongraph demo --photo FILE", soft_wrap=True)
        return []


def _posted(url: str, photos: Sequence[Path], out: Path) -> Iterator[Found]:
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S) as client:
        for number, photo in enumerate(photos, 1):
            result = _post(client, photo).json()
            picture = out / f"{number}-{photo.stem}.jpg"
            picture.write_bytes(_post(client, photo, annotate="true").content)
            yield Found(photo, result, picture)


def _post(client: httpx.Client, photo: Path, **query: str) -> httpx.Response:
    try:
        data = photo.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {photo}: {error.strerror or error}") from error
    response = client.post("/v1/images", params=query, content=data, headers={"Content-Type": "image/*"})
    if response.is_error:
        raise SetupError(f"{photo.name} was answered with {response.status_code}: {response.text}")
    return response


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """One row per detection with its labels, then one per step that is not ok."""
    context = result["context"]
    labels: dict[int, list[str]] = {}
    for answer in context.values():
        for item in answer.get("objects", []):
            labels.setdefault(item["detection"], []).append(_label(item))
    for index, detection in enumerate(d for answer in context.values() for d in answer.get("detections", [])):
        found = escape("; ".join(labels.get(index, [])))
        yield escape(detection["class_name"]), f"{detection['confidence']:.0%}", found
    for step in result["steps"]:
        if step["status"] != "ok":
            why = step.get("reason") or step.get("error", {}).get("detail", "")
            name, status, why = (f"[dim]{escape(text)}[/]" for text in (step["name"], step["status"], why))
            yield name, status, why


def _label(item: Mapping[str, Any]) -> str:
    """The result of a step for an object, in short."""
    if "label" not in item:
        return ", ".join(f"{key} {value}" for key, value in item.items() if key != "detection")
    if "reason" in item:
        return f"{item['label']}: {item['reason']}"
    best, *others = (f"{one['label']} {one['confidence']:.0%}" for one in item.get("labels") or [item])
    if item["confidence"] >= _SURE or not others:
        return best
    return f"{best}, or {', '.join(others[:_ALTERNATIVES])}"
