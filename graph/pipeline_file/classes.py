"""The class that a step names: importing it, and its constructor."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from classifiers.base import BaseClassifier
from classifiers.errors import SetupError
from classifiers.suggestions import did_you_mean

__all__ = ["ClassError", "Constructor", "constructor_of", "import_class"]


class ClassError(SetupError):
    """A class cannot be a step's classifier; the message says why, and the fix."""


@dataclass(frozen=True, slots=True)
class Constructor:
    """The keyword arguments of a class.

    Attributes:
        parameters: with evaluated annotations; :data:`inspect.Parameter.empty` for one that cannot be evaluated.
        inherited: names of those that a base class's constructor takes, through ``**kwargs``.
        is_open: it also accepts other names.
    """

    parameters: Mapping[str, inspect.Parameter]
    inherited: Collection[str]
    is_open: bool

    def requires(self, name: str) -> bool:
        """Whether the constructor requires this argument."""
        return self.parameters[name].default is inspect.Parameter.empty and name not in self.inherited


def import_class(path: str) -> type[BaseClassifier]:
    """Import a classifier by its dotted path. What its module prints goes to stderr: stdout is for results.

    Raises:
        ClassError: there is no such class, its module fails, or it is not a complete classifier.
    """
    module_name, _, class_name = path.rpartition(".")
    module = _import_module(module_name)
    cls = getattr(module, class_name, None)
    if cls is None:
        classes = sorted(
            key for key, value in vars(module).items() if _is_classifier(value) and key != "BaseClassifier"
        )
        known = f"; its classifiers: {', '.join(classes)}" if classes else ""
        raise ClassError(f"module {module_name!r} has no {class_name!r}{did_you_mean(class_name, classes, known)}")
    if not isinstance(cls, type):
        raise ClassError(f"{path!r} is {_kind(cls)}, not a class; write the path of the class")
    if not _is_classifier(cls):
        raise ClassError(f"{path!r} is not a classifier; derive it from classifiers.BaseClassifier")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise ClassError(f"{path!r} is not complete: it does not define {' and '.join(map(repr, missing))}")
    _check_attributes(path, cls)
    return typing.cast("type[BaseClassifier]", cls)


@functools.lru_cache(maxsize=256)  # called several times for each class
def constructor_of(cls: type[BaseClassifier]) -> Constructor:
    """The keyword arguments of ``cls``, with those that it passes on to its bases through ``**kwargs``."""
    parameters: dict[str, inspect.Parameter] = {}
    own: list[str] | None = None
    is_open = False
    for owner in cls.__mro__[:-1]:  # without object, the last
        init = vars(owner).get("__init__")
        if init is None:
            continue
        if not inspect.isfunction(init):  # written in C: no signature
            is_open = init is not object.__init__
            break
        arguments = list(inspect.signature(init).parameters.values())[1:]
        names_space = inspect.unwrap(init).__globals__
        for argument in arguments:
            if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
                evaluated = argument.replace(annotation=_evaluated(argument.annotation, names_space))
                parameters.setdefault(argument.name, evaluated)
        if all(argument.kind is not argument.VAR_KEYWORD for argument in arguments):
            break
        own = [*parameters] if own is None else own
    inherited = parameters.keys() - (parameters if own is None else own)
    return Constructor(parameters, inherited, is_open or own is not None)


def _import_module(name: str) -> ModuleType:
    if (known := sys.modules.get(name)) is not None:
        return known
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = error.name or name
        if name != absent and not name.startswith(f"{absent}."):
            raise ClassError(f"module {name!r} needs module {absent!r}, which is not installed") from None
        raise ClassError(_not_found(absent)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a plug-in may raise anything
        raise ClassError(f"importing {name!r} failed: {type(error).__name__}: {error}".rstrip(": ")) from None


def _not_found(name: str) -> str:
    package_name, _, last = name.rpartition(".")
    path = getattr(sys.modules.get(package_name), "__path__", None)
    if package_name and path is None:
        return f"{package_name!r} is a module, not a package: there is no {last!r} in it to import from"
    prefix = f"{package_name}." if package_name else ""
    candidates = [module.name for module in pkgutil.iter_modules(path, prefix)]
    return f"module {name!r} not found{did_you_mean(name, candidates, '; is it installed, or on PYTHONPATH?')}"


def _check_attributes(path: str, cls: type[BaseClassifier]) -> None:
    default_crops: object = cls.default_crops
    if default_crops is not None and not isinstance(default_crops, str):
        raise ClassError(f"{path!r}: its default_crops must be a string or None; it is {_kind(default_crops)}")
    names: object = cls.tunables
    if isinstance(names, str) or not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        example = "frozenset({'confidence'})"
        raise ClassError(f"{path!r}: its tunables must be a set of argument names, for example {example}")
    constructor = constructor_of(cls)
    if not constructor.is_open and (others := sorted(set(names) - set(constructor.parameters))):
        raise ClassError(f"{path!r}: its tunables name {others[0]!r}, which its constructor does not take")


def _is_classifier(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseClassifier)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _evaluated(annotation: Any, names_space: dict[str, Any]) -> Any:
    """The annotation as a type; empty if it names something that exists for type checkers only."""
    if annotation is inspect.Parameter.empty:
        return annotation

    def holder() -> None: ...

    holder.__annotations__ = {"value": annotation}
    try:
        return typing.get_type_hints(holder, globalns=names_space, include_extras=True)["value"]
    except Exception:  # noqa: BLE001 - an annotation may be any text; without a type the argument is not checked
        return inspect.Parameter.empty
