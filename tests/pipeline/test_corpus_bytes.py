"""The same bytes always make the same corpus."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks import web_archives
from penstock.jobs.origins import Origins
from penstock.pipeline.runner import LocalRunner, RayRunner, Runner
from penstock.text_hashes import hash_texts, normalise
from tests.pipeline.corpora import (
    BAD,
    check_accounting,
    documents,
    jsonl,
    make,
    quarantined,
    recipe,
    texts,
    write_pool,
)
from tests.zstd import frame


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path)


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
