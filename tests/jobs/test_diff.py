"""`penstock diff`, compared with the cuts' own files and the recipes of both sides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import penstock
from penstock.errors import InputError, UnmadeError
from penstock.jobs.changed_keys import changed_keys
from penstock.jobs.cli import main
from penstock.jobs.console import Console
from penstock.jobs.curate import Curated
from penstock.jobs.diff import Moved, SidesDifference, compare_sides
from penstock.jobs.printed_diff import print_difference
from penstock.jobs.sides import open_side, side_of
from tests.pools import documents, make, recipe_of, write_jsonl

Rows = list[dict[str, str]]

SCORES = {f"d{number:04d}": float(number) for number in range(200)}


def least_words(count: int) -> dict[str, Any]:
    """Rules of which one alone can drop these texts."""
    return {"rules": {"gopher": {"min_words": count, "min_stop_words": None}}}


def rows_of(count: int = 200) -> Rows:
    return documents(count, seed=4)


def side(
    where: Path,
    rows: Rows,
    tokens: int = 4_000,
    scores: dict[str, float] | None = None,
    clean: Any = None,
    broken: str = "",
    **tree: Any,
) -> Curated:
    path = write_jsonl(where / "pool" / "a.jsonl", rows)
    with path.open("a", encoding="utf-8") as sink:
        sink.write(broken)
    budget = {"rank": "s", **tree.pop("budget", {})}
    recipe = recipe_of(where, tokens, ["s"], budget=budget, clean=clean or {}, **tree)
    return make(recipe, {"s": SCORES if scores is None else scores}).curated()


def taken(of: Curated) -> dict[str, int]:
    """The tokens of each document of a cut, from its files."""
    table = of.documents().arrow()
    rows = table.filter(table["taken"]).select(["id", "tokens"]).to_pylist()
    return {row["id"]: row["tokens"] for row in rows}


def compared(a: Curated, b: Curated, **options: Any) -> SidesDifference:
    found = compare_sides(side_of(a, "a"), side_of(b, "b"), **options)
    old, new = taken(a), taken(b)
    assert found.both["documents"] == len(old.keys() & new.keys())
    assert found.both["tokens_a"] == sum(old[name] for name in old.keys() & new.keys())
    assert found.both["tokens_b"] == sum(new[name] for name in old.keys() & new.keys())
    for moved, names in ((found.went_out, old.keys() - new), (found.came_in, new.keys() - old)):
        assert moved.documents == len(names)
        assert moved.tokens == sum((old | new)[name] for name in names)
        for counts in (moved.by_reason, moved.by_source):
            assert sum(own["documents"] for own in counts.values()) == moved.documents
            assert sum(own["tokens"] for own in counts.values()) == moved.tokens
        assert {one.id for one in moved.listed} <= names
    return found


def reasons(moved: Moved) -> dict[str, set[str]]:
    """The listed documents by reason; all are listed in these tests."""
    assert len(moved.listed) == moved.documents
    by: dict[str, set[str]] = {}
    for one in moved.listed:
        by.setdefault(one.reason, set()).add(one.id)
    assert {name: len(ids) for name, ids in by.items()} == {
        name: own["documents"] for name, own in moved.by_reason.items()
    }
    return by


def test_equal_sides_differ_in_nothing(tmp_path: Path) -> None:
    a = side(tmp_path, rows_of())
    found = compared(a, a)
    assert found.keys == []
    assert (found.came_in.documents, found.went_out.documents) == (0, 0)


def test_a_smaller_budget(tmp_path: Path) -> None:
    rows = rows_of()
    a, b = side(tmp_path, rows), side(tmp_path, rows, 2_000)
    found = compared(a, b, limit=1_000)
    assert [(one.key, one.a, one.b) for one in found.keys] == [("budget.tokens", 4_000, 2_000)]
    assert reasons(found.went_out).keys() == {"budget"}
    one = found.went_out.listed[0]
    lowest = min(SCORES[name] for name in taken(b))
    assert one.a == {"fate": "taken", "tokens": taken(a)[one.id], "scores": {"s": SCORES[one.id]}}
    tie = {"tie": True} if SCORES[one.id] == lowest else {}
    assert one.b == {"fate": "left", "scores": {"s": SCORES[one.id]}, "lowest": lowest, **tie}
    ties = {one.id for one in found.went_out.listed if one.b.get("tie")}
    assert ties == {one.id for one in found.went_out.listed if SCORES[one.id] == lowest}
    back = compared(b, a, limit=1_000)
    assert reasons(back.came_in).keys() == {"budget"}


def test_a_tie_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of()
    scores = {name: float(number % 3) for number, name in enumerate(SCORES)}
    a, b = (side(tmp_path, rows, tokens, scores) for tokens in (6_000, 4_000))
    found = compared(a, b, limit=1_000)
    lowest = min(scores[name] for name in taken(b))
    ties = {one.id: one.b.get("tie", False) for one in found.went_out.listed}
    assert ties == {name: scores[name] == lowest for name in ties}
    assert any(ties.values())
    print_difference(found, Console())
    lines = capsys.readouterr().out.splitlines()
    went_out = [line for line in lines if line.startswith("- ")]
    assert len(went_out) == len(ties) and all("): in B: " in line for line in went_out)
    assert sum("a tie: a hash of seed, id and text decides" in line for line in lines) == sum(
        ties.values()
    )


def test_another_threshold_lets_others_in(tmp_path: Path) -> None:
    rows = rows_of()
    a, b = (side(tmp_path, rows, clean=least_words(least)) for least in (2, 60))
    found = compared(a, b, limit=1_000)
    out = reasons(found.went_out)
    assert {one.key for one in found.keys} == {"clean.rules.gopher.min_words"}
    words = {row["id"]: len(row["text"].split()) for row in rows}
    assert out == {"threshold": {name for name in taken(a) if words[name] < 60}}
    assert reasons(found.came_in) == {"others": taken(b).keys() - taken(a)}
    one = found.went_out.listed[0]
    assert one.b == {
        "fate": "dropped",
        "rule": "gopher: min_words",
        "value": words[one.id],
        "limit": "least",
        "threshold": 60,
    }


def test_a_null_is_a_value_and_nothing_reads_as_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = side_of(side(tmp_path, rows_of(20), tokens=100), "a")

    def keys(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any, str | None]]:
        sides = []
        for own in (old, new):
            tree = {"budget": {"rank": "s"}, **own}
            sides.append(replace(made, recipe=recipe_of(tmp_path, 100, ["s"], **tree)))
        return [(own.key, own.a, own.b, own.only) for own in changed_keys(*sides)]

    gopher = "clean.rules.gopher"
    named = {"clean": {"rules": ["gopher"]}}
    mapped = {"clean": {"rules": {"gopher": {"min_words": 30, "min_stop_words": None}}}}
    both = [(f"{gopher}.min_words", None, 30, "b"), (f"{gopher}.min_stop_words", None, None, "b")]
    assert keys({}, mapped) == both
    assert keys(named, mapped) == both
    assert {(own[0], own[3]) for own in keys(mapped, {})} == {(own[0], "a") for own in both}
    assert keys({}, named) == [("clean.rules", [], ["gopher"], None)]
    assert keys({}, {"clean": {"dedup": {"minhash": {}}}})[0][3] == "b"
    weights = {"budget": {"rank": {"s": 1.0}}}
    assert keys({}, weights) == [("budget.rank", "s", {"s": 1.0}, None)]
    pools = [{"corpus": [{"path": "a.jsonl"}] * count} for count in (1, 2)]
    assert None not in [own[2] for own in keys(*pools)]  # of defaults no null is listed

    b = replace(made, recipe=recipe_of(tmp_path, 100, ["s"], budget={"rank": "s"}, **mapped))
    print_difference(compare_sides(made, b), Console())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert lines[:2] == [
        f"  {gopher}.min_words: not given -> 30",
        f"  {gopher}.min_stop_words: not given -> null",
    ]


def test_a_new_rule_and_a_condition(tmp_path: Path) -> None:
    rows = rows_of()
    a = side(tmp_path, rows)
    b = side(tmp_path, rows, clean=least_words(60))
    c = side(tmp_path, rows, clean={"where": "source != 'web'"})
    out = compared(a, b, limit=1_000).went_out
    assert reasons(out).keys() == {"rule"}
    sources = {row["id"]: row["source"] for row in rows}
    out = compared(a, c, limit=1_000).went_out
    assert reasons(out) == {"condition": {name for name in taken(a) if sources[name] == "web"}}
    assert out.by_source.keys() == {"web"}


def test_other_scores_and_none(tmp_path: Path) -> None:
    rows = rows_of()
    best = sorted(SCORES)[-2:]
    others = {**SCORES, best[0]: float("nan"), best[1]: 0.5}
    a, b = side(tmp_path, rows), side(tmp_path, rows, scores=others)
    found = compared(a, b, limit=1_000)
    out = reasons(found.went_out)
    assert (out["no score"], out["score"]) == ({best[0]}, {best[1]})
    assert reasons(found.came_in).keys() <= {"others"}
    (unscored,) = (one for one in found.went_out.listed if one.reason == "no score")
    assert unscored.b == {"fate": "left", "scores": {"s": None}}


def test_a_share_of_a_source(tmp_path: Path) -> None:
    rows = rows_of()
    a, b = side(tmp_path, rows), side(tmp_path, rows, budget={"shares": {"code": 0.3}})
    found = compared(a, b, limit=1_000)
    sources = {row["id"]: row["source"] for row in rows}
    for names in (reasons(found.came_in)["share"], taken(b).keys() - taken(a)):
        assert {sources[name] for name in names} == {"code"}


def test_another_draw(tmp_path: Path) -> None:
    rows = rows_of()
    a = side(tmp_path, rows)
    b = side(tmp_path, rows, budget={"draw": {"gumbel": {"temperature": 20.0}}})
    found = compared(a, b, limit=1_000)
    assert found.went_out.documents > 2
    assert reasons(found.went_out).keys() == reasons(found.came_in).keys() == {"draw"}


def test_inputs_texts_duplicates_and_the_quarantine(tmp_path: Path) -> None:
    """Everything that a record can do between two corpora; `d0199` has the highest score."""
    rows = rows_of()
    a = side(tmp_path / "a", rows)
    changed = [dict(row) for row in rows]
    changed[198]["text"] = "quite another text"
    scores = SCORES | {"d0198": -1.0, "new": 500.0}
    changed.insert(0, {**rows[197], "id": "twin"})  # the first of two equal texts stays
    del changed[200]  # d0199
    del changed[197]  # d0196
    changed.append({"id": "new", "text": "new text " * 20, "source": "wiki"})
    broken = '{"id": "d0196", "text": 7}\n'
    b = side(tmp_path / "b", changed, scores=scores | {"twin": -5.0}, broken=broken)
    found = compared(a, b, limit=1_000)
    out = reasons(found.went_out)
    assert out["input"] == {"d0199"}
    assert out["quarantined"] == {"d0196"}
    assert out["text"] == {"d0198"}
    assert out["duplicate"] == {"d0197"}
    assert reasons(found.came_in)["input"] == {"new"}
    by_id = {one.id: one for one in found.went_out.listed}
    assert by_id["d0199"].b == {"fate": "absent"}
    assert by_id["d0196"].b == {"fate": "quarantined"}
    assert by_id["d0197"].b == {"fate": "dropped", "rule": "duplicate", "repeats": "twin"}
    assert [one.key for one in found.keys] == ["corpus"]


def test_documents_of_one_id_are_told_apart(tmp_path: Path) -> None:
    """Two documents of one id in each corpus: the second of them was removed and no other."""
    rows = rows_of(60)
    rows[5]["id"] = rows[50]["id"] = "d0030"
    a = side(tmp_path / "a", rows, 100_000, budget={"allow_short": True})
    b = side(tmp_path / "b", rows[:50] + rows[51:], 100_000, budget={"allow_short": True})
    found = compare_sides(side_of(a, "a"), side_of(b, "b"))
    assert (found.came_in.documents, found.went_out.by_reason["input"]["documents"]) == (0, 1)
    assert found.went_out.listed[0].source == rows[50]["source"]
    assert found.both["documents"] == a.cut.facts["documents"] - 1


def test_parts_and_the_limit_change_no_count(tmp_path: Path) -> None:
    rows = rows_of()
    a = side(tmp_path / "a", rows)
    b = side(tmp_path / "b", rows[:150] + rows[160:], 2_000, clean=least_words(60))
    whole = compared(a, b, limit=1_000).summary()
    for part in (1, 37, 1 << 20):
        few = compare_sides(side_of(a, "a"), side_of(b, "b"), limit=5, part=part).summary()
        for name in ("in", "out"):
            listed, own = whole[name].pop("listed", None), few[name].pop("listed")
            assert few[name] == whole[name]
            whole[name]["listed"] = listed
            assert len(own) == min(5, few[name]["documents"])
            assert all(one in listed for one in own)
        reasons_listed = {one["reason"] for one in own}
        assert len(reasons_listed) == min(5, len(few["out"]["by_reason"]))  # each has its turn


RECIPE = """\
corpus: [{path: pool.jsonl}]
select: {length: {use: "scorer:score"}}
budget: {tokens: TOKENS, rank: length}
tokenizer: {train: {vocab_size: 384}}
shards: {sequence_length: 32}
"""


@pytest.mark.slow
def test_the_command_takes_recipes_and_directories(tmp_path: Path) -> None:
    rows = documents(150)
    rows[3]["id"] = "\x1b[31mred"
    rows[3]["text"] = "this one is the shortest"  # and so the first
    write_jsonl(tmp_path / "pool.jsonl", rows)
    (tmp_path / "scorer.py").write_text("def score(texts):\n    return [-len(t) for t in texts]\n")
    paths = []
    for name, tokens in (("a", 2_000), ("b", 100_000), ("c", 500)):
        paths.append(tmp_path / f"{name}.yaml")
        short = "rank: length, allow_short: true"
        text = RECIPE.replace("TOKENS", str(tokens)).replace("rank: length", short)
        paths[-1].write_text(text)
    a, b, c = paths
    cuts = [str(penstock.curate(path, runner="local", workers=1).cut.path) for path in (a, b)]
    done = CliRunner().invoke(main, ["diff", str(a), str(b), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["a"]["cut"], found["b"]["cut"]) == tuple(cuts)
    assert found["in"]["by_reason"].keys() == {"budget"}
    assert found["in"]["documents"] == found["b"]["documents"] - found["a"]["documents"]

    write_jsonl(tmp_path / "held.jsonl", [{"text": rows[3]["text"]}])
    d = tmp_path / "d.yaml"
    d.write_text(a.read_text() + "evaluate: [held.jsonl]\n")
    penstock.curate(d, runner="local", workers=1)
    without = CliRunner().invoke(main, ["diff", str(a), str(d)])
    assert without.exit_code == 0, without.output
    assert "copy of an evaluation example" in without.output
    assert r"- \x1b[31mred (" in without.output
    assert "\x1b[31m" not in without.output

    a.write_text(a.read_text().replace("2000", "700"))  # the cut of the earlier recipe is compared
    of_cuts = compare_sides(*map(open_side, cuts)).summary()
    assert of_cuts["in"] == found["in"]
    assert [one["key"] for one in of_cuts["keys"]] == ["budget.tokens"]

    overridden = CliRunner().invoke(main, ["diff", str(b), str(c), "--set", "budget.tokens=100000"])
    assert overridden.exit_code == 0, overridden.output
    assert "no document came in and none went out" in overridden.output

    with pytest.raises(UnmadeError) as unmade:
        open_side(str(c), ("seed=7",))
    assert unmade.value.fix == f"run `penstock curate {c} --set seed=7`"
    with pytest.raises(InputError) as several:
        open_side(str(tmp_path / "work"))
    assert "3 cuts" in str(several.value.got)
    with pytest.raises(InputError) as other:
        open_side(str(next((tmp_path / "work" / "corpus").iterdir())))
    assert "the stage corpus" in str(other.value.got)
    with pytest.raises(InputError):
        open_side(cuts[0], ("budget.tokens=3",))
