"""python -m benchmarks: every measurement, one after the other; the arguments are those of benchmarks.serving."""

from __future__ import annotations

import subprocess
import sys

if __name__ == "__main__":
    for arguments in (["benchmarks.batching"], ["benchmarks.serving", *sys.argv[1:]]):
        subprocess.run([sys.executable, "-m", *arguments], check=True)
