"""Files of fastText models: lengths that are false are refused before anything is allocated."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import SelectorError
from penstock.fasttext_file import FastTextFile
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from tests.fasttext_reference import train

TEXTS = ["rivers carry clear water", "markets sell old bonds"] * 8
ARGUMENTS = [4, 5, 5, 1, 5, 2, 3, 3, 7, 0, 0, 100]


def written(
    arguments: list[int],
    words: Sequence[bytes] = (b"a", b"b"),
    labels: Sequence[bytes] = (b"__label__1", b"__label__0"),
    counts: tuple[int, ...] | None = None,
    pruned: int = -1,
    shape: tuple[int, int] | None = None,
) -> bytes:
    """Write a file as fastText does; each length may be a false one."""
    size = (len(words) + len(labels), len(words), len(labels))
    dim = 4
    rows = np.ones((len(words) + 7, dim), "<f4")
    output = np.ones((len(labels), dim), "<f4")
    return b"".join([
        struct.pack("<2i12id", 793712314, 12, *arguments, 1e-4),
        struct.pack("<3i2q", *(counts or size), 10, pruned),
        *(word + b"\0" + struct.pack("<qb", 3, 0) for word in words),
        *(label + b"\0" + struct.pack("<qb", 3, 1) for label in labels),
        struct.pack("<?2q", False, *(shape or rows.shape)), rows.tobytes(),
        struct.pack("<?2q", False, *output.shape), output.tobytes(),
    ])  # fmt: skip


def changed(**settings: int) -> list[int]:
    places = {"dim": 0, "word_ngrams": 5, "loss": 6, "model": 7, "bucket": 8, "longest": 10}
    arguments = list(ARGUMENTS)
    for name, value in settings.items():
        arguments[places[name]] = value
    return arguments


def test_the_reference_of_these_tests_is_a_sound_file(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(written(ARGUMENTS))
    assert CollapsedFastText.from_file(tmp_path / "m.bin").bucket == 7


HUGE = 2**31 - 1


@pytest.mark.parametrize(
    "content",
    [
        written(ARGUMENTS, counts=(HUGE, HUGE - 2, 2)),
        written(ARGUMENTS, counts=(-1, -3, 2)),
        written(ARGUMENTS, counts=(4, 2**31 - 2, -(2**31) + 6)),
        written(ARGUMENTS, counts=(3, 2, 1)),
        written(ARGUMENTS, counts=(4, 4, 0)),
        written(ARGUMENTS, pruned=2**62),
        written(ARGUMENTS, pruned=0),
        written(ARGUMENTS, shape=(2**62, 4)),
        written(ARGUMENTS, shape=(-1, 4)),
        written(ARGUMENTS, shape=(9, -4)),
        written(ARGUMENTS, shape=(2**40, 2**40)),
        written(ARGUMENTS, shape=(36, 1)),
        written(ARGUMENTS, words=[b"a", b""]),
        written(changed(dim=HUGE)),
        written(changed(dim=0)),
        written(changed(bucket=-1)),
        written(changed(bucket=HUGE)),
        written(changed(bucket=6)),
        written(changed(word_ngrams=HUGE)),
        written(changed(word_ngrams=-1)),
        written(changed(loss=9)),
        written(changed(model=9)),
        written(changed(longest=3)),
        written(ARGUMENTS)[:-1],
        *(
            written(ARGUMENTS).replace(
                b"__label__0\0" + struct.pack("<q", 3), b"__label__0\0" + struct.pack("<q", count)
            )
            for count in (-3, 10**15, 2**63 - 1)
        ),
        written(ARGUMENTS).replace(np.ones(2, "<f4").tobytes(), b"\xff" * 8),
        b"",
        b"PK\3\4" * 100,
    ],
)
def test_false_lengths_are_refused(tmp_path: Path, content: bytes) -> None:
    """fastText's own loader crashes on these, loops, or allocates what they claim."""
    (path := tmp_path / "m.bin").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(SelectorError) as caught:
            CollapsedFastText.from_file(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def quantised(rows: int, dim: int, width: int, seed: int = 0) -> tuple[bytes, np.ndarray]:
    """Write a quantised file of parts of ``width`` columns; return it and its matrix, unpacked."""
    chance = np.random.default_rng(seed)
    parts = -(-dim // width)
    codes = chance.integers(0, 256, (rows, parts), np.uint8)
    values = chance.normal(size=(256, dim)).astype("<f4")
    norm_codes = chance.integers(0, 256, rows, np.uint8)
    norms = chance.normal(size=256).astype("<f4")
    pieces = [slice(k * width, min((k + 1) * width, dim)) for k in range(parts)]
    last = dim - (parts - 1) * width
    content = b"".join([
        struct.pack("<2i12id", 793712314, 12, *changed(dim=dim, bucket=rows - 1), 1e-4),
        struct.pack("<3i2q", 2, 1, 1, 10, -1),
        b"a\0" + struct.pack("<qb", 3, 0), b"__label__1\0" + struct.pack("<qb", 3, 1),
        struct.pack("<?", True),
        struct.pack("<?2qi", True, rows, dim, codes.size), codes.tobytes(),
        struct.pack("<4i", dim, parts, width if parts > 1 else last, last),
        *(values[:, piece].tobytes() for piece in pieces),
        norm_codes.tobytes(), struct.pack("<4i", 1, 1, 1, 1), norms.tobytes(),
        struct.pack("<?2q", False, 1, dim), np.ones(dim, "<f4").tobytes(),
    ])  # fmt: skip
    columns = np.arange(dim)
    whole = values[codes[:, columns // width], columns] * norms[norm_codes][:, None]
    return content, whole


@pytest.mark.parametrize(("rows", "dim", "width"), [(300, 7, 2), (9, 16, 16), (65_000, 256, 16)])
def test_quantised_matrices_of_parts_of_up_to_16_columns_are_read(
    rows: int, dim: int, width: int
) -> None:
    content, whole = quantised(rows, dim, width)
    assert np.array_equal(FastTextFile.read(content).rows, whole)


def test_a_quantised_matrix_that_grows_more_than_64_times_is_refused(tmp_path: Path) -> None:
    """Attack: rows of one code each; a file of 1.4 MB took 1.9 GB."""
    rows, dim, width = 30_000, 700, 700
    content = quantised(rows, dim, width)[0]
    (path := tmp_path / "m.ftz").write_bytes(content)
    limit = max(2**26, 64 * len(content))
    tracemalloc.start()
    try:
        with pytest.raises(SelectorError) as caught:
            CollapsedFastText.from_file(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    for part in (str(path), f"{limit:,}", f"{4 * rows * dim:,} bytes", f"{len(content):,}", "dsub"):
        assert part in text
    assert "\n" not in text


def test_a_quantised_matrix_may_not_claim_gigabytes() -> None:
    """2 MB of centroids and a byte a row would be 16 GB."""
    dim, rows = 2_000, 2_000_000
    content = b"".join([
        struct.pack("<2i12id", 793712314, 12, *changed(dim=dim, word_ngrams=1, bucket=0), 1e-4),
        struct.pack("<3i2q", 2, 1, 1, 10, -1),
        b"a\0" + struct.pack("<qb", 3, 0), b"__label__1\0" + struct.pack("<qb", 3, 1),
        struct.pack("<?", True),
        struct.pack("<?2qi", False, rows, dim, rows), bytes(rows),
        struct.pack("<4i", dim, 1, dim, dim), bytes(dim * 1024),
    ])  # fmt: skip
    with pytest.raises(ValueError, match=f"got {rows:,} rows of {dim:,} float32"):
        FastTextFile.read(content)


def test_flipped_bytes_are_refused_or_read(tmp_path: Path) -> None:
    train(TEXTS, [True, False] * 8, dim=4, bucket=50).save_model(str(tmp_path / "m.bin"))
    content = (tmp_path / "m.bin").read_bytes()
    chance, refused = np.random.default_rng(7), 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in chance.integers(0, min(len(content), 400), 3):
            damaged[place] = chance.integers(256)
        (tmp_path / "d.bin").write_bytes(damaged)
        try:
            CollapsedFastText.from_file(tmp_path / "d.bin").score(pa.array(["rivers carry"]))
        except SelectorError:
            refused += 1
    assert 50 < refused < 300
