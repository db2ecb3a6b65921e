"""Addresses without the secrets in them, for results, messages and logs."""

from __future__ import annotations

import re

__all__ = ["without_secrets"]

_PASSWORD = re.compile(r"(?<=://)([^\s/?#:@]*):[^\s/?#]*@")
# Signatures of presigned addresses (S3, Google Cloud Storage, Azure), tokens, and the passwords of cameras.
_IN_QUERY = re.compile(
    r"([?&;](?:(?:x-(?:amz|goog)-)?signature|x-amz-security-token|sig|(?:\w*[_-])?token|(?:\w*[_-])?secret"
    r"|api[_-]?key|pass|passwd|password|pwd|loginpas)=)[^&;#\s'\"]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """The text with ``***`` for each password, signature and token in the web addresses in it.

    With them, anybody who reads a result or a log could fetch the image.
    """
    if "://" not in text:
        return text
    text = _PASSWORD.sub(r"\1:***@", text)
    return _IN_QUERY.sub(r"\1***", text) if "http" in text.lower() else text  # a key in a bucket may hold a ?
