"""The one place where commands print, so that nothing from elsewhere acts on the terminal.

Every line passes :func:`~penstock.display.terminal_text`. A terminal without Unicode gets escapes.
A reader that has gone, as in ``penstock ls | head``, ends the output but not the command: the work
is done, or goes on, and its status is its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import IO, Any

import rich.cells
import rich.console
import rich.text

from penstock.display import json_line, terminal_text

__all__ = ["LineConsole", "prepare_streams", "write_error", "write_json", "write_line"]


def prepare_streams() -> None:
    """Let stdout and stderr escape what their encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_line(line: str, stream: IO[str] | None = None) -> None:
    """Write a line, by default to stdout."""
    _print(terminal_text(line), sys.stdout if stream is None else stream)


def write_error(text: str) -> None:
    """Write a text of one or several lines to stderr; lines after the first are indented.

    So no line of an error that quotes its input begins like one of ours.
    """
    lines = [terminal_text(line, keep="\t") for line in text.split("\n")]
    _print("\n    ".join(lines), sys.stderr)


def write_json(value: Any, stream: IO[str]) -> None:
    """Write a value as one line of JSON."""
    _print(json_line(value, getattr(stream, "encoding", None) or "utf-8"), stream)


class LineConsole(rich.console.Console):
    """A console for lines from elsewhere: no markup, no emoji, no error of a closed pipe."""

    def write_line(self, line: str) -> None:
        """Print a line as it is, however wide."""
        self.print(self.shown(line), soft_wrap=True)

    @staticmethod
    def shown(line: str) -> rich.text.Text:
        """Return a text for a line or the cell of a table."""
        return rich.text.Text(terminal_text(line))

    def fitted(self, line: str, lines: int, indent: int = 0) -> str:
        """Return a line, escaped, cut to what a number of lines of the terminal show.

        Args:
            line: Any text.
            lines: Lines of the terminal.
            indent: Columns that are used before it.
        """
        shown = terminal_text(line)
        room = self.width * lines - indent
        if rich.cells.cell_len(shown) <= room:
            return shown
        return f"{rich.cells.set_cell_size(shown, room - 2).rstrip()} …"

    def on_broken_pipe(self) -> None:
        _drop_output(self.file)


def _print(text: str, stream: IO[str]) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        _drop_output(stream)


def _drop_output(stream: IO[str]) -> None:
    """Send all further output of a stream to nowhere: its reader has gone."""
    with contextlib.suppress(OSError):  # no file, as in a test
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
