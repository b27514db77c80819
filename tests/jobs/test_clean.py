"""The dry run of the rules: its counts and examples by hand, and the command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import penstock
from penstock.display import numbered
from penstock.errors import PenstockError
from penstock.jobs import clean as cleaning
from penstock.jobs.cli import main
from penstock.jobs.console import Console
from penstock.jobs.stage_lines import describe_overlap
from penstock.pipeline.cleaning.fates import FileOverlap
from penstock.recipe_file import load_recipe, override
from penstock.rules import FIELDS, built_in, count_statistics, counting_for, rule_sets
from tests.pools import documents, write_jsonl

RECIPE = """
corpus: {path: pool}
clean:
  rules: {gopher_quality: {min_words: 40, min_stop_words: null}, fineweb: }
budget: {tokens: 1000, rank: random}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = documents(150, seed=3)
    for row in rows[::4]:
        row["text"] = row["text"].replace(" ", ".\n")
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_a_rule_of_ones_own_is_counted_as_the_others(project: Path) -> None:
    (project / "cleaned_rule.py").write_text(
        "def even(texts): return [len(t.split()) % 2 == 0 for t in texts]\n"
        "def third(texts): return [len(t.split()) % 3 == 0 for t in texts]\n"
    )
    rules = {name: {"use": f"cleaned_rule:{name}"} for name in ("even", "third")}
    given = [f"clean.rules={json.dumps(rules)}"]
    cleaned = penstock.clean(project / "recipe.yaml", settings=given, workers=1)
    lines = (project / "pool" / "a.jsonl").read_text(encoding="utf-8").splitlines()
    counts = np.array([len(json.loads(line)["text"].split()) for line in lines])
    even, third = counts % 2 == 0, counts % 3 == 0
    found = {own.rule: (own.alone, own.first, own.only) for own in cleaned.rules}
    assert found == {
        "even": (even.sum(), even.sum(), (even & ~third).sum()),
        "third": (third.sum(), (third & ~even).sum(), (third & ~even).sum()),
    }
    for listed in cleaned.summary()["rules"]:
        assert (listed["limit"], listed["threshold"], listed["nearest"]) == ("", None, ())


def test_each_rule_is_counted_and_has_its_nearest_documents(project: Path) -> None:
    cleaned = penstock.clean(project / "recipe.yaml", workers=1, examples=3)
    lines = (project / "pool" / "a.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    sets = rule_sets({"gopher_quality": {"min_words": 40, "min_stop_words": None}, "fineweb": None})
    texts = pa.array([row["text"] for row in rows], pa.large_string())
    statistics = count_statistics(texts, counting_for(sets))
    judged = [(one, one.judge(statistics)) for one in sets]
    failed = {
        f"{one.name}: {rule.name}": (verdicts.bits >> np.uint64(bit) & np.uint64(1)).astype(bool)
        for one, verdicts in judged
        for bit, rule in enumerate(one.rules)
    }
    together = np.sum(list(failed.values()), axis=0)
    names = [own.rule for own in cleaned.rules]
    assert "gopher_quality: min_words" in names
    assert "gopher_quality: min_stop_words" not in names, "it is off"
    seen = 0
    for own in cleaned.rules:
        fails = failed[own.rule]
        assert own.alone == fails.sum()
        assert own.only == (fails & (together == 1)).sum()
        assert own.first == cleaned.pool.documents["dropped_by"].get(own.rule, 0)
        assert own.threshold is not None
        name, _, rule = own.rule.partition(": ")
        values = next(one for one in sets if one.name == name).values(statistics)[rule]
        for side in (True, False):
            near = sorted(abs(n.value - own.threshold) for n in own.nearest if n.fails == side)
            expected = np.sort(np.abs(values[fails == side] - own.threshold))[:3]
            assert near == expected.tolist()
            seen += len(near)
        for one in own.nearest:
            row = next(n for n, row in enumerate(rows) if row["id"] == one.id)
            assert (values[row], fails[row]) == (one.value, one.fails)
            assert rows[row]["text"].split()[0] == one.text.split()[0]
    assert seen > 40
    assert sum(own.first for own in cleaned.rules) > 20
    assert not (project / "work" / "cut").exists()
    assert "min_words" in repr(cleaned) and "min_words" in cleaned._repr_html_()


def test_no_example_of_a_rule_that_was_not_applied(project: Path) -> None:
    """Texts without spaces have few words; they are examples of the rules for lines alone."""
    rows = [{"id": f"zh{number}", "text": "水力发电的闸门" * number} for number in range(1, 40)]
    write_jsonl(project / "pool" / "b.jsonl", rows)
    cleaned = penstock.clean(project / "recipe.yaml", workers=1, examples=200)
    assert cleaned.abstained == {"gopher_quality": 39, "fineweb": 39}
    by_words = {
        f"{one.name}: {rule.name}": rule.by_words
        for one in built_in().values()
        for rule in one.rules
    }
    unspaced = {
        own.rule: sum(near.id.startswith("zh") for near in own.nearest) for own in cleaned.rules
    }
    assert not any(count for rule, count in unspaced.items() if by_words[rule])
    assert sum(unspaced.values()) > 50


def test_the_command_prints_a_table_and_json(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = sys.stdout
    arguments = ["clean", "recipe.yaml", "--json", "--workers", "1"]
    main(arguments, standalone_mode=False)
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(made) == {"verdicts", "documents", "rules", "abstained", "overlaps", "seconds"}
    assert made["documents"]["read"] == 150 and made["overlaps"] == []
    assert set(made["seconds"]) == {"corpus", "verdicts", "nearest"}
    more = [*arguments, "--set", "clean.rules.gopher_quality.min_words=10", "--examples", "0"]
    monkeypatch.setattr(sys, "stdout", stdout)  # --json moved it
    main(more, standalone_mode=False)
    changed = json.loads(capsys.readouterr().out.splitlines()[-1])
    name = "gopher_quality: min_words"
    (before,) = [rule for rule in made["rules"] if rule["rule"] == name]
    (after,) = [rule for rule in changed["rules"] if rule["rule"] == name]
    assert after["threshold"] == 10 and after["alone"] < before["alone"]
    assert before["nearest"] and after["nearest"] == []


def test_each_stage_is_told_before_it_works(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    told: dict[str, list[str]] = {}
    for name in ("make_corpus", "make_pool", "make_text_columns"):
        own = getattr(cleaning, name)

        def recorded(*given: Any, name: str = name, own: Any = own) -> Any:
            told[name] = lines.copy()
            return own(*given)

        monkeypatch.setattr(cleaning, name, recorded)
    penstock.clean("recipe.yaml", workers=1, progress=lines.append)
    assert told["make_corpus"] == ["corpus ..."]
    assert told["make_pool"][-1] == "clean ..."
    assert told["make_text_columns"][-1] == "nearest documents ..."
    assert any(line.endswith(" of 150 documents kept") for line in lines)


def test_counts_are_of_what_their_noun_says() -> None:
    overlap = FileOverlap(file="e", documents=1, examples=3, unchecked=2)
    assert re.findall("([0-9]+) (documents?|examples?)", describe_overlap(overlap)) == [
        ("1", "document"),
        ("3", "examples"),
        ("2", "examples"),
    ]
    assert (numbered(1, "link"), numbered(0, "link")) == ("1 link", "0 links")
    assert numbered(2000, "is", "are") == "2,000 are"


def test_a_recipe_without_rules_is_judged_too(project: Path) -> None:
    recipe = load_recipe(project / "recipe.yaml", ["clean.rules=[]"])
    cleaned = penstock.clean(recipe, workers=1)
    assert cleaned.rules == () and cleaned.pool.documents["kept"] == 150


def test_rules_and_columns_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["rules"], standalone_mode=False)
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*built_in(), *FIELDS, "language_probability", "e_mail"))
    main(["rules", "gopher_quality"], standalone_mode=False)
    listed = capsys.readouterr().out
    assert all(rule.name in listed for rule in built_in()["gopher_quality"].rules)
    with pytest.raises(SystemExit) as caught:
        main(["rules", "goper"])
    assert caught.value.code == 2


def test_a_threshold_is_set_beside_the_other_sets(project: Path) -> None:
    path = project / "recipe.yaml"
    own = "{gopher_quality: {min_words: 40, min_stop_words: null}, fineweb: }"
    path.write_text(RECIPE.replace(own, "[gopher, c4]"))
    names = ["clean.rules.gopher.min_words=40", "clean.rules.c4.min_sentences=null"]
    rules = load_recipe(path, names).clean.rules
    assert rules == {"gopher": {"min_words": 40}, "c4": {"min_sentences": None}}
    assert load_recipe(path, ["clean.rules.c4=null"]).clean.rules == {"gopher": None}
    plain = load_recipe(path).model_dump(mode="json", exclude={"compare"})
    arm = override(plain, {"clean": {"rules": {"gopher": {"min_words": None}, "fineweb": {}}}})
    assert arm["clean"]["rules"] == {"gopher": {"min_words": None}, "c4": None, "fineweb": {}}


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ("{where: {use: 'os:getcwd'}}", "clean.rules.where"),
        ("{m: {use: 5}}", "clean.rules.m.use"),
        ("{m: {use: 'os:no_such_function'}}", "clean.rules.m.use"),
    ],
)
def test_a_rule_of_ones_own_that_cannot_be_used_is_named(
    project: Path, rules: str, key: str
) -> None:
    with pytest.raises(PenstockError) as caught:
        penstock.clean(project / "recipe.yaml", settings=[f"clean.rules={rules}"], workers=1)
    assert caught.value.key == key
    assert not (project / "work").exists()


def test_control_characters_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Console().write("a\x1b]0;title\x07\u202ebc")
    assert capsys.readouterr().out == "a\\x1b]0;title\\x07\\u202ebc\n"


def test_reasons_that_are_no_rule_of_a_set_have_a_row(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["clean.where=meta.stars > 3 or words < 50", "clean.rules=[]"]
    options = [part for setting in settings for part in ("--set", setting)]
    main(["clean", "recipe.yaml", "--workers", "1", *options], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "where: unknown" in shown and "is missing" in shown
