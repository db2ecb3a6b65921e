"""Ports of this machine."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress

from classifiers import SetupError

__all__ = ["free_port", "require_port"]


def require_port(host: str, port: int, option: str) -> None:
    """Check that a server could listen there.

    Args:
        option: the command-line option that chooses the port; the message names it.

    Raises:
        SetupError: the port is taken, or this machine does not have that address.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, because of closed connections
        try:
            probe.bind((host, port))
        except OSError as error:
            why = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
            raise SetupError(f"cannot use port {port} on {host}: {why}; choose another one with {option}") from error


def free_port() -> int:
    """A free port on loopback.

    From a range that is not assigned by itself, so that it is still free when its server starts: the system takes 32768
    and up for connections, Ray 10002 to 19999 for its workers, and Serve 30000 and up for its replicas.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
