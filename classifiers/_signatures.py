"""What kind of file the first bytes announce. Nothing is decoded here."""

from __future__ import annotations

__all__ = ["served_format", "unserved_format"]

_SERVED: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)

_UNSERVED: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\1\0", "Windows icon"),
    (b"\0\0\2\0", "Windows cursor"),
    (b"icns", "Apple icon"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"DDS ", "DirectDraw Surface"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"FLIF", "FLIF"),
    (b"gimp xcf", "GIMP"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    *((b"P%d%c" % (kind, space), "Netpbm") for kind in range(1, 8) for space in b"\n\r\t "),
)

# The brand after "ftyp" in the ISO base media file format (ISO/IEC 14496-12); any other brand is a film.
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

_SVG_SEARCH_BYTES = 4096


def served_format(data: bytes) -> str | None:
    """``"JPEG"``, ``"PNG"``, ``"WEBP"``, ``"GIF"``, ``"BMP"``, ``"TIFF"``, or ``None`` for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _SERVED if data.startswith(magic)), None)


def unserved_format(data: bytes) -> str | None:
    """The name, for people, of a known type of image or film that is not served; ``None`` if it is none of those."""
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in _HEIF_BRANDS:
            return "HEIC"
        return "AVIF" if brand in _AVIF_BRANDS else "MP4 or QuickTime video"
    for magic, name in _UNSERVED:
        if data.startswith(magic):
            return name
    return "SVG" if _is_svg(data[:_SVG_SEARCH_BYTES]) else None


def _is_svg(start: bytes) -> bool:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    # A web page with a drawing in it is no drawing.
    return text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text
