"""`penstock sample`: documents from each place, compared with the artefacts."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import penstock
from penstock.errors import InputError, UnmadeError
from penstock.jobs.cli import main
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.jobs.report.excerpts import about_the_cut, first_taken
from penstock.jobs.sample import Drawn, Sample, sample_documents
from penstock.jobs.terminal import LineConsole
from penstock.pipeline.cutting.ordering import TIE
from penstock.pipeline.grouped import read_scores
from tests.pools import documents, hash_documents, make, mix, recipe_of, write_jsonl
from tests.rewritten import RewrittenPool

SCORES = {f"d{number:04d}": float(number // 8) for number in range(150)} | {"d0007": float("nan")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curated(tmp_path_factory.mktemp("sample"))


def curated(where: Path, **budget: Any) -> Curated:
    rows = documents(150, seed=6)
    rows[40]["text"] = rows[30]["text"]
    path = write_jsonl(where / "pool" / "a.jsonl", rows)
    with path.open("a", encoding="utf-8") as sink:
        sink.write('{"id": "broken", "text": 7}\n{"id": "worse", "text": 8}\n')
    rules = {"rules": {"gopher": {"min_words": 20, "min_stop_words": None}}}
    recipe = recipe_of(where, 3_000, ["s"], budget={"rank": "s", **budget}, clean=rules)
    return make(recipe, {"s": SCORES}).curated()


def fates(of: Curated) -> dict[str, set[str]]:
    """The ids of each place, from the artefacts' files."""
    by: dict[str, set[str]] = {"read": set(), "kept": set(), "taken": set()}
    for unit in of.pool.units:
        ids = np.array(pq.read_table(unit.path(), columns=["id"])["id"].to_pylist())
        by["read"] |= set(ids)
        by["kept"] |= set(ids[unit.numbers()])
    for record in of.cut.files:
        by["taken"] |= set(pq.read_table(of.cut.verified(record))["id"].to_pylist())
    by["left"] = by["kept"] - by["taken"]
    by["dropped"] = by["read"] - by["kept"]
    by["quarantined"] = {"broken", "worse"}
    return by


def ids_of(drawn: Drawn) -> list[str]:
    return [one["id"] for one in drawn.documents]


@pytest.mark.parametrize("place", ["kept", "taken", "left", "dropped", "quarantined"])
def test_all_of_a_place_are_drawn_and_no_other(whole: Curated, place: str) -> None:
    drawn = sample_documents(whole, 1_000, Sample(place=place))
    assert sorted(ids_of(drawn)) == sorted(fates(whole)[place])
    assert drawn.of == len(drawn.documents) > 1
    words = {"taken", "left"} if place == "kept" else {place}
    assert {one["fate"] for one in drawn.documents} == words


def test_a_sample_of_everything_has_texts_and_what_is_known(whole: Curated) -> None:
    drawn = sample_documents(whole, 1_000)
    assert drawn.of == len(drawn.documents) == 152
    texts = {
        row["id"]: row["text"]
        for unit in whole.pool.units
        for row in pq.read_table(unit.path()).to_pylist()
    }
    for one in drawn.documents:
        if one["fate"] == "quarantined":
            assert one["file"].endswith("a.jsonl")
            assert json.loads(one["text"])["id"] == one["id"]
            continue
        assert one["text"] == texts[one["id"]]
        assert one["bytes"] == len(one["text"].encode())
        if one["fate"] == "dropped":
            assert one["rule"] == "duplicate" or one["id"] != "d0040"
        else:
            own = None if one["id"] == "d0007" else SCORES[one["id"]]
            assert one["scores"] == {"s": own}
        assert ("tokens" in one) == (one["fate"] == "taken")
    rules = Counter(one["rule"] for one in drawn.documents if one["fate"] == "dropped")
    assert rules == whole.pool.documents["dropped_by"]


def test_a_draw_depends_on_the_seed_and_is_in_no_order_of_the_corpus(whole: Curated) -> None:
    first = ids_of(sample_documents(whole, 20, Sample(place="kept")))
    assert ids_of(sample_documents(whole, 20, Sample(place="kept"))) == first
    assert ids_of(sample_documents(whole, 5, Sample(place="kept"))) == first[:5]
    other = ids_of(sample_documents(whole, 20, Sample(place="kept", seed=1)))
    assert set(other) != set(first)
    assert first != sorted(first)


def test_a_rule_and_a_source(whole: Curated) -> None:
    by_rule = whole.pool.documents["dropped_by"]
    drawn = sample_documents(whole, 1_000, Sample(rule="gopher: min_words"))
    assert len(drawn.documents) == by_rule["gopher: min_words"] > 1
    assert {one["rule"] for one in drawn.documents} == {"gopher: min_words"}
    drawn = sample_documents(whole, 1_000, Sample(source="code", place="taken"))
    assert {one["source"] for one in drawn.documents} == {"code"}
    assert len(drawn.documents) == whole.cut.facts["by_source"]["code"]["documents"]
    with pytest.raises(InputError, match="gopher: min_words"):
        sample_documents(whole, sample=Sample(rule="gopher: min_word"))
    with pytest.raises(InputError, match="wiki"):
        sample_documents(whole, sample=Sample(source="wikis"))
    with pytest.raises(InputError):
        sample_documents(whole, sample=Sample(rule="duplicate", place="taken"))


def in_order(of: Curated, source: str | None = None) -> tuple[list[str], int]:
    """Ids by rank, of all documents with a score, and how many of them are taken: by sorting."""
    found, taken = [], fates(of)["taken"]
    for unit in of.pool.units:
        table = unit.read_rows(["id", "hash", "source"])
        hashes = hash_documents(table, mix(of.recipe.draw_seed, TIE))
        for row, tie in zip(table.to_pylist(), hashes.tolist()):
            if not np.isnan(SCORES[row["id"]]) and source in (None, row["source"]):
                found.append((-SCORES[row["id"]], -tie, row["id"]))
    ids = [name for _, _, name in sorted(found)]
    assert {name for name in ids if name in taken} == set(ids[: sum(n in taken for n in ids)])
    return ids, sum(name in taken for name in ids)


def test_those_near_the_cut_are_the_last_taken_and_the_first_left(whole: Curated) -> None:
    ids, taken = in_order(whole)
    drawn = sample_documents(whole, 8, Sample(near_cut=True))
    assert ids_of(drawn) == ids[taken - 4 : taken + 4]
    assert drawn.of == len(ids)
    above = sample_documents(whole, 3, Sample(near_cut=True, place="taken"))
    assert ids_of(above) == ids[taken - 3 : taken]
    below = sample_documents(whole, 3, Sample(near_cut=True, place="left"))
    assert ids_of(below) == ids[taken : taken + 3]
    everything = sample_documents(whole, 10_000, Sample(near_cut=True))
    assert ids_of(everything) == ids


def test_near_the_cut_of_a_mixture_its_score_is_told(rewritten: RewrittenPool) -> None:
    """The order is that of the mixture; single scores need not fall with it."""
    of = rewritten.curated
    ids: list[str] = []
    scores: dict[str, list[float]] = {name: [] for name in of.columns}
    for unit in of.pool.units:
        ids += unit.read_rows(["id"])["id"].to_pylist()
        for name, column in of.columns.items():
            scores[name] += read_scores(column.path, column.files[unit.number]).tolist()
    mixture = np.zeros(len(ids))
    for name, weight in of.recipe.budget.ranks.items():
        own = np.array(scores[name])
        below = (own[None] < own[:, None]).mean(axis=1)
        mixture += weight * (below + (own[None] == own[:, None]).mean(axis=1) / 2)
    known = dict(zip(ids, mixture.tolist()))
    drawn = sample_documents(of, 20, Sample(near_cut=True)).documents
    told = [one["ordered_by"]["score"] for one in drawn]
    assert told == pytest.approx([known[one["id"]] for one in drawn], abs=1e-6)
    assert told == sorted(told, reverse=True) and {one["ordered_by"]["name"] for one in drawn} == {
        "mixture"
    }
    single = [one["scores"]["length"] for one in drawn]
    assert single != sorted(single, reverse=True)
    above, below_cut = about_the_cut(of, 10)
    found = [(one.id, one.cut_score) for one in (*above, *below_cut)]
    assert found == [(one["id"], one["ordered_by"]["score"]) for one in drawn]
    first = first_taken(of, 10**6)
    assert [one.cut_score for one in first[-10:]] == [one.cut_score for one in above]
    printed = CliRunner().invoke(
        main, ["sample", str(rewritten.path), "--near-cut", "--count", "2"]
    )
    assert printed.exit_code == 0
    assert len(re.findall(r"mixture\s+0\.\d+", printed.output)) == 2


def test_each_source_with_a_share_has_its_own_cut(tmp_path: Path) -> None:
    of = curated(tmp_path, shares={"wiki": 0.3})
    drawn = sample_documents(of, 6, Sample(near_cut=True))
    ids, taken = in_order(of, "wiki")
    wiki = [one["id"] for one in drawn.documents if one["source"] == "wiki"]
    assert wiki == [name for name in ids[taken - 2 : taken + 2] if name in wiki]
    assert len(wiki) == 3 or len(wiki) == 4
    assert (
        ids_of(sample_documents(of, 2, Sample(near_cut=True, source="wiki")))
        == (ids[taken - 1 : taken + 1])
    )


def test_what_is_not_made_or_has_no_edge_is_an_error(whole: Curated, tmp_path: Path) -> None:
    lacks = UnmadeError("no columns")
    partly = PartiallyCurated(recipe=whole.recipe, pool=whole.pool, columns={}, lacks=lacks)
    drawn = sample_documents(partly, 1_000, Sample(place="kept"))
    assert {one["fate"] for one in drawn.documents} == {"kept"}
    for sample in (Sample(place="taken"), Sample(near_cut=True)):
        with pytest.raises(UnmadeError):
            sample_documents(partly, sample=sample)
    with pytest.raises(InputError):
        sample_documents(whole, sample=Sample(near_cut=True, place="dropped"))
    of = curated(tmp_path, draw={"uniform": {"keep": 0.5}})
    with pytest.raises(InputError):
        sample_documents(of, sample=Sample(near_cut=True))


def test_bytes_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pool" / "a.jsonl", documents(150))
    with path.open("ab") as sink:
        sink.write(b'{"id": "latin", "text": "caf\xe9 \xe2\x82\xac"}\n')
    recipe = recipe_of(tmp_path, 3_000, ["s"], budget={"rank": "s"})
    of = make(recipe, {"s": SCORES}).curated()
    (one,) = sample_documents(of, sample=Sample(place="quarantined")).documents
    assert one["text"].strip() == '{"id": "latin", "text": "caf\\xe9 €"}'


def test_a_text_is_escaped_before_it_is_cut() -> None:
    console = LineConsole(width=20)
    assert console.fitted("short", 3) == "short"
    shown = console.fitted("\x1b[31m" * 50, 2, indent=4)
    assert "\x1b" not in shown
    assert len(shown) <= 36
    assert shown.endswith(" …")
    assert len(console.fitted("水" * 50, 1)) <= 12


@pytest.mark.slow
def test_the_command_prints_lines(tmp_path: Path) -> None:
    rows = documents(80)
    rows[3]["text"] = "\x1b[31m" * 400
    write_jsonl(tmp_path / "pool.jsonl", rows)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "corpus: [{path: pool.jsonl}]\nbudget: {tokens: 2_000, rank: random}\n"
        "tokenizer: {train: {vocab_size: 384}}\nshards: {sequence_length: 32}\n"
    )
    penstock.curate(recipe, runner="local", workers=1)
    done = CliRunner().invoke(main, ["sample", str(recipe), "-n", "80", "--json"])
    assert done.exit_code == 0, done.output
    *lines, last = map(json.loads, done.stdout.splitlines())
    assert sorted(one["id"] for one in lines) == sorted(row["id"] for row in rows)
    assert {one["text"] for one in lines} == {row["text"] for row in rows}
    assert last == {"sampled": 80, "of": 80}
    assert "\x1b" not in done.stderr
    wrong = CliRunner().invoke(main, ["sample", str(recipe), "--source", "nowhere"])
    assert wrong.exit_code == 2
