"""Traces by OpenTelemetry: off unless the environment names a collector, as its specification calls the variables.

What goes to another process is a ``traceparent`` (W3C Trace Context), and only that of a sampled trace: without one,
nothing is recorded there, and an image that is not sampled costs next to nothing. Spans of work that is done in threads
and batches are recorded when it has ended, with the times at which it began and ended.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from graph.engine import StepRequest
from graph.runtime import Prepared

__all__ = [
    "current_trace_id",
    "current_traceparent",
    "record",
    "record_batch",
    "set_up_tracing",
    "span",
    "step_span",
    "stop_tracing",
    "traceparent_or_none",
]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""The first that is set holds."""

_EXPORTERS = {
    "http/protobuf": ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "'visiongraph[tracing]'"),
    "grpc": ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "opentelemetry-exporter-otlp-proto-grpc"),
}
"""For each protocol the module of its exporter, and what to install."""

_SAMPLED = 0.01
"""Of the images whose client sends no ``traceparent``, where ``OTEL_TRACES_SAMPLER`` says nothing."""

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_log = logging.getLogger(__name__)
_propagator = TraceContextTextMapPropagator()
_identity: ContextVar[str | None] = ContextVar("identity", default=None)


@functools.cache
def set_up_tracing(**labels: str) -> None:
    """Begin to export spans, once for each process, if the environment asks for it.

    Args:
        labels: attributes of all spans of this process.
    """
    if not any(map(os.environ.get, _ENDPOINTS)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    exporter = _exporter()
    if exporter is None:
        return
    name = os.environ.get("OTEL_SERVICE_NAME", "visiongraph")
    resource = Resource.create({"service.name": name, **{f"visiongraph.{key}": value for key, value in labels.items()}})
    # None: what OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say
    sampler = None if "OTEL_TRACES_SAMPLER" in os.environ else ParentBasedTraceIdRatio(_SAMPLED)
    provider = TracerProvider(sampler=sampler, resource=resource, id_generator=_TraceIds())
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _providers.append(provider)


def _exporter() -> SpanExporter | None:
    """Of the protocol that the environment names; ``None``, and an error in the log, where it cannot be had."""
    variable = next(filter(os.environ.get, _PROTOCOLS), _PROTOCOLS[-1])
    protocol = os.environ.get(variable) or "http/protobuf"
    if protocol not in _EXPORTERS:
        _log.error("no traces: %s '%s' is not supported; set it to %s", variable, protocol, " or ".join(_EXPORTERS))
        return None
    module, package = _EXPORTERS[protocol]
    try:
        exporter: SpanExporter = importlib.import_module(module).OTLPSpanExporter()
    except ImportError:
        _log.error(
            "no traces: %s is '%s', whose exporter is not installed; pip install %s", variable, protocol, package
        )
        return None
    return exporter


def stop_tracing() -> None:
    """Export what is left: this process ends."""
    for provider in _providers:
        provider.shutdown()
    _providers.clear()
    set_up_tracing.cache_clear()


# Of this process: none or one. Not OpenTelemetry's global one, which belongs to the application around this.
_providers: list[TracerProvider] = []


class _TraceIds(RandomIdGenerator):
    """A trace that is about a thing with an identity has the same id each time: a message that is delivered again stays
    in its trace."""

    def generate_trace_id(self) -> int:
        identity = _identity.get()
        if identity is None:
            return super().generate_trace_id()
        return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:16]) or 1


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    parent: str = "",
    root: bool = False,
    identity: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Iterator[trace.Span]:
    """A span around the block; an exception that leaves the block is its status.

    Args:
        name: what is done: few different ones.
        attributes: of the span.
        parent: a ``traceparent``; without it the span that is current.
        root: begins a trace where there is no parent; else nothing is recorded there.
        identity: gives a new trace its id.
        kind: its role towards other services.
    """
    current = trace.get_current_span()
    if not _providers or not (root or parent or current.is_recording()):
        yield trace.INVALID_SPAN
        return
    context = _context_of(parent) if parent else None
    token = _identity.set(identity)
    try:
        started = _tracer().start_span(name, context, kind, attributes)
    finally:
        _identity.reset(token)
    with trace.use_span(started, end_on_exit=True):
        yield started


@contextmanager
def step_span(step: str, request: StepRequest, parent: str = "") -> Iterator[StepRequest]:
    """A span around the call of a step; the request to send names it."""
    with span(f"step {step}", {"visiongraph.step": step}, parent=parent):
        traceparent = current_traceparent()
        yield replace(request, traceparent=traceparent) if traceparent else request


def traceparent_or_none(text: object) -> str | None:
    """A ``traceparent`` that somebody else has sent; ``None``: it is none, and a new trace begins, as the specification
    wants it."""
    return text if isinstance(text, str) and _TRACEPARENT.fullmatch(text) else None


def current_trace_id() -> str | None:
    """The id of the trace that is recorded now, in hex."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.trace_flags.sampled else None


def current_traceparent() -> str:
    """The ``traceparent`` of the current span; empty where it is not sampled."""
    if not trace.get_current_span().is_recording():
        return ""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier["traceparent"]


def record(name: str, parent: str, start_ns: int) -> None:
    """Record a span that ends now; ``parent``: a ``traceparent``, without which nothing is recorded."""
    if _providers and parent:
        _tracer().start_span(name, _context_of(parent), start_time=start_ns).end()


def record_batch(step: str, calls: Sequence[Prepared], start_ns: int) -> None:
    """Record a batch of a model that ends now: a span with a link to each call that is sampled, and in the trace of
    each of these calls how long it was decoded, waited, and was in the batch, with a link to the batch."""
    sampled = [call for call in calls if call.request.traceparent]
    if not _providers or not sampled:
        return
    end_ns = time.time_ns()
    contexts = [_context_of(call.request.traceparent) for call in sampled]
    links = [Link(trace.get_current_span(context).get_span_context()) for context in contexts]
    images = sum(map(len, calls))
    attributes: dict[str, AttributeValue] = {
        "visiongraph.step": step,
        "visiongraph.batch.images": images,
        "visiongraph.batch.calls": len(calls),
    }
    # in the trace of its first call, so that it is sampled as that is
    batch = _tracer().start_span("batch", contexts[0], attributes=attributes, links=links, start_time=start_ns)
    batch.end(end_ns)
    to_batch = [Link(batch.get_span_context())]
    for call, context in zip(sampled, contexts, strict=True):
        decoded_ns = call.ready_ns - int(call.decode_s * 1e9)
        _tracer().start_span("decode", context, start_time=decoded_ns).end(call.ready_ns)
        _tracer().start_span("wait for the model", context, start_time=call.ready_ns).end(start_ns)
        _tracer().start_span("model", context, links=to_batch, start_time=start_ns).end(end_ns)


def _tracer() -> trace.Tracer:
    return _providers[0].get_tracer("visiongraph")


def _context_of(traceparent: str) -> otel_context.Context:
    """Empty where it is malformed, as the specification wants it."""
    return _propagator.extract({"traceparent": traceparent}, context=otel_context.Context())
