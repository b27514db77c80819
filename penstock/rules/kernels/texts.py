"""All counts of all texts of a batch: one row of integers for each text."""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text
from penstock.compiling import compiler
from penstock.rules import characters
from penstock.rules.characters import BREAK, CONTINUED, LETTER, SPACE
from penstock.rules.kernels import c4_lines, lines, repetition, spans, words
from penstock.rules.kernels.c4_lines import C4Limits, LineCopy, Phrases, judge_line
from penstock.rules.kernels.lines import (
    LineScratch,
    count_lines,
    count_paragraphs,
    ends_in_dots,
)
from penstock.rules.kernels.repetition import RepetitionScratch, count_repetition
from penstock.rules.kernels.spans import Utf8
from penstock.rules.kernels.words import StopWords, classify, count_words, find_pieces

__all__ = [
    "COUNTS",
    "REPETITION",
    "CountLimits",
    "Tables",
    "TextScratch",
    "count_repetitions",
    "count_texts",
]

_compiled = compiler(arrow_text, characters, spans, words, lines, c4_lines, repetition)

COUNTS = (
    "characters",
    "letters",
    "unspaced_letters",
    "words",
    "cores",
    "core_characters",
    "lettered_words",
    "stop_words",
    "hashes",
    "ellipses",
    "newlines",
    "lines",
    "bullet_lines",
    "ellipsis_lines",
    "c4_lines",
    "c4_sentences",
    "c4_lorem_ipsum_lines",
    "c4_curly_bracket_lines",
    "gopher_lines",
    "duplicate_gopher_lines",
    "duplicate_gopher_line_characters",
    "filled_lines",
    "terminal_lines",
    "short_lines",
    "duplicate_filled_lines",
    "duplicate_filled_line_characters",
    "paragraphs",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
)
"""Names of the counts without n-grams, in the order in which they are written."""

REPETITION = (
    "top_2_gram_characters",
    "top_3_gram_characters",
    "top_4_gram_characters",
    "duplicate_5_gram_characters",
    "duplicate_6_gram_characters",
    "duplicate_7_gram_characters",
    "duplicate_8_gram_characters",
    "duplicate_9_gram_characters",
    "duplicate_10_gram_characters",
)
"""Names of the counts of repeated n-grams."""

_HASH, _DOT, _NEWLINE, _HYPHEN = np.uint8(35), np.uint8(46), np.uint8(10), np.uint8(45)
_RETURN, _BRACKET = np.uint8(13), np.uint8(91)


class Tables(NamedTuple):
    """What the kernels look up."""

    classes: np.ndarray  # (2^21,) uint8
    stop_words: StopWords
    phrases: Phrases


class CountLimits(NamedTuple):
    """CountLimits that are part of a count's definition."""

    short_line: int
    c4: C4Limits


class TextScratch(NamedTuple):
    """Buffers for the longest text of a batch."""

    kinds: np.ndarray  # (longest,) uint8
    edges: np.ndarray  # (longest + 3,) int32, of pieces
    lines: LineScratch
    copy: LineCopy

    @classmethod
    def of(cls, longest: int) -> TextScratch:
        """Allocate for texts of at most so many bytes."""
        return cls(
            np.empty(longest, np.uint8),
            np.empty(longest + 3, np.int32),
            LineScratch.of(longest),
            LineCopy.of(longest),
        )


@_compiled
def count_texts(
    text: Utf8,
    offsets: np.ndarray,
    tables: Tables,
    limits: CountLimits,
    seed: int,
    scratch: TextScratch,
    out: np.ndarray,
) -> None:
    """Write the counts of each text.

    Args:
        text: UTF-8 of all texts, valid.
        offsets: (n + 1,) int64, where each text begins.
        tables: Classes of characters, stop words, phrases.
        limits: Of lines and words.
        seed: uint64, of the hash tables; changes no count.
        scratch: Buffers.
        out: (n, len(COUNTS)) uint32, the result.
    """
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        one = Utf8(text.bytes[begin:end], text.windows[begin:])
        _count_text(one, tables, limits, seed, scratch, out[row])


@_compiled
def _count_text(
    text: Utf8,
    tables: Tables,
    limits: CountLimits,
    seed: int,
    scratch: TextScratch,
    out: np.ndarray,
) -> None:
    data, kinds = text.bytes, scratch.kinds[: len(text.bytes)]
    n_characters, unspaced, ellipses, kelvins = classify(data, tables.classes, kinds)
    is_ascii = n_characters == len(data)
    edges = scratch.edges
    pieces = find_pieces(kinds, edges)
    symbols, cores, lettered, stop_words = count_words(
        data, kinds, edges, pieces, tables.stop_words
    )
    letters, spaces, hashes, newlines, brackets = _count_bytes(data, kinds)
    out[0] = n_characters
    out[1] = letters
    out[2] = unspaced
    out[3] = symbols + cores
    out[4] = cores
    out[5] = n_characters - spaces - symbols
    out[6] = lettered
    out[7] = stop_words
    out[8] = hashes
    out[9] = ellipses + _count_dots(data)
    out[10] = newlines
    edit = brackets > 0 or kelvins > 0
    _count_python_lines(
        data, kinds, edges, pieces, limits.c4, edit, tables.phrases, scratch.copy, out[11:18]
    )
    count_lines(text, kinds, is_ascii, limits.short_line, seed, scratch.lines, out[18:26])
    count_paragraphs(text, kinds, seed, scratch.lines, out[26:29])


@_compiled
def _count_bytes(data: np.ndarray, kinds: np.ndarray) -> tuple[int, int, int, int, int]:
    """Count letters, white space, ``#``, line feeds and ``[``: loops without branches."""
    letters, spaces, hashes, newlines, brackets = 0, 0, 0, 0, 0
    for at in range(len(data)):
        letters += (kinds[at] & (LETTER | CONTINUED)) == LETTER
    for at in range(len(data)):
        spaces += (kinds[at] & (SPACE | CONTINUED)) == SPACE
    for at in range(len(data)):
        hashes += data[at] == _HASH
    for at in range(len(data)):
        newlines += data[at] == _NEWLINE
    for at in range(len(data)):
        brackets += data[at] == _BRACKET
    return letters, spaces, hashes, newlines, brackets


@_compiled
def _count_dots(data: np.ndarray) -> int:
    """Count ``...`` as ``str.count`` does: three for nine dots."""
    found, run = 0, 0
    for at in range(len(data)):
        run = run + 1 if data[at] == _DOT else 0
        if run == 3:
            found += 1
            run = 0
    return found


@_compiled
def _count_python_lines(
    data: np.ndarray,
    kinds: np.ndarray,
    edges: np.ndarray,
    pieces: int,
    limits: C4Limits,
    edit: bool,
    phrases: Phrases,
    copy: LineCopy,
    out: np.ndarray,
) -> None:
    """Write to ``out``, (7,) uint32, what is counted over the lines of ``str.splitlines``.

    A line break is white space, so breaks are looked for between pieces only.
    """
    breaks = _count_breaks(data, kinds, 0, edges[0])
    bullets, ellipses, kept, sentences, lorem, curly = 0, 0, 0, 0, 0, 0
    begin = 0
    for piece in range(pieces):
        inside = edges[2 * piece + 1], edges[2 * piece + 2]
        found = _count_breaks(data, kinds, inside[0], inside[1])
        if not found and piece + 1 < pieces:
            continue
        breaks += found
        first, last = edges[2 * begin], inside[0]
        bullets += data[first] == _HYPHEN or _is_general(data, first, last, 0xA2)
        ellipses += ends_in_dots(data, first, last) or _is_general(data, last - 3, last, 0xA6)
        counted, has_lorem, has_curly = judge_line(
            data, kinds, edges, begin, piece + 1, limits, edit, phrases, copy
        )
        kept += counted > 0
        sentences += counted
        lorem += has_lorem
        curly += has_curly
        begin = piece + 1
    unended = len(data) > 0 and not kinds[len(data) - 1] & BREAK
    out[0] = breaks + unended
    out[1] = bullets
    out[2] = ellipses
    out[3] = kept
    out[4] = sentences
    out[5] = lorem
    out[6] = curly


@_compiled
def _count_breaks(data: np.ndarray, kinds: np.ndarray, start: int, stop: int) -> int:
    r"""Count line breaks in white space; ``\r\n`` is one."""
    count = 0
    for at in range(start, stop):
        if kinds[at] & BREAK and not kinds[at] & CONTINUED:
            second = data[at] == _NEWLINE and at > 0 and data[at - 1] == _RETURN
            count += not second
    return count


@_compiled
def _is_general(data: np.ndarray, at: int, stop: int, last: int) -> bool:
    """Test for the character E2 80 ``last``: a bullet (A2) or an ellipsis (A6)."""
    return bool(
        at >= 0
        and at + 3 <= stop
        and data[at] == 0xE2
        and data[at + 1] == 0x80
        and data[at + 2] == last
    )


@_compiled
def count_repetitions(
    text: Utf8,
    offsets: np.ndarray,
    classes: np.ndarray,
    seed: int,
    kinds: np.ndarray,
    edges: np.ndarray,
    scratch: RepetitionScratch,
    out: np.ndarray,
) -> None:
    """Write the counts of repeated n-grams of each text: (n, len(REPETITION)) uint32.

    The scratch has room for the words of each text, which :func:`count_texts` has counted.
    """
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        one = Utf8(text.bytes[begin:end], text.windows[begin:])
        own = kinds[: end - begin]
        is_ascii = classify(one.bytes, classes, own)[0] == end - begin
        count_repetition(one, own, edges, is_ascii, seed, scratch, out[row])
