"""Compressed files of any build give the records of their text: 120 generated ones."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import zstandard

from penstock.errors import InputError
from penstock.pipeline.reading.records import Bad, Record
from penstock.recipe import CorpusSource
from tests.pipeline.reading.reference import read_records
from tests.pipeline.reading.test_splits import numbers, plan, pool, read
from tests.zstd import skippable

MARK = b"\xef\xbb\xbf"


def lines(chance: random.Random) -> bytes:
    """Return lines of objects of any length, some behind byte order marks, some of them bad."""
    found = []
    for number in range(chance.randrange(1, 60)):
        text = chance.choice(["", "é" * 40, chance.randbytes(chance.randrange(900)).hex()])
        line = json.dumps({"id": number, "text": text}, ensure_ascii=False).encode()
        line = chance.choice([line, line, line, line, line[:-1], b""])
        found.append(chance.choice([b"", b"", b"", MARK, MARK + MARK]) + line)
    return b"\n".join(found) + chance.choice([b"", b"\n"])


def parts(chance: random.Random, content: bytes) -> list[bytes]:
    """Cut a text at any bytes; some parts are empty."""
    cuts = sorted(chance.randrange(len(content) + 1) for _ in range(chance.randrange(9)))
    return [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)])]


def zstd_file(chance: random.Random, content: bytes) -> bytes:
    """Compress with frames of every kind, and skippable ones before, between and behind them."""
    made, table = [], []
    for part in parts(chance, content):
        if chance.random() < 0.5:
            made.append(skippable(chance.randrange(30), chance.randrange(16)))
        kind = zstandard.ZstdCompressionParameters(
            window_log=chance.choice([10, 17, 27]),
            write_checksum=chance.random() < 0.5,
            write_content_size=chance.random() < 0.5,
        )
        stream = zstandard.ZstdCompressor(compression_params=kind).compressobj(
            size=len(part) if chance.random() < 0.5 else -1
        )
        made.append(stream.compress(part) + stream.flush())
        table.append(struct.pack("<II", len(made[-1]), len(part)))
    if chance.random() < 0.5:  # the table of the seekable format
        foot = b"".join(table) + struct.pack("<IBI", len(table), 0, 0x8F92EAB1)
        made.append(struct.pack("<II", 0x184D2A5E, len(foot)) + foot)
    return b"".join(made)


def gzip_file(chance: random.Random, content: bytes) -> bytes:
    """Compress with members of every kind, and zeros between and behind them."""
    made = []
    for part in parts(chance, content):
        flags, fields = 0, b""
        for flag, field in ((4, struct.pack("<H", 6) + b"BC\x02\x00ab"), (8, b"n\0"), (16, b"c\0")):
            if chance.random() < 0.3:
                flags, fields = flags | flag, fields + field
        body = gzip.compress(part, chance.choice([0, 1, 9]), mtime=0)
        made.append(body[:3] + bytes([flags]) + body[4:10] + fields + body[10:])
        made.append(bytes(chance.choice([0, 0, 0, 1, 512])))
    return b"".join(made)


def unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return reader.read()


def records_of_text(content: bytes) -> list[tuple[int, str | None]]:
    """Number and text of each line by Python's json; None for a line that is none."""
    found: list[tuple[int, str | None]] = []
    for number, raw in enumerate(content.decode().split("\n"), 1):
        line = raw.lstrip("\ufeff")
        if line.strip():
            try:
                found.append((number, json.loads(line)["text"]))
            except json.JSONDecodeError:
                found.append((number, None))
    return found


@pytest.mark.parametrize("kind", ["zst", "gz"])
def test_sixty_files_of_each_kind_whole_and_divided(tmp_path: Path, kind: str) -> None:
    compress, reference = {
        "zst": (zstd_file, unzstd), "gz": (gzip_file, gzip.decompress)
    }[kind]  # fmt: skip
    divided = 0
    for seed in range(60):
        chance = random.Random(f"{kind} {seed}")
        content = lines(chance)
        directory = tmp_path / str(seed)
        directory.mkdir()
        path = pool(directory, f"x.jsonl.{kind}", compress(chance, content))
        assert reference(path.read_bytes()) == content
        whole = list(read_records(path, CorpusSource(path=str(path))))
        found = [
            (number, one.text if isinstance(one, Record) else None)
            for number, one in zip(numbers(whole), whole)
        ]
        assert found == records_of_text(content), seed
        splits = plan(directory, chance.choice([1, 500, 4000]))
        again = [one for records in read(splits) for one in records]
        assert again == whole and numbers(again) == numbers(whole), seed
        divided += len(splits) > 1
    assert divided > 20


@pytest.mark.parametrize("threads", [1, 2])
def test_what_pzstd_writes(tmp_path: Path, threads: int) -> None:
    """Golden case of a file that begins with a skippable frame and is divided."""
    content = b"".join(
        json.dumps({"id": n, "text": random.Random(n).randbytes(9000).hex()}).encode() + b"\n"
        for n in range(300)
    )
    pzstd = shutil.which("pzstd")
    if pzstd is None:
        half = len(content) // threads
        data = b"".join(
            skippable(4) + zstandard.compress(content[at : at + half])
            for at in range(0, len(content), half)
        )
    else:
        command = [pzstd, "-q", "-c", "-p", str(threads)]
        data = subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True).stdout
    pool(tmp_path, "x.jsonl.zst", data)
    splits = plan(tmp_path, 1_500_000)
    assert splits[0].pieces[0].span.start == 0
    found = [one for records in read(splits) for one in records]
    assert [one.id for one in found if isinstance(one, Record)] == [str(n) for n in range(300)]


def test_the_text_field_is_checked_behind_a_skippable_frame(tmp_path: Path) -> None:
    content = b"".join(b'{"body": "%d"}\n' % n for n in range(4000))
    frames = [zstandard.compress(content[at : at + 9000]) for at in range(0, len(content), 9000)]
    pool(tmp_path, "x.jsonl.zst", skippable(4) + b"".join(frames))
    splits = plan(tmp_path, 2000)
    assert len(splits) > 1
    with pytest.raises(InputError) as caught:
        read(splits)
    assert caught.value.expected == "a field 'text' (corpus.text)"


# -- what cannot be read ----------------------------------------------------------------------

LINE = b'{"text": "a"}\n'


def refused(path: Path, content: bytes) -> InputError:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_records(path, CorpusSource(path=str(path))))
    assert caught.value.file == str(path)
    return caught.value


@pytest.mark.parametrize("log", [28, 31])
def test_a_window_that_is_too_large_is_named_with_the_fix(tmp_path: Path, log: int) -> None:
    kind = zstandard.ZstdCompressionParameters(window_log=log)
    stream = zstandard.ZstdCompressor(compression_params=kind).compressobj()
    content = zstandard.compress(LINE) + stream.compress(LINE) + stream.flush()
    error = refused(tmp_path / "x.jsonl.zst", content)
    assert f"a window of {1 << log:,} bytes" in error.problem
    assert error.fix is not None and f"--long={log} " in error.fix


def test_a_dictionary_is_named(tmp_path: Path) -> None:
    trained = zstandard.train_dictionary(
        1024, [b"%d some text %d" % (n, n * n) for n in range(999)]
    )
    compressor = zstandard.ZstdCompressor(dict_data=trained)
    error = refused(tmp_path / "x.jsonl.zst", compressor.compress(LINE * 9))
    assert f"the dictionary {trained.dict_id()}" in error.problem


@pytest.mark.parametrize(
    ("name", "content", "came"),
    [
        ("x.jsonl.gz", LINE, "begins with"),
        ("x.jsonl.zst", LINE, "begins with"),
        ("x.jsonl.gz", zstandard.compress(LINE), "zstd"),
        ("x.jsonl.zst", gzip.compress(LINE), "gzip"),
        ("x.jsonl.gz", b"BZh91AY", "bzip2"),
    ],
    ids=["plain-gz", "plain-zst", "zstd", "gzip", "bzip2"],  # of bytes: gzip writes the time
)
def test_a_file_of_another_kind_is_told_by_its_first_bytes(
    tmp_path: Path, name: str, content: bytes, came: str
) -> None:
    error = refused(tmp_path / name, content)
    assert error.expected in ("a gzip file", "a zstd file")
    assert error.got is not None and came in error.got


def test_the_byte_at_which_a_gzip_file_ends_is_told(tmp_path: Path) -> None:
    sound = gzip.compress(LINE, mtime=0) * 2
    for tail in (b"GARBAGE", bytes(700) + b"GARBAGE"):
        error = refused(tmp_path / "x.jsonl.gz", sound + tail)
        end = len(sound) + len(tail) - len(b"GARBAGE")
        assert f"ends at byte {end:,} " in error.problem
        assert error.fix is not None and f"head -c {end};" in error.fix
    error = refused(tmp_path / "x.jsonl.gz", sound[:-3])
    assert f"the gzip member at byte {len(sound) // 2:,}" in error.problem


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_skippable_frame_that_is_cut_is_refused(tmp_path: Path, cut: int) -> None:
    """Frames behind it would be lost silently, in a file that is divided too."""
    content = zstandard.compress(LINE) + skippable(4)[:-cut]
    refused(tmp_path / "x.jsonl.zst", content)
    pool(tmp_path, "x.jsonl.zst", content)
    with pytest.raises(InputError) as caught:
        read(plan(tmp_path, 1))
    assert caught.value.file == str(tmp_path / "pool" / "x.jsonl.zst")


def test_many_small_members_take_linear_time(tmp_path: Path) -> None:
    """20 bytes each: a copy of what follows each would be 60 GB."""
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"", mtime=0) * 60_000 + gzip.compress(LINE))
    assert [one.text for one in read_records(path, CorpusSource(path=str(path)))] == ["a"]  # type: ignore[union-attr]


def test_bad_lines_of_an_archive_keep_their_bytes(tmp_path: Path) -> None:
    path = pool(tmp_path, "x.jsonl.gz", gzip.compress(MARK + b'{"text": 1\n' + LINE) + bytes(9))
    bad, good = read_records(path, CorpusSource(path=str(path)))
    assert isinstance(bad, Bad) and bad.raw == MARK + b'{"text": 1'
    assert isinstance(good, Record) and good.text == "a"
