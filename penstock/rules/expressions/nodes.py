"""Nodes of a parsed expression, and the text and key that its errors name."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from penstock.errors import RecipeError

__all__ = [
    "INFIX",
    "Call",
    "ColumnName",
    "Constant",
    "Kind",
    "MetaName",
    "Node",
    "Source",
    "canonical",
    "kind_of_constant",
]

Kind = Literal["number", "text", "truth", "date", "any", "decimal", "json"]
"""The kind of a value. Only fields of ``meta`` are ``any``, where they are tested for None, or
``decimal``, as the argument of ``number``: a number, or a text of one."""

INFIX = ("==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "and", "or")
"""Functions that are written between their arguments."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    value: str | int | float | bool | date
    at: int = field(compare=False)
    """The place in the text, in characters from 1; so of every node."""


@dataclass(frozen=True, slots=True)
class ColumnName:
    """A column."""

    name: str
    at: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class MetaName:
    """A field of ``meta``: ``meta.a.b`` has the path ``("a", "b")``."""

    path: tuple[str, ...]
    at: int = field(compare=False)
    kind: Kind | None = None
    """None until the use of the field has been looked at."""


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or a function, and its arguments."""

    function: str
    arguments: tuple[Node, ...]
    at: int = field(compare=False)


Node = Constant | ColumnName | MetaName | Call


_SHOWN = 300
"""Characters of a part of an expression that an error shows."""


@dataclass(frozen=True, slots=True)
class Source:
    """The text of an expression, and its recipe key."""

    text: str
    key: str

    def error(
        self,
        at: int,
        problem: str = "",
        *,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> RecipeError:
        """Return an error that names the key and the character, from 1."""
        place = f"at character {at}"
        problem = f"{place}: {problem[:_SHOWN]}" if problem else place
        got = None if got is None else got[:_SHOWN]
        return RecipeError(problem, key=self.key, expected=expected, got=got, fix=fix)


def kind_of_constant(value: object) -> Kind:
    """Return the kind of a literal."""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, str):
        return "text"
    return "date" if isinstance(value, date) else "number"


def canonical(node: Node) -> str:
    """Return the text of a node with all parentheses: an expression that means the same."""
    match node:
        case Constant(date() as value):
            text = f"date({value.isoformat()!r})"
        case Constant(value):
            text = repr(value)
        case ColumnName(name):
            text = name
        case MetaName(path):
            text = "meta" + "".join(f"[{name!r}]" for name in path)
        case Call(function, arguments):
            text = _call(function, [canonical(argument) for argument in arguments])
    return text


def _call(function: str, arguments: list[str]) -> str:
    if function in INFIX and len(arguments) > 1:
        return f"({f' {function} '.join(arguments)})"
    if function in ("not", "-"):
        return f"({function} {arguments[0]})"
    if function in ("is None", "is not None"):
        return f"({arguments[0]} {function})"
    if function in ("in", "not in"):
        return f"({arguments[0]} {function} [{', '.join(arguments[1:])}])"
    return f"{function}({', '.join(arguments)})"
