"""The fate of documents, checked against the shards themselves."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from penstock.errors import InputError
from penstock.jobs.compared_values import describe_values
from penstock.jobs.console import Console
from penstock.jobs.curate import Curated, curate
from penstock.jobs.report.page import write_report
from penstock.jobs.rewritings import describe_rewriting
from penstock.jobs.stage_lines import describe_cut, describe_draw
from penstock.jobs.why import fates_of, fates_with
from penstock.pipeline.cleaning import verdicts
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from tests.pipeline.cleaning.reference import grams_of, jaccard
from tests.pools import all_documents, documents, make, recipe_of, write_jsonl

SCORES = {f"d{number:04d}": float(number % 23) for number in range(150)}
SCORES["a\x1b[31m\u202eb"] = SCORES.pop("d0020")
SCORES |= {"long": 50.0, "twin": 22.5, "excluded": float("nan")}


def curated(
    directory: Path,
    tokens: int = 6_000,
    clean: Any = None,
    columns: Any = None,
    **budget: Any,
) -> Curated:
    recipe = recipe_of(
        directory,
        tokens,
        list(columns or "s"),
        budget={"rank": "s", **budget},
        shards={"tokens_per_shard": 20 * 16},
        clean=clean or {},
    )
    return make(recipe, columns or {"s": SCORES}).curated()


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


def test_quarantined_records_are_found_by_their_ids_alone(tmp_path: Path) -> None:
    """Whatever the type and the escapes of the id; a word elsewhere in a record finds nothing."""
    lines = [
        b'{"id":4711,"text":null,"ref":"other"}',
        b'{"id":"caf\\u00e9","text":5}',
        b'{"id": 1.50, "text": []}',
        b'{"id": true, "text": {"id": "inner"}}',
        b'{"id": ["x"], "text": 1}',
        b'{"text": "half \\ud800", "id": "surrogate"}',
        b'{"id": "nan", "text": "t", "score": NaN}',
        b'{"\\u0069d": "named by escapes", "text": NaN}',
        b'{"id": "latin", "text": "caf\xe9"}',
        b'{"id": "cut \\"short\\"", "text": "and no end',
        b'{"a": "\\x", "b": {"id": "inner"}, "id": "late", "text": "d0001"}',
        b'{"text": "no id", "n": NaN}',
        b'{"id": "half \\udfff", "text": 1}',
        b"not json",
    ]
    path = write_jsonl(tmp_path / "pool" / "a.jsonl", documents(40, seed=6))
    with path.open("ab") as sink:
        sink.write(b"\n".join(lines) + b"\n")
    table = pa.table(
        {"id": [b"bytes", b"\xff", b"ok"], "text": [b"\xff", b"\xff", b"good"], "n": ["late"] * 3}
    )
    pq.write_table(table, tmp_path / "pool" / "b.parquet")
    of = curated(tmp_path, tokens=160)
    names = ["4711", "café", "1.5", "True", "['x']", "surrogate", "nan", "named by escapes"]
    names += ["latin", 'cut "short"', "late", "bytes", "ff"]
    for name in names:
        (entry,) = fates_of(of, name)
        assert (entry["id"], entry["fate"]) == (name, "quarantined")
        assert entry["source"] is None
    (latin,) = fates_with(of, r"caf\xe9")
    assert latin["id"] == "latin" and latin["line"] == 49
    (nameless,) = fates_with(of, '"text": "no id"')
    assert (nameless["id"], nameless["line"]) == (None, 52)
    (sound,) = fates_of(of, "d0001")
    assert sound["fate"] != "quarantined"
    for name in ("text", "other", "inner", "471", "half ", "null", "n"):
        with pytest.raises(InputError):
            fates_of(of, name)


def test_every_record_knows_the_file_that_it_was_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five files in packed and divided splits, with records that are not kept between.

    Verdicts are of groups of a unit or two, so a document and its copy are in different ones.
    """
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 60)
    monkeypatch.setattr(verdicts, "_RANGE_DOCUMENTS", 100)
    home = {}
    for number in range(5):
        rows = documents(8 + 30 * number, seed=number, longest=30)
        for row in rows:
            row["id"] = f"{number}-{row['id']}"
        rows[1::3] = [{**row, "text": "the same"} for row in rows[1::3]]
        rows[2] = {**rows[2], "text": " "}
        if number == 3:
            rows[30] = {"id": "long", "text": "turbine water " * 700, "source": "web"}
        path = write_jsonl(tmp_path / "pool" / f"{number}.jsonl", rows)
        with path.open("a", encoding="utf-8") as sink:
            sink.write(bad := f'{{"id": "bad {number}", "text": 7}}\n')
        home |= {row["id"]: (str(path), line, row["text"]) for line, row in enumerate(rows, 1)}
        home[f"bad {number}"] = (str(path), len(rows) + 1, bad.strip())
    of = curated(tmp_path, tokens=160)
    assert len(of.pool.verdicts.named("reasons-")) > 3 and len(of.corpus.named("unit-")) > 3
    fates = set()
    whys: dict[str, set[str]] = {"the same": set(), " ": set()}
    for name, (file, line, text) in home.items():
        (entry,) = fates_of(of, name)
        assert entry["file"] == file
        assert (entry.get("line"), entry.get("text")) == (line, text)
        fates.add(entry["fate"])
        if text in whys:
            whys[text].add(entry["why"] if entry["fate"] == "dropped" else name)
    assert fates == {"taken", "left", "dropped", "quarantined"}
    assert whys[" "] == {"rule empty"}
    first, repeats = sorted(whys["the same"])
    assert repeats == f"rule duplicate: repeats {first}", "all repeat the one that stays"


def test_a_dropped_document_names_all_rules_that_it_fails(tmp_path: Path) -> None:
    fine = "The gate of the mill is open and the water of the river turns that wheel."
    texts = {
        "short": "water wheel",
        "symbols": "go #",
        "fine": fine,
        "copy of short": "Water  wheel",
        "copy of fine": f" {fine.lower()}",
        "lines": "The gate of the mill …\nThe river of the wheel",
        "copy of lines": "The gate of the mill … The river of the wheel",
    }
    rows = [{"id": name, "text": text, "source": "web"} for name, text in texts.items()]
    write_jsonl(tmp_path / "pool" / "a.jsonl", [*rows, *documents(30)])
    rules = {"min_words": 3, "min_stop_words": None, "max_ellipses_per_word": None}
    of = curated(tmp_path, tokens=160, clean={"rules": {"gopher_quality": rules}})
    found = {name: fate for name in texts for fate in fates_of(of, name)}
    assert {
        name: (fate["why"], fate["fails"]) for name, fate in found.items() if "fails" in fate
    } == {
        "short": ("rule gopher_quality: min_words", ("gopher_quality: min_words",)),
        "symbols": (
            "rule gopher_quality: min_words",
            (
                "gopher_quality: min_words",
                "gopher_quality: min_word_length",
                "gopher_quality: max_hashes_per_word",
                "gopher_quality: min_lettered_words",
            ),
        ),
        "copy of short": ("rule gopher_quality: min_words", ("gopher_quality: min_words",)),
        "copy of fine": ("rule duplicate: repeats fine", ()),
        "lines": (
            "rule gopher_quality: max_ellipsis_lines",
            ("gopher_quality: max_ellipsis_lines",),
        ),
    }
    (lettered,) = (own for own in found["symbols"]["rules"] if "lettered" in own["rule"])
    assert "punctuation" in lettered["unit"]
    lines = list(describe_values(found["symbols"]))
    assert any(lettered["unit"] in line for line in lines)
    assert [line for line in lines if "first" in line] == lines[:1]
    assert "min_words" in lines[0]
    assert not any("first" in line for line in describe_values(found["short"]))
    assert {name for name, fate in found.items() if fate["fate"] == "left"} == {
        "fine",
        "copy of lines",
    }


def test_the_values_that_rules_compare_are_those_of_the_text(tmp_path: Path) -> None:
    """Words of letters only, so that a word is a piece between spaces."""
    (tmp_path / "own_rules.py").write_text(
        "def drop(texts):\n    return [len(t) % 2 == 1 for t in texts]\n"
    )
    chance = random.Random(5)
    letters = ["the", "be", "of", "gate", "wheel", "water"]
    texts = [" ".join(chance.choices(letters, k=chance.randrange(1, 30))) for _ in range(40)]
    rows: list[dict[str, Any]] = [
        {
            "id": f"d{number:04d}",
            "text": text,
            "source": "web",
            "stars": number % 3,
            "day": "2020-01-02",
        }
        for number, text in enumerate(texts)
    ]
    rows[7]["text"] = "水力发电" * 5
    del rows[8]["stars"]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    rules = {
        "gopher_quality": {"min_words": 10, "min_stop_words": 2, "max_word_length": None},
        "own": {"use": "own_rules:drop"},
    }
    where = "meta.stars > 0 and cores > 5 and meta.day > date('2019-12-31')"
    clean = {"rules": rules, "where": where, "dedup": {"exact": False}}
    of = curated(tmp_path, tokens=16, clean=clean, allow_short=True)
    seen = set()
    for number, row in enumerate(rows):
        (fate,) = fates_of(of, row["id"])
        assert json.loads(json.dumps(fate["rules"])) == fate["rules"]
        found = {one["rule"]: one for one in fate["rules"]}
        words = row["text"].split()
        spaced = number != 7
        fails = len(words) < 10 and spaced
        if spaced:
            assert found["gopher_quality: min_words"] == {
                "rule": "gopher_quality: min_words",
                "fails": fails,
                "applied": True,
                "value": len(words),
                "limit": "least",
                "threshold": 10,
                "unit": "words",
            }
            length = sum(map(len, words)) / len(words)
            assert found["gopher_quality: min_word_length"]["value"] == length
            stops = len({"the", "be", "of"}.intersection(words))
            assert found["gopher_quality: min_stop_words"]["value"] == stops
        else:
            assert {one["applied"] for one in found.values()} == {True, False}
            assert not any(one["fails"] for one in found.values() if not one["applied"])
        assert "gopher_quality: max_word_length" not in found, "it is off"
        own = found["own"]
        assert (own["fails"], own["value"]) == (len(row["text"]) % 2 == 1, None)
        failed = tuple(name for name, one in found.items() if one["fails"])
        assert failed == fate.get("fails", ())
        stars = row.get("stars")
        enough = spaced and len(words) > 5
        assert fate["where"]["holds"] == (
            (None if enough else False) if stars is None else stars > 0 and enough
        )
        assert fate["where"]["condition"] == where
        values = fate["where"]["values"]
        assert (values["meta.stars"], values["meta.day"]) == (stars, "2020-01-02")
        assert not spaced or values["cores"] == len(words)
        seen.add((bool(failed), fate["where"]["holds"]))
    assert len(seen) > 3
    (before,) = fates_of(of, "d0000")
    shutil.rmtree(tmp_path / "work" / "statistics")
    (fate,) = fates_of(of, "d0000")
    *counted, function = fate["rules"]
    assert function["rule"] == "own"
    assert {one["value"] for one in counted} == {None}, "the counts were deleted"
    kept = "rule", "fails", "limit", "threshold", "unit"
    assert [[one[key] for key in kept] for one in counted] == [
        [one[key] for key in kept] for one in before["rules"][:-1]
    ]
    assert fate["not_kept"]["columns"] == ["statistics"]
    assert "where" not in fate


def test_a_text_where_a_number_is_expected_is_shown_and_number_reads_it(tmp_path: Path) -> None:
    rows = [f"d{k:04},The number {k} of words.,{k}" for k in range(20)]
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.csv").write_text("\n".join(["id,text,stars", *rows]))
    clean = {"where": "meta.stars > 3 or number(meta.stars) > 8"}
    of = curated(tmp_path, tokens=16, clean=clean, allow_short=True)
    assert of.pool.documents["kept"] == 11
    assert of.pool.documents["dropped_by"] == {"where: unknown": 9}
    (fate,) = fates_of(of, "d0008")
    assert fate["where"]["holds"] is None
    assert fate["where"]["other_kinds"] == {"meta.stars": {"expected": "a number", "got": "8"}}
    (line,) = describe_values(fate)
    assert "'8'" in line and "number(meta.stars)" in line


def test_a_near_duplicate_is_compared_with_the_one_that_stays(tmp_path: Path) -> None:
    chance = random.Random(3)
    base = [f"word{number}" for number in range(60)]
    rows = [{"id": "d0000", "text": " ".join(base), "source": "web"}]
    for number in range(1, 12):
        words = list(base)
        words[chance.randrange(60)] = "other"
        rows.append({"id": f"d{number:04d}", "text": " ".join(words[number:]), "source": "web"})
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    clean = {"dedup": {"minhash": {"threshold": 0.5, "ngram": 3}}}
    of = curated(tmp_path, tokens=16, clean=clean, allow_short=True)
    texts = {row["id"]: row["text"] for row in rows}
    compared = 0
    joined: set[tuple[str, bool]] = set()
    near = CleanSettings.of(of.recipe).near
    assert near is not None

    def share_a_band(*pair: str) -> bool:
        bands = near.signatures.compute(pa.array(pair, pa.large_string())).column("bands")
        one, other = bands.to_pylist()
        return any(left == right for left, right in zip(one, other))

    for name, text in texts.items():
        (fate,) = fates_of(of, name)
        if fate["fate"] != "dropped":
            continue
        repeats = fate["repeats"]
        its = texts[repeats["id"]]
        assert fate["why"] == f"rule near duplicate: repeats {repeats['id']}"
        assert repeats["similarity"] == jaccard(grams_of(text, 3), grams_of(its, 3))
        assert (repeats["threshold"], repeats["ngram"], repeats["keep"]) == (0.5, 3, "longest")
        assert (repeats["own"], repeats["best"]) == (len(text), len(its))
        lines = list(describe_values(fate))
        assert lines[0].startswith(f"similarity to {repeats['id']}: {repeats['similarity']:.4g}")
        assert repeats["equal"] is False
        assert repeats["joined"] == ("pair" if share_a_band(text, its) else "path")
        joined.add((repeats["joined"], repeats["similarity"] >= 0.5))
        assert ("below" in lines[0]) == (repeats["similarity"] < 0.5)
        assert lines[-1].endswith(f"line {1 + int(repeats['id'][1:])}")
        own, best = f"{len(text)} bytes", f"{len(its)} bytes"
        assert lines[1] == (
            f"kept: {repeats['id']}; longest: equal, both {own}; a hash decides"
            if own == best
            else f"kept: {repeats['id']} with {best}; this one has {own} (longest)"
        )
        compared += 1
    assert compared > 4
    assert ("pair", True) in joined


def test_near_duplicates_far_from_each_other_are_joined_by_a_path(tmp_path: Path) -> None:
    """Windows of one text: neighbours share most of their words, the first and the last few."""
    words = [f"word{number}" for number in range(200)]
    rows = [
        {"id": f"d{n:04d}", "text": " ".join(words[10 * n : 10 * n + 100]), "source": "web"}
        for n in range(9)
    ]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    clean = {"dedup": {"minhash": {"threshold": 0.5, "ngram": 3, "keep": "first"}}}
    of = curated(tmp_path, tokens=16, clean=clean, allow_short=True)
    (fate,) = fates_of(of, "d0008")
    repeats = fate["repeats"]
    assert repeats["id"] == "d0000" and repeats["similarity"] < 0.2
    assert repeats["joined"] == "path"
    assert "through other documents" in next(iter(describe_values(fate)))
    shutil.rmtree(tmp_path / "work" / "signatures")
    (fate,) = fates_of(of, "d0008")
    assert fate["repeats"]["joined"] is None


@pytest.mark.parametrize(
    ("value", "threshold", "limit", "said"),
    [
        (31.0, 50, "least", "31 words, at least 50"),
        (0.2, 0.1, "most", "0.2 words, at most 0.1"),
        (120_000.0, 100_000, "most", "120,000 words, at most 100,000"),
        (0.1 + 0.2, 0.3, "most", "0.30000000000000004 words, at most 0.3"),
        (2.99999, 3.0, "least", "2.99999 words, at least 3.0"),
    ],
)
def test_numbers_that_differ_look_different(
    value: float, threshold: float, limit: str, said: str
) -> None:
    rule = {"rule": "a: b", "fails": True, "applied": True, "unit": "words"}
    fate = {"rules": [{**rule, "value": value, "threshold": threshold, "limit": limit}]}
    assert list(describe_values({**fate, "fails": ("a: b", "c")})) == [
        f"fails a: b: {said}",
        "fails c",
    ]


def test_a_condition_without_a_value_names_what_is_missing() -> None:
    values = {"meta.year": 2019.0, "meta.stars": None, "meta.n": None, "cores": 1.5}
    others = {"meta.n": {"expected": "a number", "got": True}}
    where = {"condition": "c", "values": values, "other_kinds": others}
    said = (
        "where: c: meta.year 2019, meta.stars unknown, "
        "meta.n unknown (expected a number, got True), cores 1.5"
    )
    because = "since meta.stars is missing and meta.n is of another kind;"
    for holds, begins in (
        (None, f"clean.where has no value for it, {because}"),
        (False, "fails"),
    ):
        assert list(describe_values({"where": {**where, "holds": holds}})) == [f"{begins} {said}"]


@pytest.mark.parametrize(
    ("keep", "own", "best", "said"),
    [
        ("first", None, None, "kept: d7, the first"),
        ("longest", 898.0, 900.0, "kept: d7 with 900 bytes; this one has 898 bytes (longest)"),
        ("longest", 900.0, 900.0, "kept: d7; longest: equal, both 900 bytes; a hash decides"),
        (
            "lowest meta.day",
            None,
            "2019-05-06",
            "kept: d7 with 2019-05-06; this one has no value (lowest meta.day)",
        ),
        (
            "highest x",
            0.1 + 0.2,
            0.3,
            "kept: d7 with 0.3; this one has 0.30000000000000004 (highest x)",
        ),
    ],
)
def test_the_values_by_which_a_document_stays_are_shown(
    keep: str, own: Any, best: Any, said: str
) -> None:
    repeats = {"id": "d7", "keep": keep, "own": own, "best": best}
    repeats |= {"similarity": 0.9, "threshold": 0.8, "ngram": 5}
    assert list(describe_values({"repeats": repeats}))[1] == said


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


def test_a_document_is_found_by_its_file_and_line(tmp_path: Path) -> None:
    """Of a file that is read in several parts: each line is the record that stands there."""
    rows = documents(400, seed=8, longest=200)
    path = write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    lines = path.read_text().splitlines(keepends=True)
    lines.insert(123, '{"id": "broken", "text": 7}\n')
    path.write_text("".join(lines))
    table = pa.table({"id": ["p0", "p1", "p2"], "text": ["one two", "three four", "five six"]})
    pq.write_table(table, tmp_path / "pool" / "b.parquet")
    of = curated(tmp_path, tokens=160)
    for line in (1, 2, 123, 124, 125, 250, 401):
        (entry,) = fates_of(of, f"{path}:{line}")
        assert entry["id"] == json.loads(lines[line - 1])["id"]
        assert entry["fate"] == "quarantined" if line == 124 else entry["line"] == line
    (entry,) = fates_of(of, f"{tmp_path}/pool/b.parquet:2")
    assert (entry["id"], entry["line"]) == ("p1", 2)
    for name in (f"{path}:0", f"{tmp_path}/pool/c.jsonl:1"):
        with pytest.raises(InputError):
            fates_of(of, name)
    for name, lines_of in (
        (f"{path}:402", "401 lines"),
        (f"{tmp_path}/pool/b.parquet:4", "3 rows"),
    ):
        with pytest.raises(InputError) as caught:
            fates_of(of, name)
        assert caught.value.file == name.rpartition(":")[0]
        assert lines_of in caught.value.problem


MASK = """
import pyarrow as pa

class Mask:
    version = 1
    replaces = True
    def identity(self):
        return {}
    def edit(self, texts):
        masked = [one.replace("secret", "[mask]").replace("only", "") for one in texts.to_pylist()]
        return pa.array(masked, pa.large_string())
"""


def test_a_rewritten_document_names_the_rewriters_that_changed_it(tmp_path: Path) -> None:
    rows = [{"id": f"d{n}", "text": f"water {n} turns wheels"} for n in range(30)]
    rows[3]["text"] += " of secret mills"
    rows[4]["text"] = "only"
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    (tmp_path / "masking_own.py").write_text(MASK)
    write_jsonl(tmp_path / "pool" / "b.jsonl", [{"id": "e", "text": "another secret of water"}])
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "rewrite": {
            "mask": {"use": "masking_own:Mask", "by": "none"},
            "again": {"use": "masking_own:Mask", "by": "none"},
        },
        "budget": {"tokens": 64, "rank": "random"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    of = curate(parse_recipe(tree, tmp_path), LocalRunner(1))
    for name, changed in (("d3", ["mask"]), ("e", ["mask"]), ("d5", None)):
        (entry,) = fates_of(of, name)
        assert entry.get("rewritten") == changed
        before = entry.get("before")
        text = {"d3": rows[3]["text"], "e": "another secret of water"}.get(name)
        assert before == (text and {"text": text, "bytes": len(text)})
        assert ("[mask]" in entry["text"]) == bool(changed)
    (entry,) = fates_of(of, "d4")
    assert (entry["fate"], entry["fails"]) == ("dropped", ("mask: blank",))
    assert entry["why"] == "emptied by the rewriter mask"
    (entry,) = fates_with(of, "of secret mills")
    assert (entry["id"], entry["found"]) == ("d3", "before rewriting")
    (entry,) = fates_with(of, "of [mask] mills")
    assert entry["id"] == "d3" and "found" not in entry
    said = list(describe_rewriting(entry))
    assert any(
        "of secret mills" in line and f"{len(rows[3]['text'])} bytes" in line for line in said
    )
    assert any("of [mask] mills" in line for line in said)
    assert not any("passed the rules" in line for line in said)
    dropped = {**entry, "fate": "dropped"}
    assert any("passed the rules" in line for line in describe_rewriting(dropped))


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
