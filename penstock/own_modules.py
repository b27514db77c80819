"""Modules of the user's own beside a recipe, imported without their directory in ``sys.path``.

A directory in ``sys.path`` serves whatever is asked for. Libraries try to import optional modules
that are not installed, so that a ``colorama.py`` which another user left in the current directory
would be run. Therefore a directory serves the module that a recipe names, and to that module and
its own neighbours those that lie beside it, behind all that is installed and Python's own library:
a neighbour of such a name is not imported (:func:`hidden_neighbour` finds it for a message). It is
refused where another user can have put the file there.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from penstock.errors import SelectorError
from penstock.own_sources import as_own
from penstock.temporary import is_trusted

__all__ = [
    "OwnModules",
    "check_module",
    "directory_of",
    "find_own",
    "hidden_neighbour",
    "serve_no_more",
]

_served: dict[str, str] = {}
"""Top-level modules that a directory serves, and that directory."""


def find_own(top: str, directories: Sequence[Path], chosen: bool = True) -> ModuleSpec | None:
    """Find a top-level module in directories, and serve it and its neighbours from then on.

    Directories in ``sys.path`` were chosen by the user; they are neither served nor checked here. A
    directory without ``__init__.py`` is found only where no other module has its name.

    Args:
        top: A name without dots.
        directories: Searched in order.
        chosen: As for :func:`check_module`.

    Returns:
        How to import it; None where it is not there.

    Raises:
        SelectorError: Another user can have put it there.
    """
    importlib.invalidate_caches()
    spec = PathFinder.find_spec(top, [str(directory) for directory in directories])
    if spec is None:
        return None
    if spec.origin is None:
        installed = PathFinder.find_spec(top)
        if installed is not None and installed.origin is not None:
            return None
    directory = directory_of(spec)
    if os.path.realpath(directory) not in map(os.path.realpath, sys.path):
        check_module(spec, chosen)
        _serve({top: str(directory)})
    return as_own(spec)


def serve_no_more(tops: Iterable[str]) -> None:
    """Serve these top-level modules no more, until they are found again."""
    for top in tops:
        _served.pop(top, None)


def check_module(spec: ModuleSpec, chosen: bool = True) -> None:
    """Check that no other user can have put a module where it was found.

    A group may write there: it is the user's own choice.

    Args:
        spec: Where the module is.
        chosen: Whether the user chose the directory, as that of a recipe, so that its owner may be
            a colleague; false for the current directory.

    Raises:
        SelectorError: All users may write to the file, to its package or compiled code, or to a
            directory above without the sticky bit; with that bit, another user owns what lies
            there; or another user owns a directory that was not chosen.
    """
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    files = [Path(spec.origin)] if spec.origin else []
    for path in (*places, *files, *(path.parent / "__pycache__" for path in files)):
        real = Path(os.path.realpath(path))
        try:
            status = real.stat()
        except FileNotFoundError:  # no compiled code
            continue
        if status.st_mode & stat.S_IWOTH:
            raise _refusal(spec, real, f"all users may write to {real}", real)
        parent = real.parent
        above = parent.stat()
        if not (chosen or is_trusted(above.st_uid)):
            problem = f"{parent} belongs to another user ({above.st_uid})"
            raise _refusal(spec, real, problem, parent)
        if above.st_mode & stat.S_IWOTH and not is_trusted(status.st_uid):
            problem = f"{real} belongs to another user ({status.st_uid})"
            raise _refusal(spec, real, f"{problem}, and all users may write to {parent}", parent)
        for directory in (parent, *parent.parents):
            mode = directory.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise _refusal(spec, real, f"all users may write to {directory}", directory)


def _refusal(spec: ModuleSpec, file: Path, problem: str, closed: Path) -> SelectorError:
    return SelectorError(
        f"{spec.name} is not imported, since another user may have put it there: {problem}",
        key="use",
        file=file,
        fix=f"run `chmod o-w {closed}` if it is yours, put the file beside the recipe, or name its "
        "directory in PYTHONPATH",
    )


def directory_of(spec: ModuleSpec) -> Path:
    """Return the directory that holds a top-level module or package, which has a file."""
    places = list(spec.submodule_search_locations or ())
    return Path(places[0] if places else str(spec.origin)).parent


def hidden_neighbour(name: str, directory: Path) -> Path | None:
    """Return the file in a directory that another module of its name hides; None without one.

    Args:
        name: Of a module that is imported.
        directory: Of the module that imported it.
    """
    top = name.partition(".")[0]
    file = next((one for one in (directory / f"{top}.py", directory / top) if one.exists()), None)
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if loaded is not None and Path(loaded).parent in (directory, directory / top):
        return None
    return file


def _serve(found: Mapping[str, str]) -> None:
    _served.update(found)
    if _Named not in sys.meta_path:
        sys.meta_path.insert(0, _Named)
    if _Neighbours not in sys.meta_path:
        sys.meta_path.append(_Neighbours)


class _Named:
    """A finder of the modules that are served, and of those in their packages."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if top not in _served:
            return None
        spec = PathFinder.find_spec(name, [_served[top]] if path is None else list(path), target)
        if spec is not None:
            if spec.origin is None:  # else it grows by directories of ``sys.path``
                spec.submodule_search_locations = list(spec.submodule_search_locations or ())
            check_module(spec)
            as_own(spec)
        return spec


class _Neighbours:
    """A finder of modules beside a served one, for it and for other neighbours alone."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        directory = _served.get(_importer()) if path is None else None
        return None if directory is None else find_own(name, [Path(directory)])


def _importer() -> str:
    """Return the top-level name of the module whose code is importing."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name.partition(".")[0] not in ("importlib", "_frozen_importlib"):
            return name.partition(".")[0]
        frame = frame.f_back
    return ""


class OwnModules:
    """What is served, for another process: when it is unpickled, it is served there, too.

    In a tuple or dict it has to come before the values that need the modules.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (dict(_served),)


def _unpickled(found: Mapping[str, str]) -> OwnModules:
    if found:
        _serve(found)
    return OwnModules()
