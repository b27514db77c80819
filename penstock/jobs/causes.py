"""The reason why one of two curated datasets takes a document and the other does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.jobs.sides import Side
from penstock.jobs.unit_fates import Fate
from penstock.pipeline.cleaning.settings import DUPLICATE, NEAR_DUPLICATE, OVERLAP

__all__ = ["CAUSES", "Outcome", "Same", "cause_of"]

CAUSES = {
    "input": "it is not among the inputs of the other",
    "quarantined": "its record cannot be read",
    "text": "its text was changed",
    "rule": "a rule that the other does not have",
    "threshold": "another threshold of a rule",
    "condition": "another condition (clean.where)",
    "duplicate": "it is a duplicate of a document that stays",
    "overlap": "it holds a copy of an evaluation example",
    "rewriter": "a rewriter left nothing of it",
    "score": "another score, or another ranking",
    "no score": "it has no score, so it may not be taken",
    "source": "another source",
    "share": "another share of its source",
    "draw": "another draw or seed",
    "budget": "another number of tokens",
    "tokenizer": "other settings of the tokenizer: texts have other numbers of tokens",
    "others": "equal score and budget; other documents, or the lengths of them, changed",
}
"""The reasons by their names in ``--json``, with what each means. The first that applies counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to a document on one side."""

    fate: Fate | None
    """None where the side's corpus does not hold it."""
    rule: str | None = None
    """The first rule that drops it."""
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Same:
    """Which facts of a document are equal on both sides."""

    text: bool
    source: bool
    scores: bool
    """In every column that both sides rank by."""


def cause_of(taker: Side, other: Side, outcome: Outcome, same: Same, source: str) -> str:
    """Return a name of :data:`CAUSES`: why ``other`` does not take what ``taker`` takes.

    Args:
        taker, other: The sides.
        outcome: The document's on ``other``; not taken.
        same: Facts of the document.
        source: Its source at ``other``, or at ``taker`` where the other does not hold it.
    """
    if outcome.fate is None:
        found = "quarantined" if outcome.quarantined else "input"
    elif not same.text:
        found = "text"
    elif outcome.fate is Fate.DROPPED:
        found = _dropped(taker, other, str(outcome.rule))
    elif outcome.fate is Fate.EXCLUDED:
        found = "no score"
    elif not same.source and any((taker.budget["shares"], other.budget["shares"])):
        found = "source"
    elif _share(taker, source) != _share(other, source):
        found = "share"
    elif taker.ranks != other.ranks or not same.scores:
        found = "score"
    else:
        found = _place(taker, other, source)
    return found


def _dropped(taker: Side, other: Side, rule: str) -> str:
    if rule in (DUPLICATE, NEAR_DUPLICATE):
        return "duplicate"
    if rule == OVERLAP:
        return "overlap"
    limits = taker.limit(rule), other.limit(rule)
    if limits[1] is None:
        return "rewriter"
    if rule.startswith("where"):
        return "condition"
    return "rule" if limits[0] is None or limits[0] == limits[1] else "threshold"


def _share(side: Side, source: str) -> Any:
    """Return the share of a document's source, None where it competes with all others."""
    shares = side.budget["shares"]
    return shares if isinstance(shares, str) else shares.get(source)


def _place(taker: Side, other: Side, source: str) -> str:
    """Return why a document of equal score is below the cut of one side alone."""
    configs = taker.cut.manifest["config"], other.cut.manifest["config"]
    if _draw(configs[0]) != _draw(configs[1]):
        return "draw"
    if _tokens(taker, source) > _tokens(other, source):
        return "budget"
    settings = [own.tokenizer.manifest["config"] for own in (taker, other)]
    return "others" if settings[0] == settings[1] else "tokenizer"


def _draw(config: Mapping[str, Any]) -> tuple[Any, Any]:
    return config["budget"]["draw"], config["seed"]


def _tokens(side: Side, source: str) -> int:
    """Return the tokens for which a document of a source competes."""
    *shares, rest = side.cut.facts["groups"]
    group = next((own for own in shares if own["source"] == source), rest)
    return int(group["tokens"])
