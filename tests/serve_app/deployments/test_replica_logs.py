"""Records that Serve's handler keeps in memory reach the file soon. Serve itself is not needed for that."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import pytest
from ray._common.formatters import JSONFormatter
from ray.serve._private.logging_utils import ServeContextFilter, ServeCoreContextFilter, ServeLogAttributeRemovalFilter

from serve_app.deployments import replica_logs
from serve_app.http import access_log
from serve_app.telemetry import log_fields


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve's logger as it is in throughput mode, and this project's loggers as a replica sets them up."""
    path = tmp_path / "replica.log"
    target = logging.FileHandler(path)
    target.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    memory = MemoryHandler(1000, flushLevel=logging.ERROR, target=target)
    serve = logging.getLogger("ray.serve")
    monkeypatch.setattr(serve, "handlers", [memory])
    level = serve.level
    serve.setLevel(logging.INFO)
    for name in ("serve_app", "graph", "classifiers", "visiongraph.access"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", logger.propagate)
        monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(replica_logs, "_FLUSH_EVERY_S", 0.05)
    replica_logs.set_up_logs.cache_clear()
    replica_logs.set_up_logs(deployment="gateway")
    yield path
    serve.setLevel(level)
    target.close()


def poll(path: Path, line: str) -> None:
    until = time.monotonic() + 5
    while line not in path.read_text():
        assert time.monotonic() < until, path.read_text()
        time.sleep(0.01)


def test_lines_are_written_by_time(file: Path) -> None:
    logging.getLogger("ray.serve").info("a line of Serve")
    logging.getLogger("serve_app.intake.consumer").warning("a line of a worker")
    access_log._log.info("a request")
    for line in ("INFO a line of Serve", "WARNING a line of a worker", "INFO a request"):
        poll(file, line)
    time.sleep(0.12)
    assert file.read_text().count("a request") == 1


def test_at_the_end_nothing_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("serve_app").warning("before")
    replica_logs.stop_buffering_logs()
    assert "before" in file.read_text()
    logging.getLogger("ray.serve").info("the last line")
    assert "the last line" in file.read_text()


class TestJson:
    @pytest.fixture(autouse=True)
    def json_lines(self, file: Path) -> None:
        """The encoding of :data:`serve_app.local.LOGGING`, with Serve's filters."""
        (memory,) = logging.getLogger("ray.serve").handlers
        assert isinstance(memory, MemoryHandler)
        assert memory.target is not None
        memory.target.setFormatter(JSONFormatter())
        for each in (ServeCoreContextFilter(), ServeContextFilter(), ServeLogAttributeRemovalFilter()):
            memory.target.addFilter(each)

    def lines(self, file: Path) -> list[dict[str, Any]]:
        replica_logs.flush_logs()
        return [json.loads(line) for line in file.read_text().splitlines()]

    def test_every_line_says_what_it_is_about(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_fields, "current_trace_id", lambda: "0af7651916cd43dd8448eb211c80319c")
        with log_fields.log_fields(request_id="r1", job_id="j1"):
            logging.getLogger("serve_app.intake.job_runner").warning("try again")
        (line,) = self.lines(file)
        ids = {"request_id": "r1", "job_id": "j1", "trace_id": "0af7651916cd43dd8448eb211c80319c"}
        assert line.items() >= {"message": "try again", "deployment": "gateway", **ids}.items()

    def test_a_request_has_fields_of_its_own(self, file: Path) -> None:
        access_log._log.info("POST /v1/images 200", extra={"fields": {"status": 200, "request_id": "r2"}})
        (line,) = self.lines(file)
        assert (line["message"], line["status"], line["request_id"]) == ("POST /v1/images 200", 200, "r2")

    def test_an_error_has_its_traceback(self, file: Path) -> None:
        try:
            int("bad")
        except ValueError:
            logging.getLogger("serve_app").exception("it failed")
        (line,) = self.lines(file)
        assert "ValueError: invalid literal" in line["exc_text"]


def test_order(file: Path) -> None:
    for number in range(500):
        logging.getLogger("serve_app").warning("line %d", number)
    replica_logs.flush_logs()
    poll(file, "line 499")
    assert file.read_text().split() == [word for n in range(500) for word in ("WARNING", "line", str(n))]
