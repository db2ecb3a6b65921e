"""``visiongraph doctor``, as a user calls it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.local.ports import free_port

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ports() -> tuple[str, ...]:
    return ("--port", str(free_port()), "--dashboard-port", str(free_port()))


def test_this_machine(visiongraph: Run, ports: tuple[str, ...]) -> None:
    code, out, _ = visiongraph("doctor", *ports)
    assert code == 0
    assert out.splitlines()[0] == "ok      packages    as required"
    assert out.splitlines()[-1].endswith(" 0 errors")


def test_a_port_that_is_taken(visiongraph: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, out, _ = visiongraph("doctor", "--port", port, "--dashboard-port", free_port())
    assert code == 1
    assert f"error   ports       cannot use port {port} on 127.0.0.1: another program listens there" in out
    assert "fix: choose another one with --port" in out


def test_json(visiongraph: Run, ports: tuple[str, ...], tmp_path: Path) -> None:
    intake = tmp_path / "intake.yaml"
    intake.write_text(f"queue: sqlite:///jobs.db\nresults: {tmp_path}/file/results\n")
    (tmp_path / "file").write_text("no folder")
    code, out, _ = visiongraph("doctor", *ports, "--intake", intake, "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (1, False)
    (error,) = (each for each in report["findings"] if each["status"] == "error")
    assert set(error) == {"status", "check", "message", "fix"}
    assert error["check"] == "store"


def test_models_and_gpus_of_a_pipeline(visiongraph: Run, ports: tuple[str, ...], tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(
        "pipeline:\n  - name: detect\n    class: classifiers.objects.ObjectClassifier\n"
        "    params: {model: absent.pt}\n    serve: {num_gpus: 64}\n"
    )
    code, out, _ = visiongraph("doctor", pipeline, *ports)
    assert code == 1
    assert "absent.pt is missing on" in out
    assert "a step reserves 64 GPU" in out


def test_no_cluster_at_the_address(visiongraph: Run) -> None:
    address = f"127.0.0.1:{free_port()}"
    code, out, err = visiongraph("doctor", "--address", address)
    assert (code, out) == (2, "")
    assert f"no Ray cluster answers at {address}" in err
