"""Verdicts: who stays and why, what a changed threshold reads, and what two pools share."""

from __future__ import annotations

import builtins
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artefact import Workspace
from penstock.errors import InputError, RecipeError, ScoringError, SelectorError
from penstock.jobs.curate import curate
from penstock.jobs.plan import Plan
from penstock.pipeline.cleaning import text_columns, verdicts
from penstock.pipeline.cleaning.fates import failed_rules
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.pool import Pool
from penstock.pipeline.reading import inputs
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.units import BATCH, iter_documents
from penstock.recipe import Recipe
from penstock.rules import count_statistics, counting_for, rule_sets
from penstock.text_hashes import normalise
from tests.pools import pool_of, recipe_of, write_jsonl

ONE = LocalRunner(1)

_WORDS = "the gate of a river and water that we have. with light to be seen. over stone. by day."
WORDS = _WORDS.split()


def prose(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of few and many words, some blank, some equal to others but for case and spaces."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        kind = chance.random()
        text = " ".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 140))) + " again."
        if kind < 0.05:
            text = chance.choice(["", "  ", "\n\t\u2003"])
        elif kind < 0.25 and rows:
            text = chance.choice(rows)["text"]
            text = chance.choice([text, text.upper(), text.replace(" ", "  ")])
        elif kind < 0.4:
            text = text.replace(" ", "\n- ")
        source = chance.choice(["web", "wiki"])
        rows.append({"id": f"d{number % 300}", "text": text, "source": source})
    return rows


def recipe(directory: Path, **clean: Any) -> Recipe:
    return recipe_of(directory, 1_000, clean=clean, budget={"allow_short": True})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number in range(3):
        write_jsonl(tmp_path / "pool" / f"{number}.jsonl", prose(400, number))
    return tmp_path


def reasons_of(pool: Pool) -> list[str | None]:
    """The reason of every document, in the order of the corpus."""
    names = (None, *pool.verdicts.facts["reasons"])
    found: list[str | None] = []
    for unit in pool.units:
        assert unit.kept is not None
        found += [names[code] for code in unit.kept.reasons(unit.of).tolist()]
    return found


def texts_of(pool: Pool) -> list[str]:
    return [text for unit in pool.units for text in pq.read_table(unit.path())["text"].to_pylist()]


def expected_reasons(texts: list[str], names: list[str], exact: bool = True) -> list[str | None]:
    """Judge by the sets alone, then drop all but the first of the copies that are left."""
    sets = rule_sets(names)
    counts = count_statistics(pa.array(texts, pa.large_string()), counting_for(sets))
    judged = [(one, one.judge(counts)) for one in sets]
    found: list[str | None] = []
    seen = set()
    for row, text in enumerate(texts):
        own = normalise(text)
        failed = [
            f"{one.name}: {rule.name}"
            for one, verdict in judged
            for bit, rule in enumerate(one.rules)
            if int(verdict.bits[row]) >> bit & 1
        ]
        reason = "empty" if not own else failed[0] if failed else None
        if reason is None and exact:
            reason = "duplicate" if own in seen else None
            seen.add(own)
        found.append(reason)
    return found


@pytest.mark.parametrize("unit_bytes", [30_000, 1 << 26])
@pytest.mark.parametrize("rules", [[], ["gopher_quality"], ["c4", "gopher"]])
@pytest.mark.parametrize("exact", [True, False])
def test_each_document_has_its_first_reason(
    files: Path, unit_bytes: int, rules: list[str], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 100)
    monkeypatch.setattr(verdicts, "_RANGE_DOCUMENTS", 90)
    pool = pool_of(recipe(files, rules=rules, dedup={"exact": exact}), unit_bytes=unit_bytes)
    found = reasons_of(pool)
    assert found == expected_reasons(texts_of(pool), rules, exact)
    counts = Counter(reason for reason in found if reason)
    assert pool.documents == {
        "read": 1200,
        "kept": found.count(None),
        "dropped": counts.total(),
        "dropped_by": dict(sorted(counts.items())),
        "quarantined": 0,
    }
    kept = [text for text, reason in zip(texts_of(pool), found) if reason is None]
    assert [
        text
        for unit in pool.units
        for batch in iter_documents(unit, ["text"])
        for text in batch.column("text").to_pylist()
    ] == kept
    assert pool.bytes == sum(len(text.encode()) for text in kept)


def test_every_rule_that_a_document_fails_is_known(files: Path) -> None:
    pool = pool_of(recipe(files, rules=["c4", "gopher_quality"]), unit_bytes=20_000)
    sets = rule_sets(["c4", "gopher_quality"])
    several = 0
    for unit in pool.units:
        texts = pa.array(pq.read_table(unit.path())["text"].to_pylist(), pa.large_string())
        counts = count_statistics(texts, counting_for(sets))
        for row in range(0, unit.of, 7):
            names = tuple(
                f"{one.name}: {rule.name}"
                for one in sets
                for bit, rule in enumerate(one.rules)
                if int(one.judge(counts).bits[row]) >> bit & 1
            )
            assert failed_rules(pool, unit, row).rules == names
            several += len(names) > 1
    assert several > 10


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The files of artefacts that are opened from here on."""
    names: list[str] = []
    real_init, real_open, real_map = pq.ParquetFile.__init__, builtins.open, pa.memory_map

    def noted(name: Any) -> None:
        if isinstance(name, (str, bytes, Path)):
            names.append(os.fsdecode(name))

    def begun(self: Any, source: Any, *args: Any, **named: Any) -> None:
        noted(source)
        real_init(self, source, *args, **named)

    def opening(name: Any, *args: Any, **named: Any) -> Any:
        noted(name)
        return real_open(name, *args, **named)

    monkeypatch.setattr(pq.ParquetFile, "__init__", begun)
    monkeypatch.setattr(builtins, "open", opening)
    monkeypatch.setattr(pa, "memory_map", lambda name: (noted(name), real_map(name))[1])
    yield names


def test_a_changed_threshold_reads_no_text(
    files: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_SETTLED", -(10**15))
    dedup = {"minhash": {"threshold": 0.8}}
    first = pool_of(recipe(files, rules={"gopher": None}, dedup=dedup), unit_bytes=20_000)
    texts = {str(first.corpus.path / record.path) for record in first.corpus.named("unit-")}
    rows = {str(first.corpus.path / record.path) for record in first.corpus.named("rows-")}
    assert texts <= set(opened)
    opened.clear()
    changed = pool_of(
        recipe(files, rules={"gopher": {"min_words": 20}}, dedup=dedup), unit_bytes=20_000
    )
    assert rows <= set(opened) and not texts & set(opened)
    assert changed.documents["dropped_by"]["gopher: min_words"] > 0


def test_rules_that_keep_the_same_documents_share_all_that_follows(files: Path) -> None:
    one = recipe(files, rules={"gopher_quality": {"min_words": 50}})
    # No document has so many words.
    other = recipe(files, rules={"gopher_quality": {"min_words": 50, "max_words": 90_000}})
    first, second = curate(Plan.of(one), ONE), curate(Plan.of(other), ONE)
    assert first.pool.verdicts.fingerprint != second.pool.verdicts.fingerprint
    assert first.pool.fingerprint == second.pool.fingerprint
    assert first.shards.path == second.shards.path
    fewer = curate(Plan.of(recipe(files, rules={"gopher_quality": {"min_words": 80}})), ONE)
    assert fewer.pool.fingerprint != first.pool.fingerprint
    assert fewer.corpus.fingerprint == first.corpus.fingerprint


def test_labels_are_no_part_of_the_name_of_texts(files: Path) -> None:
    one = pool_of(recipe(files, rules=["gopher"]))
    tree = recipe(files, rules=["gopher"]).model_dump(mode="json", exclude={"compare"})
    tree["corpus"][0]["source"] = {"name": "other"}
    other = pool_of(Recipe.model_validate({**tree, "directory": files}))
    assert other.corpus.fingerprint != one.corpus.fingerprint
    assert other.fingerprint != one.fingerprint
    assert other.texts == one.texts
    assert set(other.by_source) == {"other"}
    assert len(list((files / "work" / "statistics").iterdir())) == 1


def test_the_name_of_a_pool_does_not_depend_on_groups(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(files, rules=["gopher"])
    one = pool_of(wanted, unit_bytes=50_000)
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 100)
    many = pool_of(wanted, Workspace(files / "other"), unit_bytes=50_000)
    assert len(many.verdicts.named("reasons-")) > len(one.verdicts.named("reasons-")) == 1
    assert (many.fingerprint, many.texts) == (one.fingerprint, one.texts)


@settings(max_examples=12, deadline=None)
@given(keep=st.lists(st.booleans(), min_size=1, max_size=9000), seed=st.integers(0, 99))
def test_batches_of_a_pool_are_full(
    tmp_path_factory: pytest.TempPathFactory, keep: list[bool], seed: int
) -> None:
    chance = np.random.default_rng(seed)
    keep = chance.permutation(np.resize(keep, chance.integers(1, 13_000))).tolist()
    if not any(keep):
        keep[0] = True
    directory = tmp_path_factory.mktemp("batches")
    rows = [{"id": str(n), "text": str(n) if kept else " "} for n, kept in enumerate(keep)]
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    pool = pool_of(recipe(directory))
    (unit,) = pool.units
    batches = list(iter_documents(unit, ["text", "id", "bytes", "hash"]))
    assert [len(batch) for batch in batches[:-1]] == [BATCH] * (len(batches) - 1)
    assert 0 < len(batches[-1]) <= BATCH
    expected = [str(n) for n, kept in enumerate(keep) if kept]
    whole = pa.Table.from_batches(batches)
    assert whole.column("text").to_pylist() == whole.column("id").to_pylist() == expected
    assert whole.column("bytes").to_pylist() == [len(name) for name in expected]
    assert unit.read_rows(["id"])["id"].to_pylist() == expected
    assert unit.numbers().tolist() == np.flatnonzero(keep).tolist()


def test_a_pool_may_keep_nothing_of_a_unit_and_not_nothing_at_all(tmp_path: Path) -> None:
    rows = [
        {"id": f"{n}", "text": " " * 20 if n < 200 else f"text {n} of words"} for n in range(300)
    ]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    plan = Plan.of(recipe(tmp_path))
    plan = replace(plan, corpus=replace(plan.corpus, unit_bytes=400))
    made = curate(plan, ONE)
    assert made.pool.kept == 100
    empty = [unit for unit in made.pool.units if unit.documents == 0]
    assert len(empty) > 3 and made.cut.facts["documents"] > 0
    write_jsonl(tmp_path / "pool" / "a.jsonl", [{"text": " "}])
    with pytest.raises(InputError) as caught:
        pool_of(recipe(tmp_path))
    assert caught.value.key == "corpus"


def test_workers_and_kills_change_no_byte(
    files: Path, two_workers: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 300)
    settled = recipe(files, rules=["gopher", "c4"])
    alone = pool_of(settled, Workspace(files / "one"), unit_bytes=50_000)
    two = pool_of(settled, Workspace(files / "two"), two_workers, 50_000)
    assert two.verdicts.digest == alone.verdicts.digest
    digests = _digests(files / "one")
    assert digests == _digests(files / "two")
    for module, name in (
        (text_columns, "_compute"), (verdicts, "judge"), (verdicts, "_find_repeats"),
        (verdicts, "_settle"),
    ):  # fmt: skip
        _interrupt(module, name, settled, files / name, monkeypatch)
        resumed = pool_of(settled, Workspace(files / name), unit_bytes=50_000)
        assert resumed.verdicts.digest == alone.verdicts.digest
        assert _digests(files / name) == digests


def _digests(work: Path) -> list[tuple[str, str]]:
    return sorted((made.manifest["stage"], made.digest) for made in Workspace(work).artefacts())


def _interrupt(
    module: Any, name: str, settled: Recipe, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run until the second call of a function, which is interrupted."""
    real, calls = getattr(module, name), []

    def once(item: Any, state: Any) -> Any:
        calls.append(item)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(item, state)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, once)
        if name == "_find_repeats":
            patch.setattr(verdicts, "_ranges_for", lambda documents: 1)
            calls.append(None)
        with pytest.raises(KeyboardInterrupt):
            pool_of(settled, Workspace(work), unit_bytes=50_000)


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        (["gopherr"], "clean.rules.gopherr"),
        ({"gopher": {"min_word": 3}}, "clean.rules.gopher.min_word"),
        ({"c4": {"min_sentences": "two"}}, "clean.rules.c4.min_sentences"),
    ],
)
def test_a_wrong_rule_is_refused_before_any_work(files: Path, rules: Any, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Plan.of(recipe(files, rules=rules))
    assert caught.value.key == key
    assert not (files / "work").exists()


def test_conditions_over_labels_meta_and_statistics(tmp_path: Path) -> None:
    rows = [
        {"text": "one two three", "source": "web", "stars": 12},
        {"text": "one two three four five", "source": "wiki", "stars": 3},
        {"text": "six seven", "source": "wiki", "stars": 40},
        {"text": "eight nine ten", "source": "wiki"},
        {"text": "  ", "source": "wiki", "stars": 90},
    ]
    write_jsonl(
        tmp_path / "pool" / "a.jsonl", [{"id": str(n), **row} for n, row in enumerate(rows)]
    )
    for where, expected in {
        "words >= 3": [None, None, "where", None, "empty"],
        "meta.stars > 10": [None, "where", None, "where: unknown", "empty"],
        "source == 'wiki' and (meta.stars is None or meta.stars < 10)": [
            "where", None, "where", None, "empty",
        ],
        "duplicate_5_gram_characters == 0 and bytes < 20": [None, "where", None, None, "empty"],
    }.items():  # fmt: skip
        pool = pool_of(recipe(tmp_path, where=where))
        assert reasons_of(pool) == expected, where
        assert not list((tmp_path / "work").rglob("scratch"))
        counts = Counter(reason for reason in expected if reason)
        assert pool.documents["dropped_by"] == dict(sorted(counts.items()))


@pytest.mark.parametrize(
    ("where", "fix"), [("wordss > 3", "words"), ("words > 'a'", ""), ("words >", "")]
)
def test_a_wrong_condition_is_refused_before_any_work(files: Path, where: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Plan.of(recipe(files, where=where))
    assert caught.value.key == "clean.where"
    assert fix in str(caught.value)
    assert not (files / "work").exists()


def test_conditions_over_the_language(tmp_path: Path) -> None:
    rows = [
        "The river runs from the mountains to the sea, and the mill stands by it.",
        "Der Fluss fließt von den Bergen zum Meer, und die Mühle steht daneben.",
        "La rivière coule des montagnes vers la mer, et le moulin est à côté.",
        "12345 67890",
    ]
    write_jsonl(tmp_path / "pool" / "a.jsonl", [{"text": text} for text in rows])
    where = "language in ('en', 'de') and language_probability > 0.1"
    pool = pool_of(recipe(tmp_path, where=where))
    assert reasons_of(pool) == [None, None, "where", "where: unknown"]
    assert len(list((tmp_path / "work" / "languages").iterdir())) == 1
    assert not (tmp_path / "work" / "statistics").exists()
    pool_of(recipe(tmp_path, where=where, language={"first_bytes": 20}))
    assert len(list((tmp_path / "work" / "languages").iterdir())) == 2


def test_conditions_over_personal_data(tmp_path: Path) -> None:
    rows = [
        "Write to someone@example.org or call 212-555-0123.",
        "Nothing personal is in this text.",
        "The key is AKIAIOSFODNN7EXAMPLE and the server 93.184.216.34.",
    ]
    write_jsonl(tmp_path / "pool" / "a.jsonl", [{"text": text} for text in rows])
    pool = pool_of(recipe(tmp_path, where="e_mail + phone < 2 and key_like == 0"))
    assert reasons_of(pool) == ["where", None, "where"]
    assert len(list((tmp_path / "work" / "personal_data").iterdir())) == 1
    pool = pool_of(recipe(tmp_path, where="ip == 0 and words > 5"))
    assert reasons_of(pool) == [None, None, "where"]
    assert len(list((tmp_path / "work" / "personal_data").iterdir())) == 1


@pytest.mark.parametrize("where", ["True", "1 < 2"])
def test_a_condition_without_a_column_is_refused(files: Path, where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Plan.of(recipe(files, where=where))
    assert (caught.value.key, caught.value.got) == ("clean.where", repr(where))


def test_no_scratch_is_left(files: Path) -> None:
    pool_of(recipe(files, rules=["gopher"]), unit_bytes=50_000)
    assert not list((files / "work").rglob("scratch"))


FUNCTION = """
def shouts(texts, most=0.5):
    calls.append(len(texts))
    return [sum(c.isupper() for c in text) > most * max(1, len(text)) for text in texts]

calls = []
"""


def test_a_function_is_a_rule(files: Path) -> None:
    (files / "shouting.py").write_text(FUNCTION)
    wanted = {
        "loud": {"use": "shouting:shouts", "most": 0.4},
        "gopher_quality": {"min_words": 9, "min_stop_words": None},
    }
    pool = pool_of(recipe(files, rules=wanted, where="bytes < 600"))
    texts = texts_of(pool)
    loud = [sum(c.isupper() for c in text) > 0.4 * max(1, len(text)) for text in texts]
    assert pool.verdicts.facts["reasons"][-4:] == ["loud", "where", "where: unknown", "duplicate"]
    found = reasons_of(pool)
    assert 0 < pool.documents["dropped_by"]["loud"] < sum(loud)
    for text, shouts, reason in zip(texts, loud, found, strict=True):
        if shouts and normalise(text):
            assert reason == "loud" or str(reason).startswith("gopher_quality: ")
    (unit,) = pool.units
    row = loud.index(True)
    assert "loud" in failed_rules(pool, unit, row).rules
    columns = list((files / "work" / "rule_loud").iterdir())
    stages = [entry.stage for entry in Workspace(files / "work").entries()]
    assert "rule_loud" in stages
    with pytest.raises(RecipeError):
        CleanSettings.of(recipe(files, rules={"../loud": {"use": "shouting:shouts"}}))
    pool_of(recipe(files, rules=wanted, where="bytes < 500"))
    assert list((files / "work" / "rule_loud").iterdir()) == columns, "it was not called again"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("return [True]", ScoringError),
        ("return [1.0 for _ in texts]", ScoringError),
        ("raise KeyError('x')", ScoringError),
    ],
)
def test_a_function_that_returns_no_truth_values_is_named(
    files: Path, body: str, error: type[Exception]
) -> None:
    name = f"own_rule_{abs(hash(body))}"
    (files / f"{name}.py").write_text(f"def drop(texts):\n    {body}\n")
    with pytest.raises(error) as caught:
        pool_of(recipe(files, rules={"mine": {"use": f"{name}:drop"}}))
    assert caught.value.key == "clean.rules.mine"  # type: ignore[attr-defined]
    with pytest.raises(SelectorError):
        CleanSettings.of(recipe(files, rules={"mine": {"use": f"{name}:gone"}}))
