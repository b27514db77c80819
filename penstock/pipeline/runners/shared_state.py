"""State that is sent once to a node: its arrays are shared by all workers there, not copied.

Pickle's protocol 5 serialises the bytes of arrays (NumPy, Arrow) apart from the rest. The local
runner writes them to a file, which workers map; Ray keeps them in the node's object store. Either
way two workers with a state of 200 MB hold 200 MB together; a plain pickle takes 200 MB each.
"""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np

from penstock.errors import StorageError

__all__ = ["SharedState"]

_ALIGNMENT = 64
"""Alignment in bytes, best for Arrow and vector instructions."""


@dataclass(frozen=True, slots=True)
class SharedState:
    """A value as bytes. When opened, its arrays are read-only views of them."""

    head: Any
    """The pickle without the contents of arrays: (n,) uint8, or bytes."""

    buffers: Sequence[Any]
    """The contents of arrays: each (n,) uint8, or a memoryview."""

    @classmethod
    def of(cls, value: Any) -> SharedState:
        """Pickle a value, with the functions and classes of ``__main__`` that it uses."""
        buffers: list[pickle.PickleBuffer] = []
        head = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        return cls(_array(head), [_array(buffer.raw()) for buffer in buffers])

    def open(self) -> Any:
        """Unpickle the value. Only a state that our own driver made may be opened."""
        buffers = [memoryview(buffer).toreadonly() for buffer in self.buffers]
        return pickle.loads(self.head, buffers=buffers)  # noqa: S301  our driver made it

    def save(self, path: Path) -> None:
        """Write a file for :meth:`load`.

        Raises:
            StorageError: It cannot be written, mostly for lack of space.
        """
        sizes = [len(self.head), *(len(buffer) for buffer in self.buffers)]
        index = np.array([len(sizes), *sizes], dtype=np.int64)
        try:
            with open(path, "wb") as file:
                for piece in (index, self.head, *self.buffers):
                    file.write(piece)
                    file.write(bytes(-file.tell() % _ALIGNMENT))
        except OSError as error:
            raise StorageError(
                f"the workers' shared state could not be written ({error.strerror})",
                file=path,
                fix="free some space, or set TMPDIR to a directory with more",
            ) from error

    @classmethod
    def load(cls, path: Path) -> SharedState:
        """Map a file of :meth:`save`; it may be deleted while it is mapped."""
        with open(path, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        count = int(np.frombuffer(view, np.int64, 1)[0])
        sizes = np.frombuffer(view, np.int64, count, offset=8)
        pieces, position = [], _aligned(8 + 8 * count)
        for size in map(int, sizes):
            pieces.append(view[position : position + size])
            position += _aligned(size)
        return cls(pieces[0], pieces[1:])


def _array(data: Any) -> np.ndarray:
    return np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)


def _aligned(size: int) -> int:
    return size + -size % _ALIGNMENT
