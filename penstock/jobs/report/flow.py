"""The way of the documents from those that were read to those that were taken, with each loss."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.jobs.curate import Curated
from penstock.pipeline.checking import check_sum

__all__ = ["DocumentFlow", "Loss", "document_flow"]

_RULES = 24
"""Rules that are named one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Documents that one step does not pass on."""

    name: str
    documents: int
    kind: str
    """``quarantined``, ``dropped`` by a rule, ``unscored`` or ``left`` by the cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFlow:
    """Counts that add up: read + added = all losses + taken."""

    read: int
    added: int
    """Documents that rewriters made."""
    losses: tuple[Loss, ...]
    """In the order of the stages; those of no document are left out."""
    taken: int

    @property
    def begun(self) -> int:
        """Documents read and added."""
        return self.read + self.added


def document_flow(curated: Curated, unscored: int) -> DocumentFlow:
    """Account for every document of a recipe.

    Args:
        curated: The artefacts.
        unscored: Kept documents without a score in a column that ranks.

    Raises:
        ArtefactError: The counts of the artefacts do not add up.
    """
    counts, taken = curated.pool.documents, int(curated.cut.facts["documents"])
    by_rule = sorted(counts["dropped_by"].items(), key=lambda own: -own[1])
    named, others = by_rule[:_RULES], by_rule[_RULES:]
    losses = [("quarantined: not readable", counts["quarantined"], "quarantined")]
    losses += [(name, count, "dropped") for name, count in named]
    losses += [(f"{len(others):,} other rules", sum(own for _, own in others), "dropped")]
    losses += [("no score: may not be taken", unscored, "unscored")]
    losses += [("left by the cut", counts["kept"] - taken - unscored, "left")]
    found = DocumentFlow(
        read=counts["read"],
        added=counts.get("added", 0),
        losses=tuple(
            Loss(name=name, documents=number, kind=kind) for name, number, kind in losses if number
        ),
        taken=taken,
    )
    parts = {f"{own.kind} ({own.name})": own.documents for own in found.losses}
    check_sum(str(curated.cut.path), ("read + added", found.begun), {**parts, "taken": taken})
    return found
