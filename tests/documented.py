"""The fenced blocks of the documentation, and a reader who runs them in order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from penstock.jobs.cli import main

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^( *)```([a-z]*)(?: title=\"([^\"]+)\")?\s*$")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?%?")
SET_UP = ("python3 -m venv", ". .venv/", "pip install", "make ", "git clone", "cd ")
"""What installs Penstock: the tests run in an environment that has it."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    """Of the first line in it."""

    language: str
    title: str
    """The name of the file that it is, or an empty text."""

    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return README.md and all pages, as paths below the repository."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, without the indentation of their fence."""
    opened: re.Match[str] | None = None
    lines: list[str] = []
    start = 0
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if opened is None:
            opened, lines, start = fence, [], number + 1
        elif fence and not fence[2]:
            yield Block(page, start, opened[2], opened[3] or "", "\n".join(lines) + "\n")
            opened = None
        else:
            lines.append(line[len(opened[1]) :])
    assert opened is None, f"{page}: a fence is not closed"


def commands(block: Block) -> Iterator[str]:
    """Yield the command lines of a block, continued ones joined; `console` marks them by `$ `."""
    joined = block.text.replace("\\\n", " ")
    for line in joined.splitlines():
        if block.language == "console":
            if line.startswith("$ "):
                yield line[2:]
        else:
            yield line


@dataclass
class Reader:
    """Runs the blocks of pages in the current directory, as a reader would."""

    skipped: tuple[str, ...] = ()
    """How commands begin that are left out, beside those that install Penstock."""

    smaller: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Options to add to commands that begin so, because as they stand they take minutes."""

    ran: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    def read(self, page: str, until: str = "") -> None:
        """Write titled blocks as files; run `console`, `sh` and `python` blocks in order.

        Args:
            page: Path of the page below the repository.
            until: A line of the page at which to stop; by default its end.
        """
        lines = (ROOT / page).read_text().splitlines()
        end = lines.index(until) if until else len(lines)
        for block in blocks(page):
            if block.line > end:
                return
            text = block.text
            if block.title:
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(text)
            elif block.language == "python":
                exec(compile(text, str(block), "exec"), self.known)
            elif block.language == "console":
                self._run_console(block, text)
            elif block.language == "sh":
                for line in filter(None, text.splitlines()):
                    if not line.startswith((*SET_UP, *self.skipped)):
                        self._run(block, line)

    def _run_console(self, block: Block, text: str) -> None:
        shown: list[str] = []
        printed = ""
        for line in [*text.replace("\\\n", " ").splitlines(), "$ "]:
            if not line.startswith("$ "):
                shown.append(line)
                continue
            for one in shown:
                assert any(numbers(one) <= numbers(real) for real in printed.splitlines()), (
                    f"{block}: no line has the numbers of {one!r}:\n{printed}"
                )
            shown = []
            if line[2:] and not line[2:].startswith((*SET_UP, *self.skipped)):
                printed = self._run(block, line[2:])

    def _run(self, block: Block, line: str) -> str:
        program, *arguments = shlex.split(line, comments=True)
        self.ran.append(line)
        for begin, options in self.smaller.items():
            if line.startswith(begin):
                arguments += options
        if program == "penstock":
            done = CliRunner().invoke(main, arguments, env={"COLUMNS": "300"})
            assert done.exit_code == 0, f"{block}: {line}\n{done.output}"
            return done.output
        assert program == "python", f"{block}: the test cannot run {program!r}"
        run = [sys.executable, *arguments]
        return subprocess.run(run, check=True, capture_output=True, text=True).stdout


def numbers(line: str) -> Counter[str]:
    """Count the numbers of a line, however its words are changed."""
    return Counter(NUMBER.findall(line))
