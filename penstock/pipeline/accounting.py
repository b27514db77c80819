"""Accounting of an artefact: it is published only if all counts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.artefact import FileRecord
from penstock.errors import ArtefactError

__all__ = ["RecordTally", "check_sum", "sum_by_source"]


def check_sum(place: str, whole: tuple[str, int], parts: Mapping[str, int]) -> None:
    """Check that counts add up.

    Args:
        place: The artefact or unit that was counted, for the message.
        whole: Name and count of the whole.
        parts: Names and counts of the parts.

    Raises:
        ArtefactError: The parts are not the whole.
    """
    name, count = whole
    if count != sum(parts.values()):
        listed = " + ".join(f"{number:,} {part}" for part, number in parts.items()) or "0"
        raise ArtefactError(
            "documents were lost or counted twice, and nothing was published",
            file=place,
            expected=f"{count:,} {name}",
            got=f"{listed} = {sum(parts.values()):,}",
            fix="run again, and report it if it happens again",
        )


def sum_by_source(
    records: Iterable[FileRecord], before: Mapping[str, Mapping[str, int]] | None = None
) -> dict[str, dict[str, int]]:
    """Add up the counts that files have of each source, in the order of the sources' names.

    Args:
        records: Each has the counts of its file in its fact ``sources``.
        before: Counts to add to.
    """
    sums = {source: Counter(counts) for source, counts in (before or {}).items()}
    for record in records:
        for source, counts in record.facts["sources"].items():
            sums.setdefault(source, Counter()).update(counts)
    return {source: dict(counts) for source, counts in sorted(sums.items())}


@dataclass(slots=True)
class RecordTally:
    """Counts of the records that were read, by their fate."""

    read: int = 0
    added: int = 0
    """Documents that rewriters added."""
    kept: int = 0
    quarantined: int = 0
    dropped_by: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> RecordTally:
        """Read the counts from :meth:`facts`."""
        return cls(
            read=facts["read"],
            added=facts.get("added", 0),
            kept=facts["kept"],
            quarantined=facts["quarantined"],
            dropped_by=Counter(facts["dropped_by"]),
        )

    def add(self, other: RecordTally) -> None:
        """Add the counts of another tally."""
        self.read += other.read
        self.added += other.added
        self.kept += other.kept
        self.quarantined += other.quarantined
        self.dropped_by.update(other.dropped_by)

    def check(self, place: str) -> None:
        """Check that read + added = kept + dropped + quarantined; raises as :func:`check_sum`."""
        parts = {"kept": self.kept, "quarantined": self.quarantined}
        dropped = {f"dropped ({rule})": count for rule, count in self.dropped_by.items()}
        what = "records read and documents added" if self.added else "records read"
        check_sum(place, (what, self.read + self.added), {**parts, **dropped})

    def facts(self) -> dict[str, Any]:
        """Return the counts for a manifest; ``added`` only where it is not 0."""
        return {
            "read": self.read,
            **({"added": self.added} if self.added else {}),
            "kept": self.kept,
            "dropped": self.dropped_by.total(),
            "dropped_by": dict(sorted(self.dropped_by.items())),
            "quarantined": self.quarantined,
        }
