"""python -m benchmarks.gpu.served: the same pipeline on Ray Serve, over HTTP, and who is busy. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.gpu.models import DETECTOR, MAKES, add_arguments, device_name, photos_of, pipeline_of
from benchmarks.serving.load import closed_loop, require_wrk
from benchmarks.serving.processes import MARK, measured
from benchmarks.serving.systems import RAY, post
from graph import load_plan
from serve_app.config.gateway_config import GatewayConfig
from serve_app.local.serving import serving

_PORT = 18000
_GPU_SHARE = 0.96  # of the card, for all replicas together
_SAMPLE_S = 0.1
_WARM_UP_S = 5.0


@dataclass(frozen=True)
class Placement:
    """Replicas of the gateway, the detector and the classifier; ``None``: in the gateway's replicas."""

    gateways: int
    detectors: int | None = None
    makes: int | None = None

    @classmethod
    def parse(cls, text: str) -> Placement:
        """``"4:8:2"``, or ``"12"`` for every step in the gateway's replicas."""
        counts = [int(part) for part in text.split(":")]
        if len(counts) not in (1, 3):
            raise argparse.ArgumentTypeError("GATEWAYS:DETECTORS:MAKES, or REPLICAS with all steps in each")
        return cls(*counts)

    def __str__(self) -> str:
        if self.detectors is None:
            return f"{self.gateways} with all steps"
        return f"{self.gateways} gateways, {self.detectors} detectors, {self.makes} makes"

    def options(self, on_gpu: bool) -> dict[str, dict[str, Any]]:
        """Deployment options of each step."""
        if self.detectors is None or self.makes is None:
            share = _share(2 * self.gateways) if on_gpu else 0
            return {
                DETECTOR: {"colocate_with": "ingress", "num_gpus": share},
                MAKES: {"colocate_with": DETECTOR, "num_gpus": share},
            }
        share = _share(self.detectors + self.makes) if on_gpu else 0
        return {
            DETECTOR: {"num_replicas": self.detectors, "num_gpus": share},
            MAKES: {"num_replicas": self.makes, "num_gpus": share},
        }


def main() -> None:
    """Serve in each placement, post with so many connections, and print what came."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.served", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--placements", type=Placement.parse, nargs="+", default=[Placement(4, 6, 2)])
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--seconds", type=float, default=10.0, help="a round")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    require_wrk()
    options.out.mkdir(parents=True, exist_ok=True)
    photos, rows = photos_of(options), []
    # Ray starts only once in a process, and not where ultralytics has imported it.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        processes.submit(pipeline_of, options, {}).result()
        for placement in options.placements:
            rows += processes.submit(_served, placement, photos, options).result()
            (options.out / "served.json").write_text(json.dumps(rows, indent=1))
    print(f"{device_name(options.device)}, {len(os.sched_getaffinity(0))} cores, batches of up to {options.batch}")
    columns = ["placement", "connections", "images/s", "p50 ms", "p95 ms", "GPU busy", "cores: client", "by process"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        cores = {name: ms * row["images_per_s"] / 1000 for name, ms in row["cpu_ms_per_image"].items()}
        client = row["client_cpu_ms_per_image"] * row["images_per_s"] / 1000
        by_process = ", ".join(f"{name} {used:.1f}" for name, used in cores.items())
        print(
            f"| {row['placement']} | {row['connections']} | {row['images_per_s']:.0f} | {row['p50_ms']:.0f} "
            f"| {row['p95_ms']:.0f} | {row['gpu_busy']} | {client:.1f} | {by_process} |"
        )


def _served(placement: Placement, photos: Sequence[Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    on_gpu = options.device.startswith("cuda")
    pipeline = options.out / "pipeline.yaml"
    pipeline.write_text(yaml.safe_dump(pipeline_of(options, placement.options(on_gpu))))
    gateway = GatewayConfig.model_validate(
        {"auth": "none", "num_replicas": placement.gateways, "max_queued_requests": None, "max_bodies_mb": 1024}
    )
    rows = []
    mark = os.environ[MARK] = uuid.uuid4().hex
    with serving(load_plan(pipeline), port=_PORT, dashboard_port=None, gateway=gateway) as server:
        del os.environ[MARK]  # the client is not to count among the server's processes
        url = f"{server.http_url}/v1/images"
        _require_makes(url, photos, options)
        closed_loop(url, photos, max(options.connections), _WARM_UP_S)
        for _ in range(options.rounds):
            for connections in options.connections:
                with _gpu_busy(on_gpu) as busy:
                    row = measured(
                        mark,
                        RAY,
                        lambda n=connections: closed_loop(url, photos, n, options.seconds),  # type: ignore[misc]
                    )
                rows.append({"placement": str(placement), "connections": connections, **row, **busy})
    return rows


def _require_makes(url: str, photos: Sequence[Path], options: argparse.Namespace) -> None:
    """Raises: SystemExit: not every car got a make, so the rates would be of something else."""
    answers = [json.loads(post(url, photo.read_bytes()))["context"] for photo in photos]
    cars = [len(answer[DETECTOR]["detections"]) for answer in answers]
    makes = [len(answer.get(MAKES, {}).get("objects", ())) for answer in answers]
    wanted = len(photos) * options.cars if options.every == 1 else 1
    if makes != cars or sum(cars) < wanted:
        raise SystemExit(f"of {len(photos)} photos, with {cars} cars, came {makes} makes")


def _share(replicas: int) -> float:
    """Of the GPU, for each, in hundredths."""
    return int(100 * _GPU_SHARE / replicas) / 100


@contextmanager
def _gpu_busy(on_gpu: bool) -> Iterator[dict[str, Any]]:
    """Samples meanwhile: the share of time in which the card ran something, in percent, and its memory in use."""
    seen: dict[str, Any] = {"gpu_busy": "-", "gpu_memory_mb": None}
    if not on_gpu:
        yield seen
        return
    import pynvml

    pynvml.nvmlInit()
    card, over, samples = pynvml.nvmlDeviceGetHandleByIndex(0), threading.Event(), []

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            samples.append(pynvml.nvmlDeviceGetUtilizationRates(card).gpu)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        seen["gpu_busy"] = f"{median(samples):.0f} %"
        seen["gpu_memory_mb"] = pynvml.nvmlDeviceGetMemoryInfo(card).used / 2**20


if __name__ == "__main__":
    main()
