"""Attacks by Parquet files: memory is bounded whatever a file claims."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.columnar import InputParquet, OwnParquet, read_parquet
from penstock.columnar.arrow_claims import most_decoded
from penstock.columnar.parquet_indices import most_repeated
from penstock.columnar.parquet_levels import longest_list
from penstock.columnar.parquet_pages import read_chunk, read_groups
from penstock.errors import ArtefactError, InputError
from penstock.pipeline.reading.records import Bad, Record
from penstock.recipe import CorpusSource
from tests.columnar.hostile import arrow_bytes, write
from tests.pipeline.reading.reference import read_records

SPEC = CorpusSource(path="x")

MIB = 1 << 20


def repeated(count: int, size: int = MIB) -> pa.Array:
    """One text for many rows."""
    indices = pa.array(np.zeros(count, np.int32))
    return pa.DictionaryArray.from_arrays(indices, pa.array(["x" * size]))


def views(count: int, size: int = MIB) -> pa.Array:
    """Many views of one text."""
    _, own, data = pa.array(["x" * size], pa.string_view()).buffers()
    return pa.Array.from_buffers(
        pa.string_view(), count, [None, pa.py_buffer(own.to_pybytes()[:16] * count), data]
    )


def list_views(count: int, size: int = MIB) -> pa.Array:
    """Many views of the same elements."""
    starts, sizes = np.zeros(count, np.int32), np.full(count, size, np.int32)
    elements = pa.array(np.zeros(size, np.int8))
    return pa.ListViewArray.from_arrays(pa.array(starts), pa.array(sizes), elements)


def runs(count: int, size: int = MIB) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([count], pa.int32()), ["x" * size])


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    how = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(pa.table(columns), path, **{**how, **options})
    return path


BOMBS = {
    "text.parquet": {"text": repeated(1000)},
    "side.parquet": {"text": ["t"] * 1000, "meta": repeated(1000)},
    "text.arrow": {"text": repeated(1000)},
    "views.arrow": {"text": views(1000)},
    "runs.arrow": {"text": runs(1000)},
    "side views.arrow": {"text": ["t"] * 1000, "meta": views(1000)},
    "list views.arrow": {"text": ["t"] * 300, "meta": list_views(300)},
    "list.arrow": {
        "text": ["t"] * 3,
        "meta": pa.ListArray.from_arrays([0, 300, 600, 1000], repeated(1000)),
    },
}
"""Files that stand for 1 GiB."""

_CHILD = """
import resource, sys
from penstock.pipeline.reading.readers import read_batches
from penstock.recipe import CorpusSource
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
for path in sys.argv[2:]:
    kept, places = 0, []
    for batch in read_batches(path_of(path), CorpusSource(path=path), cap=int(sys.argv[1])):
        kept += len(batch.documents)
        places += [bad.place for bad in batch.bad]
    print(path.rpartition("/")[2], kept, len(places), places[0] if places else "",
          places[-1] if places else "", peak() - before, sep=";")
""".replace("path_of(path)", "__import__('pathlib').Path(path)")


def test_values_that_are_stored_once_do_not_take_memory(tmp_path: Path) -> None:
    """Rows over the cap are quarantined by their numbers, in a process of its own."""
    paths = []
    for name, columns in BOMBS.items():
        path = tmp_path / name
        if name.endswith(".parquet"):
            write_parquet(path, columns)
        else:
            write(path, arrow_bytes(columns))
        assert path.stat().st_size < 4 * MIB
        paths.append(str(path))
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD, str(MIB // 2), *paths],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30)),
    )
    lines = [line.split(";") for line in ran.stdout.splitlines()]
    assert len(lines) == len(BOMBS)
    for (name, kept, bad, first, last, grown), columns in zip(lines, BOMBS.values()):
        rows = len(columns["text"])
        assert (int(kept), int(bad)) == (0, rows), name
        assert (first, last) == ("row 1", f"row {rows}"), name
        assert int(grown) < 400, (name, grown)


def test_rows_below_the_cap_are_documents(tmp_path: Path) -> None:
    texts = ["x" * 70_000, "y", "z" * 300_000]
    indices = pa.array([0, 1, 2, None, 1] * 500)
    coded = pa.DictionaryArray.from_arrays(indices, pa.array(texts))
    path = write_parquet(tmp_path / "x.parquet", {"text": coded, "same": coded})
    found = read_records(path, SPEC)
    assert [one.number for one in found] == list(range(1, 2501))
    for row, one in zip(indices.to_pylist(), found):
        if row is None:
            assert isinstance(one, Bad)
        else:
            assert isinstance(one, Record) and one.text == texts[row]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_row_groups_without_rows_are_read(version: str, tmp_path: Path) -> None:
    """Their pages begin at byte 0 of the file, by the footer that Arrow writes."""
    kinds = {"text": pa.string(), "flag": pa.bool_(), "list": pa.list_(pa.int64())}
    empty = pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
    for columns in (empty.select(["text"]), empty):
        named = dict(zip(columns.column_names, columns))
        path = write_parquet(tmp_path / "x.parquet", named, data_page_version=version)
        assert pq.read_metadata(path).num_row_groups == 1
        assert read_records(path, SPEC) == []
    one = pa.table({"text": ["a"], "flag": [True], "list": [[1]]}, empty.schema)
    with pq.ParquetWriter(path, empty.schema, data_page_version=version) as writer:
        for table in (empty, one, empty, one):
            writer.write_table(table)
    assert pq.read_metadata(path).num_row_groups == 4
    assert [one.number for one in read_records(path, SPEC)] == [1, 2]


# -- claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "dictionary", "side"])
def test_a_page_that_decodes_to_far_more_than_its_bytes_is_refused(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", MIB)
    large = ["a" * (most_decoded(0) + 1)]
    columns = {"text": large} if how != "side" else {"text": ["t"], "meta": large}
    path = write_parquet(tmp_path / "x.parquet", columns, use_dictionary=how == "dictionary")
    assert path.stat().st_size < MIB // 64
    with pytest.raises(InputError, match="claims to decode") as error:
        read_records(path, SPEC)
    assert error.value.file == str(path)


def test_a_file_with_far_more_rows_than_bytes_is_refused(tmp_path: Path) -> None:
    """7 kB were 3 million bad records."""
    count = (1 << 20) + 1
    path = write_parquet(tmp_path / "x.parquet", {"text": pa.nulls(count, pa.string())})
    assert path.stat().st_size < count // 64
    with pytest.raises(InputError, match="claim to hold 1,048,577 rows") as error:
        read_records(path, SPEC)
    assert error.value.file == str(path)
    write_parquet(path, {"text": pa.nulls(count, pa.string()), "n": np.arange(count)})
    with open(path, "rb") as source, InputParquet(pa.PythonFile(source)) as file:
        assert file.metadata.num_rows == count


def test_rows_of_the_file_are_those_of_its_row_groups(tmp_path: Path) -> None:
    """A footer said 5 rows for groups of 250: parts of the file held others than the whole."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["a"] * 5_000}), path, row_group_size=2_000)
    assert len(read_records(path, SPEC)) == 5_000
    data = path.read_bytes()
    rows, fewer = b"\x16\x90\x4e", b"\x16\x8e\x4e"  # field 3 of the footer: 5,000 and 4,999
    assert data.count(rows) == 1
    path.write_bytes(data.replace(rows, fewer))
    with pytest.raises(InputError, match="4,999 rows") as error:
        read_records(path, SPEC)
    assert error.value.file == str(path)


def test_deltas_of_long_texts_are_decoded_a_few_at_a_time(tmp_path: Path) -> None:
    """Each value repeats the one before, which takes three bytes."""
    path = write_parquet(
        tmp_path / "x.parquet",
        {"text": ["a" * MIB] * 200},
        use_dictionary=False,
        column_encoding={"text": "DELTA_BYTE_ARRAY"},
    )
    with open(path, "rb") as source, InputParquet(pa.PythonFile(source)) as file:
        sizes = [len(batch) for batch in file.batches(0, 1024, 16 * MIB)]
    assert sum(sizes) == 200 and max(sizes) <= 16


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_row_with_far_more_elements_than_bytes_is_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", MIB)
    count = 1 << 20
    zeros = pa.ListArray.from_arrays([0, 1, count], pa.array(np.zeros(count, np.int8)))
    path = write_parquet(
        tmp_path / "x.parquet", {"text": ["t", "t"], "n": zeros}, data_page_version=version
    )
    assert path.stat().st_size < MIB
    with pytest.raises(InputError, match="a row claims"):
        read_records(path, SPEC)


def test_many_short_lists_of_few_bytes_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", MIB)
    rows, each = 7_000, 1000
    mask = pa.ListArray.from_arrays(
        pa.array(np.arange(rows + 1) * each, pa.int32()), pa.array(np.ones(rows * each, np.int8))
    )
    path = write_parquet(tmp_path / "x.parquet", {"text": ["t"] * rows, "mask": mask})
    assert path.stat().st_size < MIB // 64, "as those of tokenised data sets"
    with open(path, "rb") as source, InputParquet(pa.PythonFile(source)) as file:
        batch = next(file.batches(0, 1024, 16 * MIB))
    assert batch["mask"][0].as_py() == [1] * each


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "lz4", "brotli", "none"])
def test_the_longest_list_is_that_of_the_values(
    compression: str, version: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    for scale in (1, 20, 1000):
        lists = [
            None
            if rng.random() < 0.1
            else [[1] * int(rng.integers(0, 4))] * int(rng.integers(0, scale))
            for _ in range(200)
        ]
        path = write_parquet(
            tmp_path / "x.parquet",
            {"n": pa.array(lists, pa.list_(pa.list_(pa.int64())))},
            compression=compression,
            data_page_version=version,
            data_page_size=500,
            write_batch_size=16,
        )
        longest = max(max(1, sum(max(1, len(inner)) for inner in own or [])) for own in lists)
        with pq.ParquetFile(path) as file, pa.OSFile(str(path)) as source:
            (place,) = read_groups(source)[0].columns
            chunk = read_chunk(source, place, file.schema.column(0))
            assert len(chunk.data) > 1 or scale < 3000
            assert longest_list(chunk) == longest


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_repeats_of_an_entry_are_those_of_the_values(
    compression: str, version: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    for distinct, share in ((1, 0.0), (3, 0.5), (700, 0.1), (5000, 0.0)):
        codes = rng.zipf(1.3, 3000) % distinct
        codes[1000:1300] = codes[1000]  # a run
        codes = np.where(rng.random(3000) < share, -1, codes)
        texts = [None if code < 0 else f"text {code}" for code in codes.tolist()]
        path = write_parquet(
            tmp_path / "x.parquet",
            {"text": texts},
            compression=compression,
            data_page_version=version,
            data_page_size=400,
            write_batch_size=64,
        )
        with pq.ParquetFile(path) as file, pa.OSFile(str(path)) as source:
            (place,) = read_groups(source)[0].columns
            chunk = read_chunk(source, place, file.schema.column(0))
            found = {rows: most_repeated(chunk, rows) for rows in (10, 256, 3000)}
        for rows, repeats in found.items():
            windows = [texts[start : start + rows] for start in range(3001 - rows)][:: rows // 8]
            most = max(max(Counter(filter(None, own)).values(), default=0) for own in windows)
            assert most <= repeats <= min(rows, 2 * most + 2)
        assert found[3000] == max(Counter(filter(None, texts)).values())


@pytest.mark.parametrize("longest", [0, 37, 399])
def test_one_long_entry_among_many_does_not_take_memory(longest: int, tmp_path: Path) -> None:
    """The attack: most rows are distinct and short, and some hundred are one text of 1 MiB."""
    texts = [f"{number} " * 100 for number in range(400)]
    texts[longest] = "x" * MIB
    codes = np.arange(4000) % 400
    codes[2500:2900] = longest
    coded = pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(texts))
    path = write_parquet(tmp_path / "x.parquet", {"text": coded})
    most = 16 * MIB
    with pa.OSFile(str(path)) as source, InputParquet(source) as file:
        sizes = [batch.nbytes for batch in file.batches(0, 1024, most)]
    assert sum(sizes) > 400 * MIB and max(sizes) <= most


def test_a_dictionary_of_distinct_texts_is_decompressed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"text": [f"{n} " * 800 for n in range(2000)]})
    monkeypatch.setattr("penstock.columnar.parquet_claims._longest_entry", None)
    with pa.OSFile(str(path)) as source, InputParquet(source) as file:
        assert [len(batch) for batch in file.batches(0, 1024, 16 * MIB)] == [1024, 976]


# -- damage -----------------------------------------------------------------------------------


def test_files_of_an_artefact_are_validated(tmp_path: Path) -> None:
    bad = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    path = write_parquet(tmp_path / "x.parquet", {"text": bad, "n": [1, 2]})
    assert read_parquet(path, ["n"]).num_rows == 2
    with OwnParquet(path) as file:
        reads = [
            lambda: read_parquet(path),
            lambda: file.read(["text"]),
            lambda: file.read_row_group(0),
            lambda: file.read_row_groups([0]),
            lambda: list(file.iter_batches()),
        ]
        for read in reads:
            with pytest.raises(ArtefactError) as error:
                read()
            assert error.value.file == str(path)
    data = path.read_bytes()
    for end in range(0, len(data), 7):
        write(path, data[:end])
        with pytest.raises(ArtefactError):
            read_parquet(path)


@pytest.mark.parametrize("side", [False, True])
def test_a_file_of_an_artefact_cannot_take_memory(
    side: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a unit of some kB in a work directory from elsewhere, for 100 MiB of text."""
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", 8 * MIB)
    codes = np.zeros(3000, np.int32)
    codes[7] = 1
    sound = pa.DictionaryArray.from_arrays(codes, pa.array(["short", "x" * (MIB // 4)]))
    path = write_parquet(tmp_path / "sound.parquet", {"text": sound})
    assert read_parquet(path)["text"].to_pylist() == sound.to_pylist()
    bomb = {"text": ["t"] * 100, "meta": repeated(100)} if side else {"text": repeated(100)}
    path = write_parquet(tmp_path / "x.parquet", bomb)
    assert path.stat().st_size < MIB // 16
    with OwnParquet(path) as file:
        reads = [
            file.read,
            lambda: file.read_row_group(0),
            lambda: file.read_row_groups([0]),
            lambda: next(file.iter_batches()),
        ]
        for read in reads:
            with pytest.raises(ArtefactError, match="claims to decode") as error:
                read()
            assert error.value.file == str(path)


def test_a_truncated_input_is_refused_at_every_byte(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"text": ["one", "two"], "n": [[1], [2]]})
    data = path.read_bytes()
    for end in range(len(data)):
        write(path, data[:end])
        with pytest.raises(InputError) as error:
            read_records(path, SPEC)
        assert error.value.file == str(path)
