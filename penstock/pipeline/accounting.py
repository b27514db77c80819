"""The accounting of an artefact: what went in is what came out, or nothing is published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.errors import ArtefactError

__all__ = ["Tally", "check_sum"]


def check_sum(place: str, whole: tuple[str, int], parts: Mapping[str, int]) -> None:
    """Refuse counts that do not add up.

    Args:
        place: What was counted, for the message.
        whole: Its name and count.
        parts: Names and counts of what it was divided into.

    Raises:
        ArtefactError: The parts are not the whole.
    """
    name, count = whole
    if count != sum(parts.values()):
        listed = " + ".join(f"{number:,} {part}" for part, number in parts.items()) or "0"
        raise ArtefactError(
            f"{place}: {count:,} {name}, but {listed} = {sum(parts.values()):,}: documents were "
            "lost or counted twice, and nothing was published; run again, and report it if it "
            "comes back"
        )


@dataclass(slots=True)
class Tally:
    """What became of the records that were read."""

    read: int = 0
    added: int = 0
    """By rewriters."""
    kept: int = 0
    quarantined: int = 0
    dropped_by: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Tally:
        """From :meth:`facts`."""
        return cls(
            read=facts["read"],
            added=facts.get("added", 0),
            kept=facts["kept"],
            quarantined=facts["quarantined"],
            dropped_by=Counter(facts["dropped_by"]),
        )

    def add(self, other: Tally) -> None:
        """Count another's records too."""
        self.read += other.read
        self.added += other.added
        self.kept += other.kept
        self.quarantined += other.quarantined
        self.dropped_by.update(other.dropped_by)

    def check(self, place: str) -> None:
        """read + added = kept + dropped + quarantined; raises as :func:`check_sum`."""
        parts = {"kept": self.kept, "quarantined": self.quarantined}
        dropped = {f"dropped ({rule})": count for rule, count in self.dropped_by.items()}
        what = "records read and documents added" if self.added else "records read"
        check_sum(place, (what, self.read + self.added), {**parts, **dropped})

    def facts(self) -> dict[str, Any]:
        """For a manifest; ``added`` only where there are some."""
        return {
            "read": self.read,
            **({"added": self.added} if self.added else {}),
            "kept": self.kept,
            "dropped": self.dropped_by.total(),
            "dropped_by": dict(sorted(self.dropped_by.items())),
            "quarantined": self.quarantined,
        }
