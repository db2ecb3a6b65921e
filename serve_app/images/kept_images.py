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
from serve_app.images.uploads import Uploads, is_upload

__all__ = ["KeptImages"]

_AT_A_TIME = 8
_SAMPLE = re.compile(r"sample ([\d.]+)%")

_log = logging.getLogger(__name__)


class KeptImages:
    """Stores images beside the work, without delaying it. Use it from one event loop.

    Args:
        uploads: where they are stored, each under its tenant and its hash.
        rule: ``never``, ``failed``, ``sample N%`` or ``always``. A sample is chosen by the hash of the bytes, so that
            an image is in it or not, however often it is sent.
    """

    def __init__(self, uploads: Uploads, rule: str) -> None:
        self._uploads = uploads
        self._failed = rule != "never"
        sample = _SAMPLE.fullmatch(rule)
        share = float(sample[1]) / 100 if sample else float(rule == "always")
        self._below = round(share * 2**32)
        self._under_way: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, config: IntakeConfig, uploads: Uploads) -> KeptImages:
        """Those of an ``intake:`` block."""
        return cls(uploads, config.keep_images)

    def offer(self, frame: Frame, owner: str | None, result: Mapping[str, Any] | None) -> None:
        """Store the image of a result, if the rule says so; ``None``: of a failure.

        An image that is offered while too many are being stored is dropped, as one that the store does not take.
        """
        failed = result is None or any(step["status"] in ("failed", "timed_out") for step in result["steps"])
        chosen = (failed and self._failed) or int(frame.sha256[:8], 16) < self._below
        if not chosen or (frame.uri is not None and is_upload(frame.uri)) or len(self._under_way) >= _AT_A_TIME:
            return
        task = asyncio.create_task(self._store(frame, owner))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _store(self, frame: Frame, owner: str | None) -> None:
        try:
            await self._uploads.store(frame.data, frame.sha256, owner)
        except VisionError as error:
            _log.warning("an image could not be kept: %s", error)
