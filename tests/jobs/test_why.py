"""The fate of documents, checked against the shards themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from penstock.errors import InputError
from penstock.jobs.console import Console
from penstock.jobs.curate import Curated
from penstock.jobs.report.page import write_report
from penstock.jobs.stage_lines import describe_cut, describe_draw
from penstock.jobs.why import fates_of, fates_with
from tests.jobs.explained import SCORES, curated
from tests.pools import all_documents, documents, write_jsonl


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("why")
    rows = documents(150, seed=6)
    rows[5] = {"id": "long", "text": "turbine water " * 700, "source": "web"}
    rows[9] = {"id": "excluded", "text": "never to be taken", "source": "wiki"}
    rows[12]["id"] = rows[140]["id"] = "twin"
    rows[20]["id"] = "a\x1b[31m\u202eb"
    rows.insert(80, {"id": "copy", "text": rows[3]["text"].replace(" ", "\n  "), "source": "code"})
    rows.insert(90, {"id": "blank", "text": "  ", "source": "web"})
    path = write_jsonl(directory / "pool" / "a.jsonl", rows)
    with path.open("a", encoding="utf-8") as sink:
        sink.write('{"id": "broken", "text": 7}\n')
    return directory


@pytest.fixture(scope="module")
def whole(pool: Path) -> Curated:
    return curated(pool)


@pytest.fixture(scope="module")
def shared(pool: Path) -> Curated:
    return curated(pool, shares={"wiki": 0.3, "code": 0.05})


def where_it_is(of: Curated, name: str) -> tuple[list[int], list[str], int]:
    """Sequences, files and tokens of a document, read from the shards."""
    sequences, files, tokens, number = [], [], 0, 0
    for record in of.shards.named("shard-"):
        table = pa.ipc.open_file(str(of.shards.path / record.path)).read_all()
        for ids, starts in zip(table["doc_id"].to_pylist(), table["doc_start"].to_pylist()):
            ends = [*starts[1:], 16]
            mine = sum(e - s for i, s, e in zip(ids, starts, ends) if i == name)
            if mine:
                sequences.append(number)
                files.append(record.path)
                tokens += mine
            number += 1
    return sequences, list(dict.fromkeys(files)), tokens


def rows_with(of: Curated, name: str) -> set[tuple[str, int]]:
    """Files and rows of a document, read from the shards."""
    found = set()
    for record in of.shards.named("shard-"):
        table = pa.ipc.open_file(str(of.shards.path / record.path)).read_all()
        ids = table["doc_id"].to_pylist()
        found |= {(record.path, row) for row, own in enumerate(ids) if name in own}
    return found


@pytest.mark.parametrize("kind", ["whole", "shared"])
def test_each_taken_document_is_where_why_says(kind: str, request: pytest.FixtureRequest) -> None:
    of: Curated = request.getfixturevalue(kind)
    known = all_documents(of.pool, of.tokenizer)
    taken = 0
    for name in dict.fromkeys(document.id for document in known):
        entries = [entry for entry in fates_of(of, name) if entry["fate"] == "taken"]
        sequences, files, tokens = where_it_is(of, name)
        said = [n for e in entries for n in range(e["sequences"][0], e["sequences"][1] + 1)]
        assert sorted(set(said)) == sequences
        assert sorted({file for entry in entries for file in entry["shards"]}) == sorted(files)
        in_files = {
            (file, row)
            for entry in entries
            for file, rows in zip(entry["shards"], entry["shard_rows"], strict=True)
            for row in range(rows[0], rows[1] + 1)
        }
        assert in_files == rows_with(of, name)
        assert sum(entry["tokens"] for entry in entries) == tokens
        taken += len(entries)
    assert taken == of.cut.facts["documents"]
    assert len(of.shards.named("shard-")) > 10


def test_a_taken_document_has_its_rank_scores_and_text(whole: Curated) -> None:
    (entry,) = fates_of(whole, "long")
    assert (entry["fate"], entry["rank"], entry["source"]) == ("taken", 1, "web")
    assert entry["why"].startswith(f"rank 1 of {whole.cut.facts['documents']:,} taken; by score ")
    lowest = min(
        SCORES[name]
        for record in whole.shards.named("shard-")
        for name in ids_of(whole, record.path)
    )
    own = entry["by_score"]
    assert (own["place"], own["documents"], own["lowest"]) == (1, 149, lowest)
    assert "whole_tokens" not in entry
    assert entry["text"].startswith("turbine water")
    assert len(entry["shards"]) >= 3
    assert entry["scores"] == {"s": {"score": 50.0, "quantile": 148 / 149}}


def test_an_id_is_found_as_it_is_printed(whole: Curated) -> None:
    (entry,) = fates_of(whole, r"a\x1b[31m\u202eb")
    assert entry["id"] == "a\x1b[31m\u202eb"


def test_quantiles_are_the_share_of_scored_documents_below(whole: Curated) -> None:
    known = all_documents(whole.pool, whole.tokenizer)
    values = np.array([SCORES[document.id] for document in known])
    values = values[~np.isnan(values)]
    (entry,) = fates_of(whole, "d0030")
    assert entry["scores"]["s"] == {"score": 7.0, "quantile": (values < 7).mean()}


def test_a_left_document_has_its_place_and_the_lowest_score_that_was_taken(whole: Curated) -> None:
    """Compared with the scores of all documents and the documents of the shards."""
    known = [one.id for one in all_documents(whole.pool, whole.tokenizer)]
    scores = np.array([SCORES[name] for name in known])
    taken = {
        one for record in whole.shards.named("shard-") for one in ids_of(whole, record.path)
    } - {"twin"}
    lowest = min(SCORES[name] for name in taken)
    reasons = set()
    for name in known:
        (entry, *_) = fates_of(whole, name)
        if entry["fate"] != "left" or name == "excluded":
            continue
        own = SCORES[name]
        equal = int((scores == own).sum())
        equal_taken = sum(SCORES[one] == own for one in taken)
        assert entry["by_score"] == {
            "group": 0,
            "score": own,
            "place": 1 + int((scores > own).sum()),
            "documents": len(known) - 1,
            "equal": equal,
            "lowest": lowest,
            "equal_taken": equal_taken,
        }
        assert entry["why"].startswith(
            "below the cut: the 6,000 tokens were filled by documents that rank higher; by score "
        )
        assert "sequences" not in entry
        reasons.add("hash" in entry["why"])
        assert ("hash" in entry["why"]) == (equal_taken > 0)
    assert reasons == {True, False}


def ids_of(of: Curated, path: str) -> set[str]:
    table = pa.ipc.open_file(str(of.shards.path / path)).read_all()
    return {name for names in table["doc_id"].to_pylist() for name in names}


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"rank": {"s": 0.5, "t": 0.5}}, "by the mixture of s, t"),
        ({"rank": "random"}, "by the draw of `random`"),
        ({"draw": {"gumbel": {"temperature": 2.0}}}, "by score with the noise of the draw"),
    ],
)
def test_the_place_says_what_documents_were_ordered_by(
    pool: Path, budget: dict[str, Any], words: str
) -> None:
    of = curated(pool, columns={"s": SCORES, "t": {name: 1.0 for name in SCORES}}, **budget)
    known = all_documents(of.pool, of.tokenizer)
    entries = [fates_of(of, document.id)[0] for document in known[:60]]
    left = [entry for entry in entries if entry["fate"] == "left" and "by_score" in entry]
    assert left
    for entry in left:
        own = entry["by_score"]
        assert f"; {words} it is {own['place']:,} of {own['documents']:,}" in entry["why"]
        assert own["score"] <= own["lowest"]
        assert own["place"] + own["equal"] > of.cut.facts["documents"]


UNIFORM = {"draw": {"uniform": {"keep": 0.5}}}


@pytest.mark.parametrize(
    "budget",
    [
        {"draw": {"uniform": {"above": 11.0}}},
        UNIFORM,
        {**UNIFORM, "shares": {"wiki": 0.3}},
        {**UNIFORM, "rank": {"s": 1.0, "random": 1e-9}},
    ],
)
def test_a_document_that_was_not_drawn_has_its_place_by_score(
    pool: Path, budget: dict[str, Any]
) -> None:
    of = curated(pool, tokens=1_600, **budget)
    known = all_documents(of.pool, of.tokenizer)
    documents = {document.id: document for document in known}
    shares = list(budget.get("shares", {}))
    seen = set()
    for name, document in documents.items():
        group = shares.index(document.source) if document.source in shares else len(shares)
        rivals = [
            SCORES[one.id]
            for one in known
            if (one.source in shares) == (document.source in shares)
            and not np.isnan(SCORES[one.id])
        ]
        (entry, *others) = fates_of(of, name)
        best = of.cut.facts["drawn_from"][group]
        if entry["fate"] == "taken":
            drawn_from = sum(one["documents"] for one in of.cut.facts["drawn_from"])
            assert f"drawn at random from the {drawn_from:,} documents" in entry["why"]
        if entry["fate"] != "left" or name in ("excluded", "twin"):
            assert "draw" not in entry or others
            continue
        draw = entry["draw"]
        among = draw["place"] <= best["documents"]
        assert draw["documents"] == len(rivals)
        higher = sum(score > SCORES[name] for score in rivals)
        equal = sum(score == SCORES[name] for score in rivals)
        assert higher + 1 <= draw["place"] <= higher + equal
        assert (draw["among_the_best"], draw["drawn_from"]) == (among, best["documents"])
        assert draw["drawn"] <= draw["drawn_from"]
        assert entry["why"].startswith(
            "not drawn: by score " if among else "below the documents that are drawn: by score "
        )
        assert f"{draw['place']:,} of {len(rivals):,}" in entry["why"]
        seen.add(among)
    assert seen == {True, False}
    taken = sum(group["documents"] for group in of.cut.facts["by_source"].values())
    assert taken < sum(group["documents"] for group in of.cut.facts["drawn_from"])


def test_progress_and_report_tell_from_what_the_documents_were_drawn(pool: Path) -> None:
    of = curated(pool, tokens=1_600, draw={"uniform": {"above": 11.0}})
    best = sum(
        SCORES[one.id] > 11
        for one in all_documents(of.pool, of.tokenizer)
        if not np.isnan(SCORES[one.id])
    )
    drawn = describe_draw(of.cut, of.recipe.budget)
    assert drawn == (
        f"drawn at random from the {best} documents of a score above 11 (score 12 and higher)"
    )
    (line,) = describe_cut(of.cut, of.pool, of.recipe.budget)
    assert line.endswith(f"1,600 tokens taken, {drawn}")
    assert f"The documents are {drawn}" in write_report(of).read_text()
    top = curated(pool, tokens=1_600)
    assert describe_draw(top.cut, top.recipe.budget) == ""
    assert "The documents are drawn at random" not in write_report(top).read_text()


def test_a_left_document_competed_for_the_tokens_of_its_own_group(
    pool: Path, shared: Curated
) -> None:
    reasons = {}
    for document in all_documents(shared.pool, shared.tokenizer):
        for entry in fates_of(shared, document.id):
            if entry["fate"] == "left" and document.id != "excluded":
                reasons[entry["source"]], _, place = entry["why"].partition("; ")
                group = shared.cut.facts["groups"][entry["by_score"]["group"]]
                assert group["source"] in (entry["source"], None)
                assert place.startswith("by score it is ")
    assert reasons == {
        source: f"below the cut: the {tokens} tokens for {whose} were filled by documents that "
        "rank higher"
        for source, tokens, whose in (
            ("wiki", "1,792", "wiki"),
            ("code", "288", "code"),
            ("web", "3,920", "sources without a share"),
        )
    }
    nothing = curated(pool, shares={"wiki": 0.5, "code": 0.5}, tokens=2_000)
    (entry,) = fates_of(nothing, "long")
    assert entry["why"] == "below the cut: budget.shares leaves no tokens for web"


def test_a_taken_document_has_its_share_its_place_and_what_the_budget_cut_off(
    shared: Curated,
) -> None:
    """Compared with the scores and the tokens of all documents of its group."""
    known = all_documents(shared.pool, shared.tokenizer)
    whole_tokens = {document.id: len(document.tokens) for document in known}
    shares = {"wiki", "code"}
    cut_off = {}
    for document in known:
        if document.id in ("twin", "excluded"):
            continue
        (entry,) = fates_of(shared, document.id)
        if entry["fate"] != "taken":
            continue
        group = document.source if document.source in shares else None
        rivals = [
            SCORES[one.id]
            for one in known
            if (one.source == group if group else one.source not in shares)
            and not np.isnan(SCORES[one.id])
        ]
        own = entry["by_score"]
        assert entry["share"] == group
        assert (group or "sources without a share") in entry["why"]
        assert own["documents"] == len(rivals)
        assert own["place"] == 1 + sum(score > SCORES[document.id] for score in rivals)
        assert own["lowest"] <= own["score"] == SCORES[document.id]
        assert entry.get("whole_tokens", entry["tokens"]) == whole_tokens[document.id]
        if "whole_tokens" in entry:
            cut_off[group] = entry["tokens"] < entry["whole_tokens"]
            assert f"{entry['tokens']:,} of its {entry['whole_tokens']:,} tokens" in entry["why"]
    assert cut_off and all(cut_off.values())


def test_an_excluded_document_names_the_column(whole: Curated) -> None:
    (entry,) = fates_of(whole, "excluded")
    assert (entry["fate"], entry["why"]) == ("left", "excluded: no score in s")
    assert entry["scores"] == {"s": {"score": None, "quantile": None}}


def test_dropped_and_quarantined_documents_say_by_what(whole: Curated) -> None:
    (duplicate,) = fates_of(whole, "copy")
    text = documents(150, seed=6)[3]["text"].replace(" ", "\n  ")
    unit = next(one for one in whole.pool.units if one.name == duplicate["unit"])
    row = duplicate["row"]
    stays = next(
        one
        for one in (replace(unit, kept=None) for unit in whole.pool.units)
        if "d0003" in one.read_rows(["id"]).column("id").to_pylist()
    )
    assert duplicate == {
        "id": "copy",
        "source": "code",
        "file": str(whole.recipe.directory / "pool" / "a.jsonl"),
        "line": 81,
        "place": "line 81",
        "text": text,
        "unit": unit.name,
        "row": row,
        "fate": "dropped",
        "why": "rule duplicate: repeats d0003",
        "reason": "duplicate",
        "fails": (),
        "rules": [],
        "repeats": {
            **dict.fromkeys(("best", "own", "similarity", "threshold", "ngram", "joined")),
            "id": "d0003",
            "equal": True,
            "file": str(whole.recipe.directory / "pool" / "a.jsonl"),
            "line": 4,
            "place": "line 4",
            "unit": stays.name,
            "row": pc.index(stays.read_rows(["id"]).column("id"), "d0003").as_py(),
            "keep": "first",
        },
    }
    assert pq.read_table(unit.path()).slice(row, 1)["text"].to_pylist() == [text]
    assert row not in unit.numbers()
    (blank,) = fates_of(whole, "blank")
    assert (blank["fate"], blank["why"], blank["line"]) == ("dropped", "rule empty", 91)
    (broken,) = fates_of(whole, "broken")
    assert (broken["fate"], broken["source"]) == ("quarantined", None)
    assert (broken["file"], broken["line"]) == (duplicate["file"], 153)
    assert broken["place"] == "line 153"
    assert broken["text"] == '{"id": "broken", "text": 7}'
    assert "text" in broken["why"]


def test_documents_of_one_id_each_have_an_entry(whole: Curated) -> None:
    known = all_documents(whole.pool, whole.tokenizer)
    units = [unit.name for unit in whole.pool.units]
    places = [(units[d.unit], d.row, d.text) for d in known if d.id == "twin"]
    entries = fates_of(whole, "twin")
    assert [(e["unit"], e["row"], e["text"]) for e in entries] == places
    assert len(places) == 2


def test_the_lines_name_rows_of_a_shard_and_the_bytes_of_a_record(
    whole: Curated, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = fates_of(whole, "long")
    Console().fate(entry)
    said = capsys.readouterr().out
    first, last = entry["shard_rows"][0]
    assert f"rows {first} to {last} of {entry['shards'][0]}" in said
    one = {**entry, "shards": ["shard-00001.arrow"], "shard_rows": [[2, 2]], "sequences": [7, 7]}
    Console().fate(one)
    assert "in row 2 of shard-00001.arrow, from 0; sequence 7 of all" in capsys.readouterr().out
    (broken,) = fates_with(whole, '"text": 7}')
    Console().fate({**broken, "id": None})
    said = capsys.readouterr().out
    assert said.startswith(f"{broken['file']}, line 153: quarantined")
    assert 'record: {"id": "broken", "text": 7}' in said


def test_an_unknown_id_is_an_input_error(whole: Curated) -> None:
    with pytest.raises(InputError, match="nobody: no document of the corpus has this id"):
        fates_of(whole, "nobody")


def test_documents_are_found_by_a_text_in_them(whole: Curated) -> None:
    known = all_documents(whole.pool, whole.tokenizer)
    (long,) = fates_with(whole, "turbine water turbine water turbine")
    assert (long["id"], long["fate"]) == ("long", "taken")
    word = next(document.text for document in known if document.id == "d0030").split()[1]
    entries = fates_with(whole, word)
    texts = [document.text for document in known if word in document.text]
    assert len(entries) == min(10, len(texts))
    assert all(word in entry["text"] for entry in entries)
    (bad,) = fates_with(whole, '"text": 7}')
    assert bad["fate"] == "quarantined"
    with pytest.raises(InputError):
        fates_with(whole, "no record has this text")
