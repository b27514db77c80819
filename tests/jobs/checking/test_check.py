"""`penstock check`: faults of a recipe are found in a bounded sample, without running anything."""

from __future__ import annotations

import csv
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from penstock.jobs.checking import sampling
from penstock.jobs.checking.check import RecipeCheck, check_recipe
from penstock.jobs.checking.sampling import MOST_FILES, MOST_RECORDS
from penstock.jobs.cli import main
from penstock.recipe_file import parse_recipe
from tests.pools import documents, write_jsonl

TARGET = [{"question": f"What turns wheel {n}?", "answer": f"flowing water {n}"} for n in range(3)]


def checked(directory: Path, **keys: Any) -> RecipeCheck:
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool.jsonl"}],
        "budget": {"tokens": 6_000, "rank": "random"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 32},
        "train": {"batch_tokens": 64},
    }
    return check_recipe(parse_recipe({**tree, **keys}, directory), workers=2)


def kinds(one: RecipeCheck) -> set[tuple[str, str, str | None]]:
    return {(found.level, found.kind, found.key) for found in one.findings}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rows = [{**own, "stars": n % 7} for n, own in enumerate(documents(200))]
    write_jsonl(tmp_path / "pool.jsonl", rows)
    return tmp_path


def test_a_sound_recipe_has_no_findings_and_exact_counts(pool: Path) -> None:
    one = checked(pool)
    assert one.findings == []
    assert one.sample is not None and one.sample.whole
    own = one.estimate
    assert own is not None and own.exact
    rows = documents(200)
    assert own.documents == 200
    assert own.text_bytes == sum(len(row["text"].encode()) for row in rows)
    assert sum(tally["documents"] for tally in one.sources().values()) == 200
    assert set(one.sources()) == {row["source"] for row in rows}
    assert one.sample.fields(0)["stars"] == {"integer": 200}
    assert [file.examined for file in one.sample.files] == [200], (
        "of which the table has the fields"
    )
    assert not (pool / "work").exists()


@pytest.mark.parametrize(
    ("item", "key", "near"),
    [
        ({"source": "sorce"}, "corpus.0.source", "source"),
        ({"id": "idd"}, "corpus.0.id", "id"),
        ({"text": "txt"}, "corpus.0.text", "text"),
    ],
)
def test_a_field_that_no_record_has_is_an_error_with_the_nearest_name(
    pool: Path, item: dict[str, str], key: str, near: str
) -> None:
    one = checked(pool, corpus=[{"path": "pool.jsonl", **item}])
    (found,) = [own for own in one.errors if own.kind == "missing_field"]
    assert (found.key, found.names[0]) == (key, near)
    assert key in found.text and near in found.text


def test_a_default_field_that_is_missing_is_no_finding(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", [{"text": own["text"]} for own in documents(50)])
    assert checked(tmp_path).findings == []


def test_the_condition_is_compared_with_fields_and_values(pool: Path) -> None:
    wrong = checked(pool, clean={"where": "meta.starz > 3"})
    assert ("error", "missing_field", "clean.where") in kinds(wrong)
    assert ("warning", "always_unknown", "clean.where") in kinds(wrong)
    right = checked(pool, clean={"where": "meta.stars > 3"})
    assert right.findings == []
    assert right.judged is not None
    assert right.judged.kept == sum(n % 7 > 3 for n in range(200))
    values = right.judged.values["meta.stars"]
    assert (values["least"], values["greatest"], values["documents"]) == (0, 6, 200)


@pytest.mark.slow
def test_rules_are_applied_to_the_sample(pool: Path) -> None:
    one = checked(pool, clean={"rules": {"gopher": {"min_words": 60}}})
    assert one.judged is not None
    assert one.judged.dropped_by["gopher: min_words"] > 0
    assert one.judged.kept < 200
    assert one.estimate is not None and one.estimate.kept_share < 1


def test_trainings_of_one_step_are_a_warning(pool: Path) -> None:
    one = checked(pool, train={"batch_tokens": 65_536})
    assert kinds(one) == {("warning", "few_steps", "train.batch_tokens")}
    assert not one.errors


def test_a_recipe_that_trains_nothing_has_no_warning_about_its_steps(pool: Path) -> None:
    tree = {
        "corpus": [{"path": "pool.jsonl"}],
        "budget": {"tokens": 6_000, "rank": "random"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 32},
    }
    assert kinds(check_recipe(parse_recipe(tree, pool))) == set()
    compares = check_recipe(parse_recipe({**tree, "compare": {}}, pool))
    assert kinds(compares) == {("warning", "few_steps", "train.batch_tokens")}


def run_check(directory: Path, recipe: str, *options: str) -> tuple[int, dict[str, Any]]:
    (directory / "recipe.yaml").write_text(recipe)
    done = CliRunner().invoke(main, ["check", str(directory / "recipe.yaml"), "--json", *options])
    return done.exit_code, json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def test_errors_of_the_recipe_and_of_its_files_are_found_in_one_run(pool: Path) -> None:
    """`check` ended at the first error of the recipe, without a look at any file."""
    status, found = run_check(
        pool,
        "corpus: [{path: pool.jsonl, source: sorce, txet: text}]\n"
        "clean: {where: 'meta.starz > 3', rulez: [gopher]}\n"
        "select: {near: {use: dsir, target: [gone.jsonl]}, far: {target: [t.jsonl]}}\n"
        "budget: {tokens: -3, rank: near}\n"
        "evaluate: [lost.jsonl]\n"
        "compare: {arms: {random: {}, b: {budget: {rnak: random}}}}\n",
    )
    assert status == 2
    errors = [one["key"] for one in found["findings"] if one["level"] == "error"]
    assert errors == [
        "corpus.0.txet", "clean.rulez", "select.far.use", "budget.tokens",
        "compare.arms.b.budget.rnak", "evaluate", "select.near.target", "corpus.0.source",
        "clean.where",
    ]  # fmt: skip
    assert found["without"] == [
        "corpus.0.txet", "clean.rulez", "select.far", "budget.tokens",
    ]  # fmt: skip
    assert found["estimate"]["budget"] is None and found["estimate"]["documents"] == 200


@pytest.mark.parametrize(
    ("recipe", "errors", "without"),
    [
        # The missing key is an echo of the misspelt one, and the files are looked at.
        (
            "bugdet: {tokens: 9, rank: random}",
            ["bugdet"],
            ["bugdet", "budget.tokens", "budget.rank"],
        ),
        # An unknown column is no echo of anything else that is wrong.
        (
            "seed: x\nbudget: {tokens: 900, rank: nera}",
            ["seed", "budget.rank"],
            ["seed", "budget.rank"],
        ),
        # A rank whose selector is left out is one.
        (
            "select: {near: {}}\nbudget: {tokens: 900, rank: near}",
            ["select.near.use"],
            ["select.near", "budget.rank"],
        ),
        (
            "budget: {tokens: 900, rank: random}\n"
            "compare: {arms: {random: {}, b: {budget: {rnak: random}}}}",
            ["compare.arms.b.budget.rnak"],
            [],
        ),
    ],
)
def test_no_error_is_an_echo_of_a_key_that_was_left_out(
    pool: Path, recipe: str, errors: list[str], without: list[str]
) -> None:
    status, found = run_check(pool, f"corpus: [{{path: pool.jsonl}}]\n{recipe}\n")
    assert status == 2
    assert [one["key"] for one in found["findings"] if one["level"] == "error"] == errors
    assert (found["without"], found["sample"]["records"]) == (without, 200)


def test_a_recipe_without_a_file_to_look_at_has_its_errors_alone(pool: Path) -> None:
    recipe = "corpus: [{pth: pool.jsonl}]\nbudget: {tokens: -3, rank: random}\n"
    (pool / "recipe.yaml").write_text(recipe)
    done = CliRunner().invoke(main, ["check", str(pool / "recipe.yaml")])
    assert done.exit_code == 2
    assert "corpus.0.pth" in done.stderr and "budget.tokens" in done.stderr


def test_a_document_that_fills_much_of_the_budget_is_named(pool: Path) -> None:
    rows = [*documents(200), {"text": "long " * 500, "id": "z"}]
    write_jsonl(pool / "pool.jsonl", rows)
    (pool / "notes").mkdir()
    (pool / "notes" / "book.txt").write_text("word " * 100)
    both = [{"path": "pool.jsonl"}, {"path": "notes"}]
    one = checked(pool, corpus=both, budget={"tokens": 5_000, "rank": "random"})
    assert kinds(one) == {("warning", "large_document", "budget.tokens")}
    assert "pool.jsonl:201" in one.findings[0].text and not one.errors
    assert kinds(checked(pool, corpus=both, budget={"tokens": "100%", "rank": "random"})) == set()
    (pool / "notes" / "book.txt").write_text("word " * 1000)
    one = checked(pool, corpus=both, budget={"tokens": 5_000, "rank": "random"})
    assert "notes/book.txt," in one.findings[0].text, "the file is the document"


def test_the_time_of_compiling_is_told_where_no_cut_was_made(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"corpus": [{"path": "pool.jsonl"}], "budget": {"tokens": 2_000, "rank": "random"}}
    (pool / "recipe.yaml").write_text(json.dumps(recipe))
    for ready, seconds in ((False, 20), (True, 0)):
        monkeypatch.setattr("penstock.jobs.checking.estimates.is_ready", lambda ready=ready: ready)
        made = CliRunner().invoke(main, ["check", str(pool / "recipe.yaml"), "--json"])
        summary = json.loads(made.stdout.splitlines()[-1])
        assert summary["estimate"]["compiling_seconds"] == seconds
        assert ("compiles loops" in made.stderr) == (not ready)


def test_a_budget_above_the_pool(pool: Path) -> None:
    above = {"tokens": 3_000_000, "rank": "random"}
    assert ("error", "budget_above_pool", "budget.tokens") in kinds(checked(pool, budget=above))
    short = checked(pool, budget={**above, "allow_short": True})
    assert ("warning", "budget_above_pool", "budget.tokens") in kinds(short)
    assert not short.errors


def test_a_share_above_its_source_is_a_warning(pool: Path) -> None:
    whole = checked(pool).estimate
    assert whole is not None and whole.tokens is not None
    tokens = whole.tokens // 2
    large = {"tokens": tokens, "rank": "random", "shares": {"code": 0.9}}
    key = ("warning", "share_above_source", "budget.shares.code")
    assert key in kinds(checked(pool, budget=large))
    assert key not in kinds(checked(pool, budget={**large, "shares": {"code": 0.01}}))
    assert key not in kinds(checked(pool, budget={**large, "allow_short": True}))


def test_what_rules_keep_is_not_estimated_where_they_cannot_be_built(pool: Path) -> None:
    one = checked(pool, clean={"rules": ["gophr"]}, budget={"tokens": "30%", "rank": "random"})
    assert any("gophr" in found.text for found in one.errors)
    assert one.estimate is not None and one.estimate.documents == 200
    assert (one.estimate.tokens, one.estimate.budget, one.estimate.kept_share) == (None,) * 3


@pytest.mark.parametrize(("count", "keys"), [(90, ["select.good.target"]), (91, [])])
def test_examples_that_are_too_few_for_a_selector(pool: Path, count: int, keys: list[str]) -> None:
    rows = [{"question": f"What is {n}?", "answer": f"the number {n}"} for n in range(count)]
    write_jsonl(pool / "target.jsonl", rows)
    one = checked(
        pool,
        select={"good": {"use": "dclm", "target": ["target.jsonl"]}},
        budget={"tokens": 2_000, "rank": "good"},
    )
    assert [found.key for found in one.errors] == keys
    assert all("at least 91" in found.text and "90" in found.text for found in one.errors)


def test_an_evaluation_file_that_is_the_target(pool: Path) -> None:
    write_jsonl(pool / "target.jsonl", TARGET)
    one = checked(
        pool,
        select={"betr": {"use": "betr", "target": ["target.jsonl"]}},
        budget={"tokens": 2_000, "rank": "betr"},
        evaluate=["target.jsonl"],
    )
    (found,) = one.errors
    assert found.key == "select.betr.target"


def test_all_faults_are_found_at_once(pool: Path) -> None:
    one = checked(
        pool,
        corpus=[{"path": "pool.jsonl", "source": "sorce"}],
        evaluate=["gone.jsonl"],
        tokenizer="gone.json",
        select={"x": {"use": "betrr"}},
        budget={"tokens": 2_000, "rank": "x"},
    )
    keys = {found.key for found in one.errors}
    assert {"corpus.0.source", "evaluate", "tokenizer", "select.x.use"} <= keys


def test_files_passed_over_are_named_with_their_reason(pool: Path) -> None:
    (pool / "data").mkdir()
    write_jsonl(pool / "data" / "a.jsonl", documents(20))
    (pool / "data" / "b.pdf").write_bytes(b"%PDF")
    (pool / "data" / ".hidden.jsonl").write_text("{}\n")
    one = checked(pool, corpus=[{"path": "data"}], budget={"tokens": 512, "rank": "random"})
    assert one.found is not None
    assert one.found.left_out == {"hidden": 1, "other_kinds": {".pdf": 1}}
    assert one.summary()["files"]["passed_over"] == one.found.left_out


def test_the_sample_is_bounded_and_the_whole_is_estimated(tmp_path: Path) -> None:
    rows = documents(40_000)
    write_jsonl(tmp_path / "pool.jsonl", rows)
    one = checked(tmp_path)
    assert one.sample is not None and not one.sample.whole
    assert sum(file.records for file in one.sample.files) <= MOST_RECORDS + 4_096
    assert one.estimate is not None and not one.estimate.exact
    assert one.estimate.documents == pytest.approx(40_000, rel=0.05)
    size = sum(len(row["text"].encode()) for row in rows)
    assert one.estimate.text_bytes == pytest.approx(size, rel=0.05)


def test_many_files_are_sampled_evenly(tmp_path: Path) -> None:
    for number in range(200):
        write_jsonl(
            tmp_path / f"part-{number:03d}.jsonl",
            [{"text": f"text {number}", "source": f"s{number // 100}"}],
        )
    one = checked(tmp_path, corpus=[{"path": "*.jsonl"}], budget={"tokens": 64, "rank": "random"})
    assert one.sample is not None
    assert len(one.sample.files) == MOST_FILES
    assert set(one.sources()) == {"s0", "s1"}
    assert one.estimate is not None
    assert one.estimate.documents == pytest.approx(200, rel=0.1)


def test_files_of_one_kind_do_not_stand_for_those_of_another(tmp_path: Path) -> None:
    """In a folder of mixed files, records of small lines were multiplied by bytes of pages."""
    for number in range(3):
        write_jsonl(tmp_path / f"{number}.jsonl", documents(300, seed=number))
    for number in range(200):
        rows = documents(20, seed=number)
        (tmp_path / f"{number:03}.txt").write_text("\n".join(row["text"] for row in rows) * 9)
    for number in range(5):
        (tmp_path / f"{number}.md").write_text("# Water\n" + "It flows to the wheel. " * 9)
    paths = [tmp_path / f"{number:03}.txt" for number in range(200)]
    texts = sum(path.stat().st_size for path in paths)
    lines = sum(len(row["text"]) for number in range(3) for row in documents(300, seed=number))
    one = checked(tmp_path, corpus=[{"path": "*"}], budget={"tokens": "20%", "rank": "random"})
    assert one.sample is not None and not one.sample.whole
    own = one.estimate
    assert own is not None and own.documents == 900 + 200 + 5
    assert own.text_bytes == pytest.approx(texts + lines, rel=0.02)
    assert own.kept_share == 1.0
    # The share that is kept goes by the text of each kind, not by that of the sample.
    cleaned = checked(tmp_path, corpus=[{"path": "*"}], clean={"where": f"bytes < {2_000}"})
    assert cleaned.judged is not None
    assert cleaned.judged.kept_share == pytest.approx(lines / (texts + lines), rel=0.1)


def test_rows_of_several_lines_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of a quoted field was taken for a row: 12 times the documents there are."""
    monkeypatch.setattr(sampling, "MOST_RECORDS", 200)
    with open(tmp_path / "pool.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "note"])
        for number in range(6_000):
            rows.writerow(["\n".join([f"Water {number} turns a wheel."] * 12), "a\nb\nc"])
    one = checked(tmp_path, corpus=[{"path": "pool.csv"}])
    assert one.sample is not None and not one.sample.whole
    assert one.estimate is not None and one.estimate.documents == pytest.approx(6_000, rel=0.03)


def test_a_table_is_sampled_by_row_groups(tmp_path: Path) -> None:
    rows = documents(4_000)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool.parquet", row_group_size=400)
    one = checked(tmp_path, corpus=[{"path": "pool.parquet"}])
    assert one.sample is not None and one.estimate is not None
    (file,) = one.sample.files
    assert file.records == 400
    assert one.estimate.documents == pytest.approx(4_000, rel=0.05)


def test_an_unreadable_file_and_bad_records(pool: Path) -> None:
    with (pool / "pool.jsonl").open("a") as lines:
        lines.write("no json\n")
    assert kinds(checked(pool)) == {("warning", "bad_records", "corpus.0")}
    (pool / "pool.parquet").write_bytes(b"PAR1 is no table PAR1")
    one = checked(pool, corpus=[{"path": "pool.parquet"}])
    assert ("error", "unreadable", "corpus.0.path") in kinds(one)


def test_the_command_prints_one_object_and_exits_with_2(pool: Path) -> None:
    (pool / "r.yaml").write_text(
        "corpus: [{path: pool.jsonl}]\nbudget: {tokens: 6_000, rank: random}\n"
        "tokenizer: {train: {vocab_size: 384}}\ntrain: {batch_tokens: 512}\n"
        "shards: {sequence_length: 32}\n"
    )
    done = CliRunner().invoke(main, ["check", str(pool / "r.yaml"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {
        "findings", "fields", "sources", "files", "sample", "dropped_by", "values", "targets",
        "evaluation_files", "estimate", "without",
    }  # fmt: skip
    wrong = CliRunner().invoke(
        main, ["check", str(pool / "r.yaml"), "--set", "corpus.0.source=sorce"]
    )
    assert wrong.exit_code == 2
    assert "corpus.0.source" in wrong.output


def test_texts_of_strangers_are_escaped(tmp_path: Path) -> None:
    hostile = "\x1b[2J<script>"
    write_jsonl(
        tmp_path / "pool.jsonl",
        [{"text": f"{hostile} {n}", "source": hostile, hostile: n} for n in range(30)],
    )
    (tmp_path / "r.yaml").write_text(
        "corpus: [{path: pool.jsonl}]\nbudget: {tokens: 64, rank: random}\n"
        "shards: {sequence_length: 32}\ntokenizer: {train: {vocab_size: 384}}\n"
    )
    done = CliRunner().invoke(main, ["check", str(tmp_path / "r.yaml")])
    assert "\x1b[2J" not in done.output
    assert "\\x1b[2J<script>" in done.output


@pytest.mark.slow
def test_no_heavy_library_is_imported(pool: Path) -> None:
    (pool / "r.yaml").write_text(
        "corpus: [{path: pool.jsonl}]\nbudget: {tokens: 6_000, rank: random}\n"
    )
    program = (
        "import sys\nfrom penstock.jobs.cli import main\n"
        "try:\n    main(['check', 'r.yaml'])\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('torch', 'ray', 'deepspeed', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=pool, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_more_sources_than_curate_takes_are_an_error(tmp_path: Path) -> None:
    rows = [{**own, "url": f"http://x/{n}"} for n, own in enumerate(documents(1_100))]
    write_jsonl(tmp_path / "pool.jsonl", rows)
    one = checked(tmp_path, corpus=[{"path": "pool.jsonl", "source": "url"}])
    assert ("error", "refused", "corpus.source") in kinds(one)
    assert checked(tmp_path).errors == []


def test_sources_that_most_records_have_alone_are_a_warning(tmp_path: Path) -> None:
    for file in range(MOST_FILES + 10):
        rows = [{**own, "url": f"{file}/{n}"} for n, own in enumerate(documents(3, seed=file))]
        write_jsonl(tmp_path / f"{file}.jsonl", rows)
    one = checked(tmp_path, corpus=[{"path": "*.jsonl", "source": "url"}])
    assert ("warning", "many_sources", "corpus.0.source") in kinds(one)
    assert not {"many_sources"} & {
        own.kind for own in checked(tmp_path, corpus=[{"path": "*.jsonl"}]).findings
    }


def test_files_in_utf8_among_those_of_another_encoding_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_bytes("caf\xe9 ".encode("cp1252") * 50)
    (tmp_path / "d" / "b.txt").write_bytes(b"plain " * 50)
    item = {"path": "d", "encoding": "windows-1252"}
    assert not {"encoding"} & {own.kind for own in checked(tmp_path, corpus=[item]).findings}
    for content in ("caf\xe9 ".encode() * 50, b"\xef\xbb\xbfplain", "plain".encode("utf-16")):
        (tmp_path / "d" / "c.txt").write_bytes(content)
        one = checked(tmp_path, corpus=[item])
        assert ("warning", "encoding", "corpus.0.encoding") in kinds(one)


def test_the_advice_on_an_encoding_names_the_item(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", documents(20))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_bytes("caf\xe9 ".encode("cp1252") * 50)
    (tmp_path / "d" / "b.txt").write_bytes(b"plain " * 50)
    one = checked(tmp_path, corpus=[{"path": "pool.jsonl"}, {"path": "d"}])
    (found,) = [own for own in one.findings if own.kind == "bad_records"]
    assert "corpus.1.encoding" in found.text


def test_a_damaged_file_is_an_error_with_the_way_to_leave_it_out(pool: Path) -> None:
    (pool / "d").mkdir()
    for own in ("a", "b"):
        write_jsonl(pool / "d" / f"{own}.jsonl", documents(60))
    packed = gzip.compress((pool / "d" / "b.jsonl").read_bytes())
    (pool / "d" / "b.jsonl").unlink()
    (pool / "d" / "b.jsonl.gz").write_bytes(packed[:-30])
    one = checked(pool, corpus=[{"path": "d"}])
    (found,) = [own for own in one.errors if own.kind == "unreadable"]
    assert "b.jsonl.gz" in found.text and "put _ before its name" in found.text
    (pool / "d" / "b.jsonl.gz").rename(pool / "d" / "_b.jsonl.gz")
    again = checked(pool, corpus=[{"path": "d"}])
    assert again.errors == [] and again.found is not None
    assert again.found.left_out == {"hidden": 1}


def test_each_table_says_of_how_many_documents_it_is(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They differ: all that were read give the sources, and fewer are judged by the rules."""
    monkeypatch.setattr("penstock.jobs.checking.conditions.MOST_DOCUMENTS", 50)
    recipe = "work: out\ncorpus: [{path: pool.jsonl}]\nclean: {rules: [gopher]}\n"
    (pool / "recipe.yaml").write_text(recipe + "budget: {tokens: 500}\n")
    result = CliRunner().invoke(main, ["check", str(pool / "recipe.yaml"), "--json"])
    words = " ".join(result.stderr.split())
    read, judged = re.search(r"of ([\d,]+) documents", words), re.search(r"of (\d+) judged", words)
    assert read and judged, result.stderr
    assert int(judged[1]) <= 60 < int(read[1].replace(",", ""))
