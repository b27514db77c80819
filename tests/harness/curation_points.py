"""Name the points of ``penstock curate``; only the standard library is imported."""

from __future__ import annotations

import os
import re

from tests.harness.points import DIRECTORY, Points, read_plan

DRIVER = "PENSTOCK_TEST_DRIVER"
"""Environment variable: the driver's process id; every other process is a worker."""

_TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{32}\.tmp$")


def watch() -> None:
    """Count the calls of this process that change files of the work directory."""
    Points(os.environ[DIRECTORY], _point).watch_files()


def _point(kind: str, path: str, moment: str) -> dict[str, str] | None:
    plan = read_plan(os.environ[DIRECTORY])
    found = file_of(path, plan["work"]) if plan else None
    if found is None or kind in ("mkdir", "rmdir") or os.path.isdir(path):
        return None
    role = "driver" if os.environ.get(DRIVER) == str(os.getpid()) else "worker"
    return {"role": role, "stage": found[0], "what": found[1], "kind": kind, "when": moment}


def file_of(path: str, work: str) -> tuple[str, str] | None:
    """Return the stage and the kind of a file below the work directory; None outside it."""
    if not path.startswith(work + "/"):
        return None
    stage, *below = path[len(work) + 1 :].split("/")
    if not below or stage == "lease":
        return "root", "lease" if below else "memory"
    inside = below[1:]
    if not inside:
        return None
    temporary = _TEMPORARY.match(inside[-1])
    name = temporary[1] if temporary else inside[-1]
    if inside[0] == "records":
        return stage, "record"
    if inside[0] == "state":
        return stage, "data"
    if len(inside) > 1:
        return stage, "scratch"
    return stage, "manifest" if name == "manifest.json" else "data"
