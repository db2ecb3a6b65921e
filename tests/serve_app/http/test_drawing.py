"""Pictures are drawn one at a time, in memory that is bounded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from gateways import PNG
from toys import encoded

from classifiers import TooManyPixels
from graph import Frame, Overloaded
from serve_app.http import drawing
from serve_app.http.drawing import Drawings
from serve_app.http.middleware import MemoryBudget

RESULT: dict[str, Any] = {"context": {}}


class Threads:
    """Stands for the drawing: it lasts until it is told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.under_way = self.most = 0
        self.started, self.go_on = threading.Event(), threading.Event()
        patch.setattr(drawing, "annotate", self)

    def __call__(self, frame: Frame, result: dict[str, Any]) -> bytes:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.started.set()
        self.go_on.wait(10)
        self.under_way -= 1
        return b"jpeg"


async def test_one_at_a_time_also_where_nobody_waits_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, drawings = Threads(monkeypatch), Drawings(MemoryBudget(10**9))
    requests = [asyncio.create_task(drawings.draw(Frame.from_bytes(PNG), RESULT)) for _ in range(4)]
    assert await asyncio.to_thread(threads.started.wait, 5)
    requests[0].cancel()  # its thread goes on
    requests[1].cancel()  # has none yet
    await asyncio.sleep(0.02)
    assert threads.under_way == 1
    threads.go_on.set()
    assert await asyncio.gather(*requests[2:]) == [b"jpeg"] * 2
    assert threads.most == 1


async def test_beside_bodies_that_take_all_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, memory = Frame.from_bytes(PNG), MemoryBudget(450_000)
    drawings = Drawings(memory)
    memory.take(100_000)
    with pytest.raises(Overloaded):
        await drawings.draw(frame, RESULT)
    memory.give_back(100_000)
    for _ in range(3):  # and the memory is given back
        assert (await drawings.draw(frame, RESULT)).startswith(b"\xff\xd8")


def test_a_picture_that_has_no_room_beside_its_own_body() -> None:
    """It is told so at once: "try again" would be said each time."""
    frame, drawings = Frame.from_bytes(PNG), Drawings(MemoryBudget(450_000))
    drawings.check(frame, 30_000)
    with pytest.raises(TooManyPixels, match="beside a body of 60,000 bytes") as refused:
        drawings.check(frame, 60_000)
    assert refused.value.fields["limit"] == 390_000 * 3 // 16
    webp = Frame.from_bytes(encoded(frame.pixels(), "WEBP"))
    with pytest.raises(TooManyPixels):  # takes more memory a pixel
        drawings.check(webp, 0)


_PEAK = """
import io
import numpy as np, PIL.Image
from graph import Frame, annotate
from serve_app.http.drawing import _MAX_PIXELS

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

side = int(_MAX_PIXELS**0.5)
annotate(Frame.from_array(np.zeros((100, 100, 3), np.uint8)), {"context": {}})
file = io.BytesIO()
PIL.Image.new("RGBA", (side, side)).save(file, "WEBP", method=0)
frame = Frame.from_bytes(file.getvalue())
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # forget the peak so far
rest = status("VmRSS:")
annotate(frame, {"context": {}})
print(round(status("VmHWM:") - rest))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_the_largest_picture_fits_into_the_memory_that_is_allowed() -> None:
    """A WebP, which takes the most."""
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert 100 < int(done.stdout) < 300
