"""The line of a silent step on a terminal: rewritten in place, gone before other output."""

from __future__ import annotations

import os
import pty
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.activity import step
from penstock.cluster import DEBUG
from penstock.jobs.console import Console

WIDTH = 60


class PseudoTerminal:
    """What a terminal of 60 columns was sent, and what it shows."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self.sent = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                return
            self.sent += more

    def until(self, count: int, part: bytes) -> None:
        end = time.monotonic() + 30
        while self.sent.count(part) < count and time.monotonic() < end:
            time.sleep(0.01)
        assert self.sent.count(part) >= count, self.sent

    def shown(self) -> list[str]:
        """Apply what was sent: carriage return, line feed, and the erasing of a line's rest."""
        self.file.close()
        self._reader.join(30)
        lines, column = [""], 0
        text = self.sent.decode()
        while text:
            if text.startswith("\x1b[K"):
                lines[-1], text = lines[-1][:column], text[3:]
                continue
            own, text = text[0], text[1:]
            if own == "\r":
                column = 0
            elif own == "\n":
                lines.append("")
            else:
                lines[-1] = lines[-1][:column] + own + lines[-1][column + 1 :]
                column += 1
        return lines


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[PseudoTerminal]:
    made = PseudoTerminal()
    monkeypatch.setenv("COLUMNS", str(WIDTH))  # rich looks at the process's own terminal
    for name in ("NO_COLOR", "TTY_COMPATIBLE", DEBUG):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("penstock.jobs.heartbeat.SILENCE_SECONDS", 0.05)
    monkeypatch.setattr("penstock.jobs.heartbeat._TICK_SECONDS", 0.01)
    yield made
    os.close(made.master)


def work(terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print an event, be silent in a step of a long name, and print two lines more."""
    for name in ("stdout", "stderr"):  # not in the fixture: pytest sets them for each phase
        monkeypatch.setattr(sys, name, terminal.file)
    console = Console()
    with console.working("curate"):
        console.progress("an event")
        with step("columns " + "x" * 2 * WIDTH):
            terminal.until(3, b"curate, columns")
        console.progress("another event")
        with step("sorting"):
            terminal.until(1, b"curate, sorting")
        console.write("a result")


def test_a_heartbeat_is_rewritten_and_goes(
    terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(terminal, monkeypatch)
    shown = terminal.shown()
    assert [line.partition("] ")[2] or line for line in shown] == [
        "an event", "another event", "a result", "",
    ]  # fmt: skip
    statuses = [own for own in terminal.sent.decode().split("\r") if "columns xx" in own]
    assert len(statuses) >= 3
    assert all(len(own.replace("\x1b[K", "")) < WIDTH for own in statuses)


def test_under_debug_and_in_a_log_each_heartbeat_stays(
    terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(DEBUG, "1")
    work(terminal, monkeypatch)
    assert "\x1b[K" not in terminal.sent.decode()
    assert sum("curate, columns" in line for line in terminal.shown()) >= 3
    monkeypatch.delenv(DEBUG)
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        monkeypatch.setattr(sys, "stderr", log)
        with Console().working("check"):
            time.sleep(0.5)
    text = (tmp_path / "log").read_text()
    assert "\r" not in text and text.count("check: for") >= 2
