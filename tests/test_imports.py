"""Imports go one way, and modules whose import does nothing but define."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("classifiers", "graph", "serve_app")
_FILES = sorted(path for package in _PACKAGES for path in (_ROOT / package).rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = [_module(path) for path in _FILES]


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


# Imports every module in a fresh interpreter, and says what else has happened.
_IMPORT_ALL = """
import importlib, json, logging, os, sys, threading, warnings
import cv2, ray.serve, torch  # what they do themselves is not ours

warnings.simplefilter("ignore")
def state():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "handlers": [repr(handler) for handler in logging.getLogger().handlers],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": sorted(os.listdir(".")),
        "ray": ray.is_initialized(),
        "torch": torch.get_num_threads(),
    }
before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = state()
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""


@pytest.mark.slow
def test_imports_do_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _IMPORT_ALL, *_MODULES]
    environment = {"PYTHONPATH": str(_ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "{}\n", "")


@pytest.mark.parametrize(
    "module", ["graph", "classifiers", "serve_app.http.access_log", "serve_app.local.cluster", "serve_app.cli.main"]
)
def test_what_is_slow_is_imported_when_it_is_used(module: str) -> None:
    slow = {"fastapi", "pyarrow", "ray", "torch", "transformers", "ultralytics"}
    program = f"import sys, {module}; print(sorted({slow} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=_ROOT, text=True) == "[]\n"


@pytest.mark.parametrize("path", _FILES, ids=_MODULES)
def test_each_module_says_what_it_is_and_what_is_public(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), "a docstring"
    assert _public(tree) <= _names(tree), "what __all__ names is there"


def test_modules_use_only_what_is_public_in_others() -> None:
    usable = {module: _public(_tree(path)) for module, path in zip(_MODULES, _FILES, strict=True)}
    for package, _, submodule in (module.rpartition(".") for module in _MODULES):
        usable.get(package, set()).add(submodule)
    for module, path in zip(_MODULES, _FILES, strict=True):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module in usable:
                unknown = {alias.name for alias in node.names} - usable[node.module]
                assert not unknown, (
                    f"{module} imports {sorted(unknown)} from {node.module}, where __all__ does not have it"
                )


def test_no_file_imports_another_that_imports_it() -> None:
    imports = {module: _imports(_tree(path)) for module, path in zip(_MODULES, _FILES, strict=True)}
    TopologicalSorter(imports).prepare()  # raises CycleError


def test_a_file_name_says_one_subject() -> None:
    names = [path.stem for path in _FILES if path.stem != "__init__"]
    repeated = {name for name in names if names.count(name) > 1}
    assert not repeated


def _imports(tree: ast.Module) -> set[str]:
    """The project's modules that a module imports, inside of functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in _MODULES:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (parts & set(_MODULES)) or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(_MODULES)
    return found


def _public(tree: ast.Module) -> set[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def _names(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Assign():
                found.update(ast.unparse(target) for target in node.targets)
            case ast.AnnAssign():
                found.add(ast.unparse(node.target))
            case ast.Import() | ast.ImportFrom():
                found.update(alias.asname or alias.name for alias in node.names)
    return found
