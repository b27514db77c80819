"""Read a ``.npy`` file whose header claims no more than the file holds.

NumPy allocates the shape that a header claims before it reads, parses the header as Python, and
raises whatever that gives.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import numpy as np

from penstock.storage import open_file

__all__ = ["load_array"]

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)(\{'descr': '(<[iuf][248]|\|[iub]1)', 'fortran_order': (?:True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \} *\n)",
    re.DOTALL,
)
"""What ``np.save`` writes for an array of numbers."""


def load_array(path: Path, mode: Literal["r"] | None = None) -> np.ndarray:
    """Read an array of numbers.

    Args:
        path: The file.
        mode: "r" maps the file, None reads it.

    Raises:
        ValueError: It is no such file, or its length is not that of the array.
        OSError: It cannot be read.
    """
    with open_file(path) as file:
        found = _HEADER.match(file.read(2**14))
        length = file.seek(0, 2)
    if found is None or int.from_bytes(found[1], "little") != len(found[2]):
        raise ValueError(f"{path.name}: no array of numbers that np.save wrote")
    shape = [int(number) for number in found[4].replace(b",", b" ").split()]
    size = math.prod(shape) * np.dtype(found[3].decode()).itemsize
    if found.end() + size != length:
        raise ValueError(
            f"{path.name}: its header claims {found.end() + size:,} bytes, it has {length:,}"
        )
    return np.asarray(np.load(path, mode, allow_pickle=False))
