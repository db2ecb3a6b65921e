"""The errors of this project.

The class says whose fault it is; its HTTP status is in one table in ``serve_app``::

    VisionError
    ├── InputError            the image is at fault; never retried
    │   ├── TooManyBytes      more bytes than the limit
    │   ├── UnsupportedImage  not a supported type
    │   ├── TooManyPixels     more pixels or frames than the limit, as the header says
    │   └── BadImage          damaged, truncated, or not an image
    └── SetupError            the operator is at fault: the configuration cannot work
        └── ModelNotFound     a model is not where it was configured to be
"""

from __future__ import annotations

from classifiers.redaction import without_secrets

__all__ = [
    "BadImage",
    "InputError",
    "ModelNotFound",
    "SetupError",
    "TooManyBytes",
    "TooManyPixels",
    "UnsupportedImage",
    "VisionError",
]


class VisionError(Exception):
    """Root of the errors of this project. ``str(error)`` is a message for people; passwords in addresses are removed.

    Attributes:
        fields: machine-readable details, for example ``{"limit": 33554432}``.
    """

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(without_secrets(message))
        self.fields = fields


class InputError(VisionError):
    """The image that was sent is at fault."""


class TooManyBytes(InputError):
    """The encoded image has more bytes than the limit (field ``limit``)."""


class UnsupportedImage(InputError):
    """The bytes are, or claim to be, an image of a type that is not supported."""


class TooManyPixels(InputError):
    """The header declares more pixels or frames than the limit (field ``limit``)."""


class BadImage(InputError):
    """The bytes cannot be decoded: damaged, truncated, or not an image."""


class SetupError(VisionError):
    """The configuration cannot work."""


class ModelNotFound(SetupError):
    """A model is not where it was configured to be; the message says what is missing and how to get it."""
