"""Loading from a folder with ``transformers``: only what is there, no code from the checkpoint, and in silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from classifiers.errors import SetupError

__all__ = ["load_classifier", "load_image_processor"]


def load_classifier(folder: Path) -> Any:
    """An image-classification model, on the CPU, in the precision that it was saved in.

    Raises:
        SetupError: it is not one, it is damaged, or weights are missing.
    """
    with _quiet():
        from transformers import AutoModelForImageClassification

        try:
            model, report = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        except Exception as error:
            raise SetupError(f"{folder} cannot be loaded as an image classifier: {error}") from error
    # transformers fills what is missing with random numbers
    absent = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind])
    if absent:
        raise SetupError(
            f"{folder} is not a complete image classifier: it lacks weights for {', '.join(absent[:3])} "
            f"({len(absent)} in all); use a checkpoint that was trained to classify"
        )
    return model.eval()


def load_image_processor(folder: Path) -> Any:
    """The image processor of a checkpoint.

    Raises:
        SetupError: it cannot be loaded.
    """
    with _quiet():
        from transformers import AutoImageProcessor

        try:
            return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise SetupError(f"the image processor of {folder} cannot be loaded: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no chatter meanwhile; what matters is checked and raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
