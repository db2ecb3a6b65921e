"""The gateway behind a real nginx with the configuration that is shipped, and behind uvicorn as Serve runs it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gateways import PNG, problem
from toys import encoded

from serve_app.local.ports import free_port

ROOT = Path(__file__).parents[3]
PLUGINS = ROOT / "tests" / "plugins"
KEYS = ("x-request-timeout-seconds", "x-request-disconnect-disabled", "serve-multiplexed-model-id", "x-forwarded-host")

GATEWAY = """
import json, logging, sys, uvicorn
sys.path[:0] = [{plugins!r}, {root!r}]
from gateways import PIPELINE, app_over, config
from graph import LocalBackend, load_plan
from serve_app.http.access_log import log_to

class Lines(logging.Handler):
    def emit(self, record):
        print(json.dumps(record.fields), flush=True)

log_to([Lines()])
inner = app_over(LocalBackend(load_plan({{**PIPELINE, "limits": {{}}}})), config(trusted_proxies=["127.0.0.1"]))

async def app(scope, receive, send):
    if scope["type"] == "http":
        print("headers", [name.decode() for name, _ in scope["headers"]], flush=True)
    await inner(scope, receive, send)

uvicorn.run(app, host="127.0.0.1", port={port}, log_level="error", lifespan="off")
"""

# The limits of a pipeline file that says nothing of them; and the steps are in other processes, as they are by default.
ELSEWHERE = """
import sys, uvicorn
sys.path[:0] = [{plugins!r}, {root!r}]
from benchmarks.intake.noop import PLAN, NoopBackend
from gateways import config
from graph import Engine
from serve_app.http.application import make_app

engine = Engine(PLAN, NoopBackend(PLAN))
uvicorn.run(make_app(lambda: engine, config(timeout_ms=30_000)), host="127.0.0.1", port={port}, log_level="error")
"""

# The same, with jobs.
JOBS = """
import sys, tempfile, uvicorn
sys.path[:0] = [{plugins!r}, {root!r}]
from benchmarks.intake.noop import PLAN, NoopBackend
from gateways import config
from graph import Engine
from serve_app.config import IntakeConfig
from serve_app.http.application import make_app
from serve_app.http.job_desk import JobDesk
from serve_app.images import Sources, Uploads
from serve_app.queues import queue_from_url
from serve_app.results import ResultStore

folder, rules = tempfile.mkdtemp(), config(timeout_ms=60_000)
intake = IntakeConfig.model_validate({{"queue": f"sqlite:///{{folder}}/jobs.db", "results": folder + "/results"}})
uploads = Uploads.of(intake, PLAN.config.limits.max_bytes)
sources = Sources(intake.fetch, rules.fetch, PLAN.config.limits, 4, uploads)
desk = JobDesk(queue_from_url(intake.queue), ResultStore.from_uri(intake.results), sources, uploads)
engine = Engine(PLAN, NoopBackend(PLAN))
uvicorn.run(make_app(lambda: engine, rules, desk=desk), host="127.0.0.1", port={port}, log_level="error")
"""


def listening(port: int, process: subprocess.Popen[Any], seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, "it has ended"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        time.sleep(0.02)
    raise TimeoutError(f"nobody listens on {port}")


class Server:
    """The gateway in a process of its own, under uvicorn, until the block ends."""

    def __init__(self, folder: Path, code: str = GATEWAY) -> None:
        self.port = free_port()
        self.log = folder / "gateway.log"
        code = code.format(plugins=str(PLUGINS), root=str(ROOT), port=self.port)
        with self.log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
        listening(self.port, self.process)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("gateway")) as server:
        yield server


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(cert.public_bytes(form))
    (folder / "key.pem").write_bytes(
        key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("there is no nginx here to test the shipped configuration with: apt-get install nginx-light")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    cert, key = certificate(folder)
    text = (ROOT / "configs" / "nginx" / "visiongraph.conf").read_text()
    for said, here in (
        ("127.0.0.1:8000", f"127.0.0.1:{server.port}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/visiongraph/cert.pem", str(cert)),
        ("/etc/ssl/visiongraph/key.pem", str(key)),
    ):
        assert said in text
        text = text.replace(said, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    user = "user root;\n" if psutil.Process().uids().effective == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{text}}}\n"
    )
    process = subprocess.Popen(
        [program, "-c", str(folder / "nginx.conf"), "-p", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        listening(port, process, 10)
        trust = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trust, timeout=20) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def test_over_tls(nginx: httpx.Client) -> None:
    response = nginx.post("/v1/images", content=PNG, headers={"Content-Type": "image/png"})
    assert response.status_code == 200
    assert "strict-transport-security" in response.headers
    problem(nginx.post("/v1/images", content=b"x", headers={"Content-Type": "image/png"}), 422, "bad-image")


def test_what_the_proxy_takes_off_and_puts_on(nginx: httpx.Client, server: Server) -> None:
    sent = dict.fromkeys(KEYS, "?1")
    nginx.get("/healthz", headers={**sent, "X-Forwarded-For": "203.0.113.66", "X-Request-Id": "through"})
    until = time.monotonic() + 10
    while '"request_id": "through"' not in (text := server.log.read_text()) and time.monotonic() < until:
        time.sleep(0.02)  # the line is written after the answer
    seen = [line for line in text.splitlines() if line.startswith("headers")][-1]
    assert not any(name in seen for name in KEYS)
    line = next(json.loads(line) for line in text.splitlines() if line.startswith("{") and '"through"' in line)
    assert line["client"] == "127.0.0.1"  # who spoke to nginx, not what it said of itself


def test_serves_own_pages_stay_inside(nginx: httpx.Client) -> None:
    assert nginx.get("/-/routes").status_code == 404
    assert nginx.get("/-/healthz").status_code == 404


def test_a_large_body_is_refused_by_the_gateway_while_it_streams(nginx: httpx.Client, server: Server) -> None:
    before = server.memory()

    def body() -> Iterator[bytes]:
        for _ in range(60 * 16):
            yield b"x" * 65536

    response = nginx.post("/v1/images", content=body(), headers={"Content-Type": "image/png"})
    problem(response, 413, "too-many-bytes")
    assert server.memory() - before < 300e6


class Memory:
    """The most that a process has while the block runs."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.most = self.rest = server.memory()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, self.server.memory())

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.slow
async def test_memory_is_bounded(server: Server) -> None:
    """Two GB that are announced or not, 24 large bodies at once, and JSON that would blow up: 300 MB at most."""
    address = f"http://127.0.0.1:{server.port}"

    async def endless() -> Any:
        for _ in range(2**31 // 2**20):
            yield b"x" * 2**20

    async with httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=40)) as client:
        await client.post("/v1/images", content=PNG, headers={"Content-Type": "image/png"})
        with Memory(server) as memory:
            for kind in ("image/png", "application/json", "multipart/form-data; boundary=b"):
                with contextlib.suppress(httpx.TransportError):  # it may hang up before all is sent
                    response = await client.post("/v1/images", content=endless(), headers={"Content-Type": kind})
                    assert response.status_code in (400, 413)
            bodies = {
                "image/png": b"x" * 30_000_000,
                "application/json": b'{"base64": "YQ==", "metadata": {"x": [' + b"[]," * 10_000_000 + b"1]}}",
                "multipart/form-data; boundary=b": (
                    b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + b"x" * 30_000_000
                ),
            }

            async def send(kind: str) -> int:
                try:
                    return (
                        await client.post("/v1/images", content=bodies[kind], headers={"Content-Type": kind})
                    ).status_code
                except httpx.TransportError:
                    return 503  # hung up on

            statuses = await asyncio.gather(*(send(kind) for kind in list(bodies) * 5))
            assert set(statuses) <= {400, 413, 422, 503}
        assert memory.most - memory.rest < 300e6, f"{(memory.most - memory.rest) / 1e6:.0f} MB"
        assert (await client.post("/v1/images", content=PNG, headers={"Content-Type": "image/png"})).status_code == 200


@pytest.mark.slow
async def test_bodies_and_the_pictures_drawn_from_them_share_the_memory(tmp_path: Path) -> None:
    """20 uploads at once of 18 MB, or of as many pixels as are drawn, and each is to come back as a picture."""
    large, many = np.full((2000, 3000, 3), 90, np.uint8), np.full((3600, 3600, 4), 90, np.uint8)
    bodies = [encoded(large, "BMP"), encoded(many, "WEBP", method=0)] * 10
    picture = "/v1/images?annotate=true"
    with Server(tmp_path, ELSEWHERE) as server:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
            await client.post(picture, content=PNG, headers={"Content-Type": "image/png"})
            with Memory(server) as memory:
                sent = (client.post(picture, content=body, headers={"Content-Type": "image/*"}) for body in bodies)
                answers = await asyncio.gather(*sent)
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                problem(answer, 503, "overloaded")
        assert memory.most - memory.rest < 300e6, f"{(memory.most - memory.rest) / 1e6:.0f} MB"


@pytest.mark.slow
async def test_memory_while_images_are_handed_over(tmp_path: Path) -> None:
    """64 uploads of 18 MB at once, each second one in a form."""
    image = encoded(np.full((2000, 3000, 3), 90, np.uint8), "BMP")
    with Server(tmp_path, JOBS) as server:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=120) as client:
            await client.post("/v1/jobs", content=PNG, headers={"Content-Type": "image/png"})
            with Memory(server) as memory:
                sent = (
                    client.post("/v1/jobs", files={"image": ("a.bmp", image)})
                    if number % 2
                    else client.post("/v1/jobs", content=image, headers={"Content-Type": "image/bmp"})
                    for number in range(64)
                )
                answers = await asyncio.gather(*sent)
        assert {answer.status_code for answer in answers} <= {202, 503}
        assert 202 in {answer.status_code for answer in answers}
        assert memory.most - memory.rest < 300e6, f"{(memory.most - memory.rest) / 1e6:.0f} MB"
