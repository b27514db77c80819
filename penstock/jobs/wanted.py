"""The records that ``penstock why`` looks for: by id, by file and line, or by a text in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.artefact import FileRecord
from penstock.columnar import OwnParquet
from penstock.display import unescaped
from penstock.jobs.origins import PLACE, Origins, part_of
from penstock.pipeline.cleaning.quarantine import raw_text
from penstock.pipeline.units import Unit

__all__ = ["Wanted", "readings_of"]

_AT_LINE = re.compile(r"(?s)(?P<path>.+):(?P<line>[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Records with one of some values in a column, or with a text in theirs."""

    column: str = "text"
    """``id``, ``input`` (the number of an input file) or ``text``."""
    values: list[Any]
    """Values of the column; of ``text`` one that the record's contains."""
    line: int | None = None
    """The line or row in the input, from 1; None for any."""

    @property
    def columns(self) -> list[str]:
        """The columns of a unit's rows that :meth:`rows` needs."""
        return ["id"] if self.column == "text" else [self.column, "input", "line"]

    def rows(self, unit: Unit, origins: Origins) -> np.ndarray:
        """Return the rows of a whole unit, (m,) int64 ascending.

        Units of parts that have nothing of a wanted input are not read.
        """
        if self.column == "input" and not origins.has_any(unit, self.values):
            return np.empty(0, np.int64)
        if self.column == "text":
            with OwnParquet(unit.path()) as file:
                texts = file.read(["text"]).column("text")
            return np.flatnonzero(pc.match_substring(texts, self.values[0]).to_numpy())
        table = unit.read_rows(self.columns)
        column = table.column(self.column)
        known = pa.array(self.values, column.type)
        found = np.flatnonzero(pc.is_in(column, value_set=known).to_numpy())
        if self.line is None or not len(found):
            return found
        own = table.select(["input", "line"]).take(pa.array(found))
        inputs, lines = (column.to_numpy() for column in own.columns)
        before = {
            number: origins.lines_before(part_of(unit.record), number)
            for number in np.unique(inputs).tolist()
        }
        return found[lines + np.vectorize(before.get, [np.int64])(inputs) == self.line]

    def is_quarantined(self, bad: Mapping[str, Any], file: FileRecord, origins: Origins) -> bool:
        """Return whether a record of a file of the quarantine is one that is looked for."""
        if self.column == "text":
            return self.values[0] in raw_text(bad)
        if bad.get(self.column) not in self.values:
            return False
        place = PLACE.match(bad["place"])
        if self.line is None or place is None:
            return self.line is None
        return origins.line_of(part_of(file), bad["input"], int(place["line"])) == self.line


def readings_of(name: str, origins: Origins) -> Iterator[Wanted]:
    """Yield what a name may mean, the likeliest first.

    That is an id; an id with controls as they are printed (``\\x1b``); the path of a file that is
    one document; or PATH:LINE, a line or row of a file, also by the name without its directory if
    no other input file has it.

    Raises:
        InputError: It is the path of an input with more than one document.
    """
    yield Wanted(column="id", values=[name])
    if (meant := unescaped(name)) != name:
        yield Wanted(column="id", values=[meant])
    at = _AT_LINE.fullmatch(name)
    if at and (numbers := origins.inputs_at(at["path"]) or origins.inputs_named(at["path"])):
        yield Wanted(column="input", values=numbers, line=int(at["line"]))
    elif numbers := origins.documents_in(name):
        yield Wanted(column="input", values=numbers)
