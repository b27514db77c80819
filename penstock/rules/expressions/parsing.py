"""Parse the text of an expression: Python's grammar, of which few nodes are allowed."""

from __future__ import annotations

import ast
import math
import re
import warnings
from datetime import date
from typing import Any, NoReturn

from penstock.errors import did_you_mean
from penstock.rules.expressions.nodes import Call, ColumnName, Constant, MetaName, Node, Source

__all__ = ["FUNCTIONS", "parse"]

LONGEST = 10_000
"""Characters of an expression."""

DEEPEST = 100
"""Levels of an expression; ``and`` and ``or`` of many parts are one level."""

FUNCTIONS = {
    "abs": "abs(number)",
    "min": "min(number, number, ...)",
    "max": "max(number, number, ...)",
    "len": "len(text)",
    "lower": "lower(text)",
    "startswith": "startswith(text, 'literal')",
    "endswith": "endswith(text, 'literal')",
    "contains": "contains(text, 'literal')",
    "date": "date('2020-01-31')",
    "number": "number(text)",
}
"""The functions, and how each is called."""

_METHODS = ("lower", "startswith", "endswith")

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Mod: "%",
}
_ALLOWED = (
    "comparisons, and, or, not, + - * / %, in, is None, literals, columns, meta['field'] and "
    + ", ".join(FUNCTIONS)
)


def parse(source: Source) -> Node:
    """Parse an expression.

    Raises:
        RecipeError: The text is too long or too deep, or not an expression of this language.
    """
    if len(source.text) > LONGEST:
        raise source.error(
            LONGEST + 1, expected=f"at most {LONGEST:,} characters", got=f"{len(source.text):,}"
        )
    return _Parser(source).parse()


class _Parser:
    """Turns Python's nodes into ours; every method returns one, or raises with its place."""

    def __init__(self, source: Source) -> None:
        self._source = source
        text = source.text.replace("\r\n", " \n").replace("\r", "\n")
        self._wrapped = f"(\n{text}\n)"  # so that line feeds are white space
        self._lines = self._wrapped.split("\n")
        self._depth = 0

    def parse(self) -> Node:
        if not self._source.text.strip():
            raise self._source.error(1, expected="an expression", got="nothing")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes such as '\d', which are kept
                tree = ast.parse(self._wrapped, mode="eval").body
        except SyntaxError as error:
            at = self._place(error.lineno or 2, (error.offset or 1) - 1)
            problem = re.split(r" \(|; ", error.msg)[0]
            raise self._source.error(at, f"not an expression: {problem}") from None
        except ValueError as error:  # a NUL byte
            raise self._source.error(1, f"not an expression: {error}") from None
        except (RecursionError, MemoryError):
            raise self._source.error(1, "not an expression: too deep") from None
        if tree.lineno == 1:  # it begins with the parenthesis that was put in front
            raise self._source.error(1, "not an expression: a list, or unbalanced parentheses")
        return self._node(tree)

    def _place(self, line: int, column: int) -> int:
        """Return the character, from 1, of a line from 1 and a character of it from 0."""
        before = sum(len(text) + 1 for text in self._lines[1 : line - 1])
        return min(before + column + 1, len(self._source.text) + 1)

    def _at(self, node: ast.expr) -> int:
        before = self._lines[node.lineno - 1].encode()[: node.col_offset]
        return self._place(node.lineno, len(before.decode()))

    def _written(self, node: ast.expr) -> str:
        """Return the first 60 characters of a node in the text."""
        text = ast.get_source_segment(self._wrapped, node) or ""
        return f"`{text[:60]}`"

    def _refuse(self, node: ast.expr, problem: str = "", **facts: Any) -> NoReturn:
        raise self._source.error(self._at(node), problem, **facts)

    def _node(self, node: ast.expr) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            self._refuse(node, expected=f"at most {DEEPEST} levels", fix="use fewer parentheses")
        parsed = self._parsed(node)
        self._depth -= 1
        return parsed

    def _parsed(self, node: ast.expr) -> Node:
        match node:
            case ast.Constant(value):
                return Constant(self._literal(node, value), self._at(node))
            case ast.Name("meta"):
                self._refuse(node, "`meta` is no value", fix="write meta['field']")
            case ast.Name(name):
                return ColumnName(name, self._at(node))
            case ast.Attribute() | ast.Subscript():
                return MetaName(self._path(node), self._at(node))
            case ast.Compare():
                return self._comparison(node)
            case ast.Call():
                return self._call(node)
        return self._operator(node)

    def _operator(self, node: ast.expr) -> Node:
        at = self._at(node)
        match node:
            case ast.BoolOp(operator, values):
                name = "and" if isinstance(operator, ast.And) else "or"
                return Call(name, tuple(map(self._node, values)), at)
            case ast.UnaryOp(ast.Not(), value):
                return Call("not", (self._node(value),), at)
            case ast.UnaryOp(ast.USub(), value):
                inner = self._node(value)
                if isinstance(inner, Constant) and type(inner.value) in (int, float):
                    return Constant(-inner.value, at)  # type: ignore[operator]
                return Call("-", (inner,), at)
            case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC:
                return Call(_ARITHMETIC[type(operator)], (self._node(left), self._node(right)), at)
        self._refuse(node, expected=_ALLOWED, got=self._written(node))

    def _literal(self, node: ast.expr, value: object) -> str | int | float | bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            if any("\ud800" <= character <= "\udfff" for character in value):
                self._refuse(node, expected="a text of Unicode characters", got="half of one")
            return value
        if isinstance(value, int | float):
            return self._number(node, value)
        if value is None:
            self._refuse(node, "None equals nothing", fix="write `is None` or `is not None`")
        self._refuse(node, expected="a text, a number, True or False", got=f"`{value!r:.60}`")

    def _number(self, node: ast.expr, value: int | float) -> int | float:
        if isinstance(value, int) and not -(2**63) < value < 2**63:
            self._refuse(node, expected="an integer of 64 bits", got=f"one of {value.bit_length()}")
        if not math.isfinite(value):
            self._refuse(node, expected="a finite number", got=str(value))
        return value

    def _path(self, node: ast.expr) -> tuple[str, ...]:
        """Return the path of ``meta.a['b']``."""
        path: list[str] = []
        here = node
        while True:
            match here:
                case ast.Attribute(value, name):
                    path.append(name)
                case ast.Subscript(value, ast.Constant(str() as name)):
                    path.append(name)
                case ast.Name("meta"):
                    break
                case _:
                    self._refuse(
                        node, expected="meta.field or meta['field']", got=self._written(node)
                    )
            here = value
        for name in path:
            if re.search('[\\x00-\\x1f"\\\\\ud800-\udfff]', name):
                expected = "a field without quotation marks, backslashes and control characters"
                self._refuse(node, expected=expected, got=repr(name))
        if len(path) > DEEPEST:
            self._refuse(node, expected=f"at most {DEEPEST} levels")
        return tuple(reversed(path))

    def _comparison(self, node: ast.Compare) -> Node:
        """Parse a chain: ``a < b <= c`` is ``a < b and b <= c``."""
        parts = []
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:]):
            parts.append(self._compared(node, left, operator, right))
        return parts[0] if len(parts) == 1 else Call("and", tuple(parts), self._at(node))

    def _compared(
        self, node: ast.Compare, left: ast.expr, operator: ast.cmpop, right: ast.expr
    ) -> Node:
        at = self._at(node)
        if isinstance(operator, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                self._refuse(right, expected="None after `is`", fix="write == or !=")
            name = "is None" if isinstance(operator, ast.Is) else "is not None"
            return Call(name, (self._node(left),), at)
        if not isinstance(operator, ast.In | ast.NotIn):
            return Call(_COMPARISONS[type(operator)], (self._node(left), self._node(right)), at)
        negated = isinstance(operator, ast.NotIn)
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            values = tuple(map(self._node, right.elts))
            if not values or not all(isinstance(value, Constant) for value in values):
                self._refuse(right, expected="at least one literal, and nothing else, in the list")
            return Call("not in" if negated else "in", (self._node(left), *values), at)
        if isinstance(right, ast.Constant):
            self._refuse(right, expected="a list or a column after `in`", got=repr(right.value))
        found = Call("contains", (self._node(right), self._node(left)), at)
        return Call("not", (found,), at) if negated else found

    def _call(self, node: ast.Call) -> Node:
        values = node.args
        match node.func:
            case ast.Name(name):
                pass
            case ast.Attribute(value, name) if name in _METHODS:
                values = [value, *values]
            case _:
                self._refuse(
                    node, expected="a function: " + ", ".join(FUNCTIONS), got=self._written(node)
                )
        if name not in FUNCTIONS:
            fix = did_you_mean(name, FUNCTIONS).lstrip("; ")
            self._refuse(node, f"unknown function `{name}`", fix=fix)
        if node.keywords or not (
            len(values) >= 2
            if name in ("min", "max")
            else len(values) == FUNCTIONS[name].count(",") + 1
        ):
            self._refuse(node, expected=FUNCTIONS[name], got=self._written(node))
        if name == "date":
            return Constant(self._date(values[0]), self._at(node))
        return Call(name, tuple(map(self._node, values)), self._at(node))

    def _date(self, node: ast.expr) -> date:
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass
        self._refuse(node, expected="a date such as '2020-01-31'", got=self._written(node))
