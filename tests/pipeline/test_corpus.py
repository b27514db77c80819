"""Files to corpus: every record has a fate, and the same bytes always make the same corpus."""

from __future__ import annotations

import base64
import errno
import gc
import gzip
import itertools
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError, InputError, StorageError
from penstock.pipeline import corpus as module
from penstock.pipeline.cleaning import dropped as dropped_module
from penstock.pipeline.cleaning import duplicates
from penstock.pipeline.cleaning.dropped import Dropped
from penstock.pipeline.corpus import CorpusSettings, make_corpus, normalise
from penstock.pipeline.reading.records import Record
from penstock.pipeline.runner import LocalRunner, RayRunner, Runner
from penstock.pipeline.units import BATCH, SCHEMA, UNIT_BYTES, UnitWriter, iter_documents, units_of
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.storage import Sink
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
) -> Artefact:
    return make_corpus(
        CorpusSettings.of(recipe(directory, *corpus, **clean), unit_bytes),
        Workspace(directory / work),
        runner or LocalRunner(1),
    )


def documents(made: Artefact) -> list[dict[str, Any]]:
    return [
        row
        for unit in units_of(made)
        for batch in iter_documents(unit, SCHEMA.names)
        for row in batch.to_pylist()
    ]


def texts(made: Artefact) -> list[str]:
    return [row["text"] for row in documents(made)]


def dropped(made: Artefact, part: str = "") -> list[dict[str, Any]]:
    files = made.named(f"dropped-{part}")
    return [row for file in files for row in pq.read_table(made.verified(file)).to_pylist()]


def quarantined(made: Artefact, part: str = "") -> list[dict[str, Any]]:
    files = made.named(f"quarantine-{part}")
    return [
        json.loads(line) for file in files for line in made.verified(file).read_bytes().splitlines()
    ]


def raw(bad: Mapping[str, str]) -> bytes:
    return bad["raw"].encode() if "raw" in bad else base64.b64decode(bad["raw_base64"])


def check_accounting(made: Artefact) -> dict[str, Any]:
    """read = kept + dropped + quarantined, and each number is what the files hold."""
    facts = made.facts["documents"]
    assert facts["read"] == facts["kept"] + facts["dropped"] + facts["quarantined"]
    assert facts["kept"] == len(documents(made))
    assert facts["dropped"] == len(dropped(made)) == sum(facts["dropped_by"].values())
    assert facts["quarantined"] == len(quarantined(made))
    by_source = made.facts["by_source"].values()
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
    assert set(made.facts["by_source"]) == {"unknown", "wiki", "book"}


def test_the_quarantine_holds_the_record_its_place_and_its_error(tmp_path: Path) -> None:
    lines = [*BAD, b"\xff\xfe", b'{"text": null, "id": "\xc3\xa9"}', b"[]", b'a "quoted" \\ line']
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "good"}, *lines])
    bad = quarantined(make(tmp_path))
    assert [raw(item) for item in bad] == lines
    assert [item["place"] for item in bad] == [f"line {n}" for n in range(2, 2 + len(lines))]
    assert {item["file"] for item in bad} == {"x.jsonl"}
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
        },
        {
            "id": NO_ID,
            "text": "no id",
            "source": "unknown",
            "meta": None,
            "parent": None,
            "bytes": 5,
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
    assert caught.value.problem.endswith(counts)
    assert list(Workspace(tmp_path / "work").artefacts()) == []


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


def test_many_ranges_find_the_same_duplicates_as_one(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(pool)
    monkeypatch.setattr(duplicates, "_DOCUMENTS", 10)
    runner = Counting()
    many = make(pool, work="other", runner=runner)
    assert len([name for name, _ in runner.done if name == "find_repeats"]) == 16
    assert many.digest == one.digest


def test_dropped_documents_are_written_in_any_number_of_row_groups(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(pool)
    monkeypatch.setattr(dropped_module, "_ROWS", 1)
    many = make(pool, work="other")
    assert dropped(many) == dropped(one)
    assert check_accounting(many) == check_accounting(one)


def place_of(made: Artefact, name: str) -> str:
    """``part:row`` of a kept document, from what the manifest says of its part."""
    for unit in units_of(made):
        part = unit.name.split("-")[1]
        gone = {row["row"] for row in dropped(made, part)} | {
            bad["row"] for bad in quarantined(made, part)
        }
        before = sum(
            other.documents
            for other in units_of(made)
            if other.name.startswith(f"unit-{part}-") and other.number < unit.number
        )
        ids = pq.read_table(unit.path())["id"].to_pylist()
        if name in ids:
            kept = (row for row in range(10_000) if row not in gone)
            return f"{part}:{list(itertools.islice(kept, 5_000))[before + ids.index(name)]}"
    raise AssertionError(name)


@pytest.mark.parametrize("unit_bytes", [150, UNIT_BYTES])
def test_a_duplicate_names_the_document_that_it_repeats(
    tmp_path: Path, unit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_DOCUMENTS", 5)
    chance = random.Random(4)
    texts_ = [f"text {chance.randrange(12)}" for _ in range(60)]
    rows: list[Any] = [{"id": str(number), "text": text} for number, text in enumerate(texts_)]
    for number in range(0, 60, 9):
        rows[number] = BAD[0]
    jsonl(tmp_path / "pool" / "x.jsonl", rows)
    made = make(tmp_path, unit_bytes=unit_bytes)
    good = [row for row in rows if isinstance(row, dict)]
    first = {row["text"]: row["id"] for row in reversed(good)}
    assert [row["id"] for row in documents(made)] == sorted(first.values(), key=int)
    by_id = {row["id"]: row for row in dropped(made)}
    assert len(by_id) == len(good) - len(first) > 30
    for row in good:
        if row["id"] in by_id:
            assert by_id[row["id"]]["rule"] == "duplicate"
            assert by_id[row["id"]]["of"] == place_of(made, first[row["text"]])


@pytest.mark.parametrize("keep", [True, False])
def test_dropped_documents_are_kept_where_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    rows = [{"id": str(n), "text": f"same {n % 2}" + " " * n, "n": n} for n in range(40)]
    jsonl(tmp_path / "pool" / "x.jsonl", [*rows, {"id": "e", "text": " "}])
    monkeypatch.setattr(dropped_module, "_BYTES", 100)
    made = make(tmp_path, keep_dropped=keep)
    check_accounting(made)
    gone = [*rows[2:], {"id": "e", "text": " "}]
    assert [row["id"] for row in dropped(made)] == [row["id"] for row in gone]
    (file,) = made.named("dropped-")
    groups = pq.ParquetFile(made.verified(file)).metadata.num_row_groups
    if keep:
        assert [row["text"] for row in dropped(made)] == [row["text"] for row in gone]
        assert [row["meta"] for row in dropped(made)] == [f'{{"n":{n}}}' for n in range(2, 40)] + [
            None
        ]
        assert groups > 5, "no more is held than was allowed"
    else:
        assert "text" not in dropped(made)[0] and groups == 1


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
            digests[name] = make(pool, runner=runner, work=name, unit_bytes=500).digest
    assert len(set(digests.values())) == 1, digests


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
    assert made["one"].digest == made["ray"].digest
    facts = check_accounting(made["one"])
    assert facts["read"] == 3 * 600
    assert len(made["one"].named("dropped-")) > 20
    places = [f"line {number}" for number, line in enumerate(lines, 1) if line == BAD[0]]
    assert [bad["place"] for bad in quarantined(made["one"])] == 3 * places
    distinct = {normalise(json.loads(line)["text"]) for line in lines if line != BAD[0]}
    assert sorted(distinct) == sorted(normalise(text) for text in texts(made["one"]))


def test_without_deduplication_places_count_from_a_byte(tmp_path: Path) -> None:
    """Without a first pass the number of lines before a span is not known."""
    rows = [BAD[0] if number in (3, 90) else {"text": f"{number:04d}"} for number in range(100)]
    path = jsonl(tmp_path / "pool" / "x.jsonl", rows)
    made = make(tmp_path, dedup={"exact": False}, unit_bytes=500)
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
    assert one.digest == other.digest
    assert one.fingerprint == other.fingerprint


def test_the_place_of_the_files_does_not_matter(pool: Path, tmp_path: Path) -> None:
    one = make(pool)
    shutil.copytree(pool / "pool", tmp_path / "elsewhere" / "deep" / "pool")
    assert make(tmp_path / "elsewhere" / "deep").digest == one.digest


def test_the_names_of_the_files_do_not_matter(tmp_path: Path) -> None:
    for number in range(3):
        jsonl(tmp_path / "pool" / f"{number}.jsonl", [{"text": f"{number}"}, {"text": "same"}])
    one = make(tmp_path)
    for number in range(3):
        (tmp_path / "pool" / f"{number}.jsonl").rename(tmp_path / "pool" / f"{9 - number}.json")
    assert make(tmp_path, work="other").digest == one.digest


def test_copies_of_a_file_make_the_same_corpus_in_any_order(tmp_path: Path) -> None:
    """Their bytes cannot order them, and the quarantine names them."""
    for name in ("a", "b"):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "x"}, *BAD])
    one = make(tmp_path, "a.jsonl", "b.jsonl")
    other = make(tmp_path, "b.jsonl", "a.jsonl", work="other")
    assert one.digest == other.digest
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
    assert len({corpus.fingerprint for corpus in made}) == len(made)


# -- units ------------------------------------------------------------------------------------


def test_units_divide_a_file_and_change_no_document(pool: Path) -> None:
    whole, divided = make(pool), make(pool, unit_bytes=300)
    assert len(units_of(whole)) == 1, "small files are one split"
    assert len(units_of(divided)) > 15
    assert documents(divided) == documents(whole)
    for unit in units_of(divided):
        sizes = [row["bytes"] for row in pq.read_table(unit.path()).to_pylist()]
        assert sum(sizes[:-1]) < 300, "a unit ends with the document that fills it"
        assert unit.documents == len(sizes)
    numbers = [unit.number for unit in units_of(divided)]
    assert numbers == list(range(len(numbers)))


def test_the_label_of_a_unit_has_its_name_and_size(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": f"{n:04d}" * 256} for n in range(1536)])
    (unit,) = units_of(make(tmp_path))
    assert unit.label == "unit-00000-000 (1,536 documents, 1.5 MiB of text)"


def test_batches_are_full_but_the_last(tmp_path: Path) -> None:
    count = 5 * BATCH + 7
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": f"{n}"} for n in range(count)])
    (unit,) = units_of(make(tmp_path))
    assert [len(batch) for batch in iter_documents(unit)] == [BATCH] * 5 + [7]


def test_a_changed_unit_is_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "x"}])
    (unit,) = units_of(make(tmp_path))
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

    def run(self, function: Any, items: Any, shared: Any = None, setup: Any = None) -> Any:
        for index, result in super().run(function, items, shared, setup):
            item = items[index]
            self.done.append((function.__name__, getattr(item, "part", str(item))))
            yield index, result


def test_a_second_call_does_no_work(pool: Path) -> None:
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
    splits = len(whole.named("dropped-"))
    assert parts == [f"{number:05d}" for number in range(3, splits)] and splits > 5
    assert not [name for name, _ in runner.done if name == "_hash_split"]
    assert resumed.digest == whole.digest


def test_files_of_a_killed_task_are_not_part_of_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task killed after its first unit leaves a file without a record, and a temporary one."""
    pool = tmp_path
    (pool / "pool").mkdir()
    table = pa.table({"text": [f"{number} " + "w " * 50 for number in range(100)]})
    pq.write_table(table, pool / "pool" / "x.parquet")
    whole = make(pool, work="whole", unit_bytes=300)
    real = module.UnitWriter.add
    left = [70]

    def killed(self: Any, *record: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        real(self, *record)

    monkeypatch.setattr(module.UnitWriter, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        make(pool, unit_bytes=300)
    monkeypatch.undo()
    (draft,) = (pool / "work" / "corpus").iterdir()
    recorded = {
        item["path"]
        for record in (draft / "records").iterdir()
        for item in json.loads(record.read_bytes())
    }
    assert {path.name for path in draft.glob("unit-*")} - recorded, "nothing was left half done"
    assert not list(draft.rglob("*.tmp"))
    assert make(pool, unit_bytes=300).digest == whole.digest


@pytest.mark.parametrize("when", ["_hash_split", "_write_split"])
def test_a_file_that_changes_under_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Else rows would be taken for duplicates that are none, under a name that is not theirs."""
    path = jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "a"}, {"text": "a"}, {"text": "b"}])
    real = getattr(module, when)

    def changed(job: Any, state: object) -> Any:
        jsonl(path, [{"text": "c"}, {"text": "d"}, {"text": "e"}])
        return real(job, state)

    monkeypatch.setattr(module, when, changed)
    with pytest.raises(InputError) as caught:
        make(tmp_path)
    assert (caught.value.file, caught.value.fix) == (str(path), "run again")
    monkeypatch.undo()
    assert texts(make(tmp_path)) == ["c", "d", "e"]


@pytest.mark.parametrize("change", [1, -1])
def test_passes_that_read_other_counts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": f"{number}"} for number in range(10)])
    real = module._write_split

    def other(split: Any, state: Any) -> Any:
        return real(replace(split, read=split.read + change), state)

    monkeypatch.setattr(module, "_write_split", other)
    with pytest.raises(ArtefactError) as caught:
        make(tmp_path)
    assert caught.value.file is not None and caught.value.file.endswith("x.jsonl")
    assert caught.value.expected == f"{10 + change} records in the first pass"
    assert list(Workspace(tmp_path / "work").artefacts()) == []


def test_scratch_is_gone_when_the_corpus_is_there(pool: Path) -> None:
    made = make(pool, unit_bytes=500)
    assert {path.name for path in made.path.iterdir() if path.is_dir()} == {"records"}


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
    assert made.facts["documents"]["kept"] == 8_000


# -- where nothing more can be written ----------------------------------------------------------


def write_a_unit(directory: Path) -> None:
    with UnitWriter(directory, "00000", unit_bytes=100_000) as units:
        for number, text in enumerate(noise(400)):
            units.add(str(number), Record(text, None, "web", ""), len(text))


def write_the_dropped(directory: Path) -> None:
    with Dropped(directory, "00000", keep=True) as dropped:
        for number, text in enumerate(noise(400)):
            record = Record(text, None, "web", "")
            dropped.add(str(number), record, len(text), "empty", number, None)


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
@pytest.mark.parametrize("write", [write_a_unit, write_the_dropped])
def test_a_file_that_cannot_be_written_is_named_and_not_left_half(
    write: Any,
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
        write(tmp_path)
    assert "what is finished is kept" in str(caught.value)
    del caught
    gc.collect()
    assert not untidy
    assert not list(tmp_path.iterdir())
