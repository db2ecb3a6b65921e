"""The HTTP application over the in-process backend, without Ray."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from typing import ClassVar

import httpx
import numpy as np
import PIL.Image
import pytest
import pytest_asyncio
from gateways import PNG, STREET, WHITE, app_over, client_of, config, post, problem
from toys import encoded

from graph import Engine, LocalBackend, Overloaded


@pytest_asyncio.fixture
async def client(backend: LocalBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_over(backend)) as client:
        yield client


class TestImages:
    async def test_bytes(self, client: httpx.AsyncClient) -> None:
        response = await post(client)
        assert response.status_code == 200
        result = response.json()
        assert result["context"]["detect"]["detected_classes"] == ["car", "person"]
        assert result["context"]["colour"]["objects"] == [{"label": "person", "confidence": 1.0, "detection": 0}]
        assert result["id"] == response.headers["x-request-id"]
        assert [step["status"] for step in result["steps"]] == ["ok", "ok", "ok", "skipped"]
        assert result["image"]["uri"] is None

    async def test_a_form(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/images", files={"image": ("a.png", PNG)}, data={"metadata": '{"site": 7}'})
        assert response.status_code == 200
        assert response.json()["metadata"] == {"site": 7}
        assert response.json()["image"]["width"] == 320

    async def test_base64(self, client: httpx.AsyncClient) -> None:
        body = {"base64": base64.b64encode(PNG).decode(), "metadata": {"site": 7}}
        response = await client.post("/v1/images", json=body)
        assert response.status_code == 200
        assert response.json()["metadata"] == {"site": 7}

    async def test_all_forms_give_the_same_context(self, client: httpx.AsyncClient) -> None:
        responses = [
            await post(client),
            await client.post("/v1/images", files={"image": PNG}),
            await client.post("/v1/images", json={"base64": base64.b64encode(PNG).decode()}),
        ]
        assert len({json.dumps(r.json()["context"]) for r in responses}) == 1
        assert len({r.json()["image"]["sha256"] for r in responses}) == 1

    async def test_annotated(self, client: httpx.AsyncClient) -> None:
        response = await post(client, params={"annotate": "true"})
        assert response.status_code == 200
        assert response.headers["content-type"] == "image/jpeg"
        picture = PIL.Image.open(io.BytesIO(response.content))
        assert picture.size == (320, 240)
        assert np.abs(np.asarray(picture).astype(int) - STREET).max() > 100

    async def test_a_picture_that_is_too_large_to_draw_is_refused_before_it_costs_anything(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def never(self: object, *args: object, **kwargs: object) -> None:
            raise AssertionError("the pipeline ran")

        monkeypatch.setattr("serve_app.http.drawing._MAX_PIXELS", 320 * 240 - 1)
        monkeypatch.setattr(Engine, "run", never)
        body = problem(await post(client, params={"annotate": "true"}), 422, "too-many-pixels")
        assert body["limit"] == 320 * 240 - 1

    async def test_a_uri_is_refused(self, client: httpx.AsyncClient) -> None:
        body = problem(await client.post("/v1/images", json={"uri": "https://example.com/a.jpg"}), 403, "forbidden")
        assert "send the image's bytes" in body["detail"]


class TestIdentity:
    async def test_the_clients_id_comes_back(self, client: httpx.AsyncClient) -> None:
        response = await post(client, headers={"X-Request-Id": "order-7/3"})
        assert response.headers["x-request-id"] == response.json()["id"] == "order-7/3"

    @pytest.mark.parametrize("sent", ["", "with space", "x" * 129, "umlaut-\xe4"])
    async def test_an_odd_id_is_replaced(self, client: httpx.AsyncClient, sent: str) -> None:
        response = await client.get("/healthz", headers=[(b"X-Request-Id", sent.encode("latin-1"))])
        assert len(response.headers["x-request-id"]) == 32

    async def test_problems_carry_it(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/nothing", headers={"X-Request-Id": "abc"})
        assert problem(response, 404, "not-found")["instance"] == "abc"


class TestProblems:
    async def test_not_an_image(self, client: httpx.AsyncClient) -> None:
        problem(await post(client, b"hello " * 100), 422, "bad-image")
        problem(await post(client, b""), 422, "bad-image")
        assert (await post(client)).status_code == 200

    async def test_truncated(self, client: httpx.AsyncClient) -> None:
        problem(await post(client, encoded(STREET, "JPEG")[:-600], "image/jpeg"), 422, "bad-image")

    async def test_a_type_that_is_not_served(self, client: httpx.AsyncClient) -> None:
        svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
        problem(await post(client, svg, "image/svg+xml"), 415, "unsupported-image")

    @pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/mixed; boundary=b", "image"])
    async def test_another_content_type(self, client: httpx.AsyncClient, kind: str | None) -> None:
        body = problem(await post(client, b"x" * 100, kind), 415, "unsupported-body")
        assert "image/jpeg" in body["detail"]

    async def test_too_many_pixels(self, client: httpx.AsyncClient) -> None:
        body = problem(await post(client, encoded(np.zeros((1001, 1001, 3), np.uint8))), 422, "too-many-pixels")
        assert body["limit"] == 1_000_000

    async def test_too_many_bytes(self, client: httpx.AsyncClient) -> None:
        body = problem(await post(client, b"x" * 150_000), 413, "too-many-bytes")
        assert body["limit"] == 100_000

    async def test_a_body_over_the_limit_is_not_read_to_its_end(self, client: httpx.AsyncClient) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 10_000
                yield b"x" * 10_000

        for headers in ({"Content-Type": "image/png"}, {"Content-Type": "multipart/form-data; boundary=b"}):
            response = await client.post("/v1/images", content=endless(), headers=headers)
            assert response.status_code in (400, 413)
        assert sent < 1_000_000

    async def test_an_announced_length_over_the_limit_is_refused_at_once(self, client: httpx.AsyncClient) -> None:
        async def never() -> AsyncIterator[bytes]:
            raise AssertionError("the body was read")
            yield b""

        headers = {"Content-Type": "image/png", "Content-Length": "99999999"}
        problem(await client.post("/v1/images", content=never(), headers=headers), 413, "too-many-bytes")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"not json",
            b"[]",
            b"{}",
            b'{"base64": "####"}',
            b'{"base64": "YQ==", "uri": "https://x"}',
            b'{"base64": "YQ==", "meta": {}}',
            b'{"base64": "YQ==", "metadata": 3}',
            b'{"base64": "\xff"}',
            b"[" * 100_000,
        ],
    )
    async def test_malformed_json(self, client: httpx.AsyncClient, body: bytes) -> None:
        problem(await post(client, body, "application/json"), 400, "malformed")

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b"", "multipart/form-data"),
            (b"nonsense", "multipart/form-data; boundary=b"),
            (
                b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--b--\r\n',
                "multipart/form-data; boundary=b",
            ),
            (
                b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--b--\r\n',
                "multipart/form-data; boundary=b",
            ),
        ],
    )
    async def test_malformed_forms(self, client: httpx.AsyncClient, body: bytes, kind: str) -> None:
        problem(await post(client, body, kind), 400, "malformed")

    async def test_null_counts_as_left_out(self, client: httpx.AsyncClient) -> None:
        body = {"base64": base64.b64encode(PNG).decode(), "uri": None, "metadata": None}
        for response in (
            await client.post("/v1/images", json=body),
            await client.post("/v1/images", files={"image": PNG}, data={"metadata": "null"}),
        ):
            assert response.status_code == 200, response.text
            assert response.json()["metadata"] == {}

    @pytest.mark.parametrize("metadata", ["not json", "[1]", "[" * 100_000])
    async def test_malformed_metadata(self, client: httpx.AsyncClient, metadata: str) -> None:
        response = await client.post("/v1/images", files={"image": PNG}, data={"metadata": metadata})
        problem(response, 400, "malformed")

    async def test_a_step_that_must_not_fail(self, client: httpx.AsyncClient) -> None:
        body = problem(await post(client, WHITE), 502, "step-failed")
        assert body["step"] == "mean"

    async def test_another_method(self, client: httpx.AsyncClient) -> None:
        problem(await client.get("/v1/images"), 405, "method-not-allowed")

    async def test_a_fault_of_ours(self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(self: object, *args: object, **kwargs: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(Engine, "run", fail)
        response = await post(client)
        problem(response, 500, "internal-error")
        assert "secret" not in response.text

    async def test_overload_says_when_to_come_again(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def full(self: object, *args: object, **kwargs: object) -> None:
            raise Overloaded("full", retry_after_s=1.5)

        monkeypatch.setattr(Engine, "run", full)
        response = await post(client)
        problem(response, 503, "overloaded")
        assert response.headers["retry-after"] == "2"


class TestDeadline:
    SLOW: ClassVar[dict[str, object]] = {"base64": base64.b64encode(PNG).decode(), "metadata": {"slow": True}}

    async def test_the_client_lowers_it(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/images", json=self.SLOW, headers={"X-Request-Timeout-Ms": "100"})
        body = problem(response, 408, "deadline-exceeded")
        assert body["timeout_ms"] == 100

    async def test_the_client_cannot_raise_it(self, backend: LocalBackend) -> None:
        async with client_of(app_over(backend, config(timeout_ms=100))) as client:
            response = await client.post("/v1/images", json=self.SLOW, headers={"X-Request-Timeout-Ms": "60000"})
            problem(response, 408, "deadline-exceeded")

    @pytest.mark.parametrize("sent", ["0", "-1", "soon", "1e3", ""])
    async def test_nonsense(self, client: httpx.AsyncClient, sent: str) -> None:
        body = problem(await post(client, headers={"X-Request-Timeout-Ms": sent}), 400, "malformed")
        assert "x-request-timeout-ms" in body["detail"]


class TestViews:
    async def test_pipeline(self, client: httpx.AsyncClient) -> None:
        view = (await client.get("/v1/pipeline")).json()
        assert view["name"] == "toy"
        assert view["fingerprint"] == (await post(client)).json()["pipeline"]["fingerprint"]
        assert view["edges"] == [{"source": "detect", "target": "colour"}]
        assert view["steps"][1] == {
            "name": "colour",
            "class": "toys.MeanColour",
            "depends_on": ["detect"],
            "condition": None,
            "crops": "detection['class_name'] == 'person'",
            "on_error": "skip",
            "timeout_ms": None,
        }

    async def test_schema(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/schema")).json()["$schema"].endswith("2020-12/schema")

    async def test_health(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}

    async def test_not_ready(self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
        async def never(self: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr("serve_app.http.pipeline_routes._READY_TIMEOUT_S", 0.01)
        monkeypatch.setattr(LocalBackend, "ready", never)
        response = await client.get("/readyz")
        problem(response, 503, "not-ready")
        assert response.headers["retry-after"] == "1"

    async def test_documentation(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/docs")).status_code == 200
        document = (await client.get("/openapi.json")).json()
        body = document["paths"]["/v1/images"]["post"]["requestBody"]["content"]
        assert set(body) == {"image/*", "multipart/form-data", "application/json"}
