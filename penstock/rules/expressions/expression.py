"""Expressions over columns: parsed with the recipe, checked with the plan, computed by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from typing_extensions import Self

from penstock.rules.expressions.computing import compute
from penstock.rules.expressions.meta import MetaField, meta_columns
from penstock.rules.expressions.nodes import (
    Call,
    ColumnName,
    Kind,
    MetaName,
    Node,
    Source,
    canonical,
)
from penstock.rules.expressions.parsing import parse
from penstock.rules.expressions.typing import KIND_NAMES, resolve

__all__ = ["VERSION", "Expression", "Planned"]

VERSION = 1
"""Raised whenever the same expression would mean something else."""

_META = "meta"


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition in a part of Python's language::

        language == 'en' and language_probability > 0.65
        meta.stars >= 10 or source in ('wiki', 'books')
        date('2020-01-01') <= meta['published'] and 'draft' not in lower(meta.title)

    - Literals: texts, integers, floats, ``True``, ``False``, ``date('2020-01-31')``.
    - Names are columns. ``meta.field`` and ``meta['field']``, also nested, are fields of ``meta``.
    - ``== != < <= > >=``, also chained; ``and or not``; ``+ - * / %``; ``x in ('a', 'b')``;
      ``'a' in text``; ``x is None``.
    - ``abs``, ``min``, ``max``, ``len``, ``lower``, ``startswith``, ``endswith``, ``contains``, of
      which ``lower``, ``startswith`` and ``endswith`` may be written as methods.
    - ``number(x)`` is the number that a text is in decimals, as the values of CSV are; unknown of
      another text. A number is that number.

    It means what it means in Python, but:

    - **None is unknown**: a result of an unknown value is unknown, except that ``False and None``
      is False and ``True or None`` is True (Kleene's logic). Only ``is None`` tests for it.
    - Division by zero, an integer beyond 64 bits and a float that is not finite are unknown, in
      columns, too. An integer next to a float is converted to float64 first, and so are both sides
      of ``/``.
    - Kinds do not mix: numbers, texts, truth values and dates compare with their own.
    - ``lower`` maps characters one by one, by the tables of Arrow (utf8proc).

    The kind of a field of ``meta`` follows from its use; see :func:`meta_columns`.
    """

    text: str
    """As it was written."""
    key: str
    """The recipe key, which errors name."""
    root: Node

    @classmethod
    def of(cls, text: str, key: str = "clean.where") -> Self:
        """Parse an expression.

        Raises:
            RecipeError: It is not one; the error names the key, the character and the remedy.
        """
        return cls(text, key, parse(Source(text, key)))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read, sorted; ``meta`` where one of its fields is."""
        nodes = _nodes(self.root)
        return tuple(
            sorted(
                {
                    one.name if isinstance(one, ColumnName) else _META
                    for one in nodes
                    if isinstance(one, ColumnName | MetaName)
                }
            )
        )

    def identity(self) -> dict[str, Any]:
        """Return version and canonical text, for a fingerprint: white space makes no difference."""
        return {"version": VERSION, "where": canonical(self.root)}

    def planned(self, columns: Mapping[str, pa.DataType]) -> Planned:
        """Check the expression against the columns that there will be.

        Raises:
            RecipeError: A column is unknown, or a value is of another kind than its use.
        """
        return Planned(resolve(self.root, columns, Source(self.text, self.key)))

    def evaluate(self, columns: pa.RecordBatch | pa.Table) -> pa.BooleanArray:
        """Plan and compute the expression for a table: see :meth:`Planned.evaluate`."""
        return self.planned({one.name: one.type for one in columns.schema}).evaluate(columns)


@dataclass(frozen=True, slots=True)
class Planned:
    """An expression whose kinds are known."""

    root: Node

    @property
    def fields(self) -> tuple[MetaField, ...]:
        """The fields of ``meta``, each once for each kind."""
        found = (one for one in _nodes(self.root) if isinstance(one, MetaName))
        return tuple(dict.fromkeys(MetaField(one.path, one.kind or "any") for one in found))

    def evaluate(self, columns: pa.RecordBatch | pa.Table) -> pa.BooleanArray:
        """Compute the expression.

        Args:
            columns: n rows with the columns of :attr:`Expression.names`.

        Returns:
            (n,) bool: True keeps a document, False excludes it, and null, where the answer is
            unknown, excludes it, too, and can be counted apart.

        Raises:
            InputError: A row of ``meta`` is not a JSON object.
        """
        batches = [columns] if isinstance(columns, pa.RecordBatch) else columns.to_batches()
        parts = [self._evaluate(batch) for batch in batches]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.bool_())

    def values(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Return the columns that the expression names, and the fields of ``meta``.

        Args:
            batch: As for :meth:`evaluate`.

        Returns:
            (n,) arrays by name, in the order of the expression; a field's name is ``meta.a.b``,
            and its type that of the use (:func:`meta_columns`). ``is None`` is no use: of a field
            without another one, or with several, the values are JSON, and texts as they are.
        """
        uses: dict[tuple[str, ...], set[Kind]] = {}
        for field in self.fields:
            uses.setdefault(field.path, set()).add(field.kind)
        fields = [MetaField(path, _shown_kind(kinds)) for path, kinds in uses.items()]
        own = {
            one.name: batch.column(one.name)
            for one in _nodes(self.root)
            if isinstance(one, ColumnName)
        }
        read = meta_columns(batch.column(_META), fields).columns if fields else []
        return own | {".".join((_META, *field.path)): value for field, value in zip(fields, read)}

    def other_kinds(self, meta: str | None) -> dict[str, dict[str, Any]]:
        """Return the fields of a document that are there, but of another kind than their use.

        Args:
            meta: Of one document; None for no fields.

        Returns:
            By name ``meta.a.b``: ``expected``, the kind in words, and ``got``, the value.
        """
        found: dict[str, dict[str, Any]] = {}
        column = pa.array([meta], pa.large_string())
        for field in self.fields:
            value: Any = {} if meta is None else json.loads(meta)
            for name in field.path:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None and not meta_columns(column, [field]).column(0)[0].is_valid:
                name = ".".join((_META, *field.path))
                found[name] = {"expected": KIND_NAMES[field.kind], "got": value}
        return found

    def _evaluate(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        fields = self.fields
        values = meta_columns(batch.column(_META), fields).columns if fields else []
        return compute(self.root, batch, dict(zip(fields, values)))


def _shown_kind(uses: set[Kind]) -> Kind:
    """Return the kind as which the values of a field are shown."""
    compared = uses - {"any"}
    if compared == {"number", "decimal"}:
        return "decimal"
    return compared.pop() if len(compared) == 1 else "json"


def _nodes(root: Node) -> Iterator[Node]:
    yield root
    if isinstance(root, Call):
        for argument in root.arguments:
            yield from _nodes(argument)
