"""The English name of a colour, as degrees of membership in the eleven basic colour terms of Berlin and Kay.

After the parametric model of Benavente, Vanrell and Baldrich, "Parametric fuzzy sets for automatic color naming", J.
Opt. Soc. Am. A 25(10), 2008, which was fitted to what observers called samples of known colour: CIELAB is cut into six
layers of lightness, and each layer into sectors of hue around a grey core. Some things differ, because that model names
samples under a lamp, and this one names cloth in photographs. The numbers were fitted to labelled crops of persons:

- Lightness is raised by a fifth. Photographs leave headroom for highlights, so that white cloth lies near L* 65 to 80.
- Black begins at a higher lightness (the paper has 28), because black cloth in daylight is dark grey.
- Red begins nearer to pink (the paper has hues of 14 to 27 degrees for all but the darkest layers), and blue 10 degrees
  further from green.
- The grey core is twice as wide (the paper has 6 to 7.5 units of chroma), and wider still for light, yellowish colours:
  what is called a white shirt is often cream, and lamps are warm.
- Colours more vivid than the paper's samples have one layer of their own: from red to yellow, and from blue to pink, it
  is cut halfway between the focal colours of the XKCD colour survey (https://xkcd.com/color/rgb/, CC0).
- Pale orange is brown (tan), unless it is light as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["COLOUR_NAMES", "name_memberships", "skin_likeness"]

COLOUR_NAMES = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")

Floats = npt.NDArray[np.float64]
_Sectors = Sequence[tuple[float, str]]

# Hue in CIELAB degrees where each name begins, going round; the last one ends where the first begins.
_LAYERS: tuple[_Sectors, ...] = (
    ((-2.2, "red"), (33.4, "brown"), (104.6, "green"), (234.3, "blue"), (302.8, "purple")),
    ((-15.7, "pink"), (2.2, "red"), (41.2, "brown"), (96.9, "green"), (220.2, "blue"), (301.5, "purple")),
    (
        *((-22.6, "pink"), (9.0, "red"), (44.5, "orange"), (61.2, "brown")),
        *((96.7, "green"), (209.1, "blue"), (301.8, "purple")),
    ),
    (
        *((-33.9, "pink"), (10.0, "red"), (39.0, "orange"), (80.1, "yellow")),
        *((95.7, "green"), (208.0, "blue"), (301.2, "purple")),
    ),
    ((-32.5, "pink"), (20.0, "orange"), (74.2, "yellow"), (102.3, "green"), (198.3, "blue"), (299.2, "purple")),
    ((-32.4, "pink"), (20.0, "orange"), (72.4, "yellow"), (106.0, "green"), (199.7, "blue"), (300.6, "purple")),
)
_LAYER_TOPS = (31.0, 42.0, 51.0, 66.0, 76.0)
_VIVID: _Sectors = (
    *((-25.5, "pink"), (14.5, "red"), (48.0, "orange"), (79.5, "yellow")),
    *((106.0, "green"), (204.7, "blue"), (309.5, "purple")),
)
_VIVID_CHROMA = 62.0

_BRIGHTER = 1.22
# of the raised lightness
_BLACK_BELOW = 38.0
_WHITE_ABOVE = 79.0

_GREY_CORE = 12.0
_CREAM_CORE = 13.0
_CREAM_HUE, _CREAM_HUE_SPREAD = 90.0, 30.0
_PALE_CHROMA = 45.0

# The skin of different ethnic groups differs little in hue (Xiao et al., Skin Research and Technology 23(1), 2017); the
# spreads are for the light that photographs are taken in.
_SKIN_HUE, _SKIN_HUE_SPREAD = 55.0, 22.5
_SKIN_CHROMA, _SKIN_CHROMA_SPREAD = 24.0, 17.0
_SKIN_ABOVE = 18.0


def name_memberships(rgb: npt.NDArray[np.uint8]) -> Floats:
    """How much each colour is called by each name.

    Args:
        rgb: (N, 3) sRGB.

    Returns:
        (N, 11), in the order of ``COLOUR_NAMES``; each row sums to 1.
    """
    lightness, chroma, hue = _lightness_chroma_hue(rgb)
    lightness = lightness * _BRIGHTER
    colourful = _rise(chroma - _grey_core(lightness, hue), 2.5)
    white, black = _rise(lightness - _WHITE_ABOVE, 3.5), _rise(_BLACK_BELOW - lightness, 2.5)
    memberships = _hue_memberships(lightness, chroma, hue) * colourful[:, np.newaxis]
    greys = np.stack([black, white * (1 - black), (1 - white) * (1 - black)], axis=1)
    memberships[:, :3] += greys * (1 - colourful)[:, np.newaxis]
    return memberships


def skin_likeness(rgb: npt.NDArray[np.uint8]) -> Floats:
    """How much each of (N, 3) sRGB colours looks like human skin: (N,), 0..1."""
    lightness, chroma, hue = _lightness_chroma_hue(rgb)
    distance = ((hue - _SKIN_HUE) / _SKIN_HUE_SPREAD) ** 2 + ((chroma - _SKIN_CHROMA) / _SKIN_CHROMA_SPREAD) ** 2
    return np.exp(-(distance**2)) * _rise(lightness - _SKIN_ABOVE, 4.0)


def _lightness_chroma_hue(rgb: npt.NDArray[np.uint8]) -> tuple[Floats, Floats, Floats]:
    """CIELAB (D65) as L* 0..100, chroma, and hue in degrees, -180..180."""
    lab = cv2.cvtColor(rgb.reshape(-1, 1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lightness, a, b = lab.reshape(-1, 3).astype(np.float64).T
    return lightness, np.hypot(a, b), np.degrees(np.arctan2(b, a))


def _grey_core(lightness: Floats, hue: Floats) -> Floats:
    """The chroma below which a colour has no hue worth naming."""
    yellowish = np.exp(-(((hue - _CREAM_HUE) / _CREAM_HUE_SPREAD) ** 2) / 2)
    light = np.clip((lightness - 75) / 25, 0, 1)
    return _GREY_CORE + _CREAM_CORE * yellowish * light


def _hue_memberships(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    """(N, 11), as if all colours had a hue."""
    memberships = np.zeros((len(hue), len(COLOUR_NAMES)))
    above = np.ones_like(lightness)
    for sectors, top in zip(_LAYERS, (*_LAYER_TOPS, np.inf), strict=True):
        passes = _rise(lightness - top, 2.0)
        memberships += _sector_memberships(hue, sectors) * (above * (1 - passes))[:, np.newaxis]
        above = above * passes
    orange, brown = COLOUR_NAMES.index("orange"), COLOUR_NAMES.index("brown")
    tan = memberships[:, orange] * _rise(_PALE_CHROMA - chroma, 4.0) * _rise(_LAYER_TOPS[-1] - lightness, 4.0)
    memberships[:, brown] += tan
    memberships[:, orange] -= tan
    vivid = _rise(chroma - _VIVID_CHROMA, 6.0)[:, np.newaxis]
    return memberships * (1 - vivid) + _sector_memberships(hue, _VIVID) * vivid


def _sector_memberships(hue: Floats, sectors: _Sectors) -> Floats:
    memberships = np.zeros((len(hue), len(COLOUR_NAMES)))
    for (start, name), (end, _) in zip(sectors, (*sectors[1:], sectors[0]), strict=True):
        width = (end - start) % 360
        # Degrees past the start, counted from the middle of the gap outside the sector so that both sides are near.
        gap = (360 - width) / 2
        past = (hue - start + gap) % 360 - gap
        memberships[:, COLOUR_NAMES.index(name)] = _rise(past, 5.0) * _rise(width - past, 5.0)
    memberships /= memberships.sum(axis=1, keepdims=True)
    return memberships


def _rise(distance: Floats, softness: float) -> Floats:
    """From 0 to 1 as ``distance`` passes 0: the logistic function."""
    return np.asarray(1 / (1 + np.exp(-np.clip(distance / softness, -40, 40))))
