"""Arguments of the Python API, which have to be of the types that its signatures state.

The words of a command are parsed by their options. A program may pass anything, and a value of
another type would be found out after the work, or not at all.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from srgan_edge.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

_CALLED = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a str",
    os.PathLike: "a path",
    Mapping: "a dict of str",
    Callable: "a function",
    NoneType: "None",
}
"""Types of arguments that are checked -> their names in messages, in this order."""


_LONGEST_SHOWN = 200


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function refuse arguments that its signature does not allow, before it begins.

    NumPy's numbers become Python's, and an empty path is none. Objects of classes pass.

    Raises:
        UsageError: by the function that is returned; the message names what is possible.
    """
    signature = inspect.signature(function)
    choices = {name: _choices(hint) for name, hint in get_type_hints(function).items()}
    checkable = {
        name: found
        for name, found in choices.items()
        if all(isinstance(it, str) or it in _CALLED for it in found)
    }

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in checkable:
                bound.arguments[name] = _fitted(name, value, checkable[name])
        return function(*bound.args, **bound.kwargs)

    return call


def refuse_unused(function: Callable[..., Any], why: str, given: Mapping[str, object]) -> None:
    """Refuse arguments of a function that it has no use for, unless they are its defaults.

    Raises:
        UsageError: with the name of the first, and `why`.
    """
    parameters = inspect.signature(function).parameters
    for name, value in given.items():
        if value != parameters[name].default:
            raise UsageError(f"{name}={_shown(value)} is {why}; leave it out")


def _choices(hint: Any) -> list[Any]:  # noqa: ANN401 - any hint
    """Return the types in a hint, and the words of its literals."""
    if get_origin(hint) in (Union, UnionType):
        return [choice for part in get_args(hint) for choice in _choices(part)]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [get_origin(hint) or hint]


def _fitted(name: str, value: Any, choices: list[Any]) -> Any:  # noqa: ANN401 - any argument
    """Return the value as one of the choices."""
    is_empty = os.PathLike in choices and isinstance(value, str) and not value
    if not is_empty and any(_is(value, choice) for choice in choices):
        if isinstance(value, bool | int) or not isinstance(value, Real):
            return value
        return int(value) if isinstance(value, Integral) else float(value)
    types = [_CALLED[it] for it in _CALLED if it in choices and it is not NoneType]
    words = [repr(it) for it in choices if isinstance(it, str)]
    last = ["None"] if NoneType in choices else []
    raise UsageError(f"{name}={_shown(value)}; possible: {' or '.join([*types, *words, *last])}")


def _shown(value: object) -> str:
    """Return a value for a message of one line: what is longer, such as an array, by its type."""
    shown = repr(value)
    is_short = len(shown) <= _LONGEST_SHOWN and shown.isprintable()
    return shown if is_short else f"<{type(value).__name__}>"


def _is(value: Any, choice: Any) -> bool:  # noqa: ANN401 - any argument, any choice
    if isinstance(choice, str):
        return isinstance(value, str) and value == choice
    if choice in (int, float):
        kind = Integral if choice is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if choice is Mapping and isinstance(value, Mapping):
        return all(isinstance(text, str) for item in value.items() for text in item)
    return isinstance(value, choice)
