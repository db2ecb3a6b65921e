from __future__ import annotations

import logging
from typing import Any

import pytest
from gateways import PNG, app_over, client_of, config, post, problem

from graph import LocalBackend
from serve_app.access.key_file import KEY_SCOPES, create_key
from serve_app.http.application import ROUTERS
from serve_app.telemetry.log_fields import FIELDS

PUBLIC = {"/v1/schema", "/healthz", "/readyz"}
PAGE = {"/", "/page/offer", "/page/examples/{name}", "/page/{name}"}
"""Not in the document; nothing of a client is there."""


async def test_every_route_but_the_public_ones_needs_a_credential_with_its_scope(
    backend: LocalBackend, tmp_path: Any
) -> None:
    keys = tmp_path / "keys.json"
    key = {scope: create_key(keys, "acme", [scope]) for scope in KEY_SCOPES}
    app = app_over(backend, config(auth={"keys_file": str(keys)}))
    async with client_of(app) as client:
        for path, item in app.openapi()["paths"].items():
            for method in item:
                response = await client.request(method, path)
                assert (response.status_code == 200) if path in PUBLIC else (response.status_code == 401), path
                if path not in PUBLIC:
                    sent = {"Authorization": f"Bearer {key['admin']}"}
                    problem(await client.request(method, path, headers=sent), 403, "forbidden")


def test_each_router_has_a_scope_that_keys_can_have() -> None:
    assert {scope for _, scope, _ in ROUTERS if scope} <= set(KEY_SCOPES)
    assert {route.path for router, scope, _ in ROUTERS if scope is None for route in router.routes} == PUBLIC | PAGE


def test_the_document_names_the_credentials(backend: LocalBackend, tmp_path: Any) -> None:
    (tmp_path / "keys.json").write_text("{}")
    document = app_over(backend, config(auth={"keys_file": str(tmp_path / "keys.json")})).openapi()
    assert document["paths"]["/v1/images"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)[FIELDS] for record in caplog.records if record.name == "visiongraph.access"]


async def test_one_line_a_request(backend: LocalBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "visiongraph.access")
    rules = config(trusted_proxies=["192.0.2.1"])
    async with client_of(app_over(backend, rules)) as client:
        response = await post(client, headers={"X-Request-Id": "r1", "X-Forwarded-For": "203.0.113.9"})
        await post(client, b"x", headers={"X-Request-Id": 'a"}\\n{'})
        await client.get("/none%0A" + "x" * 500, params={"token": "secret"})
    good, bad, none = lines(caplog)
    assert good["request_id"] == "r1"
    assert good["client"] == "203.0.113.9"
    assert (good["method"], good["path"], good["status"], good["outcome"]) == ("POST", "/v1/images", 200, "ok")
    assert (good["key"], good["tenant"]) == ("anonymous", "anonymous")
    assert good["image"] == response.json()["image"]["sha256"]
    assert set(good["steps"]) == {"detect", "colour", "mean", "slow"}
    assert good["steps"]["slow"] == "skipped"
    assert good["bytes"] == len(PNG)
    assert good["duration_ms"] >= good["steps"]["detect"] >= 0
    assert (bad["status"], bad["outcome"], bad["problem"]) == (422, "refused", "bad-image")
    assert bad["request_id"] == 'a"}\\n{'
    assert (none["status"], none["problem"]) == (404, "not-found")
    assert len(none["path"]) == 200
    assert not any("secret" in str(line) for line in lines(caplog))


async def test_it_can_be_switched_off(backend: LocalBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "visiongraph.access")
    async with client_of(app_over(backend, config(access_log=False))) as client:
        assert (await post(client)).status_code == 200
    assert lines(caplog) == []
