from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from serve_app.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def visiongraph(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["visiongraph", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return (code if isinstance(code, int) else int(code is not None), out, err)

    return run
