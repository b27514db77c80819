"""A dataset from elsewhere names no file of the user's.

The attacks: patterns of a README that are absolute, lead through ``..`` or to an address; links;
lists of files of a saved dataset.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from penstock.errors import InputError
from penstock.pipeline.reading.hugging_face import splits_of
from penstock.pipeline.reading.readers import read_batches
from penstock.recipe import CorpusSource

SPEC = CorpusSource(path="hf:data")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset of one file, beside a private one."""
    made = tmp_path / "data"
    made.mkdir()
    (made / "own.jsonl").write_text('{"text": "own"}\n')
    (tmp_path / "private.jsonl").write_text('{"text": "private"}\n')
    return made


def read(directory: Path) -> list[str]:
    return [
        text
        for batch in read_batches(directory, SPEC)
        for text in batch.documents["text"].to_pylist()
    ]


def header(directory: Path, data_files: object, name: str = "README.md") -> None:
    found = json.dumps({"configs": [{"config_name": "default", "data_files": data_files}]})
    text = f"---\n{found}\n---\n# Data\n" if name == "README.md" else found
    (directory / name).write_text(text)


@pytest.mark.parametrize(
    "pattern",
    [
        "../private.jsonl",
        "{tmp}/private.jsonl",
        "{tmp}/*.jsonl",
        "*/../../private.jsonl",
        "file://{tmp}/private.jsonl",
        "json://x::{tmp}/private.jsonl",
        "https://127.0.0.1:9/x.jsonl",
        "~/private.jsonl",
        "..\\private.jsonl",
    ],
)
@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_header_names_no_file_outside(data: Path, pattern: str, name: str) -> None:
    pattern = pattern.replace("{tmp}", str(data.parent))
    for form in (
        pattern,
        ["own.jsonl", pattern],
        [{"split": "train", "path": ["own.jsonl", pattern]}],
    ):
        header(data, form, name)
        with pytest.raises(InputError) as info:
            read(data)
        assert (info.value.file, info.value.got) == (str(data / name), repr(pattern))
        assert splits_of(SPEC, data) == []


def test_a_header_names_files_inside(data: Path) -> None:
    (data / "a..b").mkdir()
    (data / "a..b" / "x.jsonl").write_text('{"text": "more"}\n')
    header(data, [{"split": "train", "path": ["./own.jsonl", "a..b/*.jsonl"]}])
    assert sorted(read(data)) == ["more", "own"]
    assert splits_of(SPEC, data) == ["train"]


def test_links_that_lead_outside_are_refused(data: Path) -> None:
    link = data / "linked.jsonl"
    link.symlink_to(data.parent / "private.jsonl")
    with pytest.raises(InputError) as info:
        read(data)
    assert (info.value.file, str(data.parent / "private.jsonl") in (info.value.got or "")) == (
        str(link),
        True,
    )
    link.unlink()
    link.symlink_to("own.jsonl")
    assert read(data) == ["own", "own"]


def test_a_linked_directory_that_leads_outside_is_refused(data: Path) -> None:
    (data.parent / "home").mkdir()
    (data.parent / "home" / "x.jsonl").write_text('{"text": "private"}\n')
    (data / "sub").symlink_to(data.parent / "home")
    header(data, "sub/*.jsonl")
    with pytest.raises(InputError):
        read(data)


def test_a_snapshot_of_the_hubs_cache_is_read(tmp_path: Path) -> None:
    """Its files are links to blobs beside it."""
    snapshot = tmp_path / "datasets--own--data" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    (blobs / "b1").write_text('{"text": "own"}\n')
    (snapshot / "x.jsonl").symlink_to("../../blobs/b1")
    assert read(snapshot) == ["own"]


@pytest.mark.parametrize("kind", ["aliases", "merges", "deep", "digits", "long"])
@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_header_claims_no_more_than_a_recipe(data: Path, kind: str, name: str) -> None:
    """The attacks: `datasets` parses the header again, and without limits."""
    names = {n: ", ".join([f"*a{n - 1}"] * 9) for n in range(1, 6)}
    text = {
        "aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{own}]\n" for n, own in names.items()),
        "merges": "a0: &a0 {k: v}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{own}]}}\n" for n, own in names.items()),
        "deep": "a: " + "[" * 60 + "]" * 60,
        "digits": "a: " + "9" * 5_000,
        "long": "a: " + "x" * 2**20,
    }[kind]
    (data / name).write_text(f"---\n{text}\n---\n" if name == "README.md" else text)
    with pytest.raises(InputError) as info:
        read(data)
    assert str(data / name) in str(info.value.file)


def test_a_header_of_other_line_ends_is_looked_at(data: Path) -> None:
    """The attack: carriage returns, which `datasets` takes for line ends."""
    (data / "README.md").write_bytes(
        b"---\rconfigs: [{config_name: default, data_files: /etc/*.jsonl}]\r---\n"
    )
    with pytest.raises(InputError) as info:
        read(data)
    assert info.value.got == repr("/etc/*.jsonl")


def test_a_key_that_is_given_twice_is_read_as_by_datasets(data: Path) -> None:
    (data / "README.md").write_text("---\nlicense: a\nlicense: b\n---\n")
    assert read(data) == ["own"]


@pytest.mark.parametrize("name", ["../private.arrow", "{tmp}/private.arrow", "linked.arrow"])
def test_a_saved_dataset_lists_no_file_outside(tmp_path: Path, name: str) -> None:
    import datasets

    for place, text in (("data", "own"), ("private", "private")):
        datasets.Dataset.from_dict({"text": [text]}).save_to_disk(str(tmp_path / place))
    (shard,) = (tmp_path / "private").glob("*.arrow")
    os.rename(shard, tmp_path / "private.arrow")
    (tmp_path / "data" / "linked.arrow").symlink_to(tmp_path / "private.arrow")
    assert read(tmp_path / "data") == ["own"]
    state = json.loads((tmp_path / "data/state.json").read_text())
    state["_data_files"] = [{"filename": name.replace("{tmp}", str(tmp_path))}]
    (tmp_path / "data/state.json").write_text(json.dumps(state))
    with pytest.raises(InputError) as info:
        read(tmp_path / "data")
    assert "private.arrow" in (info.value.got or "")


def test_a_saved_dataset_has_no_split_outside(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset_dict.json").write_text('{"splits": ["train", "../private"]}')
    with pytest.raises(InputError) as info:
        read(tmp_path / "data")
    assert info.value.got == repr("../private")
