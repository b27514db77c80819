"""Statistics of texts: all counts that published cleaning rules need, in one pass.

Counts, never shares: a rule divides in float64, so its decision at equality is that of a filter
written in Python, and a changed threshold needs no text. Counts hang on the text and on
:class:`Counting`, whose values are part of their definition (a stop word, a limit of C4's lines).

:data:`FIELDS` documents each count. Words, lines and sentences are defined in
:mod:`penstock.rules.kernels`.

Memory: at most 25 bytes a byte of the longest text, of which lines of prose touch about 6; and 56
bytes a word of the text of most words, up to 230 MB, if n-grams are counted.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.arrow_text import TextView, checked_view
from penstock.errors import InputError, RecipeError
from penstock.rules.characters import SPACE, SYMBOL, UNICODE, classes
from penstock.rules.kernels.c4_lines import C4Limits, phrases
from penstock.rules.kernels.repetition import MOST_WORDS, RepetitionScratch
from penstock.rules.kernels.spans import Utf8
from penstock.rules.kernels.texts import (
    COUNTS,
    REPETITION,
    CountLimits,
    Tables,
    TextScratch,
    count_repetitions,
    count_texts,
)
from penstock.rules.kernels.words import StopWords

__all__ = ["FIELDS", "GOPHER_STOP_WORDS", "VERSION", "Counting", "count_statistics", "schema"]

VERSION = 1
"""Raised whenever the same text would get other counts."""

GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Rae et al. 2021, A.1.1."""

_GOPHER = "Rae et al. 2021 (Gopher), A.1.1"
_REPEATED = f"{_GOPHER}, table A1"
_C4 = "Raffel et al. 2020 (C4), 2.2"
_FINEWEB = "Penedo et al. 2024 (FineWeb), 3.6"

LONGEST = 2**29
"""Bytes of a text: the top 4-gram's characters may be seven times the text's, and fit 32 bits."""


@dataclass(frozen=True, slots=True)
class Field:
    """One count: its unit, its definition, and the paper whose rule uses it."""

    unit: str
    definition: str
    source: str = ""


FIELDS: Mapping[str, Field] = {
    "characters": Field("characters", "Code points of the text", _GOPHER),
    "letters": Field("characters", "Code points that are letters (`str.isalpha`)"),
    "unspaced_letters": Field("characters", "Letters of scripts without spaces between words"),
    "words": Field("words", "Words: symbols around a piece without spaces, and cores", _GOPHER),
    "cores": Field("words", "Words that are not one symbol", _GOPHER),
    "core_characters": Field("characters", "Characters of cores", _GOPHER),
    "lettered_words": Field("words", "Words with at least one letter", _GOPHER),
    "stop_words": Field("words", "Different stop words that occur as a word", _GOPHER),
    "hashes": Field("characters", "`#`", _GOPHER),
    "ellipses": Field("occurrences", "`...` (without overlap) and `…`", _GOPHER),
    "newlines": Field("characters", r"`\n`", _FINEWEB),
    "lines": Field("lines", "Lines of `str.splitlines`", _GOPHER),
    "bullet_lines": Field("lines", "Of these, lines that begin with `•` or `-`", _GOPHER),
    "ellipsis_lines": Field("lines", "Of these, lines that end in `...` or `…`", _GOPHER),
    "c4_lines": Field("lines", "Of these, lines that C4 keeps", _C4),
    "c4_sentences": Field("sentences", "Sentences in lines that C4 keeps", _C4),
    "c4_lorem_ipsum_lines": Field("lines", "Lines with `lorem ipsum`", _C4),
    "c4_curly_bracket_lines": Field("lines", "Lines with `{`", _C4),
    "gopher_lines": Field("lines", r"Lines divided at runs of `\n`", _REPEATED),
    "duplicate_gopher_lines": Field("lines", "Of these, lines that occurred before", _REPEATED),
    "duplicate_gopher_line_characters": Field("characters", "In these duplicates", _REPEATED),
    "filled_lines": Field("lines", r"Lines divided at `\n`, not only white space", _FINEWEB),
    "terminal_lines": Field("lines", "Of these, lines that end in a terminal character", _FINEWEB),
    "short_lines": Field("lines", "Of these, lines of at most `short_line` characters", _FINEWEB),
    "duplicate_filled_lines": Field("lines", "Of these, lines that occurred before", _FINEWEB),
    "duplicate_filled_line_characters": Field("characters", "In these duplicates", _FINEWEB),
    "paragraphs": Field("paragraphs", r"The stripped text divided at `\n\n` or more", _REPEATED),
    "duplicate_paragraphs": Field("paragraphs", "Paragraphs that occurred before", _REPEATED),
    "duplicate_paragraph_characters": Field("characters", "In these duplicates", _REPEATED),
    **{
        f"top_{n}_gram_characters": Field(
            "characters",
            f"Of the most frequent {n}-gram, with spaces, times occurrences",
            _REPEATED,
        )
        for n in (2, 3, 4)
    },
    **{
        f"duplicate_{n}_gram_characters": Field(
            "characters", f"In {n}-grams that occurred before, without overlap or spaces", _REPEATED
        )
        for n in range(5, 11)
    },
}
"""Each count of a statistics column, in its order."""


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Parameters that are part of a count's definition; a change of one reads all text again.

    Raises:
        RecipeError: A stop word is not one word, or there are more than 64.
    """

    stop_words: tuple[str, ...] = GOPHER_STOP_WORDS
    """Words of ``stop_words``, at most 64; case matters."""
    short_line: int = 30
    """Characters of a short line."""
    c4_min_words: int = 3
    """Words of a line that C4 keeps, at least."""
    c4_longest_word: int = 1000
    """Characters of a word of a line that C4 keeps, at most."""
    ngrams: bool = True
    """Whether repeated n-grams are counted, which takes most of the time."""

    def __post_init__(self) -> None:
        if len(self.stop_words) > 64:
            raise RecipeError(
                key="stop_words", expected="at most 64 words", got=len(self.stop_words)
            )
        for word in self.stop_words:
            kinds = classes()[[ord(letter) for letter in word]]
            inner = kinds.size and not (kinds & SPACE).any()
            if not inner or (kinds[[0, -1]] & SYMBOL).any():
                raise RecipeError(
                    key="stop_words",
                    expected="words without spaces, or symbols at either end",
                    got=repr(word),
                )

    def identity(self) -> dict[str, Any]:
        """Return what the counts depend on beside the text, for a fingerprint."""
        return {
            "version": VERSION,
            "unicode": UNICODE,
            "stop_words": list(self.stop_words),
            "short_line": self.short_line,
            "c4_min_words": self.c4_min_words,
            "c4_longest_word": self.c4_longest_word,
            "ngrams": self.ngrams,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the counts, in order."""
        return COUNTS + REPETITION if self.ngrams else COUNTS


def schema(counting: Counting) -> pa.Schema:
    """Return the schema of a statistics column: uint32 fields with unit, definition and source."""
    return pa.schema(
        [
            pa.field(
                name,
                pa.uint32(),
                nullable=False,
                metadata={
                    "unit": FIELDS[name].unit,
                    "definition": FIELDS[name].definition,
                    "source": FIELDS[name].source,
                },
            )
            for name in counting.names
        ]
    )


def count_statistics(texts: pa.Array, counting: Counting | None = None) -> pa.RecordBatch:
    """Count the statistics of texts.

    Args:
        texts: (n,) string or large_string, without nulls; may be a slice.
        counting: Parameters; the defaults are those of the papers.

    Returns:
        n rows of uint32, with :func:`schema`.

    Raises:
        InputError: A text is not UTF-8, null, or of more than 512 MiB.
    """
    counting = counting or Counting()
    view = _checked(texts)
    counts = np.empty((len(texts), len(COUNTS)), np.uint32)
    text, tables, seed = Utf8.of(view.data), _tables(counting.stop_words), _seed()
    limits = CountLimits(
        counting.short_line, C4Limits(counting.c4_min_words, counting.c4_longest_word)
    )
    scratch = TextScratch.of(view.longest)
    count_texts(text, view.offsets, tables, limits, seed, scratch, counts)
    columns = [*counts.T]
    if counting.ngrams:
        most = int(counts[:, COUNTS.index("words")].max(initial=0))
        words = RepetitionScratch.of(min(most, MOST_WORDS))
        repeated = np.empty((len(texts), len(REPETITION)), np.uint32)
        buffers = scratch.kinds, scratch.edges, words
        count_repetitions(text, view.offsets, tables.classes, seed, *buffers, repeated)
        columns += [*repeated.T]
    arrays = [pa.array(np.ascontiguousarray(column)) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema(counting))


def _checked(texts: pa.Array) -> TextView:
    view = checked_view(texts)
    if view.longest > LONGEST:
        raise InputError(expected=f"texts of at most {LONGEST:,} bytes", got=f"{view.longest:,}")
    return view


@cache
def _tables(stop_words: tuple[str, ...]) -> Tables:
    return Tables(classes(), StopWords.of(stop_words), phrases())


@cache
def _seed() -> np.uint64:
    """Draw the seed of this process's hash tables."""
    return np.uint64(secrets.randbits(64))
