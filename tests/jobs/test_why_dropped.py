"""Why a document was dropped: its rules, its condition and its copies, with values compared."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from penstock.jobs.compared_values import describe_values
from penstock.jobs.why import fates_of
from penstock.pipeline.cleaning.settings import CleanSettings
from tests.jobs.explained import curated
from tests.pipeline.cleaning.reference import grams_of, jaccard
from tests.pools import documents, write_jsonl


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
