"""The page at ``/``, its script and its style, and the photos that it offers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from classifiers import SetupError
from classifiers.weights import cache_folder
from serve_app.photos import demo_photos
from serve_app.refusals import NotFound

__all__ = ["router"]

_FOLDER = Path(__file__).parent / "page"
_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

# Nothing of another host, no inline script or style, and no frame around the page.
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def get_page() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/page/offer")
async def get_offer(request: Request) -> JSONResponse:
    """What the page can offer here: the names of the example photos, and whether there is a queue for many images."""
    return JSONResponse({"examples": list(_examples()), "jobs": request.app.state.desk is not None})


@router.get("/page/examples/{name}")
async def get_example(name: str) -> Response:
    """One of them."""
    photo = _examples().get(name)
    if photo is None:
        raise NotFound("there is no such example")
    return Response(photo.read_bytes(), media_type="image/jpeg", headers=dict(_HEADERS))


@router.get("/page/{name}")
async def get_file(name: str) -> Response:
    """A file of the page."""
    if name not in _TYPES:
        raise NotFound("there is no such file")
    return _file(name)


def _file(name: str) -> Response:
    return Response((_FOLDER / name).read_bytes(), media_type=_TYPES[name], headers=dict(_HEADERS))


@cache
def _examples() -> dict[str, Path]:
    """The demo's photos that are on this machine, by their names."""
    try:
        photos = demo_photos()
    except SetupError:  # the package without its photos
        photos = []
    photos += sorted((cache_folder() / "photos").glob("*.jpg"))
    return {photo.name: photo for photo in photos}
