"""Images behind a ``uri``: addresses that must not be asked, and a real server on this machine that tells what was."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import pytest_asyncio
from gateways import PNG, app_over, client_of, config, problem

from graph import LocalBackend
from serve_app.images import fetching


class Site:
    """A web server on all loopback addresses that notes every request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hosts: list[str] = []
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.slow: set[str] = set()
        self.release = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.hosts.append(self.headers["Host"])
                status, headers, body = site.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                    self.wfile.flush()
                    if self.path in site.slow:
                        site.release.wait(5)
                    elif self.path == "/endless":
                        while not site.release.is_set():
                            self.wfile.write(b"x" * 10_000)
                except OSError:
                    pass

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
            daemon_threads = True

            def server_bind(self) -> None:
                if self.address_family == socket.AF_INET6:
                    self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                super().server_bind()

        try:
            self.server = Server(("::", 0), Handler)
        except OSError:  # a machine without IPv6
            Server.address_family = socket.AF_INET
            self.server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def page(
        self, path: str, body: bytes = PNG, kind: str | None = "image/png", status: int = 200, **headers: str
    ) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (status, {**({"Content-Type": kind} if kind else {}), **named}, body)

    def redirect(self, path: str, to: str, status: int = 302) -> None:
        self.pages[path] = (status, {"Location": to}, b"")


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.page("/a.png")
    yield site
    site.release.set()
    site.server.shutdown()
    site.server.server_close()


def rules(site: Site, **fetch: Any) -> Any:
    block = {"schemes": ["http", "https"], "ports": [site.port, 80, 443], "timeout_s": 2, **fetch}
    return config(fetch=block)


@pytest_asyncio.fixture
async def strict(backend: LocalBackend, site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that fetches from the public internet only."""
    async with client_of(app_over(backend, rules(site))) as client:
        yield client


@pytest_asyncio.fixture
async def friendly(backend: LocalBackend, site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that may ask this machine: its operator has said so."""
    async with client_of(app_over(backend, rules(site, private_networks=["127.0.0.0/8", "::1/128"]))) as client:
        yield client


async def ask(client: httpx.AsyncClient, uri: str, **more: Any) -> httpx.Response:
    return await client.post("/v1/images", json={"uri": uri}, **more)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], list[str]]]:
    """A resolver of our own: names to what they mean now. Others go to the system."""
    table: dict[str, Callable[[], list[str]]] = {}
    system = fetching.resolve

    async def resolve(host: str, port: int) -> list[str]:
        return table[host]() if host in table else await system(host, port)

    monkeypatch.setattr(fetching, "resolve", resolve)
    return table


# {port} is a server on this machine: every one of these would reach it, or something else inside.
SPELLINGS = [
    "http://127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}",
    "HTTP://127.0.0.1:{port}/a.png",
    "http://127.1:{port}/a.png",
    "http://127.0.1:{port}/a.png",
    "http://127.255.255.254:{port}/a.png",
    "http://0:{port}/a.png",
    "http://0.0.0.0:{port}/a.png",
    "http://2130706433:{port}/a.png",
    "http://0x7f000001:{port}/a.png",
    "http://0x7f.0x0.0x0.0x1:{port}/a.png",
    "http://0x7f.1:{port}/a.png",
    "http://0177.0.0.1:{port}/a.png",
    "http://0177.0.0.01:{port}/a.png",
    "http://017700000001:{port}/a.png",
    "http://00000177.1:{port}/a.png",
    "http://127.0x0.0.1:{port}/a.png",
    "http://%31%32%37.0.0.1:{port}/a.png",
    "http://127%2e0%2e0%2e1:{port}/a.png",
    "http://localhost:{port}/a.png",
    "http://LOCALHOST:{port}/a.png",
    "http://localhost.:{port}/a.png",
    "http://127.0.0.1.:{port}/a.png",
    "http://[::1]:{port}/a.png",
    "http://[0:0:0:0:0:0:0:1]:{port}/a.png",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]:{port}/a.png",
    "http://[::]:{port}/a.png",
    "http://[::ffff:127.0.0.1]:{port}/a.png",
    "http://[::ffff:7f00:1]:{port}/a.png",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/a.png",
    "http://[::127.0.0.1]:{port}/a.png",
    "http://[64:ff9b::127.0.0.1]:{port}/a.png",
    "http://[64:ff9b::7f00:1]:{port}/a.png",
    "http://[2002:7f00:1::]:{port}/a.png",
    "http://[2001:0:7f00:1::1]:{port}/a.png",
    "http://[fe80::1]:{port}/a.png",
    "http://[fe80::1%25lo]:{port}/a.png",
    "http://[::1%25lo]:{port}/a.png",
    "http://[fc00::1]/a.png",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[ff02::1]/a.png",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://169.254.169.254/metadata/instance?api-version=2021-02-01",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://0251.0376.0251.0376/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://169.254.170.2/v2/credentials/",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/machine?comp=goalstate",
    "http://192.0.0.192/opc/v2/instance/",
    "http://10.0.0.1/a.png",
    "http://010.0.0.1/a.png",
    "http://172.16.0.1/a.png",
    "http://192.168.1.1/a.png",
    "http://100.64.0.1/a.png",
    "http://198.18.0.1/a.png",
    "http://224.0.0.1/a.png",
    "http://255.255.255.255/a.png",
    "http://192.0.2.1/a.png",
    "https://127.0.0.1:{port}/a.png",
    "https://[::1]:{port}/a.png",
    "http://user@127.0.0.1:{port}/a.png",
    "http://user:secret@127.0.0.1:{port}/a.png",
    "http://example.com@127.0.0.1:{port}/a.png",
    "http://example.com:80@127.0.0.1:{port}/a.png",
    "http://example.com%40127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}@example.com/a.png",
    "http://@127.0.0.1:{port}/a.png",
    "http://example.com\\@127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}\\@example.com/a.png",
    "http:\\\\127.0.0.1:{port}/a.png",
    "http:/127.0.0.1:{port}/a.png",
    "http:127.0.0.1:{port}/a.png",
    "http:///127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}#@example.com/",
    "http://127.0.0.1:{port}?@example.com/",
    " http://127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}/a.png ",
    "http://127.0.0.1\t:{port}/a.png",
    "ht\ntp://127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}/a.png\r\nX-Injected: 1",
    "http://127.0.0.1:{port}/a b.png",
    "http://①②⑦.⓪.⓪.①:{port}/a.png",
    "http://127。0。0。1:{port}/a.png",
    "http://\uff11\uff12\uff17.0.0.1:{port}/a.png",
    "http://ⓛocalhost:{port}/a.png",
    "http://127.0.0.1\u200b:{port}/a.png",
    "http://:{port}/a.png",
    "http://[]:{port}/a.png",
    "http://[::1:{port}/a.png",
    "http://[v1.::1]:{port}/a.png",
    "http://127.0.0.1:99999/a.png",
    "http://127.0.0.1:-1/a.png",
    "http://127.0.0.1:0/a.png",
    "http://127.0.0.1:22/",
    "http://8.8.8.8:6379/",
    "//127.0.0.1:{port}/a.png",
    "127.0.0.1:{port}/a.png",
    "/etc/passwd",
    "",
    "http",
    "http:",
    "http://",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://localhost/etc/passwd",
    "file:/etc/passwd",
    "ftp://127.0.0.1:{port}/a.png",
    "gopher://127.0.0.1:6379/_INFO",
    "dict://127.0.0.1:6379/INFO",
    "ldap://127.0.0.1/",
    "jar:http://127.0.0.1:{port}/a.png!/",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "url:http://127.0.0.1:{port}/a.png",
    "s3://bucket/key.png",
    "s3:///key.png",
    "gs://bucket/key.png",
]


def test_there_are_enough() -> None:
    assert len(set(SPELLINGS)) == len(SPELLINGS) >= 60


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_nothing_inside_is_asked(strict: httpx.AsyncClient, site: Site, spelling: str) -> None:
    uri = spelling.replace("{port}", str(site.port))
    problem(await ask(strict, uri), 403, "forbidden")
    assert site.asked == []


@pytest.mark.parametrize("spelling", [s for s in SPELLINGS if "{port}" in s and s.startswith("http://1")][:3])
async def test_the_suite_would_notice(friendly: httpx.AsyncClient, site: Site, spelling: str) -> None:
    await ask(friendly, spelling.replace("{port}", str(site.port)))
    assert site.asked


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_the_inside(
    backend: LocalBackend, site: Site, names: dict[str, Callable[[], list[str]]], status: int
) -> None:
    """The first address may be asked, and the second is on the same machine by another address."""
    async with client_of(app_over(backend, rules(site, private_networks=["127.0.0.9/32"]))) as client:
        for number, to in enumerate(
            [
                f"http://127.0.0.1:{site.port}/secret",
                f"http://[::1]:{site.port}/secret",
                f"//127.0.0.1:{site.port}/secret",
                f"http://2130706433:{site.port}/secret",
                "http://169.254.169.254/secret",
                "file:///etc/passwd",
                "ftp://127.0.0.9/secret",
                "s3://bucket/secret",
                f"http://user@127.0.0.9:{site.port}/secret",
                "http://127.0.0.9:22/secret",
                "http://127.0.0.9 /secret",
                "\\\\127.0.0.1\\secret",
            ]
        ):
            site.redirect(f"/{number}", to, status)
            problem(await ask(client, f"http://127.0.0.9:{site.port}/{number}"), 403, "forbidden")
        assert not any("secret" in path for path in site.asked)


async def test_redirects_that_may_be_followed(friendly: httpx.AsyncClient, site: Site) -> None:
    site.redirect("/1", "/2")
    site.redirect("/2", f"http://127.0.0.1:{site.port}/3")
    site.redirect("/3", "a.png")
    assert (await ask(friendly, f"http://127.0.0.1:{site.port}/1")).status_code == 200
    site.redirect("/0", "/1")
    problem(await ask(friendly, f"http://127.0.0.1:{site.port}/0"), 502, "fetch-failed")
    site.redirect("/loop", "/loop")
    problem(await ask(friendly, f"http://127.0.0.1:{site.port}/loop"), 502, "fetch-failed")
    site.pages["/nowhere"] = (302, {}, b"")
    problem(await ask(friendly, f"http://127.0.0.1:{site.port}/nowhere"), 502, "fetch-failed")


async def test_a_name_that_changes_its_mind(
    backend: LocalBackend, site: Site, names: dict[str, Callable[[], list[str]]]
) -> None:
    """Rebinding: good at first, inside the next time. It is resolved once, and that address is used."""
    asked = []

    def rebinding() -> list[str]:
        asked.append(1)
        return ["127.0.0.9"] if len(asked) == 1 else ["127.0.0.1"]

    names["rebinding.example"] = rebinding
    uri = f"http://rebinding.example:{site.port}/a.png"
    async with client_of(app_over(backend, rules(site, private_networks=["127.0.0.9/32"]))) as client:
        assert (await ask(client, uri)).status_code == 200
        assert len(asked) == 1
        assert site.hosts == [f"rebinding.example:{site.port}"]
        problem(await ask(client, uri), 403, "forbidden")  # no connection is kept: it is checked again
        assert len(site.asked) == 1


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["2606:4700::1", "fe80::1"],
        [],
        ["nonsense"],
    ],
)
async def test_names_of_the_inside(
    strict: httpx.AsyncClient, site: Site, names: dict[str, Callable[[], list[str]]], addresses: list[str]
) -> None:
    names["inside.example"] = lambda: addresses
    problem(await ask(strict, f"http://inside.example:{site.port}/a.png"), 403, "forbidden")
    assert site.asked == []


async def test_a_name_that_means_nothing(strict: httpx.AsyncClient, names: dict[str, Callable[[], list[str]]]) -> None:
    def nothing() -> list[str]:
        raise socket.gaierror("no such name")

    names["nothing.example"] = nothing
    problem(await ask(strict, "http://nothing.example/a.png"), 502, "fetch-failed")


async def test_a_good_one(friendly: httpx.AsyncClient, site: Site) -> None:
    uri = f"http://127.0.0.1:{site.port}/a.png"
    response = await ask(friendly, uri)
    assert response.status_code == 200
    assert response.json()["image"]["uri"] == uri
    assert response.json()["context"]["detect"]["detected_classes"] == ["car", "person"]


ENCODED = [
    ("/a b.png", "/a%20b.png"),
    ("/Straße/ü.png", "/Stra%C3%9Fe/%C3%BC.png"),
    ("/車 \U0001f600.png", "/%E8%BB%8A%20%F0%9F%98%80.png"),
    ("/a%20b.png", "/a%20b.png"),
    ("/100%.png", "/100%.png"),
    ('/"<>`{|}^.png', "/%22%3C%3E%60%7B|%7D^.png"),
    ("/a.png?q=ü b&c=d/é", "/a.png?q=%C3%BC%20b&c=d/%C3%A9"),
    ("/a.png?w=\\", "/a.png?w=\\"),
    ("/no\u00a0break\u202f.png", "/no%C2%A0break%E2%80%AF.png"),
    ("/a.png#part 1", "/a.png"),
    ("/a.png \n", "/a.png"),
]


@pytest.mark.parametrize(("path", "asked"), ENCODED)
async def test_addresses_are_encoded_as_browsers_do(
    friendly: httpx.AsyncClient, site: Site, path: str, asked: str
) -> None:
    site.page(asked)
    uri = f"http://127.0.0.1:{site.port}{path}"
    response = await ask(friendly, uri)
    assert response.status_code == 200, response.text
    assert site.asked == [asked]
    assert response.json()["image"]["uri"] == uri


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        (b"/a b.png", "/a%20b.png"),
        ("/ü.png".encode(), "/%C3%BC.png"),
        (b"/\xfc.png", "/%FC.png"),
        (b"/a%20b.png", "/a%20b.png"),
        ("ü b.png?x=\U0001f600".encode(), "/%C3%BC%20b.png?x=%F0%9F%98%80"),
    ],
)
async def test_redirects_are_encoded_too(friendly: httpx.AsyncClient, site: Site, location: bytes, asked: str) -> None:
    site.redirect("/r", location.decode("latin-1"))  # as http.server writes headers
    site.page(asked)
    response = await ask(friendly, f"http://127.0.0.1:{site.port}/r")
    assert response.status_code == 200, response.text
    assert site.asked == ["/r", asked]


@pytest.mark.parametrize("pattern", ["bücher.example", "xn--bcher-kva.example", "*.EXAMPLE"])
async def test_international_names(
    backend: LocalBackend, site: Site, names: dict[str, Callable[[], list[str]]], pattern: str
) -> None:
    names["xn--bcher-kva.example"] = lambda: ["127.0.0.1"]
    allowed = rules(site, private_networks=["127.0.0.0/8"], hosts=[pattern])
    site.redirect("/r", f"http://bücher.example:{site.port}/a.png".encode().decode("latin-1"))
    async with client_of(app_over(backend, allowed)) as client:
        for host in ("bücher.example", "BÜCHER.example", "xn--bcher-kva.example"):
            for path in ("/a.png", "/r"):
                response = await ask(client, f"http://{host}:{site.port}{path}")
                assert response.status_code == 200, response.text
        problem(await ask(client, f"http://xn--bcher-kva.test:{site.port}/a.png"), 403, "forbidden")
    assert set(site.hosts) == {f"xn--bcher-kva.example:{site.port}"}


async def test_hosts_that_are_listed(
    backend: LocalBackend, site: Site, names: dict[str, Callable[[], list[str]]]
) -> None:
    for name in ("a.example", "b.a.example", "xa.example", "a.example.evil.test"):
        names[name] = lambda: ["127.0.0.1"]
    allowed = rules(site, private_networks=["127.0.0.0/8"], hosts=["a.example", "*.a.example"])
    async with client_of(app_over(backend, allowed)) as client:
        for name, status in (
            ("a.example", 200),
            ("b.a.example", 200),
            ("A.EXAMPLE", 200),
            ("xa.example", 403),
            ("a.example.evil.test", 403),
        ):
            assert (await ask(client, f"http://{name}:{site.port}/a.png")).status_code == status


@pytest.mark.parametrize(
    ("page", "status", "kind"),
    [
        ({"status": 404}, 502, "fetch-failed"),
        ({"status": 401}, 502, "fetch-failed"),
        ({"status": 500}, 502, "fetch-failed"),
        ({"status": 206}, 502, "fetch-failed"),
        ({"kind": "text/html; charset=utf-8", "body": b"<html>log in</html>"}, 415, "unsupported-image"),
        ({"kind": "application/json", "body": b"{}"}, 415, "unsupported-image"),
        ({"kind": "image/jpeg", "body": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}, 415, "unsupported-image"),
        ({"kind": None, "body": b"x"}, 422, "bad-image"),
        ({"kind": "application/octet-stream", "body": b"x"}, 422, "bad-image"),
        ({"body": b"<html>"}, 422, "bad-image"),
        ({"body": b""}, 422, "bad-image"),
        ({"body": b"x" * 100_001}, 413, "too-many-bytes"),
        ({"Content_Length": "999999999999"}, 413, "too-many-bytes"),
        ({"Content_Length": "999"}, 502, "fetch-failed"),  # and then it hangs up
        ({"Content_Encoding": "gzip"}, 502, "fetch-failed"),
        ({"Transfer_Encoding": "chunked"}, 502, "fetch-failed"),  # and it is not
    ],
)
async def test_answers_that_are_no_image(
    friendly: httpx.AsyncClient, site: Site, page: dict[str, Any], status: int, kind: str
) -> None:
    site.page("/page", **page)
    problem(await ask(friendly, f"http://127.0.0.1:{site.port}/page"), status, kind)
    assert (await ask(friendly, f"http://127.0.0.1:{site.port}/a.png")).status_code == 200


async def test_an_answer_without_end(friendly: httpx.AsyncClient, site: Site) -> None:
    site.page("/endless")
    problem(await ask(friendly, f"http://127.0.0.1:{site.port}/endless"), 413, "too-many-bytes")


async def test_an_answer_that_never_comes(backend: LocalBackend, site: Site) -> None:
    site.page("/slow", b"", Content_Length="500")
    site.slow.add("/slow")
    slow = rules(site, private_networks=["127.0.0.0/8"], timeout_s=0.3)
    async with client_of(app_over(backend, slow)) as client:
        uri, started = f"http://127.0.0.1:{site.port}/slow", time.monotonic()
        problem(await ask(client, uri), 502, "fetch-failed")
        problem(await ask(client, uri, headers={"X-Request-Timeout-Ms": "100"}), 408, "deadline-exceeded")
        assert time.monotonic() - started < 2


async def test_nobody_listens(backend: LocalBackend, site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        closed = rules(site, private_networks=["127.0.0.0/8"], ports=[port, site.port])
        async with client_of(app_over(backend, closed)) as client:
            problem(await ask(client, f"http://127.0.0.1:{port}/a.png"), 502, "fetch-failed")
            problem(await ask(client, f"https://127.0.0.1:{site.port}/a.png"), 502, "fetch-failed")  # speaks no TLS


async def test_nothing_is_fetched_by_default(backend: LocalBackend, site: Site) -> None:
    async with client_of(app_over(backend)) as client:
        for uri in (f"http://127.0.0.1:{site.port}/a.png", "https://example.com/a.png", "s3://bucket/a.png"):
            problem(await ask(client, uri), 403, "forbidden")
    assert site.asked == []


@pytest.mark.parametrize(
    "kind",
    ["image/jpg", "image/pjpeg", "image/x-png", "binary/octet-stream", "application/octet-stream", "text/plain", None],
)
async def test_the_bytes_decide_what_it_is(friendly: httpx.AsyncClient, site: Site, kind: str | None) -> None:
    site.page("/page", kind=kind)
    assert (await ask(friendly, f"http://127.0.0.1:{site.port}/page")).status_code == 200


async def test_content_types_that_the_operator_lists(backend: LocalBackend, site: Site) -> None:
    allowed = rules(site, private_networks=["127.0.0.0/8"], content_types=["image/png"])
    async with client_of(app_over(backend, allowed)) as client:
        for kind, status in (("image/png", 200), ("image/jpeg", 415), (None, 415)):
            site.page("/page", kind=kind)
            assert (await ask(client, f"http://127.0.0.1:{site.port}/page")).status_code == status
