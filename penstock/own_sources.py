"""Sources of the user's own modules, read once, so that a column is named by the code that made it.

Python takes compiled code (``.pyc``) for current while size and time of the source, in whole
seconds, are the same: an edit within a second goes unseen. And a file that is read to name a
column may be newer than the module that was imported from it. Therefore a module that a directory
serves (:mod:`penstock.own_modules`) is compiled from bytes that are kept, and these bytes name the
column. Trade-off: no compiled code is used or written for them, some milliseconds in each worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from penstock.errors import SelectorError

__all__ = ["as_own", "forget_changed", "forget_namesakes", "source_at"]

_sources: dict[str, bytes] = {}
"""The source of each file, as it was when it was first read."""


class _OwnLoader(SourceFileLoader):
    """Compiles the kept source of a file."""

    def get_data(self, path: str | os.PathLike[str]) -> bytes:
        return _kept(os.fspath(path))

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def as_own(spec: ModuleSpec) -> ModuleSpec:
    """Have a module compiled from a source that is kept; other than Python files stay as they are.

    Args:
        spec: How the module is found; its loader is replaced.
    """
    if type(spec.loader) is SourceFileLoader:
        spec.loader = _OwnLoader(spec.loader.name, spec.loader.path)
    return spec


def source_at(path: str, module: ModuleType | None = None) -> bytes:
    """Return the source of a file, as it was when it was first read.

    Args:
        path: An absolute path.
        module: The module, where it is imported already.

    Raises:
        SelectorError: Python imported the module by itself, and its file has changed since then.
        OSError: The file cannot be read.
    """
    kept = _kept(path)
    if module is not None and not _is_own(module) and _read(path) != kept:
        raise SelectorError(
            "was edited after this process had imported it",
            key="use",
            file=path,
            fix="start Python, or the notebook's kernel, again",
        )
    return kept


def forget_changed(directory: Path) -> bool:
    """Forget the modules below a directory, and their sources, if a file there has changed.

    Returns:
        Whether that was so: the modules are imported again when they are needed.
    """
    below = f"{directory}{os.sep}"
    paths = [path for path in _sources if path.startswith(below)]
    if all(_is_unchanged(path) for path in paths):
        return False
    for path in paths:
        del _sources[path]
    for name in list(_own_modules(below)):
        del sys.modules[name]
    return True


def forget_namesakes(directory: Path) -> set[str]:
    """Forget modules of other directories that have the names of modules in this one.

    As of two recipes in one process, each with a ``helper.py`` beside it.

    Returns:
        The top-level names of those that were imported.
    """
    names = set()
    for name in _own_modules(os.sep):
        top = name.partition(".")[0]
        file, package = directory / f"{top}.py", directory / top
        path = Path(str(sys.modules[name].__file__))
        ours = path == file or path.is_relative_to(package)
        if not ours and (file.is_file() or package.is_dir()):
            names.add(name)
    for name in names:
        del sys.modules[name]
    return {name.partition(".")[0] for name in names}


def _own_modules(below: str) -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        if _is_own(module) and str(getattr(module, "__file__", "")).startswith(below):
            yield name


def _is_own(module: ModuleType) -> bool:
    return isinstance(getattr(module, "__loader__", None), _OwnLoader)


def _kept(path: str) -> bytes:
    if path not in _sources:
        _sources[path] = _read(path)
    return _sources[path]


def _is_unchanged(path: str) -> bool:
    try:
        return _read(path) == _sources[path]
    except OSError:
        return False


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
