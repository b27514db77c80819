"""Recognise datasets that ``datasets.Dataset.save_to_disk`` wrote, by their files.

Such a directory has Arrow files, and JSON files that describe them and are no data. Only the files
that ``state.json`` lists belong to it: a later ``map`` or ``filter`` puts ``cache-*.arrow`` beside
them. A ``DatasetDict`` is a directory of such directories, one for each split.
"""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

from penstock.errors import InputError
from penstock.storage import AnyPath, read_file

__all__ = ["saved_files", "saved_splits"]

_INDICES = ("_indices_files", "_indices_data_files")
"""Keys of versions of `datasets` before 2.0, whose rows are those of an index."""


def saved_files(directory: AnyPath, names: Set[str]) -> Set[str] | None:
    """Return the names of the data files of a saved dataset; None where there is none.

    Args:
        directory: A directory.
        names: Those of its entries.

    Raises:
        InputError: Its rows are chosen by an index, which only `datasets` can follow.
    """
    if not names >= {"state.json", "dataset_info.json"}:
        return None
    state = _read(directory / "state.json")
    try:
        found = {str(file["filename"]) for file in state["_data_files"]}
    except (KeyError, TypeError):
        return None
    if any(state.get(key) for key in _INDICES):
        raise InputError(
            "a dataset saved with an index of its rows",
            file=directory,
            fix="write hf: before the path, or save it again with a newer `datasets`",
        )
    return found


def saved_splits(directory: AnyPath, names: Set[str], split: str) -> Set[str] | None:
    """Return the name of the split that is read of a saved ``DatasetDict``; None of others.

    Raises:
        InputError: It has no such split.
    """
    if "dataset_dict.json" not in names:
        return None
    described = _read(directory / "dataset_dict.json")
    splits = described.get("splits")
    if not isinstance(splits, list):
        return None
    if split not in splits:
        raise InputError(
            file=directory,
            expected=f"one of the splits {', '.join(sorted(map(str, splits)))}",
            got=repr(split),
            fix="set `split` beside `path`",
        )
    return {split}


def _read(path: AnyPath) -> dict[str, Any]:
    try:
        found = json.loads(read_file(path))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
