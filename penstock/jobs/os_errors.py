"""Texts of errors of the operating system that no file is named in.

``os.getcwd()`` in a directory that was deleted gave ``[Errno 2] No such file or directory`` as the
whole log of a job: nodes of one machine can share Ray's session directory, and the node that ends
first deletes the working directories in it.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from penstock.ray_job import current_job

__all__ = ["os_error_text"]

_PACKAGE = Path(__file__).resolve().parents[1]


def os_error_text(error: OSError) -> str:
    """Return the text of an error: with the file, or else with the place in the code.

    Args:
        error: As it was raised, with its traceback.
    """
    if error.filename is not None:
        return str(error)
    if not _has_directory():
        if current_job() is None:
            return "the current directory is gone: it was deleted; run again in another"
        return (
            "the job's working directory is gone: it was deleted on this machine, as where a Ray "
            "that shares its --temp-dir ended; give each node its own, and submit again"
        )
    return f"{error} ({_place(error)})"


def _has_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _place(error: OSError) -> str:
    """Return the innermost frame of this package, or of all where none is of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _PACKAGE in Path(frame.filename).parents]
    if not (own or frames):
        return "no traceback"
    frame = (own or frames)[-1]
    path = Path(frame.filename)
    name = path.relative_to(_PACKAGE.parent).as_posix() if own else path.name
    return f"in {name}:{frame.lineno}, {frame.name}"
