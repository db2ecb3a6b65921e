"""Ray and Serve on this machine, in the fast configuration, from start to the last process gone."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from classifiers import SetupError
from serve_app.local.haproxy import find_haproxy, haproxy_environment
from serve_app.local.ports import require_port
from serve_app.local.shutdown import MARK, stop
from serve_app.local.signals import StopRequests
from serve_app.ray_internals import session_dir

__all__ = ["FAST_ENVIRONMENT", "LOGGING", "LocalCluster", "local_cluster"]

logger = logging.getLogger(__name__)

FAST_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # HAProxy takes the requests, not a Python process: 0.8 CPU-ms for an empty one with a body of 137 KB, not 14.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # One event loop a replica, gRPC between replicas, log lines in batches: a quarter less CPU a call between two.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Crops travel as gRPC messages; the default of 4 MiB is 27 crops of 224 x 224.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 1024 * 1024),
        # HAProxy's death is noticed after three failed checks: within 3 s, not 30.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.1",
        # A replica that hangs is not asked to stop gracefully, which would take it another 20 s.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # How long a gateway replica that stops stays reachable. HAProxy learns of it within a second; Ray's 30 s are
        # for slow load balancers, and those see HAProxy, not the replica. An update waits for it.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }
)
"""What every node of a cluster needs in its environment before ``ray start``; Ray reads it once, at start."""

LOGGING: Mapping[str, bool] = MappingProxyType({"enable_access_log": False})
"""For Serve's processes, and for each application that is run on them: its replicas take nothing over from ``start``.

Not a line a request and a call: it costs more than a small model does. The metrics count them, and the gateway has its
own line a request."""

_LOCAL_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # Ray's ports on loopback only, as on macOS; and a laptop may change networks.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Replicas unpickle what reaches their gRPC port, which Ray opens to the network: the token keeps others out.
        "RAY_AUTH_MODE": "token",
        # Under `uv run` Ray would build an environment for its workers; they are to have this one.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Serve kills a proxy that takes longer to start than 5 s, as it may on a busy machine, and does not start then.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
)


_HOME_TOKEN = Path("~/.ray/auth_token")

# The path of a socket must be short: of HAProxy's at most 97 characters, of which Ray's names take 70.
_LONGEST_FOLDER = 97 - 70


@dataclass(frozen=True)
class LocalCluster:
    """Where a cluster on this machine answers.

    Attributes:
        http_url: base of the applications' routes, for example ``http://127.0.0.1:8000``.
        dashboard_url: the Ray dashboard; ``None`` without one.
        token_file: has the token that the dashboard and Ray's commands ask for. The commands send it where
            ``RAY_AUTH_MODE=token`` and ``RAY_AUTH_TOKEN_PATH`` are in their environment. ``None``: they ask for none,
            or the environment has it.
        haproxy: HAProxy takes the requests; else Ray's Python proxy.
        log_dir: the folder of Ray's and Serve's logs; removed at the end, unless they are kept.
    """

    http_url: str
    dashboard_url: str | None
    token_file: Path | None
    haproxy: bool
    log_dir: Path


@contextmanager
def local_cluster(
    *,
    host: str = "127.0.0.1",
    http_port: int = 8000,
    dashboard_port: int | None = 8265,
    min_cpus: int = 1,
    num_gpus: int | None = None,
    haproxy: bool = True,
    quiet: bool = True,
    keep_logs: bool = False,
) -> Iterator[LocalCluster]:
    """Start Ray and Serve on this machine; when the block ends, stop them and everything that they started.

    Another cluster, on this machine or where ``RAY_ADDRESS`` points, is left alone. What the environment sets already
    goes before the fast configuration. Enter the block before Ray is imported: only then are its ports on loopback.

    In the block the first SIGINT, SIGTERM or SIGHUP raises ``KeyboardInterrupt``. At its end, requests that are under
    way have some seconds to finish; another signal ends that wait.

    Args:
        host: address that the HTTP endpoint binds. With ``"0.0.0.0"`` other machines reach it, and the replicas' own
            HTTP ports (30000 and up) too: put TLS and authentication in front.
        http_port: port of the HTTP endpoint.
        dashboard_port: port of the dashboard, on loopback; ``None``: no dashboard, and no ``serve deploy``.
        min_cpus: CPUs that Ray hands out, at least: logical ones, so that more replicas start than there are cores.
        num_gpus: GPUs that Ray hands out; ``None``: those that it finds.
        haproxy: HAProxy in front; where it cannot run, Ray's Python proxy and a warning.
        quiet: Ray's progress and the replicas' output go to the log files only.
        keep_logs: leave the files of the cluster, its logs among them, where they are.

    Raises:
        SetupError: a port is taken, Ray runs in this process already, or Serve does not start.
    """
    require_port(host, http_port, "--port")
    if dashboard_port is not None:
        require_port("127.0.0.1", dashboard_port, "--dashboard-port")
    if "RAY_ADDRESS" in os.environ:
        logger.warning(
            "RAY_ADDRESS is not used: this starts a cluster of its own. To deploy to yours: visiongraph render PIPELINE"
        )
    binary = find_haproxy() if haproxy else None
    if haproxy and binary is None:
        logger.warning("HAProxy does not run here: Ray's Python proxy takes the requests, about a tenth as many")
    mark = uuid.uuid4().hex
    with ExitStack() as stack:
        folder = _make_folder()
        if not keep_logs:
            stack.push(lambda _, error, __: _remove(folder, error))
        # Ray's session and the temporary files of all processes, those that are killed too, are removed with it.
        fixed = {MARK: mark, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)}
        proxy = haproxy_environment(binary, folder)
        stack.enter_context(
            _environment({**_LOCAL_ENVIRONMENT, **FAST_ENVIRONMENT, **_token_environment(folder), **proxy}, fixed)
        )
        signals = StopRequests()
        stack.enter_context(signals.hurried())
        stack.callback(stop, mark, signals.hurry)
        with signals.held():  # a ray.init() that is broken off half-way may crash this process later
            log_dir = _start_ray(dashboard_port, max(_cpu_count(), min_cpus), num_gpus, quiet)
        stack.enter_context(signals.raised())
        _start_serve(host, http_port, log_dir, quiet)
        yield LocalCluster(
            http_url=f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{http_port}",  # noqa: S104 - compared, not bound
            dashboard_url=None if dashboard_port is None else f"http://127.0.0.1:{dashboard_port}",
            token_file=_token_file(),
            haproxy=binary is not None,
            log_dir=log_dir,
        )


def _start_ray(dashboard_port: int | None, num_cpus: int, num_gpus: int | None, quiet: bool) -> Path:
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
        log_to_driver=not quiet,
        logging_level=logging.ERROR if quiet else logging.INFO,
    )
    return session_dir() / "logs"


def _start_serve(host: str, port: int, log_dir: Path, quiet: bool) -> None:
    from ray import serve

    if quiet:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config=dict(LOGGING))
    except Exception as error:
        logs = str(log_dir / "serve")
        raise SetupError(f"Ray Serve does not start: {error}; its logs are in {logs}", logs=logs) from error


def _make_folder() -> Path:
    """A folder for the cluster's files, where others put theirs too, unless that is too far down for sockets."""
    places = [os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "/tmp"]  # noqa: S108 - mkdtemp makes it safe
    fits = [place for place in places if len(place) + len("/vg-12345678") <= _LONGEST_FOLDER]
    return Path(tempfile.mkdtemp(prefix="vg-", dir=fits[0]))


def _remove(folder: Path, error: BaseException | None) -> None:
    """Remove the cluster's files, unless the user is told to look at them."""
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


def _token_environment(folder: Path) -> dict[str, str]:
    """A token for this cluster, where the user has none.

    Not in the home folder, where Ray would keep it: there it would make every later cluster of this user ask for it.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ or _HOME_TOKEN.expanduser().exists():
        return {}
    path = folder / "ray-token"
    path.write_text(uuid.uuid4().hex + uuid.uuid4().hex)  # only this user may enter the folder
    return {"RAY_AUTH_TOKEN_PATH": str(path)}


def _token_file() -> Path | None:
    """Where the token is that Ray uses in this environment."""
    if os.environ["RAY_AUTH_MODE"] != "token" or "RAY_AUTH_TOKEN" in os.environ:
        return None
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", str(_HOME_TOKEN))).expanduser()


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
