"""A RabbitMQ node of a test's own, so that it may be killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from serve_app.local.ports import free_port

__all__ = ["RabbitServer", "find_rabbit_server"]

_START_S = 60.0


def find_rabbit_server() -> str | None:
    """The program; not Debian's wrapper around it, which becomes another user and has one folder for all nodes."""
    program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(program) if program.exists() else shutil.which("rabbitmq-server")


class RabbitServer:
    """On free ports of loopback; it has what it confirmed when it is started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, self._dist_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it speaks AMQP."""
        program = find_rabbit_server()
        if program is None:
            raise FileNotFoundError("there is no rabbitmq-server here: apt-get install rabbitmq-server")
        for name, text in (("rabbitmq.conf", ""), ("rabbitmq-env.conf", ""), ("plugins", "[].\n")):
            (self._folder / name).write_text(text)
        own = {
            "HOME": str(self._folder),  # the cookie
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        with (self._folder / "rabbitmq.out").open("ab") as output:
            self._process = subprocess.Popen(
                [program], env={**os.environ, **own}, stdout=output, stderr=output, start_new_session=True
            )
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self._process.poll() is None:
            if self._speaks():
                return
            time.sleep(0.1)
        output_so_far = (self._folder / "rabbitmq.out").read_text()[-2000:]
        raise TimeoutError(f"rabbitmq-server does not listen; it says:\n{output_so_far}")

    def _speaks(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False

    def stop(self) -> None:
        """Kill it, with the shell that started it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
