"""Warn of a column whose scores are nearly all equal: a hash of the ids decides among equal ones.

A selector that gives one score to most documents looks like a selection and is a draw at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from penstock.artefact import Artefact
from penstock.pipeline.grouped import read_scores

__all__ = ["MOST", "constant_columns", "describe_constant"]

MOST = 0.9
"""The share of equal scores from which on a column is nearly constant."""

_UNITS = 16
"""Units that are looked at, spread over the pool: all of a large pool would take minutes."""


def constant_columns(columns: Mapping[str, Artefact]) -> Iterator[str]:
    """Yield a line for each column of which nearly all scores are equal, in some units.

    A column is left after the first unit of which half of the scores are not.
    """
    for name, column in columns.items():
        files = [record for record in column.files if record.facts["documents"]]
        equal = total = 0
        common: float | None = None
        for record in files[:: max(1, len(files) // _UNITS)]:
            scores = read_scores(column.path, record)
            scores = scores[~np.isnan(scores)]
            if not len(scores):
                continue
            common = float(np.partition(scores, len(scores) // 2)[len(scores) // 2])
            own = int((scores == np.float32(common)).sum())
            equal, total = equal + own, total + len(scores)
            if own < len(scores) / 2:
                break
        else:
            if common is not None and total > 1 and equal > MOST * total:
                yield f"select.{name}: {describe_constant(equal / total, common)}"


def describe_constant(share: float, score: float) -> str:
    """Describe that a share of the scores are equal."""
    return (
        f"{share:.0%} of the scores are {score:.6g}: among equal scores a hash of the id decides, "
        "which is a draw at random"
    )
