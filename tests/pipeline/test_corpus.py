"""Files to corpus: every record has a fate, and a second run goes on where the first one was."""

from __future__ import annotations

import gzip
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.artefact import Workspace
from penstock.errors import InputError
from penstock.pipeline import corpus as module
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.reading import inputs
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.units import (
    UNIT_BYTES,
)
from penstock.text_hashes import normalise
from tests.pipeline.corpora import (
    BAD,
    Counting,
    check_accounting,
    documents,
    dropped,
    jsonl,
    make,
    peak_memory,
    quarantined,
    raw,
    recipe,
    texts,
    write_pool,
)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path)


# -- the fate of every record ----------------------------------------------------------------------


def test_every_record_has_a_fate(pool: Path) -> None:
    made = make(pool)
    assert check_accounting(made) == {
        "read": 3 * 45 + 4 + 1,
        "kept": 3 * 40 + 1 + 1 + 1,
        "dropped": 3 + 3 + 1,
        "dropped_by": {"duplicate": 6, "empty": 1},
        "quarantined": 3 * 3 + 1,
    }
    kept = [normalise(text) for text in texts(made)]
    assert kept.count("everywhere the same") == 1
    assert len(set(kept)) == len(kept)
    assert set(made.by_source) == {"unknown", "wiki", "pool"}


def test_the_quarantine_holds_the_record_its_place_and_its_error(tmp_path: Path) -> None:
    lines = [*BAD, b"\xff\xfe", b'{"text": null, "id": "\xc3\xa9"}', b"[]", b'a "quoted" \\ line']
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "good"}, *lines])
    bad = quarantined(make(tmp_path))
    assert [raw(item) for item in bad] == lines
    assert [item["place"] for item in bad] == [f"line {n}" for n in range(2, 2 + len(lines))]
    assert {item["file"] for item in bad} == {"pool/x.jsonl"}
    assert all(item["error"] for item in bad)


def test_documents_keep_id_source_meta_and_size(tmp_path: Path) -> None:
    jsonl(
        tmp_path / "pool" / "x.jsonl",
        [{"id": 7, "text": "é", "source": "web", "b": 1, "a": [2]}, {"text": "no id"}],
    )
    made = make(tmp_path)
    assert documents(made) == [
        {
            "id": "7",
            "text": "é",
            "source": "web",
            "meta": '{"a":[2],"b":1}',
            "parent": None,
            "bytes": 2,
            "line": 1,
        },
        {
            "id": NO_ID,
            "text": "no id",
            "source": "unknown",
            "meta": None,
            "parent": None,
            "bytes": 5,
            "line": 2,
        },
    ]


NO_ID = "b5f7340ab1ff5997bb7ac279"
"""Golden: blake2b of the text, 12 bytes. A change would rename documents of finished corpora."""


def test_empty_and_blank_documents_are_dropped_by_name(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": text} for n, text in enumerate(["", " \n\t", "\u2003", "x"])]
    jsonl(tmp_path / "pool" / "x.jsonl", rows)
    made = make(tmp_path)
    assert check_accounting(made)["dropped_by"] == {"empty": 3}
    assert [row["id"] for row in dropped(made)] == ["0", "1", "2"]
    assert texts(made) == ["x"]


@pytest.mark.parametrize("exact", [True, False])
def test_lone_surrogates_are_quarantined_whole(tmp_path: Path, exact: bool) -> None:
    """JSON that a lenient writer made; the decoder, or the encoding to UTF-8, refuses it."""
    rows = [b'{"text": "a\\ud800b", "id": "s"}', b'{"text": "ok", "id": "\\udfff"}', {"text": "x"}]
    jsonl(tmp_path / "pool" / "x.jsonl", rows)
    made = make(tmp_path, dedup={"exact": exact})
    assert check_accounting(made)["quarantined"] == 2
    assert [raw(bad) for bad in quarantined(made)] == rows[:2]
    assert texts(made) == ["x"]


@pytest.mark.slow
def test_a_large_document_is_kept_and_one_over_the_limit_is_quarantined(tmp_path: Path) -> None:
    limit = 50 * 2**20
    line = b"0123456789abcdef" * (limit // 16)
    jsonl(
        tmp_path / "pool" / "x.jsonl",
        [
            b'{"id": "fits", "text": "' + line + b'"}',
            b'{"id": "over", "text": "' + line + b'x", "n": 1}',
            {"id": "small", "text": "small"},
        ],
    )
    with peak_memory(12 * 50):
        made = make(tmp_path, max_document_bytes=limit)
    check_accounting(made)
    assert [(row["id"], row["bytes"]) for row in documents(made)] == [("fits", limit), ("small", 5)]
    (bad,) = quarantined(made)
    assert bad["place"] == "line 2"
    assert f"more than clean.max_document_bytes = {limit:,}" in bad["error"]
    record = json.loads(raw(bad))
    assert (record["id"], json.loads(record["meta"])) == ("over", {"n": 1})
    assert record["text"] == line.decode() + "x"


def test_a_bad_record_never_stops_a_run_but_no_good_one_does(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [*BAD, {"text": " "}])
    with pytest.raises(InputError) as caught:
        make(tmp_path)
    assert caught.value.key == "corpus"
    counts = " 4 read: 3 quarantined, 1 dropped (1 by the rule empty)"
    assert counts in caught.value.problem
    (quarantine,) = (tmp_path / "work" / "corpus").glob("*/quarantine-00000.jsonl")
    assert caught.value.file == str(quarantine)
    first = json.loads(quarantine.read_bytes().splitlines()[0])
    assert caught.value.problem.endswith(f"x.jsonl, line 1: {first['error']}")
    stages = [made.manifest["stage"] for made in Workspace(tmp_path / "work").artefacts()]
    assert stages == ["corpus", "verdicts"]


def test_empty_files_stand_beside_others(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "x"}])
    (tmp_path / "pool" / "empty.jsonl").write_bytes(b"")
    (tmp_path / "pool" / "blank.jsonl").write_bytes(b"\n\n")
    assert check_accounting(make(tmp_path))["read"] == 1


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.parquet"])
def test_a_damaged_file_stops_the_run_by_name(tmp_path: Path, name: str) -> None:
    jsonl(tmp_path / "pool" / "y.jsonl", [{"text": "x"}])
    (tmp_path / "pool" / name).write_bytes(gzip.compress(b'{"text": "x"}\n')[:-3])
    with closing(LocalRunner(2)) as runner, pytest.raises(InputError) as caught:
        make(tmp_path, runner=runner)
    assert caught.value.file == str(tmp_path / "pool" / name)


_rows = st.lists(
    st.one_of(
        st.fixed_dictionaries({"text": st.sampled_from(["a", "A ", "b", "", " ", "c d", "c  d"])}),
        st.sampled_from(BAD),
    ),
    max_size=12,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(files=st.lists(_rows, min_size=1, max_size=3), unit_bytes=st.sampled_from([9, 60, 1000]))
@pytest.mark.slow
def test_accounting_and_deduplication_hold_for_any_files(
    tmp_path: Path, files: list[list[Any]], unit_bytes: int
) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    for number, rows in enumerate(files):
        jsonl(tmp_path / "pool" / f"{number}.jsonl", rows)
    rows = [row for file in files for row in file]
    good = [normalise(row["text"]) for row in rows if isinstance(row, dict)]
    expected = {text for text in good if text}
    if not expected:
        with pytest.raises(InputError, match="no document is left"):
            make(tmp_path, unit_bytes=unit_bytes)
        return
    made = make(tmp_path, unit_bytes=unit_bytes)
    facts = check_accounting(made)
    assert facts["read"] == len(rows)
    assert facts["quarantined"] == sum(isinstance(row, bytes) for row in rows)
    kept = [normalise(text) for text in texts(made)]
    assert sorted(kept) == sorted(expected)


# -- again -----------------------------------------------------------------------------------------


def test_a_second_call_does_no_work(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_SETTLED", -(10**15))
    one = make(pool)
    runner = Counting()
    assert make(pool, runner=runner) == one
    assert runner.done == []


def test_a_crash_between_parts_goes_on_where_it_was(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(pool, work="whole", unit_bytes=2000)
    real = module._write_split

    def crash(split: Any, state: Any) -> Any:
        if split.number == 3:
            raise KeyboardInterrupt
        return real(split, state)

    monkeypatch.setattr(module, "_write_split", crash)
    with pytest.raises(KeyboardInterrupt):
        make(pool, unit_bytes=2000)
    assert list(Workspace(pool / "work").artefacts()) == []
    monkeypatch.undo()
    runner = Counting()
    resumed = make(pool, runner=runner, unit_bytes=2000)
    parts = [part for name, part in runner.done if name == "_write_split"]
    splits = len(whole.corpus.named("part-"))
    assert parts == [f"{number:05d}" for number in range(3, splits)] and splits > 5
    assert resumed.verdicts.digest == whole.verdicts.digest


def test_files_of_a_killed_task_are_not_part_of_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task killed after its first unit leaves a file without a record, and a temporary one."""
    pool = tmp_path
    (pool / "pool").mkdir()
    table = pa.table({"text": [f"{number} " + "w " * 50 for number in range(100)]})
    pq.write_table(table, pool / "pool" / "x.parquet")
    whole = make(pool, work="whole", unit_bytes=300)
    real = module.UnitWriter._hold
    left = [25]

    def killed(self: Any, documents: pa.RecordBatch) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        real(self, documents)

    monkeypatch.setattr(module.UnitWriter, "_hold", killed)
    with pytest.raises(KeyboardInterrupt):
        make(pool, unit_bytes=300)
    monkeypatch.undo()
    (draft,) = (pool / "work" / "corpus").iterdir()
    recorded = {
        item["path"]
        for record in draft.glob("records/*")
        for item in json.loads(record.read_bytes())
    }
    assert {path.name for path in draft.glob("unit-*")} - recorded, "nothing was left half done"
    assert not list(draft.rglob("*.tmp"))
    assert make(pool, unit_bytes=300).verdicts.digest == whole.verdicts.digest


def test_a_file_that_changes_under_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its rows would have a name that is not theirs."""
    path = jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "a"}, {"text": "a"}, {"text": "b"}])
    real = module._write_split

    def changed(job: Any, state: object) -> Any:
        jsonl(path, [{"text": "c"}, {"text": "d"}, {"text": "e"}])
        return real(job, state)

    monkeypatch.setattr(module, "_write_split", changed)
    with pytest.raises(InputError) as caught:
        make(tmp_path)
    assert (caught.value.file, caught.value.fix) == (str(path), "run again")
    monkeypatch.undo()
    assert texts(make(tmp_path)) == ["c", "d", "e"]


def test_corpora_of_an_earlier_version_are_told(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "x"}])
    old = tmp_path / "work" / "corpus" / ("0" * 16)
    old.mkdir(parents=True)
    manifest = {"format": 1, "stage": "corpus", "stage_version": 2, "fingerprint": "0" * 64}
    manifest |= {"config": {}, "inputs": {}, "files": [], "facts": {}}
    (old / "manifest.json").write_text(json.dumps(manifest))
    lines: list[str] = []
    settings = CorpusSettings.of(recipe(tmp_path))
    workspace = Workspace(tmp_path / "work")
    made = make_corpus(settings, workspace, LocalRunner(1), lines.append)
    assert len([line for line in lines if "1 corpora of an earlier version" in line]) == 1
    assert make_corpus(settings, workspace, LocalRunner(1), lines.append).path == made.path
    assert len(lines) == 1, "once, when a corpus is made"


def test_splits_of_the_hub_that_are_not_read_are_told_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of disks are found with the files, before anything is made."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "pool" / "notes.pdf").write_bytes(b"")
    asked = []

    def unread_splits(items: Any) -> set[str]:
        asked.extend(items)
        return {"hf:own/data@c: test", "hf:own/data@c: validation"}

    monkeypatch.setattr(module, "unread_splits", unread_splits)
    told: list[str] = []
    settings = CorpusSettings.of(recipe(tmp_path), UNIT_BYTES)
    workspace = Workspace(tmp_path / "work")
    for _ in range(2):
        made = make_corpus(settings, workspace, LocalRunner(1), told.append)
        assert made.facts["left_out"] == {"other_kinds": {".pdf": 1}, "splits": 2}
    assert [str(path) for _, path in asked] == [str(tmp_path / "pool" / "a.jsonl")]
    line = "left out, other splits of Hugging Face datasets: 2 (hf:own/data@c: test, "
    assert [one for one in told if "splits" in one] == [f"{line}hf:own/data@c: validation)"]


def test_scratch_is_gone_when_the_corpus_is_there(pool: Path) -> None:
    made = make(pool, unit_bytes=500)
    for artefact in (made.corpus, made.verdicts):
        assert {path.name for path in artefact.path.iterdir() if path.is_dir()} == {"records"}


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_is_that_of_a_unit_not_of_the_file(tmp_path: Path) -> None:
    """80 MB of text in units of 2 MiB."""
    rows = ({"text": f"{n} " + "word " * 2000} for n in range(8_000))
    (tmp_path / "pool").mkdir()
    with open(tmp_path / "pool" / "x.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    jsonl(tmp_path / "small" / "x.jsonl", [{"text": "warm"}])
    make(tmp_path, "small", work="warm")
    with peak_memory(60):
        made = make(tmp_path, unit_bytes=2 * 2**20)
    assert made.kept == 8_000
