"""The other servers, each in an environment of its own, so that their dependencies cannot disturb this project's."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

from classifiers.weights.finding import cache_folder

__all__ = ["SERVERS", "python_with"]

SERVERS = {"mosec": "mosec==0.9.8", "litserve": "litserve==0.2.19", "bentoml": "bentoml==1.4.40"}

# What computes is the same for all.
_SAME = ("numpy", "opencv-python", "openvino", "pillow", "pydantic", "pydantic-core")


def python_with(server: str) -> Path:
    """The Python that has a server before this project's own packages; makes it where it is not there yet."""
    folder = cache_folder() / "bench" / SERVERS[server]
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        pins = folder / "pins.txt"
        pins.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in _SAME))
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", pins, SERVERS[server]], check=True)
        own = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        # Behind the server's packages, those of this project.
        (Path(own) / "visiongraph_bench.pth").write_text(sysconfig.get_path("purelib") + "\n")
        complete.touch()
    return python
