from __future__ import annotations

from typing import Any

import pytest

from classifiers import SetupError
from serve_app.kubernetes.checks import kubernetes_name


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"intake": {"queue": "sqlite:////jobs.db"}}, "intake.queue: an SQLite file is on one node; use amqp://"),
        ({"intake": {"results": "/results"}}, "intake.results: the folder /results is on one node; use s3://"),
        ({"intake": {"queue": "amqp://127.0.0.1/?queue=q"}}, "intake.queue: 127.0.0.1 is the pod itself"),
        (
            {"intake": {"results": "s3://b?region=r&endpoint_url=http://localhost:9000"}},
            "intake.results: localhost is the pod itself; write the name of a Service",
        ),
        ({"gateway": {"fetch": {"s3": {"endpoint_url": "http://[::1]:9000"}}}}, "gateway.fetch.s3.endpoint_url: ::1"),
        ({"gateway": {"rate_limits": {"redis_url": "redis://localhost/0"}}}, "redis_url: localhost is the pod"),
        ({"gateway": {"hosts": ["localhost"]}}, "gateway.hosts: only requests to this machine's own names"),
        ({"redis": "redis://127.0.0.1:6379"}, "--redis: 127.0.0.1 is the pod itself"),
        ({"redis": "redis:6379"}, "--redis: write redis://HOST:PORT"),
        ({"redis": "redis://redis:6379/0"}, "--redis: write redis://HOST:PORT"),
        ({"redis": "redis://:secret@redis:6379"}, "--redis: the password would be in the manifest; write ${NAME}"),
        ({"intake": {"queue": "amqp://me:secret@rabbit/?queue=q"}}, "intake.queue: the password would be in"),
        ({"upgrade": "incremental"}, "name its class with --gateway-class"),
    ],
)
def test_what_cannot_work_is_refused(choice: dict[str, Any], words: str, manifests: Any) -> None:
    with pytest.raises(SetupError) as error:
        manifests(**choice)
    assert words in str(error.value)
    assert "secret" not in str(error.value).replace("Secret", "")


def test_all_mistakes_are_reported_at_once(manifests: Any) -> None:
    with pytest.raises(SetupError) as error:
        manifests(steps={"colour": {"num_cpus": 9}}, intake={"queue": "sqlite:////jobs.db", "results": "/results"})
    assert len(str(error.value).splitlines()) == 3


def test_a_class_of_another_package_must_be_in_the_image(manifests: Any) -> None:
    warnings: list[str] = []
    manifests(warn=warnings.append, redis="redis://redis:6379")
    assert [each for each in warnings if "toys.Blobs" in each]
    assert not [each for each in warnings if "--redis" in each]


@pytest.mark.parametrize(("pipeline", "name"), [("Street_Scenes", "street-scenes"), ("v1.2", "v1-2")])
def test_names(pipeline: str, name: str) -> None:
    assert kubernetes_name(pipeline) == name


@pytest.mark.parametrize("pipeline", ["2fast", "straße", "a" * 48, "x-"])
def test_names_that_kubernetes_does_not_take(pipeline: str) -> None:
    with pytest.raises(SetupError, match="write 'name:' in the pipeline file"):
        kubernetes_name(pipeline)
