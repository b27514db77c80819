"""Arrays in .npy files: a header that claims more than the file holds is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.array_files import load_array


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "i1", "<u2", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 2), (2, 3, 4)])
@pytest.mark.parametrize("mode", [None, "r"])
def test_arrays_are_what_was_saved(tmp_path: Path, dtype: str, shape: tuple, mode: str) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    if mode == "r" and array.size == 0:
        return  # nothing can be mapped
    found = load_array(tmp_path / "a.npy", mode)
    assert found.dtype == array.dtype and np.array_equal(found, array)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"(7,)", b"(70000000000000,)"),
        (b"(7,)", b"(8,)"),
        (b"(7,)", b"(-7,)"),
        (b"(7,)", b"((7,"),
        (b"'<f4'", b"'|O'"),
        (b"'<f4'", b"'<f8'"),
        (b"'<f4'", b"'<y8'"),
        (b"\x01\x00", b"\x03\x00"),
        (b"\x93NUMPY", b"\x93NUMPX"),
        (b"}", b"\n"),
    ],
)
def test_false_headers_are_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    """Found by fuzzing: tokenize.TokenError; a shape that is allocated before it is read."""
    np.save(tmp_path / "a.npy", np.ones(7, np.float32))
    content = (tmp_path / "a.npy").read_bytes()
    assert old in content
    (tmp_path / "a.npy").write_bytes(content.replace(old, new, 1))
    with pytest.raises(ValueError, match="a.npy"):
        load_array(tmp_path / "a.npy")
