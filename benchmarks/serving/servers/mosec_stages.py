"""mosec with a stage for each step, as its multi-stage example has it, or (argument 2) the whole pipeline in one."""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker

from benchmarks.serving.settings import Settings
from benchmarks.serving.straight import Classifier, Detector, Found, Straight

_BATCH = 8
_TIMEOUT_S = 60


class Detect(Worker):
    """The first stage: takes the bytes as they came."""

    def __init__(self) -> None:
        super().__init__()
        self._detector = Detector(Settings.read())

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Any:
        return self._detector([data])[0]


class Makes(Worker):
    """A stage of crops; what travels between stages are the results so far and the crops, pickled."""

    step = "car_make_classification"

    def __init__(self) -> None:
        super().__init__()
        self._classifier = Classifier(Settings.read(), self.step)

    def forward(self, data: list[Found]) -> list[Any]:
        self._classifier(data)
        return data


class Colours(Makes):
    """The last stage: answers with JSON, which is mosec's default."""

    step = "tshirt_color_classification"

    def forward(self, data: list[Found]) -> list[Any]:
        return [found.context for found in super().forward(data)]


class DetectOnly(Detect):
    """The only stage where there is no other step."""

    def forward(self, data: bytes) -> Any:
        return super().forward(data).context


class Whole(Worker):
    """Everything in one stage."""

    def __init__(self) -> None:
        super().__init__()
        self._pipeline = Straight(Settings.read())

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> dict[str, Any]:
        return self._pipeline([data])[0]


def main(arrangement: str) -> None:
    """Serve until the process is told to stop."""
    settings = Settings.read()
    server = Server()
    # Images one at a time: a batch is not faster here, and would leave the other process without work.
    heavy = {"num": settings.workers, "timeout": _TIMEOUT_S}
    if arrangement == "whole":
        server.append_worker(Whole, **heavy)
    elif not settings.crops:
        server.append_worker(DetectOnly, **heavy)
    else:
        server.append_worker(Detect, **heavy)
        server.append_worker(Makes, max_batch_size=_BATCH, max_wait_time=1, **heavy)
        server.append_worker(Colours, max_batch_size=_BATCH, max_wait_time=1, timeout=_TIMEOUT_S)
    server.run()


if __name__ == "__main__":
    port, arrangement = sys.argv[1:]
    sys.argv[1:] = [
        "--address",
        "127.0.0.1",
        "--port",
        port,
        "--timeout",
        str(1000 * _TIMEOUT_S),
        "--log-level",
        "error",
    ]
    main(arrangement)
