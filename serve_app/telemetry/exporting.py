"""The metrics of each process at an address of its own, which a file in a common folder announces to Prometheus.

Behind HAProxy, ``/metrics`` at the public port would be that of one replica, another one each time. So every process
has its own endpoint, and Prometheus finds it by ``file_sd_configs``. A process holds a lock on its file while it lives:
the files of processes that were killed are removed by the next one that starts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prometheus_client import start_http_server
from pydantic import Field, ValidationError, field_validator

from classifiers import SetupError
from classifiers.validation import Closed
from serve_app.telemetry.metrics import REGISTRY

__all__ = ["RAY_TARGETS", "TARGETS", "ExportSettings", "Exporter", "export", "ray_announced", "sweep", "targets"]

TARGETS = "process-*.json"
"""The names of the files, for ``file_sd_configs``."""

RAY_TARGETS = "ray-*.json"
"""Those of Ray's own metrics, of clusters that ``visiongraph serve`` has started."""

_VARIABLES = {"folder": "VISIONGRAPH_METRICS_DIR", "host": "VISIONGRAPH_METRICS_HOST"}

_log = logging.getLogger(__name__)


class ExportSettings(Closed):
    """Where the processes of a node export their metrics. They are in its environment, for nodes differ in them."""

    folder: Path = Field(
        Path("/tmp/visiongraph-metrics"),  # noqa: S108 - whose it is, is checked
        description="VISIONGRAPH_METRICS_DIR: the folder of the files that announce each process to Prometheus",
    )
    host: str = Field(
        "127.0.0.1",
        description="VISIONGRAPH_METRICS_HOST: the address of this node at which its processes answer; announced as it "
        "is, so not 0.0.0.0",
    )

    @field_validator("host")
    @classmethod
    def _is_announced(cls, host: str) -> str:
        if host in ("0.0.0.0", "::"):  # noqa: S104 - not bound
            raise ValueError("it is no address that others could connect to")
        return host

    @classmethod
    def from_environment(cls) -> ExportSettings:
        """The settings of this process.

        Raises:
            SetupError: a variable has a value that cannot be used.
        """
        given = {field: os.environ[name] for field, name in _VARIABLES.items() if os.environ.get(name)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SetupError(
                f"{_VARIABLES['host']} must be the address of this node, such as 10.0.0.5: Prometheus gets it from here"
            ) from error


class Exporter:
    """Serves the metrics of this process, and announces it.

    Args:
        settings: where.
        labels: of all series of this process, for example its deployment.

    Raises:
        SetupError: the folder cannot be used, or the address is not one of this machine.
    """

    def __init__(self, settings: ExportSettings, labels: Mapping[str, str]) -> None:
        host = settings.host
        try:
            self._server, _ = start_http_server(0, host, REGISTRY)
        except OSError as error:
            raise SetupError(f"metrics cannot be served at {host}: {error}; set {_VARIABLES['host']}") from error
        port = self._server.server_port
        self.target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self._file, self._lock = _announce(settings.folder, [{"targets": [self.target], "labels": dict(labels)}])
        except SetupError:
            self._end_server()
            raise

    def close(self) -> None:
        """Withdraw the announcement, and end the endpoint."""
        self._file.unlink(missing_ok=True)
        os.close(self._lock)
        self._end_server()

    def _end_server(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def export(labels: Mapping[str, str]) -> Exporter | None:
    """Export the metrics of this process; ``None``: it cannot, and the log says why. Images are processed all the
    same."""
    try:
        return Exporter(ExportSettings.from_environment(), labels)
    except SetupError as error:
        _log.warning("this process exports no metrics: %s", error)
        return None


def targets(folder: Path, application: str) -> list[str]:
    """The addresses of an application's processes that are announced in a folder, as ``HOST:PORT``."""
    groups: list[dict[str, Any]] = []
    for file in folder.glob(TARGETS):
        with suppress(FileNotFoundError):  # its process has ended
            groups += json.loads(file.read_text())
    return sorted(t for group in groups if group["labels"]["application"] == application for t in group["targets"])


@contextmanager
def ray_announced(folder: Path, file: Path) -> Iterator[None]:
    """While the block runs, the folder also has the file by which Ray announces its own metrics; at its end, the files
    of processes that were killed are removed.

    Raises:
        SetupError: the folder cannot be used.
    """
    with _translating(folder):
        _make(folder)
        link = folder / f"ray-{os.getpid()}.json"
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    try:
        yield
    finally:
        link.unlink(missing_ok=True)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove the files of processes that have ended without doing so."""
    if folder.is_dir():
        with _locked(folder):
            _sweep(folder)


def _announce(folder: Path, content: object) -> tuple[Path, int]:
    """Write a file as a whole, and lock it until this process ends."""
    with _translating(folder):
        _make(folder)
        with _locked(folder):
            _sweep(folder)
            path = folder / f"process-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
            new = path.with_suffix(".new")
            new.write_text(json.dumps(content) + "\n")
            lock = os.open(new, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_SH)
            new.replace(path)
    return path, lock


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError("it belongs to another user")


@contextmanager
def _translating(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"metrics cannot be announced in {folder}: {error}; set {_VARIABLES['folder']} to a folder of your own"
        ) from error


def _sweep(folder: Path) -> None:
    for file in folder.glob("process-*"):
        with suppress(FileNotFoundError), file.open() as opened:  # it may be withdrawn meanwhile
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its process lives
                continue
            _log.debug("the process of %s has ended", file)
            file.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time: a file must not be swept before it is locked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
