# ruff: noqa: ASYNC240 - files of a few bytes
"""API keys and tokens, through the application."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from gateways import PNG, app_over, client_of, config, post, problem
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from classifiers import SetupError
from graph import LocalBackend
from serve_app.access import key_checks as api_keys
from serve_app.access import tokens
from serve_app.access.credentials import Authenticator
from serve_app.access.key_file import create_key, key_hash, revoke_key
from serve_app.telemetry.log_fields import FIELDS


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.json"
    create_key(file, "nobody", ["infer"])
    return file


@asynccontextmanager
async def gateway(backend: LocalBackend, auth: dict[str, Any], **block: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_over(backend, config(auth=auth, **block))) as client:
        yield client


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


class TestKeys:
    async def test_either_header(self, backend: LocalBackend, keys_file: Path) -> None:
        key = create_key(keys_file, "acme", ["infer"])
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            assert (await post(client, headers=bearer(key))).status_code == 200
            assert (await post(client, headers={"X-API-Key": key})).status_code == 200
            assert (await post(client, headers={"Authorization": f"bearer  {key}"})).status_code == 200

    async def test_other_schemes_are_for_a_proxy_in_front(self, backend: LocalBackend, keys_file: Path) -> None:
        key = create_key(keys_file, "acme", ["infer"])
        others = ["Basic dXNlcjpwdw==", "Digest username=x", "Negotiate abc", "ApiKey abc", "Basic", "", " "]
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            for other in others:
                for sent in (
                    ("X-API-Key", key),
                    ("Authorization", f"Bearer {key}"),
                    ("Authorization", f"BEARER\t{key}"),
                ):
                    headers = [("Content-Type", "image/png"), ("Authorization", other), sent]
                    response = await client.post("/v1/images", content=PNG, headers=headers)
                    assert response.status_code == 200, (other, sent, response.text)
                problem(await post(client, headers={"Authorization": other}), 401, "unauthorized")
            assert (await post(client, headers={"X-API-Key": "", **bearer(key)})).status_code == 200

    async def test_more_than_one(self, backend: LocalBackend, keys_file: Path) -> None:
        key = create_key(keys_file, "acme", ["infer"])
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            for name in ("X-API-Key", "Authorization"):
                headers = [("Content-Type", "image/png"), ("Authorization", f"Bearer {key}"), (name, f"Bearer {key}x")]
                response = await client.post("/v1/images", content=PNG, headers=headers)
                assert "more than one" in problem(response, 401, "unauthorized")["detail"]

    async def test_the_same_one_twice(self, backend: LocalBackend, keys_file: Path) -> None:
        key = create_key(keys_file, "acme", ["infer"])
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            assert (await post(client, headers={"X-API-Key": key, **bearer(key)})).status_code == 200

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/v1/schema"])
    async def test_what_everybody_may_see(self, backend: LocalBackend, keys_file: Path, path: str) -> None:
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            assert (await client.get(path)).status_code == 200

    async def test_without_one_nothing_of_the_body_is_read(self, backend: LocalBackend, keys_file: Path) -> None:
        async def never() -> AsyncIterator[bytes]:
            raise AssertionError("the body was read")
            yield b""

        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            problem(await post(client, never()), 401, "unauthorized")
            problem(await client.get("/v1/pipeline"), 401, "unauthorized")

    async def test_bad_ones(self, backend: LocalBackend, keys_file: Path) -> None:
        key = create_key(keys_file, "acme", ["infer"])
        key_id, _, secret = key.partition(".")
        changed = secret[:-2] + ("AA" if not secret.endswith("AA") else "BB")
        sent: list[dict[str, str]] = [
            bearer(f"{key_id}.{changed}"),
            bearer(f"{key_id}."),
            bearer(key_id),
            bearer(f"other.{secret}"),
            bearer(f".{secret}"),
            bearer(key_hash(key)),
            bearer(f"{key_id}.{key_hash(key)}"),
            bearer(key.upper()),
            bearer(f"{key} {key}"),
            bearer(""),
            bearer("x" * 9000),
            bearer("a.b.c"),  # a token, and tokens are not taken here
            {"Authorization": key},
            {"Authorization": f"Basic {key}"},
            {"X-API-Key": ""},
        ]
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            for headers in sent:
                body = problem(await post(client, headers=headers), 401, "unauthorized")
                assert secret not in json.dumps(body)

    async def test_a_scope_that_it_has_not(self, backend: LocalBackend, keys_file: Path) -> None:
        key = create_key(keys_file, "acme", ["jobs"])
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            assert problem(await post(client, headers=bearer(key)), 403, "forbidden")["scope"] == "infer"

    async def test_made_and_taken_back_without_a_restart(
        self, backend: LocalBackend, keys_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert api_keys._LOOK_AGAIN_S < 5  # twice: a request may have looked just before, and the file may be far
        monkeypatch.setattr(api_keys, "_LOOK_AGAIN_S", 0.0)
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            key = create_key(keys_file, "acme", ["infer"])
            assert (await post(client, headers=bearer(key))).status_code == 200
            revoke_key(keys_file, key.partition(".")[0])
            problem(await post(client, headers=bearer(key)), 401, "unauthorized")

    async def test_the_file_is_not_read_for_every_request(self, backend: LocalBackend, keys_file: Path) -> None:
        key = create_key(keys_file, "acme", ["infer"])
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            keys_file.unlink()
            assert (await post(client, headers=bearer(key))).status_code == 200

    async def test_a_file_that_goes_away_keeps_its_keys_for_a_minute(
        self,
        backend: LocalBackend,
        keys_file: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(api_keys, "_LOOK_AGAIN_S", 0.0)
        key, kept = create_key(keys_file, "acme", ["infer"]), keys_file.read_bytes()
        async with gateway(backend, {"keys_file": str(keys_file)}) as client:
            keys_file.unlink()
            for _ in range(3):
                assert (await post(client, headers=bearer(key))).status_code == 200
            assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
            monkeypatch.setattr(api_keys, "_STALE_AFTER_S", 0.0)
            problem(await post(client, headers=bearer(key)), 503, "not-ready")
            monkeypatch.setattr(api_keys, "_STALE_AFTER_S", 60.0)
            keys_file.write_bytes(kept)
            assert (await post(client, headers=bearer(key))).status_code == 200
            assert "can be read again" in caplog.text

    def test_no_file_no_start(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match="visiongraph keys create"):
            Authenticator(config(auth={"keys_file": str(tmp_path / "none.json")}).auth)


def forged(body: str, secret: bytes) -> str:
    """A token whose head says HS256, by hand: no library signs with a public key."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').decode().rstrip("=")
    signature = hmac.new(secret, f"{head}.{body}".encode(), "sha256").digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


MAKE: dict[str, Any] = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ec384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed": ed25519.Ed25519PrivateKey.generate,
}
ALGORITHMS: list[tuple[Any, Any]] = [
    (rsa.RSAPrivateKey, RSAAlgorithm),
    (ec.EllipticCurvePrivateKey, ECAlgorithm),
    (ed25519.Ed25519PrivateKey, OKPAlgorithm),
]


class Provider:
    """An identity provider: its keys over HTTP and in a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "jwks.json"
        self.private: dict[str, Any] = {}
        self.asked = 0
        self.answers = True
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                self.send_response(200 if provider.answers else 500)
                self.end_headers()
                self.wfile.write(provider.file.read_bytes())

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"

    def rotate(self, *kids: str, kind: str = "rsa", **fields: Any) -> None:
        """Have these keys, and no others; ``fields`` go into each row of the set, or out of it with ``None``."""
        for kid in kids:
            if kid not in self.private:
                self.private[kid] = MAKE[kind]()
        rows = []
        for kid in kids:
            private = self.private[kid]
            algorithm: Any = next(algorithm for kind, algorithm in ALGORITHMS if isinstance(private, kind))
            row = {**algorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid, "use": "sig", **fields}
            rows.append({name: value for name, value in row.items() if value is not None})
        self.file.write_text(json.dumps({"keys": rows}))

    def token(
        self, kid: str = "one", algorithm: str = "RS256", header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        now = time.time()
        body = {
            "iss": "https://id.example",
            "aud": "visiongraph",
            "sub": "acme",
            "exp": now + 60,
            "scope": "openid infer",
            **claims,
        }
        body = {name: value for name, value in body.items() if value is not None}
        headers = {name: value for name, value in {"kid": kid, **(header or {})}.items() if value is not None}
        return jwt.encode(body, self.private[kid], algorithm=algorithm, headers=headers)

    def auth(self, **more: Any) -> dict[str, Any]:
        return {"jwt": {"issuer": "https://id.example", "audience": "visiongraph", "jwks": self.url, **more}}


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    provider = Provider(tmp_path)
    provider.rotate("one")
    yield provider
    provider.server.shutdown()
    provider.server.server_close()


class TestTokens:
    async def test_a_good_one(self, backend: LocalBackend, provider: Provider) -> None:
        async with gateway(backend, provider.auth()) as client:
            assert (await post(client, headers=bearer(provider.token()))).status_code == 200
            assert (
                await post(client, headers=bearer(provider.token(aud=["x", "visiongraph"], scope=None, scp=["infer"])))
            ).status_code == 403
        assert provider.asked == 1

    async def test_scopes_in_another_claim_as_a_list(self, backend: LocalBackend, provider: Provider) -> None:
        async with gateway(backend, provider.auth(scopes_claim="roles", tenant_claim="org")) as client:
            token = provider.token(roles=["infer", 3], org="acme", sub=None)
            assert (await post(client, headers=bearer(token))).status_code == 200

    async def test_keys_from_a_file(self, backend: LocalBackend, provider: Provider) -> None:
        async with gateway(backend, provider.auth(jwks=str(provider.file))) as client:
            assert (await post(client, headers=bearer(provider.token()))).status_code == 200

    async def test_other_curves(self, backend: LocalBackend, provider: Provider) -> None:
        provider.rotate("curve", kind="ec")
        async with gateway(backend, provider.auth()) as client:
            assert (await post(client, headers=bearer(provider.token("curve", "ES256")))).status_code == 200

    @pytest.mark.parametrize(
        ("kind", "algorithm"),
        [
            *(("rsa", name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
            *(("ec", "ES256"), ("ec384", "ES384"), ("ed", "EdDSA")),
        ],
    )
    async def test_each_algorithm_with_and_without_alg_and_kid(
        self, backend: LocalBackend, provider: Provider, kind: str, algorithm: str
    ) -> None:
        provider.private.clear()
        fields: list[dict[str, Any]] = [{}, {"alg": algorithm}, {"kid": None}, {"use": None, "key_ops": ["verify"]}]
        for row in fields:
            provider.rotate("one", kind=kind, **row)
            async with gateway(backend, provider.auth(algorithms=[algorithm], jwks=str(provider.file))) as client:
                for header in ({}, {"kid": None}):
                    token = provider.token("one", algorithm, header)
                    assert (await post(client, headers=bearer(token))).status_code == 200, (row, header)

    @pytest.mark.parametrize(
        "row",
        [{"alg": "RS256"}, {"alg": "RSA-OAEP"}, {"use": "enc"}, {"use": None, "key_ops": ["encrypt"]}, {"kty": "EC"}],
    )
    async def test_a_key_for_something_else(
        self, backend: LocalBackend, provider: Provider, row: dict[str, Any]
    ) -> None:
        provider.rotate("one", **row)
        rows = json.loads(provider.file.read_text())["keys"]
        provider.rotate("other", kind="ec")  # else there is no key to check with
        provider.file.write_text(json.dumps({"keys": rows + json.loads(provider.file.read_text())["keys"]}))
        async with gateway(backend, provider.auth(algorithms=["RS512", "ES256"], jwks=str(provider.file))) as client:
            problem(await post(client, headers=bearer(provider.token("one", "RS512"))), 401, "unauthorized")
            assert (await post(client, headers=bearer(provider.token("other", "ES256")))).status_code == 200

    async def test_a_token_without_kid(self, backend: LocalBackend, provider: Provider) -> None:
        nameless = {"kid": None}
        provider.rotate("one", "two")
        async with gateway(backend, provider.auth(jwks=str(provider.file))) as client:
            response = await post(client, headers=bearer(provider.token("one", header=nameless)))
            assert "which of the provider's keys" in problem(response, 401, "unauthorized")["detail"]
        provider.rotate("curve", kind="ec")
        provider.rotate("one", "curve")  # one for each algorithm
        async with gateway(backend, provider.auth(jwks=str(provider.file))) as client:
            for kid, algorithm in (("one", "RS256"), ("curve", "ES256")):
                token = provider.token(kid, algorithm, nameless)
                assert (await post(client, headers=bearer(token))).status_code == 200
            problem(await post(client, headers=bearer(provider.token("two", header=nameless))), 401, "unauthorized")

    async def test_a_tenant_of_a_token_is_none_of_a_key(
        self, backend: LocalBackend, provider: Provider, keys_file: Path
    ) -> None:
        key = create_key(keys_file, "acme", ["infer"])
        auth = {**provider.auth(), "keys_file": str(keys_file)}
        one = {"requests_per_second": 0.001, "burst": 1}
        async with gateway(backend, auth, rate_limits={"keys": {"acme": one, "jwt:beta": one}}) as client:
            for credential, second in ((key, 429), (provider.token(), 200), (provider.token(sub="beta"), 429)):
                assert (await post(client, headers=bearer(credential))).status_code == 200
                assert (await post(client, headers=bearer(credential))).status_code == second
        async with gateway(backend, provider.auth(), rate_limits={"keys": {"acme": one}}) as client:
            assert (await post(client, headers=bearer(provider.token()))).status_code == 200
            problem(await post(client, headers=bearer(provider.token())), 429, "too-many-requests")

    def test_no_key_has_such_a_tenant(self, keys_file: Path) -> None:
        with pytest.raises(SetupError, match="choose another name"):
            create_key(keys_file, "jwt:acme", ["infer"])

    async def test_skew_is_forgiven_and_more_is_not(self, backend: LocalBackend, provider: Provider) -> None:
        now = time.time()
        async with gateway(backend, provider.auth(leeway_s=30)) as client:
            for claims in ({"exp": now - 20}, {"nbf": now + 20}, {"iat": now + 20}):
                assert (await post(client, headers=bearer(provider.token(**claims)))).status_code == 200
            for claims in ({"exp": now - 40}, {"nbf": now + 40}, {"iat": now + 40}):
                problem(await post(client, headers=bearer(provider.token(**claims))), 401, "unauthorized")

    async def test_bad_ones(self, backend: LocalBackend, provider: Provider) -> None:
        good = provider.token()
        head, body, signature = good.split(".")
        public = provider.private["one"].public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        provider.private["stranger"] = rsa.generate_private_key(65537, 2048)
        bad = [
            provider.token(iss="https://other.example"),
            provider.token(iss=None),
            provider.token(aud="other"),
            provider.token(aud=None),
            provider.token(exp=None),
            provider.token(exp=0),
            provider.token(exp="soon"),
            provider.token(exp=float("inf")),
            provider.token(sub=None),
            provider.token(sub=""),
            provider.token(sub="a b"),
            provider.token(sub="x" * 200),
            provider.token("stranger", header={"kid": "one"}),
            provider.token("stranger"),
            provider.token(header={"kid": "../../etc/passwd"}),
            provider.token(algorithm="RS512"),  # not on the list
            forged(body, pem),  # the public key as a secret
            jwt.encode({"sub": "acme"}, None, algorithm="none", headers={"kid": "one"}),
            f"{head}.{body}.",
            f"{head}.{body}.{signature[:-4]}AAAA",
            f"{head}.{body[:-4]}AAAA.{signature}",
            f".{body}.{signature}",
            "..",
            "a.b.c",
            "e30.e30.e30",
            "W10.W10.W10",
        ]
        async with gateway(backend, provider.auth()) as client:
            for token in bad:
                problem(await post(client, headers=bearer(token)), 401, "unauthorized")
            problem(await post(client, headers={"X-API-Key": "id.secret"}), 401, "unauthorized")
            assert (await post(client, headers=bearer(good))).status_code == 200

    async def test_keys_are_rotated(
        self, backend: LocalBackend, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with gateway(backend, provider.auth()) as client:
            assert (await post(client, headers=bearer(provider.token()))).status_code == 200
            provider.rotate("one", "two")
            # made-up key ids do not make us ask each time
            for kid in ("x", "y", "z"):
                problem(await post(client, headers=bearer(provider.token(header={"kid": kid}))), 401)
            assert provider.asked == 1
            monkeypatch.setattr(tokens, "_ASK_AGAIN_S", 0.0)
            assert (await post(client, headers=bearer(provider.token("two")))).status_code == 200
            provider.rotate("two")
            monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 301)
            problem(await post(client, headers=bearer(provider.token("one"))), 401, "unauthorized")

    async def test_a_provider_that_is_away(
        self, backend: LocalBackend, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens, "_ASK_AGAIN_S", 0.0)
        async with gateway(backend, provider.auth(refresh_s=1)) as client:
            provider.answers = False
            problem(await post(client, headers=bearer(provider.token())), 503, "not-ready")
            provider.answers = True
            assert (await post(client, headers=bearer(provider.token()))).status_code == 200
            provider.answers = False
            monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 100)
            assert (await post(client, headers=bearer(provider.token()))).status_code == 200

    async def test_a_symmetric_key_opens_nothing(self, backend: LocalBackend, provider: Provider) -> None:
        secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"
        provider.file.write_text(json.dumps({"keys": [{"kty": "oct", "k": secret, "kid": "one", "alg": "HS256"}]}))
        provider.private["one"] = b"secret-secret-secret-secret-secret"
        async with gateway(backend, provider.auth()) as client:
            problem(await post(client, headers=bearer(provider.token(algorithm="HS256"))), 401, "unauthorized")

    @pytest.mark.parametrize("text", ["", "{}", '{"keys": []}', '{"keys": [3]}', "[]", "\x00"])
    def test_no_keys_no_start(self, tmp_path: Path, text: str, provider: Provider) -> None:
        provider.file.write_text(text)
        with pytest.raises(SetupError, match="cannot be read"):
            Authenticator(config(auth=provider.auth(jwks=str(provider.file))).auth)

    def test_duplicate_keys_in_the_set_are_refused(self, provider: Provider) -> None:
        provider.file.write_text(f'{{"keys": [], {provider.file.read_text()[1:]}')
        with pytest.raises(SetupError, match="cannot be read: duplicate key 'keys'; keep one"):
            Authenticator(config(auth=provider.auth(jwks=str(provider.file))).auth)

    async def test_both_kinds(self, backend: LocalBackend, provider: Provider, keys_file: Path) -> None:
        key = create_key(keys_file, "acme", ["infer"])
        async with gateway(backend, {**provider.auth(), "keys_file": str(keys_file)}) as client:
            for credential in (key, provider.token()):
                assert (await post(client, headers=bearer(credential))).status_code == 200


async def test_nothing_secret_is_logged(
    backend: LocalBackend, keys_file: Path, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = create_key(keys_file, "acme", ["infer"])
    token = provider.token()
    async with gateway(backend, {**provider.auth(), "keys_file": str(keys_file)}) as client:
        for credential in (key, token, key + "x", token[:-9] + "x"):
            await client.post("/v1/images?key=" + credential, headers={**bearer(credential), "X-Request-Id": "r"})
    records = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    ours = [f"{record.getMessage()} {json.dumps(getattr(record, FIELDS, {}))}" for record in records]
    assert any('"key": "jwt:acme"' in line for line in ours)
    for secret in (key.partition(".")[2], token.split(".")[2][:40]):
        assert secret not in "\n".join(ours)
