"""Check the kinds of an expression's values, and infer those of fields of ``meta`` from use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from penstock.errors import did_you_mean
from penstock.rules.expressions.nodes import (
    Call,
    ColumnName,
    Constant,
    Kind,
    MetaName,
    Node,
    Source,
    canonical,
    kind_of_constant,
)

__all__ = ["KIND_NAMES", "kind_of_type", "resolve"]

_ORDERED: tuple[Kind, ...] = ("number", "text", "date")
KIND_NAMES: Mapping[Kind, str] = {
    "number": "a number",
    "text": "a text",
    "truth": "a truth value",
    "date": "a date",
    "any": "a value",
    "decimal": "a text or a number",
}
"""Each kind in words."""

_ONE_KIND: Mapping[str, tuple[Kind, Kind]] = {
    **dict.fromkeys(("+", "-", "*", "/", "%", "abs", "min", "max"), ("number", "number")),
    **dict.fromkeys(("and", "or", "not"), ("truth", "truth")),
    "len": ("text", "number"),
    "lower": ("text", "text"),
}
"""Functions whose arguments are all of one kind, and the kind of the result."""


def kind_of_type(kind: pa.DataType) -> Kind | None:
    """Return the kind of a column, None if expressions cannot use it."""
    types = pa.types
    if types.is_dictionary(kind):
        return kind_of_type(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "date"
    return "truth" if types.is_boolean(kind) else None


def resolve(node: Node, columns: Mapping[str, pa.DataType], source: Source) -> Node:
    """Check an expression against columns.

    Returns:
        The same nodes, with the kinds of fields of ``meta``.

    Raises:
        RecipeError: A column is unknown, or a value is of another kind than its use.
    """
    return _Resolver(columns, source).wanted(node, "truth")


class _Resolver:
    def __init__(self, columns: Mapping[str, pa.DataType], source: Source) -> None:
        self._columns = columns
        self._source = source

    def wanted(self, node: Node, kind: Kind) -> Node:
        """Resolve a node that must be of a kind."""
        found, node = self._resolve(node, kind)
        if kind not in (found, "any"):
            raise self._source.error(
                node.at,
                expected=KIND_NAMES[kind],
                got=f"`{canonical(node)[:60]}`, {KIND_NAMES[found]}",
                fix=_fix(kind, found),
            )
        return node

    def _resolve(self, node: Node, wanted: Kind | None) -> tuple[Kind, Node]:
        match node:
            case Constant(value):
                return kind_of_constant(value), node
            case ColumnName(name):
                return self._column(node, name), node
            case MetaName():
                if wanted is None:
                    raise self._source.error(
                        node.at,
                        f"the kind of `{canonical(node)}` is not known",
                        fix="compare it with a literal or a column",
                    )
                return wanted, replace(node, kind=wanted)
            case Call():
                return self._call(node)

    def _column(self, node: Node, name: str) -> Kind:
        if name not in self._columns:
            fix = did_you_mean(name, self._columns).lstrip("; ")
            raise self._source.error(node.at, f"unknown column `{name}`", fix=fix)
        kind = kind_of_type(self._columns[name])
        if kind is None:
            raise self._source.error(
                node.at,
                expected="a column of numbers, texts, truth values or dates",
                got=f"`{name}` of {self._columns[name]}",
            )
        return kind

    def _call(self, node: Call) -> tuple[Kind, Node]:
        function, arguments = node.function, node.arguments
        if function in _ONE_KIND:
            kind, result = _ONE_KIND[function]
            return result, replace(
                node, arguments=tuple(self.wanted(one, kind) for one in arguments)
            )
        if function == "number":
            kind, argument = self._resolve(arguments[0], "decimal")
            if kind not in ("decimal", "text", "number"):
                got = f"`{canonical(argument)[:60]}`, {KIND_NAMES[kind]}"
                raise self._source.error(argument.at, expected=KIND_NAMES["decimal"], got=got)
            return "number", replace(node, arguments=(argument,))
        if function in ("is None", "is not None"):
            return "truth", replace(node, arguments=(self.wanted(arguments[0], "any"),))
        if function in ("startswith", "endswith", "contains"):
            text, pattern = (self.wanted(one, "text") for one in arguments)
            if not isinstance(pattern, Constant):
                raise self._source.error(
                    pattern.at, expected="a literal text", got=f"`{canonical(pattern)[:60]}`"
                )
            return "truth", replace(node, arguments=(text, pattern))
        return "truth", self._equal_kinds(node)

    def _equal_kinds(self, node: Call) -> Node:
        """Resolve a comparison or ``in``: all arguments are of the kind of one whose kind is known.

        That is the first which is neither a literal nor a field of ``meta``, else a literal.
        """
        arguments = node.arguments
        order = sorted(
            range(len(arguments)),
            key=lambda k: (
                2 * isinstance(arguments[k], MetaName) + isinstance(arguments[k], Constant)
            ),
        )
        kind, first = self._resolve(arguments[order[0]], None)
        if kind == "truth" and node.function not in ("==", "!=", "in", "not in"):
            got = f"`{canonical(first)[:60]}`, {KIND_NAMES[kind]}"
            raise self._source.error(
                first.at, expected=" or ".join(KIND_NAMES[one] for one in _ORDERED), got=got
            )
        resolved = {order[0]: first}
        for k in order[1:]:
            other_kind, other = self._resolve(arguments[k], kind)
            if other_kind != kind:
                raise self._source.error(
                    other.at,
                    f"{KIND_NAMES[other_kind]} is compared with {KIND_NAMES[kind]}",
                    expected=f"{KIND_NAMES[kind]}, as `{canonical(first)[:60]}` is",
                    got=f"`{canonical(other)[:60]}`",
                    fix=_fix(kind, other_kind),
                )
            resolved[k] = other
        return replace(node, arguments=tuple(resolved[k] for k in range(len(arguments))))


def _fix(wanted: Kind, got: Kind) -> str | None:
    """Return the remedy for a value of a wrong kind."""
    if {wanted, got} == {"date", "text"}:
        return "write a date as date('2020-01-31')"
    if wanted == "truth":
        return "compare it, as in `x > 0` or `x is not None`"
    if wanted == "text" and got == "number":
        return "write the text in quotation marks, or use len(text)"
    if wanted == "number" and got == "text":
        return "write the number without quotation marks, or use number(text) or len(text)"
    return None
