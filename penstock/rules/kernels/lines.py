r"""Lines, paragraphs and their repetition in one text.

Three definitions of a line are in use, and each rule keeps its own:

- Gopher's repetition rules divide at runs of ``\n``: ``re.split(r"\n+", text)``;
- FineWeb's rules divide at each ``\n`` and leave out lines of nothing but white space;
- Gopher's quality rules and C4 use ``str.splitlines``, which also knows ``\r``, ``\x85``,
  ``\u2028`` and others.

Paragraphs are ``re.split(r"\n{2,}", text.strip())``. A *duplicate* is a line or paragraph whose
bytes occurred before in the same text.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text
from penstock.compiling import compiler
from penstock.rules import characters
from penstock.rules.characters import SPACE, TERMINAL
from penstock.rules.kernels import spans, words
from penstock.rules.kernels.spans import Utf8, intern_spans
from penstock.rules.kernels.words import count_characters

__all__ = [
    "LineScratch",
    "count_lines",
    "count_paragraphs",
    "ends_in_dots",
    "strip",
]

_compiled = compiler(arrow_text, characters, spans, words)

_NEWLINE, _DOT = np.uint8(10), np.uint8(46)


class LineScratch(NamedTuple):
    """Buffers for the longest text of a batch: at most every other byte begins a line."""

    starts: np.ndarray  # (lines,) int32
    stops: np.ndarray  # (lines,) int32
    hashes: np.ndarray  # (lines,) uint64
    slots: np.ndarray  # (at most 4 lines,) int32
    first: np.ndarray  # (lines,) int32

    @classmethod
    def of(cls, n_bytes: int) -> LineScratch:
        """Allocate 28 bytes for each possible line; memory is touched as it is used."""
        lines = n_bytes // 2 + 8
        return cls(
            np.empty(lines, np.int32),
            np.empty(lines, np.int32),
            np.empty(lines, np.uint64),
            np.empty(4 * lines, np.int32),
            np.empty(lines, np.int32),
        )


@_compiled
def strip(kinds: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Return begin and end without white space around; equal if nothing else is there."""
    while start < stop and kinds[start] & SPACE:
        start += 1
    while stop > start and kinds[stop - 1] & SPACE:
        stop -= 1
    return start, stop


@_compiled
def ends_in_dots(text: np.ndarray, start: int, stop: int) -> bool:
    """Test for three dots at the end of a line."""
    return bool(
        stop - start >= 3
        and text[stop - 1] == _DOT
        and text[stop - 2] == _DOT
        and text[stop - 3] == _DOT
    )


@_compiled
def count_lines(
    text: Utf8,
    kinds: np.ndarray,
    is_ascii: bool,
    short_line: int,
    seed: int,
    scratch: LineScratch,
    out: np.ndarray,
) -> None:
    r"""Count lines divided at ``\n``, and those that are duplicates.

    Writes to ``out``, (8,) uint32: lines divided at runs of ``\n``; duplicates among them and their
    characters; lines with more than white space; of these, lines that end in a terminal character,
    lines of at most ``short_line`` characters, duplicates and their characters.
    """
    data = text.bytes
    stop = len(data)
    starts, stops = scratch.starts, scratch.stops
    count, begin = 0, 0
    for at in range(stop):
        if data[at] == _NEWLINE:
            if begin < at:
                starts[count] = begin
                stops[count] = at
                count += 1
            begin = at + 1
    if begin < stop:
        starts[count] = begin
        stops[count] = stop
        count += 1
    intern_spans(text, starts, stops, count, seed, scratch.hashes, scratch.slots, scratch.first)
    # The empty pieces before the first line and after the last one are lines to re.split.
    empty = 1
    if stop > 0:
        empty = int(data[0] == _NEWLINE) + int(data[stop - 1] == _NEWLINE)
    duplicates, duplicate_characters = int(empty == 2), 0
    filled, terminal, short, filled_duplicates, filled_characters = 0, 0, 0, 0, 0
    for line in range(count):
        start, end = starts[line], stops[line]
        length = end - start
        if not is_ascii:
            length = count_characters(kinds, start, end)
        repeated = scratch.first[line] != line
        if repeated:
            duplicates += 1
            duplicate_characters += length
        place = start
        while place < end and kinds[place] & SPACE:
            place += 1
        if place == end:
            continue
        filled += 1
        terminal += (kinds[end - 1] & TERMINAL) != 0
        short += length <= short_line
        if repeated:
            filled_duplicates += 1
            filled_characters += length
    out[0] = count + empty
    out[1] = duplicates
    out[2] = duplicate_characters
    out[3] = filled
    out[4] = terminal
    out[5] = short
    out[6] = filled_duplicates
    out[7] = filled_characters


@_compiled
def count_paragraphs(
    text: Utf8, kinds: np.ndarray, seed: int, scratch: LineScratch, out: np.ndarray
) -> None:
    """Write to ``out``, (3,) uint32: paragraphs, duplicates among them and their characters."""
    data = text.bytes
    begin, stop = strip(kinds, 0, len(data))
    starts, stops = scratch.starts, scratch.stops
    count, at = 0, begin
    while at < stop:
        if data[at] != _NEWLINE:
            at += 1
            continue
        after = at + 1
        while data[after] == _NEWLINE:  # stripped, so another character follows
            after += 1
        if after - at >= 2:
            starts[count] = begin
            stops[count] = at
            count += 1
            begin = after
        at = after
    starts[count] = begin
    stops[count] = stop
    count += 1
    duplicates, repeated = 0, 0
    if count > 1:
        first = scratch.first
        intern_spans(text, starts, stops, count, seed, scratch.hashes, scratch.slots, first)
        for item in range(count):
            if first[item] != item:
                duplicates += 1
                repeated += count_characters(kinds, starts[item], stops[item])
    out[0] = count
    out[1] = duplicates
    out[2] = repeated
