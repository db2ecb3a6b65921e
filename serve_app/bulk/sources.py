"""Lists the images of a bulk run: folders, globs, prefixes of buckets, and tables of addresses or of bytes.

Each source is listed in an order that stays the same, so that a listing can continue after any image.
"""

from __future__ import annotations

import glob
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import obstore
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from classifiers import SetupError
from serve_app.buckets import gcs_bucket, s3_bucket
from serve_app.config import SourcesConfig
from serve_app.results import objects_from_uri
from serve_app.uris import IMAGE_SUFFIXES, local_path, scheme_of, split_bucket_uri

__all__ = ["Entry", "NoSource", "Source", "allowed", "open_sources", "read_bytes"]

_TABLES = (".csv", ".parquet")
_BYTES_AT_ONCE = 32


class NoSource(SetupError):
    """A source cannot be listed, or has no images."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source.

    Attributes:
        position: where the listing continues after it.
        uri: its address; of bytes in a table, the row's or the table's with the number of the row.
        metadata: the other columns of its row.
        modified: when it was written last, in seconds since the epoch; ``None``: not known.
        table: the file that has its bytes, in row ``row``.
    """

    position: str
    uri: str
    metadata: Mapping[str, Any] | None = None
    modified: float | None = None
    table: str | None = None
    row: int | None = None


class Source(Protocol):
    """What images are listed from."""

    def entries(self, after: str | None = None) -> Iterator[Entry]:
        """The images in order, those after a position only.

        Raises:
            Exception: it cannot be listed.
        """


def open_sources(arguments: Iterable[str], config: SourcesConfig) -> list[Source]:
    """The sources that the arguments of the command line name; nothing is listed yet.

    Raises:
        NoSource: one is none; the message says what can be given.
    """
    sources: list[Source] = []
    for argument in arguments:
        source = _open(argument, config)
        if isinstance(source, _Files) and sources and isinstance(sources[-1], _Files):
            sources[-1] = _Files([*sources[-1].paths, *source.paths])  # a shell writes a glob as many files
        else:
            sources.append(source)
    return sources


def _open(argument: str, config: SourcesConfig) -> Source:
    scheme = scheme_of(argument)
    bucket, key = split_bucket_uri(argument)
    path = local_path(argument) if scheme in ("", "file") else None
    if _is_table(argument) and (scheme in ("s3", "gs") if path is None else path.is_file()):
        return _Table(argument)
    if scheme in ("s3", "gs") and bucket:
        if scheme == "s3":
            return _Bucket(argument, s3_bucket(bucket, config.s3.region, config.s3.endpoint_url), key)
        return _Bucket(argument, gcs_bucket(bucket, config.gs.endpoint_url), key)
    if argument and path is not None and path.exists():
        return _Folder(path) if path.is_dir() else _Files([path])
    if not scheme and (matches := sorted(glob.glob(argument, recursive=True))):  # noqa: PTH207 - absolute patterns too
        return _Files([path for match in matches if (path := Path(match)).is_file()])
    raise NoSource(
        f"there are no images at {argument!r}; give a folder, a glob, s3://bucket/prefix/, gs://bucket/prefix/, or a "
        ".csv or .parquet file with the column uri or bytes"
    )


def allowed(arguments: Sequence[str], config: SourcesConfig) -> SourcesConfig:
    """The rules for fetching, with what the arguments name and the folders of tables. Other addresses in tables need a
    rule of their own."""
    named = [argument for argument in arguments if not _is_table(argument)]
    buckets = {"s3": dict(config.s3.allow), "gs": dict(config.gs.allow)}
    for argument in named:
        if (scheme := scheme_of(argument)) in buckets:
            folder = argument.rstrip("/") if argument.endswith("/") else argument.rpartition("/")[0]
            anybody = buckets[scheme]
            anybody["*"] = (*anybody.get("*", ()), folder if folder.count("/") > 1 else argument)
    # Files that a person names may be links to anywhere; a table reaches no farther than its folder and what is named.
    files: Sequence[str] = [str(_folder_of(each)) for each in arguments if scheme_of(each) in ("", "file")]
    if files and len(named) == len(arguments):
        files = ["/"]
    return config.model_copy(
        update={
            "files": (*config.files, *files),
            "s3": config.s3.model_copy(update={"allow": buckets["s3"]}),
            "gs": config.gs.model_copy(update={"allow": buckets["gs"]}),
        }
    )


def _is_table(argument: str) -> bool:
    return argument.lower().endswith(_TABLES)


def _folder_of(argument: str) -> Path:
    path = local_path(argument) or Path(argument)
    return (path if path.is_dir() else path.parent).absolute()


class _Folder:
    """The images of a folder and of those below it, by their names. Linked folders are followed, each is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def entries(self, after: str | None = None) -> Iterator[Entry]:
        for path, status in self._files(str(self._folder), set()):
            position = os.fsencode(path).hex()
            if after is None or position > after:
                yield Entry(position, Path(path).as_uri(), modified=status.st_mtime)

    def _files(self, folder: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
        status = os.stat(folder)  # noqa: PTH116 - a million of them are listed
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        try:
            with os.scandir(folder) as scan:
                # with the slash, so that all paths are in order, in this folder and below it
                found = {os.fsencode(entry.name) + b"/" * entry.is_dir(): entry for entry in scan}
        except OSError:  # reading the folder as an image fails, and the failure is recorded
            yield folder, status
            return
        for name, entry in sorted(found.items(), key=lambda item: item[0]):
            if name.endswith(b"/"):
                yield from self._files(entry.path, seen)
            elif not name.startswith(b"._") and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                status = entry.stat(follow_symlinks=entry.is_file())
                if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    yield entry.path, status


class _Files:
    """Files that are named one by one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def entries(self, after: str | None = None) -> Iterator[Entry]:
        for number, path in _numbered(self.paths, after):
            yield Entry(number, path.absolute().as_uri(), modified=path.stat().st_mtime)


class _Bucket:
    """The images below a prefix that ends with ``/``, or one object."""

    def __init__(self, uri: str, store: ObjectStore, key: str) -> None:
        self._root = uri.removesuffix(key)
        self._store = store
        self._key = key

    def entries(self, after: str | None = None) -> Iterator[Entry]:
        if self._key and not self._key.endswith("/"):
            if after is None:
                yield self._entry(obstore.head(self._store, self._key))
            return
        for page in obstore.list(self._store, self._key, offset=after, chunk_size=1000):
            # in order of the keys, as the stores list them
            yield from (self._entry(meta) for meta in page if Path(meta["path"]).suffix.lower() in IMAGE_SUFFIXES)

    def _entry(self, meta: Any) -> Entry:
        root = self._root if self._root.count("/") > 2 else f"{self._root}/"
        return Entry(meta["path"], f"{root}{meta['path']}", modified=meta["last_modified"].timestamp())


class _Table:
    """The rows of a CSV or Parquet file: a column ``uri``, or ``bytes``, and others that are metadata."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def entries(self, after: str | None = None) -> Iterator[Entry]:
        table = _address(self._uri)
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in self._batches())
        for number, row in _numbered(rows, after):
            uri = row.pop("uri", None)
            metadata = {key: _plain(value) for key, value in row.items() if value is not None}
            if self._has_bytes:
                yield Entry(number, uri or f"{table}#{number}", metadata, table=self._uri, row=int(number))
            else:
                # one without an address stays an image, which then cannot be read
                yield Entry(number, _address(str(uri or "")), metadata)

    def _batches(self) -> Any:
        if self._uri.lower().endswith(".csv"):
            filesystem, path = _located(self._uri)
            reader = pa_csv.open_csv(filesystem.open_input_stream(path))
            names, batches = reader.schema.names, iter(reader)
        else:
            file = _parquet_file(self._uri)
            names = file.schema_arrow.names
            batches = file.iter_batches(columns=[name for name in names if name != "bytes"])
        self._has_bytes = "bytes" in names
        if not self._has_bytes and "uri" not in names:
            raise NoSource(f"{self._uri} has neither a column 'uri' nor 'bytes'; it has {', '.join(names)}")
        return batches


def read_bytes(table: str, rows: Sequence[int]) -> Iterator[bytes]:
    """The images of rows of a table, whose numbers are in order. Only the row groups that they lie in are read."""
    file = _parquet_file(table)
    wanted = iter(rows)
    number = next(wanted, None)
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        if number is not None and number < end:
            for batch in file.iter_batches(_BYTES_AT_ONCE, row_groups=[group], columns=["bytes"]):
                while number is not None and number < start + len(batch):
                    yield batch[0][number - start].as_py() or b""
                    number = next(wanted, None)
                start += len(batch)
        start = end


def _parquet_file(uri: str) -> pq.ParquetFile:
    filesystem, path = _located(uri)
    return pq.ParquetFile(filesystem.open_input_file(path))


def _located(uri: str) -> tuple[Any, str]:
    folder, _, name = uri.rpartition("/")
    filesystem, root = objects_from_uri(folder or ".").filesystem()
    return filesystem, f"{root}/{name}"


def _numbered(items: Iterable[Any], after: str | None) -> Iterator[tuple[str, Any]]:
    """The items with their numbers as positions, those after one only."""
    first = 0 if after is None else int(after) + 1
    return ((str(number), item) for number, item in enumerate(itertools.islice(items, first, None), first))


def _address(uri: str) -> str:
    """An address; of a path, its file:// URL."""
    return uri if scheme_of(uri) or not uri else Path(uri).absolute().as_uri()


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return value if isinstance(value, str | int | float | bool | list | dict) else str(value)
