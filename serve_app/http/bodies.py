"""Gets the image out of a request, in whichever of the three forms it comes."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from serve_app.http.problems import Forbidden, Malformed, UnsupportedBody

__all__ = ["OPENAPI_BODY", "ImageBody", "Upload", "read_upload"]


class ImageBody(BaseModel):
    """The JSON form: the image itself in base64, or where it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base64: str | None = Field(None, description="The encoded image's bytes in base64")
    uri: str | None = Field(None, description="Where the image is: https://... or s3://...")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Rules see it as image['metadata']")

    @model_validator(mode="after")
    def _one_source(self) -> ImageBody:
        if (self.base64 is None) == (self.uri is None):
            raise ValueError("give either 'base64' or 'uri'")
        return self


@dataclass(frozen=True, slots=True)
class Upload:
    """An image as it was sent."""

    data: bytes
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
        Forbidden: a ``uri``.
        TooManyBytes: the body is over the limit.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind.startswith("image/"):
        return Upload(await request.body())
    if kind == "multipart/form-data":
        return await _form(request)
    if kind == "application/json":
        return await _json(request)
    came = f"'{kind}'" if kind else "none"
    raise UnsupportedBody(
        f"the Content-Type is {came}; send the image's bytes as image/jpeg (or image/png, image/webp, ...), a form as "
        "multipart/form-data with the field 'image', or application/json with 'base64' or 'uri'"
    )


async def _form(request: Request) -> Upload:
    try:
        async with request.form(max_files=1, max_fields=1) as form:
            image, metadata = form.get("image"), form.get("metadata")
            if not isinstance(image, UploadFile):
                raise Malformed("the form has no file field 'image'; curl: -F image=@photo.jpg")
            return Upload(await image.read(), _metadata(metadata if isinstance(metadata, str) else "{}"))
    except HTTPException as error:  # what Starlette makes of a broken form
        raise Malformed(f"the form cannot be read: {error.detail}") from error


def _metadata(text: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the form field 'metadata' is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise Malformed("the form field 'metadata' must be a JSON object")
    return metadata


async def _json(request: Request) -> Upload:
    raw = await request.body()
    try:
        body = await run_in_threadpool(ImageBody.model_validate_json, raw)
    except ValidationError as error:
        found = "; ".join(".".join(str(p) for p in e["loc"]) + (": " if e["loc"] else "") + e["msg"] for e in error.errors())
        raise Malformed(f"the JSON body is not {{'base64': ..., 'metadata': {{...}}}}: {found}") from error
    if body.base64 is None:
        raise Forbidden("images by 'uri' are not fetched here; send the image's bytes")
    try:
        return Upload(base64.b64decode(body.base64, validate=True), body.metadata)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"'base64' is not base64: {error}") from error
