"""Which image a process died of, found out by another process, and what becomes of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from serve_app.deployments.crashes import Crashes, Death, InProgress, Turns
from serve_app.refusals import Quarantined


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


Store = dict[str, bytes]
"""In place of the cluster's key-value store."""


def _deaths(store: Store) -> list[Death]:
    return [Death(**json.loads(value)) for value in store.values()]


@pytest.fixture
def store() -> Store:
    return {}


@pytest.fixture
def crashes(tmp_path: Path, store: Store) -> Crashes:
    return Crashes(tmp_path, store)


_ENDS = {
    "exit": "os._exit(0)",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "abort": "os.abort()",
    "hung": "in_progress.hangs(True); os.kill(os.getpid(), 9)",
    "killed": "in_progress.hangs(True); in_progress.hangs(False); os.kill(os.getpid(), 9)",
}


def _die(folder: Path, end: str, images: list[str], name: str = "p1", alone: bool = False) -> None:
    """A process that ends while its threads work on these images."""
    program = f"""
        import os
        from pathlib import Path
        from serve_app.deployments.crashes import InProgress

        in_progress = InProgress(Path({str(folder)!r}), {name!r}, "detect")
        in_progress.watch_exits()
        in_progress.alone({alone})
        with in_progress(["ab" * 32]):
            pass
        with in_progress({images!r}):
            {_ENDS[end]}
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("end", _ENDS)
def test_what_a_process_died_of(tmp_path: Path, crashes: Crashes, store: Store, end: str) -> None:
    _die(tmp_path, end, [sha("one"), sha("two")])
    crashes.refresh()
    [death] = _deaths(store)
    assert (death.process, death.host) == ("p1", "detect")
    assert sorted(death.images) == sorted([sha("one"), sha("two")])
    assert death.is_crash == (end != "killed")
    assert not death.was_alone
    assert crashes.is_suspect("detect", sha("one"))
    assert not crashes.is_suspect("detect", sha("three"))
    assert not crashes.is_suspect("other", sha("one"))
    assert not list(tmp_path.iterdir())


def test_a_process_that_ends_with_nothing_to_do_is_no_death(tmp_path: Path, crashes: Crashes, store: Store) -> None:
    _die(tmp_path, "killed", [])
    crashes.refresh()
    assert not store
    assert not list(tmp_path.iterdir())


def test_a_process_that_lives_is_left_alone(tmp_path: Path, store: Store) -> None:
    in_progress = InProgress(tmp_path, "me", "detect")
    crashes = Crashes(tmp_path, store, in_progress)
    with in_progress([sha("one")]):
        crashes.refresh()
        look = f"""
            from pathlib import Path
            from serve_app.deployments.crashes import _sweep
            assert not list(_sweep(Path({str(tmp_path)!r})))
            """
        subprocess.run([sys.executable, "-c", textwrap.dedent(look)], check=True)
    assert not store
    assert in_progress.path.exists()


def test_more_images_than_there_is_room_for(tmp_path: Path) -> None:
    in_progress = InProgress(tmp_path, "me", "detect")
    for _ in range(3):
        with in_progress([sha(str(n)) for n in range(1000)]):
            pass
        with in_progress([""]):  # an image that has no hash
            pass


DEATH = Death("p", "detect", (sha("one"), sha("two")), is_crash=True, was_alone=False, at=0.0)


def _told(store: Store, crashes: Crashes, *deaths: Death) -> None:
    import time

    for number, death in enumerate(deaths):
        found = replace(death, process=f"p{number}", at=time.time())
        store[found.process] = json.dumps(asdict(found)).encode()
    crashes.refresh()


ALONE = replace(DEATH, images=(sha("one"),), was_alone=True)
KILLED = replace(DEATH, is_crash=False)
KILLED_ALONE = replace(ALONE, is_crash=False)


@pytest.mark.parametrize(
    ("deaths", "refused"),
    [
        ([DEATH], False),
        ([ALONE], False),
        ([DEATH, DEATH, DEATH], False),
        ([DEATH, ALONE], True),
        ([ALONE, ALONE], True),
        ([KILLED, KILLED_ALONE], False),
        ([DEATH, KILLED_ALONE], False),
        ([KILLED, KILLED_ALONE, KILLED_ALONE], True),
    ],
)
def test_how_often_it_takes(store: Store, crashes: Crashes, deaths: list[Death], refused: bool) -> None:
    """Two crashes, one of them alone; of deaths that may have come from outside three, two of them alone."""
    _told(store, crashes, *deaths)
    if refused:
        with pytest.raises(Quarantined, match=r"crashed the process of 'detect' \d times .* refused until"):
            crashes.is_suspect("another step", sha("one"))
    else:
        assert crashes.is_suspect("detect", sha("one"))
    if any(sha("two") in death.images for death in deaths):
        assert crashes.is_suspect("detect", sha("two"))


def test_who_was_run_alone_and_lived_is_no_suspect(store: Store, crashes: Crashes) -> None:
    _told(store, crashes, DEATH)
    crashes.acquit("detect", sha("two"))
    crashes.refresh()
    assert not crashes.is_suspect("detect", sha("two"))
    assert crashes.is_suspect("detect", sha("one"))


def test_it_is_forgotten_after_ten_minutes(store: Store, crashes: Crashes, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    _told(store, crashes, DEATH, ALONE)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 601)
    crashes.refresh()
    assert not crashes.is_suspect("detect", sha("one"))
    assert not store


def test_a_death_that_could_not_be_told_is_told_later(tmp_path: Path) -> None:
    class Unavailable(dict[str, bytes]):
        is_away = True

        def __setitem__(self, key: str, value: bytes) -> None:
            if self.is_away:
                raise ConnectionError
            super().__setitem__(key, value)

    store = Unavailable()
    crashes = Crashes(tmp_path, store)
    _die(tmp_path, "exit", [sha("one")])
    with pytest.raises(ConnectionError):
        crashes.refresh()
    store.is_away = False
    crashes.refresh()
    assert crashes.is_suspect("detect", sha("one"))


def test_the_store_does_not_grow(store: Store, crashes: Crashes) -> None:
    _told(store, crashes, *[DEATH] * 300)
    assert len(store) == 256


async def test_a_call_that_lost_its_process(tmp_path: Path, store: Store, crashes: Crashes) -> None:
    """Alone again if its image was being worked on, with others if it was waiting, alone where that is not known."""
    _die(tmp_path, "exit", [sha("one")])
    assert await crashes.after("p1", "detect", sha("one"))
    assert not await crashes.after("p1", "detect", sha("waiting"))
    assert await crashes.after("on another node", "detect", sha("waiting"))
    assert await crashes.after(None, "detect", sha("waiting"))
    _die(tmp_path, "exit", [sha("one")], "p2", alone=True)
    with pytest.raises(Quarantined):
        await crashes.after("p2", "detect", sha("one"))


async def test_turns() -> None:
    log: list[bool] = []
    turns = Turns(log.append)
    inside = 0

    async def call(alone: bool) -> int:
        nonlocal inside
        async with turns(alone):
            inside += 1
            await asyncio.sleep(0.01)
            seen = inside
            await asyncio.sleep(0.01)
            inside -= 1
        return seen

    order = [False, False, True, False, True, False, False]
    seen = await asyncio.gather(*map(call, order))
    assert [n for n, alone in zip(seen, order, strict=True) if alone] == [1, 1]
    assert max(seen) > 1
    assert log == [True, False] * 2


async def test_a_cancelled_call_gives_its_turn_back() -> None:
    turns = Turns()
    async with turns(False):
        waiting = asyncio.create_task(turns(True).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(1), turns(False):
            pass
    async with asyncio.timeout(1), turns(True):
        pass
