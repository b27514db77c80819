"""Files to corpus: every record has a fate, and the same bytes always make the same corpus."""

from __future__ import annotations

import base64
import errno
import gc
import gzip
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import web_archives
from penstock.artefact import Workspace
from penstock.errors import ArtefactError, InputError, RecipeError, StorageError
from penstock.jobs.origins import Origins
from penstock.pipeline import corpus as module
from penstock.pipeline.cleaning import verdicts
from penstock.pipeline.cleaning.fates import Failed, failed_rules, repeated_by
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import CorpusSettings, make_corpus, unit_bytes_for
from penstock.pipeline.pool import Pool
from penstock.pipeline.reading import inputs
from penstock.pipeline.reading.records import Record
from penstock.pipeline.runner import LocalRunner, RayRunner, Runner
from penstock.pipeline.units import (
    BATCH,
    GIVEN,
    SCHEMA,
    UNIT_BYTES,
    Origin,
    UnitWriter,
    iter_documents,
    units_of,
)
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.storage import Sink
from penstock.text_hashes import hash_texts, normalise
from tests.zstd import frame


def recipe(directory: Path, *corpus: Any, **clean: Any) -> Recipe:
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in corpus]
    return parse_recipe(
        {
            "corpus": entries or [{"path": "pool"}],
            "clean": clean,
            "budget": {"tokens": 1, "rank": "random"},
        },
        directory,
    )


def make(
    directory: Path,
    *corpus: Any,
    runner: Runner | None = None,
    unit_bytes: int = UNIT_BYTES,
    work: str = "work",
    **clean: Any,
) -> Pool:
    settings = recipe(directory, *corpus, **clean)
    workspace, runner = Workspace(directory / work), runner or LocalRunner(1)
    made = make_corpus(CorpusSettings.of(settings, unit_bytes), workspace, runner)
    return make_pool(CleanSettings.of(settings), made, workspace, runner).checked()


COLUMNS = [*SCHEMA.names, "bytes", "line"]


def documents(made: Pool, columns: Sequence[str] = COLUMNS) -> list[dict[str, Any]]:
    return [
        row
        for unit in made.units
        for batch in iter_documents(unit, columns)
        for row in batch.to_pylist()
    ]


def texts(made: Pool) -> list[str]:
    return [row["text"] for row in documents(made)]


def dropped(made: Pool) -> list[dict[str, Any]]:
    """Every document of the corpus that the pool does not keep, with its reason."""
    found = []
    for unit in made.units:
        rows = pq.read_table(unit.path()).to_pylist()
        for row in np.setdiff1d(np.arange(len(rows)), unit.numbers()).tolist():
            of = repeated_by(made, unit, row)
            repeats = of and pq.read_table(of[0].path())["id"][of[1]].as_py()
            rule = failed_rules(made, unit, row).reason
            found.append({**rows[row], "rule": rule, "repeats": repeats})
    return found


def quarantined(made: Pool) -> list[dict[str, Any]]:
    corpus = made.corpus
    return [
        json.loads(line)
        for file in corpus.named("quarantine-")
        for line in corpus.verified(file).read_bytes().splitlines()
    ]


def raw(bad: Mapping[str, str]) -> bytes:
    return bad["raw"].encode() if "raw" in bad else base64.b64decode(bad["raw_base64"])


def check_accounting(made: Pool) -> dict[str, Any]:
    """read = kept + dropped + quarantined, and each number is what the files hold."""
    facts = made.documents
    assert facts["read"] == facts["kept"] + facts["dropped"] + facts["quarantined"]
    assert facts["kept"] == len(documents(made))
    assert facts["dropped"] == len(dropped(made)) == sum(facts["dropped_by"].values())
    assert facts["quarantined"] == len(quarantined(made))
    by_source = made.by_source.values()
    assert facts["kept"] == sum(tally["documents"] for tally in by_source)
    assert sum(tally["bytes"] for tally in by_source) == sum(
        len(text.encode()) for text in texts(made)
    )
    return dict(facts)


def jsonl(path: Path, rows: list[Any]) -> Path:
    """Objects as JSON lines; bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join(
            (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows
        )
    )
    return path


@contextmanager
def peak_memory(most: float) -> Iterator[None]:
    """Fails where the process grows by more than ``most`` MiB at any time."""
    reset = Path("/proc/self/clear_refs")

    def high() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])

    try:
        reset.write_text("5")  # the peak begins anew
    except OSError as error:
        pytest.skip(f"the peak of memory cannot be reset here: {error}")
    before = high()
    yield
    grown = (high() - before) / 1024
    assert grown < most, f"{grown:.0f} MiB more"


BAD = [b"not json", b'{"text": "\xff"}', b'{"text": 3}']


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Five files of four kinds, with repeats within and across them and bad records."""
    directory = tmp_path / "pool"
    for number in range(3):
        rows: list[Any] = [
            {"id": f"{number}-{k}", "text": f"document {number} {k} " + "w " * k, "n": k}
            for k in range(40)
        ]
        rows[5:5] = [{"id": f"r{number}", "text": "Everywhere  THE same\n"}, *BAD]
        rows.append({"text": rows[0]["text"].upper(), "id": f"within-{number}"})
        jsonl(directory / f"web-{number}.jsonl", rows)
    table = pa.table(
        {"text": ["everywhere the same", None, "only here", "  "], "source": ["wiki"] * 4}
    )
    pq.write_table(table, directory / "t.parquet")
    (directory / "book.txt.gz").write_bytes(gzip.compress(b"a whole book\n", mtime=0))
    return tmp_path


# -- the fate of every record -----------------------------------------------------------------


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
    assert set(made.by_source) == {"unknown", "wiki", "book"}


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


# -- duplicates -------------------------------------------------------------------------------


def test_normalised_texts_are_compared() -> None:
    assert normalise(" The\tQuick\r\n\u00a0FOX ") == "the quick fox"
    assert normalise("thequick") != normalise("the quick")


def test_exactly_one_of_equal_documents_stays_the_same_for_any_listing(tmp_path: Path) -> None:
    for number in range(4):
        jsonl(
            tmp_path / f"{number}.jsonl",
            [{"id": f"d{number}", "text": "Same  text"}, {"text": f"own {number}"}],
        )
    order = [f"{number}.jsonl" for number in range(4)]
    kept = set()
    for turn in range(4):
        made = make(tmp_path, *order[turn:], *order[:turn], work=f"work-{turn}")
        (same,) = [row["id"] for row in documents(made) if normalise(row["text"]) == "same text"]
        kept.add(same)
        assert {row["id"] for row in dropped(made)} == {"d0", "d1", "d2", "d3"} - {same}
        assert {row["rule"] for row in dropped(made)} == {"duplicate"}
    assert len(kept) == 1


def test_duplicates_stay_where_they_are_wanted(pool: Path) -> None:
    made = make(pool, dedup={"exact": False})
    assert check_accounting(made)["dropped_by"] == {"empty": 1}


def test_many_ranges_and_groups_find_the_same_duplicates_as_one(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(pool, unit_bytes=500)
    monkeypatch.setattr(verdicts, "_RANGE_DOCUMENTS", 10)
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 30)
    runner = Counting()
    many = make(pool, unit_bytes=500, runner=runner, work="other")
    assert len([name for name, _ in runner.done if name == "_find_repeats"]) == 16
    assert len([name for name, _ in runner.done if name == "_settle"]) > 3
    assert dropped(many) == dropped(one)
    assert documents(many) == documents(one)


@pytest.mark.parametrize("unit_bytes", [150, UNIT_BYTES])
def test_a_duplicate_names_the_document_that_it_repeats(
    tmp_path: Path, unit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "_RANGE_DOCUMENTS", 5)
    chance = random.Random(4)
    for number in range(3):
        rows = [
            {"id": f"{number}-{k}", "text": f"text {chance.randrange(15)}  "} for k in range(20)
        ]
        rows[3:3] = [b"bad"]
        rows[9:9] = [{"id": f"e{number}", "text": " "}]
        jsonl(tmp_path / "pool" / f"{number}.jsonl", rows)
    made = make(tmp_path, unit_bytes=unit_bytes)
    first: dict[str, str] = {}
    order = [row for unit in made.units for row in pq.read_table(unit.path()).to_pylist()]
    for row in order:
        first.setdefault(normalise(row["text"]), row["id"])
    gone = dropped(made)
    assert len(gone) == 63 - 15
    for row in gone:
        if row["rule"] == "duplicate":
            assert row["repeats"] == first[normalise(row["text"])]
            assert row["repeats"] != row["id"]
        else:
            assert (row["rule"], row["repeats"]) == ("empty", None)


def test_a_copy_never_loses_to_one_that_is_excluded_itself(tmp_path: Path) -> None:
    """Equal when normalised; stop words are counted with their case."""
    text = "the quick brown fox and the lazy dog have to be with that " * 5
    rows = [
        {"id": "loud", "text": text.upper()},
        {"id": "plain", "text": text},
        {"id": "wide", "text": text.replace(" ", "  ")},
    ]
    jsonl(tmp_path / "pool" / "x.jsonl", rows)
    made = make(tmp_path, rules=["gopher_quality"])
    assert [row["id"] for row in documents(made)] == ["plain"]
    assert check_accounting(made)["dropped_by"] == {
        "duplicate": 1,
        "gopher_quality: min_stop_words": 1,
    }
    assert [(row["id"], row["repeats"]) for row in dropped(made)] == [
        ("loud", None),
        ("wide", "plain"),
    ]
    (unit,) = made.units
    assert failed_rules(made, unit, 0).rules == ("gopher_quality: min_stop_words",)
    assert failed_rules(made, unit, 2) == Failed("duplicate", ())


# -- the same bytes ---------------------------------------------------------------------------


def test_every_runner_makes_the_same_bytes(pool: Path, ray_session: None) -> None:
    makers: dict[str, Callable[[], Runner]] = {
        "one": lambda: LocalRunner(1),
        "two": lambda: LocalRunner(2),
        "ray": RayRunner,
    }
    digests = {}
    for name, maker in makers.items():
        with closing(maker()) as runner:
            digests[name] = make(pool, runner=runner, work=name, unit_bytes=500).verdicts.digest
    assert len(set(digests.values())) == 1, digests


def test_every_runner_makes_the_same_bytes_of_web_archives_and_other_formats(
    tmp_path: Path, ray_session: None
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    made_of = list(web_archives.members(60, len(web_archives.HOSTILE), 2))
    for name, part in (("a", made_of[:40]), ("b", made_of[40:])):
        (pool / f"{name}.warc.gz").write_bytes(b"".join(member for member, _ in part))
    (pool / "rows.csv").write_bytes(b'id,text\n1,"a\nb"\n2\n3,c\n')
    (pool / "page.html").write_bytes(web_archives.page(99, 3).encode())
    (pool / "notes.md").write_bytes(b"---\ntitle: x\n---\n# Notes\n")
    made = {}
    for name, maker in {"one": lambda: LocalRunner(1), "ray": RayRunner}.items():
        with closing(maker()) as runner:
            made[name] = make(tmp_path, runner=runner, work=name, unit_bytes=3000)
    assert made["one"].verdicts.digest == made["ray"].verdicts.digest
    assert made["one"].corpus.digest == made["ray"].corpus.digest
    facts = made["one"].corpus.manifest["facts"]
    hostile = len(web_archives.HOSTILE)
    counts = [facts["documents"][name] for name in ("read", "kept", "quarantined")]
    assert counts == [65, 64 - hostile, hostile + 1]
    assert facts["other_records"] == {"request": 6, "revisit": 6, "warcinfo": 1}
    assert len(quarantined(made["one"])) == hostile + 1


def test_every_runner_makes_the_same_bytes_of_one_large_file(
    tmp_path: Path, ray_session: None
) -> None:
    """Divided at bytes, at frames, and cut out of a stream; with repeats and bad records in all."""
    chance = random.Random(2)
    lines = [
        json.dumps(
            {"text": f"text {chance.randrange(400)} " + "w " * chance.randrange(40)}
        ).encode()
        if chance.random() < 0.9
        else BAD[0]
        for _ in range(600)
    ]
    content = b"\n".join(lines)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "plain.jsonl").write_bytes(content)
    (tmp_path / "pool" / "frame.jsonl.zst").write_bytes(frame(content + b"\n "))
    (tmp_path / "pool" / "frames.jsonl.zst").write_bytes(
        b"".join(frame(content[start : start + 999]) for start in range(0, len(content), 999))
    )
    made = {}
    for name, maker in {"one": lambda: LocalRunner(1), "ray": RayRunner}.items():
        with closing(maker()) as runner:
            made[name] = make(tmp_path, runner=runner, work=name, unit_bytes=3000)
    assert made["one"].verdicts.digest == made["ray"].verdicts.digest
    assert made["one"].corpus.digest == made["ray"].corpus.digest
    facts = check_accounting(made["one"])
    assert facts["read"] == 3 * 600
    assert len(made["one"].corpus.named("part-")) > 20
    assert len(quarantined(made["one"])) == 3 * lines.count(BAD[0])
    origins = Origins(made["one"].corpus, recipe(tmp_path))
    for unit in made["one"].units:
        rows = unit.read_rows(["hash", "input", "line"]).to_pylist()
        assert all(
            hash_texts(pa.array([json.loads(lines[line - 1])["text"]]))[0].as_py() == row["hash"]
            for row in rows
            for line in [origins.line(unit, row["input"], row["line"])]
        )
    distinct = {normalise(json.loads(line)["text"]) for line in lines if line != BAD[0]}
    assert sorted(distinct) == sorted(normalise(text) for text in texts(made["one"]))


def test_places_beyond_the_first_span_count_from_a_byte(tmp_path: Path) -> None:
    """The number of lines before a span is not known when it is read."""
    rows = [BAD[0] if number in (3, 90) else {"text": f"{number:04d}"} for number in range(100)]
    path = jsonl(tmp_path / "pool" / "x.jsonl", rows)
    made = make(tmp_path, unit_bytes=500)
    first, second = [bad["place"] for bad in quarantined(made)]
    assert first == "line 4"
    found = re.fullmatch(r"line (\d+) after byte ([\d,]+)", second)
    assert found
    number, start = int(found[1]), int(found[2].replace(",", ""))
    content = path.read_bytes()
    begins = content.index(b"\n", start) + 1
    assert content[begins:].splitlines()[number - 1] == BAD[0]


def test_the_order_of_the_list_does_not_matter(pool: Path) -> None:
    names = sorted(f"pool/{path.name}" for path in (pool / "pool").iterdir())
    one = make(pool, *names)
    other = make(pool, *reversed(names), work="other")
    assert one.corpus.digest == other.corpus.digest
    assert one.verdicts.digest == other.verdicts.digest
    assert one.fingerprint == other.fingerprint


def test_the_place_of_the_files_does_not_matter(pool: Path, tmp_path: Path) -> None:
    one = make(pool)
    shutil.copytree(pool / "pool", tmp_path / "elsewhere" / "deep" / "pool")
    assert make(tmp_path / "elsewhere" / "deep").verdicts.digest == one.verdicts.digest


def test_the_names_of_the_files_do_not_matter(tmp_path: Path) -> None:
    for number in range(3):
        jsonl(tmp_path / "pool" / f"{number}.jsonl", [{"text": f"{number}"}, {"text": "same"}])
    one = make(tmp_path)
    for number in range(3):
        (tmp_path / "pool" / f"{number}.jsonl").rename(tmp_path / "pool" / f"{9 - number}.json")
    assert make(tmp_path, work="other").verdicts.digest == one.verdicts.digest


def test_copies_of_a_file_make_the_same_corpus_in_any_order(tmp_path: Path) -> None:
    """Their bytes cannot order them, and the quarantine names them."""
    for name in ("a", "b"):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "x"}, *BAD])
    one = make(tmp_path, "a.jsonl", "b.jsonl")
    other = make(tmp_path, "b.jsonl", "a.jsonl", work="other")
    assert one.verdicts.digest == other.verdicts.digest
    assert check_accounting(one) == {
        "read": 8,
        "kept": 1,
        "dropped": 1,
        "dropped_by": {"duplicate": 1},
        "quarantined": 6,
    }


def test_a_plain_text_file_under_another_name_is_another_corpus(tmp_path: Path) -> None:
    (tmp_path / "wiki.txt").write_text("text")
    one = make(tmp_path, "wiki.txt")
    (tmp_path / "wiki.txt").rename(tmp_path / "books.txt")
    other = make(tmp_path, "books.txt")
    assert documents(one)[0]["source"] == "wiki"
    assert documents(other)[0]["source"] == "books"


def test_a_setting_that_changes_documents_changes_the_fingerprint(pool: Path) -> None:
    made = [
        make(pool),
        make(pool, dedup={"exact": False}),
        make(pool, max_document_bytes=10_000),
        make(pool, {"path": "pool", "source": {"name": "web"}}),
        make(pool, unit_bytes=500),
    ]
    assert len({pool.verdicts.fingerprint for pool in made}) == len(made)
    assert len({pool.corpus.fingerprint for pool in made}) == len(made) - 1, "rules make no corpus"


# -- units ------------------------------------------------------------------------------------


def test_units_divide_a_file_and_change_no_document(pool: Path) -> None:
    whole, divided = make(pool), make(pool, unit_bytes=300)
    assert len(whole.units) == 1, "small files are one split"
    assert len(divided.units) > 15
    assert documents(divided, SCHEMA.names) == documents(whole, SCHEMA.names)
    for unit in divided.units:
        sizes = replace(unit, kept=None).read_rows(["bytes"])["bytes"].to_pylist()
        assert sum(sizes[:-1]) < 300, "a unit ends with the document that fills it"
        assert unit.of == len(sizes)
    numbers = [unit.number for unit in divided.units]
    assert numbers == list(range(len(numbers)))


def test_the_label_of_a_unit_has_its_name_and_size(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": f"{n:04d}" * 256} for n in range(1536)])
    (unit,) = make(tmp_path).units
    assert unit.label == "unit-00000-000 (1,536 documents, 1.5 MiB of text)"


def test_batches_are_full_but_the_last(tmp_path: Path) -> None:
    count = 5 * BATCH + 7
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": f"{n}"} for n in range(count)])
    (unit,) = make(tmp_path).units
    assert [len(batch) for batch in iter_documents(unit)] == [BATCH] * 5 + [7]


def test_a_changed_unit_is_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "x"}])
    (unit,) = make(tmp_path).units
    path = unit.corpus / unit.record.path
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtefactError, match="changed since it was written"):
        next(iter_documents(unit))


# -- again ------------------------------------------------------------------------------------


class Counting(LocalRunner):
    """Remembers which function was given which items."""

    def __init__(self) -> None:
        super().__init__(1)
        self.done: list[tuple[str, str]] = []

    def run(self, function: Any, items: Any, shared: Any = None, **options: Any) -> Any:
        for index, result in super().run(function, items, shared, **options):
            item = items[index]
            self.done.append((function.__name__, getattr(item, "part", str(item))))
            yield index, result


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


# -- memory -----------------------------------------------------------------------------------


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


# -- where nothing more can be written ----------------------------------------------------------


@pytest.mark.parametrize("unit_bytes", [1, 700, 60_000, 2**40])
def test_units_do_not_depend_on_how_documents_are_divided(tmp_path: Path, unit_bytes: int) -> None:
    """One by one, in batches of any size, all at once: the same bytes."""
    chance = random.Random(unit_bytes)
    count = {1: 40, 700: 600}.get(unit_bytes, 8 * BATCH + 500)
    texts = ["w " * chance.choice([0, 1, 5, 9]) + str(number) for number in range(count)]
    sources = [chance.choice(["web", "wiki", "é"]) for _ in texts]
    sizes = [len(text) for text in texts]
    whole = pa.RecordBatch.from_pydict(
        {
            "id": [str(number) for number in range(count)],
            "text": texts,
            "source": sources,
            "meta": [None if number % 3 else '{"n":1}' for number in range(count)],
            "parent": [None] * count,
            "bytes": sizes,
            "input": [7] * count,
            "line": list(range(1, count + 1)),
        },
        schema=GIVEN,
    )
    made = []
    for step in (0, 1, 37, 5000):
        directory = tmp_path / str(step)
        directory.mkdir()
        with UnitWriter(directory, "00000", unit_bytes) as units:
            if step == 0:
                for row in whole.to_pylist():
                    record = Record(row["text"], None, row["source"], row["meta"] or "")
                    origin = Origin(7, row["line"])
                    units.add(row["id"], record, row["bytes"], row["parent"], origin)
            for start in range(0, count, step or count):
                units.write(whole.slice(start, step))
        made.append(units.records)
    assert all(records == made[0] for records in made)
    assert len(made[0]) == 2 * {1: 40, 2**40: 1}.get(unit_bytes, len(made[0]) // 2)
    tables = [
        pq.read_table(tmp_path / "37" / record.path)
        for record in made[0]
        if record.path.startswith("unit-")
    ]
    assert pa.concat_tables(tables)["text"].to_pylist() == texts
    facts = [record.facts for record in made[0] if record.path.startswith("unit-")]
    assert sum(own["bytes"] for own in facts) == sum(sizes)
    for source in set(sources):
        assert sum(own["sources"].get(source, {}).get("bytes", 0) for own in facts) == sum(
            size for size, own in zip(sizes, sources) if own == source
        )


def write_a_unit(directory: Path) -> None:
    with UnitWriter(directory, "00000", unit_bytes=100_000) as units:
        for number, text in enumerate(noise(400)):
            units.add(str(number), Record(text, None, "web", ""), len(text))


def noise(count: int) -> list[str]:
    """Texts that do not compress well."""
    chance = random.Random(3)
    return [" ".join(str(chance.random()) for _ in range(20)) for _ in range(count)]


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.ENOSPC, "no space is left; free some"),
        (errno.EFBIG, r"the file is larger than is allowed; raise the limit \(`ulimit -f`"),
    ],
)
@pytest.mark.parametrize("room", [0, 3_000, 40_000])
def test_a_file_that_cannot_be_written_is_named_and_not_left_half(
    room: int,
    number: int,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the error that is raised: not when Python tidies up, on stderr."""
    untidy: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", untidy.append)
    whole = Sink.write

    def full(self: Sink, data: Any) -> int:
        if self.bytes + len(data) > room:
            raise OSError(number, os.strerror(number))
        return whole(self, data)

    monkeypatch.setattr(Sink, "write", full)
    with pytest.raises(
        StorageError, match=rf"^{tmp_path}/[a-z]+-00000[-0]*\.parquet: {problem}"
    ) as caught:
        write_a_unit(tmp_path)
    assert "what is finished is kept" in str(caught.value)
    del caught
    gc.collect()
    assert not untidy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 16), (256, 16), (511, 16), (512, 32), (1000, 32), (1024, 64), (10**9, 64)],
)
def test_units_are_a_16th_of_the_pool(size: int, expected: int) -> None:
    assert unit_bytes_for(size << 20) == expected << 20


def test_the_recipe_sets_the_bytes_of_a_unit(tmp_path: Path) -> None:
    lines = (json.dumps({"text": f"{number}{'a' * 999}"}) + "\n" for number in range(500))
    (tmp_path / "pool.jsonl").write_text("".join(lines))
    tree = {"corpus": {"path": "pool.jsonl"}, "budget": {"tokens": 1, "rank": "random"}}
    for key, units in ((None, 1), (2**17, 4)):
        wanted = parse_recipe({**tree, "unit_bytes": key, "work": f"work-{key}"}, tmp_path)
        space = Workspace(wanted.work_directory)
        made = make_corpus(CorpusSettings.of(wanted), space, LocalRunner(1))
        assert len(units_of(made)) == units
        assert made.manifest["config"]["unit_bytes"] == (key or 2**24)
    with pytest.raises(RecipeError) as info:
        parse_recipe({**tree, "unit_bytes": 1000}, tmp_path)
    assert info.value.key == "unit_bytes"
