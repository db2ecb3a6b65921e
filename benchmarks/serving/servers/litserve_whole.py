"""LitServe: the whole pipeline in each worker, which is how it composes models in one process."""

# No `from __future__ import annotations`: LitServe hands the request's annotation to FastAPI.
import sys
from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.serving.settings import Settings
from benchmarks.serving.straight import Straight


class Pipeline(litserve.LitAPI):
    """Bytes in, results by step out."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._pipeline = Straight(Settings.read())

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        return request

    def predict(self, x: bytes) -> dict[str, Any]:
        return self._pipeline([x])[0]

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    # No batches: on a CPU they are not faster here, and LitServe waits to fill them.
    server = litserve.LitServer(
        Pipeline(api_path="/predict"), accelerator="cpu", workers_per_device=Settings.read().workers, timeout=60
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error", access_log=False)
