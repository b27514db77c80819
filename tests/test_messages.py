"""The messages of errors, as users read them: one golden file for all of them.

Every other test compares the kind and the fields of an error; a change of wording shows here only.
To write the file anew: ``PENSTOCK_GOLDEN=write python -m pytest -q tests/test_messages.py``.

A case is a function that raises; its name is the name of its line in ``golden/messages.txt``.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

import penstock
from penstock import errors, lease
from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.cluster import connect
from penstock.errors import PenstockError
from penstock.lease import Lease
from penstock.pipeline.runner import LocalRunner
from penstock.selectors.targets import read_targets
from penstock.storage import (
    as_path,
    atomic_file,
    translate_os_errors,
)
from penstock.trainers.checkpoints.saving import Cursor
from penstock.trainers.checkpoints.verified import VerifiedFiles
from tests.pools import write_jsonl

GOLDEN = Path(__file__).parent / "golden" / "messages.txt"

Case = Callable[[Path], object]

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a function that raises an error; it is called with an empty directory."""
    CASES[function.__name__] = function
    return function


def cases(name: str, function: Callable[[Path, Any], object], values: dict[str, Any]) -> None:
    """Register ``function`` once for each value."""
    for key, value in values.items():
        CASES[f"{name}_{key}"] = lambda directory, value=value: function(directory, value)


# -- storage ----------------------------------------------------------------------------------


def system_error(directory: Path, number: int) -> None:
    with translate_os_errors(directory):
        raise OSError(number, os.strerror(number))


cases("path", lambda _, text: as_path(text), {
    "of_an_unknown_store": "nosuch://x/y",
    "with_one_slash": "s3:/bucket/x",
    "without_a_bucket": "s3://",
})  # fmt: skip
cases("system", system_error, {
    "disk_full": errno.ENOSPC,
    "quota_used_up": errno.EDQUOT,
    "file_too_large": errno.EFBIG,
    "read_only": errno.EROFS,
    "permission_denied": errno.EACCES,
    "not_permitted": errno.EPERM,
    "file_instead_of_directory": errno.ENOTDIR,
})  # fmt: skip


@case
def file_where_a_directory_is_needed(directory: Path) -> None:
    (directory / "work").write_bytes(b"")
    with atomic_file(directory / "work" / "x"):
        pass


# -- artefacts --------------------------------------------------------------------------------


def write(draft: Draft, name: str) -> FileRecord:
    with atomic_file(draft.path / name) as sink:
        sink.write(b"data")
    return FileRecord.of(name, sink)


def finished(directory: Path) -> Artefact:
    draft = Workspace(directory).draft("stage", 1, {}, {})
    draft.record("one", [write(draft, "x.bin")])
    return draft.publish(["one"], {})


@case
def artefact_with_a_changed_file(directory: Path) -> None:
    made = finished(directory)
    (made.path / "x.bin").write_bytes(b"dat\0")
    made.verify()


@case
def artefact_with_a_shortened_file(directory: Path) -> None:
    made = finished(directory)
    (made.path / "x.bin").write_bytes(b"da")
    made.check_sizes()


@case
def artefact_without_a_file(directory: Path) -> None:
    made = finished(directory)
    (made.path / "x.bin").unlink()
    made.verify()


@case
def artefact_that_is_not_finished(directory: Path) -> None:
    Artefact.open(directory)


def manifest(directory: Path, content: str) -> None:
    (directory / "manifest.json").write_text(content)
    Artefact.open(directory)


cases("manifest", manifest, {
    "that_is_not_json": "{",
    "without_files": '{"format": 1}',
    "of_a_newer_format": '{"format": 9, "files": []}',
})  # fmt: skip


@case
def directory_of_another_artefact(directory: Path) -> None:
    made = finished(directory)
    Workspace(directory).find("stage", made.fingerprint[:16] + "0" * 48)


@case
def part_that_was_not_recorded(directory: Path) -> None:
    Workspace(directory).draft("stage", 1, {}, {}).publish(["one"], {})


@case
def part_whose_file_is_gone(directory: Path) -> None:
    draft = Workspace(directory).draft("stage", 1, {}, {})
    draft.record("one", [write(draft, "x.bin")])
    (draft.path / "x.bin").unlink()
    draft.publish(["one"], {})


@case
def record_that_is_not_json(directory: Path) -> None:
    draft = Workspace(directory).draft("stage", 1, {}, {})
    draft.record("one", [])
    (draft.path / "records" / "one.json").write_text("{")
    Workspace(directory).draft("stage", 1, {}, {}).done("one")


@case
def artefact_that_does_not_exist_yet(directory: Path) -> None:
    Workspace(directory, read_only=True).draft("corpus", 1, {}, {})


# -- leases -----------------------------------------------------------------------------------


@case
def lease_of_another_driver(directory: Path) -> None:
    first = Lease(directory)
    first.hold()
    try:
        Lease(directory).hold()
    finally:
        first.release()


@case
def lease_that_was_taken_over(directory: Path) -> None:
    first = Lease(directory)
    first.hold()
    path = directory / "lease" / "00000001.json"
    path.with_name("00000002.json").write_bytes(path.read_bytes())
    try:
        first.check()
    finally:
        first.release()


@case
def lease_taken_at_the_same_moment(directory: Path) -> None:
    def taken(path: Path, data: bytes) -> bool:
        path.write_bytes(b"{}")
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "create_file", taken)
        Lease(directory).hold()


@case
def part_recorded_by_another_driver(directory: Path) -> None:
    one, two = (Workspace(directory).draft("stage", 1, {}, {}) for _ in range(2))
    assert one.done("a") is None and two.done("a") is None
    one.record("a", [FileRecord(path="a", bytes=1, sha256="1" * 64)])
    two.record("a", [FileRecord(path="a", bytes=1, sha256="2" * 64)])


# -- recipes ----------------------------------------------------------------------------------

SMALLEST = {"corpus": [{"path": "pool.jsonl"}], "budget": {"tokens": 1000, "rank": "random"}}


def recipe_text(directory: Path, text: str) -> Path:
    path = directory / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def recipe(directory: Path, changes: dict[str, Any]) -> Path:
    """Write the smallest recipe with some keys replaced; None leaves one out."""
    tree = {key: value for key, value in (SMALLEST | changes).items() if value is not None}
    return recipe_text(directory, yaml.safe_dump(tree))


def budget(**changes: Any) -> dict[str, Any]:
    return {"budget": {"tokens": 1000, "rank": "random", **changes}}


cases("recipe", lambda directory, text: penstock.load_recipe(recipe_text(directory, text)), {
    "that_is_not_yaml": "a: [1",
    "that_is_not_a_mapping": "- 1",
    "that_is_empty": "",
    "with_a_key_twice": "seed: 1\nseed: 2",
    "with_a_tab": "budget:\n\ttokens: 1",
})  # fmt: skip
cases("recipe", lambda directory, tree: penstock.load_recipe(recipe(directory, tree)), {
    "without_corpus": {"corpus": None},
    "without_budget": {"budget": None},
    "with_an_empty_corpus": {"corpus": []},
    "with_a_misspelt_key": {"budegt": {}},
    "with_a_misspelt_key_below": budget(token=5),
    "with_a_key_that_was_removed": {"clean": {"keep_dropped": True}},
    "with_several_problems": {"seed": "x", "shards": {"sequence_length": 0}, "nothing": 1},
    "with_negative_tokens": budget(tokens=-5),
    "with_tokens_in_words": budget(tokens="many"),
    "ranked_by_an_unknown_name": budget(rank="betr"),
    "ranked_by_a_negative_weight": {
        "select": {"a": {"use": "betr", "target": "t.jsonl"}, "b": {"use": "dsir"}},
        **budget(rank={"a": -1.0, "b": 2.0}),
    },
    "with_shares_above_one": budget(shares={"wiki": 0.7, "web": 0.6}),
    "with_an_unknown_draw": budget(draw="bottom"),
    "with_gumbel_alone": budget(draw="gumbel"),
    "with_uniform_alone": budget(draw="uniform"),
    "with_a_least_size": {"clean": {"min_document_bytes": 200}},
    "with_no_temperature": budget(draw={"gumbel": {"temperature": 0}}),
    "with_an_unknown_schedule": {"train": {"schedule": "rexx"}},
    "with_heads_that_do_not_divide": {"train": {"model": {"layers": 1, "width": 10, "heads": 3}}},
    "with_a_negative_rate": {"train": {"lr": -1}},
    "with_a_batch_of_part_of_a_sequence": {"train": {"batch_tokens": 100}},
    "with_a_small_vocabulary": {"tokenizer": {"train": {"vocab_size": 3}}},
    "with_a_work_directory_of_one_slash": {"work": "s3:/bucket"},
    "with_a_selector_called_random": {"select": {"random": {"use": "betr"}}},
    "with_a_selector_without_use": {"select": {"mine": {}}},
    "with_an_arm_of_unknown_keys": {"compare": {"arms": {"random": {"budgets": {}}}}},
    "with_a_baseline_that_is_no_arm": {"compare": {"arms": {"a": {"seed": 2}}}},
})  # fmt: skip
cases("setting", lambda directory, text: penstock.load_recipe(recipe(directory, {}), [text]), {
    "without_value": "budget.tokens",
    "of_unknown_key": "budget.token=5",
    "below_a_number": "budget.tokens.x=5",
})  # fmt: skip


@case
def recipe_that_does_not_exist(directory: Path) -> None:
    penstock.load_recipe(directory / "recipe.yaml")


# -- selectors and their targets --------------------------------------------------------------

POOL = [{"id": f"d{n}", "text": f"water and stone {n} " * 9, "source": "web"} for n in range(20)]


def curated(directory: Path, changes: dict[str, Any]) -> None:
    """Curate a pool of 20 documents in this process."""
    write_jsonl(directory / "pool.jsonl", POOL)
    write_jsonl(directory / "t.jsonl", [{"question": "q", "answer": "a"}])
    (directory / "mine.py").write_text(PLUG_INS)
    (directory / "queue.py").write_text("weight = 2")
    sys.modules.pop("mine", None)  # of another case
    base = {"work": "work", "tokenizer": {"train": {"vocab_size": 320}}}
    path = recipe(directory, {**base, "shards": {"sequence_length": 16}, **changes})
    penstock.curate(path, runner="local", workers=1)


PLUG_INS = """
def raises(texts):
    raise ValueError("no")

def short(texts):
    return [1.0]

def words(texts):
    return ["high" for _ in texts]

def nothing(texts):
    return [float("nan") for _ in texts]

def no_texts():
    return []

number = 5

import queue

def hidden(texts):
    return [queue.weight] * len(texts)

class Locked:
    def __init__(self):
        self.lock = queue.Queue().mutex
    def score(self, documents): ...

class Reports:
    def fit(self, fitting):
        return {"model": {1, 2}}
    def save(self, directory): ...
    def load(self, directory): ...
    def score(self, documents): ...
"""


def selecting(**spec: Any) -> dict[str, Any]:
    return {"select": {"x": spec}, **budget(tokens=160, rank="x")}


cases("selector", curated, {
    "that_is_unknown": selecting(use="betrr", target="t.jsonl"),
    "with_a_misspelt_parameter": selecting(use="betr", target="t.jsonl", rigde=1),
    "with_a_parameter_of_the_wrong_kind": selecting(use="betr", target="t.jsonl", lr="x"),
    "without_its_target": selecting(use="betr"),
    "whose_target_is_missing": selecting(use="betr", target="none.jsonl"),
    "with_too_few_clusters": selecting(use="kmq", clusters=0),
    "in_a_missing_module": selecting(use="nowhere:score"),
    "named_by_a_file": selecting(use="./mine.py:score"),
    "that_is_not_in_its_file": selecting(use="mine:scores"),
    "that_is_no_function": selecting(use="mine:number"),
    "that_takes_no_texts": selecting(use="mine:no_texts"),
    "that_raises": selecting(use="mine:raises"),
    "that_returns_too_few_scores": selecting(use="mine:short"),
    "that_returns_words": selecting(use="mine:words"),
    "that_excludes_every_document": selecting(use="mine:nothing"),
    "whose_helper_has_a_name_of_pythons": selecting(use="mine:hidden"),
    "that_holds_a_lock": selecting(use="mine:Locked"),
    "whose_fit_reports_a_set": selecting(use="mine:Reports"),
})  # fmt: skip


def target(directory: Path, text: str) -> None:
    (directory / "t.jsonl").write_text(text)
    read_targets(directory / "t.jsonl")


cases("target", target, {
    "that_is_not_json": "{",
    "that_is_no_object": "[]",
    "without_an_answer": '{"question": "q"}',
    "that_is_empty": "",
})  # fmt: skip

# -- inputs -----------------------------------------------------------------------------------


def reading(directory: Path, source: dict[str, Any]) -> None:
    (directory / "empty").mkdir()
    (directory / "notes.doc").write_bytes(b"x")
    (directory / "broken.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 99)[:-9])
    (directory / "zero.jsonl.gz").write_bytes(b"")
    (directory / "not.parquet").write_bytes(b"PAR1 and no more")
    (directory / "bad.jsonl").write_bytes(b"{\n")
    (directory / "blank.jsonl").write_bytes(b'{"text": " "}\n')
    (directory / "cut.json").write_bytes(b'[{"text": "a"}, ')
    (directory / "plain.jsonl.gz").write_bytes(b'{"text": "a"}\n')
    member = gzip.compress(b'{"text": "a"}\n', mtime=0)
    (directory / "tail.jsonl.gz").write_bytes(member + b"tail")
    kind = zstandard.ZstdCompressionParameters(window_log=31)
    stream = zstandard.ZstdCompressor(compression_params=kind).compressobj()
    (directory / "window.jsonl.zst").write_bytes(stream.compress(b"{}\n") + stream.flush())
    twice = pa.Table.from_arrays([pa.array(["x"])] * 2, ["text", "text"])
    pq.write_table(twice, directory / "twice.parquet")
    pq.write_table(pa.table({"body": ["x"]}), directory / "body.parquet")
    curated(directory, {"corpus": [source]})


cases("corpus", reading, {
    "that_is_missing": {"path": "none.jsonl"},
    "of_an_empty_directory": {"path": "empty"},
    "of_an_unknown_kind": {"path": "notes.doc"},
    "whose_pattern_matches_nothing": {"path": "none-*.jsonl"},
    "whose_pattern_matches_an_unknown_kind": {"path": "notes.*"},
    "that_is_truncated": {"path": "broken.jsonl.gz"},
    "that_is_a_truncated_array": {"path": "cut.json"},
    "that_is_not_compressed": {"path": "plain.jsonl.gz"},
    "with_other_bytes_behind_it": {"path": "tail.jsonl.gz"},
    "of_a_large_window": {"path": "window.jsonl.zst"},
    "with_two_columns_of_a_name": {"path": "twice.parquet"},
    "of_no_bytes": {"path": "zero.jsonl.gz"},
    "that_is_no_parquet": {"path": "not.parquet"},
    "without_its_column": {"path": "body.parquet"},
    "of_bad_lines_only": {"path": "bad.jsonl"},
    "of_blank_documents_only": {"path": "blank.jsonl"},
    "on_the_hub_with_a_uri": {"path": "hf:s3://bucket/x"},
})  # fmt: skip
cases("budget", curated, {
    "larger_than_the_pool": budget(tokens=1_000_000),
    "below_one_sequence": budget(tokens=5),
    "with_a_share_of_an_unknown_source": budget(tokens=160, shares={"wiki": 0.5}),
    "with_a_share_larger_than_its_source": budget(tokens=100_000, shares={"web": 0.5}),
})  # fmt: skip

cases("server", curated, {
    "that_cannot_be_reached": {"rewrite": {"wrap": {"use": "wrap", "by": {
        "url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0,
    }}}},
})  # fmt: skip


def checkpoint(directory: Path, **changes: Any) -> Cursor:
    values = {"step": 5, "tokens": 10, "shards": "0" * 64, "seed": 1, "workers": 1}
    values["backend"] = "torch"
    (directory / "run").mkdir()
    Cursor(**(values | changes)).write(directory / "run")
    record = FileRecord.found(directory / "run", "cursor.json")
    return Cursor.read(VerifiedFiles.of(directory / "run", [record]))


cases("checkpoint", lambda directory, changes: checkpoint(directory, **changes).check(
    directory / "run", "0" * 64, 1
), {
    "of_a_newer_format": {"format": 9},
    "of_other_shards": {"shards": "1" * 64},
    "of_another_seed": {"seed": 2},
})  # fmt: skip

# -- workers, servers, jobs, training ---------------------------------------------------------


@case
def item_that_ends_its_workers(directory: Path) -> None:
    def end_process(item: object, state: object) -> None:  # sent by value: no worker imports this
        os.kill(os.getpid(), signal.SIGKILL)

    with closing(LocalRunner(2)) as runner, pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.pipeline.runners.local.killed_for_memory", lambda: 0)
        list(runner.run(end_process, ["an item"]))


def evaluating(directory: Path, changes: dict[str, Any]) -> None:
    (directory / "empty.jsonl").write_bytes(b"\n")
    curated(directory, changes)


cases("evaluation", evaluating, {
    "of_an_empty_file": {"evaluate": ["empty.jsonl"]},
    "of_a_directory": {"evaluate": ["."]},
    "of_a_target_that_is_a_directory": selecting(use="betr", target="."),
    "of_a_target_that_is_empty": selecting(use="betr", target="empty.jsonl"),
})  # fmt: skip


@case
def ray_that_does_not_start_in_time(directory: Path) -> None:
    """Ray raises a bare Exception, which ended in a traceback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr("ray.is_initialized", lambda: False)
        late = Exception("The current node timed out during startup.\nThis could happen because")
        patch.setattr("ray.init", mock.Mock(side_effect=late))
        connect(1)


@case
def ray_that_is_not_there(directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # a port that nothing listens at
        patch.setattr("ray.is_initialized", lambda: False)
        connect()


# -- the golden file --------------------------------------------------------------------------


def message(name: str, directory: Path) -> str:
    """Return the line of a case: its name, the kind of its error, and the sentence."""
    with pytest.raises(PenstockError) as caught:
        CASES[name](directory)
    text = str(caught.value).replace(str(directory), "DIR").replace(str(Path.cwd()), "CWD")
    text = re.sub(r"by .*? \(process \d+ on \S+, since [\d :-]+\)", "by DRIVER", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "SHA256", text)
    text = re.sub(r"\b[0-9a-f]{16}\b", "NAME", text)
    return f"{name}: {type(caught.value).__name__}: {json.dumps(text, ensure_ascii=False)[1:-1]}"


def golden() -> dict[str, str]:
    lines = GOLDEN.read_text(encoding="utf-8").splitlines() if GOLDEN.exists() else []
    return {line.partition(": ")[0]: line for line in lines}


CURATING = ("selector_", "corpus_", "evaluation_", "budget_", "server_", "item_")
"""Beginnings of the names of cases that take a second or more."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(CURATING)) for name in CASES],
)
def test_message(name: str, tmp_path: Path) -> None:
    found = message(name, tmp_path)
    if os.environ.get("PENSTOCK_GOLDEN") == "write":
        lines = {key: line for key, line in golden().items() if key in CASES} | {name: found}
        GOLDEN.write_text("".join(f"{lines[key]}\n" for key in sorted(lines)), encoding="utf-8")
    assert golden()[name] == found


def test_the_golden_file_has_every_case_and_no_other() -> None:
    assert list(golden()) == sorted(CASES)


def test_every_kind_of_error_has_a_message() -> None:
    kinds = {line.split(": ")[1] for line in golden().values()}
    tree = [*errors.BadInput.__subclasses__(), *errors.Failure.__subclasses__()]
    assert kinds >= {kind.__name__ for kind in tree}
