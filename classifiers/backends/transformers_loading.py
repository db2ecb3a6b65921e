"""Loading from a folder with ``transformers``: only local files, without log output, without code of the checkpoint.

With ``trust_remote_code`` its code runs, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from classifiers.errors import SetupError

__all__ = ["load_config", "load_image_processor", "load_model", "load_tokenizer"]


def load_model(folder: Path, kind: str, noun: str, trust_remote_code: bool = False) -> Any:
    """A model on the CPU, in the precision that it was saved in.

    Args:
        folder: the checkpoint.
        kind: the class of ``transformers`` that loads it, for example ``"AutoModelForImageClassification"``.
        noun: what the model has to be, for errors; it begins with a vowel.
        trust_remote_code: run Python code that the checkpoint brings.

    Raises:
        SetupError: it is not one, it is damaged, or weights are missing.
    """
    model, report = _load(
        folder,
        kind,
        f"{folder} cannot be loaded as an {noun}",
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    # transformers fills what is missing with random numbers
    absent = sorted(str(key) for group in ("missing_keys", "mismatched_keys") for key in report[group])
    if absent:
        raise SetupError(
            f"{folder} is not a complete {noun}: it lacks weights for {', '.join(absent[:3])} "
            f"({len(absent)} in all); use a checkpoint that was trained as one"
        )
    return model.eval()


def load_image_processor(folder: Path, trust_remote_code: bool = False) -> Any:
    """The image processor of a checkpoint.

    Raises:
        SetupError: it cannot be loaded.
    """
    failed = f"the image processor of {folder} cannot be loaded"
    return _load(folder, "AutoImageProcessor", failed, trust_remote_code=trust_remote_code)


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        SetupError: it cannot be loaded.
    """
    failed = f"the tokenizer of {folder} cannot be loaded"
    return _load(folder, "AutoTokenizer", failed, trust_remote_code=trust_remote_code)


def load_config(folder: Path) -> dict[str, Any]:
    """The configuration of a checkpoint with all that it leaves to defaults.

    Raises:
        SetupError: it cannot be loaded.
    """
    config: dict[str, Any] = _load(folder, "AutoConfig", f"{folder / 'config.json'} cannot be loaded").to_dict()
    return config


def _load(folder: Path, kind: str, failed: str, **options: Any) -> Any:
    with _quiet():
        import transformers

        try:
            return getattr(transformers, kind).from_pretrained(folder, local_files_only=True, **options)
        except Exception as error:
            raise SetupError(f"{failed} by transformers {transformers.__version__}: {error}") from error


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
