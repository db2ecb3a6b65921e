"""Object stores for results: whole objects under keys, and the conditional writes that exactly-once needs."""

from __future__ import annotations

import errno
import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.store import ObjectStore

from classifiers import SetupError, TooManyBytes, VisionError
from serve_app.buckets import BucketUnavailable, gcs_bucket, is_missing_bucket, s3_bucket
from serve_app.presigning import PresignedPut, presigned_gcs_put, presigned_s3_put

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = [
    "BadResultsUri",
    "BucketObjects",
    "LocalObjects",
    "ObjectInfo",
    "Objects",
    "StoreUnavailable",
    "objects_from_uri",
    "uri_below",
]

# names of files that are being written
_ASIDE = re.compile(r"\.[0-9a-f]{32}")

# the options of a URI, by scheme
_OPTIONS = {"s3": ("region", "endpoint_url"), "gs": ("endpoint_url",)}


class BadResultsUri(SetupError):
    """A results URI that is invalid, or names a bucket that does not exist."""


class StoreUnavailable(VisionError):
    """The store did not answer, or not in time. The same call may work later."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object in a listing: its size in bytes, and when it was last written."""

    key: str
    size: int
    modified: datetime


class Objects(ABC):
    """Objects under a root. Thread-safe; a reader sees an object whole or not at all.

    Every method raises :class:`StoreUnavailable` when the store does not answer.
    """

    @abstractmethod
    def get(self, key: str, max_bytes: int | None = None) -> bytes | None:
        """The object; ``None`` where there is none.

        Raises:
            TooManyBytes: it has more than ``max_bytes``, and was not read.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write the object, replacing an existing one."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless there is one: of several concurrent calls exactly one returns true."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the object, if there is one."""

    @abstractmethod
    def info(self, key: str) -> ObjectInfo | None:
        """What a listing says about one object; ``None`` where there is none."""

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects under a prefix that ends with ``/``, in the order of their keys."""

    def unfinished(self, prefix: str) -> Iterator[ObjectInfo]:  # noqa: ARG002
        """What writers that were killed have left under a prefix, and what others are writing there now.

        A ``*`` in the prefix stands for any folder.
        """
        return iter(())

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """What the keys under a prefix have up to the next ``/``, each with it."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys of :meth:`entries`."""
        return (item.key for item in self.entries(prefix))

    @abstractmethod
    def presigned_put(self, key: str, content_type: str, size: int, valid_for: timedelta) -> PresignedPut | None:
        """A request by which anybody may ``PUT`` the object for a while, with this type and size; ``None`` where the
        store cannot sign requests."""

    @abstractmethod
    def filesystem(self) -> tuple[FileSystem, str]:
        """The same objects for Arrow: a file system, and the root's path in it."""


def objects_from_uri(uri: str) -> Objects:
    """``s3://bucket/prefix`` (with ``?region=…&endpoint_url=…``), ``gs://bucket/prefix`` (with ``?endpoint_url=…`` for
    an emulator), ``file:///folder``, or the path of a folder.

    Raises:
        BadResultsUri: another scheme, or no address at all.
    """
    if not uri:
        raise BadResultsUri("the address for results is empty; is a variable unset?")
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # brackets, as of an IPv6 address
        raise BadResultsUri(f"{uri} is invalid: {error}") from error
    if parts.scheme in _OPTIONS:
        options = dict(parse_qsl(parts.query))
        known = _OPTIONS[parts.scheme]
        if unknown := sorted(set(options) - set(known)):
            raise BadResultsUri(f"the results URI has '{unknown[0]}'; {parts.scheme}:// has only {' and '.join(known)}")
        if not parts.netloc:
            raise BadResultsUri(f"{uri} names no bucket; it looks like {parts.scheme}://bucket/prefix")
        return BucketObjects(parts.scheme, parts.netloc, parts.path.strip("/"), **options)
    if parts.scheme == "file":
        return LocalObjects(Path(unquote(parts.path)))
    if parts.scheme and "://" in uri:
        raise BadResultsUri(f"results cannot be kept at {parts.scheme}://; use s3://bucket/prefix, gs:// or a path")
    return LocalObjects(Path(uri))


def uri_below(uri: str, folder: str) -> str:
    """The URI of a folder in what a URI of :func:`objects_from_uri` names, with the same options."""
    address, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{address.rstrip('/')}/{folder}{mark}{options}"


class LocalObjects(Objects):
    """Files in a folder: written under a temporary name, then linked or renamed.

    File and folder are synced before a write returns, so that a power cut does not undo it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._synced: set[Path] = set()
        """Folders whose entries in their parents are known to be on the disk."""

    def get(self, key: str, max_bytes: int | None = None) -> bytes | None:
        with self._errors(), suppress(FileNotFoundError), self._path(key).open("rb") as file:
            _check_size(os.fstat(file.fileno()).st_size, max_bytes)
            return file.read()
        return None

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._errors():
            self._aside(path, data).rename(path)
            _sync(path.parent)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._errors():
            if path.exists():
                _sync(path.parent)  # its writer may not have synced it yet
                return False
            aside = self._aside(path, data)
            try:
                path.hardlink_to(aside)  # unlike a rename, fails when the name is taken
                return True
            except FileExistsError:
                return False
            finally:
                aside.unlink()
                _sync(path.parent)

    def delete(self, key: str) -> None:
        with self._errors():
            self._path(key).unlink(missing_ok=True)

    def info(self, key: str) -> ObjectInfo | None:
        with self._errors(), suppress(FileNotFoundError):
            status = self._path(key).stat()
            return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))
        return None

    def entries(self, prefix: str) -> Iterator[ObjectInfo]:
        found = (path for path in (self._root / prefix).rglob("*") if path.is_file() and not path.name.startswith("."))
        for key in sorted(path.relative_to(self._root).as_posix() for path in found):
            if (item := self.info(key)) is not None:
                yield item

    def unfinished(self, prefix: str) -> Iterator[ObjectInfo]:
        for path in self._root.glob(f"{prefix}**/.*"):
            if _ASIDE.fullmatch(path.name) and (item := self.info(path.relative_to(self._root).as_posix())) is not None:
                yield item

    def folders(self, prefix: str) -> list[str]:
        with self._errors(), suppress(FileNotFoundError):
            return sorted(f"{prefix}{path.name}/" for path in (self._root / prefix).iterdir() if path.is_dir())
        return []

    def presigned_put(
        self,
        key: str,  # noqa: ARG002
        content_type: str,  # noqa: ARG002
        size: int,  # noqa: ARG002
        valid_for: timedelta,  # noqa: ARG002
    ) -> PresignedPut | None:
        return None

    def filesystem(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self._root)

    def _path(self, key: str) -> Path:
        return self._root / key

    def _aside(self, path: Path, data: bytes) -> Path:
        self._make_folder(path.parent)
        aside = path.with_name(f".{uuid.uuid4().hex}")
        try:
            self._write(aside, data)
        except FileNotFoundError:  # the folder was removed
            self._synced.clear()
            self._make_folder(path.parent)
            self._write(aside, data)
        return aside

    def _make_folder(self, folder: Path) -> None:
        if folder in self._synced or (folder.is_dir() and not folder.is_relative_to(self._root)):
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)  # also an existing one: another process may have just created it
        self._synced.add(folder)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(f"the folder {self._root} cannot be used: {error.strerror or error}") from error


def _check_size(size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise TooManyBytes(f"the object has more than {max_bytes:,} bytes", limit=max_bytes)


def _sync(folder: Path) -> None:
    """Write the entries of a folder to the disk."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a process that may not read it has written nothing in it
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


class BucketObjects(Objects):
    """Objects of a bucket under a prefix. The server must support conditional writes, as S3 and Google's do.

    Args:
        bucket: its name. The first call connects.
        region: of S3; default: as the machine is configured.
        endpoint_url: of another server, or of an emulator.
    """

    def __init__(
        self, scheme: str, bucket: str, prefix: str, region: str | None = None, endpoint_url: str | None = None
    ) -> None:
        self._scheme = scheme
        self._bucket = bucket
        self._address = f"{scheme}://{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._region = region
        self._endpoint_url = endpoint_url

    def get(self, key: str, max_bytes: int | None = None) -> bytes | None:
        with self._errors():
            try:
                answer = obstore.get(self._store, self._prefix + key)
                _check_size(answer.meta["size"], max_bytes)
                return bytes(answer.bytes())
            except FileNotFoundError as error:
                if is_missing_bucket(error):
                    raise
                return None

    def put(self, key: str, data: bytes) -> None:
        with self._errors():
            obstore.put(self._store, self._prefix + key, data, use_multipart=False)

    def create(self, key: str, data: bytes) -> bool:
        # There is one, or two calls collided and the other one may have failed: then it is tried again.
        for _ in range(3):
            with self._errors():
                try:
                    obstore.put(self._store, self._prefix + key, data, mode="create", use_multipart=False)
                    return True
                except obstore.exceptions.AlreadyExistsError:
                    pass
            if (there := self.get(key)) is not None:
                # it is our own where the client repeated a request whose response was lost
                return there == data
        raise StoreUnavailable(f"{self._address}: {key} can neither be written nor read")

    def delete(self, key: str) -> None:
        with self._errors(), suppress(FileNotFoundError):
            obstore.delete(self._store, self._prefix + key)

    def info(self, key: str) -> ObjectInfo | None:
        with self._errors():
            try:
                return self._listed(obstore.head(self._store, self._prefix + key))
            except FileNotFoundError as error:
                if is_missing_bucket(error):
                    raise
                return None

    def entries(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors():
            pages = iter(obstore.list(self._store, self._prefix + prefix.rstrip("/")))
        while True:
            with self._errors():
                page = next(pages, None)
            if page is None:
                return
            yield from sorted(map(self._listed, page), key=lambda item: item.key)

    def _listed(self, item: Any) -> ObjectInfo:
        return ObjectInfo(item["path"][len(self._prefix) :], item["size"], item["last_modified"])

    def folders(self, prefix: str) -> list[str]:
        with self._errors():
            found = obstore.list_with_delimiter(self._store, (self._prefix + prefix).rstrip("/"))
        return sorted(f"{path[len(self._prefix) :]}/" for path in found["common_prefixes"])

    def presigned_put(self, key: str, content_type: str, size: int, valid_for: timedelta) -> PresignedPut | None:
        wanted = (self._bucket, self._prefix + key, content_type, size, valid_for)
        with self._errors():
            if self._scheme == "gs":
                return presigned_gcs_put(*wanted, self._endpoint_url)
            return presigned_s3_put(*wanted, self._region, self._endpoint_url)

    def filesystem(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import GcsFileSystem, S3FileSystem

        options: dict[str, Any] = {}
        if self._endpoint_url is not None:
            parts = urlsplit(self._endpoint_url)
            options = {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        root = f"{self._bucket}/{self._prefix}".rstrip("/")
        if self._scheme == "s3":
            return S3FileSystem(region=self._region, **options), root
        return GcsFileSystem(anonymous=bool(options), **options), root

    @cached_property
    def _store(self) -> ObjectStore:
        if self._scheme == "s3":
            return s3_bucket(self._bucket, self._region, self._endpoint_url)
        return gcs_bucket(self._bucket, self._endpoint_url)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The client's errors as this project's."""
        try:
            yield
        except (obstore.exceptions.BaseError, BucketUnavailable, OSError, ValueError) as error:
            if is_missing_bucket(error):
                raise BadResultsUri(f"there is no bucket for the results at {self._address}; create it") from error
            words = str(error).split("\n", 1)[0]
            raise StoreUnavailable(f"{self._address} cannot be used: {words}") from error
