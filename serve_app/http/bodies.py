"""Gets the image out of a request, in whichever of the three forms it comes."""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from graph.metadata import MAX_METADATA_BYTES, checked_metadata, parse_metadata
from serve_app.http.problems import Malformed, UnsupportedBody

__all__ = ["BODY_OVERHEAD_BYTES", "OPENAPI_BODY", "ImageBody", "Upload", "read_upload"]

BODY_OVERHEAD_BYTES = MAX_METADATA_BYTES + 4096
"""What a body may have beside the image: the metadata, and the lines of the form."""

# Larger JSON is read in a thread, so that the event loop goes on meanwhile.
_QUICK_BYTES = 64 * 1024

# The value of the key that holds the image. Possessive: a value without an end is given up at once.
_BASE64 = re.compile(rb'"base64"\s*+:\s*+"((?:[^"\\]++|\\.)*+)"', re.DOTALL)


class ImageBody(BaseModel):
    """The JSON form: the image itself in base64, or where it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base64: str | None = Field(None, description="The encoded image's bytes in base64")
    uri: str | None = Field(None, max_length=2048, description="Where the image is: https://... or s3://...")
    metadata: dict[str, Any] | None = Field(None, description="Rules see it as image['metadata']")

    @model_validator(mode="after")
    def _one_source(self) -> ImageBody:
        if (self.base64 is None) == (self.uri is None):
            raise ValueError("give either 'base64' or 'uri'")
        return self


@dataclass(frozen=True, slots=True)
class Upload:
    """An image as it was sent: its bytes, or where it is."""

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


async def read_upload(request: Request) -> Upload:
    """Read the body of ``POST /v1/images``.

    Raises:
        UnsupportedBody: another content type than the three.
        Malformed: JSON, base64 or a form that is not what the route takes.
        TooManyBytes, Overloaded: the body is over the limit, or there is no room for it.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind.startswith("image/"):
        return Upload(await request.body())
    if kind == "multipart/form-data":
        return await _form(request)
    if kind == "application/json":
        raw = await request.body()
        return _json(raw) if len(raw) <= _QUICK_BYTES else await run_in_threadpool(_json, raw)
    came = f"'{kind[:80]}'" if kind else "none"
    raise UnsupportedBody(
        f"the Content-Type is {came}; send the image's bytes as image/jpeg (or image/png, image/webp, ...), a form as "
        "multipart/form-data with the field 'image', or application/json with 'base64' or 'uri'"
    )


async def _form(request: Request) -> Upload:
    try:
        async with request.form(max_files=1, max_fields=1, max_part_size=MAX_METADATA_BYTES) as form:
            image, metadata = form.get("image"), form.get("metadata")
            if not isinstance(image, UploadFile):
                raise Malformed("the form has no file field 'image'; curl: -F image=@photo.jpg")
            said = parse_metadata(metadata, "the form field 'metadata'") if isinstance(metadata, str) else {}
            return Upload(await image.read(), metadata=said)
    except HTTPException as error:  # what Starlette makes of a broken form
        raise Malformed(f"the form cannot be read: {error.detail}") from error


def _json(raw: bytes) -> Upload:
    raw, image, mark = _cut_out(raw)
    try:
        body = ImageBody.model_validate_json(raw)
    except ValidationError as error:
        raise Malformed(f"the JSON body is not {{'base64': ..., 'metadata': {{...}}}}: {_found(error)}") from error
    metadata = checked_metadata(body.metadata)
    if body.uri is not None:
        return Upload(uri=body.uri, metadata=metadata)
    if mark is None:
        image = (body.base64 or "").encode(errors="replace")
    elif body.base64 != mark:
        raise Malformed(_TOO_MUCH)
    try:
        return Upload(base64.b64decode(image, validate=True), metadata=metadata)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"'base64' is not base64: {error}") from error


_TOO_MUCH = f"the JSON body has more than {BODY_OVERHEAD_BYTES:,} bytes beside the image in 'base64'"


def _cut_out(raw: bytes) -> tuple[bytes, bytes, str | None]:
    """Take the image out of a large body before it is parsed: objects made from 40 MB of JSON can take 1 GB.

    Returns:
        The body with a mark in the image's place, the image in base64, and the mark; ``None``: the body is small.
    """
    if len(raw) <= BODY_OVERHEAD_BYTES:
        return raw, b"", None
    found = max(_BASE64.finditer(raw), key=lambda match: len(match[1]), default=None)
    if found is None or len(raw) - len(found[1]) > BODY_OVERHEAD_BYTES:
        raise Malformed(_TOO_MUCH)
    mark = uuid.uuid4().hex
    image = found[1]
    if b"\\" in image:  # some encoders write / as \/
        try:
            image = str(json.loads(b'"' + image + b'"')).encode(errors="replace")
        except ValueError as error:
            raise Malformed(f"'base64' is not a JSON string: {error}") from error
    return raw[: found.start(1)] + mark.encode() + raw[found.end(1) :], image, mark


def _found(error: ValidationError) -> str:
    mistakes = error.errors(include_url=False, include_input=False)
    return "; ".join(
        ".".join(str(part)[:80] for part in mistake["loc"]) + (": " if mistake["loc"] else "") + mistake["msg"]
        for mistake in mistakes[:5]
    )
