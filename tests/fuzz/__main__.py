"""Run all targets: ``python -m tests.fuzz --seconds 120``; one input again: ``--replay FILE``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import models, readers, values
from tests.fuzz.child import Target, run_slice

__all__ = ["main"]

SLICE = 15.0
"""Most seconds of a target, in one process or several, before the next target."""


def main() -> None:
    """Fuzz until the time is over; the last line is a JSON object with cases and crashes."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", help="a name, or the beginning of names")
    parser.add_argument("--saved", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--replay", type=Path, help="a saved input, whose name begins as a target")
    arguments = parser.parse_args()
    targets = [*readers.TARGETS, *values.TARGETS, *models.TARGETS]
    if arguments.replay:
        _replay(targets, arguments.replay)
        return
    wanted = tuple(arguments.target or [""])
    chosen = [target for target in targets if target.name.startswith(wanted)]
    if not chosen:
        parser.error(f"no target begins so; there are {', '.join(one.name for one in targets)}")
    tally = {target.name: {"cases": 0, "found": 0} for target in chosen}
    end = time.monotonic() + arguments.seconds
    rounds = max(1, round(arguments.seconds / SLICE / len(chosen)))
    for number in range(rounds * len(chosen)):
        target = chosen[number % len(chosen)]
        own = tally[target.name]
        now = time.monotonic()
        until = now + max(1.0, (end - now) / (rounds * len(chosen) - number))
        while now < until:
            left = max(1.0, until - now)
            done = run_slice(target, arguments.seed, own["cases"], left, arguments.saved)
            own["cases"] += done["cases"]
            own["found"] += done["found"]
            now = time.monotonic()
    for name, own in tally.items():
        print(f"{name:24} {own['cases']:9,} cases {own['found']:6,} found")
    total = {key: sum(own[key] for own in tally.values()) for key in ("cases", "found")}
    print(json.dumps({**total, "seed": arguments.seed, "targets": tally}))
    sys.exit(1 if total["found"] else 0)


def _replay(targets: list[Target], path: Path) -> None:
    target = max(
        (one for one in targets if path.name.startswith(one.name)), key=lambda one: len(one.name)
    )
    with tempfile.TemporaryDirectory() as work:
        target.run(path.read_bytes(), Path(work))


if __name__ == "__main__":
    main()
