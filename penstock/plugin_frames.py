"""Errors of users' code in one line: the error, and the user's own frames with their lines.

The traceback of a plug-in's error begins in Penstock and ends in a library. Between them are the
lines that its author can change. An error travels between processes without its traceback, so that
these lines are put into its text.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from penstock.plugin_code import is_own_file

__all__ = ["describe_error", "own_frames", "own_traceback"]

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
    text = f"{type(error).__name__}: {error}"
    frames = own_frames(error)[-_MOST:]
    if not frames:
        return text
    calls = [f"{Path(file).name}:{line} in {name}" for file, line, name, _ in frames]
    source = f": {frames[-1][3]}" if frames[-1][3] else ""
    return f"{text} ({', '.join(calls)}{source})"
