"""Errors of users' code in one line: the error, and the user's own frames with their lines.

The traceback of a plug-in's error begins in Penstock and ends in a library. Between them are the
lines that its author can change. An error travels between processes without its traceback, so that
these lines are put into its text.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType

from penstock.errors import PenstockError
from penstock.extras import missing_extra
from penstock.own_modules import hidden_neighbour
from penstock.plugin_code import is_own_file

__all__ = ["describe_error", "fix_of_error", "own_frames", "own_traceback"]

_MOST = 4
"""Frames that are shown, the last ones."""

_LINE = 120
"""Characters of a line that are shown."""


def own_frames(error: BaseException) -> list[tuple[str, int, str, str]]:
    """Return the frames of a user's own files, the failing one last.

    Returns:
        (file, line number, function, source line) of each.
    """
    return [
        (frame.filename, frame.lineno or 0, frame.name, (frame.line or "")[:_LINE])
        for frame in traceback.extract_tb(error.__traceback__)
        if is_own_file(frame.filename)
    ]


def own_traceback(error: BaseException | None) -> TracebackType | None:
    """Return the traceback of an error without the frames of others' files; None if none is left.

    Args:
        error: The error, with its traceback; None for no error.
    """
    frames = []
    at = error.__traceback__ if error else None
    while at is not None:
        frames.append(at)
        at = at.tb_next
    own = None
    for one in reversed(frames):
        if is_own_file(one.tb_frame.f_code.co_filename):
            own = TracebackType(own, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return own


def describe_error(error: BaseException) -> str:
    """Describe an error of a user's code: ``KeyError: 'x' (my_words.py:7 in weight: return t[w])``.

    Args:
        error: The error, with its traceback.
    """
    if isinstance(error, PenstockError) and error.__cause__ is not None:
        return str(error)  # it has the lines of its cause
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        line = f": {error.text.strip()[:_LINE]}" if error.text else ""
        place = f"{Path(error.filename).name}:{error.lineno}"
        return f"{type(error).__name__}: {error.msg} ({place}{line})"
    frames = own_frames(error)[-_MOST:]
    if not frames:
        return text
    calls = [f"{Path(file).name}:{line} in {name}" for file, line, name, _ in frames]
    source = f": {frames[-1][3]}" if frames[-1][3] else ""
    return f"{text} ({', '.join(calls)}{source})"


_JOB_FILES = "working_dir_files"
"""Directory of the files that were sent with a job, in Ray 2.60."""


def fix_of_error(error: BaseException) -> str | None:
    """Return the fix of a user's error, where it is known; else None.

    Known are a missing package, a module whose file is hidden by another one of its name, and a
    file that a job lacks: a module's neighbours are there where it was written, and not where it
    was sent.

    Args:
        error: The error of the user's code.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        known = missing_extra(error)
        return known.fix if known else f"install the package of {error.name}"
    if isinstance(error, (AttributeError, ImportError)):
        return _other_name(error)
    if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str):
        return None
    here, path = Path.cwd(), Path(error.filename)
    if _JOB_FILES not in here.parts or (path.is_absolute() and not path.is_relative_to(here)):
        return None
    return (
        "`penstock submit` sends modules, and no data files beside them: put both into a package "
        "(a directory with __init__.py), which is sent whole, or name the file by a parameter that "
        "is in `paths` of the class"
    )


def _other_name(error: AttributeError | ImportError) -> str | None:
    """Return the fix where a module lacks a name that was looked for in a neighbour of its name."""
    module = error.obj if isinstance(error, AttributeError) else sys.modules.get(error.name or "")
    frames = own_frames(error)
    if not isinstance(module, ModuleType) or not frames:
        return None
    top = module.__name__.partition(".")[0]
    hidden = hidden_neighbour(top, Path(frames[-1][0]).parent)
    if hidden is None:
        return None
    library = "a module of Python's own library" if top in sys.stdlib_module_names else "installed"
    return f"{top} is {library}; give {hidden.name} another name"
