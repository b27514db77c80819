"""Points of a process at which a test can kill it; only the standard library is imported.

The product has no hook for this. A *point* is a call that changes files (see :data:`PATH_AT`), or
another function given to :meth:`Points.around`, with its moment: before, half (way through the
bytes of a write) or after. :class:`Points` replaces these calls in the current process. Each call
is looked up in the *plan* of the run, a file that all processes of the run read; they count calls
together, and the process that makes the n-th call of a planned kill sends itself SIGKILL, or, of a
planned pause, SIGSTOP.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DIRECTORY = "PENSTOCK_TEST_KILLS"
"""Environment variable: the directory of the plan, and of records of what happened."""

PATH_AT = {"rename": 1, "replace": 1, "link": 1, "fsync": 0, "unlink": 0, "rmdir": 0, "mkdir": 0}
"""Functions of ``os`` that are points, and which argument is the path or descriptor."""

Point = Mapping[str, Any]
"""Fields that identify a point; the caller chooses the keys."""

_open = io.open


class Points:
    """Replace the calls of this process by counted ones.

    Args:
        directory: Where the plan of the run is.
        name: Of a call's kind, path and moment, the point; None where the path is of no interest.
    """

    def __init__(self, directory: str, name: Callable[[str, str, str], Point | None]) -> None:
        self._directory = directory
        self._name = name

    def watch_files(self) -> None:
        """Count the calls that change files, :func:`open` for writing among them."""
        for kind, position in PATH_AT.items():
            setattr(os, kind, self._counted(kind, getattr(os, kind), position))
        os.remove = os.unlink
        builtins.open = io.open = self._opening  # type: ignore[assignment]

    def around(self, owner: Any, attribute: str, point: Callable[[str], Point]) -> None:
        """Count the calls of one function, as ``point(moment)``."""
        real = getattr(owner, attribute)

        def call(*args: Any, **named: Any) -> Any:
            self.meet(point("before"))
            result = real(*args, **named)
            self.meet(point("after"))
            return result

        setattr(owner, attribute, call)

    def meet_file(
        self, kind: str, path: str, moment: str, last: Callable[[], Any] = lambda: None
    ) -> None:
        """Report a call that changes a file."""
        point = self._name(kind, path, moment)
        if point is not None:
            self.meet(point, last)

    def meet(self, point: Point, last: Callable[[], Any] = lambda: None) -> None:
        """Record a point; if the plan has a kill here, call ``last`` and kill this process."""
        plan = read_plan(self._directory)
        if plan is None:
            return
        if plan["census"]:
            self._append("census", json.dumps(point))
        for number, kill in enumerate(plan["kills"]):
            if kill["point"] == point and self._append(f"count-{number}", "") == kill["nth"]:
                if not plan["pause"]:
                    last()
                self._append("struck", json.dumps(point))
                os.kill(os.getpid(), signal.SIGSTOP if plan["pause"] else signal.SIGKILL)

    def _counted(self, kind: str, real: Any, position: int) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            path = path_of(args[position], named.get("dir_fd"))
            self.meet_file(kind, path, "before")
            result = real(*args, **named)
            self.meet_file(kind, path, "after")
            return result

        return call

    def _opening(self, file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        opened = _open(file, mode, *args, **named)
        if isinstance(file, int) or not set(mode) & set("wxa"):
            return opened
        path = path_of(file)
        return _File(opened, path, self.meet_file) if self._name("write", path, "") else opened

    def _append(self, name: str, line: str) -> int:
        """Append a line to a file; return its size. One process at a time."""
        path = os.path.join(self._directory, name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, f"{line}\n".encode())
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


class _File:
    """An open file whose writes are points."""

    def __init__(self, file: Any, path: str, meet: Callable[..., None]) -> None:
        self._file = file
        self._path = path
        self._meet = meet

    def write(self, data: Any) -> Any:
        self._meet("write", self._path, "before")
        self._meet("write", self._path, "half", lambda: self._out(data[: len(data) // 2]))
        written = self._file.write(data)
        self._meet("write", self._path, "after", self._file.flush)
        return written

    def _out(self, data: Any) -> None:
        self._file.write(data)
        self._file.flush()

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def path_of(named: Any, directory: int | None = None) -> str:
    """Return the absolute path of a path, of a descriptor, or below a directory's descriptor."""
    if isinstance(named, int):
        return os.readlink(f"/proc/self/fd/{named}")
    path = os.fsdecode(named)
    if directory is not None:
        path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path)
    return os.path.abspath(path)


def read_plan(directory: str) -> dict[str, Any] | None:
    """Return the plan of the run that is under way; None before the first."""
    try:
        with _open(os.path.join(directory, "plan.json")) as source:
            plan: dict[str, Any] = json.load(source)
            return plan
    except FileNotFoundError:
        return None


class Plan:
    """The plan of one run after another, and what happened in the last one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)

    def write(
        self,
        kills: Sequence[tuple[Point, int]],
        *,
        census: bool,
        pause: bool = False,
        **facts: str,
    ) -> None:
        """Begin a run: clear the last one, plan kills, or pauses, at the n-th call of points."""
        for file in self.directory.iterdir():
            file.unlink()
        plan = {
            **facts,
            "census": census,
            "pause": pause,
            "kills": [{"point": point, "nth": nth} for point, nth in kills],
        }
        (self.directory / "plan.json").write_text(json.dumps(plan))

    @property
    def struck(self) -> list[dict[str, Any]]:
        """The points at which processes were killed."""
        return self._lines("struck")

    @property
    def census(self) -> list[dict[str, Any]]:
        """Return the points that the run passed, if it was run with a census."""
        return self._lines("census")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
