"""The ultralytics package, held still.

By itself it installs packages, looks for the network, sends statistics, keeps settings in the home folder, logs to
stdout and replaces functions of Pillow and torch. None of that gets out of here.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from classifiers.backends.threads import limit_threads
from classifiers.errors import ModelNotFound, SetupError
from classifiers.weights import cache_folder, model_not_found

__all__ = ["download", "load_network"]

_lock = threading.Lock()


def load_network(path: Path, device: Any, half: bool) -> Any:
    """Ultralytics' own runner of a model file, an ``AutoBackend``, on a torch device.

    Raises:
        SetupError: the file cannot be loaded here; the message carries ultralytics' reason.
    """
    autobackend = _import("ultralytics.nn.autobackend")
    try:
        network = autobackend.AutoBackend(str(path), device=device, fp16=half, fuse=True, verbose=False)
    except Exception as error:
        raise SetupError(
            f"{path} cannot be loaded by ultralytics: {type(error).__name__}: {error}\n"
            "fix: download or export the model again; a checkpoint with layers of its own, from a source that you "
            "trust, loads with ULTRALYTICS_SAFE_LOAD=false in the environment"
        ) from error
    limit_threads()
    return network.eval()


def download(name: str) -> Path:
    """Fetch one of ultralytics' own models by its name, for example ``yolo11n.pt``, into the user's cache folder.

    Raises:
        ModelNotFound: it is not one of them, or it cannot be fetched.
    """
    downloads = _import("ultralytics.utils.downloads")
    fix = f"put {name} into a folder and name that folder in VISIONGRAPH_MODELS, or give the path of the file"
    if name not in downloads.GITHUB_ASSETS_NAMES:
        raise model_not_found(name, f"{fix}; it is none of the models that ultralytics publishes")
    place = cache_folder() / "models" / name
    try:
        downloads.attempt_download_asset(place, progress=False, retry=1)
    except Exception as error:
        raise _not_fetched(name, fix, error) from error
    if not place.exists():
        raise _not_fetched(name, fix, None)
    return place


def _not_fetched(name: str, fix: str, error: Exception | None) -> ModelNotFound:
    reason = f" ({error})" if error else ""
    return model_not_found(name, f"{fix}; downloading it from ultralytics failed{reason}")


def _import(module: str) -> Any:
    """Import a module of ultralytics; the process is afterwards as it was before."""
    with _lock:
        if module not in sys.modules:
            with _restored():
                os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
                os.environ.setdefault("YOLO_CONFIG_DIR", str(cache_folder()))
                # a checkpoint is a pickle: take only classes of torch and ultralytics from it
                os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")
                importlib.import_module(module)
            logger = logging.getLogger("ultralytics")
            logger.handlers.clear()  # it writes to stdout, where results go
            logger.propagate = True
            logger.setLevel(logging.WARNING)
        # again, for where something else imported it first, without the variables
        checks: Any = sys.modules["ultralytics.utils.checks"]
        checks.AUTOINSTALL = False
        if "ULTRALYTICS_SAFE_LOAD" not in os.environ:
            for name in ("ultralytics.utils", "ultralytics.nn.tasks"):
                if name in sys.modules:
                    vars(sys.modules[name])["SAFE_LOAD"] = True
        return sys.modules[module]


@contextmanager
def _restored() -> Iterator[None]:
    """Puts back the environment variables, functions and print options that importing ultralytics changes."""
    import cv2
    import numpy as np
    import PIL.Image
    import torch

    environment = dict(os.environ)
    print_options = np.get_printoptions()
    functions = [(PIL.Image, "open"), (torch, "save"), (cv2, "imread"), (cv2, "imwrite"), (cv2, "imshow")]
    originals = [getattr(owner, name) for owner, name in functions]
    try:
        yield
    finally:
        for (owner, name), original in zip(functions, originals, strict=True):
            setattr(owner, name, original)
        np.set_printoptions(**print_options)
        torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        limit_threads()
