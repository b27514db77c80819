from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.artefact import Artefact, FileRecord, Workspace
from penstock.errors import ArtefactError
from penstock.trainers.data.shards import ShardGroup, ShardSet
from tests.packed import row_of
from tests.trainers.conftest import write_shards


def test_sequences_are_the_rows_in_manifest_order(shards: Path) -> None:
    opened = ShardSet.open(shards)
    rows = [
        row
        for record in Artefact.open(shards).named("shard-")
        for row in pa.ipc.open_file(str(shards / record.path)).read_all().to_pylist()
    ]
    assert len(opened) == len(rows) == 37
    for index, row in enumerate(rows):
        assert row_of(opened, index).tokens.tolist() == row["tokens"]
        assert row_of(opened, index).starts.tolist() == row["doc_start"]
    with pytest.raises(IndexError):
        row_of(opened, 37)


def test_opening_reads_no_tokens(shards: Path) -> None:
    allocated = pa.total_allocated_bytes()
    opened = ShardSet.open(shards)
    row_of(opened, 5)
    assert pa.total_allocated_bytes() <= allocated


def test_many_are_read_at_once(shards: Path, tmp_path: Path, tokenizer: object) -> None:
    wide = write_shards(tmp_path, tokenizer, sequences=37, dtype=pa.uint32()).path
    narrow, wide_ones = ShardSet.open(shards), ShardSet.open(wide)
    indices = np.array([36, 0, 20, 20, 9])
    for opened in (narrow, wide_ones):
        ids, spans = opened.read(indices)
        alone = [row_of(opened, index) for index in indices.tolist()]
        assert ids.tolist() == [each.tokens.tolist() for each in alone]
        starts = [each.starts + 32 * row for row, each in enumerate(alone)]
        assert spans.tolist() == [*np.concatenate(starts).tolist(), 5 * 32]
    for beyond in (37, -1):
        with pytest.raises(IndexError):
            narrow.read(np.array([3, beyond]))


@pytest.mark.parametrize("counted", [32, 31, 17, 1])
def test_predicted_counts_all_but_each_documents_first_token(shards: Path, counted: int) -> None:
    opened = ShardSet.open(shards)
    indices = np.array([0, 36, 7])
    by_hand = [
        sum(place not in set(row_of(opened, index).starts.tolist()) for place in range(counted))
        for index in indices.tolist()
    ]
    assert opened.predicted(indices, np.full(3, counted)).tolist() == by_hand
    assert max(by_hand) < counted


def test_groups_are_the_shards_of_a_source(tmp_path: Path, tokenizer: object) -> None:
    groups = ["wiki", "wiki", None]
    made = write_shards(tmp_path, tokenizer, sequences=13, files=3, groups=groups)
    assert ShardSet.open(made.path).groups == [ShardGroup("wiki", 0, 9), ShardGroup("rest", 9, 4)]


@pytest.mark.parametrize("column", ["tokens", "doc_start"])
def test_a_bit_that_flips_after_opening_is_detected_when_it_is_read(
    shards: Path, tmp_path: Path, column: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    opened = ShardSet.open(copy)
    path = copy / "shard-00001.arrow"
    kept = {
        "tokens": row_of(opened, 20).tokens.astype("<u2"),
        "doc_start": row_of(opened, 20).starts,
    }
    values = kept[column].tobytes()
    at = path.read_bytes().index(values) + len(values) - kept[column].itemsize
    with open(path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(ArtefactError) as info:
        row_of(opened, 20)
    assert info.value.file == str(path) and "sequence 20 " in info.value.problem
    assert row_of(opened, 0).tokens is not None


def test_a_flipped_byte_is_refused(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    path = copy / "shard-00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="changed since it was written"):
        ShardSet.open(copy)


def test_another_stage_is_refused(tmp_path: Path) -> None:
    made = Workspace(tmp_path).draft("cut", 1, {}, {}).publish([], {})
    with pytest.raises(ArtefactError) as info:
        ShardSet.open(made.path)
    assert (info.value.file, info.value.got) == (str(made.path), "'cut'")


@pytest.mark.parametrize("attack", ["offsets", "starts", "type", "tokens", "nulls", "order"])
def test_hostile_shards_with_true_checksums_are_refused(
    attack: str, tmp_path: Path, tokenizer: object
) -> None:
    """Compiled code reads shards by address: a manifest from elsewhere vouches for nothing."""
    artefact = write_shards(tmp_path, tokenizer, sequences=9, files=1)
    (record,) = artefact.named("shard-")
    path = artefact.path / record.path
    batch = pa.ipc.open_file(str(path)).get_batch(0)
    columns = {name: batch.column(name) for name in batch.schema.names}
    starts, tokens = columns["doc_start"], columns["tokens"]
    values, offsets = np.array(starts.values), starts.offsets.to_numpy()
    many = int(np.argmax(np.diff(offsets) > 1))
    assert offsets[many + 1] - offsets[many] > 1, "a sequence of several documents"
    if attack == "offsets":
        data = path.read_bytes()
        old, new = offsets.tobytes(), np.append(offsets[:-1], 10**8).astype(np.int32).tobytes()
        assert new != old and old in data
        path.write_bytes(data.replace(old, new))
    else:
        if attack == "starts":
            values[offsets[3]] = -(10**6)
        elif attack == "order":
            values[offsets[many] + 1] = values[offsets[many]]
        if attack == "type":
            made = pa.ListArray.from_arrays(starts.offsets, pa.array(values, pa.int8()))
        elif attack == "nulls":
            made = pa.ListArray.from_arrays(starts.offsets, pa.array(values, mask=values > 0))
        else:
            made = pa.ListArray.from_arrays(starts.offsets, pa.array(values))
        columns["doc_start"] = made
        if attack == "tokens":
            largest = np.array(tokens.values)
            largest[5] = artefact.facts["vocab_size"]
            columns["tokens"] = pa.ListArray.from_arrays(tokens.offsets, pa.array(largest))
        changed = pa.record_batch(columns)
        with pa.ipc.new_file(str(path), changed.schema) as writer:
            writer.write_batch(changed)
    manifest = artefact.path / "manifest.json"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    text = manifest.read_text().replace(record.sha256, found)
    sizes = f'"bytes":{record.bytes}', f'"bytes":{path.stat().st_size}'
    assert sizes[0] in text.replace(" ", "")
    manifest.write_text(text.replace(" ", "").replace(*sizes))
    with pytest.raises(ArtefactError) as error:
        ShardSet.open(artefact.path)
    assert error.value.file == str(path)
    assert "sha256" not in str(error.value)


def test_offsets_that_change_after_opening_are_not_followed(
    tmp_path: Path, tokenizer: object
) -> None:
    artefact = write_shards(tmp_path, tokenizer, sequences=9, files=1)
    (record,) = artefact.named("shard-")
    path = artefact.path / record.path
    opened = ShardSet.open(artefact.path)
    offsets = pa.ipc.open_file(str(path)).get_batch(0).column("doc_start").offsets.to_numpy()
    data, old = path.read_bytes(), offsets.tobytes()
    places = [at for at in range(0, len(data), 8) if data[at : at + len(old)] == old]
    assert places, "those of every column that has a value for each document"
    for hostile in (10**9, -(10**9)):
        with open(path, "r+b") as file:
            for at in places:
                file.seek(at + 4 * 2)
                file.write(np.array([hostile], np.int32).tobytes())
        for index in (1, 2):
            with pytest.raises(ArtefactError):
                opened.read(np.array([index]))
    assert len(opened.predicted(np.array([2]), np.array([32])))


def test_the_workers_of_a_node_share_the_comparison_of_files(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 100 billion tokens each worker read 200 to 400 GB before its first step."""
    names = sorted(record.path for record in Artefact.open(shards).named("shard-"))
    assert len(names) == 2
    whole, compared = FileRecord.verified, []

    def verified(self: FileRecord, directory: Path) -> Path:
        compared.append(self.path)
        return whole(self, directory)

    monkeypatch.setattr(FileRecord, "verified", verified)
    for part in range(2):
        assert len(ShardSet.open(shards, part=part, parts=2)) == 37
        assert sorted(compared) == names[part::2] and not compared.clear()
    damaged = tmp_path / shards.parent.name / shards.name
    shutil.copytree(shards, damaged)
    content = bytearray((damaged / names[1]).read_bytes())
    rows = pa.ipc.open_file(pa.py_buffer(bytes(content))).read_all()
    tokens = rows["tokens"].chunk(0).flatten().buffers()[1].to_pybytes()[:32]
    content[content.index(tokens)] ^= 1
    (damaged / names[1]).write_bytes(content)
    with pytest.raises(ArtefactError) as info:
        ShardSet.open(damaged, part=1, parts=2)
    assert info.value.file == str(damaged / names[1])
    other = ShardSet.open(damaged, part=0, parts=2)
    with pytest.raises(ArtefactError, match="sequence"):
        other.read(np.arange(len(other)))
