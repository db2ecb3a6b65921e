"""Which device a torch model runs on, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from classifiers.errors import SetupError

if TYPE_CHECKING:
    import torch

__all__ = ["Half", "choose_device", "choose_half"]

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
