"""Ray and Serve on this machine, in the fast configuration, from start to the last process gone."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from classifiers import SetupError
from classifiers.backends import core_count
from serve_app.local.haproxy import find_haproxy, haproxy_environment
from serve_app.local.ports import require_port
from serve_app.local.shutdown import MARK, StopRequests, stop
from serve_app.ray_internals import session_dir

__all__ = ["FAST_ENVIRONMENT", "LOGGING", "LocalCluster", "local_cluster"]

logger = logging.getLogger(__name__)

FAST_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # HAProxy takes the requests, not a Python process: 0.8 CPU-ms instead of 14 for a no-op with a body of 137 KB.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # One event loop per replica, gRPC between replicas, buffered logs: a quarter less CPU per call between two.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Crops travel as gRPC messages; the default of 4 MiB is 27 crops of 224 x 224.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 1024 * 1024),
        # A dead HAProxy is detected after three failed checks: within 3 s instead of 30.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.1",
        # A replica that hangs is killed at once: a graceful stop would take another 20 s.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # How long a stopping gateway replica stays reachable; an update waits for it. HAProxy knows within a second.
        # Ray's default of 30 s is for slow load balancers, which talk to HAProxy here, not to the replica.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }
)
"""The environment that every node of a cluster needs before ``ray start``; Ray reads it once, at start."""

LOGGING: Mapping[str, str | bool] = MappingProxyType({"encoding": "JSON", "enable_access_log": False})
"""For Serve's own processes, and for each application: its replicas do not inherit it from ``serve.start``.

Serve's log line per request and call costs more than a small model. Metrics count requests, and the gateway has an
access log of its own."""

_LOCAL_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # Ray's ports on loopback only, as on macOS; and a laptop may change networks.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Replicas unpickle all data at their gRPC port, which is open to the network: other users lack the token.
        "RAY_AUTH_MODE": "token",
        # Under `uv run` Ray would build another environment for its workers.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Serve kills a proxy that takes longer to start than 5 s, as it may on a busy machine, and does not start then.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
)

_HOME_TOKEN = Path("~/.ray/auth_token")

# The path of a socket must be short: HAProxy's limit is 97 characters, of which Ray's names take 70.
_LONGEST_FOLDER = 97 - 70


@dataclass(frozen=True)
class LocalCluster:
    """Where a cluster on this machine answers.

    Attributes:
        http_url: base of the applications' routes, for example ``http://127.0.0.1:8000``.
        dashboard_url: the Ray dashboard; ``None`` without one.
        token_file: the token for the dashboard and Ray's commands, which send it if ``RAY_AUTH_MODE=token`` and
            ``RAY_AUTH_TOKEN_PATH`` are in their environment. ``None``: no token is needed, or the environment has it.
        haproxy: HAProxy takes the requests; else Ray's Python proxy.
        log_dir: the logs of Ray and Serve; removed at the end, unless they are kept.
    """

    http_url: str
    dashboard_url: str | None
    token_file: Path | None
    haproxy: bool
    log_dir: Path


@contextmanager
def local_cluster(
    *,
    http_port: int = 8000,
    dashboard_port: int | None = 8265,
    min_cpus: int = 1,
    num_gpus: int | None = None,
    keep_logs: bool = False,
    serve: bool = True,
) -> Iterator[LocalCluster]:
    """Start Ray and Serve on this machine; when the block ends, stop them and everything that they started.

    Another cluster, on this machine or where ``RAY_ADDRESS`` points, is left alone. Variables that are set in the
    environment take precedence over the fast configuration. Enter the block before Ray is imported: only then are its
    ports on loopback. Ray's progress and the replicas' output go to the log files only.

    In the block the first SIGINT, SIGTERM or SIGHUP raises ``KeyboardInterrupt``. At its end, requests in progress have
    some seconds to finish; another signal ends that wait.

    Args:
        dashboard_port: port of the dashboard, on loopback; ``None``: no dashboard, and no ``serve deploy``.
        min_cpus: minimum of logical CPUs in Ray, so that more replicas can start than there are cores.
        num_gpus: GPUs in Ray; ``None``: those that it finds.
        keep_logs: do not remove the files of the cluster, with its logs, at the end.
        serve: ``False``: Ray alone.

    Raises:
        SetupError: a port is taken, Ray runs in this process already, or Serve does not start.
    """
    if serve:
        require_port("127.0.0.1", http_port, "--port")
    if dashboard_port is not None:
        require_port("127.0.0.1", dashboard_port, "--dashboard-port")
    if "RAY_ADDRESS" in os.environ:
        logger.warning(
            "RAY_ADDRESS is not used: this starts a cluster of its own. To deploy to yours: visiongraph render PIPELINE"
        )
    binary = find_haproxy() if serve else None
    if serve and binary is None:
        logger.warning("HAProxy does not run here: Ray's Python proxy takes the requests, about a tenth as many")
    with ExitStack() as stack:
        folder = _make_folder()
        if not keep_logs:
            stack.push(lambda _, error, __: _remove(folder, error))
        token_file = _token_file(folder)
        defaults = {**_LOCAL_ENVIRONMENT, **FAST_ENVIRONMENT, **haproxy_environment(binary, folder)}
        if token_file is not None:
            defaults["RAY_AUTH_TOKEN_PATH"] = str(token_file)
        # Ray's session and the temporary files of all processes, those that are killed too, are removed with it.
        stack.enter_context(_environment(defaults, {MARK: str(folder), "TMPDIR": str(folder)}))
        signals = StopRequests()
        stack.enter_context(signals.hurried())
        stack.callback(stop, folder, signals.hurry)
        with signals.held():  # a ray.init() that is interrupted may crash this process later
            log_dir = _start_ray(dashboard_port, max(core_count(), min_cpus), num_gpus)
        stack.enter_context(signals.raised())
        if serve:
            _start_serve(http_port, log_dir)
        yield LocalCluster(
            http_url=f"http://127.0.0.1:{http_port}",
            dashboard_url=None if dashboard_port is None else f"http://127.0.0.1:{dashboard_port}",
            token_file=token_file,
            haproxy=binary is not None,
            log_dir=log_dir,
        )


def _start_ray(dashboard_port: int | None, num_cpus: int, num_gpus: int | None) -> Path:
    import ray

    if ray.is_initialized():
        raise SetupError("Ray runs in this process already; leave that cluster first: ray.shutdown()")
    ray.init(
        address="local",
        namespace="serve",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        include_dashboard=dashboard_port is not None,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard_port,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    return session_dir() / "logs"


def _start_serve(port: int, log_dir: Path) -> None:
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=dict(LOGGING))
    except Exception as error:
        logs = str(log_dir / "serve")
        raise SetupError(f"Ray Serve does not start: {error}; its logs are in {logs}", logs=logs) from error


def _make_folder() -> Path:
    """A folder for the cluster's files in the usual place, unless its path is too long for sockets."""
    places = [os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "/tmp"]  # noqa: S108 - mkdtemp makes it safe
    fits = [place for place in places if len(place) + len("/vg-12345678") <= _LONGEST_FOLDER]
    return Path(tempfile.mkdtemp(prefix="vg-", dir=fits[0]))


def _remove(folder: Path, error: BaseException | None) -> None:
    """Remove the cluster's files, unless the error message refers to them."""
    if not (isinstance(error, SetupError) and "logs" in error.fields):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(defaults: Mapping[str, str], fixed: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({**defaults, **before, **fixed})
    os.environ.pop("RAY_ADDRESS", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _token_file(folder: Path) -> Path | None:
    """Where the token of this cluster is: the user's, or a new one; ``None`` where the environment needs no file.

    The new one is not in the home folder, where Ray would store it and require it in every later cluster of this user.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or "RAY_AUTH_TOKEN" in os.environ:
        return None
    users = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", _HOME_TOKEN)).expanduser()
    if "RAY_AUTH_TOKEN_PATH" in os.environ or users.exists():
        return users
    path = folder / "ray-token"
    path.write_text(secrets.token_hex(32))  # only this user may enter the folder
    return path
