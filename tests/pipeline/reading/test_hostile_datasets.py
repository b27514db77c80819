"""Attacks by datasets: `datasets` maps and decodes no file that was not checked before."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from penstock.errors import InputError
from penstock.pipeline.reading.hugging_face import hugging_face_spans
from penstock.pipeline.reading.readers import read_batches
from penstock.recipe import CorpusSource
from tests.columnar.hostile import arrow_bytes, attack, write
from tests.columnar.test_parquet import MIB, repeated, write_parquet


def refused(directory: Path) -> InputError:
    """Return the error of a dataset, which is that of its spans."""
    spec = CorpusSource(path=f"hf:{directory}")
    found = []
    for read in (
        lambda: list(read_batches(directory, spec)),
        lambda: hugging_face_spans(directory, spec, MIB),
    ):
        with pytest.raises(InputError) as error:
            read()
        found.append(error.value)
    assert found[0].file == found[1].file
    return found[0]


def texts_of(directory: Path) -> list[Any]:
    spec = CorpusSource(path=f"hf:{directory}")
    return [
        text
        for batch in read_batches(directory, spec)
        for text in batch.documents["text"].to_pylist()
    ]


def described(directory: Path, *names: str) -> None:
    """Name the data files in the header of a README."""
    header = {"configs": [{"config_name": "default", "data_files": list(names)}]}
    write(directory / "README.md", f"---\n{json.dumps(header)}\n---\n".encode())


@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize("name", ["b.parquet", "b.geoparquet"])
def test_a_row_group_that_decodes_to_far_more_than_its_bytes_is_refused(
    name: str, side: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: one text of 1 MiB for 100 rows, which `datasets` decodes at once."""
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", 8 * MIB)
    write_parquet(tmp_path / "a.parquet", {"text": ["t"], **({"meta": ["m"]} if side else {})})
    bomb = {"text": ["t"] * 100, "meta": repeated(100)} if side else {"text": repeated(100)}
    path = write_parquet(tmp_path / name, bomb)
    assert path.stat().st_size < MIB // 16
    if name == "b.geoparquet":
        described(tmp_path, "a.parquet", name)
    error = refused(tmp_path)
    assert error.file == str(path) and "claims to decode" in str(error)


def test_a_row_group_whose_bound_is_large_is_read_if_its_rows_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.columnar.arrow_claims._DECODED", 4 * MIB)
    codes = np.zeros(3000, np.int32)
    codes[7] = 1
    texts = pa.array(["short", "x" * (MIB // 4)])
    coded = pa.DictionaryArray.from_arrays(codes, texts)
    write_parquet(tmp_path / "a.parquet", {"text": coded, "n": range(3000)})
    assert texts_of(tmp_path) == coded.to_pylist()


@pytest.mark.parametrize("kind", ["plain", "saved", "saved as .bin"])
def test_a_damaged_arrow_file_is_refused_before_it_is_mapped(kind: str, tmp_path: Path) -> None:
    """The attack: an offset outside of the buffer, in a file that has any name."""
    columns = {"text": ["t"] * 3, "meta": ["m"] * 3}
    directory = tmp_path / "ds"
    name = "b.bin" if kind == "saved as .bin" else "b.arrow"
    if kind.startswith("saved"):
        import datasets

        datasets.Dataset(pa.table(columns)).save_to_disk(str(directory))
        (directory / "data-00000-of-00001.arrow").unlink()
        state = json.loads((directory / "state.json").read_text())
        write(
            directory / "state.json",
            json.dumps(state | {"_data_files": [{"filename": name}]}).encode(),
        )
        stream = True
    else:
        directory.mkdir()
        write(directory / "a.arrow", arrow_bytes(columns))
        stream = False
    path = write(directory / name, arrow_bytes(columns, stream))
    assert len(texts_of(directory)) >= 3
    write(path, attack("offset past the buffer", stream=stream))
    assert refused(directory).file == str(path)


def _zipped(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("part.jsonl", data)
    return sink.getvalue()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "zip": _zipped,
}

BOMBS = {
    "json": b'[{"text": "a"},' + b" " * 4 * MIB + b'{"text": "b"}]',
    "jsonl": b'{"text": "a"}\n{"text": "' + b"a" * 4 * MIB + b'"}\n',
    "csv": b'text,id\na,1\n"' + b"a\n" * 2 * MIB + b'",2\n',
    "txt": b"a\n" * 2 * MIB,
}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "txt", "json"])
def test_a_plain_line_is_bounded(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: one line of any length, which `datasets` holds several times over."""
    path = tmp_path / f"a.{ending}"
    long = b"a" * (3 * MIB)
    line = {
        "jsonl": b'{"text": "' + long + b'"}',
        "json": b'[{"text": "a"}, {"text": "' + long + b'"}]',
        "csv": b"text\n" + long,
        "txt": long,
    }[ending]
    write(path, line + b"\n")
    assert b"".join(text.encode() for text in texts_of(tmp_path)).endswith(long)
    monkeypatch.setattr("penstock.pipeline.reading.dataset_texts._LINE", 2 * MIB, raising=False)
    os.utime(path, ns=(1, 1))  # a version that was not checked yet
    error = refused(tmp_path)
    assert error.file == str(path) and "a line of more than 2,097,152 bytes" in str(error)


@pytest.mark.parametrize(
    ("ending", "compression"),
    [*((ending, "gz") for ending in BOMBS), *(("jsonl", name) for name in COMPRESSIONS)],
)
def test_a_compressed_text_of_far_more_than_its_bytes_is_refused(
    ending: str, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attacks: arrays, lines, fields and files, which `datasets` holds several times over."""
    path = tmp_path / f"a.{ending}.{compression}"
    write(path, COMPRESSIONS[compression](BOMBS[ending]))
    monkeypatch.setattr("penstock.pipeline.reading.dataset_texts._DECODED", MIB, raising=False)
    assert refused(tmp_path).file == str(path)


def test_a_long_line_of_compressed_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However well it is hidden among parts: a line may have as many bytes as the limit."""
    monkeypatch.setattr("penstock.pipeline.reading.dataset_texts._LINE", MIB + 5, raising=False)
    for length, good in ((MIB + 5, True), (MIB + 6, False)):
        path = write(tmp_path / "a.txt.gz", gzip.compress(b"x\n" + b"y" * length + b"\nz\n" * 9))
        if good:
            assert [len(text) for text in texts_of(tmp_path)][:3] == [1, length, 1]
        else:
            assert refused(tmp_path).file == str(path)


@pytest.mark.parametrize("inner", ["a.csv.gz.gz", "b.csv.zip"])
def test_a_text_that_is_compressed_twice_is_refused(inner: str, tmp_path: Path) -> None:
    """The attack: a bomb in a bomb, which `datasets` opens by the inner name."""
    data = gzip.compress(b"text\na\n")
    if inner.endswith("zip"):
        with zipfile.ZipFile(tmp_path / inner, "w") as archive:
            archive.writestr("a.csv.gz", data)
    else:
        write(tmp_path / inner, gzip.compress(data))
    assert refused(tmp_path).file == str(tmp_path / inner)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_sound_compressed_texts_are_read(compression: str, tmp_path: Path) -> None:
    data = b"".join(b'{"text": "%d"}\n' % number for number in range(100))
    path = write(tmp_path / f"a.jsonl.{compression}", COMPRESSIONS[compression](data))
    assert texts_of(tmp_path) == [str(number) for number in range(100)]
    write(path, COMPRESSIONS[compression](data)[:-30])
    assert refused(tmp_path).file == str(path)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("xml", "xml"), ("tar", "webdataset"), ("h5", "hdf5"), ("eval", "eval"), ("lance", "lance")],
)
def test_formats_that_are_not_checked_are_refused(ending: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path / f"a.{ending}", b"<a/>")
    error = refused(tmp_path)
    assert (error.file, error.got) == (str(tmp_path), kind)
