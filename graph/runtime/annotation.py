"""Draws a result into its image: the box or shape of each detection, and the labels of all steps."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Mapping
from typing import Any, TypeAlias

import PIL.Image
from PIL import ImageDraw, ImageFont

from graph.engine import Frame

__all__ = ["annotate"]

Box: TypeAlias = tuple[float, float, float, float]
Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_JPEG_QUALITY = 90
_MAX_LABEL_LENGTH = 200
_LEAST_KEYPOINT_CONFIDENCE = 0.5
_DARK = (40, 40, 40)
_MAX_ROWS = 60
_MAX_PLACED = 400


def annotate(frame: Frame, result: Mapping[str, Any]) -> bytes:
    """Draw boxes, masks, keypoints and labels. A box with ``corners`` is drawn by them.

    Args:
        frame: the image that the result is about.
        result: as the engine returns it.

    Returns:
        A JPEG of the image's upright size. Steps that looked at the whole image are written into the top left corner.

    Raises:
        InputError: the image cannot be decoded.
    """
    picture = PIL.Image.fromarray(frame.pixels())
    draw = ImageDraw.Draw(picture)
    side = min(picture.size)
    size = max(11, round(side / 42))
    font = ImageFont.load_default(size)
    line = max(2, round(side / 250))
    remarks = [f"{name}: {_words(answer)}" for name, answer in result["context"].items() if "label" in answer]
    labels: list[tuple[Box, str, Colour]] = [((0, 0, 0, 0), remark, _DARK) for remark in remarks]
    for detections, captions in _captioned(result["context"]):
        for detection, words in zip(detections, captions, strict=True):
            colour = _colour(detection["class_name"])
            box = _box(detection["bbox"], picture.size)
            _outline(draw, detection, box, colour, line)
            labels.append((box, " · ".join(words), colour))
    taken: list[Box] = []
    for box, text, colour in labels:  # after all boxes, so that no line crosses a label
        taken.append(_label(draw, box, text, font, colour, taken))
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=_JPEG_QUALITY)
    return jpeg.getvalue()


def _outline(draw: ImageDraw.ImageDraw, detection: Mapping[str, Any], box: Box, colour: Colour, line: int) -> None:
    corners = detection.get("corners")
    if not corners:
        draw.rectangle(box, outline=colour, width=line)
    for polygon in (*([corners] if corners else []), *detection.get("mask", ())):
        draw.polygon([tuple(point) for point in polygon], outline=colour, width=line)
    for x, y, *confidence in detection.get("keypoints", ()):
        if not confidence or confidence[0] >= _LEAST_KEYPOINT_CONFIDENCE:
            radius = 1.5 * line
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _captioned(context: Mapping[str, Any]) -> list[tuple[list[dict[str, Any]], list[list[str]]]]:
    """For each detector its detections, and the caption of each."""
    detectors = [answer["detections"] for answer in context.values() if "detections" in answer]
    captions = [[[f"{d['class_name']} {_percent(d)}".strip()] for d in detections] for detections in detectors]
    if len(detectors) == 1:  # with several, an index alone is ambiguous
        for answer in context.values():
            for found in answer.get("objects", []):
                captions[0][found["detection"]].append(_words(found))
    return list(zip(detectors, captions, strict=True))


def _words(answer: Mapping[str, Any]) -> str:
    if "label" in answer:
        return f"{answer['label']} {_percent(answer)}".strip()
    return ", ".join(
        f"{key} {value}" for key, value in answer.items() if key != "detection" and not isinstance(value, list | dict)
    )


def _percent(answer: Mapping[str, Any]) -> str:
    confidence = answer.get("confidence")
    return "" if confidence is None or "reason" in answer else f"{confidence:.0%}"


def _box(bbox: list[float], size: tuple[int, int]) -> Box:
    """The box inside the image, with its corners in the order that drawing needs."""
    x1, x2 = sorted(min(max(x, 0), size[0] - 1) for x in (bbox[0], bbox[2]))
    y1, y2 = sorted(min(max(y, 0), size[1] - 1) for y in (bbox[1], bbox[3]))
    return x1, y1, x2, y2


def _colour(class_name: str) -> Colour:
    """The same colour for the same class, in every image and process."""
    hue = sum(index * ord(letter) for index, letter in enumerate(class_name, 7)) * 0.618 % 1
    red, green, blue = colorsys.hls_to_rgb(hue, 0.42, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _label(draw: ImageDraw.ImageDraw, box: Box, text: str, font: Font, colour: Colour, taken: list[Box]) -> Box:
    """Text on the box's colour, in a place that covers no other label and is inside the picture."""
    text = text[:_MAX_LABEL_LENGTH]
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    place = _place(box, (right - left + 6, bottom - top + 6), draw.im.size, taken)
    draw.rectangle(place, fill=colour)
    draw.text((place[0] + 3 - left, place[1] + 3 - top), text, fill=_text_colour(colour), font=font)
    return place


def _place(box: Box, size: tuple[float, float], picture: tuple[int, int], taken: list[Box]) -> Box:
    """Above the box, inside it at its top or bottom, below it, or in the nearest free row; above it where none is."""
    width, height = size
    x = max(0, min(box[0], picture[0] - width))
    pitch = height + 1
    rows = [box[1] - height, box[1], box[3] - height, box[3]]
    rows += [box[1] - height + way * row * pitch for row in range(1, _MAX_ROWS) for way in (1, -1)]
    near = [other for other in taken[:_MAX_PLACED] if other[0] <= x + width and x <= other[2]]
    for y in rows:
        if 0 <= y <= picture[1] - height and all(y > other[3] or y + height < other[1] for other in near):
            return x, y, x + width, y + height
    y = max(0, rows[0])
    return x, y, x + width, y + height


def _text_colour(colour: Colour) -> str:
    """White, or black where that is easier to read (by the luminance of WCAG)."""
    red, green, blue = ((part / 255) ** 2.2 for part in colour)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"
