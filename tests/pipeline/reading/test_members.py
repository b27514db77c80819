"""Gzip members: zlib-ng gives what zlib gives, of sound bytes and of damaged ones."""

from __future__ import annotations

import gzip
import random
import time
import zlib
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from zlib_ng import zlib_ng

from penstock.pipeline.reading.members import parts_of


def _with_flags(flags: int, fields: bytes) -> bytes:
    head = bytes([0x1F, 0x8B, 8, flags, 0, 0, 0, 0, 2, 255]) + fields
    return head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") if flags & 2 else head


_DRAW = random.Random(3)
_TEXT = b"".join(b"<p>%x</p>" % _DRAW.getrandbits(20) for _ in range(300))
_BODY = gzip.compress(_TEXT, mtime=0)[10:]
_FIXED = zlib.compressobj(9, zlib.DEFLATED, 31, 9, zlib.Z_FIXED)
MEMBERS = [
    *(gzip.compress(_TEXT, level, mtime=0) for level in (0, 1, 6, 9)),
    gzip.compress(b"", mtime=0),
    gzip.compress(b"word " * 500, mtime=0),
    _FIXED.compress(_TEXT) + _FIXED.flush(),
    *(_with_flags(flags, b"\3\0abc" * (flags >> 2 & 1) + b"n\0" * (flags >> 3 & 1)
                  + b"c\0" * (flags >> 4 & 1)) + _BODY for flags in (2, 4, 8, 16, 31)),
]  # fmt: skip


def _inflated(module: Any, data: bytes, steps: list[int], most: int) -> tuple[str, bytes, int]:
    """Give parts of ``steps`` bytes; returns the end, the content, and the bytes that follow."""
    inflater = module.decompressobj(31)
    content = b""
    at = 0
    try:
        for step in [*steps, len(data), 0]:
            given = inflater.unconsumed_tail + data[at : at + step]
            at += step
            while given and not inflater.eof:
                content += inflater.decompress(given, most)
                given = inflater.unconsumed_tail
    except module.error:
        return "damaged", b"", 0
    return "end" if inflater.eof else "cut off", content, len(inflater.unused_data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_members_are_those_of_zlib(data: st.DataObject) -> None:
    """isal 1.9.1 takes reserved flags, and refuses sound members with a checksum of the header."""
    member = bytearray(data.draw(st.sampled_from(MEMBERS)))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.one_of(st.integers(0, 30), st.integers(0, len(member) - 1)))
        member[min(at, len(member) - 1)] ^= 1 << data.draw(st.integers(0, 7))
    end = data.draw(st.one_of(st.just(len(member)), st.integers(0, len(member))))
    given_bytes = bytes(member[:end]) + data.draw(st.binary(max_size=12))
    steps = data.draw(st.lists(st.integers(1, 300), max_size=4))
    most = data.draw(st.sampled_from([1, 1000, 4 << 20]))
    expected = _inflated(zlib, given_bytes, steps, most)
    assert _inflated(zlib_ng, given_bytes, steps, most) == expected


def test_sound_members_of_every_kind() -> None:
    for member in MEMBERS:
        assert _inflated(zlib_ng, member + b"rest", [7], 1000) == (
            "end",
            gzip.decompress(member),
            4,
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MEMBERS), st.integers(0, 3)), min_size=1, max_size=40))
def test_members_and_the_zeros_between_them(made: list[tuple[bytes, int]]) -> None:
    """Members are found where they end, whatever looks like the beginning of one inside of them."""
    inside = gzip.compress(MEMBERS[2] * 3 + b"\x1f\x8b\x08" * 200, 0, mtime=0)
    where = Path("/dev/shm" if Path("/dev/shm").exists() else ".") / "penstock-members.gz"
    file, expected = b"", []
    for member, zeros in [*made, (inside, 0)]:
        expected.append((len(file), gzip.decompress(member)))
        file += member + bytes(zeros)
    where.write_bytes(file)
    try:
        found = [(part.offset, part.data) for part in parts_of(where, b"") if not part.error]
    finally:
        where.unlink()
    assert found == expected


def test_beginnings_inside_of_a_member_take_linear_time(tmp_path: Path) -> None:
    """Each looks like another member, at which the inflater would get its next bytes."""
    where = tmp_path / "x.warc.gz"
    where.write_bytes(gzip.compress(b"\x1f\x8b\x08" * (4 << 20), 0))
    begin = time.process_time()
    assert sum(len(part.data) for part in parts_of(where, b"WARC/")) == 12 << 20
    assert time.process_time() - begin < 2


def test_a_window_that_takes_gigabytes_is_not_decoded(tmp_path: Path) -> None:
    """The attack: a frame of 16 kB whose decoder holds 2 GiB, here one of 256 MiB."""
    compress = zstandard.ZstdCompressor(write_content_size=False).compress
    sound = compress(b"sound")
    large = bytearray(compress(b"large"))
    assert large[:4] == b"\x28\xb5\x2f\xfd" and not large[4] >> 5 & 1
    path = tmp_path / "x.warc.zst"
    for exponent, error in ((27, ""), (28, f"a window of {1 << 28:,} bytes")):
        large[5] = exponent - 10 << 3
        path.write_bytes(sound + large + sound)
        before, middle, after = parts_of(path, b"sound")
        assert (before.data, after.data, before.error, after.error) == (b"sound", b"sound", "", "")
        assert middle.data == (bytes(large) if error else b"large")
        assert error in middle.error and bool(middle.error) == bool(error)
