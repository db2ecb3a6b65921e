"""Forms that are written otherwise than browsers do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from fastapi.concurrency import run_in_threadpool

__all__ = ["as_browsers_write"]

# More are refused by the parser; this bounds how many are made here.
_MAX_PARTS = 200


async def as_browsers_write(stream: AsyncIterator[bytes], boundary: bytes) -> AsyncGenerator[bytes, None]:
    """The bytes of a form without text before the first boundary, and with CR LF at the ends of lines.

    RFC 2046 (section 5.1.1) allows that text. Mail libraries write it, and end lines in LF alone.
    """
    opening, begun = b"--" + boundary, bytearray()
    async for chunk in stream:
        begun += chunk
        if begun.startswith(opening + b"\r\n"):
            yield bytes(begun)
            async for rest in stream:
                yield rest
            return
    yield await run_in_threadpool(_rewritten, bytes(begun), opening)


def _rewritten(body: bytes, opening: bytes) -> bytes:
    if not body.startswith(opening):
        body = body[body.find(b"\n" + opening) + 1 :]
    if not body.startswith(opening + b"\n"):
        return body
    parts = [_with_crlf(part) for part in body.removeprefix(opening).split(b"\n" + opening, _MAX_PARTS)]
    return opening + (b"\r\n" + opening).join(parts)


def _with_crlf(part: bytes) -> bytes:
    if part.startswith(b"--"):  # the last boundary
        return b"--\r\n"
    headers, _, content = part.partition(b"\n\n")
    return headers.replace(b"\n", b"\r\n") + b"\r\n\r\n" + content
