"""Object stores for results: whole objects under keys, and the conditional writes that exactly-once needs."""

from __future__ import annotations

import errno
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.store import ObjectStore

from classifiers import SetupError, VisionError
from serve_app.buckets import BucketUnavailable, gcs_bucket, is_missing_bucket, s3_bucket

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["BadResultsUri", "BucketObjects", "LocalObjects", "Objects", "StoreUnavailable", "objects_from_uri"]

# the options of a URI, by scheme
_OPTIONS = {"s3": ("region", "endpoint_url"), "gs": ("endpoint_url",)}


class BadResultsUri(SetupError):
    """A results URI that is invalid, or names a bucket that does not exist."""


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
        """Write the object, replacing an existing one."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless there is one: of several concurrent calls exactly one returns true."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the object, if there is one."""

    @abstractmethod
    def keys(self, prefix: str) -> Iterator[str]:
        """The keys under a prefix that ends with ``/``, in order."""

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


class LocalObjects(Objects):
    """Files in a folder: written under a temporary name, then linked or renamed.

    File and folder are synced before a write returns, so that a power cut does not undo it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._synced: set[Path] = set()
        """Folders whose entries in their parents are known to be on the disk."""

    def get(self, key: str) -> bytes | None:
        with self._errors(), suppress(FileNotFoundError):
            return self._path(key).read_bytes()
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

    def keys(self, prefix: str) -> Iterator[str]:
        found = (path for path in (self._root / prefix).rglob("*") if path.is_file() and not path.name.startswith("."))
        yield from sorted(path.relative_to(self._root).as_posix() for path in found)

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

    def get(self, key: str) -> bytes | None:
        with self._errors():
            try:
                return bytes(obstore.get(self._store, self._prefix + key).bytes())
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

    def keys(self, prefix: str) -> Iterator[str]:
        with self._errors():
            pages = iter(obstore.list(self._store, self._prefix + prefix.rstrip("/")))
        while True:
            with self._errors():
                page = next(pages, None)
            if page is None:
                return
            yield from sorted(item["path"][len(self._prefix) :] for item in page)

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
