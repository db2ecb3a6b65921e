"""Where results lie: whole objects under keys, and what exactly-once needs: a write that fails where there is one."""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pyarrow.fs import FileSystem, LocalFileSystem, S3FileSystem

from classifiers import SetupError, VisionError

__all__ = ["BadResultsUri", "LocalObjects", "Objects", "S3Objects", "StoreUnavailable", "objects_from_uri"]

_THREADS = 32


class BadResultsUri(SetupError):
    """A results URI that cannot be understood, or names a bucket that is not there."""


class StoreUnavailable(VisionError):
    """The store did not answer, or not in time. The same call may work later."""


class Objects(ABC):
    """Objects under a root. Thread-safe; a reader sees an object whole or not at all.

    Every method raises :class:`StoreUnavailable` when the store does not answer.
    """

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """The object; ``None`` where there is none."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write the object, over one that is there."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless there is one: of several at once exactly one returns true."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""

    @abstractmethod
    def keys(self, prefix: str) -> Iterator[str]:
        """The keys under a prefix that ends with ``/``, in order."""

    @abstractmethod
    def filesystem(self) -> tuple[FileSystem, str]:
        """The same objects for Arrow: a file system, and the root's path in it."""


def objects_from_uri(uri: str) -> Objects:
    """``s3://bucket/prefix`` (with ``?region=…&endpoint_url=…``), ``file:///folder``, or the path of a folder.

    Raises:
        BadResultsUri: another scheme.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        options = dict(parse_qsl(parts.query))
        if unknown := sorted(set(options) - {"region", "endpoint_url"}):
            raise BadResultsUri(f"the results URI has '{unknown[0]}'; s3:// knows region and endpoint_url")
        if not parts.netloc:
            raise BadResultsUri(f"{uri} names no bucket; it looks like s3://bucket/prefix")
        return S3Objects(parts.netloc, parts.path.strip("/"), options.get("region"), options.get("endpoint_url"))
    if parts.scheme == "file":
        return LocalObjects(Path(unquote(parts.path)))
    if parts.scheme and "://" in uri:
        raise BadResultsUri(f"results cannot be kept at {parts.scheme}://; use s3://bucket/prefix or a folder's path")
    return LocalObjects(Path(uri))


class LocalObjects(Objects):
    """Files in a folder: written aside, then linked or renamed to their names."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def get(self, key: str) -> bytes | None:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(error) from error

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            self._aside(path, data).rename(path)
        except OSError as error:
            raise self._unavailable(error) from error

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:
            if path.exists():
                return False
            aside = self._aside(path, data)
            try:
                path.hardlink_to(aside)  # fails where the name is taken, unlike a rename
            except FileExistsError:
                return False
            finally:
                aside.unlink()
            return True
        except OSError as error:
            raise self._unavailable(error) from error

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error

    def keys(self, prefix: str) -> Iterator[str]:
        found = (path for path in (self._root / prefix).rglob("*") if path.is_file() and not path.name.startswith("."))
        yield from sorted(path.relative_to(self._root).as_posix() for path in found)

    def filesystem(self) -> tuple[FileSystem, str]:
        return LocalFileSystem(), str(self._root)

    def _path(self, key: str) -> Path:
        return self._root / key

    def _aside(self, path: Path, data: bytes) -> Path:
        aside = path.with_name(f".{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):
            self._write(aside, data)
            return aside
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(aside, data)
        return aside

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"the results folder {self._root} cannot be used: {error.strerror or error}")


class S3Objects(Objects):
    """Objects of a bucket under a prefix. The server must know conditional writes (``If-None-Match``), as S3 does."""

    def __init__(
        self, bucket: str, prefix: str = "", region: str | None = None, endpoint_url: str | None = None
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._region = region
        self._endpoint_url = endpoint_url
        self._client: Any = None

    def get(self, key: str) -> bytes | None:
        data: bytes | None = self._call("get_object", Key=key, _missing=(404,), _read=True)
        return data

    def put(self, key: str, data: bytes) -> None:
        self._call("put_object", Key=key, Body=data)

    def create(self, key: str, data: bytes) -> bool:
        # 412: there is one. 409: two at once, and the other may have failed: once more tells.
        for _ in range(3):
            answer = self._call("put_object", Key=key, Body=data, IfNoneMatch="*", _missing=(409, 412))
            if answer is not None:
                return True
            if (there := self.get(key)) is not None:
                # our own write, where the client repeated a request whose answer was lost
                return there == data
        raise StoreUnavailable(f"s3://{self._bucket}: {key} can neither be written nor read")

    def delete(self, key: str) -> None:
        self._call("delete_object", Key=key)

    def keys(self, prefix: str) -> Iterator[str]:
        token: dict[str, Any] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=prefix, **token)
            yield from (item["Key"][len(self._prefix) :] for item in page.get("Contents", []))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def filesystem(self) -> tuple[FileSystem, str]:
        options: dict[str, Any] = {"region": self._region}
        if self._endpoint_url is not None:
            parts = urlsplit(self._endpoint_url)
            options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        return S3FileSystem(**options), f"{self._bucket}/{self._prefix}".rstrip("/")

    def _call(self, operation: str, _missing: tuple[int, ...] = (), _read: bool = False, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        for name in ("Key", "Prefix"):
            if name in arguments:
                arguments[name] = self._prefix + arguments[name]
        try:
            if self._client is None:
                self._client = self._connect()
            answer = getattr(self._client, operation)(Bucket=self._bucket, **arguments)
            return answer["Body"].read() if _read else answer
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "NoSuchBucket":
                raise BadResultsUri(f"there is no bucket '{self._bucket}' for the results; create it") from error
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _missing:
                return None
            raise StoreUnavailable(f"s3://{self._bucket} cannot be used: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(f"s3://{self._bucket} cannot be used: {error}") from error

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            max_pool_connections=_THREADS,
            connect_timeout=5,
            read_timeout=15,
            retries={"mode": "standard", "max_attempts": 3},
        )
        session = boto3.session.Session()
        return session.client("s3", region_name=self._region, endpoint_url=self._endpoint_url, config=config)
