"""Images that are kept for later labelling: which, by the rule ``intake.keep_images``."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any

from classifiers import VisionError
from graph import Frame
from serve_app.config import IntakeConfig
from serve_app.images.uploads import Uploads, is_upload, upload_address
from serve_app.results import JobMarker, Objects
from serve_app.results.store import object_key

__all__ = ["KeptImages"]

_AT_A_TIME = 8
_SAMPLE = re.compile(r"sample ([\d.]+)%")

_log = logging.getLogger(__name__)


class KeptImages:
    """Stores images for later labelling. Use it from one event loop.

    Args:
        results: the store of results: of an image that belongs to a job, it has a marker by which a deletion of the job
            finds the image.
        uploads: where they are stored, each under its tenant and its hash.
        rule: ``never``, ``failed``, ``sample N%`` or ``always``. A sample is chosen by the hash of the bytes, so that
            an image is in it or not, however often it is sent.
    """

    def __init__(self, uploads: Uploads, results: Objects, rule: str) -> None:
        self._uploads = uploads
        self._results = results
        self._failed = rule != "never"
        sample = _SAMPLE.fullmatch(rule)
        share = float(sample[1]) / 100 if sample else float(rule == "always")
        self._below = round(share * 2**32)
        self._under_way: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, config: IntakeConfig, uploads: Uploads, results: Objects) -> KeptImages:
        """Those of an ``intake:`` block."""
        return cls(uploads, results, config.keep_images)

    def offer(
        self, frame: Frame, owner: str | None, result: Mapping[str, Any] | None, job_id: str | None = None
    ) -> None:
        """As :meth:`keep`, without waiting for it. An image that is offered while too many are being stored is
        dropped."""
        if self._is_chosen(frame, result) and len(self._under_way) < _AT_A_TIME:
            task = asyncio.create_task(self.keep(frame, owner, result, job_id))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def keep(
        self, frame: Frame, owner: str | None, result: Mapping[str, Any] | None, job_id: str | None = None
    ) -> None:
        """Store the image of a result, if the rule says so; ``None``: of a failure. One that the store does not take is
        dropped, with a warning in the log."""
        if not self._is_chosen(frame, result):
            return
        try:
            if job_id is not None:
                marker = JobMarker(job_id, upload_address(frame.sha256), owner=owner)
                await asyncio.to_thread(self._results.put, object_key("kept", job_id), marker.encode())
            await self._uploads.store(frame.data, frame.sha256, owner)
        except VisionError as error:
            _log.warning("an image could not be kept: %s", error)

    def _is_chosen(self, frame: Frame, result: Mapping[str, Any] | None) -> bool:
        failed = result is None or any(step["status"] in ("failed", "timed_out") for step in result["steps"])
        chosen = (failed and self._failed) or int(frame.sha256[:8], 16) < self._below
        return chosen and not (frame.uri is not None and is_upload(frame.uri))
