"""What all JSON bodies have in common: content type, encoding, and the wording of errors."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import Request
from pydantic import ValidationError, model_validator

from classifiers.suggestions import nearest
from classifiers.validation import Closed, sentence
from serve_app.http.problems import Malformed

__all__ = ["PIECE_BYTES", "JsonBody", "charset_of", "content_type", "is_json", "mistakes_in", "utf8"]

PIECE_BYTES = 192 * 1024
"""Bytes of a large body that one call of a C function converts: about a millisecond, in which the event loop waits."""


class JsonBody(Closed):
    """An object that a client sends. Keys that are ``null`` are ignored, also those that only other routes have."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def content_type(request: Request) -> str:
    """The type without its parameters, in lower case; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def charset_of(header: str) -> str:
    """The parameter ``charset`` of a content type; empty where there is none."""
    found = _CHARSET.search(header)
    return found[1].lower() if found else ""


_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)


def is_json(kind: str) -> bool:
    """Whether a content type is JSON. Not ``text/plain``: web pages may send it to any server."""
    return kind in ("application/json", "application/x-json", "text/json") or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def utf8(raw: bytes, charset: str = "") -> bytes:
    """Return JSON in UTF-8 without a byte order mark. UTF-16 and UTF-32 are detected, others named by ``charset``.

    Raises:
        Malformed: it is in none of them.
    """
    encoding: str = json.detect_encoding(raw)
    if encoding == "utf-8" and charset in _SINGLE_BYTES and not _is_utf8(raw):
        encoding = charset
    if encoding == "utf-8":
        return raw
    if encoding == "utf-8-sig":
        return raw[len(codecs.BOM_UTF8) :]
    try:
        return b"".join(text.encode() for text in codecs.iterdecode(_pieces(raw), encoding))
    except UnicodeError as error:
        raise Malformed(f"the JSON is neither UTF-8 nor {encoding.upper()}") from error


# JSON is UTF-8, whatever the parameter says, but clients send these encodings too
_SINGLE_BYTES = ("iso-8859-1", "latin1", "iso-8859-15", "windows-1252", "cp1252")


def _is_utf8(raw: bytes) -> bool:
    try:
        for _ in codecs.iterdecode(_pieces(raw), "utf-8"):
            pass
    except UnicodeError:
        return False
    return True


def mistakes_in(error: ValidationError, keys: Iterable[str]) -> str:
    """The message for the first errors; ``keys``: those that an object may have."""
    return "; ".join(_message(mistake, list(keys)) for mistake in error.errors(include_url=False)[:5])


def _message(mistake: Any, keys: list[str]) -> str:
    where = ".".join(str(part)[:80] for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        return f"there is no key '{where}'; {_fix(str(mistake['loc'][-1]), mistake['input'], keys)}"
    message = sentence(mistake, values=False)
    return f"{where}: {message}" if where else message


def _fix(key: str, value: object, keys: list[str]) -> str:
    """The suggestion for a key: by its name in other case, by its value, or by a similar name."""
    by_value = None
    if isinstance(value, str):
        by_value = "uri" if "://" in value[:20] else "base64"
    elif isinstance(value, dict):
        by_value = "metadata"
    meant = key.lower() if key.lower() in keys else by_value if by_value in keys else nearest(key, keys)
    return f"did you mean '{meant}'?" if meant else f"there are {', '.join(keys)}"


def _pieces(raw: bytes) -> Iterator[bytes]:
    return (raw[at : at + PIECE_BYTES] for at in range(0, len(raw), PIECE_BYTES))
