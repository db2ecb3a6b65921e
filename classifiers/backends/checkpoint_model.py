"""The network of a ``transformers`` checkpoint on what runs it: torch, or OpenVINO for an exported file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifiers.backends.batch_model import BatchModel
from classifiers.backends.devices import Half, choose_device, choose_half
from classifiers.backends.openvino_model import OpenVinoModel, read_model
from classifiers.backends.preprocessing import Preprocessing
from classifiers.backends.threads import limit_threads
from classifiers.backends.torch_runner import TorchRunner, compiled
from classifiers.backends.transformers_loading import load_config
from classifiers.errors import SetupError
from classifiers.weights import CODE, Checkpoint, Runtime, find_checkpoint

if TYPE_CHECKING:
    import torch

__all__ = ["RunOptions", "load_network", "open_checkpoint", "read_config"]


@dataclass(frozen=True)
class RunOptions:
    """Arguments that every class with a checkpoint has."""

    device: str
    half: Half
    torch_compile: bool


def open_checkpoint(
    model: str,
    revision: str | None,
    runtime: Runtime,
    device: str,
    trust_remote_code: bool,
    others: Collection[str] = (),
    part: str = "",
) -> Checkpoint:
    """As :func:`classifiers.weights.find_checkpoint`, for a device, with the checkpoint's code where it is trusted."""
    files = (*others, *CODE) if trust_remote_code else others
    return find_checkpoint(model, revision, runtime, lambda: choose_device(device).type == "cuda", files, part)


def load_network(
    checkpoint: Checkpoint,
    seen: Preprocessing,
    options: RunOptions,
    load: Callable[[torch.device, torch.dtype], Callable[[torch.Tensor], torch.Tensor]],
    select: Callable[[Any], Any] = lambda model: model,
) -> BatchModel:
    """Load what runs a checkpoint.

    Args:
        checkpoint: torch runs it, or OpenVINO its exported file.
        seen: size and normalization of the images.
        options: device, precision, compilation.
        load: a function in torch, on a device in a precision: normalized images (N, 3, H, W) in, one tensor (N, ...)
            out.
        select: changes an exported ``openvino.Model`` so that its first output is what ``load``'s function returns.

    Raises:
        SetupError: the options do not fit what runs it, or this machine.
    """
    if checkpoint.file is None:
        return _in_torch(seen, options, load)
    if options.torch_compile:
        raise SetupError(f"{checkpoint.file} runs in OpenVINO; use runtime: torch, or torch_compile: false")
    if options.device not in ("auto", "cpu"):
        raise SetupError(f"{checkpoint.file} runs in OpenVINO on the CPU, not on {options.device!r}; use device: auto")
    model = select(read_model(checkpoint.file))
    return OpenVinoModel(model, seen.model_size, seen.mean, seen.scale, options.half)


def _in_torch(
    seen: Preprocessing,
    options: RunOptions,
    load: Callable[[torch.device, torch.dtype], Callable[[torch.Tensor], torch.Tensor]],
) -> TorchRunner:
    import torch

    device = choose_device(options.device)
    dtype = torch.float16 if choose_half(options.half, device) else torch.float32
    network = compiled(load(device, dtype), options.torch_compile)
    mean, scale = (
        torch.tensor(values, device=device, dtype=dtype).reshape(1, 3, 1, 1) for values in (seen.mean, seen.scale)
    )

    def answer(images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = network((images.to(dtype) - mean) / scale)
        return output

    limit_threads()
    return TorchRunner(answer, device, seen.model_size, is_compiled=options.torch_compile)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint.

    Raises:
        SetupError: it is damaged.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise SetupError(f"{file} is not JSON: {error}; copy it again from where the checkpoint came from") from error
    if not isinstance(config, dict):
        raise SetupError(f"{file} must hold a JSON object, but holds a {type(config).__name__}")
    if "pretrained_cfg" in config:  # timm's, whose labels may be those of ImageNet, which only timm knows
        return load_config(folder)
    return dict(config)
