"""The systems under test: how each is started, found ready, and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.packages import python_with
from benchmarks.serving.processes import MARK, Groups, kill_marked

__all__ = ["NOT_OURS", "RAY", "SYSTEMS", "Running", "System", "post", "running"]

_READY_S = 240.0
_STOP_S = 60.0

NOT_OURS = ("Ray's own", "HAProxy")
"""Groups of processes that this project did not write."""

RAY: Groups = (
    (r"^ray::ServeReplica:\w+:(gateway)", r"\1"),
    (r"^ray::ServeReplica:\w+:([\w-]+)", r"step \1"),
    (r"^ray::|gcs_server|raylet|/ray/", "Ray's own"),
    (r"haproxy", "HAProxy"),
    (r"benchmarks\.serving", "Ray's own"),  # the process that started Ray, and waits
)
"""An application on Ray Serve: its gateway, its steps, and the rest."""

_WORKERS: Groups = ((r".", "server and workers"),)


@dataclass(frozen=True)
class System:
    """One server.

    Attributes:
        arguments: its module in ``servers``, and what follows the port.
        path: where it takes images.
        package: the server to install for it, see ``packages``.
        answer: where in its answer the results by step are; ``None``: they are the answer.
    """

    arguments: tuple[str, ...]
    path: str
    groups: Groups
    package: str | None = None
    answer: str | None = None


_MOSEC: Groups = ((r"bin/mosec", "mosec's front"), (r".", "workers"))

SYSTEMS: Mapping[str, System] = {
    "default": System(("ours", "default"), "/v1/images", RAY, answer="context"),
    "ours": System(("ours", "separate"), "/v1/images", RAY, answer="context"),
    "ours-colocated": System(("ours", "colocated"), "/v1/images", RAY, answer="context"),
    "plain-ray-serve": System(("plain_ray_serve",), "/", RAY),
    "mosec": System(("mosec_stages", "stages"), "/inference", _MOSEC, "mosec"),
    "mosec-one-stage": System(("mosec_stages", "whole"), "/inference", _MOSEC, "mosec"),
    "litserve": System(("litserve_whole",), "/predict", _WORKERS, "litserve"),
    "bentoml": System(("bentoml_whole",), "/predict", _WORKERS, "bentoml"),
}


@dataclass(frozen=True)
class Running:
    """A server that has answered."""

    url: str
    mark: str


@contextmanager
def running(system: System, port: int, environment: Mapping[str, str], photo: Path, log: Path) -> Iterator[Running]:
    """Start a server, wait until it answers a photo, and stop it and all that it started when the block ends.

    Raises:
        RuntimeError: it ended, or did not answer in time; the message has the end of its log.
    """
    mark, url = uuid.uuid4().hex, f"http://127.0.0.1:{port}{system.path}"
    module, *rest = system.arguments
    python = python_with(system.package) if system.package else Path(sys.executable)
    command = [python, "-m", f"benchmarks.serving.servers.{module}", str(port), *rest]
    env = {**os.environ, **environment, MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait_until_ready(process, url, photo.read_bytes(), log)
        yield Running(url, mark)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        kill_marked(mark)


def post(url: str, body: bytes) -> bytes:
    """The answer to one photo."""
    request = urllib.request.Request(url, body, {"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: bytes = response.read()
    return answer


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, body: bytes, log: Path) -> None:
    end, last = time.monotonic() + _READY_S, ""
    while time.monotonic() < end and process.poll() is None:
        try:
            post(url, body)
            return
        except urllib.error.HTTPError as error:
            last = f"{error}: {error.read()[:500].decode(errors='replace')}"
        except OSError as error:
            last = str(error)
        time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    state = f"ended with {process.poll()}" if process.poll() is not None else f"did not answer in {_READY_S:.0f} s"
    raise RuntimeError(f"{' '.join(map(str, process.args[2:]))} {state}; last answer: {last}\n{tail}")  # type: ignore[index]
