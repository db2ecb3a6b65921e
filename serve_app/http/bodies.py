"""Reads the image in a request: its bytes, a form, or JSON."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, ValidationError, model_validator
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from classifiers.imaging import served_format
from graph.engine import MAX_METADATA_TEXT_BYTES, checked_metadata, parse_metadata
from serve_app.http.base64_text import decode_base64
from serve_app.http.form_bytes import as_browsers_write
from serve_app.http.json_bodies import JsonBody, charset_of, content_type, is_json, mistakes_in, utf8
from serve_app.http.problems import Malformed
from serve_app.refusals import UnsupportedBody

__all__ = [
    "BODY_OVERHEAD_BYTES",
    "MAX_IMAGES",
    "OPENAPI_BODY",
    "OPENAPI_IMAGES",
    "ImageBody",
    "Upload",
    "read_images",
    "read_upload",
]

BODY_OVERHEAD_BYTES = MAX_METADATA_TEXT_BYTES + 4096
"""Bytes that a body may have besides the image: the metadata, and the lines of the form."""

MAX_IMAGES = 100
"""Files that a form with jobs may have."""

# larger JSON is read in a thread
_QUICK_BYTES = 64 * 1024

# forms may have other fields, too; these limits bound the work
_MAX_FILES = 16
_MAX_FIELDS = 100
_MAX_FIELD_BYTES = 2**20

_URL_ENCODED = "application/x-www-form-urlencoded"

# content types that say nothing; the last is the default of curl --data-binary
_ANYTHING = ("", "application/octet-stream", "binary/octet-stream", _URL_ENCODED)

# the beginnings of bodies that are not images and have such a content type
_LOOKS_LIKE = (
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]"), "JSON"),
    (re.compile(rb"--[^\r\n]{1,70}\r?\nContent-Disposition:", re.IGNORECASE), "a form in multipart/form-data"),
    (re.compile(rb"[\w.%\[\]-]{1,80}="), f"a form in {_URL_ENCODED}"),
)

# A key whose value is a string. Possessive quantifiers: no backtracking.
_STRING_BEGINS = re.compile(rb'"([^"\\]{1,80}+)"\s*+:\s*+"')
_STRING_ENDS = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)


class ImageBody(JsonBody):
    """The JSON form: the image itself in base64, or its address."""

    base64: str | None = Field(None, description="The encoded image's bytes in base64, or a data: URI")
    uri: str | None = Field(None, max_length=2048, description="Where the image is: https://... or s3://...")
    metadata: dict[str, Any] | None = Field(None, description="Rules see it as image['metadata']")

    @model_validator(mode="after")
    def _one_source(self) -> ImageBody:
        if (self.base64 is None) == (self.uri is None):
            raise ValueError("give either 'base64' or 'uri'")
        return self


@dataclass(frozen=True, slots=True)
class Upload:
    """An image as it was sent: its bytes, or its address."""

    data: bytes = b""
    uri: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


OPENAPI_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "metadata": {"type": "string", "description": "A JSON object; rules see it as image['metadata']"},
                },
            }
        },
        "application/json": {"schema": ImageBody.model_json_schema()},
    },
}


OPENAPI_IMAGES: dict[str, Any] = {
    "image/*": {"schema": {"type": "string", "format": "binary"}},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {
                "image": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_IMAGES,
                    "items": {"type": "string", "format": "binary"},
                },
                "metadata": {"type": "string", "description": "A JSON object, the metadata of all of them"},
            },
        }
    },
}
"""Bodies of jobs that hold images."""


async def read_images(request: Request) -> list[Upload]:
    """Read the body of ``POST /v1/jobs`` where it holds images: one, or a form with up to ``MAX_IMAGES`` files.

    Raises:
        UnsupportedBody: it is neither an image nor a form; or it is compressed.
        Malformed: an invalid form.
        TooManyBytes, SlowBody, Overloaded: it is over the limit, arrives too slowly, or there is no room for it.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        async with _parsed_form(request, MAX_IMAGES) as (form, metadata):
            files = [file for _, file in _files(form)]
            if not files:
                raise Malformed(_NO_FILE)
            return [Upload(await _content(file), metadata=metadata) for file in files]
    raw = await request.body()
    if served_format(raw) is None and not _may_be_image(kind, raw):
        raise _unsupported(kind, raw, 'application/json with {"uri": ...} or a list of these')
    return [Upload(raw)]


async def read_upload(request: Request) -> Upload:
    """Read the body of ``POST /v1/images``. The first bytes of an image take precedence over its content type.

    Raises:
        UnsupportedBody: it is not an image and has none of the content types; or it is compressed.
        Malformed: invalid JSON, base64 or form.
        TooManyBytes, SlowBody, Overloaded: it is over the limit, arrives too slowly, or there is no room for it.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        return await _form(request)
    raw = await request.body()
    if served_format(raw) is not None:
        return Upload(raw)
    if is_json(kind):
        charset = charset_of(request.headers["content-type"])
        quick = len(raw) <= _QUICK_BYTES
        return _json(raw, charset) if quick else await run_in_threadpool(_json, raw, charset)
    if _may_be_image(kind, raw):
        return Upload(raw)  # opening the image reports what it is instead
    raise _unsupported(kind, raw, "application/json with 'base64' or 'uri'")


def _looks_like(raw: bytes) -> str | None:
    return next((what for pattern, what in _LOOKS_LIKE if pattern.match(raw)), None)


def _may_be_image(kind: str, raw: bytes) -> bool:
    return kind.startswith("image/") or (bool(raw) and kind in _ANYTHING and _looks_like(raw) is None)


def _unsupported(kind: str, raw: bytes, json_form: str) -> UnsupportedBody:
    came, looks_like = f"'{kind[:80]}'" if kind else "none", _looks_like(raw)
    return UnsupportedBody(
        f"the Content-Type is {came}; send the image's bytes as image/jpeg (or image/png, image/webp, ...), a form as "
        f"multipart/form-data with the field 'image', or {json_form}"
        + (f"; this body looks like {looks_like}" if looks_like else "")
    )


class _FormParser(MultiPartParser):
    """Treats a part as a file also when its name is written in another way, or missing where it is an image.

    And always the metadata: the parser reads text that is not UTF-8 as Latin-1, whatever it is.
    """

    is_whole = False

    def on_headers_finished(self) -> None:
        """Called by the parser after the headers of a part."""
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        kinds = [value for name, value in part.item_headers if name == b"content-type"]
        if b"filename" not in options and (
            options.get(b"name") in (b"image", b"metadata")
            or _OTHER_NAME.search(part.content_disposition or b"")
            or any(kind.lower().startswith(b"image/") for kind in kinds)
        ):
            part.content_disposition = (part.content_disposition or b"") + b'; filename="image"'
            part.item_headers.append((_IS_TEXT, b""))
        super().on_headers_finished()

    def on_end(self) -> None:
        """Called by the parser after the last boundary."""
        self.is_whole = True


_OTHER_NAME = re.compile(rb";\s*filename\*", re.IGNORECASE)  # Python's requests, for names that are not ASCII
_IS_TEXT = b"x-was-text"


@asynccontextmanager
async def _parsed_form(request: Request, max_files: int) -> AsyncIterator[tuple[FormData, dict[str, Any]]]:
    """The form of a request, and the metadata in it; files are closed when the block ends."""
    header = request.headers["content-type"]
    boundary = parse_options_header(header)[1].get(b"boundary", b"")
    parser = _FormParser(
        request.headers,
        as_browsers_write(request.stream(), boundary),
        max_files=max_files,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        hint = "" if boundary else _NO_BOUNDARY
        raise Malformed(f"the form cannot be read: {error.message}{hint}") from error
    try:
        if not parser.is_whole:  # the fields after the cut would be missing
            raise Malformed("the form is cut off: its last boundary is missing")
        yield form, await _metadata(form, charset_of(header))
    finally:
        await form.close()


async def _form(request: Request) -> Upload:
    async with _parsed_form(request, _MAX_FILES) as (form, metadata):
        return Upload(await _content(_image(form)), metadata=metadata)


async def _content(image: UploadFile) -> bytes:
    """The bytes of an image in a form, also where it is written as text."""
    data = await image.read()
    if image.headers.get("content-transfer-encoding", "").strip().lower() == "base64":
        data = await run_in_threadpool(decode_base64, data)
    elif _was_text(image) and served_format(data) is None:
        try:
            data = await run_in_threadpool(decode_base64, data)
        except Malformed as error:
            raise Malformed(f"{_NO_FILE}; the text in it is not base64") from error
        if served_format(data) is None:
            raise Malformed(_NO_FILE)
    return data


_NO_FILE = "the form has no file field 'image'; curl: -F image=@photo.jpg"
_NO_BOUNDARY = "; leave the header Content-Type to the client library, which adds the boundary"


def _files(form: FormData) -> list[tuple[str, UploadFile]]:
    """The files of a form, each with its field's name; an empty file input does not count."""
    files = [(name, file) for name, file in form.multi_items() if isinstance(file, UploadFile) and name != "metadata"]
    files = [(name, file) for name, file in files if file.size or file.filename] or files
    return [(name, file) for name, file in files if not _was_text(file)] or files


def _image(form: FormData) -> UploadFile:
    """The file in the field 'image', or the only file."""
    files = _files(form)
    named = [file for name, file in files if name == "image"] or [file for _, file in files]
    if len(named) == 1:
        return named[0]
    if named:
        names = ", ".join(f"'{name[:80]}'" for name, _ in files)
        raise Malformed(f"the form has {len(files)} files ({names}); send one, in the field 'image'")
    raise Malformed(_NO_FILE)


def _was_text(file: UploadFile) -> bool:
    return _IS_TEXT.decode() in file.headers


async def _metadata(form: FormData, charset: str) -> dict[str, Any]:
    """The field 'metadata', as a string or as a file, as browsers send a Blob; ``charset``: of the form, a field may
    have its own."""
    fields = form.getlist("metadata")
    if len(fields) > 1:
        raise Malformed("the form has the field 'metadata' more than once")
    if not fields:
        return {}
    if not isinstance(fields[0], UploadFile):  # the parser makes files of all of them
        raise TypeError(fields[0])
    raw = await fields[0].read(MAX_METADATA_TEXT_BYTES + 1)
    raw = utf8(raw, charset_of(fields[0].headers.get("content-type", "")) or charset).strip()
    return parse_metadata(raw, "the form field 'metadata'") if raw not in (b"", b"null") else {}


def _json(raw: bytes, charset: str = "") -> Upload:
    raw, cut = _cut_out(utf8(raw, charset))
    try:
        body = ImageBody.model_validate_json(raw)
    except ValidationError as error:
        found = mistakes_in(error, ImageBody.model_fields)
        raise Malformed(f"the JSON body is not {{'base64': ..., 'metadata': {{...}}}}: {found}") from error
    metadata = checked_metadata(body.metadata or {})
    if body.uri is not None:
        return Upload(uri=body.uri, metadata=metadata)
    text = body.base64 or ""
    if cut is None:
        return Upload(decode_base64(text.encode(errors="replace")), metadata=metadata)
    if text != cut.mark:
        raise Malformed(_TOO_MUCH)
    return Upload(decode_base64(cut.raw, cut.start, cut.end, in_json=True), metadata=metadata)


_TOO_MUCH = f"the JSON body has more than {BODY_OVERHEAD_BYTES:,} bytes beside the image in 'base64'"


@dataclass(frozen=True, slots=True)
class _Cut:
    """The place of the image in a body, and the mark that replaces it."""

    raw: bytes
    start: int
    end: int
    mark: str


def _cut_out(raw: bytes) -> tuple[bytes, _Cut | None]:
    """Cut the image out of a large body before it is parsed: objects made from 40 MB of JSON can take 1 GB.

    Returns:
        The body with a mark in the image's place, and the place; ``None``: the body is small.
    """
    if len(raw) <= BODY_OVERHEAD_BYTES:
        return raw, None
    key, start, end, position = b"", 0, 0, 0
    while begins := _STRING_BEGINS.search(raw, position, position + BODY_OVERHEAD_BYTES):
        position = _end_of_string(raw, begins.end())
        if position - begins.end() > end - start:
            key, start, end = begins[1], begins.end(), position
        if position - (end - start) > BODY_OVERHEAD_BYTES:
            break
        position += 1
    if end - start > BODY_OVERHEAD_BYTES and key != b"base64":
        raise Malformed(f"{_TOO_MUCH}; is '{key.decode(errors='replace')}' the image? its key is 'base64'")
    if len(raw) - (end - start) > BODY_OVERHEAD_BYTES:
        raise Malformed(_TOO_MUCH)
    mark = uuid.uuid4().hex
    return raw[:start] + mark.encode() + raw[end:], _Cut(raw, start, end, mark)


def _end_of_string(raw: bytes, start: int) -> int:
    end = raw.find(b'"', start)
    if raw[end - 1 : end] == b"\\":  # an escaped quote: this is not the image, so it must be short
        ends = _STRING_ENDS.match(raw, start, start + BODY_OVERHEAD_BYTES)
        end = -1 if ends is None else ends.end() - 1
    if end < 0:
        raise Malformed(f"the JSON body has a string without an end, or {_TOO_MUCH}")
    return end
