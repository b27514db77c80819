"""Datasets that `datasets` saved: of their directories the data files of one split are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.pipeline.reading.found import find, names, refusal, write


def save(directory: Path, *files: str, **state: Any) -> None:
    directory.mkdir(parents=True)
    for name in files:
        with pa.ipc.new_stream(str(directory / name), pa.schema([("text", pa.string())])):
            pass
    state = {"_data_files": [{"filename": name} for name in files], **state}
    (directory / "state.json").write_text(json.dumps(state))
    (directory / "dataset_info.json").write_text("{}")


def test_a_saved_dataset_is_its_data_files(tmp_path: Path) -> None:
    save(tmp_path / "p" / "ds", "data-00000-of-00001.arrow")
    write(tmp_path, "p/ds/cache-1234.arrow", "p/more.jsonl")
    for path in ("p", "p/**/*.*", "p/*"):
        found = find(tmp_path, path)
        assert sorted(item.name for item in found.inputs) == [
            "p/ds/data-00000-of-00001.arrow",
            "p/more.jsonl",
        ]
        assert found.left_out == {"saved": 3}
    for split in ("train", "test"):
        save(tmp_path / "q" / split, f"{split}.arrow")
    (tmp_path / "q" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert names(tmp_path, "q") == ["q/train/train.arrow"]
    assert names(tmp_path, {"path": "q", "split": "test"}) == ["q/test/test.arrow"]
    assert refusal(tmp_path, {"path": "q", "split": "dev"}).expected == (
        "one of the splits test, train"
    )
    save(tmp_path / "old", "a.arrow", _indices_files=[{"filename": "indices.arrow"}])
    assert "hf:" in str(refusal(tmp_path, "old").fix)
    write(tmp_path, "own/state.json", "own/dataset_info.json")  # they only have those names
    assert len(names(tmp_path, "own")) == 2


def test_the_cache_of_datasets_is_read_for_one_split(tmp_path: Path) -> None:
    write(tmp_path, *(f"c/own-{part}.arrow" for part in ("test", "train-00000-of-00002")))
    write(tmp_path, "c/own-train-00001-of-00002.arrow", "c/cache-12.arrow", "d/x-train.arrow")
    (tmp_path / "c" / "dataset_info.json").write_text('{"splits": {"train": {}, "test": {}}}')
    (tmp_path / "d" / "dataset_info.json").write_text("[]")
    assert names(tmp_path, "c") == [f"c/own-train-0000{n}-of-00002.arrow" for n in (0, 1)]
    assert find(tmp_path, "c").left_out == {"saved": 3}
    assert names(tmp_path, {"path": "c", "split": "test"}) == ["c/own-test.arrow"]
    assert refusal(tmp_path, {"path": "c", "split": "dev"}).got == "'dev'"
    assert len(names(tmp_path, "d")) == 2
