"""Kills of ``penstock curate`` by seed: where processes are killed, and a table of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STAGES = (
    *("root", "corpus", "statistics", "overlaps", "signatures", "components", "verdicts"),
    *("model", "columns", "tokenizer", "tokens", "cut", "shards"),
)
"""In the order of a run; ``root`` is for files that belong to no artefact."""


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Call:
    """A call at which a process can be killed."""

    role: str
    """``driver`` or ``worker``; with one worker the driver does all work."""
    stage: str
    what: str
    """``data``, ``record``, ``manifest``, ``scratch``; of the root ``lease`` and ``memory``."""
    kind: str
    """``write``, ``fsync``, ``rename``, ``replace``, ``link`` or ``unlink``."""
    when: str
    """``before``, ``half`` (of the bytes of a write) or ``after``."""

    def __str__(self) -> str:
        return f"{self.role}, {self.stage}: {self.when} {self.kind} of {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """A process kills itself at the ``nth`` of its calls."""

    call: Call
    nth: int

    def __str__(self) -> str:
        return f"{self.call} {self.nth}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The driver, or one of its workers, is killed by another process."""

    role: str
    share: float
    """Share of the time of an undisturbed run."""
    pick: int

    def __str__(self) -> str:
        return f"{self.role}, {self.share:.0%} of the way"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The runner of a run and its number of workers."""

    runner: str
    workers: int

    @property
    def arguments(self) -> list[str]:
        return ["--runner", self.runner, "--workers", str(self.workers)]


ALONE = Way(runner="local", workers=1)
POOL = Way(runner="local", workers=2)
RAY = Way(runner="ray", workers=2)


def way_of(seed: int) -> Way:
    """Return one process for most seeds, which is fast; for every third a pool, for a few Ray."""
    if seed % 40 == 38:
        return RAY
    return POOL if seed % 3 == 2 else ALONE


def attempts_of(seed: int, census: Mapping[Call, int]) -> list[list[Inside] | Outside]:
    """Return the kills of one run after another, at calls that an undisturbed run makes.

    A driver is killed once a run, in up to three runs; workers up to three times in one run.
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
        there = {call.stage for call in census if call.role == role}
        stage = chance.choice([stage for stage in STAGES[first:] if stage in there])
        calls = sorted({(c.what, c.kind) for c in census if (c.role, c.stage) == (role, stage)})
        what, kind = chance.choice(calls)
        whens = ["before", "half", "after"] if kind == "write" else ["before", "after"]
        made = [Call(role=role, stage=stage, what=what, kind=kind, when=when) for when in whens]
        call = chance.choice([call for call in made if census[call]])  # an empty file has no half
        kills.append(Inside(call=call, nth=chance.randint(1, census[call])))
        first = STAGES.index(stage)  # earlier stages are finished by then
    return [kills] if role == "worker" else [[kill] for kill in kills]


def table(struck: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of kills: kind of call by stage."""
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
