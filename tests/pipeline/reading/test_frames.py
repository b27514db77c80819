"""The walk over Zstandard frames, against the codec and against the format's own numbers."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from penstock.errors import InputError
from penstock.pipeline.reading.frames import Frame, frames_of
from tests.zstd import frame, skippable


def walk(tmp_path: Path, data: bytes) -> list[Frame]:
    path = tmp_path / "x.zst"
    path.write_bytes(data)
    return list(frames_of(path))


SIZES = [0, 1, 255, 256, 257, 65_535, 65_536, 65_791, 65_792, 131_072, 131_073, 400_000]
"""Around the widths of the content size field, and of one block and more."""


@pytest.mark.parametrize("noise", [True, False], ids=["raw blocks", "compressed and RLE blocks"])
@pytest.mark.parametrize("sized", [True, False])
def test_every_frame_is_found_and_decompresses_by_itself(
    tmp_path: Path, sized: bool, noise: bool
) -> None:
    chance = random.Random(0)
    contents = [chance.randbytes(size) if noise else b"z" * size for size in SIZES]
    frames = [frame(content, sized) for content in contents]
    data = b"".join(frames)
    found = walk(tmp_path, data)
    assert [data[f.start : f.end] for f in found] == frames
    for one, content in zip(found, contents):
        assert one.content in ((len(content),) if sized else (None, len(content)))
        with pa.CompressedInputStream(pa.BufferReader(data[one.start : one.end]), "zstd") as stream:
            assert stream.read() == content


def test_skippable_frames_are_passed_over(tmp_path: Path) -> None:
    a, b = frame(b"a" * 50), frame(b"b" * 50, sized=True)
    data = skippable(3, 15) + a + skippable(0) + skippable(70_000, 1) + b + skippable(9)
    assert [data[f.start : f.end] for f in walk(tmp_path, data)] == [a, b]
    assert walk(tmp_path, skippable(4)) == []


def test_a_checksum_a_dictionary_and_each_block_kind_by_hand(tmp_path: Path) -> None:
    """Golden: frames written by hand from RFC 8878, section 3.1.1."""
    magic = bytes.fromhex("28b52ffd")
    raw, rle, last = b"\x10\x00\x00ab", b"\x22\x00\x00c", b"\x09\x00\x00d"
    plain = magic + b"\x04\x58" + raw + rle + last + b"\xaa\xbb\xcc\xdd"  # checksum, window
    known = magic + b"\x63\x01\x02\x03\x04\x2c\x01" + last  # dictionary of 4 bytes, size 300 + 256
    found = walk(tmp_path, plain + known)
    assert [(f.start, f.end, f.content) for f in found] == [
        (0, len(plain), None),
        (len(plain), len(plain) + len(known), 556),
    ]


def test_a_broken_frame_is_refused_with_file_and_byte(tmp_path: Path) -> None:
    whole = frame(b"a" * 50)
    for content, byte in ((whole + b"garbage", len(whole)), (b"{}\n", 0)):
        with pytest.raises(InputError) as caught:
            walk(tmp_path, content)
        assert caught.value.file == str(tmp_path / "x.zst")
        assert caught.value.problem.endswith(f" {byte}")


@pytest.mark.parametrize("keep", [3, 5, 7, -1, -20])
def test_a_truncated_frame_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    with pytest.raises(InputError) as caught:
        walk(tmp_path, frame(random.Random(0).randbytes(300_000))[:keep])
    assert caught.value.file == str(tmp_path / "x.zst")
    assert caught.value.fix
