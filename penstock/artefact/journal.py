"""The journal of a work directory: which recipe used which artefacts, and when.

``journal/`` has one small JSON file for each path of a recipe, and one for each of its runs with
other ``--set``. It is for people and the listings of commands: no fingerprint depends on it, and
without it everything works. So an error in writing it ends no work. ``rm --unused`` keeps what it
names of runs with ``--set``, which the recipe's file does not tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from penstock.display import encodable
from penstock.errors import PenstockError
from penstock.storage import (
    AnyPath,
    atomic_file,
    children_of,
    kind_of,
    make_own_directory,
    read_file,
)

__all__ = ["JournalEntry", "named", "read_journal", "write_journal"]

DIRECTORY = "journal"

_MOST = 5000
"""Artefacts of a recipe that are kept in its file, the last used ones."""

_LARGEST = 2**21
"""Bytes of a file that is read."""

_run: ContextVar[tuple[str, tuple[str, ...]] | None] = ContextVar("penstock_run", default=None)
"""The recipe of the work, and the ``--set`` that it was read with."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The use of one artefact by one recipe."""

    artefact: str
    """``stage/`` and the first 16 digits of the fingerprint."""
    recipe: str
    """The path of the recipe's file."""
    first: str
    last: str
    """When it was first and last used, as ``2026-01-31 12:00:00.000000`` UTC."""
    settings: tuple[str, ...] = ()
    """The ``--set`` of the run."""


@contextlib.contextmanager
def named(recipe: str | None, settings: Sequence[str] = ()) -> Iterator[None]:
    """Name the recipe of the work in this context; None keeps the name that it has.

    Args:
        recipe: The path of the recipe's file.
        settings: ``key.path=value`` overrides that it was read with.
    """
    run = None if recipe is None else (encodable(recipe), tuple(map(encodable, settings)))
    token = None if run is None else _run.set(run)
    try:
        yield
    finally:
        if token is not None:
            _run.reset(token)


def write_journal(root: AnyPath, artefacts: Collection[str]) -> None:
    """Write that the recipe of this context used these artefacts; errors are not raised.

    Args:
        root: The work directory.
        artefacts: As :attr:`JournalEntry.artefact`.
    """
    run = _run.get()
    if run is None or not artefacts:
        return
    recipe, settings = run
    identity = json.dumps([recipe, *settings]) if settings else recipe
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
    name = f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(PenstockError, OSError):
        if kind_of(root) is None:
            return
        before = _uses(root / DIRECTORY / name).get("artefacts", {})
        used = {one: [before[one][0] if one in before else now, now] for one in sorted(artefacts)}
        others = sorted(before.keys() - used.keys(), key=lambda one: before[one][1], reverse=True)
        kept = used | {one: before[one] for one in others[: max(0, _MOST - len(used))]}
        make_own_directory(root, root / DIRECTORY)
        with atomic_file(root / DIRECTORY / name, durable=False) as sink:
            content = {"recipe": recipe, "settings": settings, "artefacts": kept}
            sink.write(json.dumps(content, indent=0).encode())


def read_journal(root: AnyPath) -> list[JournalEntry]:
    """Read the journal of a work directory; files that are not of a journal are passed over.

    Args:
        root: The work directory.

    Returns:
        Entries by artefact, the last used first.
    """
    found: list[JournalEntry] = []
    with contextlib.suppress(PenstockError, OSError):
        for child in children_of(root / DIRECTORY):
            own = _uses(root / DIRECTORY / child.name) if child.name.endswith(".json") else {}
            for artefact, (first, last) in own.get("artefacts", {}).items():
                settings = tuple(own.get("settings", ()))
                found.append(JournalEntry(artefact, own["recipe"], first, last, settings))
    newest_first = sorted(found, key=lambda one: one.last, reverse=True)
    return sorted(newest_first, key=lambda one: one.artefact)


def _uses(path: AnyPath) -> dict[str, Any]:
    """Read a file of the journal; empty where it is none, since anyone may have written it."""
    with contextlib.suppress(PenstockError, OSError, ValueError, RecursionError):
        content = read_file(path)
        value = json.loads(content) if len(content) <= _LARGEST else None
        if (
            isinstance(value, dict)
            and isinstance(value.get("recipe"), str)
            and isinstance(given := value.get("settings", []), list)
            and all(isinstance(one, str) for one in given)
            and isinstance(own := value.get("artefacts"), dict)
            and all(_is_pair(pair) for pair in own.values())
        ):
            return value
    return {}


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)
    )
