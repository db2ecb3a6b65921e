"""Which device a torch model runs on, in which precision, and how it is compiled and fed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from classifiers.errors import SetupError

if TYPE_CHECKING:
    import torch

__all__ = ["Half", "batch_sizes_to_warm_up", "choose_device", "choose_half", "compiled", "to_device"]

Half = bool | Literal["auto"]
"""Half precision; ``"auto"``: on a GPU only."""


def choose_device(device: str) -> torch.device:
    """The torch device of this text; ``"auto"`` is the GPU if there is one, else the CPU.

    Raises:
        SetupError: this machine has no such device.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SetupError(f"device {device!r} is not a device; use 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        raise SetupError(
            f"device {device!r} is not there: this process sees {seen} CUDA device(s); use 'auto' or 'cpu'"
        )
    return chosen


def choose_half(half: Half, device: torch.device) -> bool:
    """Whether a torch model on this device runs in half precision.

    Raises:
        SetupError: half precision was asked for on a CPU, where torch is slower with it and lacks operations.
    """
    if half == "auto":
        return device.type == "cuda"
    if half and device.type == "cpu":
        raise SetupError("half: true needs a GPU, and the device is the CPU; use half: auto or half: false")
    return half


def compiled(model: Any, wanted: bool) -> Any:
    """The model, by ``torch.compile`` where that is wanted; it is compiled when it runs for the first time."""
    if not wanted:
        return model
    import torch

    return torch.compile(model)


def batch_sizes_to_warm_up(largest: int, is_compiled: bool) -> tuple[int, ...]:
    """Batch sizes to run before the first request.

    ``torch.compile`` makes code for the first size that it sees, at the second different one code for any size, and
    for a single image code of its own; each takes seconds to minutes, which no request should wait for.
    """
    return tuple(dict.fromkeys((largest, max(1, largest // 2), 1))) if is_compiled else (largest,)


def to_device(images: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Images (N, H, W, 3) uint8 as a tensor (N, 3, H, W) on the device, still uint8: a quarter of the bytes of floats.

    From pinned memory the GPU fetches them itself, while this thread already queues what is to be done with them.
    """
    import torch

    tensor = torch.from_numpy(images)
    if device.type == "cuda":
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    return tensor.permute(0, 3, 1, 2)
