"""Kills by seed: where a process of a run dies, and what was struck in the end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STAGES = ("root", "corpus", "model", "columns", "tokenizer", "tokens", "cut", "shards")
"""In the order in which a run comes to them; ``root`` is what belongs to no artefact."""


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class AnyPath:
    """A call at which a process can die."""

    role: str
    """``driver``, or ``worker``; a driver with one worker does the work itself."""
    stage: str
    what: str
    """``data``, ``record``, ``manifest``, ``scratch``; of the root ``lease`` and ``memory``."""
    kind: str
    """``write``, ``sync``, ``rename``, ``link`` or ``remove``."""
    when: str
    """``before``, ``half`` (of the bytes of a write) or ``after``."""

    def __str__(self) -> str:
        return f"{self.role}, {self.stage}: {self.when} {self.kind} of {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """A process kills itself at the ``nth`` call of a kind."""

    place: AnyPath
    nth: int

    def __str__(self) -> str:
        return f"{self.place} {self.nth}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Somebody kills the driver or one of its workers."""

    role: str
    share: float
    """Of the time that an undisturbed run takes."""
    pick: int

    def __str__(self) -> str:
        return f"{self.role}, {self.share:.0%} of the way"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How victims are run."""

    runner: str
    workers: int

    @property
    def arguments(self) -> list[str]:
        return ["--runner", self.runner, "--workers", str(self.workers)]


ALONE = Way(runner="local", workers=1)
POOL = Way(runner="local", workers=2)
RAY = Way(runner="ray", workers=2)


def way_of(seed: int) -> Way:
    """Mostly one process, which is quick; every third a pool, a few on Ray."""
    if seed % 40 == 38:
        return RAY
    return POOL if seed % 3 == 2 else ALONE


def attempts_of(seed: int, census: Mapping[AnyPath, int]) -> list[list[Inside] | Outside]:
    """What befalls one run after another: kills at places that an undisturbed run passes.

    A driver dies once a run, in up to three runs; workers die up to three times in one run.
    """
    chance = random.Random(seed)
    way = way_of(seed)
    number = chance.choices([1, 2, 3], [3, 4, 3])[0]
    if seed % 7 == 6:
        role = "worker" if way == POOL else "driver"
        shares = [chance.random() / (later + 1) for later in range(number)]
        return [Outside(role=role, share=share, pick=chance.randrange(100)) for share in shares]
    role = "driver" if way == ALONE else chance.choice(["driver", "worker", "worker"])
    kills: list[Inside] = []
    first = 0
    for _ in range(number):
        there = {place.stage for place in census if place.role == role}
        stage = chance.choice([stage for stage in STAGES[first:] if stage in there])
        calls = sorted({(p.what, p.kind) for p in census if (p.role, p.stage) == (role, stage)})
        what, kind = chance.choice(calls)
        whens = ["before", "half", "after"] if kind == "write" else ["before", "after"]
        place = AnyPath(role=role, stage=stage, what=what, kind=kind, when=chance.choice(whens))
        kills.append(Inside(place=place, nth=chance.randint(1, census[place])))
        first = STAGES.index(stage)  # what is before it is done by then
    return [kills] if role == "worker" else [[kill] for kill in kills]


def table(struck: Sequence[Mapping[str, Any]]) -> str:
    """Kind of place by stage, how many kills each."""
    counts: Counter[tuple[str, str]] = Counter()
    whens = Counter(item.get("when", "at any time") for item in struck)
    for item in struck:
        where = item["kind"] if item["kind"] == "outside" else f"{item['what']} {item['kind']}"
        counts[f"{item['role']:6} {where}", item["stage"]] += 1
    stages = [*STAGES, "any"]
    lines = [f"{'':24}" + "".join(f"{stage:>10}" for stage in stages) + f"{'sum':>6}"]
    for row in sorted({row for row, _ in counts}):
        cells = [counts[row, stage] for stage in stages]
        shown = "".join(f"{cell or '.':>10}" for cell in cells)
        lines.append(f"{row:24}{shown}{sum(cells):>6}")
    lines.append(", ".join(f"{when} {count}" for when, count in sorted(whens.items())))
    return "\n".join(lines)
