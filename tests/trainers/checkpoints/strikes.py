"""SIGKILL at a chosen call of a worker: put into a forked process, unknown to the product.

A *point* is a call by which anything comes to lie in the run's directory, or by which workers wait
for each other, or a part of a step; with the moment: before, half way through the bytes, or after.
Every worker counts the points it passes, by name, and dies at the one it is told to.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RANDOM = re.compile(r"\.[0-9a-f]{32}\.tmp$|(?<=/events)\.out\.tfevents\..*$")


class Strikes:
    """The points of one worker.

    Args:
        directory: The run's; only files below it are points.
        kill: The name of a point and its number; None to live.
        census: Where to write the names of all points passed; None not to.
    """

    def __init__(self, directory: Path, kill: tuple[str, int] | None, census: Path | None) -> None:
        self._directory = f"{directory}/"
        self._kill = kill
        self._census = open(census, "w", buffering=1) if census else None  # noqa: SIM115
        self._met: Counter[str] = Counter()

    def install(self) -> None:
        """Put the counted calls in the place of the real ones."""
        self._opening()
        self._files()
        self._collectives()
        self._steps()

    def _meet(self, name: str, last: Callable[[], Any] = lambda: None) -> None:
        self._met[name] += 1
        if self._census:
            self._census.write(json.dumps(name) + "\n")
        if self._kill == (name, self._met[name]):
            last()
            os.kill(os.getpid(), signal.SIGKILL)

    def _around(self, owner: Any, attribute: str, name: str) -> None:
        real = getattr(owner, attribute)

        def call(*args: Any, **named: Any) -> Any:
            self._meet(f"{name}, before")
            result = real(*args, **named)
            self._meet(f"{name}, after")
            return result

        setattr(owner, attribute, call)

    def _collectives(self) -> None:
        import torch.distributed as group

        for name in ("barrier", "all_gather_object", "broadcast"):
            self._around(group, name, name)

    def _steps(self) -> None:
        from deepspeed.runtime.engine import DeepSpeedEngine

        from penstock.trainers.engine import Engine
        from penstock.trainers.evaluation.evaluator import Evaluator

        for name in ("forward", "backward", "step", "save_checkpoint", "load_checkpoint"):
            self._around(DeepSpeedEngine, name, name)
        self._around(Engine, "save", "export")
        self._around(Evaluator, "scores", "evaluation")

    def _files(self) -> None:
        for kind, position in (("rename", 1), ("replace", 1), ("link", 1)):
            self._on_path(os, kind, position)
        for kind in ("fsync", "unlink", "rmdir", "mkdir"):
            self._on_path(os, kind, 0)
        os.remove = os.unlink
        import torch

        real = torch.save

        def save(value: Any, file: Any, *args: Any, **named: Any) -> None:
            name = self._named(file)
            self._meet(f"write {name}, before")
            real(value, file, *args, **named)
            size = os.path.getsize(file)
            self._meet(f"write {name}, half", lambda: os.truncate(file, size // 2))
            self._meet(f"write {name}, after")

        torch.save = save

    def _on_path(self, owner: Any, kind: str, position: int) -> None:
        real = getattr(owner, kind)

        def call(*args: Any, **named: Any) -> Any:
            name = self._named(args[position], named.get("dir_fd"))
            if name:
                self._meet(f"{kind} {name}, before")
            result = real(*args, **named)
            if name:
                self._meet(f"{kind} {name}, after")
            return result

        setattr(owner, kind, call)

    def _opening(self) -> None:
        real = io.open

        def call(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
            opened = real(file, mode, *args, **named)
            if isinstance(file, int) or not set(mode) & set("wxa"):
                return opened
            name = self._named(file)
            return _File(opened, name, self._meet) if name else opened

        builtins.open = io.open = call  # type: ignore[assignment]

    def _named(self, what: Any, directory: int | None = None) -> str | None:
        """A file below the run's directory, its step's number and random parts left out."""
        if isinstance(what, int):
            path = os.readlink(f"/proc/self/fd/{what}")
        else:
            path = os.fsdecode(what)
            if directory is not None:
                path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path)
        path = os.path.abspath(path)
        if not path.startswith(self._directory):
            return None
        name = path[len(self._directory) :]
        return re.sub(r"step-\d+(\.[0-9a-f]{8}(?=\.tmp))?", "step", _RANDOM.sub("", name))


class _File:
    """An open file whose writes are points."""

    def __init__(self, file: Any, name: str, meet: Callable[..., None]) -> None:
        self._file = file
        self._name = name
        self._meet = meet

    def write(self, data: Any) -> Any:
        self._meet(f"write {self._name}, before")
        self._meet(f"write {self._name}, half", lambda: self._out(data[: len(data) // 2]))
        written = self._file.write(data)
        self._meet(f"write {self._name}, after", self._file.flush)
        return written

    def _out(self, data: Any) -> None:
        self._file.write(data)
        self._file.flush()

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *what: Any) -> Any:
        return self._file.__exit__(*what)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
