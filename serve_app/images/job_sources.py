"""The sources of images for jobs, and who may use which."""

from __future__ import annotations

from typing import Any

from classifiers import InputError
from classifiers.imaging import ImageLimits
from graph import Frame
from serve_app.config import FetchConfig, SourcesConfig
from serve_app.images.fetching import Fetcher
from serve_app.images.frames import read_frame
from serve_app.images.kept_places import KeptPlaces
from serve_app.images.uploads import Uploads, is_upload
from serve_app.refusals import FetchFailed, Forbidden

__all__ = ["Sources", "is_final"]

_NO_KEY = {"key_id": "*", "tenant": "*"}  # only rows for everyone apply


class Sources:
    """Fetches the images of jobs. Use it from one event loop.

    A ``policy`` holds ``key_id`` and ``tenant`` of the key that sent the job; ``None`` is for messages without a key.

    Args:
        own: what is fetched for messages without a key.
        clients: what the gateway fetches for its keys.
        concurrent: images that are fetched at a time.
        uploads: images that clients have handed over; without them none can be named.
        kept: what is not fetched, see :class:`serve_app.images.fetching.Fetcher`.
    """

    def __init__(
        self,
        own: SourcesConfig,
        clients: FetchConfig,
        limits: ImageLimits,
        concurrent: int,
        uploads: Uploads | None = None,
        kept: KeptPlaces | None = None,
    ) -> None:
        self._limits = limits
        self._uploads = uploads
        at_a_time = {"concurrent": concurrent}
        max_bytes = limits.max_bytes
        self._own = Fetcher(own.model_copy(update=at_a_time), max_bytes, files=own.files, kept=kept, keep_alive=True)
        self._clients = Fetcher(clients.model_copy(update=at_a_time), max_bytes, kept=kept, keep_alive=True)

    def check(self, uri: str, policy: dict[str, Any] | None) -> None:
        """Check whether an address may be fetched, as far as possible without a request.

        Raises:
            Forbidden: it may not.
        """
        if self._uploads is not None and is_upload(uri):
            self._uploads.check(uri)
        else:
            self._fetcher(policy).check(uri, **(policy or _NO_KEY))

    async def frame(self, uri: str, policy: dict[str, Any] | None, version: str | None = None) -> Frame:
        """Fetch an image and read its header; ``version``: of an object in a bucket, the newest by default.

        Raises:
            Forbidden: it may not be fetched.
            FetchFailed: it does not answer, or not with the image.
            InputError: it is not an image, or over the limits.
        """
        if self._uploads is not None and is_upload(uri):
            data = await self._uploads.read(uri, None if policy is None else policy["tenant"])
        else:
            data = await self._fetcher(policy).fetch(uri, **(policy or _NO_KEY), version=version)
        return await read_frame(data, self._limits, uri)

    def _fetcher(self, policy: dict[str, Any] | None) -> Fetcher:
        return self._own if policy is None else self._clients


def is_final(error: BaseException) -> bool:
    """Whether the job would fail in the same way again: its address or its image is at fault."""
    if isinstance(error, FetchFailed):
        return not error.fields.get("retryable", False)
    return isinstance(error, InputError | Forbidden)
