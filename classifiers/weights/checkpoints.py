"""Finding the files of a ``transformers`` checkpoint, in a folder of this machine or at the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from classifiers.errors import ModelNotFound, SetupError
from classifiers.weights.finding import digest_weights, find_model, model_not_found

__all__ = ["CODE", "TOKENIZER", "Checkpoint", "Runtime", "find_checkpoint"]

Runtime = Literal["auto", "torch", "openvino", "onnx"]

CODE = ("*.py",)
TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
"""Patterns of files that only some checkpoints have."""

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_ABOUT = ("config.json", *_PROCESSORS)
_CARD = "README.md"  # has the license
_TORCH = ("model*.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_EXPORTED_AT_THE_HUB = {
    "openvino": ("openvino_{}.xml", "openvino_{}.bin"),
    "onnx": ("{}.onnx", "onnx/{}.onnx"),
}
_IN_WORDS: dict[Runtime, str] = {
    "openvino": "an OpenVINO model (.xml and .bin)",
    "onnx": "an .onnx model",
    "torch": "model.safetensors",
}


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on this machine.

    Attributes:
        folder: where config.json and the image processor's settings are.
        file: the .xml or .onnx file for OpenVINO to run; ``None``: torch runs it, and finds its files.
        digest: hash of all these files.
    """

    folder: Path
    file: Path | None
    digest: str


def find_checkpoint(
    ref: str,
    revision: str | None,
    runtime: Runtime,
    on_gpu: Callable[[], bool],
    others: Collection[str] = (),
    part: str = "",
) -> Checkpoint:
    """Find a checkpoint, at the hub if it is not on this machine, and choose what runs it.

    Args:
        ref: a folder, a model file beside its config.json, or the id of a repository at the hub.
        revision: branch, tag or commit at the hub; ignored for a local folder.
        runtime: what is to run it; ``"auto"`` is torch on a GPU, and on a CPU an exported model if there is one.
        on_gpu: whether a GPU will run it; only called if that decides.
        others: patterns of further files to include, if the checkpoint has them: its tokenizer, its code.
        part: how the name of an exported file ends that is a part of the model only; the torch weights are the rest.

    Raises:
        ModelNotFound: it, or a part of it, is neither here nor at the hub; the message says which.
        SetupError: there are several models to choose from.
    """
    path = find_model(ref) or _from_hub(ref, revision, "torch" if runtime == "auto" else runtime, others, part)
    if part:
        others = (*others, *_TORCH, *_PICKLED)
    if path.is_file():
        return _with_file(ref, path, runtime, others)
    wanted: list[Runtime] = ["openvino", "onnx", "torch"] if runtime == "auto" else [runtime]
    there = [candidate for candidate in wanted if _matching(path, _weights(candidate, part))]
    _require(ref, path, [] if there else [" or ".join(_IN_WORDS[candidate] for candidate in wanted)])
    chosen = "torch" if len(there) > 1 and "torch" in there and on_gpu() else there[0]
    return _checkpoint(path, chosen, _matching(path, _weights(chosen, part)), others)


def _weights(runtime: Runtime, part: str = "") -> tuple[str, ...]:
    """Patterns of the files that a runtime reads."""
    exported = {"openvino": (f"*{part}.xml",), "onnx": (f"*{part}.onnx", f"onnx/*{part}.onnx")}
    return exported.get(runtime, (*_TORCH, *_PICKLED))


def _with_file(ref: str, file: Path, runtime: Runtime, others: Collection[str]) -> Checkpoint:
    runs: dict[str, Runtime] = {".xml": "openvino", ".onnx": "onnx", ".safetensors": "torch"}
    chosen = runs.get(file.suffix)
    if chosen is None or runtime not in ("auto", chosen):
        asked = "" if runtime == "auto" else f" with runtime: {runtime}"
        raise SetupError(f"{file} cannot be run{asked}; name a folder, or a file that ends in {', '.join(runs)}")
    _require(ref, file.parent, [])
    return _checkpoint(file.parent, chosen, [file], others)


def _checkpoint(folder: Path, runtime: Runtime, weights: Sequence[Path], others: Collection[str]) -> Checkpoint:
    if runtime != "torch" and len(weights) > 1:
        names = ", ".join(file.relative_to(folder).as_posix() for file in weights)
        raise SetupError(f"{folder} holds several models ({names}); give the path of the one to run")
    counting = [
        *weights,
        *_matching(folder, others),
        *(file.with_suffix(".bin") for file in weights if file.suffix == ".xml"),
    ]
    relative = {file.relative_to(folder).as_posix() for file in counting}
    file = None if runtime == "torch" else weights[0]
    return Checkpoint(folder, file, digest_weights(folder, relative | set(_ABOUT)))


def _require(ref: str, folder: Path, missing: Sequence[str]) -> None:
    missing = [*_missing_about(folder), *missing]
    if missing:
        raise ModelNotFound(
            f"{folder} lacks {' and '.join(missing)}\n"
            "fix: copy what is missing from where the checkpoint came from (save_pretrained of the model and of its "
            f"image processor write all of it), or name a complete folder instead of {ref!r}",
            model=ref,
            missing=missing,
        )


def _missing_about(folder: Path) -> list[str]:
    config = folder / "config.json"
    missing = [] if config.exists() else ["config.json"]
    if any((folder / name).exists() for name in _PROCESSORS):
        return missing
    if not missing and b'"pretrained_cfg"' in config.read_bytes():  # timm's checkpoints have one file for both
        return []
    return [*missing, "preprocessor_config.json"]


def _matching(folder: Path, patterns: Collection[str]) -> list[Path]:
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


def _from_hub(ref: str, revision: str | None, runtime: Runtime, others: Collection[str], part: str) -> Path:
    """The folder of a repository's files in the hub's cache, fetched if they are not there yet."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", ref):
        raise model_not_found(
            ref, "give the path of a folder with a checkpoint, or an id of the hub such as owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    def fetch(patterns: Sequence[str], local_files_only: bool = False) -> Path:
        patterns = [*_ABOUT, _CARD, *others, *patterns]
        return Path(
            snapshot_download(ref, revision=revision, allow_patterns=patterns, local_files_only=local_files_only)
        )

    folder = None
    at_the_hub = [name.format(part or "model") for name in _EXPORTED_AT_THE_HUB.get(runtime, ())]
    if part or runtime == "torch":
        at_the_hub += _TORCH
    for weights in (at_the_hub, _PICKLED):  # what is here already needs no connection
        try:
            folder = fetch(weights, local_files_only=True)
        except OSError:
            continue
        if not _missing(folder, runtime):
            return folder
    try:
        folder = fetch(at_the_hub)
        if runtime == "torch" and _missing(folder, runtime) == [_IN_WORDS["torch"]]:
            folder = fetch(_PICKLED)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise _not_at_hub(ref, revision, _missing(folder, runtime), f"{type(error).__name__}: {error}") from error
    if missing := _missing(folder, runtime):
        raise _not_at_hub(ref, revision, missing, "the repository does not have it")
    return folder


def _missing(folder: Path | None, runtime: Runtime) -> list[str]:
    if folder is None:
        return ["config.json", "preprocessor_config.json", _IN_WORDS[runtime]]
    return [*_missing_about(folder), *([] if _matching(folder, _weights(runtime)) else [_IN_WORDS[runtime]])]


def _not_at_hub(ref: str, revision: str | None, missing: Sequence[str], reason: str) -> ModelNotFound:
    at = f" --revision {revision}" if revision else ""
    return model_not_found(
        ref,
        f"where there is a connection: hf download {ref}{at} --local-dir FOLDER/{ref}; then name FOLDER in "
        f"VISIONGRAPH_MODELS, or give the path of the checkpoint's folder\nreason: {reason}",
        missing=" and ".join(missing),
    )
