"""python -m benchmarks.bulk.memory: memory of the command itself over 20,000 and 200,000 addresses, with a step that
does nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import PIL.Image
import psutil

_PIPELINE = "name: noop\npipeline:\n  - {name: nothing, class: benchmarks.serving.noop.NoOpDetector}\n"


def main() -> None:
    """Print a line per size."""
    for count in map(int, sys.argv[1:] or ["20000", "200000"]):
        with tempfile.TemporaryDirectory(prefix="bulk-") as name:
            folder = Path(name)
            (folder / "noop.yaml").write_text(_PIPELINE)
            (folder / "photos").mkdir()
            PIL.Image.new("RGB", (64, 48)).save(folder / "photos" / "a.jpg")
            lines = (f"{folder}/photos/a.jpg,{number}\n" for number in range(count))
            (folder / "list.csv").write_text("uri,number\n" + "".join(lines))
            measure(folder)


def measure(folder: Path) -> None:
    """Run the command on a table, which has every image once under the same address."""
    command = ["-c", "from serve_app.cli import main; main()", "batch", str(folder / "noop.yaml")]
    command += [str(folder / "list.csv"), "--out", str(folder / "out")]
    began = time.monotonic()
    program = subprocess.Popen([sys.executable, *command], stdout=-1, stderr=-3)
    memory: list[float] = []
    with suppress(psutil.Error):
        process = psutil.Process(program.pid)
        while program.poll() is None:
            memory.append(process.memory_full_info().uss / 2**20)
            time.sleep(0.5)
    said, _ = program.communicate()
    if program.returncode:
        raise RuntimeError(said.decode())
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    running = [value for value in memory[len(memory) // 10 :] if value]
    print(
        f"{manifest['images']:,} images in {time.monotonic() - began:.0f} s: the command takes {max(running):.0f} MB "
        f"at most, {running[0]:.0f} MB after a tenth of the time, {running[-1]:.0f} MB at the end"
    )


if __name__ == "__main__":
    main()
