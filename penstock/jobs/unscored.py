"""Say why a document has no score, as far as the selector or its code tells it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.plugin_frames import describe_error

__all__ = ["ask_own_code", "document_of"]

_UNKNOWN = "your own code gave None, NaN or an infinite number"


def document_of(fate: Mapping[str, Any]) -> pa.RecordBatch:
    """Return the document of a fate as a batch of one, as scorers take it."""
    return pa.record_batch(
        {
            "id": [fate["id"]],
            "text": pa.array([fate["text"]], pa.large_string()),
            "source": [fate["source"]],
        }
    )


def ask_own_code(selector: Any, fate: Mapping[str, Any]) -> str:
    """Score one document again by a scorer of the user's own, and say what is no score of it.

    Args:
        selector: The scorer, with its fitted state; None where it may not be run, or sees vectors.
        fate: An entry as of :func:`penstock.jobs.why.fates_of`, with ``text``.
    """
    blank = "" if fate["text"].strip() else "its text is blank, and "
    if selector is None:
        return blank + _UNKNOWN
    try:
        value = float(np.asarray(selector.score(document_of(fate)), np.float64).reshape(-1)[0])
    except Exception as error:  # it is a user's code
        return f"{blank}{_UNKNOWN}; for this text alone it raised {describe_error(error)}"
    if math.isnan(value):
        return f"{blank}your own code gives None or NaN"
    if math.isinf(value):
        return f"{blank}your own code gives an infinite number, which counts as none"
    return f"{blank}{_UNKNOWN}; for this text alone it gives {value:.6g}"
