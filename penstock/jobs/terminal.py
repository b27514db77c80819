"""The one place where commands print, so that nothing from elsewhere acts on the terminal.

Every line passes :func:`~penstock.display.terminal_text`. A terminal without Unicode gets escapes.
A reader that has gone, as in ``penstock ls | head``, ends the output but not the command: the work
is done, or goes on, and its status is its own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
from typing import IO, Any

import rich.cells
import rich.console
import rich.measure
import rich.padding
import rich.text

from penstock.display import json_line, terminal_text

__all__ = [
    "LineConsole",
    "prepare_streams",
    "write_error",
    "write_json",
    "write_line",
    "write_log_line",
]


_ERASE = "\x1b[K"
"""Erases from the cursor to the end of the line (ECMA-48)."""


def prepare_streams() -> None:
    """Let stdout and stderr escape what their encoding lacks, instead of raising an error.

    A crash of compiled code, in a scorer that runs in this process, writes the Python stack to
    stderr before it ends the process.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):  # stderr is no file, in tests
        faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_line(line: str, stream: IO[str] | None = None, keep: str = "") -> None:
    """Write a line, by default to stdout; characters of ``keep`` are not escaped."""
    _print(terminal_text(line, keep), sys.stdout if stream is None else stream)


def write_log_line(line: str) -> None:
    """Write a line of a log to stdout; its tabs stay."""
    write_line(line, keep="\t")


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

    _has_status = False

    def write_line(self, line: str) -> None:
        """Print a line as it is, however wide."""
        self.print(self.shown(line), soft_wrap=True)

    def write_block(self, line: str, below: str) -> None:
        """Print a line, and below it an indented one; both are wrapped to the terminal's width."""
        self.print(self.shown(line), overflow="fold")
        self.print(rich.padding.Padding(self.shown(below), (0, 0, 0, 4)), overflow="fold")

    def has_room(self, table: rich.console.RenderableType) -> bool:
        """Return whether a table fits the terminal's width without wrapped or lost cells."""
        unlimited = self.options.update(max_width=10_000)
        return rich.measure.Measurement.get(self, unlimited, table).maximum <= self.width

    def write_status(self, line: str) -> None:
        """Write a line in place of the last status; :meth:`end_status` has to come before others.

        It is cut to the terminal's width, and the cursor stays in it.
        """
        _print(f"\r{self.fitted(line, 1, indent=1)}{_ERASE}", self.file, end="")
        self._has_status = True

    def end_status(self) -> None:
        """Erase the status, if one is shown."""
        if self._has_status:
            self._has_status = False
            _print(f"\r{_ERASE}", self.file, end="")

    @property
    def keeps_status(self) -> bool:
        """Whether this is a terminal on which a line can be rewritten."""
        ansi = self.is_terminal and not self.is_dumb_terminal and not self.legacy_windows
        return ansi and self.encoding.startswith("utf")  # else escapes are wider than letters

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


def _print(text: str, stream: IO[str], end: str = "\n") -> None:
    try:
        print(text, file=stream, end=end, flush=True)
    except BrokenPipeError:
        _drop_output(stream)


def _drop_output(stream: IO[str]) -> None:
    """Send all further output of a stream to nowhere: its reader has gone."""
    with contextlib.suppress(OSError):  # no file, as in a test
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
