"""Types that a recipe's models share: paths, shares, and keys that take two shapes.

Where a key takes a mapping or a plain value, the value's own type selects the shape (``shaped``),
so that a mistake is explained for that shape alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from penstock.storage import path_problem

__all__ = ["MAPPING", "PLAIN", "Fraction", "Location", "Model", "Names", "listed", "shaped"]

Fraction = Annotated[float, Field(gt=0, le=1)]


def listed(value: Any) -> Any:
    """Wrap a single item in a list."""
    return [value] if isinstance(value, (str, Mapping)) else value


def _well_written(path: str) -> str:
    if fault := path_problem(path):
        raise ValueError(fault)
    return path


Location = Annotated[str, AfterValidator(_well_written)]
"""A path or a URI."""

Names = Annotated[tuple[Location, ...], BeforeValidator(listed)]
"""Paths or patterns; a single one needs no list."""


def _shape(value: Any) -> str:
    return "<mapping>" if isinstance(value, (Mapping, BaseModel)) else "<plain>"


shaped = Discriminator(_shape)
"""Selects the mapping or the plain value where a key takes either."""

MAPPING, PLAIN = Tag("<mapping>"), Tag("<plain>")


class Model(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )
