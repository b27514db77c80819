"""A rewriter without a model: each text is replaced by another one.

::

    rewrite: {unwrapped: {use: "own_rewriter:Unwrap", by: none}}

One with a model has ``requests`` and ``assemble`` in place of ``edit``
(penstock/selectors/rewriting/base.py). ``edit`` is enough: the parameters are part of the name of
what it makes, and so is the code. ``version`` and ``identity`` are for what these do not show.
"""

from __future__ import annotations

import re

import pyarrow as pa


class Unwrap:
    """Joins lines that were broken at a width; a text of which nothing is left is dropped."""

    def __init__(self, *, width: int = 80) -> None:
        self.width = width

    def edit(self, texts: pa.Array) -> pa.Array:
        """Edit (n,) large_string to as many texts, each by itself."""
        return pa.array([self._unwrapped(text) for text in texts.to_pylist()], pa.large_string())

    def _unwrapped(self, text: str) -> str:
        return re.sub(rf"(?m)^(.{{1,{self.width}}})\n(?=\S)", r"\1 ", text)
