"""Datasets: a commit of the hub is what is read and recorded; files that differ are named."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import InputError
from penstock.pipeline.reading.finding import FoundInputs, find_inputs
from penstock.pipeline.reading.hugging_face import dataset_files
from penstock.pipeline.reading.readers import read_batches
from penstock.recipe import CorpusSource, Recipe
from penstock.recipe_file import parse_recipe
from tests.harness import ROOT
from tests.hub import Hub, hub_server

OLD, NEW, HOSTILE = "a" * 40, "b" * 40, "c" * 40

READ = """
import json, sys
from pathlib import Path
from penstock.artefact import Workspace
from penstock.errors import InputError
from penstock.pipeline.reading.finding import FoundInputs, find_inputs
from penstock.pipeline.reading.hugging_face import unread_splits
from penstock.pipeline.reading.inputs import hash_inputs
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe

here = Path(sys.argv[1])
for path in sys.argv[2:]:
    tree = {"corpus": {"path": path}, "budget": {"tokens": 1, "rank": "random"}}
    try:
        found = find_inputs(parse_recipe(tree, here)).inputs
        (item,) = hash_inputs(found, Workspace(here / "work"), LocalRunner(1))
        from penstock.pipeline.reading.readers import read_batches
        texts = [row for batch in read_batches(item.path, item.spec)
                 for row in batch.documents["text"].to_pylist()]
        unread = sorted(unread_splits([(item.spec, item.path)]))
        print(json.dumps([item.reading["revision"], item.digest, texts, unread]))
    except InputError as error:
        print(json.dumps([error.file, None, []]))
"""


def table(*texts: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), sink)
    return sink.getvalue()


def test_a_dataset_of_the_hub_is_read_at_the_commit_that_is_recorded(tmp_path: Path) -> None:
    """And no file of this machine, which its README may name."""
    (tmp_path / "private.parquet").write_bytes(table("private"))
    header = f"---\nconfigs: [{{config_name: default, data_files: {tmp_path}/*.parquet}}]\n---\n"
    commits = {
        OLD: {"train-0.parquet": table("old"), "README.md": b"# Data\n"},
        HOSTILE: {"train-0.parquet": table("own"), "README.md": header.encode()},
        NEW: {
            "train-0.parquet": table("new", "newer"),
            "train-1.parquet": table("newest"),
            "test-0.parquet": table("other"),
            "validation-0.parquet": table("other"),
        },
    }
    hub = Hub(commits, {"main": NEW, "v1": OLD})
    (tmp_path / "read.py").write_text(READ)
    paths = ["hf:own/data", "hf:own/data@v1", f"hf:own/data@{OLD}", "hf:own/data@gone", "hf:no/x"]
    paths.append(f"hf:own/data@{HOSTILE}")
    with hub_server(hub) as address:
        done = subprocess.run(
            [sys.executable, "read.py", str(tmp_path), *paths],
            cwd=tmp_path,
            env={
                **os.environ,
                "HF_ENDPOINT": address,
                "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(tmp_path / "home"),
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            check=True,
        )
    main, tag, commit, gone, unknown, hostile = map(json.loads, done.stdout.splitlines())
    assert (main[0], main[2]) == (NEW, ["new", "newer", "newest"])
    assert (tag[0], tag[2]) == (OLD, ["old"])
    assert tag == commit
    assert main[3] == [f"hf:own/data@{NEW}: {split}" for split in ("test", "validation")]
    assert tag[3] == []
    assert main[1] != tag[1]
    assert (gone, unknown) == (["hf:own/data", None, []], ["hf:no/x", None, []])
    assert hostile == ["hf:own/data", None, []]
    # Only the data of commits is read, never that of a branch, which may move meanwhile.
    reads = [line for line in hub.requests if "/resolve/" in line]
    assert all(any(own in line for own in commits) for line in reads)
    assert sum(f"GET /datasets/own/data/resolve/{NEW}/train-1.parquet" in line for line in reads)


def recipe(directory: Path, **item: Any) -> Recipe:
    tree = {"corpus": item, "budget": {"tokens": 1, "rank": "random"}}
    return parse_recipe(tree, directory)


def test_revisions_in_recipes(tmp_path: Path) -> None:
    (item,) = find_inputs(recipe(tmp_path, path="hf:own/data@v1")).inputs
    assert (item.spec.path, item.spec.revision) == ("hf:own/data", "v1")
    (item,) = find_inputs(recipe(tmp_path, path="hf:own/data", revision="v2")).inputs
    assert (item.spec.path, item.spec.revision) == ("hf:own/data", "v2")
    (tmp_path / "own@home").mkdir()
    (item,) = find_inputs(recipe(tmp_path, path="hf:own@home")).inputs
    assert (item.path, item.spec.revision) == (tmp_path / "own@home", None)
    wrong: list[dict[str, Any]] = [
        {"path": "hf:own/data@v1", "revision": "v2"},
        {"path": "hf:own/data@"},
        {"path": "hf:own@home", "revision": "v1"},
    ]
    for entry in wrong:
        with pytest.raises(InputError) as caught:
            find_inputs(recipe(tmp_path, **entry))
        assert caught.value.key == "corpus.0.path"


PLAIN = CorpusSource(path="x")
ROW = {"id": "1", "text": "a", "m": {"k": 1}, "none": None}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("second", "column"),
    [
        ({**ROW, "extra": {"k": 1}}, "extra"),
        ({**ROW, "m": {"j": "x"}}, "m"),
        ({**ROW, "m": [1]}, "m"),
        ({**ROW, "none": {"j": "x"}}, "none"),
    ],
)
def test_files_of_a_dataset_that_differ_are_named(
    tmp_path: Path, ending: str, second: dict[str, Any], column: str
) -> None:
    for name, row in (("a", ROW), ("b", second)):
        path = tmp_path / f"{name}.{ending}"
        if ending == "jsonl":
            path.write_text(f"{json.dumps(row)}\n")
        else:
            pq.write_table(pa.Table.from_pylist([row]), path)
    spec = CorpusSource(path=f"hf:{tmp_path}")
    with pytest.raises(InputError) as caught:
        list(read_batches(tmp_path, spec))
    assert caught.value.file == spec.path
    assert f"columns {column!r}" in caught.value.problem
    plain = [batch for name in "ab" for batch in read_batches(tmp_path / f"{name}.{ending}", PLAIN)]
    assert sum(len(batch.documents) for batch in plain) == 2


def test_the_files_of_a_dataset_s_directory(tmp_path: Path) -> None:
    for name in ("a.jsonl", ".git/x", "d/.b.jsonl", "d/c.jsonl"):
        (tmp_path / "ds" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ds" / name).write_bytes(b"")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / os.fsdecode(b"\xe9.jsonl")).write_bytes(b"")
    (tmp_path / "ds" / "far").symlink_to("../far")
    (tmp_path / "ds" / "d" / "self").symlink_to(".")
    (tmp_path / "ds" / "gone.jsonl").symlink_to("nothing")
    assert [name for name, _ in dataset_files(tmp_path / "ds")] == [
        "a.jsonl",
        "d/c.jsonl",
        "far/\\xe9.jsonl",
    ]


@pytest.mark.parametrize("saved", [True, False])
def test_the_splits_that_are_not_read_are_told(tmp_path: Path, saved: bool) -> None:
    table = pa.table({"text": ["a"]})
    names = ["test", "train", "validation"]
    for name in names:
        if saved:
            (tmp_path / "data").mkdir(exist_ok=True)
            (tmp_path / "data" / "dataset_dict.json").write_text(json.dumps({"splits": names}))
        else:
            (tmp_path / "data" / "parts").mkdir(parents=True, exist_ok=True)
            pq.write_table(table, tmp_path / "data" / "parts" / f"{name}-00000-of-00001.parquet")

    def find(*splits: str) -> FoundInputs:
        corpus = [{"path": "hf:data", "split": split} for split in splits]
        budget = {"tokens": 1, "rank": "random"}
        return find_inputs(parse_recipe({"corpus": corpus, "budget": budget}, tmp_path))

    found = find("train")
    assert found.left_out == {"splits": 2}
    (line,) = found.notes
    assert "data: test, data: validation" in line
    assert find("train", "test").left_out == {"splits": 1}
    assert find(*names).left_out == {} and find(*names).notes == ()
