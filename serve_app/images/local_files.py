"""Reads images from folders on this machine, for a queue on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from classifiers import TooManyBytes
from serve_app.refusals import FetchFailed, Forbidden
from serve_app.uris import path_of_file_uri

__all__ = ["FileImages"]


class FileImages:
    """Files at ``file://`` addresses.

    Args:
        folders: absolute paths of the folders that they may lie in.
    """

    def __init__(self, folders: Sequence[str], max_bytes: int) -> None:
        self._folders = [Path(folder).resolve() for folder in folders]
        self._max_bytes = max_bytes

    def check(self, uri: str, key_id: str = "*", tenant: str = "*") -> Path:  # noqa: ARG002 - the same for everyone
        """The file, links followed.

        Raises:
            Forbidden: it is in none of the folders.
        """
        path = path_of_file_uri(uri)
        if path is None:
            raise Forbidden("the address is not a file on this machine; write file:///absolute/path.jpg")
        try:
            file = path.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise Forbidden("the address is not a file on this machine") from error
        if not any(file.is_relative_to(folder) for folder in self._folders):
            raise Forbidden("the file is in none of the folders that images are read from")
        return file

    async def read(self, uri: str, version: str | None = None) -> bytes:  # noqa: ARG002 - files have no versions
        """Read a file.

        Raises:
            Forbidden: it is in none of the folders.
            FetchFailed: it cannot be read.
            TooManyBytes: it is over the limit.
        """
        return await asyncio.to_thread(self._read, uri)

    def _read(self, uri: str) -> bytes:
        path = self.check(uri)
        try:
            if not path.is_file():  # opening a pipe would wait for its writer
                raise FetchFailed("there is no such file")
            with path.open("rb") as file:
                data = file.read(self._max_bytes + 1)
        except OSError as error:
            raise FetchFailed(f"the file cannot be read: {error.strerror}") from error
        if len(data) > self._max_bytes:
            raise TooManyBytes(f"the image has more than {self._max_bytes:,} bytes", limit=self._max_bytes)
        return data
