"""A class with a fit: what is learnt from the pool is saved as data, and loaded by each worker.

::

    select: {unusual: {use: "own_class:Unusual", words: 5000}}
    budget: {tokens: 500_000, rank: unusual}
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock import PlainScorer


class Unusual(PlainScorer):
    """Scores documents by how rare their words are in the pool: mean surprise in nats."""

    def __init__(self, *, words: int = 10_000) -> None:
        self.words = words
        self.surprise: dict[str, float] = {}
        self.unknown = 0.0

    def fit(self, fitting: Any) -> Mapping[str, Any]:
        """Count the words of 2,000 documents, which are drawn by hash of id."""
        counts: Counter[str] = Counter()
        for text in fitting.sample(2_000)["text"].to_pylist():
            counts.update(text.lower().split())
        whole = counts.total() + 1
        # Ties are in alphabetical order, never in that of the inputs.
        most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: self.words]
        self.surprise = {word: math.log(whole / count) for word, count in most}
        self.unknown = math.log(whole)
        return {"words": len(self.surprise)}  # for the report

    def save(self, directory: Path) -> None:
        state = {"surprise": self.surprise, "unknown": self.unknown}
        (directory / "surprise.json").write_text(json.dumps(state))

    def load(self, directory: Path) -> None:
        state = json.loads((directory / "surprise.json").read_text())
        self.surprise, self.unknown = state["surprise"], state["unknown"]

    def score(self, documents: Any) -> list[float]:
        scores = []
        for text in documents["text"].to_pylist():
            words = text.lower().split()
            whole = math.fsum(self.surprise.get(word, self.unknown) for word in words)
            scores.append(whole / len(words) if words else math.nan)  # NaN is never taken
        return scores
