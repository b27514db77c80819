"""The files that a Hugging Face dataset names: all of them lie below its own directory.

The header of a ``README.md`` names data files by patterns, and `datasets` follows them anywhere: to
``/home``, through ``..``, to other machines by an address, through links. So do the lists of a
dataset that ``save_to_disk`` wrote. A dataset from elsewhere would put the user's own files into
the corpus. Patterns are checked before `datasets` resolves them, and what they match afterwards.

A snapshot in the hub's cache consists of links to the blobs of the same repository, which are its
own files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from penstock.errors import InputError, RecipeError
from penstock.opening import check_links, open_plain
from penstock.pipeline.reading.dataset_types import check_declared
from penstock.recipe_yaml import MOST_BYTES, read_yaml

__all__ = ["check_matched", "check_named", "check_saved", "saved_files"]

_HEADER = re.compile(r"\A\s*---(?:\r\n|\r|\n)(.*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)", re.DOTALL)
"""The header of a README, as `datasets` finds it: YAML between two lines of hyphens."""

_KEYS = ("data_files", "data_dir")

_DECLARING = ("configs", "dataset_info")
"""Keys of a header in which `datasets` looks for types."""

_FIX = "name those files in `corpus` by a path of their own, if they are yours"

_MOST = 2**24
"""Bytes that are read of a file which names others."""


def check_named(directory: Path) -> None:
    """Check the patterns and types in the descriptions of a dataset, before anything is looked for.

    Raises:
        InputError: A pattern leads out of the directory, a type is no plain one, or the header
            claims more than a recipe may (:mod:`penstock.recipe_yaml`): `datasets` parses it
            without limits.
    """
    for name in ("README.md", ".huggingface.yaml"):
        path = directory / name
        text = _read(path).decode("utf-8", "replace")
        header = _HEADER.match(text)
        if name == "README.md":
            text = header[1] if header else ""
        if len(text) > MOST_BYTES:
            raise InputError(
                f"YAML of more than {MOST_BYTES:,} characters", file=path, fix="shorten it"
            )
        try:
            found = read_yaml(text, path, once=False)
        except RecipeError as error:
            raise InputError(error.problem, file=error.file, fix="correct or shorten it") from None
        for pattern in _patterns(found):
            if _leads_out(pattern):
                raise _outside(path, pattern)
        if isinstance(found, dict):
            check_declared({key: found.get(key) for key in _DECLARING}, path, yaml=True)
    infos = directory / "dataset_infos.json"
    check_declared(_json(infos), infos)


def check_saved(directory: Path) -> None:
    """Check the types, files and splits of a dataset that ``save_to_disk`` wrote.

    Raises:
        InputError: A file, or what it links to, is outside of the directory, or a type is no plain
            one.
    """
    for split in _saved_splits(directory):
        if _leads_out(split):
            raise _outside(directory / "dataset_dict.json", split)
        info = directory / split / "dataset_info.json"
        check_declared(_json(info), info)
        state = directory / split / "state.json"
        for name in _listed(state):
            if _leads_out(name):
                raise _outside(state, name)
            check_matched(directory, [str(directory / split / name)])


def saved_files(directory: Path) -> list[Path]:
    """Return the data files of a dataset that ``save_to_disk`` wrote, by its lists."""
    return [
        directory / split / name
        for split in _saved_splits(directory)
        for name in _listed(directory / split / "state.json")
    ]


def _saved_splits(directory: Path) -> list[str]:
    splits = _json(directory / "dataset_dict.json").get("splits")
    return [str(name) for name in splits] if isinstance(splits, list) else [""]


def _listed(state: Path) -> list[str]:
    listed = _json(state).get("_data_files")
    files = listed if isinstance(listed, list) else ()
    return [str(file.get("filename")) if isinstance(file, dict) else "" for file in files]


def check_matched(directory: Path, files: Iterable[str]) -> None:
    """Check files that were found of a dataset's directory, with all links resolved.

    Args:
        directory: The dataset's.
        files: Their paths; in an archive as ``zip://NAME::PATH``.

    Raises:
        InputError: One of them is outside of the directory, or reached by a link of another user.
    """
    roots = [directory.resolve()]
    if directory.parent.name == "snapshots":  # of the hub's cache, as links to its blobs
        roots.append((directory.parent.parent / "blobs").resolve())
    for file in files:
        path = Path(file.rpartition("::")[2])
        real = path.resolve()
        if not path.is_absolute() or not any(real.is_relative_to(root) for root in roots):
            raise _outside(path, str(real))
        check_links(path)


def _leads_out(pattern: str) -> bool:
    return (
        "://" in pattern
        or "::" in pattern
        or pattern.startswith(("/", "\\", "~"))
        or ".." in re.split(r"[/\\]", pattern)
    )


def _outside(file: Path, named: str) -> InputError:
    return InputError(
        "leads out of the dataset's directory",
        file=file,
        expected="files below it",
        got=repr(named),
        fix=_FIX,
    )


def _patterns(value: Any) -> Iterator[str]:
    """Yield the texts below the keys that name files; YAML's aliases may repeat values."""
    left, seen = [(value, False)], set()
    while left:
        one, inside = left.pop()
        if isinstance(one, str):
            if inside:
                yield one
        elif isinstance(one, (dict, list)) and (id(one), inside) not in seen:
            seen.add((id(one), inside))
            pairs = one.items() if isinstance(one, dict) else ((None, own) for own in one)
            left += [(own, inside or key in _KEYS) for key, own in pairs]


def _read(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with open_plain(path) as source:
        found = source.read(_MOST + 1)
    if len(found) > _MOST:
        raise InputError(f"more than {_MOST:,} bytes", file=path, fix="shorten it")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
