"""The type of a file by its first bytes, and the kinds of types that are not supported. Nothing is decoded here."""

from __future__ import annotations

from PIL.TiffImagePlugin import COMPRESSION_INFO

from classifiers.imaging.tiff_tags import TiffTag, tiff_numbers

__all__ = ["served_format", "tiff_kind", "unserved_format", "unserved_kind"]

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
    (b"\0\0\2\0\0", "Targa"),
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
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_ANY_HEIF_BRANDS = frozenset({b"mif1", b"msf1"})  # which one it is, the compatible brands say

_SVG_SEARCH_BYTES = 4096


def served_format(data: bytes) -> str | None:
    """``"JPEG"``, ``"PNG"``, ``"WEBP"``, ``"GIF"``, ``"BMP"``, ``"TIFF"``, or ``None`` for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _SERVED if data.startswith(magic)), None)


def unserved_format(data: bytes) -> str | None:
    """The display name of a known image or film type that is not supported; ``None`` for others."""
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in _AVIF_BRANDS or (brand in _ANY_HEIF_BRANDS and b"avif" in data[16 : data[3]]):
            return "AVIF"
        if brand in _HEIF_BRANDS or brand in _ANY_HEIF_BRANDS:
            return "HEIC"
        return "Canon raw (CR3)" if brand == b"crx " else "MP4 or QuickTime video"
    for magic, name in _UNSERVED:
        if data.startswith(magic):
            return name
    return "SVG" if _is_svg(data[:_SVG_SEARCH_BYTES]) else None


def _is_svg(start: bytes) -> bool:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    # A web page with a drawing in it is no drawing.
    return text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text


_BMP_COMPRESSIONS = {4: "a JPEG in it", 5: "a PNG in it", 11: "CMYK", 12: "CMYK", 13: "CMYK"}

_UNCOMPRESSED = 1
_TIFF_COMPRESSIONS = {34661: "JBIG", 34712: "JPEG 2000", 34887: "LERC", 50001: "WebP", 50002: "JPEG XL"}
_TIFF_NUMBERS = {
    1: "integers",
    2: "signed integers",
    3: "floating-point numbers",
    5: "complex integers",
    6: "complex numbers",
}
_WHITE_IS_ZERO = 0
_SEPARATE_PLANES = 2
_REDUCED = 1  # a smaller version of another image
_UNSIGNED = 1
_LAST_COMMON_PHOTOMETRIC = 3


def unserved_kind(image_format: str, data: bytes) -> str | None:
    """The display name of a kind of a supported type that Pillow would decode wrongly; ``None`` for others."""
    if image_format == "PNG" and data[12:16] == b"CgBI":
        return "PNG optimized for iPhones (CgBI)"
    if image_format == "BMP" and int.from_bytes(data[14:18], "little") >= 40:
        name = _BMP_COMPRESSIONS.get(int.from_bytes(data[30:34], "little"))
        return f"BMP with {name}" if name else None
    return tiff_kind(data, only_misread=True) if image_format == "TIFF" else None


def tiff_kind(data: bytes, only_misread: bool = False) -> str | None:
    """What the samples of a TIFF are, for people; ``None`` where its tags cannot be read.

    Args:
        data: the file.
        only_misread: ``None`` too for those that Pillow reads rightly or refuses.
    """
    tags = tiff_numbers(
        data,
        TiffTag.NEW_SUBFILE_TYPE,
        TiffTag.SUB_DIRECTORIES,
        TiffTag.BITS_PER_SAMPLE,
        TiffTag.COMPRESSION,
        TiffTag.PHOTOMETRIC,
        TiffTag.PLANAR_CONFIGURATION,
        TiffTag.SAMPLE_FORMAT,
    )
    bits = tags.get(TiffTag.BITS_PER_SAMPLE)
    compression = tags.get(TiffTag.COMPRESSION, (_UNCOMPRESSED,))[0]
    if data[8:10] == b"CR" or (tags.get(TiffTag.NEW_SUBFILE_TYPE) == (_REDUCED,) and tags.get(TiffTag.SUB_DIRECTORIES)):
        return "raw photo of a camera, which has only a preview as its first image,"
    if compression in _TIFF_COMPRESSIONS:
        return f"TIFF compressed with {_TIFF_COMPRESSIONS[compression]}"
    if not bits:
        return None
    inverted = tags.get(TiffTag.PHOTOMETRIC) == (_WHITE_IS_ZERO,)
    separate = len(bits) > 1 and tags.get(TiffTag.PLANAR_CONFIGURATION) == (_SEPARATE_PLANES,)
    sample_format = tags.get(TiffTag.SAMPLE_FORMAT, (_UNSIGNED,))[0]
    misread = (
        bits[0] == 12
        or (bits[0] == 8 and sample_format != _UNSIGNED)
        or (bits[0] > 8 and (inverted or (separate and compression == _UNCOMPRESSED)))
    )
    if only_misread and not misread:
        return None
    numbers = _TIFF_NUMBERS.get(sample_format, "undefined numbers")
    planes = " in separate planes" if separate else " where 0 is white" if inverted else ""
    count = f"{len(bits)} x " if len(bits) > 1 else ""
    colours = tags.get(TiffTag.PHOTOMETRIC, (_WHITE_IS_ZERO,))[0]
    numbers += "" if colours <= _LAST_COMMON_PHOTOMETRIC else f" of photometric kind {colours}"
    numbers += "" if compression in COMPRESSION_INFO else f" compressed by scheme {compression}"
    return f"TIFF with {count}{bits[0]}-bit {numbers}{planes}"
