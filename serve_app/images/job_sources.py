"""Where workers get images from, and who may have what."""

from __future__ import annotations

from typing import Any

from classifiers import InputError, VisionError
from classifiers.imaging import ImageLimits
from graph import Frame
from serve_app.config import FetchConfig, SourcesConfig
from serve_app.images.fetching import Fetcher
from serve_app.images.frames import read_frame
from serve_app.images.local_files import FileImages
from serve_app.refusals import FetchFailed, Forbidden
from serve_app.uris import scheme_of

__all__ = ["Sources", "is_final"]

_NOBODY = "*"  # a row that counts for everybody


class Sources:
    """Fetches the images of jobs. Use it from one event loop.

    Args:
        own: what is fetched for messages that no key answers for.
        clients: what the gateway fetches for its keys.
        limits: of one image.
        concurrent: images that are fetched at a time.
    """

    def __init__(self, own: SourcesConfig, clients: FetchConfig, limits: ImageLimits, concurrent: int) -> None:
        self._limits = limits
        max_bytes = limits.max_bytes
        room = {"concurrent": concurrent}
        self._own = Fetcher(own.model_copy(update=room), max_bytes, keep_alive=True)
        self._clients = Fetcher(clients.model_copy(update=room), max_bytes, keep_alive=True)
        self._files = FileImages(own.files, max_bytes)

    def check(self, uri: str, policy: dict[str, Any] | None) -> None:
        """Tell whether an address may be fetched, as far as that can be told without asking anybody.

        Args:
            uri: the address.
            policy: ``key_id`` and ``tenant`` of the key whose job it is; ``None``: no key answers for it.

        Raises:
            Forbidden: it may not.
        """
        if policy is not None:
            self._clients.check(uri, policy["key_id"], policy["tenant"])
        elif scheme_of(uri) == "file":
            self._files.check(uri)
        else:
            self._own.check(uri, _NOBODY, _NOBODY)

    async def frame(self, uri: str, policy: dict[str, Any] | None, version: str | None = None) -> Frame:
        """Fetch an image and read its header; see :meth:`check` for ``policy``.

        Args:
            uri: the address.
            policy: of the key whose job it is.
            version: of an object in a bucket; ``None``: the newest.

        Raises:
            Forbidden: it may not be fetched.
            FetchFailed: it does not answer, or not with the image.
            InputError: it is no image, or over the limits.
        """
        if policy is not None:
            data = await self._clients.fetch(uri, policy["key_id"], policy["tenant"], version)
        elif scheme_of(uri) == "file":
            data = await self._files.read(uri)
        else:
            data = await self._own.fetch(uri, _NOBODY, _NOBODY, version)
        return await read_frame(data, self._limits, uri)


def is_final(error: BaseException) -> bool:
    """Whether the same job would fail in the same way again: its address or its image is at fault."""
    if isinstance(error, FetchFailed):
        return not error.fields.get("retryable", False)
    return isinstance(error, InputError | Forbidden) and isinstance(error, VisionError)
