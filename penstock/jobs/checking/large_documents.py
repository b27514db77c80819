"""Find single documents that would fill a large part of a budget."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from penstock.display import numbered
from penstock.jobs.checking.estimates import Estimate
from penstock.jobs.checking.findings import Finding
from penstock.jobs.checking.sampling import InputSample

__all__ = ["find_large_documents"]

_MOST = 0.05
"""Share of a budget that one document may take without a warning: twenty such fill it."""


def find_large_documents(sample: InputSample, own: Estimate) -> list[Finding]:
    """Warn of documents of the sample that alone are more than a twentieth of the budget.

    Args:
        sample: Documents of the inputs.
        own: Its tokens of the budget and bytes per token; without either nothing is found.

    Returns:
        One finding, which names the largest document by its file and line; or none.
    """
    if not own.budget or not own.bytes_per_token:
        return []
    sizes = pc.binary_length(sample.documents["text"]).to_numpy()
    limit = int(_MOST * own.budget * own.bytes_per_token)
    large = np.flatnonzero(sizes > limit)
    if not len(large):
        return []
    row = int(sizes.argmax())
    file = sample.files[sample.documents["file"][row].as_py()]
    number = sample.documents["number"][row].as_py()
    place = file.input.name if file.whole and file.records == 1 else f"{file.input.name}:{number}"
    tokens = round(int(sizes[row]) / own.bytes_per_token)
    several = f"{numbered(len(large), 'document')} of the sample are"
    return [
        Finding(
            level="warning",
            kind="large_document",
            key="budget.tokens",
            text=f"budget.tokens: {several if len(large) > 1 else 'one document of the sample is'} "
            f"more than {_MOST:.0%} of the budget of {own.budget:,} tokens; the largest, {place}, "
            f"has about {tokens:,} tokens, {tokens / own.budget:.0%}: take a larger budget, divide "
            f'such documents, or leave them out: clean.where: "bytes < {limit}"',
        )
    ]
