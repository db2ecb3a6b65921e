"""Reading a pipeline file: YAML or a mapping in, a checked configuration out, or every error at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from pydantic import ValidationError

from classifiers.suggestions import nearest
from classifiers.validation import sentence, shown
from graph.pipeline_file.placement import check_placement
from graph.pipeline_file.report import Loc, Mistake, PipelineError, Report
from graph.pipeline_file.schema import PipelineConfig
from graph.pipeline_file.step_checks import Draft, check_steps, read_drafts
from graph.pipeline_file.yaml_reader import Document, Problem, read_yaml

__all__ = ["Checked", "Mistake", "PipelineError", "Source", "check", "load"]

Source: TypeAlias = str | Path | Mapping[str, Any] | PipelineConfig
"""The path of a pipeline file, or the same as a mapping or a configuration."""

MAX_FILE_BYTES = 256 * 1024  # PyYAML reads about 100 KiB a second; a step takes about 300 bytes
MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Checked:
    """A valid configuration, and its steps with their classes and rules, in file order."""

    config: PipelineConfig
    steps: tuple[Draft, ...]


def load(source: Source) -> PipelineConfig:
    """Read and check a pipeline. Imports its classes and loads no model.

    Args:
        source: a path, to which relative paths in the file are relative, or a mapping, whose paths stay as they are.

    Raises:
        PipelineError: with all errors.
    """
    return check(source).config


def check(source: Source) -> Checked:
    """As :func:`load`, with the imported classes and compiled rules.

    Raises:
        PipelineError: with all errors.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        text = _read_text(path, str(source))
        document = read_yaml(text)
        report = Report(str(source), document.data, document.lines)
        return _checked(document, report, path.stem[:100], path.absolute().parent, text)
    document = Document()
    data = source.to_dict() if isinstance(source, PipelineConfig) else source
    document.data = _plain(data, (), document.problems)
    return _checked(document, Report(None, document.data), "pipeline")


def _checked(document: Document, report: Report, name: str, folder: Path | None = None, text: str = "") -> Checked:
    for problem in document.problems:
        if problem.loc or problem.line is None:
            report.add_unreadable(problem.loc, problem.message, problem.line)
        else:
            # What could not be parsed has no place in the data. Readers look for the last step and key above it.
            report.add_at(problem.line, *_step_and_key_above(text, problem.line), problem.message)
    data = document.data
    if not isinstance(data, dict):
        if not document.problems:
            wrong = f"expected a mapping with the key `pipeline`; got {shown(data)}"
            report.add((), wrong if document.lines else "the file is empty; a pipeline file has the key `pipeline`")
        report.raise_if_any()
    data = {key: value for key, value in data.items() if not key.startswith("x-")}  # for anchors and notes
    if data.get("name") is None:
        data["name"] = name
    drafts = read_drafts(data)
    check_steps(drafts, report, folder)
    check_placement(drafts, report)
    try:
        config = PipelineConfig.model_validate(data)
    except ValidationError as error:
        _report_invalid(error, report)
        raise report.error() from None
    report.raise_if_any()
    return Checked(config, tuple(drafts))


def _report_invalid(error: ValidationError, report: Report) -> None:
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        if detail["type"] == "too_short" and detail["input"]:
            continue  # pydantic counts only the items without errors
        message = sentence(detail, PipelineConfig)
        if detail["type"] == "extra_forbidden" and loc[-2:] in (("serve", "timeout_ms"), ("serve", "on_error")):
            message = "is also given beside `serve`; keep one of the two"
        elif detail["type"] == "extra_forbidden" and loc[0] == "pipeline" and len(loc) == 3:
            message += "; arguments of the class's constructor belong under `params`" if "known are" in message else ""
        report.add(loc, message)


def _read_text(path: Path, file: str) -> str:
    line = None
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) <= MAX_FILE_BYTES:
            return data.decode()
        problem = f"has more than {MAX_FILE_BYTES // 1024} KiB; is it a pipeline file?"
    except FileNotFoundError:
        problem = f"no such file{_other_file(path)}"
    except IsADirectoryError:
        files = _pipeline_files(path)
        problem = f"is a folder; name a file in it{': ' + ', '.join(files) if files else ''}"
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8; save the file as UTF-8"
        line = data.count(b"\n", 0, error.start) + 1
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise PipelineError([Mistake(file, line, None, None, problem)])


def _other_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {str(path.parent)!r} either"
    files = {Path(file).stem: file for file in _pipeline_files(path.parent)}
    if found := nearest(path.stem, files):
        return f"; did you mean {files[found]!r}?"
    return f"; in that folder are {', '.join(files.values())}" if files else ""


def _pipeline_files(folder: Path) -> list[str]:
    try:
        return sorted(file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))[:20]
    except OSError:
        return []


def _step_and_key_above(text: str, line: int) -> tuple[str | None, str | None]:
    step = key = None
    rows = text.split("\n")[:line]
    for number, row in enumerate(rows, 1):
        colon = r"\s*:(?:\s+|$)" if number < len(rows) else r"\s*(?::\s*|\s|$)"  # the last one may lack it: that is why
        if found := re.match(rf"""\s*(?:-\s*)?['"]?([A-Za-z_]\w*)['"]?{colon}['"]?([\w-]*)""", row):
            key = found[1]
            if row.lstrip().startswith("-"):
                step = None
            if key == "name" and row.startswith((" ", "-", "\t")):
                step = found[2] or None
    return step, key


def _plain(value: object, loc: Loc, problems: list[Problem]) -> Any:
    """A value from a program as the plain data that a file would give."""

    def problem(message: str, *place: str) -> None:
        problems.append(Problem((*loc, *place), None, message))

    if len(loc) > MAX_DEPTH:
        return problem(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                problem(f"a key must be a string; write it as {str(key)!r}", str(key))
        return {key: _plain(item, (*loc, key), problems) for key, item in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [_plain(item, (*loc, index), problems) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return problem(f"must be a finite number; got {value}")
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration's value, not its name
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, PurePath):
        return str(value)
    return problem(f"a {type(value).__name__} is not allowed in a pipeline; use the types of JSON")
