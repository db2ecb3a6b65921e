"""Everything that this project raises on purpose.

The class says whose fault it is; what status an error has over HTTP is decided in one table in ``serve_app``::

    VisionError
    ├── InputError            the image is at fault; never retried
    │   ├── TooManyBytes      more bytes than the limit
    │   ├── UnsupportedImage  not a type that is served
    │   ├── TooManyPixels     more pixels or frames than the limit, as the header says
    │   └── BadImage          damaged, truncated, or not an image
    └── SetupError            the operator's: what was configured cannot work
        └── ModelNotFound     a model is not where it was said to be
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
    """Root of the errors that this project raises on purpose. ``str(error)`` is one message for a person, without the
    passwords in the addresses in it.

    Attributes:
        fields: machine-readable facts beside the message, for example ``{"limit": 33554432}``.
    """

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(without_secrets(message))
        self.fields = fields


class InputError(VisionError):
    """The image that was sent is at fault."""


class TooManyBytes(InputError):
    """The encoded image has more bytes than the limit (field ``limit``)."""


class UnsupportedImage(InputError):
    """The bytes are an image, or claim to be one, of a type that is not served."""


class TooManyPixels(InputError):
    """The header announces more pixels or frames than the limit (field ``limit``)."""


class BadImage(InputError):
    """The bytes cannot be decoded: damaged, truncated, or not an image."""


class SetupError(VisionError):
    """What the operator configured cannot work."""


class ModelNotFound(SetupError):
    """A model is not where it was said to be; the message says what is missing and how to get it."""
