"""Why a request or a message is refused. Which HTTP status each gives is in :mod:`serve_app.http.problems`."""

from __future__ import annotations

from classifiers import InputError, VisionError

__all__ = [
    "FetchFailed",
    "Forbidden",
    "Gone",
    "JobsUnavailable",
    "NotFound",
    "NotReady",
    "NotSupported",
    "Quarantined",
    "TooManyRequests",
    "Unauthorized",
    "UnsupportedBody",
]


class Unauthorized(VisionError):
    """The credentials are missing or invalid."""


class Forbidden(VisionError):
    """The request is understood, and refused."""


class TooManyRequests(VisionError):
    """The rate limit of the key is exceeded (fields ``limit``, ``retry_after_s``)."""


class FetchFailed(VisionError):
    """The image could not be fetched from the address that the client gave (field ``retryable``: a retry may work)."""


class NotFound(VisionError):
    """It does not exist, or not for this client."""


class Gone(VisionError):
    """It was deleted."""


class NotSupported(VisionError):
    """This server is not set up for it, and never will be while it runs."""


class JobsUnavailable(VisionError):
    """Jobs cannot be taken or looked up now (field ``retry_after_s``)."""


class UnsupportedBody(VisionError):
    """The body has a content type that the route does not take, or is compressed."""


class NotReady(VisionError):
    """Not every step's deployment answers yet."""


class Quarantined(InputError):
    """The image has crashed a step's process and is quarantined (fields ``sha256``, ``until``)."""
