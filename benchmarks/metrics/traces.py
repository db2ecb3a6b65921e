"""python -m benchmarks.metrics.traces: CPU time that traces cost an image. See README.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from graph.engine import StepRequest
from graph.runtime import Prepared
from serve_app.telemetry.tracing import record_batch, set_up_tracing, span, step_span, stop_tracing

_STEPS = ("detect", "makes", "colors")

# A collector in a process of its own: its CPU time is not that of an image.
_COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def one_image() -> None:
    """The spans of an image that goes through three steps, each with a batch of its own."""
    with span("POST /v1/images", {"http.request.method": "POST", "visiongraph.request_id": "r1"}, root=True):
        for step in _STEPS:
            with step_span(step, StepRequest(image={}, context={})) as request:
                call = Prepared(request, configuration=None, images=(), contexts=(), divisor=1)  # type: ignore[arg-type]
                record_batch(step, [call], time.time_ns())


def cpu_us(images: int, pause_s: float) -> float:
    """Per image, the export included; ``pause_s``: after each image, so that the exporter keeps up."""
    started = time.process_time()
    for _ in range(images):
        one_image()
        time.sleep(pause_s)
    stop_tracing()
    return (time.process_time() - started) / images * 1e6


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=2000)
    images = arguments.parse_args().images
    with subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True) as collector:
        assert collector.stdout is not None
        url = f"http://127.0.0.1:{collector.stdout.readline().strip()}"
        print("| traces | CPU-us per image |\n|---|---|")
        print(f"| off | {cpu_us(images, 0):.0f} |")
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        for sampler, words in (("always_off", "not sampled"), ("always_on", "sampled: 16 spans")):
            os.environ["OTEL_TRACES_SAMPLER"] = sampler
            set_up_tracing()
            print(f"| {words} | {cpu_us(images, 0.005 if sampler == 'always_on' else 0):.0f} |")
        collector.terminate()


if __name__ == "__main__":
    main()
