"""Attacks by Arrow files: a damaged file is refused before a value of it is read."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.columnar import open_arrow, read_batch, read_batches, validate
from penstock.columnar.arrow_claims import most_decoded
from penstock.errors import ArtefactError, InputError
from penstock.pipeline.reading.records import Bad, Record
from penstock.pipeline.reading.tables import arrow_spans as spans
from penstock.pipeline.reading.values import bytes_of
from penstock.recipe import CorpusSource
from tests.columnar.hostile import ATTACKS, TEXTS, arrow_bytes, attack, replaced, write
from tests.pipeline.reading.reference import read_records

SPEC = CorpusSource(path="x")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_columns_are_refused(name: str, hidden: bool, stream: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", attack(name, hidden=hidden, stream=stream))
    with pytest.raises(InputError) as error:
        read_records(path, SPEC)
    assert error.value.file == str(path)


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_texts_are_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", attack(name, text=True))
    with pytest.raises(InputError) as error:
        read_records(path, SPEC)
    assert error.value.file == str(path)


@pytest.mark.parametrize("name", ATTACKS)
def test_files_of_an_artefact_are_validated(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", attack(name))
    for read in (read_batches, read_batch):
        with pytest.raises(ArtefactError) as error:
            read(path)
        assert error.value.file == str(path)


@pytest.mark.parametrize("nested", [False, True])
def test_hostile_views_of_nulls_are_refused(nested: bool, tmp_path: Path) -> None:
    """Arrow's own full validation leaves the views of nulls out, and its casts follow them."""
    column: pa.Array = pa.array([text * 2 for text in TEXTS], pa.string_view())
    bare = pa.Array.from_buffers(
        pa.string_view(), 3, [pa.py_buffer(b"\x05"), *column.buffers()[1:]], 1
    )
    lists = pa.ListArray.from_arrays([0, 1, 2, 3], bare)
    columns = {"text": ["t"] * 3, "meta": lists} if nested else {"text": bare}
    data = arrow_bytes(columns)
    old = [44, int.from_bytes(b"bbbb", "little"), 0, 154]
    path = tmp_path / "x.arrow"
    assert len(read_records(write(path, data), SPEC)) == 3
    for number, new in ((0, -(2**31)), (3, 2**30), (2, 7)):
        changed = [*old[:number], new, *old[number + 1 :]]
        with pytest.raises(InputError):
            read_records(write(path, replaced(data, old, changed, "<i4")), SPEC)


def test_the_same_files_without_an_attack_are_read(tmp_path: Path) -> None:
    for number, (column, *_) in enumerate(ATTACKS.values()):
        path = tmp_path / f"{number}.arrow"
        write(path, arrow_bytes({"text": ["t"] * len(column), "meta": column}))
        assert [one.text for one in read_records(path, SPEC)] == ["t"] * len(column)
        assert read_batch(path)["meta"].equals(column)


def test_bytes_that_are_not_utf8_cost_no_document_but_where_they_are_the_text(
    tmp_path: Path,
) -> None:
    raw = [b"good", b"\xff\xfe", b"also"]
    bad = pa.array(raw, pa.binary()).view(pa.string())
    nested = pa.StructArray.from_arrays([bad, pa.ListArray.from_arrays([0, 1, 2, 3], bad)], "ab")
    views = pa.array(raw, pa.binary_view()).view(pa.string_view())
    coded = pa.DictionaryArray.from_arrays(pa.array([2, 1, 0]), bad)
    columns = {"text": bad, "nested": nested, "views": views, "coded": coded}
    path = write(tmp_path / "x.arrow", arrow_bytes(columns))
    first, second, third = read_records(path, SPEC)
    assert isinstance(first, Record) and isinstance(third, Record) and isinstance(second, Bad)
    assert first.text == "good" and "UTF-8" in second.error and second.place == "row 2"
    assert '"coded":"also"' in first.meta and '"views":"good"' in first.meta
    with pytest.raises(ArtefactError):
        read_batch(path)
    with open_arrow(path) as file, pytest.raises(pa.ArrowInvalid):
        list(file.batches())


def test_texts_of_dictionaries_of_any_layout_are_read(tmp_path: Path) -> None:
    """Arrow has no kernel to take views."""
    entries = [None, "", "a", "b" * 40, "é" * 40, "never used"]
    places = [3, None, 2, 0, 4, 1, 3, 2]
    wanted = [None if at is None else entries[at] for at in places]
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        for index in (pa.int8(), pa.uint64()):
            own = pa.array(["x", *entries], kind).slice(1)
            coded = pa.DictionaryArray.from_arrays(pa.array(places, index), own)
            for start in (0, 3):
                found = bytes_of(coded.slice(start))
                assert found is not None and found.type == pa.large_binary()
                texts = [None if one is None else one.decode() for one in found.to_pylist()]
                assert texts == wanted[start:], kind
            path = write(tmp_path / "x.arrow", arrow_bytes({"text": coded}))
            read = [one.text for one in read_records(path, SPEC) if isinstance(one, Record)]
            assert read == [text for text in wanted if text is not None]
    nothing = pa.DictionaryArray.from_arrays(
        pa.array([None], pa.int8()), pa.array([], pa.string_view())
    )
    assert bytes_of(nothing).to_pylist() == [None]  # type: ignore[union-attr]


def test_a_file_of_feather_1_is_named_with_its_fix(tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", b"FEA1" + bytes(60) + b"FEA1")
    with pytest.raises(InputError, match="Feather version 1.*write_feather") as error:
        read_records(path, SPEC)
    assert error.value.file == str(path)


def test_all_types_are_validated_as_bytes() -> None:
    """A type that cannot be viewed as bytes would be an error on sound data."""
    columns = [column for column, *_ in ATTACKS.values()]
    columns += [
        pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
        pa.array([["a", "b"]], pa.list_(pa.string(), 2)),
        pa.array([["a"]], pa.large_list(pa.string_view())),
        pa.array([["a"]], pa.large_list_view(pa.large_string())),
        pa.array([b"1" * 16], pa.uuid()),
        pa.ListArray.from_arrays([0, 1], pa.array(["{}"], pa.json_(pa.string()))),
        pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array(["a"])]),
        pa.array([1], pa.timestamp("ns", "UTC")),
        pa.nulls(3),
    ]
    for column in columns:
        batch = pa.record_batch({"x": column})
        assert validate(batch, utf8=False) is batch


# -- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("claim", [2**46, 2**33, 2**62])
def test_a_compressed_buffer_cannot_ask_for_memory(
    claim: int, stream: bool, tmp_path: Path
) -> None:
    text = "abcdefgh" * 1000
    data = arrow_bytes({"text": [text]}, stream, "zstd")
    frame = b"\x28\xb5\x2f\xfd"
    size = (8000).to_bytes(8, "little")
    assert data.count(size + frame) == 1
    data = data.replace(size + frame, claim.to_bytes(8, "little") + frame)
    path = write(tmp_path / "x.arrow", data)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(InputError, match="claims to decode") as error:
        read_records(path, SPEC)
    assert error.value.file == str(path)
    assert pa.default_memory_pool().max_memory() < max(before, 2**32)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("coded", [False, True])
def test_a_batch_that_decodes_to_far_more_than_its_bytes_is_refused(
    coded: bool, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", 1 << 20)
    texts = pa.array(["a" * (most_decoded(0) + 1)])
    data = arrow_bytes({"text": texts.dictionary_encode() if coded else texts}, stream, "zstd")
    assert len(data) < 2**14
    with pytest.raises(InputError, match="claims to decode"):
        read_records(write(tmp_path / "x.arrow", data), SPEC)


@pytest.mark.parametrize("stream", [False, True])
def test_compression_of_old_metadata_is_counted(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of version 4 names its compression beside the batch, as Arrow 0.17 wrote it."""
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", 1 << 20)
    data = bytes(most_decoded(0) + 8)
    size, packed = len(data), pa.Codec("zstd").compress(data, asbytes=True)
    padding = -len(packed) % 8
    packed += (0x184D2A50).to_bytes(4, "little") + padding.to_bytes(4, "little") + bytes(padding)
    numbers = np.frombuffer(size.to_bytes(8, "little") + packed, "<i8")
    batch = pa.record_batch({"text": pa.nulls(len(numbers)), "n": numbers})
    path = tmp_path / "x.arrow"
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    for named in ({"ARROW:experimental_compression": "zstd"}, None):
        options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
        with make(str(path), batch.schema, options=options) as writer:
            writer.write_batch(batch, custom_metadata=named)
        if named is None:
            assert len(read_records(path, SPEC)) == len(batch)
        else:
            with pytest.raises(InputError, match="claims to decode"):
                read_records(path, SPEC)


@pytest.mark.parametrize("stream", [False, True])
def test_dictionaries_that_decode_to_far_more_than_their_bytes_together_are_refused(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", 1 << 20)
    coded = pa.array(["a" * (most_decoded(0) // 4)]).dictionary_encode()
    path = tmp_path / "x.arrow"
    for count in (3, 4):
        columns = {"text": ["t"], **{f"c{n}": coded for n in range(count)}}
        write(path, arrow_bytes(columns, stream, "zstd"))
        if count == 3:
            assert len(read_records(path, SPEC)) == 1
        else:
            with pytest.raises(InputError, match="the sum of the dictionaries .* claims"):
                read_records(path, SPEC)


def row_bombs() -> dict[str, pa.RecordBatch]:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), ["t"])
    nothing = pa.nulls(2**31 - 1)
    structures = pa.StructArray.from_arrays([nothing], ["a"])
    return {
        name: pa.record_batch({"text": column})
        for name, column in {"runs": runs, "nulls": nothing, "structures": structures}.items()
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["runs", "nulls", "structures"])
def test_a_file_with_far_more_rows_than_bytes_is_refused(
    name: str, stream: bool, tmp_path: Path
) -> None:
    """802 bytes were 2^31 documents, or bad records without end."""
    batch = row_bombs()[name]
    path = tmp_path / "x.arrow"
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), batch.schema) as writer:
        writer.write_batch(batch)
    assert path.stat().st_size < 1024
    with pytest.raises(InputError, match="claim to hold 2,147,483,647 rows") as error:
        read_records(path, SPEC)
    assert error.value.file == str(path)
    with pytest.raises(InputError, match="claim to hold"):
        spans(path, SPEC, 1 << 20)
    with make(str(path), batch.schema) as writer:  # of many batches, the sum
        for _ in range(5):
            writer.write_batch(batch.slice(0, 1 << 18))
    with open_arrow(path) as file, pytest.raises(pa.ArrowInvalid, match="claim to hold 1,310,720"):
        list(file.sizes())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", ["zstd", "lz4", None])
def test_sound_files_of_several_batches_are_read_from_any_batch_on(
    compression: str | None, stream: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.arrow"
    table = pa.table({"text": [f"text {n}" for n in range(50)]})
    coded = table.append_column("kind", pa.array(["a", "b"] * 25).dictionary_encode())
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=True)
    with make(str(path), coded.schema, options=options) as writer:
        writer.write_table(coded, max_chunksize=10)
    for start in range(6):
        with open_arrow(path) as file:
            texts = [text for own in file.batches(start) for text in own["text"].to_pylist()]
        assert texts == table["text"].to_pylist()[10 * start :]
    with open_arrow(path) as file:
        assert [rows for rows, _ in file.sizes()] == [10] * 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_truncated_file_is_refused_at_every_byte(stream: bool, tmp_path: Path) -> None:
    """But for a stream that ends between two messages, which has no mark of its end."""
    data = arrow_bytes({"text": ["one", "two"]}, stream)
    path = tmp_path / "x.arrow"
    read = []
    for end in range(len(data)):
        write(path, data[:end])
        with contextlib.suppress(InputError):
            read.append((end, len(read_records(path, SPEC))))
    assert len(read) <= (6 if stream else 0), read
    assert all(rows in (0, 2) for _, rows in read)


def test_metadata_of_flipped_bytes_ends_in_arrows_error(tmp_path: Path) -> None:
    data = bytearray(arrow_bytes({"text": ["one"], "meta": [1]}, compression="zstd"))
    rng = np.random.default_rng(5)
    path = tmp_path / "x.arrow"
    refused = 0
    for at in rng.choice(np.arange(8, len(data)), 200, replace=False).tolist():
        own = bytearray(data)
        own[at] ^= 0xFF
        write(path, bytes(own))
        try:
            with open_arrow(path) as file:
                list(file.batches())
        except (pa.ArrowException, OSError):
            refused += 1
    assert refused > 50
