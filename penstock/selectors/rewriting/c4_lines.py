"""C4's lines: removes the lines that C4 removes before it judges a document, without a model."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveInt

from penstock.rules import Counting, count_statistics
from penstock.selectors.parameters import Algorithm

__all__ = ["C4Lines"]

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


class C4Lines(
    Algorithm,
    name="c4_lines",
    summary="removes the lines that C4 removes, and citations; by: none",
    paper="Raffel et al. 2020, arXiv:1910.10683, section 2.2",
    version=1,
):
    """Keeps the lines of prose: those that end as a sentence does and are no boilerplate.

    The set of rules ``c4`` judges a document by the lines that it would keep, and changes no text.
    This rewriter leaves those lines, stripped and without citations such as ``[12]``, one a line;
    :mod:`penstock.rules.kernels.c4_lines` has the definitions. It needs no model: ``by: none``. A
    document without such a line is dropped.
    """

    replaces: ClassVar[bool] = True

    min_words: PositiveInt = Field(default=3, description="Words of a line, at least.")
    longest_word: PositiveInt = Field(
        default=1000, description="Characters of a word of a line, at most."
    )

    def edit(self, texts: pa.Array) -> pa.Array:
        """Keep the lines of each text: (n,) large_string to (n,) large_string, null of no line."""
        if not len(texts):
            return pa.array([], pa.large_string())
        lines = [text.splitlines() for text in texts.to_pylist()]
        counting = Counting(
            c4_min_words=self.min_words, c4_longest_word=self.longest_word, ngrams=False
        )
        flat = pa.array([line for own in lines for line in own], pa.large_string())
        keeps = count_statistics(flat, counting).column("c4_lines").to_numpy() > 0
        ends = np.cumsum([len(own) for own in lines])
        kept = [
            [
                _CITATION.sub("", line.strip()) if "[" in line else line.strip()
                for line, keep in zip(own, flags.tolist(), strict=True)
                if keep
            ]
            for own, flags in zip(lines, np.split(keeps, ends[:-1]), strict=True)
        ]
        return pa.array(["\n".join(own) or None for own in kept], pa.large_string())
