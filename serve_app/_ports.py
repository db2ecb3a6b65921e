"""Ports of this machine."""

from __future__ import annotations

import errno
import socket

from classifiers import SetupError

__all__ = ["free_port", "require_port"]


def require_port(host: str, port: int, option: str) -> None:
    """Raise where a server could not listen there.

    Args:
        option: the command-line option that chooses the port; the message names it.

    Raises:
        SetupError: the port is taken, or this machine does not have that address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: not held up by closed connections
        try:
            probe.bind((host, port))
        except OSError as error:
            why = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
            raise SetupError(f"cannot use port {port} on {host}: {why}; choose another one with {option}") from error


def free_port() -> int:
    """A port on loopback that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
