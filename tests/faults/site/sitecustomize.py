"""SIGKILL at a chosen call: what Python runs first in a process of a victim run.

The product has no hook for this. Where ``PENSTOCK_KILLS`` names a directory, the calls by which
anything comes to lie under the work directory (writing, syncing, renaming, linking, removing a
file) go through :func:`_met`, which counts those that ``plan.json`` asks for, over all processes
of the run, and at the n-th kills its own process: before the call, after it, or half way through
the bytes of a write. The same code is put into a process that was forked, by :func:`install`.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import json
import os
import re
import signal
from typing import Any

DIRECTORY = "PENSTOCK_KILLS"
"""Where the plan is, and where is written what happened."""

DRIVER = "PENSTOCK_KILLS_DRIVER"
"""The driver's process id; every other process is a worker."""

_TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{32}\.tmp$")


def install() -> None:
    """Put the counted calls in the place of the real ones."""
    os.replace = _counted("rename", os.replace, 1)
    os.link = _counted("link", os.link, 1)
    os.unlink = _counted("remove", os.unlink, 0)
    os.remove = os.unlink
    os.fsync = _counted("sync", os.fsync, 0)
    builtins.open = io.open = _opening(io.open)


def _counted(kind: str, real: Any, position: int) -> Any:
    def call(*args: Any, **named: Any) -> Any:
        path = _path(args[position], named.get("dir_fd"))
        _met(kind, "before", path)
        result = real(*args, **named)
        _met(kind, "after", path)
        return result

    return call


def _opening(real: Any) -> Any:
    def call(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        opened = real(file, mode, *args, **named)
        if isinstance(file, int) or not set(mode) & set("wxa"):
            return opened
        return _File(opened, os.path.abspath(os.fspath(file)))

    return call


class _File:
    """An open file whose writes are counted."""

    def __init__(self, file: Any, path: str) -> None:
        self._file = file
        self._path = path

    def write(self, data: Any) -> Any:
        _met("write", "before", self._path)
        _met("write", "half", self._path, lambda: self._out(data[: len(data) // 2]))
        written = self._file.write(data)
        _met("write", "after", self._path, self._file.flush)
        return written

    def _out(self, data: Any) -> None:
        self._file.write(data)
        self._file.flush()

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *what: Any) -> Any:
        return self._file.__exit__(*what)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _path(named: Any, directory: int | None) -> str:
    if isinstance(named, int):
        return os.readlink(f"/proc/self/fd/{named}")
    path = os.fspath(named)
    path = path.decode() if isinstance(path, bytes) else path
    if directory is not None:
        path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path)
    return os.path.abspath(path)


def _met(kind: str, when: str, path: str, last: Any = lambda: None) -> None:
    """A call is at hand: note it where all are noted, and die where it is the one."""
    directory = os.environ[DIRECTORY]
    try:
        with _read(os.path.join(directory, "plan.json")) as source:
            plan = json.load(source)
    except FileNotFoundError:
        return
    place = place_of(path, plan["work"])
    if place is None or os.path.isdir(path):
        return
    role = "driver" if os.environ.get(DRIVER) == str(os.getpid()) else "worker"
    met = {"role": role, "stage": place[0], "what": place[1], "kind": kind, "when": when}
    if plan.get("census"):
        _append(os.path.join(directory, "census"), json.dumps(met))
    for number, wanted in enumerate(plan["kills"]):
        if met != {key: wanted[key] for key in met}:
            continue
        if _append(os.path.join(directory, f"count-{number}"), "") == wanted["nth"]:
            last()
            _append(os.path.join(directory, "struck"), json.dumps({**met, "path": path}))
            os.kill(os.getpid(), signal.SIGKILL)


_read = io.open


def place_of(path: str, work: str) -> tuple[str, str] | None:
    """Stage and kind of a file below the work directory; None outside it."""
    if not path.startswith(work + "/"):
        return None
    stage, *below = path[len(work) + 1 :].split("/")
    if not below or stage == "lease":
        return "root", "lease" if below else "memory"
    inside = below[1:]
    if not inside:
        return None
    temporary = _TEMPORARY.match(inside[-1])
    name = temporary[1] if temporary else inside[-1]
    if inside[0] == "records":
        return stage, "record"
    if inside[0] == "state":
        return stage, "data"
    if len(inside) > 1:
        return stage, "scratch"
    return stage, "manifest" if name == "manifest.json" else "data"


def _append(path: str, line: str) -> int:
    """Append a line; how many bytes there are now. One process at a time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, f"{line}\n".encode())
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


if DIRECTORY in os.environ and __name__ == "sitecustomize":
    install()
