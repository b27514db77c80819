"""Exports of token ids, read by readers of this file's own and compared with the shards."""

from __future__ import annotations

import gzip
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.artefact import FileRecord
from penstock.errors import ArtefactError
from penstock.jobs.curate import Curated
from penstock.jobs.export import export, formats, mds
from penstock.jobs.export.arrays import write_arrays, write_megatron
from penstock.jobs.export.mds import SequenceFile, index_file, write_mds
from penstock.jobs.export.token_streams import TokenFile, TokenWriting
from penstock.pipeline.runner import LocalRunner
from tests.documented import blocks
from tests.jobs.export.exported import HOSTILE, curated_of

LENGTH = 16


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Shards of 20 sequences in three groups, of which one document fills several."""
    directory = tmp_path_factory.mktemp("tokens")
    return curated_of(directory, tokens=6_000, shares={"wiki": 0.3, "code": 0.05})


def documents_of_shards(curated: Curated) -> list[tuple[str, list[int]]]:
    """The ids and tokens of documents, joined over sequences and shards."""
    found: list[tuple[str, list[int]]] = []
    for record in curated.shards.named("shard-"):
        for row in pa.ipc.open_file(str(curated.shards.path / record.path)).read_all().to_pylist():
            ends = [*row["doc_start"][1:], LENGTH]
            spans = zip(row["doc_id"], row["doc_start"], ends, row["doc_offset"])
            for name, start, end, offset in spans:
                if offset == 0:
                    found.append((name, []))
                assert found[-1][0] == name and len(found[-1][1]) == offset
                found[-1][1].extend(row["tokens"][start:end])
    return found


def megatron_documents(data: Path) -> list[list[int]]:
    """Read ``.idx`` by its description, and the documents that it names from ``.bin``."""
    found = []
    for index in sorted(data.glob("*.idx")):
        raw = index.read_bytes()
        assert raw[:9] == b"MMIDIDX\0\0"
        version, code, count, edges = struct.unpack_from("<QBQQ", raw, 9)
        assert version == 1 and edges == count + 1
        kind = {8: np.dtype("<u2"), 4: np.dtype("<i4")}[code]
        sizes = np.frombuffer(raw, "<i4", count, 34)
        starts = np.frombuffer(raw, "<i8", count, 34 + 4 * count)
        documents = np.frombuffer(raw, "<i8", edges, 34 + 12 * count)
        assert len(raw) == 34 + 12 * count + 8 * edges
        assert documents.tolist() == list(range(count + 1))
        ids = index.with_suffix(".bin").read_bytes()
        for size, start in zip(sizes.tolist(), starts.tolist()):
            found.append(np.frombuffer(ids, kind, size, start).tolist())
        assert len(ids) == kind.itemsize * sizes.sum()
    return found


def array_documents(data: Path) -> list[list[int]]:
    found = []
    for path in sorted(data.glob("*.npy")):
        ids = np.fromfile(path, "<u2")
        lines = gzip.decompress(path.with_suffix(".csv.gz").read_bytes()).decode().splitlines()
        places = [tuple(map(int, line.split(","))) for line in lines]
        assert [start for start, _ in places] == [0, *(end for _, end in places[:-1])]
        assert places[-1][1] == len(ids)
        found += [ids[start:end].tolist() for start, end in places]
    return found


def mds_samples(data: Path) -> list[dict[str, list[int]]]:
    """Read MDS by its description: the index, offsets, and each sample's two columns."""
    found = []
    for shard in json.loads((data / "index.json").read_text())["shards"]:
        raw = (data / shard["raw_data"]["basename"]).read_bytes()
        assert len(raw) == shard["raw_data"]["bytes"]
        (count,) = struct.unpack_from("<I", raw)
        assert count == shard["samples"]
        offsets = np.frombuffer(raw, "<u4", count + 1, 4).tolist()
        config = json.loads(raw[4 + 4 * (count + 1) : offsets[0]])
        assert config.items() <= shard.items() and offsets[-1] == len(raw)
        assert config["column_names"] == ["doc_start", "tokens"]
        assert config["column_sizes"] == [None, LENGTH * 2]
        for start, end in itertools.pairwise(offsets):
            (size,) = struct.unpack_from("<I", raw, start)
            head = raw[start + 4 : start + 4 + size]
            assert head[0] == 0b100 and len(head) == 2 + 4 * head[1]
            tokens = np.frombuffer(raw[start + 4 + size : end], "<u2").tolist()
            found.append({"doc_start": np.frombuffer(head[2:], "<i4").tolist(), "tokens": tokens})
    return found


@pytest.mark.parametrize("limit", [256 * 2**20, 1_000, 1])
@pytest.mark.parametrize(
    ("to", "read"), [("megatron", megatron_documents), ("numpy", array_documents)]
)
def test_documents_have_the_ids_of_the_shards(
    to: str, read: Any, limit: int, curated: Curated, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(formats, "TOKENS", limit)
    made = export(curated, to, str(tmp_path / "out"), LocalRunner(1))
    documents = documents_of_shards(curated)
    assert read(tmp_path / "out" / "data") == [tokens for _, tokens in documents]
    shards = len(curated.shards.named("shard-"))
    tables = sorted((tmp_path / "out" / "documents").glob("*.parquet"))
    assert shards > 10 and (len(tables) == 1 if limit > 10**6 else 1 < len(tables) < shards)
    rows = [row for path in tables for row in pq.read_table(path).to_pylist()]
    assert [row["id"] for row in rows] == [name for name, _ in documents]
    assert [row["tokens"] for row in rows] == [len(tokens) for _, tokens in documents]
    assert {row["source"] for row in rows} == {"web", "wiki", "code", HOSTILE}
    assert made.summary()["documents"] == len(documents)
    assert made.summary()["tokens"] == sum(len(tokens) for _, tokens in documents)
    longest = max(len(tokens) for _, tokens in documents)
    assert longest > 3 * 20 * LENGTH, "no document goes over several shards"
    tokenizer = (tmp_path / "out" / "tokenizer" / "tokenizer.json").read_bytes()
    assert tokenizer == curated.tokenizer.verified(curated.tokenizer.files[0]).read_bytes()
    facts = json.loads((tmp_path / "out" / "tokens.json").read_bytes())
    end, word = facts["eos_token_id"], facts["eos_token"]
    assert json.loads(tokenizer)["model"]["vocab"].get(word, end) == end
    assert all(tokens[0] == end and end not in tokens[1:-1] for _, tokens in documents)
    assert facts["dtype"] == "uint16" and facts["byteorder"] == "little"
    assert facts["vocab_size"] == curated.tokenizer.facts["vocab_size"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    if to == "numpy":
        assert 'numpy.memmap(path, dtype="uint16", mode="r")' in card
    assert "`uint16`, little-endian" in card and f"is the id {end} (&" in card


@pytest.mark.parametrize("size", [64 * 2**20, 7 * 4 * LENGTH])
def test_samples_are_the_sequences_of_the_shards(
    size: int, curated: Curated, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(mds, "_BYTES", size)
    made = export(curated, "mds", str(tmp_path / "out"), LocalRunner(1))
    rows = [
        {name: row[name] for name in ("doc_start", "tokens")}
        for record in curated.shards.named("shard-")
        for row in pa.ipc.open_file(str(curated.shards.path / record.path)).read_all().to_pylist()
    ]
    assert mds_samples(tmp_path / "out" / "data") == rows
    files = len(list((tmp_path / "out" / "data").glob("*.mds")))
    assert files == sum(
        -(-record.facts["sequences"] // (20 if size > 10**6 else 7))
        for record in curated.shards.named("shard-")
    )
    assert made.summary()["tokens"] == len(rows) * LENGTH


# -- bytes worked by hand -----------------------------------------------------------------------


def shards_by_hand(directory: Path, kind: pa.DataType) -> TokenWriting:
    """Two shards of sequences of 4 tokens: documents of 5, 1 and 6 tokens, "a", "b" and "c"."""
    rows = [
        [{"tokens": [9, 1, 2, 9], "starts": [0], "offsets": [0], "ids": ["a"]}],
        [
            {"tokens": [300, 7, 9, 3], "starts": [0, 1, 2], "offsets": [4, 0, 0],
             "ids": ["a", "b", "c"]},
            {"tokens": [4, 5, 6, 9], "starts": [0], "offsets": [2], "ids": ["c"]},
        ],
    ]  # fmt: skip
    records = []
    for number, own in enumerate(rows):
        columns = {
            "tokens": pa.array([row["tokens"] for row in own], pa.list_(kind)),
            "doc_id": pa.array([row["ids"] for row in own], pa.list_(pa.string())),
            "doc_start": pa.array([row["starts"] for row in own], pa.list_(pa.int32())),
            "doc_offset": pa.array([row["offsets"] for row in own], pa.list_(pa.int64())),
            "source": pa.array([["s"] * len(row["ids"]) for row in own], pa.list_(pa.string())),
            "score": pa.array([[0.5] * len(row["ids"]) for row in own], pa.list_(pa.float32())),
        }
        batch = pa.record_batch(columns)
        name = f"shard-{number:05d}.arrow"
        with pa.ipc.new_file(str(directory / name), batch.schema) as writer:
            writer.write_batch(batch)
        records.append(FileRecord.found(directory, name, sequences=len(own)))
    return TokenWriting(
        directory=directory / "out", shards=directory, records=tuple(records), length=4
    )


WHOLE = TokenFile(name="data/tokens-00000", first=0, last=2)

IDS = "0900 0100 0200 0900 2c01 0700 0900 0300 0400 0500 0600 0900"

INDEX = (
    "4d4d4944494458 0000 0100000000000000 08 0300000000000000 0400000000000000"  # MMIDIDX, uint16
    "05000000 01000000 06000000"  # tokens of each sequence
    "0000000000000000 0a00000000000000 0c00000000000000"  # its first byte
    "0000000000000000 0100000000000000 0200000000000000 0300000000000000"  # of each document
)


def test_megatron_files_have_these_bytes(tmp_path: Path) -> None:
    records = write_megatron(WHOLE, shards_by_hand(tmp_path, pa.uint16()))
    assert (tmp_path / "out/data/tokens-00000.bin").read_bytes() == bytes.fromhex(IDS)
    assert (tmp_path / "out/data/tokens-00000.idx").read_bytes() == bytes.fromhex(INDEX)
    assert records[0].facts == {"documents": 3, "tokens": 12}


def test_large_ids_are_int32_in_megatron(tmp_path: Path) -> None:
    write_megatron(WHOLE, shards_by_hand(tmp_path, pa.uint32()))
    wide = "".join(f"{word}0000" for word in IDS.split())
    index = bytes.fromhex(INDEX)
    expected = (
        *(index[:17], b"\x04", index[18:46]),
        *(bytes.fromhex(f"{byte:02x}00000000000000") for byte in (0, 20, 24)),
        index[70:],
    )
    assert (tmp_path / "out/data/tokens-00000.bin").read_bytes() == bytes.fromhex(wide)
    assert (tmp_path / "out/data/tokens-00000.idx").read_bytes() == b"".join(expected)


def test_arrays_have_these_bytes(tmp_path: Path) -> None:
    write_arrays(WHOLE, shards_by_hand(tmp_path, pa.uint16()))
    assert (tmp_path / "out/data/tokens-00000.npy").read_bytes() == bytes.fromhex(IDS)
    packed = (tmp_path / "out/data/tokens-00000.csv.gz").read_bytes()
    assert packed[:8] == bytes.fromhex("1f8b0800 00000000"), "a name or a time"
    assert gzip.decompress(packed) == b"0,5\n5,6\n6,12\n"
    rows = pq.read_table(tmp_path / "out/documents/tokens-00000.parquet").to_pylist()
    assert rows == [
        {"id": name, "source": "s", "score": 0.5, "tokens": size}
        for name, size in (("a", 5), ("b", 1), ("c", 6))
    ]


def test_a_file_has_the_documents_that_begin_in_its_shards(tmp_path: Path) -> None:
    shared = shards_by_hand(tmp_path, pa.uint16())
    write_arrays(TokenFile(name="data/first", first=0, last=1), shared)
    write_arrays(TokenFile(name="data/second", first=1, last=2), shared)
    assert np.fromfile(tmp_path / "out/data/first.npy", "<u2").tolist() == [9, 1, 2, 9, 300]
    assert np.fromfile(tmp_path / "out/data/second.npy", "<u2").tolist() == [7, 9, 3, 4, 5, 6, 9]
    assert write_arrays(TokenFile(name="data/none", first=2, last=2), shared) == []


COLUMNS = (
    b'{"column_encodings": ["ndarray:int32", "ndarray:uint16:4"], "column_names": '
    b'["doc_start", "tokens"], "column_sizes": [null, 8], "compression": null, '
    b'"format": "mds", "hashes": [], "size_limit": null, "version": 2}'
)


def test_mds_files_have_these_bytes(tmp_path: Path) -> None:
    shared = shards_by_hand(tmp_path, pa.uint16())
    record = write_mds(SequenceFile(name="data/shard.00000.mds", shard=1, first=0, last=2), shared)
    raw = (tmp_path / "out/data/shard.00000.mds").read_bytes()
    first = "0e000000 04 03 00000000 01000000 02000000 2c01070009000300"
    second = "06000000 04 01 00000000 0400050006000900"
    samples = [bytes.fromhex(first), bytes.fromhex(second)]
    head = 16 + len(COLUMNS)
    offsets = [head, head + len(samples[0]), head + len(samples[0]) + len(samples[1])]
    assert raw == struct.pack("<4I", 2, *offsets) + COLUMNS + b"".join(samples)
    (shard,) = json.loads(index_file([record], 4))["shards"]
    assert shard["raw_data"] == {"basename": "shard.00000.mds", "bytes": len(raw), "hashes": {}}
    assert (shard["samples"], shard["zip_data"], shard["version"]) == (2, None, 2)


def test_shards_with_other_columns_are_refused(tmp_path: Path) -> None:
    batch = pa.record_batch({"tokens": pa.array([[1, 2, 3, 4]], pa.list_(pa.uint16()))})
    with pa.ipc.new_file(str(tmp_path / "shard-00000.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    record = FileRecord.found(tmp_path, "shard-00000.arrow", sequences=1)
    shared = TokenWriting(directory=tmp_path, shards=tmp_path, records=(record,), length=4)
    with pytest.raises(ArtefactError) as info:
        write_arrays(TokenFile(name="data/x", first=0, last=1), shared)
    assert info.value.file == str(tmp_path / "shard-00000.arrow")


def test_the_loop_of_the_page_reads_the_shards(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (loop,) = [one for one in blocks("docs/exporting.md") if one.title == "loop.py"]
    seen: list[tuple[list[int], list[int], int]] = []
    text = loop.text.replace("...  #", "seen.append((row.tolist(), starts, eos))  #")
    assert text != loop.text
    monkeypatch.setattr("sys.argv", ["loop.py", str(curated.shards.path)])
    exec(compile(text, "loop.py", "exec"), {"seen": seen})
    (eos,) = {one[2] for one in seen}
    whole: list[list[int]] = []
    for record in curated.shards.named("shard-"):
        for row in pa.ipc.open_file(str(curated.shards.path / record.path)).read_all().to_pylist():
            whole += [row["tokens"], row["doc_start"]]
    assert [list(part) for one in seen for part in one[:2]] == whole
    documents = documents_of_shards(curated)
    assert all(ids[0] == eos for _, ids in documents)
    assert sum(ids[-1] == eos for _, ids in documents) >= len(documents) - 3  # shares end
