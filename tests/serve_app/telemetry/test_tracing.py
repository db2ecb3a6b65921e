"""One connected tree for each sampled image, over HTTP and through a queue."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from gateways import client_of, config, post
from intakes import STREET, Site, consuming, place, until
from otlp_receiver import Receiver, Seen
from ray.serve import context
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.schema import ReplicaRank

from graph import Engine, load_plan
from graph.pipeline_file import INGRESS
from serve_app.deployments.backend import ServeBackend
from serve_app.deployments.hosting import StepHost
from serve_app.http.application import make_app
from serve_app.http.job_desk import JobDesk
from serve_app.queues import queue_from_url
from serve_app.telemetry import tracing

DETECT = {"name": "detect", "class": "toys.Blobs", "serve": {"colocate_with": "ingress", "max_batch_size": 8}}
COLOR = {
    "name": "color",
    "class": "toys.MeanColour",
    "depends_on": "detect",
    "serve": {"colocate_with": "detect", "max_batch_size": 8, "batch_wait_ms": 100},
}
NEVER = {"name": "never", "class": "toys.Size", "condition": "False", "serve": {"colocate_with": "ingress"}}
PLAN = load_plan({"name": "traced", "pipeline": [DETECT, COLOR, NEVER]})

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context in which ``@serve.batch`` works: that of a replica."""
    monkeypatch.setattr(context, "_INTERNAL_REPLICA_CONTEXT", None)  # and back again after the test
    context._set_internal_replica_context(
        replica_id=ReplicaID("r", DeploymentID("d", "a")),
        servable_object=StepHost,
        _deployment_config=DeploymentConfig(max_ongoing_requests=64),
        rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
        world_size=1,
    )


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """Each test sets up the tracing of this process itself."""
    yield
    tracing.stop_tracing()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Where spans go: those of requests with a sampled parent, and no others."""
    receiver = Receiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    yield receiver
    receiver.close()


@pytest.fixture
async def backend() -> ServeBackend:
    host = StepHost(PLAN, INGRESS)
    await host.reconfigure(PLAN)
    return ServeBackend(PLAN, {}, host, 10**6, crashes=None)  # type: ignore[arg-type] - of steps elsewhere


@pytest.fixture
async def client(backend: ServeBackend) -> AsyncIterator[httpx.AsyncClient]:
    engine = Engine(PLAN, backend)
    async with client_of(make_app(lambda: engine, config())) as client:
        yield client


def spans_of(receiver: Receiver) -> list[Seen]:
    """All spans, once the exporter has sent them."""
    tracing.stop_tracing()
    return receiver.spans


def tree(spans: list[Seen]) -> Counter[str]:
    """How often each path from the root to a span occurs. Every span but the root has a parent that is there."""
    by_id = {span.id: span for span in spans}

    def path(span: Seen) -> str:
        parent = by_id.get(span.parent)
        return span.name if parent is None else f"{path(parent)} > {span.name}"

    return Counter(map(path, spans))


async def test_a_request_is_one_tree(receiver: Receiver, client: httpx.AsyncClient) -> None:
    tracing.set_up_tracing()
    response = await post(client, STREET, headers={"traceparent": PARENT, "X-Request-Id": "mine"})
    assert response.status_code == 200
    spans = spans_of(receiver)
    assert {span.trace for span in spans} == {PARENT.split("-")[1]}
    root = "POST /v1/images"
    steps = [f"{root} > step {name}{rest}" for name in ("detect", "color") for rest in ("", *PARTS)]
    assert tree(spans) == Counter([root, *steps])
    (server,) = (span for span in spans if span.name == root)
    assert server.parent == PARENT.split("-")[2]
    assert server.attributes["visiongraph.request_id"] == "mine"
    assert server.attributes["http.response.status_code"] == 200
    assert response.headers["traceparent"] == f"00-{server.trace}-{server.id}-01"
    for span in spans:
        assert server.start_ns <= span.start_ns <= span.end_ns <= server.end_ns, span.name


PARTS = (" > decode", " > wait for the model", " > model", " > batch")


async def test_a_batch_has_a_link_to_each_member(receiver: Receiver, client: httpx.AsyncClient) -> None:
    tracing.set_up_tracing()
    parents = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 5)]
    unsampled = [f"00-{number:032x}-{number:016x}-00" for number in range(5, 7)]
    headers = [{"traceparent": parent} for parent in (*parents, *unsampled)]
    answers = await asyncio.gather(*(post(client, STREET, headers=each) for each in headers))
    assert [answer.status_code for answer in answers] == [200] * 6
    spans = spans_of(receiver)
    assert {span.trace for span in spans} == {parent.split("-")[1] for parent in parents}
    batches = [span for span in spans if span.name == "batch"]
    for name in ("detect", "color"):
        members = {span.id for span in spans if span.name == f"step {name}"}
        of_step = [batch for batch in batches if batch.attributes["visiongraph.step"] == name]
        assert len(members) == 4
        assert sorted(link for batch in of_step for link in batch.links) == sorted(members)
        assert sum(int(str(batch.attributes["visiongraph.batch.calls"])) for batch in of_step) >= 4
    linked = {span.id: span.links for span in spans if span.name == "model"}
    assert len(linked) == 8
    assert {link for links in linked.values() for link in links} == {batch.id for batch in batches}


async def test_what_is_not_sampled_is_not_recorded(receiver: Receiver, client: httpx.AsyncClient) -> None:
    tracing.set_up_tracing()
    for headers in ({}, {"traceparent": PARENT[:-1] + "0"}, {"traceparent": "nonsense"}):
        response = await post(client, STREET, headers=headers)
        assert response.status_code == 200
        assert "traceparent" not in response.headers
    assert spans_of(receiver) == []


async def test_without_a_collector_there_are_no_traces(
    monkeypatch: pytest.MonkeyPatch, client: httpx.AsyncClient
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    tracing.set_up_tracing()
    assert "traceparent" not in (await post(client, STREET, headers={"traceparent": PARENT})).headers


@pytest.mark.parametrize(
    ("variable", "protocol", "words"),
    [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "is 'grpc', whose exporter is not installed; pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "'http/json' is not supported; set it to http/protobuf"),
    ],
)
def test_a_protocol_that_cannot_be_used_is_an_error_that_says_what_to_do(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    protocol: str,
    words: str,
) -> None:
    monkeypatch.setenv(variable, protocol)
    # as where it is not installed, also where it is
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    tracing.set_up_tracing()
    assert words in caplog.text
    with tracing.span("none", root=True, parent=PARENT) as span:
        assert not span.is_recording()
    assert spans_of(receiver) == []


async def test_a_message_that_is_delivered_twice_stays_in_its_trace(
    receiver: Receiver, backend: ServeBackend, tmp_path: Path
) -> None:
    tracing.set_up_tracing()
    site = Site()
    site.answers["/street.png"] = [503, 200]
    async with place(tmp_path) as at:
        await at.publish({"id": "again", "uri": f"{site.url}/street.png", "traceparent": PARENT})
        async with consuming(at, backend, plan=PLAN, own=site.rules) as consumer:
            await until(lambda: at.store.outcome("again"))
            await until(lambda: not consumer.in_hand)
    site.close()
    spans = spans_of(receiver)
    assert {span.trace for span in spans} == {PARENT.split("-")[1]}
    deliveries = [span for span in spans if span.name == "process"]
    assert len(deliveries) == 2
    assert {span.parent for span in deliveries} == {PARENT.split("-")[2]}
    paths = tree(spans)
    assert paths["process > acknowledged"] == 1
    assert paths["process > store"] == 1
    assert paths["process > step color > model"] == 1
    assert paths["process > fetch"] == 2
    assert paths["process > retried"] == 0, "an attempt that failed has no outcome"


async def test_a_message_without_a_parent_has_the_same_trace_each_time(
    receiver: Receiver, backend: ServeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    tracing.set_up_tracing()
    async with place(tmp_path) as at:
        await at.publish(
            {"id": "one", "uri": at.image()}, {"id": "one", "uri": at.image()}, {"id": "two", "uri": at.image()}
        )
        async with consuming(at, backend, plan=PLAN) as consumer:
            await until(at.is_empty)
            await until(lambda: not consumer.in_hand)
    found: dict[object, set[str]] = {}
    for span in spans_of(receiver):
        if span.name == "process":
            found.setdefault(span.attributes["visiongraph.job_id"], set()).add(span.trace)
    assert {job: len(traces) for job, traces in found.items()} == {"one": 1, "two": 1}
    assert found["one"] != found["two"]


async def test_a_job_continues_the_trace_of_its_request(
    receiver: Receiver, backend: ServeBackend, tmp_path: Path
) -> None:
    tracing.set_up_tracing()
    engine = Engine(PLAN, backend)
    async with place(tmp_path) as at, consuming(at, backend, plan=PLAN) as consumer:
        sources = consumer._runner._sources
        desk = JobDesk(queue_from_url(at.url), at.store, sources, at.uploads)
        async with client_of(make_app(lambda: engine, config(), desk=desk)) as client:
            answer = await client.post("/v1/jobs", json={"uri": at.image()}, headers={"traceparent": PARENT})
            assert answer.status_code == 202, answer.text
            (job,) = answer.json()["jobs"]
            await until(lambda: at.store.outcome(job["id"]))
            await until(at.is_empty)
    paths = tree(spans_of(receiver))
    assert paths["POST /v1/jobs > process > step detect > batch"] == 1
    assert paths["POST /v1/jobs > process > acknowledged"] == 1
