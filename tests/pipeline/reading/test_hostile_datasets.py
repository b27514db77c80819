"""Attacks by datasets: `datasets` maps and decodes no file that was not checked before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

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
