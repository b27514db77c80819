"""State that travels once to a node: its arrays are shared by every worker there, not copied.

Pickle's protocol 5 hands over the bytes of arrays (NumPy, Arrow) apart from the rest. A local
parcel is a file, which workers map; on Ray it lies in the object store of the node. Either way
two workers with a state of 200 MB hold 200 MB between them, where a plain pickle took 200 MB each.
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
"""Bytes; what Arrow and vector instructions like best."""


@dataclass(frozen=True, slots=True)
class SharedState:
    """A value as bytes. Opened, its arrays are views of them, and read-only."""

    head: Any
    """Everything but the contents of arrays: (n,) uint8, or bytes."""

    buffers: Sequence[Any]
    """The contents of arrays: each (n,) uint8, or a memoryview."""

    @classmethod
    def of(cls, value: Any) -> SharedState:
        """Pack a value; functions and classes of a script's own travel with it."""
        buffers: list[pickle.PickleBuffer] = []
        head = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        return cls(_array(head), [_array(buffer.raw()) for buffer in buffers])

    def open(self) -> Any:
        """The value. Only what our own driver packed may be opened: it is a pickle."""
        buffers = [memoryview(buffer).toreadonly() for buffer in self.buffers]
        return pickle.loads(self.head, buffers=buffers)  # noqa: S301  our driver made it

    def save(self, path: Path) -> None:
        """Write a file for :meth:`load`.

        Raises:
            StorageError: It does not fit there.
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
                f"{path}: what workers share could not be written there ({error.strerror}); free "
                "some space, or set TMPDIR to a directory with more"
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
