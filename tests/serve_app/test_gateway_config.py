from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from classifiers import SetupError
from serve_app.gateway_config import GatewayConfig, Limits, read_gateway_config

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
    assert "say who may come in" in line


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
        ({"auth": "none", "rate_limits": {"default": {"requests_per_second": 0}}}, "greater than 0"),
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
