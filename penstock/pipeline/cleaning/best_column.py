"""The column by which the document of near-duplicates that stays is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import Self

from penstock.errors import RecipeError, did_you_mean
from penstock.rules import Expression
from penstock.rules.expressions.meta import MetaField, meta_columns
from penstock.rules.expressions.nodes import ColumnName, MetaName

__all__ = ["BestColumn"]

_LISTED = "`penstock rules` lists the columns; a field of the record is meta.NAME"


@dataclass(frozen=True, slots=True)
class BestColumn:
    """A column of numbers, or a field of ``meta`` with numbers or dates."""

    order: Literal["highest", "lowest"]
    """Which value is the best."""
    column: Expression
    """A name: of a column, or ``meta.field``."""

    @classmethod
    def of(cls, order: Literal["highest", "lowest"], text: str, key: str) -> Self:
        """Parse the name of a column.

        Args:
            order: The best value.
            text: As in the recipe.
            key: The recipe key, which errors name.

        Raises:
            RecipeError: It is not a name.
        """
        column = Expression.of(text, key)
        if not isinstance(column.root, ColumnName | MetaName):
            raise RecipeError(
                key=key, expected="the name of a column, or meta.NAME", got=repr(text)
            )
        return cls(order, column)

    def __str__(self) -> str:
        return f"{self.order} {self.column.text.strip()}"

    @property
    def names(self) -> tuple[str, ...]:
        """The column that is read; ``meta`` for one of its fields."""
        return self.column.names

    def config(self) -> dict[str, str]:
        """Return the part of the verdicts' fingerprint."""
        name = self.column.identity()["where"]
        return {self.order: f"number({name})" if self.names == ("meta",) else name}

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Check the name against the columns that there will be.

        Raises:
            RecipeError: There is no such column, or it does not hold numbers.
        """
        root = self.column.root
        if isinstance(root, MetaName):
            return
        assert isinstance(root, ColumnName)
        numbers = {
            name
            for name, kind in columns.items()
            if pa.types.is_integer(kind) or pa.types.is_floating(kind)
        }
        if root.name not in numbers:
            raise RecipeError(
                key=self.column.key,
                expected="a column of numbers",
                got=repr(root.name),
                fix=did_you_mean(root.name, sorted(numbers), _LISTED).lstrip("; "),
            )

    def values(self, columns: pa.Table) -> np.ndarray:
        """Return the value of each document.

        Args:
            columns: n rows with the columns of :attr:`names`.

        Returns:
            (n,) float64: a field of ``meta`` may be a number or a text of one, as in CSV, or a
            date, as days since 1970-01-01; NaN where it is neither.
        """
        numbers, dates = self._read(columns)
        if dates is not None:
            numbers = pc.coalesce(numbers, dates.cast(pa.int32()).cast(pa.float64()))
        values: np.ndarray = numbers.to_numpy(zero_copy_only=False)
        return values

    def value(self, columns: pa.Table) -> float | str | None:
        """Return the value of the one document of a table, a date as ``2020-01-31``, or None."""
        numbers, dates = self._read(columns)
        number: float | None = numbers[0].as_py()
        if number is None and dates is not None and dates[0].is_valid:
            return str(dates[0])
        return None if number is None or math.isnan(number) else number

    def _read(self, columns: pa.Table) -> tuple[pa.Array, pa.Array | None]:
        """Return the numbers (float64), and of a field of ``meta`` the dates (date32)."""
        root: Any = self.column.root
        if isinstance(root, MetaName):
            fields = [MetaField(root.path, "decimal"), MetaField(root.path, "date")]
            numbers, dates = meta_columns(columns.column("meta").combine_chunks(), fields).columns
            return numbers, dates
        return columns.column(root.name).cast(pa.float64()).combine_chunks(), None

    def ranks(self, columns: pa.Table) -> np.ndarray:
        """Return (n,) float64, highest for the best: :meth:`values`, negated for the lowest."""
        values = self.values(columns)
        return values if self.order == "highest" else -values
