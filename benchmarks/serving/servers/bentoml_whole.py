"""BentoML: a service whose workers each have the whole pipeline."""

# No `from __future__ import annotations`: BentoML reads annotations at run time.
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from benchmarks.serving.settings import Settings
from benchmarks.serving.straight import Straight


@bentoml.service(workers=Settings.read().workers, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Pipeline:
    """Bytes in, results by step out. BentoML runs the method in a thread; one, as the models have one thread each."""

    def __init__(self) -> None:
        self._pipeline = Straight(Settings.read())

    @bentoml.api(route="/predict")
    def predict(self, image: Annotated[Path, ContentType("image/jpeg")], /) -> dict[str, Any]:
        return self._pipeline([image.read_bytes()])[0]


if __name__ == "__main__":
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    command = ["-m", "bentoml", "serve", f"{__spec__.name}:Pipeline", "--host", "127.0.0.1", "--port", sys.argv[1]]
    os.execv(sys.executable, [sys.executable, *command])
