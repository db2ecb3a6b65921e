"""What strangers send: every one of these is refused with the right status, and the next request is answered."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import pytest
import pytest_asyncio
from gateways import PNG, STREET, app_over, client_of, config, post, problem
from intakes import LIMITS, place
from toys import encoded

from graph import LocalBackend
from serve_app.config.intake_config import SourcesConfig
from serve_app.http.job_desk import JobDesk
from serve_app.images.job_sources import Sources
from serve_app.queues import queue_from_url

# name, body, content type, statuses that are right
Case = tuple[str, bytes, str, set[int]]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2, *more: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(width: int, height: int, pages: int = 1, loop: bool = False) -> bytes:
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, 1),
    ]
    size = 2 + 12 * len(entries) + 4
    body = b""
    for page in range(pages):
        following = 8 if loop else (8 + size * (page + 1) if page + 1 < pages else 0)
        body += (
            struct.pack("<H", len(entries))
            + b"".join(struct.pack("<HHII", *entry) for entry in entries)
            + struct.pack("<I", following)
        )
    return b"II*\x00" + struct.pack("<I", 8) + body


def gif(frames: int, width: int = 1, height: int = 1) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\x00\x00\x00\xff\xff\xff"
        + frame * frames
        + b";"
    )


def webp(width: int, height: int) -> bytes:
    vp8x = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\x00\x00\x00\x00"
        + struct.pack("<I", width - 1)[:3]
        + struct.pack("<I", height - 1)[:3]
    )
    return b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x


def bmp(width: int, height: int, bits: int = 24) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    )


def jpeg_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(STREET, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bombs() -> Iterator[Case]:
    """More pixels or frames than there may be, said in the header; and headers that lie."""
    flat = zlib.compress(b"\0" * 3_000_000, 9)
    too_many = {422}
    for size in ((1001, 1000), (65_535, 65_535), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (1_000_001, 1)):
        yield f"png{size}", png(*size, flat), "image/png", too_many
        yield f"png-1bit{size}", png(*size, flat, 1, 0), "image/png", too_many
    for size in ((1001, 1000), (65_535, 65_535), (2**31, 2**31), (2**32 - 1, 1)):
        yield f"tiff{size}", tiff(*size), "image/tiff", too_many
    for size in ((1001, 1000), (16_383, 16_383), (2**24, 2**24)):
        yield f"webp{size}", webp(*size), "image/webp", too_many
    for size in ((1001, 1000), (-5, 5), (2**31 - 1, 2**31 - 1), (2**31 - 1, -(2**31)), (0, 0)):
        yield f"bmp{size}", bmp(*size), "image/bmp", too_many
    for size in ((1001, 1000), (65_535, 65_535), (0, 0)):
        yield f"jpeg{size}", jpeg_size(*size), "image/jpeg", too_many
    yield "gif-pixels", gif(1, 65_535, 65_535), "image/gif", too_many
    yield "gif-frames", gif(1500), "image/gif", too_many
    yield "gif-many-frames", gif(5500), "image/gif", too_many
    yield "tiff-pages", tiff(10, 10, 1700), "image/tiff", {413}
    yield "tiff-loop", tiff(10, 10, 2, loop=True), "image/tiff", {200, 422}
    yield (
        "png-text",
        png(10, 10, b"", 8, 2, *[chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 5_000_000, 9))] * 15),
        "image/png",
        too_many,
    )
    yield "png-chunks", png(10, 10, b"", 8, 2, *[chunk(b"tEXt", b"")] * 7000), "image/png", too_many
    yield (
        "png-profile",
        png(10, 10, b"", 8, 2, chunk(b"iCCP", b"k\0\0" + zlib.compress(b"x" * 50_000_000, 9))),
        "image/png",
        too_many,
    )
    yield "png-short", png(900, 900, zlib.compress(b"\0" * 10)), "image/png", too_many
    yield "jpeg-scans", scans(), "image/jpeg", too_many


def scans() -> bytes:
    data = encoded(STREET, "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * 150 + b"\xff\xd9"


SMALL = STREET[:64, :64]


def others() -> Iterator[Case]:
    """Not an image, or not one that is served, whatever it calls itself."""
    not_served = {415, 422}
    kinds = {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "svg-entity": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
        "heic": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        "avif": b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1avif",
        "jpeg2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
        "jxl": b"\xff\x0a\x00\x00",
        "psd": b"8BPS\x00\x01" + b"\0" * 20,
        "ico": b"\x00\x00\x01\x00\x01\x00\x10\x10",
        "tga": b"\x00\x00\x02" + b"\0" * 15,
        "ppm": b"P6 9999999 9999999 255\n",
        "xbm": b"#define x_width 99999\n#define x_height 99999\nstatic char x[] = {",
        "fits": b"SIMPLE  =                    T",
        "dds": b"DDS |\x00\x00\x00" + b"\xff" * 120,
        "mpo": b"\xff\xd8\xff\xe2",
        "wmf": b"\xd7\xcd\xc6\x9a" + b"\0" * 20,
        "mp4": b"\x00\x00\x00\x20ftypisom",
        "zip": b"PK\x03\x04" + b"\0" * 30,
        "gzip": b"\x1f\x8b\x08" + b"\0" * 10,
        "elf": b"\x7fELF\x02\x01\x01" + b"\0" * 30,
        "html": b"<html><img src=x onerror=alert(1)></html>",
        "php": b"<?php system($_GET['c']); ?>",
        "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "numpy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O'",
        "mvg": b"push graphic-context\nviewbox 0 0 9 9\nfill 'url(https://127.0.0.1/x.jpg\"|id\")'\n",
        "empty": b"",
        "zero": b"\0" * 1000,
        "spaces": b" " * 1000,
        "utf16": "hello".encode("utf-16"),
    }
    for name, data in kinds.items():
        for kind in ("image/jpeg", "image/png", "image/x-anything"):
            yield f"{name}-as-{kind}", data, kind, not_served
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        yield f"magic-{form}", encoded(STREET, form)[:12], f"image/{form.lower()}", {422}
        yield f"polyglot-behind-{form}", b"%PDF-1.4\n" + encoded(SMALL, form), "image/png", not_served
        yield f"polyglot-script-{form}", b"<script>" + encoded(SMALL, form), "image/png", not_served


def damaged() -> Iterator[Case]:
    """Photos that were cut off, and photos with bytes of chance; some of these can still be decoded."""
    chance = random.Random(5)
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        whole = encoded(np.asarray(chance.choices(range(256), k=48 * 64 * 3), np.uint8).reshape(48, 64, 3), form)
        for part in (0.02, 0.1, 0.3, 0.6, 0.9):
            cut = whole[: int(len(whole) * part)]
            yield f"cut-{form}-{part}", cut, f"image/{form.lower()}", {200, 422} if form == "GIF" else {422}
        for number in range(12):
            data = bytearray(whole)
            for _ in range(chance.choice([1, 4, 30])):
                data[chance.randrange(len(data) if number % 2 else min(64, len(data)))] = chance.randrange(256)
            yield f"noise-{form}-{number}", bytes(data), f"image/{form.lower()}", {200, 415, 422, 502}
    for number in range(12):
        yield f"chance-{number}", chance.randbytes(chance.choice([1, 100, 5000])), "image/jpeg", {415, 422}


def bodies() -> Iterator[Case]:
    """JSON and forms."""
    bad, b64 = {400}, base64.b64encode(PNG).decode()
    kind = "application/json"
    big = "9" * 5000
    for number, text in enumerate(
        [
            "",
            "null",
            "true",
            "1",
            '"x"',
            "[]",
            "{}",
            "{",
            "{}{}",
            '{"base64": null}',
            '{"base64": 1}',
            '{"base64": []}',
            '{"base64": "*"}',
            '{"base64": "a"}',
            '{"base64": "YQ==\\nYQ=="}',
            '{"base64": "YQ", "uri": "http://x/"}',
            '{"base64": "YQ==", "uri": null, "x": 1}',
            '{"uri": 1}',
            '{"uri": "' + "x" * 3000 + '"}',
            '{"uri": "http://x/", "metadata": []}',
            '{"base64": "YQ==", "__proto__": {}}',
            '{"BASE64": "YQ=="}',
            '{"base64": "\\ud800"}',
            '{"base64": "data:image/png;base64"}',
            "\ufeff{}",
            "{'base64': 'YQ=='}",
            "[" * 60_000,
            '{"a":' * 10_000,
        ]
    ):
        yield f"json-{number}", text.encode("utf-8", "surrogatepass"), kind, bad
    for number, metadata in enumerate(
        [
            "NaN",
            "{}",
            '{"x": NaN}',
            '{"x": Infinity}',
            '{"x": -Infinity}',
            '{"x": 1e999}',
            '{"x": ' + big + "}",
            '{"x": ' + "9" * 100 + "}",
            '{"x": "\\ud800"}',
            '{"\\udfff": 1}',
            '{"x": ' + "[" * 40 + "]" * 40 + "}",
            '{"x": ' + "[" * 900 + "]" * 900 + "}",
            '{"x": ' + "[" * 5000 + "]" * 5000 + "}",
            '{"x": [' + "[]," * 40_000 + "1]}",
            '{"x": "' + "y" * 70_000 + '"}',
        ]
    ):
        right = {200} if metadata == "{}" else bad
        yield f"metadata-{number}", f'{{"base64": "{b64}", "metadata": {metadata}}}'.encode(), kind, right
        form = f'--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{metadata}\r\n'.encode()
        yield (
            f"form-metadata-{number}",
            form + part("image", PNG) + b"--b--\r\n",
            "multipart/form-data; boundary=b",
            right,
        )
    nested = json.dumps({"metadata": {"base64": "A" * 240_000}, "base64": "YQ=="})
    yield "json-nested-image", nested.encode(), kind, bad
    yield "json-large-nothing", b'{"x": "' + b"y" * 270_000 + b'"}', kind, bad
    yield "json-large-no-end", b'{"base64": "' + b"A" * 270_000, kind, bad
    yield "json-large-escapes", b'{"base64": "' + b"\\/" * 135_000, kind, bad
    yield "json-large-bad-escape", b'{"base64": "' + b"A" * 270_000 + b'\\u12"}', kind, bad
    yield "json-many-images", b'{"base64": "' + b'","base64":"'.join([b"A" * 100] * 2400) + b'"}', kind, bad
    forms = {
        "none": b"",
        "no-end": part("image", PNG),
        "no-image": part("metadata", PNG) + b"--b--\r\n",
        "other-images": part("photo", PNG) + part("picture", PNG) + b"--b--\r\n",
        "two-images": part("image", PNG) * 2 + b"--b--\r\n",
        "two-fields": part("metadata", b"{}", False) * 2 + part("image", PNG) + b"--b--\r\n",
        "many-fields": part("x", b"y", False) * 500 + b"--b--\r\n",
        "text-image": part("image", b"x", False) + b"--b--\r\n",
        "file-metadata": part("metadata", b"{}") + b"--b--\r\n",
        "long-head": b"--b\r\nX: " + b"y" * 90_000 + b"\r\n\r\nx\r\n--b--\r\n",
        "many-heads": b"--b\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx\r\n--b--\r\n",
        "no-head": b"--b\r\n\r\nx\r\n--b--\r\n",
        "bad-charset": part("metadata", b"{}", False).replace(
            b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=x\r\n\r\n"
        )
        + b"--b--\r\n",
        "other-boundary": part("image", PNG).replace(b"--b", b"--c") + b"--c--\r\n",
        "bytes": bytes(range(256)) * 10,
    }
    for name, data in forms.items():
        yield f"form-{name}", data, "multipart/form-data; boundary=b", bad
    for number, boundary in enumerate(
        ["", "; boundary=", '; boundary="', "; boundary=" + "x" * 5000, "; boundary=\xff", "; charset=x; boundary=b"]
    ):
        yield f"boundary-{number}", part("image", PNG), f"multipart/form-data{boundary}", bad
    for number, other in enumerate(
        [
            "",
            "text/plain",
            "application/xml",
            "application/x-www-form-urlencoded",
            "multipart/mixed; boundary=b",
            "image",
            "*/*",
            "application/json2",
            "x" * 5000,
            "application/octet-stream",
        ]
    ):
        yield f"kind-{number}", b'{"base64": "YQ=="}', other, {415}
    yield "too-long", b"x" * 300_000, "image/png", {413}
    yield "too-long-json", b'{"base64": "' + b"A" * 300_000 + b'"}', kind, {413}
    yield (
        "too-long-image",
        encoded(np.random.default_rng(1).integers(0, 255, (200, 200, 3), np.uint8), "BMP"),
        "image/bmp",
        {413},
    )


def part(name: str, data: bytes, file: bool = True) -> bytes:
    named = f'; filename="../../etc/{name}"' if file else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + data + b"\r\n"


CASES = [*bombs(), *others(), *damaged(), *bodies()]


@pytest_asyncio.fixture
async def client(backend: LocalBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_over(backend)) as client:
        yield client


def test_there_are_enough() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 300


@pytest.mark.parametrize("group", ["bombs", "others", "damaged", "bodies"])
async def test_each_is_refused_and_the_next_is_answered(client: httpx.AsyncClient, group: str) -> None:
    wrong = []
    for name, data, kind, right in {"bombs": bombs, "others": others, "damaged": damaged, "bodies": bodies}[group]():
        response = await client.post("/v1/images", content=data, headers=[(b"content-type", kind.encode("latin-1"))])
        if response.status_code not in right:
            wrong.append((name, response.status_code, response.text[:300]))
        elif response.status_code >= 400:
            problem(response, response.status_code)
        assert (await client.get("/healthz")).status_code == 200
    assert wrong == []
    assert (await post(client)).status_code == 200


def jobs() -> Iterator[tuple[str, bytes, str, int]]:
    """Lists of jobs: name, body, content type, the status that is right."""
    kind, good = "application/json", '{"uri": "https://images.example/a.png"}'
    texts = [
        *("", "null", "true", "1", '"x"', "[]", "{}", "{", "[{}]", "[[]]", "[null]", f"[{good},]", f"{good}{good}"),
        *('{"uri": null}', '{"uri": ""}', '{"uri": 1}', '{"uri": ["x"]}', '{"uri": "' + "x" * 3000 + '"}'),
        '{"uri": "https://images.example/a.png", "id": "mine"}',
        '{"uri": "https://images.example/a.png", "owner": "other"}',
        '{"uri": "https://images.example/a.png", "metadata": []}',
        '{"uri": "https://images.example/a.png", "metadata": {"x": NaN}}',
        '{"uri": "https://images.example/a.png", "metadata": {"x": 1e999}}',
        '{"uri": "https://images.example/a.png", "metadata": {"x": ' + "[" * 40 + "]" * 40 + "}}",
        '{"uri": "https://images.example/a.png", "metadata": {"x": ' + "9" * 100 + "}}",
        '{"uri": "https://images.example/a.png", "metadata": {"\\udfff": 1}}',
        '{"uri": "https://images.example/a.png", "metadata": {"x": "' + "y" * 70_000 + '"}}',
        '{"uri": "https://images.example/a.png", "annotate": "yes please"}',
        '{"uri": "https://images.example/\\ud800.png"}',
        "[" * 60_000,
        "[" + ",".join([good] * 1001) + "]",
        "[" + "[]," * 60_000 + "[]]",
    ]
    for number, text in enumerate(texts):
        yield f"job-{number}", text.encode(), kind, 400
    for number, uri in enumerate(
        [
            *("file:///etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "/etc/passwd", "ftp://images.example/a"),
            *("http://images.example/a.png", "https://127.0.0.1/a.png", "https://[::1]/a.png", "https://2130706433/"),
            *("https://user@images.example/a.png", "https://images.example:22/", "https://images.example\\@127.0.0.1/"),
            *("https://images.example.evil.test/", "https://", "data:image/png;base64,AAAA", "gs://b/a", "s3://b/a"),
            *(" https://images.example/a.png", "https://images.example/a.png\r\nx: y", "https://ïmages.example/a b"),
            *("sqlite:///etc/passwd", "unix:///var/run/docker.sock", "s3://b/../a"),
        ]
    ):
        yield f"job-uri-{number}", json.dumps([{"uri": uri}]).encode(), kind, 403
    for other, status in {
        **dict.fromkeys(["", "text/plain", "application/xml"], 415),
        "image/png": 422,
        "multipart/form-data; boundary=b": 400,
    }.items():
        yield f"job-kind-{other}", good.encode(), other, status


async def test_jobs(backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = config()
    allowed = SourcesConfig(schemes=("https",), hosts=("images.example",))
    async with place(tmp_path) as at:
        desk = JobDesk(queue_from_url(at.url), at.store, Sources(allowed, rules.fetch, LIMITS, 4), at.uploads)
        async with client_of(app_over(backend, rules, desk=desk)) as client:
            for name, data, kind, right in jobs():
                headers = [(b"content-type", kind.encode())]
                response = await client.post("/v1/jobs", content=data, headers=headers)
                assert response.status_code == right, (name, response.text[:300])
                problem(response, right)
            for job in ("x", "../../etc/passwd", "%2e%2e%2fetc", "a" * 5000, "%00", "*", "job-%ff"):
                assert (await client.get(f"/v1/jobs/{job}")).status_code in (404, 400), job
            monkeypatch.setattr("serve_app.http.job_routes._MAX_BODY_BYTES", 1000)
            problem(await post_jobs(client, "[" + "[]," * 500 + "[]]"), 413, "too-many-bytes")
            assert await at.is_empty()
            assert (await post_jobs(client, '{"uri": "https://images.example/a.png"}')).status_code == 202


async def post_jobs(client: httpx.AsyncClient, text: str) -> httpx.Response:
    return await client.post("/v1/jobs", content=text, headers={"content-type": "application/json"})


HEADERS: list[tuple[bytes, bytes]] = [
    (b"host", b""),
    (b"host", b"["),
    (b"host", b"[::1"),
    (b"host", b"a b"),
    (b"host", b"\xff\xfe"),
    (b"host", b"evil.example:99999999"),
    (b"host", b"x" * 10_000),
    (b"x-request-id", b"\x00"),
    (b"x-request-id", b"a\r\nset-cookie: x=y"),
    (b"x-request-id", b"\xff" * 50),
    (b"x-request-id", b"x" * 10_000),
    (b"x-request-timeout-ms", b"0"),
    (b"x-request-timeout-ms", b"-5"),
    (b"x-request-timeout-ms", b"1e9"),
    (b"x-request-timeout-ms", b"9" * 5000),
    (b"x-request-timeout-ms", b"\xff"),
    (b"x-request-timeout-ms", b"0x10"),
    (b"x-request-timeout-ms", b"1, 2"),
    (b"x-forwarded-for", b"\xff, 127.0.0.1"),
    (b"x-forwarded-for", b"," * 5000),
    (b"x-forwarded-host", b"evil.example"),
    (b"forwarded", b"for=127.0.0.1"),
    (b"authorization", b"\xff\xfe"),
    (b"authorization", b"Bearer " + b"x" * 100_000),
    (b"authorization", b"Digest username=x"),
    (b"x-api-key", b"\x00"),
    (b"content-length", b"-1"),
    (b"content-length", b"abc"),
    (b"content-length", b"\xb2"),
    (b"content-length", b"9" * 5000),
    (b"cookie", b"a=" + b"x" * 50_000),
    (b"accept", b"text/html;q=nan"),
    (b"accept-encoding", b"gzip;q=1e999"),
    (b"range", b"bytes=0-"),
    (b"expect", b"200-maybe"),
    (b"transfer-encoding", b"gzip, chunked"),
    (b"upgrade", b"websocket"),
    (b"serve-multiplexed-model-id", b"../../etc"),
]


@pytest.mark.parametrize("header", HEADERS, ids=[f"{n.decode()}-{i}" for i, (n, _) in enumerate(HEADERS)])
async def test_headers(client: httpx.AsyncClient, header: tuple[bytes, bytes]) -> None:
    for method, path in (("POST", "/v1/images"), ("GET", "/healthz"), ("GET", "/none"), ("DELETE", "/v1/images")):
        sent = [(b"content-type", b"image/png"), header] if method == "POST" else [header]
        request = client.build_request(method, path, content=PNG if method == "POST" else None)
        keep = [(n, v) for n, v in request.headers.raw if n.lower() not in {name for name, _ in sent}]
        request.headers = httpx.Headers([*keep, *sent])
        response = await client.send(request)
        assert response.status_code < 500, response.text
        assert "set-cookie" not in response.headers
        assert "evil.example" not in response.text
        if response.status_code >= 400:
            problem(response, response.status_code)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/",
        "//v1/images",
        "/v1/images/../../etc/passwd",
        "/v1/%69mages/..%2f..%2fetc",
        "/v1/images%00",
        "/V1/IMAGES",
        "/v1/images;x=y",
        "/%ff%fe",
        "/" + "x" * 10_000,
        "/-/healthz",
        "/docs/../v1/pipeline/",
        "/.env",
        "/static/../../secrets",
        "//evil.example/",
    ],
)
async def test_paths(client: httpx.AsyncClient, path: str) -> None:
    response = await client.send(
        client.build_request("GET", httpx.URL("http://test").copy_with(raw_path=path.encode()))
    )
    assert response.status_code in (200, 404, 405)
    assert "location" not in response.headers


@pytest.mark.parametrize(
    "query", ["annotate=maybe", "annotate=", "annotate=true&annotate=x", "annotate=%ff", "annotate=" + "1" * 10_000]
)
async def test_queries(client: httpx.AsyncClient, query: str) -> None:
    problem(
        await client.post(f"/v1/images?{query}", content=PNG, headers={"content-type": "image/png"}), 400, "malformed"
    )


async def test_bodies_together_are_bounded(backend: LocalBackend) -> None:
    import asyncio

    async def slowly(release: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"x" * 130_000
        await release.wait()

    release = asyncio.Event()
    async with client_of(app_over(backend, config(max_bodies_mb=1))) as client:
        waiting = [asyncio.create_task(post(client, slowly(release))) for _ in range(12)]
        done, _ = await asyncio.wait(waiting, timeout=3, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 4:
            more, _ = await asyncio.wait(set(waiting) - done, timeout=3, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        for task in done:
            problem(task.result(), 503, "overloaded")
        release.set()
        await asyncio.gather(*waiting)
        assert (await post(client)).status_code == 200  # the room is given back


async def test_large_json_and_escaped_slashes(client: httpx.AsyncClient) -> None:
    image = encoded(np.random.default_rng(1).integers(0, 255, (170, 170, 3), np.uint8))
    text = base64.b64encode(image).decode()
    assert len(text) > 100_000
    for body in (
        json.dumps({"base64": text, "metadata": {"a": 1}}),
        json.dumps({"metadata": {"a": 1}, "base64": text}),
        json.dumps({"base64": text, "metadata": {"a": 1}}).replace("/", "\\/"),
    ):
        response = await post(client, body.encode(), "application/json")
        assert response.status_code == 200
        assert response.json()["metadata"] == {"a": 1}


def test_the_bombs_are_what_they_say() -> None:
    with PIL.Image.open(io.BytesIO(gif(3))) as image:
        assert image.n_frames == 3
    with PIL.Image.open(io.BytesIO(tiff(10, 10, 3))) as image:
        assert image.n_frames == 3
