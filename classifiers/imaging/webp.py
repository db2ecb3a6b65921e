"""The chunks of a WebP file (RFC 9649)."""

from __future__ import annotations

__all__ = ["whole_webp"]

_RIFF_BYTES = 12  # RIFF, length, WEBP
_CHUNK_BYTES = 8  # kind and length

_PIXELS = {b"VP8 ", b"VP8L", b"ANMF"}

# Each is a step in Python.
_MAX_CHUNKS = 10_000


def whole_webp(data: bytes) -> bytes:
    """A file that ends before it should, without what is cut off at its end, which the decoder would refuse as a whole.

    Metadata and further frames come last, and a file that lacks some of them has all pixels of its first frame.

    Raises:
        ValueError: it has not.
    """
    if len(data) >= 8 + int.from_bytes(data[4:8], "little"):
        return data
    end, has_pixels = _RIFF_BYTES, False
    for _ in range(_MAX_CHUNKS):
        next_end = end + _CHUNK_BYTES + int.from_bytes(data[end + 4 : end + 8], "little")
        if end + _CHUNK_BYTES > len(data) or next_end > len(data):
            break
        has_pixels = has_pixels or data[end : end + 4] in _PIXELS
        end = next_end + next_end % 2  # the last byte of padding may be missing
    if not has_pixels:
        raise ValueError("it is cut off within its pixels")
    body = data[8:end].ljust(end - 8, b"\0")
    return data[:4] + len(body).to_bytes(4, "little") + body
