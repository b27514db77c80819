"""Compute an expression over a batch of columns, by ``pyarrow.compute``.

Values are arrays, or scalars for literals. A number is int64 or float64; a column of another width
is converted when it is used. A division by zero, an integer beyond 64 bits and a float that is not
finite are null.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.rules.expressions.meta import MetaField, decimal_of
from penstock.rules.expressions.nodes import Call, ColumnName, Constant, MetaName, Node

__all__ = ["compute"]

Value: TypeAlias = Any
"""A pa.Array or a pa.Scalar, which have no types for mypy."""

_BIGGEST = 2**63 - 1


def compute(node: Node, columns: pa.RecordBatch, fields: Mapping[MetaField, pa.Array]) -> pa.Array:
    """Compute the values of a resolved expression.

    Args:
        node: Of :func:`penstock.rules.expressions.typing.resolve`.
        columns: n rows.
        fields: Each field of ``meta`` that the expression uses.

    Returns:
        (n,) bool, with nulls.
    """
    value = _Computation(columns, fields).value(node)
    return pa.repeat(value, columns.num_rows) if isinstance(value, pa.Scalar) else value


class _Computation:
    def __init__(self, columns: pa.RecordBatch, fields: Mapping[MetaField, pa.Array]) -> None:
        self._columns = columns
        self._fields = fields
        self._converted: dict[str, pa.Array] = {}

    def value(self, node: Node) -> Value:
        match node:
            case Constant(value):
                return _scalar(value)
            case ColumnName(name):
                if name not in self._converted:
                    self._converted[name] = _column(self._columns.column(name))
                return self._converted[name]
            case MetaName(path, kind=kind):
                assert kind is not None, "an expression is resolved before it is computed"
                return self._fields[MetaField(path, kind)]
            case Call("in" | "not in" as function, arguments):
                literals = [one.value for one in arguments[1:] if isinstance(one, Constant)]
                found = _is_in(self.value(arguments[0]), literals)
                return found if function == "in" else pc.invert(found)
            case Call(function, arguments):
                return _FUNCTIONS[function](*map(self.value, arguments))


def _scalar(value: str | int | float | bool | date) -> pa.Scalar:
    if isinstance(value, str):
        return pa.scalar(value, pa.large_string())
    if isinstance(value, int) and not isinstance(value, bool):
        return pa.scalar(value, pa.int64())
    return pa.scalar(value)


def _column(values: pa.Array) -> pa.Array:
    """Convert a column to int64, float64, large_string, bool or date32."""
    types = pa.types
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if types.is_boolean(kind):
        return values
    if types.is_uint64(kind):
        values = pc.if_else(pc.less_equal(values, pa.scalar(_BIGGEST, kind)), values, None)
    if types.is_integer(kind):
        return values.cast(pa.int64())
    if types.is_floating(kind):
        return _finite(values.cast(pa.float64()))
    if types.is_date(kind) or types.is_timestamp(kind):
        return values.cast(pa.date32())
    return values.cast(pa.large_string())


def _finite(values: Value) -> Value:
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))


def _is_integer(value: Value) -> bool:
    return bool(pa.types.is_integer(value.type))


def _alike(values: Sequence[Value]) -> Sequence[Value]:
    """Convert integers to float64 if one value is float64; beyond 2^53 that rounds."""
    kinds = [value.type for value in values]
    if not any(map(pa.types.is_floating, kinds)):
        return values
    return [pc.cast(value, pa.float64(), safe=False) for value in values]


def _compared(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda left, right: function(*_alike((left, right)))


def _is_in(value: Value, literals: Sequence[Any]) -> Value:
    if any(isinstance(literal, float) for literal in literals):
        value = pc.cast(value, pa.float64(), safe=False)
    if pa.types.is_floating(value.type):
        value = pc.add(value, 0.0)  # the table of hashes has two zeros
        literals = [float(literal) + 0.0 for literal in literals]
    found = pc.is_in(value, value_set=pa.array(literals, value.type))
    return pc.if_else(pc.is_valid(value), found, pa.scalar(None, pa.bool_()))


def _arithmetic(
    checked: Callable[..., Value], plain: Callable[..., Value], exact: Callable[..., int]
) -> Callable[..., Value]:
    """Return a function of numbers: by ``checked`` of integers, by ``plain`` of floats.

    If one row overflows, ``exact`` computes all rows in Python.
    """

    def function(*values: Value) -> Value:
        values = tuple(_alike(values))
        if not _is_integer(values[0]):
            return _finite(plain(*values))
        try:
            return checked(*values)
        except pa.ArrowInvalid:
            return _by_row(exact, values)

    return function


def _by_row(function: Callable[..., int], values: Sequence[Value]) -> Value:
    """Compute integers one by one; null where an argument is, or the result has over 64 bits."""
    lists = [
        repeat(one.as_py()) if isinstance(one, pa.Scalar) else one.to_pylist() for one in values
    ]
    single = all(isinstance(one, pa.Scalar) for one in values)
    results: list[int | None] = []
    for row in zip(*lists, range(1)) if single else zip(*lists):
        own = row[: len(values)]
        result = None if None in own else function(*own)
        fits = result is not None and -(2**63) <= result < 2**63
        results.append(result if fits else None)
    array = pa.array(results, pa.int64())
    return array[0] if single else array


def _divide(left: Value, right: Value) -> Value:
    left, right = (pc.cast(one, pa.float64(), safe=False) for one in (left, right))
    return _finite(pc.divide(left, right))


def _modulo(left: Value, right: Value) -> Value:
    """Return the remainder with the sign of the divisor, as Python does: NumPy's, too."""
    left, right = _alike((left, right))
    (dividend, has_dividend), (divisor, has_divisor) = map(_numpy, (left, right))
    valid = np.asarray(has_dividend & has_divisor & (divisor != 0))
    remainder = np.remainder(dividend, np.where(divisor == 0, 1, divisor))
    if remainder.ndim == 0:
        return pa.scalar(remainder.item() if valid else None, left.type)
    mask = ~np.broadcast_to(valid, remainder.shape)
    return pa.array(remainder, left.type, mask=mask)


def _numpy(value: Value) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers, 0 for null, and where they are valid; of a scalar without dimensions."""
    if isinstance(value, pa.Scalar):
        number = value.as_py() if value.is_valid else 0
        dtype = np.int64 if _is_integer(value) else np.float64
        return np.array(number, dtype), np.array(value.is_valid)
    valid = value.is_valid().to_numpy(zero_copy_only=False)
    return value.fill_null(0).to_numpy(zero_copy_only=False), valid


def _number(value: Value) -> Value:
    """Return float64: numbers converted, texts read, null where a text is no decimal number."""
    if not pa.types.is_large_string(value.type):
        return pc.cast(value, pa.float64(), safe=False)
    if isinstance(value, pa.Scalar):
        return pa.scalar(decimal_of(value.as_py()), pa.float64())
    return pa.array(map(decimal_of, value.to_pylist()), pa.float64())


def _extreme(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda *values: function(*_alike(values), skip_nulls=False)


def _pattern(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda text, pattern: function(text, pattern.as_py())


def _every(function: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    """Return a function of any number of values from one of two."""

    def joined(first: Value, *others: Value) -> Value:
        for other in others:
            first = function(first, other)
        return first

    return joined


_negate = _arithmetic(pc.negate_checked, pc.negate, operator.neg)
_subtract = _arithmetic(pc.subtract_checked, pc.subtract, operator.sub)

_FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "==": _compared(pc.equal),
    "!=": _compared(pc.not_equal),
    "<": _compared(pc.less),
    "<=": _compared(pc.less_equal),
    ">": _compared(pc.greater),
    ">=": _compared(pc.greater_equal),
    "+": _arithmetic(pc.add_checked, pc.add, operator.add),
    "*": _arithmetic(pc.multiply_checked, pc.multiply, operator.mul),
    "-": lambda *values: (_negate if len(values) == 1 else _subtract)(*values),
    "abs": _arithmetic(pc.abs_checked, pc.abs, operator.abs),
    "/": _divide,
    "%": _modulo,
    "and": _every(pc.and_kleene),
    "or": _every(pc.or_kleene),
    "not": pc.invert,
    "min": _extreme(pc.min_element_wise),
    "max": _extreme(pc.max_element_wise),
    "number": _number,
    "is None": pc.is_null,
    "is not None": pc.is_valid,
    "len": lambda text: pc.cast(pc.utf8_length(text), pa.int64()),
    "lower": pc.utf8_lower,
    "startswith": _pattern(pc.starts_with),
    "endswith": _pattern(pc.ends_with),
    "contains": _pattern(pc.match_substring),
}
