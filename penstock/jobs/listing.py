"""List the artefacts of a work directory or a recipe: finished or not, and whether files miss.

Files are compared by name and size in one listing and none is read, so this is cheap in a store
too. Checksums are compared when a file is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Entry, Workspace
from penstock.artefact.journal import JournalEntry, read_journal
from penstock.errors import ArtefactError, InputError, StorageError
from penstock.lease import Lease
from penstock.recipe_file import load_recipe
from penstock.storage import AnyPath, as_path, kind_of, sizes_under

__all__ = ["list_artefacts", "name_of", "work_root"]


_REPORT = "report"

_EXPECTED = "a recipe's work directory, or the recipe (*.yaml)"

_RECIPES = (".yaml", ".yml")


def list_artefacts(work: str) -> list[dict[str, Any]]:
    """List the artefacts of a work directory, as ``penstock ls --json`` prints them.

    Of the file of a recipe, list what this recipe used in its work directory, by the journal.

    Each has a ``name``, as ``select.betr`` for the column of a selector; ``recipes``, the files of
    the recipes that used it, and ``last_used`` (UTC), both from the journal; and a ``state``:
    ``finished``; ``unfinished``, also if it has no file yet, with the ``fix``, how to finish or
    remove it; or ``damaged``, with the ``fault``. Reports and comparisons, which are no artefacts,
    come last: ``report``, with the name of their cut.

    Raises:
        InputError: This is neither a work directory nor the file of a recipe that made something.
        RecipeError: The recipe is not valid.
    """
    recipe = Path(work)
    if recipe.suffix.lower() in _RECIPES and recipe.is_file():
        return _of_recipe(recipe)
    return _all_below(work_root(work))


def _of_recipe(recipe: Path) -> list[dict[str, Any]]:
    """Return the rows of what a recipe used, by the journal of its work directory."""
    root = load_recipe(recipe).work_directory
    rows: list[dict[str, Any]] = []
    if there := kind_of(root) == "directory":
        own = os.path.abspath(recipe)
        rows = [row for row in _all_below(root) if own in row["recipes"]]
    if not rows:
        more = f", or `penstock ls {root}` for all of its work directory" if there else ""
        raise InputError(
            "no artefact of this recipe is known",
            file=recipe,
            fix=f"run `penstock curate {recipe}` first{more}",
        )
    return rows


def _all_below(root: AnyPath) -> list[dict[str, Any]]:
    driver = Lease(root).driver()
    uses: dict[str, list[JournalEntry]] = {}
    for use in read_journal(root):
        uses.setdefault(use.artefact, []).append(use)
    rows = []
    for entry in Workspace(root).entries():
        own = uses.get(f"{entry.stage}/{entry.path.name}", [])
        row = _row(entry, driver)
        row["recipes"] = list(dict.fromkeys(use.recipe for use in own))
        row["last_used"] = own[0].last if own else None
        rows.append(row)
    rows += _reports(root, uses)
    if not rows:
        raise InputError("holds no artefacts", file=root, expected=_EXPECTED)
    return rows


def _reports(root: AnyPath, uses: Mapping[str, list[JournalEntry]]) -> list[dict[str, Any]]:
    """Return a row for each directory of a report or a comparison, which has its cut's name."""
    sizes: dict[str, list[int]] = {}
    if kind_of(root / _REPORT) == "directory":
        for path, size in sizes_under(root / _REPORT).items():
            name, _, file = path.partition("/")
            if file:
                sizes.setdefault(name, []).append(size)
    rows = []
    for name, own in sorted(sizes.items()):
        used = uses.get(f"cut/{name}", [])
        rows.append(
            {
                "stage": _REPORT,
                "fingerprint": name,
                "state": "finished",
                "name": _REPORT,
                "files": len(own),
                "bytes": sum(own),
                "path": str(root / _REPORT / name),
                "recipes": list(dict.fromkeys(use.recipe for use in used)),
                "last_used": used[0].last if used else None,
            }
        )
    return rows


def work_root(work: str) -> AnyPath:
    """Return the path of a work directory.

    Raises:
        InputError: There is no such directory.
    """
    try:
        root = as_path(work)
    except StorageError as error:
        raise InputError(str(error)) from None
    if kind_of(root) != "directory":
        raise InputError("no such directory", file=root, expected=_EXPECTED)
    return root


def name_of(artefact: Artefact) -> str:
    """Return what an artefact is in a recipe: ``select.betr`` for a column, else its stage."""
    stage, config = artefact.manifest["stage"], artefact.manifest["config"]
    if stage == "columns" and isinstance(config.get("selector"), str):
        return f"select.{config['selector']}"
    return str(stage)


def _row(entry: Entry, driver: str | None) -> dict[str, Any]:
    row = {
        "stage": entry.stage,
        "fingerprint": entry.path.name,
        "state": "unfinished",
        "name": entry.stage,
        "files": sum(not name.startswith("records/") for name in entry.sizes),
        "bytes": sum(entry.sizes.values()),
        "path": str(entry.path),
    }
    if not entry.finished:
        wait = "" if driver is None else f" when {driver} has ended: it may be at work on it"
        fix = f"run the command that began it again, or delete {entry.path}{wait}"
        return {**row, "fix": fix}
    try:
        artefact = Artefact.open(entry.path)
    except ArtefactError as error:
        return {**row, "state": "damaged", "fault": str(error)}
    row |= {
        "stage": artefact.manifest["stage"],
        "fingerprint": artefact.fingerprint,
        "state": "finished",
        "name": name_of(artefact),
        "files": len(artefact.files),
        "bytes": sum(entry.sizes.values()),
    }
    if damaged := artefact.damaged(entry.sizes):
        row["state"] = "damaged"
        row["fault"] = (
            f"{entry.path}: {len(damaged):,} of {len(artefact.files):,} files are missing or of "
            f"another size, {damaged[0].path} first; delete it and run again to make it anew"
        )
    return row
