"""Splits: however a file is divided, each of its records is in one of them, under its own place."""

from __future__ import annotations

import gzip
import json
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.artefact import Workspace
from penstock.errors import InputError
from penstock.pipeline.reading import arrays, json_lines, streams
from penstock.pipeline.reading.finding import find_inputs
from penstock.pipeline.reading.inputs import hash_inputs
from penstock.pipeline.reading.readers import Bad, Record
from penstock.pipeline.reading.records import HEAD, Extent, Span
from penstock.pipeline.reading.splits import InputPiece, Split, plan_splits
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import CorpusSource
from penstock.recipe_file import parse_recipe
from tests.pipeline.reading.reference import read_records
from tests.zstd import content_size, frame, skippable


def plan(directory: Path, size: int, workers: int = 1, **spec: Any) -> list[Split]:
    recipe = parse_recipe(
        {"corpus": {"path": "pool", **spec}, "budget": {"tokens": 1, "rank": "random"}}, directory
    )
    with closing(LocalRunner(workers)) as runner:
        inputs = hash_inputs(find_inputs(recipe).inputs, Workspace(directory / "work"), runner)
        return plan_splits(inputs, directory / "draft", size, runner)


def read(splits: list[Split], cap: int = 2**20) -> list[list[Record | Bad]]:
    """The records of each split, with true line numbers, as the second pass has them."""
    found: list[list[Record | Bad]] = []
    before: dict[int, tuple[int, int]] = {}
    for split in splits:
        found.append([])
        for piece in split.pieces:
            rows, start = before.get(piece.input, (0, 0))
            span = piece.span
            if not span.counted:
                span = replace(span, rows=rows, bytes=start, counted=True)
            extent = Extent()
            found[-1] += read_records(piece.place, piece.item.spec, span, cap, extent)
            before[piece.input] = rows + extent.lines, start + extent.bytes
    return found


def numbers(records: list[Record | Bad]) -> list[int]:
    return [
        record.number if isinstance(record, Record) else int(record.place.split()[1].rstrip(","))
        for record in records
    ]


def pool(directory: Path, name: str, content: bytes) -> Path:
    path = directory / "pool" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def some_lines(count: int, seed: int = 0) -> list[bytes]:
    """Good, bad and blank lines of any length, numbered from 1."""
    chance = random.Random(seed)
    kinds = [b'{"text": "%d %s"}', b"%d bad %s", b""]
    return [
        line % (number, b"x" * chance.choice([0, 1, 10, 300])) if line else line
        for number in range(1, count + 1)
        for line in [chance.choice(kinds)]
    ]


# -- lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("size", [1, 7, 100, 1000, 10**9])
def test_ranges_of_bytes_hold_each_line_once_under_its_number(
    tmp_path: Path, size: int, end: bytes
) -> None:
    content = b"\n".join(some_lines(60)) + b"\n{}" + end
    path = pool(tmp_path, "x.jsonl", content)
    whole = list(read_records(path, CorpusSource(path=str(path))))
    splits = plan(tmp_path, size)
    found = [record for records in read(splits) for record in records]
    assert found == whole and numbers(found) == numbers(whole)
    if size <= 1000:
        assert len(splits) > 3
        assert sum(1 for records in read(splits) if records) > 1


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(st.text("ab\n\r ", max_size=6), max_size=10),
    size=st.integers(1, 20),
    block=st.integers(1, 9),
)
def test_any_text_in_any_ranges_and_any_blocks(
    tmp_path: Path, texts: list[str], size: int, block: int
) -> None:
    content = "\n".join(texts).encode()
    path = pool(tmp_path, "x.txt", content)
    spec = CorpusSource(path=str(path), per="line")
    whole = [record.text for record in read_records(path, spec) if isinstance(record, Record)]
    expected = content.decode().split("\n")
    assert whole == [
        line.removesuffix("\r") for line in expected[: -1 if not expected[-1] else None]
    ]
    found: list[str] = []
    lines_before = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_BLOCK", block)
        for start in range(0, len(content), size):
            extent = Extent()
            span = Span(start=start, end=min(start + size, len(content)), rows=lines_before)
            for record in read_records(path, spec, span, 10**6, extent):
                assert isinstance(record, Record)
                found.append(record.text)
                assert record.number == len(found)
            lines_before += extent.lines
    assert found == whole


def test_lines_over_the_cap_are_counted_and_not_held(tmp_path: Path) -> None:
    """In the middle of a block, over many blocks, over many splits, and without an end."""
    cap = 2**17
    good = b'{"text": "good"}'
    long = [b"a" * (cap + 1), b'{"text": "' + b"b" * 3 * cap + b'"}', b"c" * 9 * cap]
    rows = [good, long[0], good, long[1], b"d" * cap, good, long[2]]
    path = pool(tmp_path, "x.jsonl", b"\n".join(rows))
    starts = [sum(len(row) + 1 for row in rows[:number]) for number in (1, 3, 6)]
    for size in (cap // 3, 2 * cap, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streams, "_BLOCK", cap // 2 + 7)
            found = [record for part in read(plan(tmp_path, size), cap) for record in part]
        assert [isinstance(record, Record) for record in found] == [True, False] * 2 + [
            False,
            True,
            False,
        ]
        bad = [record for record in found if isinstance(record, Bad) and "kept" in record.error]
        assert [record.place for record in bad] == [
            f"line {line}, from byte {start:,}" for line, start in zip((2, 4, 7), starts)
        ]
        assert [record.raw for record in bad] == [row[:HEAD] for row in long]
        assert all(
            record.error.startswith(f"{len(row):,} bytes in this line, more than the {cap:,}")
            for record, row in zip(bad, long)
        )
    assert path.stat().st_size < 2**22


def test_a_long_plain_text_file_is_counted_and_not_held(tmp_path: Path) -> None:
    pool(tmp_path, "x.txt.gz", gzip.compress(b"ab\n" * 10**6))
    (found,) = read(plan(tmp_path, 1000), cap=10**6)
    assert found == [
        Bad("file", f"3,000,000 bytes in this file, more than the 1,000,000 that clean."
            f"max_document_bytes leaves room for; only the first {HEAD:,} are kept here",
            (b"ab\n" * HEAD)[:HEAD])
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_long_values_of_a_column_are_measured_and_not_held(tmp_path: Path, kind: str) -> None:
    table = pa.table({"text": ["a", "b" * 200_000, None, "c" * 300_000, "d"], "id": list("12345")})
    path = tmp_path / "pool" / f"x.{kind}"
    path.parent.mkdir()
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    (found,) = read(plan(tmp_path, 10**9), cap=200_000)
    assert [r.text[0] if isinstance(r, Record) else r.place for r in found] == [
        "a",
        "b",
        "row 3",
        "row 4",
        "d",
    ]
    bad = found[3]
    assert isinstance(bad, Bad) and bad.raw == b"c" * HEAD
    assert bad.error.startswith("300,000 bytes in this value of 'text'")


# -- compressed streams -----------------------------------------------------------------------


@pytest.mark.parametrize("sized", [True, False])
def test_zstd_is_divided_at_frames_and_lines_run_over_them(tmp_path: Path, sized: bool) -> None:
    content = b"\n".join(some_lines(300, seed=3)) + b"\n"
    chance = random.Random(1)
    frames, start = [], 0
    while start < len(content):
        end = start + chance.choice([0, 1, 50, 700, 900])
        frames.append(frame(content[start:end], sized=sized))
        frames.append(skippable(chance.randrange(20)) if chance.random() < 0.3 else b"")
        start = end
    path = pool(tmp_path, "x.jsonl.zst", b"".join(frames))
    whole = list(read_records(path, CorpusSource(path=str(path))))
    assert numbers(whole)[-1] <= 300 and len(whole) > 150
    splits = plan(tmp_path, 2000)
    assert len(splits) > 3 and not (tmp_path / "draft" / "scratch" / "pieces").exists()
    found = [record for records in read(splits) for record in records]
    assert found == whole and numbers(found) == numbers(whole)


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_stream_without_a_way_in_is_cut_into_pieces_of_lines(
    tmp_path: Path, ending: str, kind: str
) -> None:
    rows = [b'{"text": "%s"}' % random.Random(n).randbytes(60).hex().encode() for n in range(400)]
    rows[7] = rows[7][:-2] + b"y" * 9000 + b'"}'
    content = b"\xef\xbb\xbf" + b"\n".join(rows)
    path = pool(
        tmp_path, f"x.{kind}.{ending}", gzip.compress(content) if ending == "gz" else frame(content)
    )
    spec = {"per": "line"}
    whole = list(
        read_records(
            path,
            CorpusSource(
                path=str(path), source={"name": "pool"} if kind == "txt" else "source", **spec
            ),
        )
    )
    splits = plan(tmp_path, 4000, **spec)
    assert len(splits) > 8
    found = [record for records in read(splits) for record in records]
    assert found == whole and numbers(found) == numbers(whole) == list(range(1, 401))
    pieces = sorted((tmp_path / "draft" / "scratch" / "pieces").rglob("*.zst"))
    assert len(pieces) == len(splits)
    for piece in pieces[:-1]:
        text = b"".join(streams.blocks(piece))
        assert text.endswith(b"\n") and len(text) >= 4000
        assert len(text) - len(text.splitlines(keepends=True)[-1]) < 4000, "ends with its line"


def test_cutting_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [b'{"text": "%s"}' % random.Random(n).randbytes(60).hex().encode() for n in range(400)]
    pool(tmp_path, "x.jsonl.gz", gzip.compress(b"\n".join(rows)))
    real = arrays.blocks
    monkeypatch.setattr(streams, "_BLOCK", 500)

    def killed(*span: Any) -> Any:
        for number, block in enumerate(real(*span)):
            if number == 50:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(arrays, "blocks", killed)
    with pytest.raises(KeyboardInterrupt):
        plan(tmp_path, 4000)
    monkeypatch.undo()
    [directory] = (tmp_path / "draft/scratch/pieces").glob("00000-*")
    first = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert 3 < len(first) < 10 and not [name for name in first if name.endswith(".tmp")]
    splits = plan(tmp_path, 4000)
    assert {name: (directory / name).stat().st_mtime_ns for name in first} == first
    found = [record for records in read(splits) for record in records]
    assert numbers(found) == list(range(1, 401))
    again = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert plan(tmp_path, 4000) == splits
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == again


def test_pieces_of_a_file_that_was_another_one_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: a file is swapped while it is cut, and put back: its pieces would be used again."""
    rows = [b'{"text": "%s"}' % random.Random(n).randbytes(60).hex().encode() for n in range(400)]
    good = gzip.compress(b"\n".join(rows))
    pool(tmp_path, "x.jsonl.gz", good)
    [path] = tmp_path.rglob("x.jsonl.gz")
    real = arrays.blocks

    def swapped(*span: Any) -> Any:
        path.write_bytes(gzip.compress(b"\n".join(rows[::-1])))
        yield from real(*span)

    monkeypatch.setattr(arrays, "blocks", swapped)
    with pytest.raises(InputError):
        plan(tmp_path, 4000)
    monkeypatch.undo()
    path.write_bytes(good)
    found = [record.text for records in read(plan(tmp_path, 4000)) for record in records]
    assert found == [json.loads(row)["text"] for row in rows]


def test_a_truncated_stream_is_refused_while_it_is_divided(tmp_path: Path) -> None:
    whole = gzip.compress(random.Random(0).randbytes(20_000))
    pool(tmp_path, "x.jsonl.gz", whole[:-5])
    with pytest.raises(InputError) as caught:
        plan(tmp_path, 1000)
    assert caught.value.file == str(tmp_path / "pool" / "x.jsonl.gz")


# -- columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "file", "stream", "hf"])
def test_columnar_files_are_divided_and_keep_their_row_numbers(tmp_path: Path, kind: str) -> None:
    texts = [f"text {n}" if n % 7 else None for n in range(3000)]
    table = pa.table({"text": texts, "id": [str(n) for n in range(3000)]})
    (tmp_path / "pool").mkdir()
    spec: dict[str, Any] = {}
    if kind == "parquet":
        pq.write_table(table, tmp_path / "pool" / "x.parquet", row_group_size=70)
    elif kind == "hf":
        import datasets

        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(str(tmp_path / "pool"))
        spec = {"path": "hf:pool"}
    else:
        new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with new(str(tmp_path / "pool" / "x.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=70)
    splits = plan(tmp_path, 5000, **spec)
    assert len(splits) > 6
    found = [record for records in read(splits) for record in records]
    assert numbers(found) == list(range(1, 3001))
    assert [r.text if isinstance(r, Record) else None for r in found] == texts


def test_a_missing_column_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "pool" / "x.parquet")
    with pytest.raises(InputError) as caught:
        plan(tmp_path, 10**6)
    assert (caught.value.expected, caught.value.got) == ("a column 'text' (corpus.text)", "body")


def test_a_missing_field_of_json_lines_is_refused(tmp_path: Path) -> None:
    pool(tmp_path, "x.jsonl", b'{"body": "x", "url": 1}\n' * json_lines._ENOUGH_WITHOUT_TEXT)
    with pytest.raises(InputError) as caught:
        read(plan(tmp_path, 10**6))
    assert caught.value.file == str(tmp_path / "pool" / "x.jsonl")
    assert caught.value.expected == "a field 'text' (corpus.text)"
    assert caught.value.got is not None and caught.value.got.startswith("'body', 'url'")
    assert " 10 records" in caught.value.got
    pool(tmp_path, "x.jsonl", b'{"body": "x"}\n' * 50 + b'{"text": "x"}\n')
    assert len(read(plan(tmp_path, 10**6))[0]) == 51
    pool(tmp_path, "x.jsonl", b'{"body": "x"}\n' * (json_lines._ENOUGH_WITHOUT_TEXT - 1))
    assert len(read(plan(tmp_path, 10**6))[0]) == json_lines._ENOUGH_WITHOUT_TEXT - 1


# -- the plan ---------------------------------------------------------------------------------


def test_small_files_are_packed_and_large_ones_are_not(tmp_path: Path) -> None:
    for number in range(100):
        pool(tmp_path, f"{number}.txt", b"%03d " % number * 25)
    pool(tmp_path, "large.jsonl", b'{"text": "x"}\n' * 1000)
    splits = plan(tmp_path, 4000)
    assert 14 <= len(splits) <= 16
    assert sum(len(split.pieces) for split in splits) == 100 + 4
    assert all(
        sum(piece.span.size for piece in split.pieces) <= 1000
        for split in splits
        if len(split.pieces) > 1
    )
    assert [split.number for split in splits] == list(range(len(splits)))
    order = [piece.input for split in splits for piece in split.pieces]
    assert order == sorted(order)


def test_the_plan_depends_on_nothing_but_bytes_and_size(tmp_path: Path) -> None:
    for name in ("here", "there"):
        for number in range(5):
            rows = b"".join(b'{"text": "%d %d"}\n' % (number, n) for n in range(200))
            path = pool(tmp_path, "x", b"").parent  # the directory
            path = tmp_path / name / "pool" / f"{number}.jsonl{'' if number % 2 else '.zst'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rows if number % 2 else frame(rows) + frame(rows))

    def spans(splits: list[Split]) -> list[list[tuple[int, Span]]]:
        return [[(piece.input, piece.span) for piece in split.pieces] for split in splits]

    one, other = plan(tmp_path / "here", 500), plan(tmp_path / "there", 500, workers=2)
    assert spans(one) == spans(other) and len(one) > 10


def test_an_error_in_a_piece_names_the_file_that_it_is_of(tmp_path: Path) -> None:
    rows = b"".join(
        b'{"body": "%s"}\n' % random.Random(n).randbytes(40).hex().encode() for n in range(200)
    )
    pool(tmp_path, "x.jsonl.gz", gzip.compress(rows))
    splits = plan(tmp_path, 1500)
    assert splits[0].pieces[0].span.file
    with pytest.raises(InputError) as caught:
        list(splits[0].pieces[0].batches(2**20, Extent()))
    assert caught.value.file is not None and "x.jsonl.gz, in the piece " in caught.value.file
    assert caught.value.expected == "a field 'text' (corpus.text)"


def test_labels_name_files_and_bytes(tmp_path: Path) -> None:
    pool(tmp_path, "a.jsonl", b'{"text": "x"}\n' * 1000)
    first, second, *_ = plan(tmp_path, 4000)
    assert first.label == "part 00000: pool/a.jsonl, bytes 0–4,000"
    assert second.label == "part 00001: pool/a.jsonl, bytes 4,000–8,000"
    both: tuple[InputPiece, ...] = (*first.pieces, *second.pieces)
    assert replace(first, pieces=both).label.endswith("bytes 0–4,000 and 1 more")


def test_the_size_of_a_frame_is_read_from_its_header() -> None:
    """Of the helpers above: both ways of writing a frame are tried."""
    assert content_size(frame(b"x" * 300, sized=True)) == 300
    assert content_size(frame(b"x" * 300, sized=False)) is None
