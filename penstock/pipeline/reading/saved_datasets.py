"""Recognise datasets that ``save_to_disk`` or the cache of ``load_dataset`` wrote, by their files.

Such a directory has Arrow files, and JSON files that describe them and are no data. Only the files
that ``state.json`` lists belong to it: a later ``map`` or ``filter`` puts ``cache-*.arrow`` beside
them. A ``DatasetDict`` is a directory of such directories, one for each split. In the cache all
splits are in one directory, as ``NAME-SPLIT.arrow`` or ``NAME-SPLIT-00000-of-00002.arrow``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Set
from typing import Any

from penstock.errors import InputError
from penstock.storage import AnyPath, read_file

__all__ = ["dataset_names", "saved_splits"]

_INDICES = ("_indices_files", "_indices_data_files")
"""Keys of versions of `datasets` before 2.0, whose rows are those of an index."""


def dataset_names(directory: AnyPath, names: Set[str], split: str) -> Set[str] | None:
    """Return the names that are read of a directory of a dataset; None where it is none.

    Args:
        directory: A directory.
        names: Those of its entries.
        split: The split that is read.

    Raises:
        InputError: It has no such split, or an index of its rows.
    """
    return (
        _saved_splits(directory, names, split)
        or _saved_files(directory, names)
        or _cached_files(directory, names, split)
    )


def _saved_files(directory: AnyPath, names: Set[str]) -> Set[str] | None:
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


def _cached_files(directory: AnyPath, names: Set[str], split: str) -> Set[str] | None:
    """Return the names of the files of a split in the cache of `datasets`; None of others.

    Raises:
        InputError: It has no such split.
    """
    if "dataset_info.json" not in names or not any(name.endswith(".arrow") for name in names):
        return None
    splits = _read(directory / "dataset_info.json").get("splits")
    if not isinstance(splits, dict):
        return None
    of_split = re.compile(rf".*-{re.escape(split)}(-\d+-of-\d+)?\.arrow").fullmatch
    found = {name for name in names if of_split(name)}
    if not found:
        raise _no_split(directory, splits, split)
    return found


def _saved_splits(directory: AnyPath, names: Set[str], split: str) -> Set[str] | None:
    """Return the name of the split that is read of a saved ``DatasetDict``; None of others.

    Raises:
        InputError: It has no such split.
    """
    splits = saved_splits(directory) if "dataset_dict.json" in names else None
    if splits is None:
        return None
    if split not in splits:
        raise _no_split(directory, splits, split)
    return {split}


def saved_splits(directory: AnyPath) -> list[str] | None:
    """Return the names of the splits of a saved ``DatasetDict``; None where they are not listed."""
    splits = _read(directory / "dataset_dict.json").get("splits")
    return [str(split) for split in splits] if isinstance(splits, list) else None


def _no_split(directory: AnyPath, splits: Iterable[object], split: str) -> InputError:
    return InputError(
        file=directory,
        expected=f"one of the splits {', '.join(sorted(map(str, splits)))}",
        got=repr(split),
        fix="set `split` beside `path`",
    )


def _read(path: AnyPath) -> dict[str, Any]:
    try:
        found = json.loads(read_file(path))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
