"""python -m benchmarks.bulk PHOTOS: images a second over a folder, by ``visiongraph batch``, by the same pipeline
written by hand for ``multiprocessing``, and in a plain ``map_batches`` per stage."""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import PIL.Image
import psutil
import yaml

from benchmarks.serving.settings import Settings, pipeline_of
from benchmarks.serving.straight import load

_ROOT = Path(__file__).parents[2]
_BROKEN = 50  # one image in 50


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="a folder of real photos")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--systems", nargs="+", default=["processes", "batch", "map_batches"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bulk-") as name:
        folder = Path(name)
        make_images(options.photos, folder / "images", options.images)
        settings = make_settings()
        environment = {**os.environ, **settings.write(folder / "settings.json")}
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline_of(settings, {})))
        print(f"{options.images} images on {settings.workers} cores, load {os.getloadavg()[0]:.1f} at the start")
        columns = ["images/s", "of processes", "whole, s", "CPU, s", "peak MB", "drift"]
        print(f"{'system':12}", *columns, sep="  ")
        for _ in range(options.rounds):
            best = None
            for system in options.systems:
                measured = measure(system, folder, environment)
                best = best or measured["images_per_s"]
                values = {"images/s": measured["images_per_s"], "of processes": measured["images_per_s"] / best}
                values |= {"whole, s": measured["whole_s"], "CPU, s": measured["cpu_s"]}
                values |= {"peak MB": measured["peak_mb"], "drift": measured["drift"]}
                cells = (f"{values[name]:{len(name)}.{0 if name == 'peak MB' else 2}f}" for name in columns)
                print(f"{system:12}", *cells, sep="  ", flush=True)


def make_images(photos: Path, to: Path, count: int) -> None:
    """Small images cut out of photos, each another one; one in 50 is truncated."""
    to.mkdir()
    seed = random.Random(1)
    pictures = []
    for path in sorted(photos.iterdir()):
        with suppress(Exception), PIL.Image.open(path) as picture:  # some of a corpus are broken on purpose
            pictures.append(picture.convert("RGB"))
    for number in range(count):
        picture = pictures[number % len(pictures)]
        width, height = (round(side * seed.uniform(0.7, 1)) for side in picture.size)
        left, top = seed.randint(0, picture.width - width), seed.randint(0, picture.height - height)
        file = io.BytesIO()
        part = picture.resize((480, 360), box=(left, top, left + width, top + height), reducing_gap=2)
        part.save(file, "JPEG", quality=80)
        data = file.getvalue()
        (to / f"{number:06d}.jpg").write_bytes(data[: len(data) // 2] if number % _BROKEN == 7 else data)


def make_settings() -> Settings:
    """The demo's models."""
    steps = yaml.safe_load((_ROOT / "configs" / "demo.yaml").read_text())["pipeline"]
    models = {step["name"]: {"class": step["class"], "params": step.get("params", {})} for step in steps}
    workers = len(os.sched_getaffinity(0))
    crops = {}
    for name in list(models)[1:]:
        model = load(Settings(models, {}, workers), name)
        crops[name] = {"size": model.input_size, "resize": model.resize, "padding": model.crop_padding}
    return Settings(models, crops, workers)


def measure(system: str, folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run one system on all images, in a process of its own. ``images_per_s`` is from its first image to its last;
    ``drift`` is the largest memory after that at 10% of the time, as a share of it."""
    out = Path(tempfile.mkdtemp(dir=folder))
    if system == "batch":
        # a chunk in the manifest's time is what the user waits for, Ray's start and the models' not included
        command = ["-c", "from serve_app.cli import main; main()", "batch", str(folder / "pipeline.yaml")]
        command += [str(folder / "images"), "--out", str(out)]
    else:
        command = ["-m", "benchmarks.bulk.by_hand", system, str(folder / "images"), str(out)]
    started = time.monotonic()
    program = subprocess.Popen([sys.executable, *command], cwd=_ROOT, env=environment, stdout=-1, stderr=-3, text=True)
    memory: list[float] = []
    cpu_s: dict[int, float] = {}
    watch = threading.Thread(target=_watch, args=(program, memory, cpu_s))
    watch.start()
    printed, _ = program.communicate()
    whole_s = time.monotonic() - started
    watch.join()
    if program.returncode:
        raise RuntimeError(f"{system} ended with {program.returncode}: {printed[-2000:]}")
    later = memory[len(memory) // 10 :]
    if system == "batch":
        summary = json.loads((out / "manifest.json").read_text())
        done = sorted(file.stat().st_mtime for file in out.rglob("done/*.json"))
        chunks = sorted(file.stat().st_mtime for file in out.rglob("begun/*.json"))
        seconds = done[-1] - chunks[0]
        images_per_s = summary["images"] / seconds
    else:
        images_per_s = json.loads(printed.splitlines()[-1])["images_per_s"]
    return {
        "images_per_s": images_per_s,
        "whole_s": whole_s,
        "cpu_s": sum(cpu_s.values()),
        "peak_mb": max(memory),
        "drift": (max(later) - later[0]) / later[0],
    }


def _watch(program: subprocess.Popen[str], memory: list[float], cpu_s: dict[int, float]) -> None:
    """MiB of a process and all below it every two seconds, and the CPU time of each."""
    root = psutil.Process(program.pid)
    while program.poll() is None:
        total = 0
        with suppress(psutil.Error):
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
                    cpu_s[process.pid] = sum(process.cpu_times()[:2])
        if total:
            memory.append(total / 2**20)
        time.sleep(2)


if __name__ == "__main__":
    main()
