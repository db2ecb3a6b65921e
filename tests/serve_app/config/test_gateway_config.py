from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from classifiers import SetupError
from serve_app.config.gateway_config import GatewayConfig, Limits, read_gateway_config

JWT = {"issuer": "https://id.example", "audience": "visiongraph", "jwks": "https://id.example/jwks.json"}


def lines(block: Any) -> list[str]:
    with pytest.raises(SetupError) as caught:
        read_gateway_config(block)
    return str(caught.value).splitlines()


def test_none_only_in_so_many_words() -> None:
    assert read_gateway_config({"auth": "none"}).auth.is_open


@pytest.mark.parametrize(
    "block", [{}, {"auth": None}, {"auth": {}}, {"auth": "None"}, {"auth": False}, {"auth": ""}, {"auth": []}]
)
def test_nothing_else_lets_everybody_in(block: Any) -> None:
    (line,) = lines(block)
    assert line.startswith("gateway.auth: ")
    assert "configure authentication" in line


def test_what_is_written_out_means_the_same() -> None:
    for auth in ("none", {"keys_file": "/keys.json"}, {"jwt": JWT}, {"keys_file": "/keys.json", "jwt": JWT}):
        config = read_gateway_config({"auth": auth})
        assert GatewayConfig.model_validate(config.model_dump(mode="json")) == config
        assert config.model_dump(mode="json", exclude_defaults=True)["auth"] == auth
        assert pickle.loads(pickle.dumps(config)) == config


def test_every_mistake_at_once() -> None:
    found = lines(
        {
            "auth": {"keys_fil": "x", "jwt": {"issuer": ""}},
            "tmeout_ms": 3,
            "rate_limits": {"keys": {"a": {"requests": 1}}, "redis_url": "http://x"},
            "trusted_proxies": ["10.0.0.1/8"],
            "fetch": {"schemes": ["ftp"], "s3": {"allow": {"a": ["http://x"]}}},
        }
    )
    by_place = dict(line.split(": ", 1) for line in found)
    assert "did you mean 'keys_file'?" in by_place["gateway.auth.keys_fil"]
    assert "did you mean 'timeout_ms'?" in by_place["gateway.tmeout_ms"]
    assert "requests_per_second" in by_place["gateway.rate_limits.keys.a.requests"]
    assert "redis://" in by_place["gateway.rate_limits.redis_url"]
    assert "10.0.0.0/8" in by_place["gateway.trusted_proxies.0"]
    assert "s3://BUCKET" in by_place["gateway.fetch.s3.allow.a.0"]
    assert {"gateway.auth.jwt.issuer", "gateway.auth.jwt.audience", "gateway.auth.jwt.jwks"} <= by_place.keys()
    assert len(found) == len(by_place) == 10


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"auth": {"keys_file": "keys.json"}}, "must be an absolute path"),
        ({"auth": {"jwt": {**JWT, "jwks": "http://id.example/jwks"}}}, "use https"),
        ({"auth": {"jwt": {**JWT, "jwks": "jwks.json"}}}, "must be an absolute path"),
        ({"auth": {"jwt": {**JWT, "algorithms": ["HS256"]}}}, "RS256"),
        ({"auth": {"jwt": {**JWT, "algorithms": ["none"]}}}, "RS256"),
        ({"auth": "none", "rate_limits": {"default": {"burst": 3}}}, "requests_per_second"),
        ({"auth": "none", "rate_limits": {"default": {"requests_per_second": 0}}}, "must be above 0"),
        ({"auth": "none", "num_replicas": 2, "autoscaling": {"max_replicas": 3}}, "not both"),
        ({"auth": "none", "autoscaling": {"max_replicas": 3, "target_ongoing_crops": 8.0}}, "is for steps"),
        ({"auth": "none", "fetch": {"schemes": ["file"]}}, "https"),
        ({"auth": "none", "fetch": {"private_networks": ["localhost"]}}, "10.0.0.0/8"),
        ({"auth": "none", "fetch": {"s3": {"allow": {"*": ["s3://photos/*"]}}}}, "write s3://photos"),
        ({"auth": "none", "fetch": {"s3": {"allow": {"*": ["s3://photos/in/**/*.jpg"]}}}}, "write s3://photos/in"),
        ({"auth": "none", "fetch": {"s3": {"allow": {"*": ["s3://photos-*/in"]}}}}, "each by its name"),
        ({"auth": "none", "fetch": {"gs": {"allow": {"a": ["gs://*"]}}}}, "each by its name"),
        ({"auth": "none", "fetch": {"content_types": ["image/*"]}}, "image/jpeg"),
        ({"auth": "none", "fetch": {"hosts": ["https://a.example"]}}, "without scheme"),
        ({"auth": "none", "fetch": {"hosts": ["a.example:8080"]}}, "without scheme, port"),
        ({"auth": "none", "fetch": {"hosts": ["a.example/photos"]}}, "path"),
        ({"auth": "none", "fetch": {"hosts": ["img*.a.example"]}}, "*.example.com"),
        ({"auth": "none", "fetch": {"hosts": ["*"]}}, "*.example.com"),
        ({"auth": "none", "fetch": {"hosts": [""]}}, "matches no host"),
    ],
)
def test_mistakes(block: Any, says: str) -> None:
    assert any(says in line for line in lines(block))


def test_rules_that_match() -> None:
    hosts = ["a.example", "*.a.example", "bücher.example", "xn--bcher-kva.example", "192.0.2.1", "2001:db8::1", "host"]
    fetch = {"hosts": hosts, "s3": {"allow": {"*": ["s3://photos", "s3://photos/in/"]}}}
    config = read_gateway_config({"auth": "none", "fetch": fetch})
    assert config.fetch.hosts == tuple(hosts)
    assert config.fetch.s3.allow == {"*": ("s3://photos", "s3://photos/in")}


def test_a_file_and_paths_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("gateway:\n  auth: {keys_file: keys.json}\n  timeout_ms: 500\n")
    config = read_gateway_config(file)
    assert config.auth.keys_file == str(tmp_path / "keys.json")
    assert config.timeout_ms == 500
    file.write_text("auth: none\n")
    assert read_gateway_config(str(file)).auth.is_open


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("auth: {keys_file: keys.json}\nauth: none\n", ":2: key 'auth': duplicate key 'auth' (first on line 1)"),
        ("auth: {keys_file: k.json}\n'auth': none\n", ":2: key 'auth': duplicate key 'auth' (first on line 1)"),
        ("gateway: {auth: {keys_file: k.json}}\ngateway: {auth: none}\n", ":2: key 'gateway': duplicate key"),
        ("gateway:\n  auth: {keys_file: a, keys_file: b}\n", ":2: key 'gateway.auth.keys_file': duplicate key"),
        ("auth: none\nrate_limits:\n  keys:\n    a: {burst: 1}\n    a: {}\n", ":5: key 'rate_limits.keys.a': dupl"),
        ("x: &x {auth: none, auth: none}\ngateway: *x\n", ":1: key 'x.auth': duplicate key 'auth' (first on line 1)"),
        ("gateway: {auth: {keys_file: k}}\nrate_limits: {}\n", ":2: unknown key 'rate_limits' beside 'gateway'"),
        (
            'auth: {keys_file: "C:\\keys.json"}\n',
            ":1: an unknown escape: a backslash in double quotes begins one; use single quotes",
        ),
        ("auth: none\n\ttimeout_ms: 3\n", ":2: a tab; YAML is indented with spaces"),
        ("auth: none\ntimeout_ms: 0500\n", ":2: key 'timeout_ms': '0500' cannot be read as int"),
        ("auth: none\n1: 2\n", ":2: key '1': a key must be a string; write it in quotes"),
        ("auth: !!python/name:os.system x\n", ":1: key 'auth': the tag !!python/name:os.system is not allowed"),
        ("auth: no\n", "configure authentication"),
        ("AUTH: none\n", "did you mean 'auth'?"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    found = [line for line in lines(file) if says in line]
    assert found
    assert not says.startswith(":") or found[0].startswith(f"{file}:")


@pytest.mark.parametrize("shape", ["{}", "gateway: {{{}}}", "gateway:\n  <<: *auth\nintake: {{}}\n# {}"])
def test_keys_that_begin_with_x_are_for_anchors(tmp_path: Path, shape: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("x-auth: &auth {auth: {keys_file: keys.json}}\nx-more: [1]\n" + shape.format("<<: *auth"))
    assert read_gateway_config(file).auth.keys_file == str(tmp_path / "keys.json")
    file.write_text("gateway: {auth: none, x-more: 1}")
    assert "gateway.x-more: unknown key" in lines(file)[0]


@pytest.mark.parametrize("text", ["", "- auth", "a: [", "\x00", "gateway: 3"])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    assert lines(file)
    assert lines(tmp_path / "missing.yaml")[0].endswith("No such file or directory: '%s'" % (tmp_path / "missing.yaml"))


def test_whose_limits_count() -> None:
    some, more = Limits(images_per_day=1), Limits(images_per_day=2)
    config = read_gateway_config({"auth": {"keys_file": "/k"}, "rate_limits": {"keys": {"k1": some, "acme": more}}})
    assert config.limits_of("k1", "acme") == ("key:k1", some)
    assert config.limits_of("k2", "acme") == ("tenant:acme", more)
    owner, default = config.limits_of("k3", "other")
    assert owner == "key:k3"
    assert not default.is_unlimited
    assert read_gateway_config({"auth": "none"}).limits_of("anonymous", "anonymous")[1].is_unlimited


def test_a_share_is_a_part_and_never_nothing() -> None:
    limits = Limits(requests_per_second=10, burst=3, images_per_day=100, concurrent=1)
    assert limits.share(4) == Limits(requests_per_second=2.5, burst=1, images_per_day=25, concurrent=1)
    assert limits.share(1) is limits
    assert Limits().share(4).is_unlimited


def test_hosts() -> None:
    config = read_gateway_config({"auth": "none", "hosts": ["localhost", "[::1]", "*.example.com", "10.0.0.7"]})
    assert config.hosts == ("localhost", "::1", "*.example.com", "10.0.0.7")
    for wrong in ("https://example.com", "example.com:8000", "a/b", ""):
        (line,) = lines({"auth": "none", "hosts": [wrong]})
        assert line.startswith("gateway.hosts.0: ")


def test_origins() -> None:
    origins = ["https://App.example", "http://localhost:3000"]
    assert read_gateway_config({"auth": "none"}).cors_origins == ()
    config = read_gateway_config({"auth": "none", "cors_origins": origins})
    assert config.cors_origins == ("https://app.example", "http://localhost:3000")
    for wrong in ("*", "app.example", "https://app.example/", "https://*.example", "https://u@app.example", "null", ""):
        (line,) = lines({"auth": "none", "cors_origins": [wrong]})
        assert line.startswith("gateway.cors_origins.0: ")
        assert "https://app.example.com" in line


def test_on_loopback_only_the_names_of_this_machine_are_known() -> None:
    default = read_gateway_config({"auth": "none"})
    assert default.bound_to("0.0.0.0").hosts is None
    for address in ("127.0.0.1", "localhost", "::1"):
        assert default.bound_to(address).hosts == ("localhost", "127.0.0.1", "::1")
    named = read_gateway_config({"auth": "none", "hosts": ["vision.example"]})
    assert named.bound_to("127.0.0.1").hosts == ("vision.example",)


def test_rows_of_tenants_of_tokens() -> None:
    rows = {"acme": {"concurrent": 1}, "jwt:beta": {"concurrent": 2}}
    allow = {"s3": {"allow": {"acme": ["s3://a"], "*": ["s3://b"]}}, "gs": {"allow": {"acme": ["gs://a"]}}}
    block = {"auth": {"jwt": JWT}, "rate_limits": {"keys": rows}, "fetch": allow}
    config = read_gateway_config(block)
    assert set(config.rate_limits.keys) == {"jwt:acme", "jwt:beta"}
    assert set(config.fetch.s3.allow) == {"jwt:acme", "*"}
    assert set(config.fetch.gs.allow) == {"jwt:acme"}
    assert GatewayConfig.model_validate(config.model_dump(mode="json")) == config
    both = read_gateway_config({**block, "auth": {"jwt": JWT, "keys_file": "/keys.json"}})
    assert set(both.rate_limits.keys) == {"acme", "jwt:beta"}  # acme is the tenant of a key
