"""Checks API keys against the key file, which is read again when it has changed."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from classifiers import SetupError
from serve_app.access.key_file import ApiKey, matches, read_keys, unreadable
from serve_app.access.principal import Principal
from serve_app.refusals import NotReady, Unauthorized

__all__ = ["ApiKeys"]

_log = logging.getLogger(__name__)

# A revoked key must be refused within 10 s, on a network file system too, whose clients cache a file's attributes for a
# few seconds.
_LOOK_AGAIN_S = 2.0

# A file that cannot be read might revoke keys: those read last are valid for so long.
_STALE_AFTER_S = 60.0

_NO_HASH = "0" * 64


class ApiKeys:
    """The keys of one file.

    Raises:
        SetupError: the file cannot be read, or is no key file.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._version = _version(self._path)
        self._keys = _by_id(self._path)
        self._read_at = self._looked_at = time.monotonic()
        self._broken = False
        self._looking = asyncio.Lock()

    async def check(self, credential: str) -> Principal:
        """Identify the client by its key.

        Raises:
            Unauthorized: the key is unknown, revoked or expired.
            NotReady: the file could not be read for a minute.
        """
        if time.monotonic() - self._looked_at > _LOOK_AGAIN_S:
            async with self._looking:
                if time.monotonic() - self._looked_at > _LOOK_AGAIN_S:  # no other request has looked meanwhile
                    await asyncio.to_thread(self._read_if_changed)
                    self._looked_at = time.monotonic()
        if time.monotonic() - self._read_at > _STALE_AFTER_S:
            raise NotReady("keys cannot be checked now; try again", retry_after_s=5)
        key = self._keys.get(credential.partition(".")[0])
        # An unknown id takes the same time as a wrong secret.
        same = matches(credential, key.sha256 if key is not None else _NO_HASH)
        if key is None or not same or not key.is_good(datetime.now(UTC)):
            raise Unauthorized("invalid API key: unknown, revoked or expired; ask the operator for another")
        return Principal(key.id, key.tenant, frozenset(key.scopes))

    def _read_if_changed(self) -> None:
        try:
            version = _version(self._path)
            if version != self._version:
                self._keys = _by_id(self._path)
                self._version = version
            self._read_at = time.monotonic()
            if self._broken:
                self._broken = False
                _log.warning("the key file %s can be read again", self._path)
        except (OSError, SetupError) as error:
            if not self._broken:
                self._broken = True
                _log.error("%s; the keys read last stay valid for %.0f s", error, _STALE_AFTER_S)


def _by_id(path: Path) -> Mapping[str, ApiKey]:
    return {key.id: key for key in read_keys(path).keys}


def _version(path: Path) -> tuple[int, ...]:
    """Changes with the file. Opening it makes a network file system ask the server, which stat may not."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
    except OSError as error:
        raise unreadable(path, error) from error
    return found.st_ino, found.st_mtime_ns, found.st_size
