"""Bodies as the clients of many languages send them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from urllib.parse import quote, quote_from_bytes

import httpx
import numpy as np
import pytest
import pytest_asyncio
from gateways import PNG, app_over, client_of, post, problem
from toys import encoded

from graph import Frame, LocalBackend
from serve_app.http.base64_text import decode_base64
from serve_app.http.json_bodies import PIECE_BYTES, utf8
from serve_app.http.problems import Malformed

B64 = base64.b64encode(PNG).decode()
JPEG = encoded(np.zeros((32, 32, 3), np.uint8), "JPEG")


@pytest_asyncio.fixture
async def client(backend: LocalBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_over(backend)) as client:
        yield client


async def post_json(client: httpx.AsyncClient, body: bytes, kind: str = "application/json") -> httpx.Response:
    return await post(client, body, kind)


def lines(text: str, ending: str) -> str:
    return ending.join(text[at : at + 76] for at in range(0, len(text), 76))


class TestBytes:
    @pytest.mark.parametrize(
        "kind",
        [
            None,
            "application/octet-stream",
            "binary/octet-stream",
            "Application/Octet-Stream; charset=binary",
            "IMAGE/PNG",
            "image/jpg",  # and it is a PNG
            "image/*",
            "*/*",
            "application/x-www-form-urlencoded",  # curl --data-binary
            "text/plain; charset=utf-8",
            "application/json",  # a client's default
        ],
    )
    async def test_the_bytes_decide_what_it_is(self, client: httpx.AsyncClient, kind: str | None) -> None:
        response = await post(client, PNG, kind)
        assert response.status_code == 200
        assert response.json()["image"]["width"] == 320

    @pytest.mark.parametrize("kind", [None, "application/octet-stream", "image/x-anything"])
    async def test_bytes_that_are_no_image(self, client: httpx.AsyncClient, kind: str | None) -> None:
        problem(await post(client, b"hello " * 10, kind), 422, "bad-image")
        problem(await post(client, b"\0\0\0\x18ftypheic", kind), 415, "unsupported-image")

    async def test_json_that_says_it_is_something_else(self, client: httpx.AsyncClient) -> None:
        # a web page may send these types to any server without asking it first
        for kind in (None, "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
            body = problem(await post(client, b'{"uri": "https://x/"}', kind), 415, "unsupported-body")
            assert "looks like JSON" in body["detail"]

    @pytest.mark.parametrize(
        ("body", "what"),
        [
            (b'\xef\xbb\xbf {"uri": "https://x/"}', "JSON"),
            (b"uri=https%3A%2F%2Fx%2F", "application/x-www-form-urlencoded"),
            (b"--b\r\nContent-Disposition: form-data; name=image", "multipart/form-data"),
        ],
    )
    async def test_what_a_body_looks_like_is_said(self, client: httpx.AsyncClient, body: bytes, what: str) -> None:
        for kind in (None, "application/x-www-form-urlencoded"):
            detail = problem(await post(client, body, kind), 415, "unsupported-body")["detail"]
            assert f"looks like {what}" in detail or f"looks like a form in {what}" in detail

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity"])
    async def test_a_compressed_body(self, client: httpx.AsyncClient, encoding: str) -> None:
        response = await post(client, b"\x1f\x8b\x08" + b"\0" * 20, headers={"Content-Encoding": encoding})
        assert encoding in problem(response, 415, "unsupported-body")["detail"]

    async def test_a_body_that_says_it_is_not_compressed(self, client: httpx.AsyncClient) -> None:
        assert (await post(client, headers={"Content-Encoding": "identity"})).status_code == 200

    async def test_chunks(self, client: httpx.AsyncClient) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(PNG), 100):
                yield PNG[at : at + 100]

        assert (await post(client, chunks())).status_code == 200


class TestJson:
    @pytest.mark.parametrize(
        "kind",
        [
            "application/json; charset=utf-8",
            'application/json;charset="UTF-8"',
            "Application/JSON",
            "text/json",
            "application/vnd.example+json",
            "application/x-json",
        ],
    )
    async def test_content_types(self, client: httpx.AsyncClient, kind: str) -> None:
        assert (await post_json(client, json.dumps({"base64": B64}).encode(), kind)).status_code == 200

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    async def test_encodings(self, client: httpx.AsyncClient, encoding: str) -> None:
        text = json.dumps({"metadata": {"site": "K\u00f6ln"}, "base64": B64}, ensure_ascii=False)
        response = await post_json(client, text.encode(encoding))
        assert response.status_code == 200
        assert response.json()["metadata"] == {"site": "K\u00f6ln"}
        large = '{"note": "' + "\u00e4\U0001f600" * PIECE_BYTES + '"}'
        assert utf8(large.encode(encoding)) == large.encode()

    @pytest.mark.parametrize("charset", ["iso-8859-1", '"ISO-8859-1"', "windows-1252", "utf-8", "us-ascii"])
    async def test_charsets(self, client: httpx.AsyncClient, charset: str) -> None:
        body = {"metadata": {"site": "K\u00f6ln"}, "base64": B64}
        kind = f"application/json; charset={charset}"
        assert (await post_json(client, json.dumps(body, ensure_ascii=False).encode(), kind)).json()["metadata"] == {
            "site": "K\u00f6ln"
        }
        response = await post_json(client, json.dumps(body, ensure_ascii=False).encode("latin-1"), kind)
        if charset in ("utf-8", "us-ascii"):
            problem(response, 400, "malformed")
        else:
            assert response.json()["metadata"] == {"site": "K\u00f6ln"}

    async def test_bytes_in_no_encoding(self, client: httpx.AsyncClient) -> None:
        problem(await post_json(client, b"\xff\xfe{"), 400, "malformed")
        problem(await post_json(client, b'{"base64": "\xff"}'), 400, "malformed")

    @pytest.mark.parametrize(
        "null", [{"metadata": None}, {"uri": None, "metadata": None}, {"annotate": None, "id": None}]
    )
    async def test_null_is_as_if_left_out(self, client: httpx.AsyncClient, null: dict[str, None]) -> None:
        response = await client.post("/v1/images", json={"base64": B64, **null})
        assert response.status_code == 200
        assert response.json()["metadata"] == {}

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"image": B64}, "no key 'image'; did you mean 'base64'?"),
            ({"image": B64 * 400}, "is 'image' the image? its key is 'base64'"),
            ({"data": B64}, "no key 'data'; did you mean 'base64'?"),
            ({"image_url": "https://x/a.png"}, "no key 'image_url'; did you mean 'uri'?"),
            ({"url": "https://x/a.png"}, "did you mean 'uri'?"),
            ({"Base64": B64}, "did you mean 'base64'?"),
            ({"base64": B64, "meta": {"a": 1}}, "no key 'meta'; did you mean 'metadata'?"),
            ({"base64": B64, "threshold": 0.5}, "no key 'threshold'; there are base64, uri, metadata"),
            ({"base64": B64, "metadata": {"thumbnail": "A" * 70_000}}, "65,536 bytes"),
            ({"base64": B64, "metadata": {"thumbnail": "A" * 210_000}}, "beside the image"),
        ],
    )
    async def test_a_wrong_key_is_named(self, client: httpx.AsyncClient, body: dict[str, object], said: str) -> None:
        assert said in problem(await client.post("/v1/images", json=body), 400, "malformed")["detail"]

    async def test_large_bodies_with_other_strings(self, backend: LocalBackend) -> None:
        image = encoded(np.random.default_rng(1).integers(0, 255, (170, 170, 3), np.uint8))
        text = base64.b64encode(image).decode()
        metadata = {"note": 'say "hi" \\ and \\" too', "base64": "short"}
        async with client_of(app_over(backend)) as client:
            for body in ({"base64": text, "metadata": metadata}, {"metadata": metadata, "base64": text}):
                response = await client.post("/v1/images", json=body)
                assert response.status_code == 200
                assert response.json()["metadata"] == metadata


FORMS = {
    "data URI": f"data:image/png;base64,{B64}",
    "data URI in capitals": f"DATA:image/png;name=a.png;BASE64,{B64}",
    "data URI without a type": f"data:;base64,{B64}",
    "data URI after an empty line": f"\n data:image/png;base64,{B64}",
    "data URI in lines": f"data:image/png;base64,{lines(B64, chr(10))}",
    "data URI without base64": f"data:image/png,{quote_from_bytes(PNG)}",
    "newline at the end": f"{B64}\n",
    "lines": lines(B64, "\n"),
    "lines of Windows": lines(B64, "\r\n"),
    "tabs and spaces": f" {B64[:40]}\t{B64[40:]} ",
    "for URLs": base64.urlsafe_b64encode(PNG).decode(),
    "without padding": B64.rstrip("="),
    "for URLs without padding": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
    "percent-encoded": quote(B64, safe=""),
    "percent-encoded data URI": f"data:image/png;base64,{quote(B64, safe='')}",
}


class TestBase64:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("slashes", [False, True], ids=["plain", "escaped"])
    async def test_forms(self, client: httpx.AsyncClient, form: str, slashes: bool) -> None:
        body = json.dumps({"base64": FORMS[form]})
        response = await post_json(client, (body.replace("/", "\\/") if slashes else body).encode())
        assert response.status_code == 200, response.text
        assert response.json()["image"]["width"] == 320

    @pytest.mark.parametrize(
        "text", ["####", "A", "AAAAA", "YQ==YQ==", "YQ=Q", "data:image/png;base64", "A*AA", "\u00e4AAA"]
    )
    async def test_what_is_none(self, client: httpx.AsyncClient, text: str) -> None:
        problem(await client.post("/v1/images", json={"base64": text}), 400, "malformed")

    @pytest.mark.parametrize(
        "size", [0, 1, 2, 3, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES * 3 // 4, 3 * PIECE_BYTES + 7]
    )
    def test_pieces(self, size: int) -> None:
        data = np.random.default_rng(size).bytes(size)
        text = base64.b64encode(data).decode()
        for form in (text, lines(text, "\n"), lines(text, "\r\n"), text.replace("=", ""), text.replace("+", "-")):
            assert decode_base64(form.encode()) == data
            in_json = json.dumps(form).replace("/", "\\/").replace("+", "\\u002b").encode()
            assert decode_base64(in_json, 1, len(in_json) - 1, in_json=True) == data

    @pytest.mark.parametrize("tail", ["=QQ==", "*", "=" * 5 + "A"])
    def test_mistakes_in_later_pieces(self, tail: str) -> None:
        with pytest.raises(Malformed, match="not base64"):
            decode_base64(b"A" * 2 * PIECE_BYTES + tail.encode())

    def test_too_many_percent_signs(self) -> None:
        with pytest.raises(Malformed, match="percent"):
            decode_base64(b"%41" * 500_001)


def part(name: str, data: bytes, filename: str | None = None, *headers: str) -> bytes:
    named = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    head = "\r\n".join([f"--b\r\nContent-Disposition: {named}", *headers])
    return f"{head}\r\n\r\n".encode() + data + b"\r\n"


async def post_form(client: httpx.AsyncClient, *parts: bytes, boundary: str = "b") -> httpx.Response:
    body = b"".join(parts) + b"--b--\r\n"
    return await post(client, body, f"multipart/form-data; boundary={boundary}")


IMAGE = part("image", PNG, "photo.png", "Content-Type: image/png")
SITE = b'{"site": 7}'


class TestForms:
    @pytest.mark.parametrize(
        "metadata",
        [
            part("metadata", SITE),
            part("metadata", SITE, None, "Content-Type: application/json"),
            part("metadata", SITE, "blob", "Content-Type: application/json"),  # browsers, for a Blob
            part("metadata", b"\xef\xbb\xbf" + SITE, "metadata.json"),
            part("metadata", b"\xef\xbb\xbf" + SITE),
            part("metadata", SITE.decode().encode("utf-16"), "metadata.json"),
            part("metadata", b"\r\n" + SITE + b"\r\n"),
        ],
    )
    async def test_metadata(self, client: httpx.AsyncClient, metadata: bytes) -> None:
        for parts in ((metadata, IMAGE), (IMAGE, metadata)):
            response = await post_form(client, *parts)
            assert response.status_code == 200, response.text
            assert response.json()["metadata"] == {"site": 7}

    @pytest.mark.parametrize("nothing", [b"", b"null", b" "])
    async def test_no_metadata(self, client: httpx.AsyncClient, nothing: bytes) -> None:
        for filename in (None, "blob"):
            response = await post_form(client, part("metadata", nothing, filename), IMAGE)
            assert response.status_code == 200
            assert response.json()["metadata"] == {}

    @pytest.mark.parametrize("metadata", [b"[1]", b"{", b"\xff", b'{"a": NaN}', b'{"a": "' + b"x" * 70_000 + b'"}'])
    async def test_bad_metadata(self, client: httpx.AsyncClient, metadata: bytes) -> None:
        for filename in (None, "blob"):
            problem(await post_form(client, part("metadata", metadata, filename), IMAGE), 400, "malformed")

    async def test_metadata_twice(self, client: httpx.AsyncClient) -> None:
        problem(await post_form(client, part("metadata", SITE), part("metadata", SITE), IMAGE), 400, "malformed")

    @pytest.mark.parametrize(
        "parts",
        [
            [part("note", b"x"), IMAGE, part("token", b"y" * 70_000)],
            [part(f"field{n}", b"x") for n in range(50)] + [IMAGE],
            [part("photo", PNG, "photo.png")],
            [part("file", PNG, "photo.png"), part("image", b"photo.png")],
            [part("images[]", PNG, "photo.png"), part("metadata", SITE, "blob")],
            [IMAGE, part("thumbnail", JPEG, "thumbnail.jpg")],
            [part("other", b"", ""), part("photo", PNG, "photo.png")],  # a file input that was left empty
            [part("image", PNG, "photo.png", "Content-Type: application/octet-stream")],
            [part("image", PNG, "", "Content-Type: image/png")],
            [part("image", PNG)],  # without a file name
            [part("image", PNG, None, "Content-Type: image/png")],
            [part("photo", PNG, None, "Content-Type: image/png")],
            [part("image", B64.encode())],
            [part("image", f"data:image/png;base64,{B64}".encode())],
            [part("photo", PNG).replace(b'"photo"', b"\"photo\"; filename*=utf-8''%C3%A4.png")],
            [part("image", base64.b64encode(PNG), "a.png", "Content-Transfer-Encoding: base64")],
        ],
    )
    async def test_further_fields_and_other_names(self, client: httpx.AsyncClient, parts: list[bytes]) -> None:
        response = await post_form(client, *parts)
        assert response.status_code == 200, response.text
        assert response.json()["image"]["width"] == 320

    async def test_a_quoted_boundary(self, client: httpx.AsyncClient) -> None:
        assert (await post_form(client, IMAGE, boundary='"b"')).status_code == 200

    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            ([part("a", PNG, "a.png"), part("b", PNG, "b.png")], "2 files ('a', 'b')"),
            ([IMAGE, IMAGE], "2 files"),
            ([part("image", b"text*")], "not base64"),
            ([part("image", b"photo.png")], "curl: -F image=@photo.jpg"),
            ([part("note", b"x")], "no file field 'image'"),
            ([part("metadata", SITE, "blob")], "no file field 'image'"),
        ],
    )
    async def test_no_file_or_two(self, client: httpx.AsyncClient, parts: list[bytes], said: str) -> None:
        assert said in problem(await post_form(client, *parts), 400, "malformed")["detail"]

    @pytest.mark.parametrize(
        ("kind", "charset", "header"),
        [
            (f"multipart/form-data; boundary=b{form}", charset, field)
            for charset in ("iso-8859-1", "windows-1252")
            for form, field in ((f"; charset={charset}", ()), ("", (f"Content-Type: text/plain; charset={charset}",)))
        ],
    )
    async def test_charset_of_metadata(
        self, client: httpx.AsyncClient, kind: str, charset: str, header: tuple[str, ...]
    ) -> None:
        metadata = part("metadata", '{"site": "K\u00f6ln"}'.encode(charset), None, *header)
        response = await post(client, metadata + IMAGE + b"--b--\r\n", kind)
        assert response.status_code == 200, response.text
        assert response.json()["metadata"] == {"site": "K\u00f6ln"}

    async def test_metadata_of_no_known_charset(self, client: httpx.AsyncClient) -> None:
        for header in ((), ("Content-Type: text/plain; charset=x-unknown",)):
            metadata = part("metadata", '{"site": "K\u00f6ln"}'.encode("iso-8859-1"), None, *header)
            assert "not UTF-8" in problem(await post_form(client, metadata, IMAGE), 400, "malformed")["detail"]

    async def test_one_limit_of_metadata(self, client: httpx.AsyncClient) -> None:
        """What counts is compact JSON: neither spaces nor escapes make it too large."""
        fits = {"note": "\u00e9" * 30_000}
        for text in (json.dumps(fits), json.dumps({"note": ["x"] * 10_000}, indent=4)):
            for response in (
                await post_form(client, part("metadata", text.encode()), IMAGE),
                await post_json(client, f'{{"base64": "{B64}", "metadata": {text}}}'.encode()),
            ):
                assert response.status_code == 200, response.text
                assert response.json()["metadata"] == json.loads(text)
        for metadata in ({"note": "x" * 70_000}, {"note": "x" * 250_000}):
            body = await post_form(client, part("metadata", json.dumps(metadata).encode()), IMAGE)
            problem(body, 400, "malformed")

    @pytest.mark.parametrize("before", [b"", b"This is a message in several parts.\r\n", b"\r\n", b"--a\nb\n" * 200])
    @pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
    async def test_forms_of_mail_libraries(self, client: httpx.AsyncClient, before: bytes, ending: bytes) -> None:
        image = PNG + b"\r\n\n" + bytes(range(256))  # the bytes of a file stay as they are
        parts = (part("metadata", SITE), part("image", b"IMAGE", "photo.png"), b"--b--\r\n")
        body = before + b"".join(parts).replace(b"\r\n", ending).replace(b"IMAGE", image) + b"text behind"
        response = await post(client, body, "multipart/form-data; boundary=b")
        assert response.status_code == 200, response.text
        assert response.json()["metadata"] == {"site": 7}
        assert response.json()["image"]["sha256"] == hashlib.sha256(image).hexdigest()

    async def test_cut_off_forms_of_mail_libraries(self, client: httpx.AsyncClient) -> None:
        for body in (IMAGE.replace(b"\r\n", b"\n"), b"text\n" + IMAGE, b"text", b"--b", b"\n--b\n"):
            problem(await post(client, body, "multipart/form-data; boundary=b"), 400, "malformed")

    async def test_without_a_boundary(self, client: httpx.AsyncClient) -> None:
        response = await post(client, IMAGE + b"--b--\r\n", "multipart/form-data")
        assert "client library" in problem(response, 400, "malformed")["detail"]

    async def test_without_the_last_boundary(self, client: httpx.AsyncClient) -> None:
        body = IMAGE + part("metadata", SITE)
        problem(await post(client, body, "multipart/form-data; boundary=b"), 400, "malformed")

    async def test_an_empty_file(self, client: httpx.AsyncClient) -> None:
        problem(await post_form(client, part("image", b"", "a.png")), 422, "bad-image")


def segments(count: int) -> bytes:
    """A JPEG with so many empty comments before its pixels."""
    return JPEG[:2] + b"\xff\xfe\x00\x02" * count + JPEG[2:]


class TestWork:
    """What takes long is done outside the event loop, what does not is done on it."""

    @pytest.mark.parametrize(
        ("data", "on_loop"),
        [
            (JPEG, True),
            (segments(20), True),
            (segments(60), False),
            (encoded(np.zeros((32, 32, 3), np.uint8), "JPEG", progressive=True), False),  # scan after scan is read
            (encoded(np.zeros((32, 32), np.uint8), "JPEG"), True),
            (JPEG[:2] + b"\xff\xed\xff\xf0" + b"8BIM" * 16_380 + JPEG[2:], False),
            (JPEG[:2] + b"\xff" * 1000 + JPEG[2:], False),
            (JPEG + b"\0" * 2**20, False),
            (PNG, False),
        ],
    )
    async def test_headers(self, data: bytes, on_loop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        from classifiers.imaging.decoding import ImageLimits
        from serve_app.images.frames import read_frame

        threads = []

        def noted(data: bytes, *rest: object) -> Frame:
            threads.append(threading.current_thread())
            return Frame(data, 1, 1, ImageLimits())

        monkeypatch.setattr("graph.engine.frame.Frame.from_bytes", noted)
        frame = await read_frame(data, ImageLimits())
        assert (threads == [threading.main_thread()]) == on_loop
        assert ("sha256" in vars(frame)) == (not on_loop)

    async def test_the_loop_goes_on_while_a_large_body_is_read(self) -> None:
        from serve_app.http.bodies import _json

        raw = json.dumps({"base64": lines(base64.b64encode(bytes(12 * 2**20)).decode(), "\n")}).encode()
        pauses = []

        async def tick() -> None:
            while True:
                before = asyncio.get_running_loop().time()
                await asyncio.sleep(0)
                pauses.append(asyncio.get_running_loop().time() - before)

        ticking = asyncio.create_task(tick())
        upload = await asyncio.to_thread(_json, raw)
        ticking.cancel()
        assert len(upload.data) == 12 * 2**20
        assert len(pauses) > 10  # one call of a C function would let it go on once
