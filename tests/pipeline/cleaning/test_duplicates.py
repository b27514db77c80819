"""Near-duplicates of a pool: who stays, whatever the units, workers and kills."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Workspace
from penstock.errors import RecipeError
from penstock.jobs.plan import Plan
from penstock.pipeline import units
from penstock.pipeline.cleaning import near_duplicates, text_columns, verdicts, verified_duplicates
from penstock.pipeline.cleaning.explaining import Explanations
from penstock.pipeline.cleaning.fates import repeated_by
from penstock.pipeline.cleaning.minhash.signatures import Signatures, band_hashes
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner, RayRunner
from penstock.recipe import Recipe
from penstock.text_hashes import normalise
from tests.pipeline.cleaning.reference import grams_of, jaccard
from tests.pipeline.cleaning.test_components import stars_of
from tests.pools import pool_of, recipe_of, write_jsonl

WORDS = [f"word{number}" for number in range(500)]
WHERE = "bytes > 200"


def alike(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of families: copies, also in another case, near copies, parts; others of their own."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        kind = chance.random()
        text = " ".join(chance.choices(WORDS, k=chance.randrange(10, 90)))
        if kind < 0.1:
            text = chance.choice(["", "  ", "\n\t"])
        elif kind < 0.7 and rows:
            words = chance.choice(rows)["text"].split(" ")
            for _ in range(chance.randrange(3)):
                words[chance.randrange(len(words))] = chance.choice(WORDS)
            text = " ".join(words[chance.choice([0, 0, 0, 1]) :])
            text = chance.choice([text, text.upper(), text.replace(" ", "  ")])
        source = chance.choice(["web", "wiki"])
        rows.append({"id": f"d{seed}-{number}", "text": text, "source": source})
    return rows


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number in range(3):
        write_jsonl(tmp_path / "pool" / f"{number}.jsonl", alike(150, number))
    return tmp_path


def recipe(directory: Path, where: str | None = WHERE, **minhash: Any) -> Recipe:
    clean = {"where": where, "dedup": {"minhash": minhash}}
    return recipe_of(directory, 1_000, clean=clean, budget={"allow_short": True})


def fates_of(pool: Pool) -> tuple[list[str], list[str | None], list[int | None]]:
    """Return text, reason and the document that stays of every document, in corpus order."""
    names = (None, *pool.verdicts.facts["reasons"])
    texts: list[str] = []
    reasons: list[str | None] = []
    starts: dict[str, int] = {}
    for unit in pool.units:
        assert unit.kept is not None
        starts[unit.name] = len(texts)
        texts += pq.read_table(unit.path())["text"].to_pylist()
        reasons += [names[code] for code in unit.kept.reasons(unit.of).tolist()]
    stays: list[int | None] = []
    for unit in pool.units:
        for row in range(unit.of):
            found = repeated_by(pool, unit, row)
            stays.append(found and starts[found[0].name] + found[1])
    return texts, reasons, stays


def components_of(texts: list[str], column: Signatures, threshold: float = 0) -> dict[int, int]:
    """Search for the components of texts that agree in a band, and are similar if asked."""
    bands = band_hashes(column.compute(pa.array(texts, pa.large_string())).column("bands"))
    grams = [grams_of(text, column.ngram) for text in texts]
    buckets = defaultdict(list)
    for row, own in enumerate(bands.tolist()):
        for band, key in enumerate(own):
            if key:
                buckets[band, key].append(row)
    pairs = {
        (one, other) for own in buckets.values() for one in own for other in own if one < other
    }
    found = dict(stars_of(p for p in pairs if jaccard(grams[p[0]], grams[p[1]]) >= threshold))
    return found | {first: first for first in found.values()}


def check(pool: Pool, components: Mapping[int, int], keep: str) -> Counter[str | None]:
    """Compare every fate with a choice in plain Python."""
    texts, reasons, stays = fates_of(pool)
    members = defaultdict(list)
    for row, text in enumerate(texts):
        size = len(text.encode())
        excluded = "empty" if not text.split() else None if size > 200 else "where"
        if excluded or row not in components:
            assert (reasons[row], stays[row]) == (excluded, None)
        else:
            members[components[row]].append(row)
    for own in members.values():
        most = max(len(texts[row].encode()) for row in own)
        longest = [row for row in own if len(texts[row].encode()) == most]
        [survivor] = [row for row in own if reasons[row] is None]
        assert survivor in (longest if keep == "longest" else own[:1])
        for row in own:
            if row != survivor:
                same = normalise(texts[row]) == normalise(texts[survivor])
                assert reasons[row] == ("duplicate" if same else "near duplicate")
                assert stays[row] == survivor
    return Counter(reasons)


@pytest.mark.parametrize(
    ("unit_bytes", "keep", "verify"),
    [
        (30_000, "longest", False),
        (30_000, "first", True),
        (units.UNIT_BYTES, "longest", True),
        (units.UNIT_BYTES, "first", False),
    ],
)
def test_one_of_each_component_stays(
    files: Path, monkeypatch: pytest.MonkeyPatch, unit_bytes: int, keep: str, verify: bool
) -> None:
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 100)
    settled = recipe(files, threshold=0.6, ngram=3, keep=keep, verify=verify)
    pool = pool_of(settled, unit_bytes=unit_bytes)
    column = Signatures(threshold=0.6, ngram=3, false_negatives=0.95 if verify else 0.5)
    texts, _, _ = fates_of(pool)
    components = components_of(texts, column, 0.6 if verify else 0)
    assert verify == (components != components_of(texts, column))
    counts = check(pool, components, keep)
    assert min(counts.values()) > 10
    assert len(counts) == 5
    del counts[None]
    assert pool.documents["dropped_by"] == dict(counts)


def test_bridges_are_counted(tmp_path: Path) -> None:
    """A page that the condition excludes has both halves; the halves are not alike."""
    one, other = (" ".join(WORDS[at : at + 60]) for at in (0, 200))
    rows = [{"text": text} for text in (one, f"{one} {other}", other, other, "alone")]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    settled = recipe(tmp_path, where="bytes < 700", threshold=0.2, ngram=2)
    pool = pool_of(settled)
    assert pool.verdicts.facts["bridged"] == {"components": 1, "documents": 1}
    _, reasons, _ = fates_of(pool)
    assert reasons.count(None) == 2


def test_a_changed_condition_makes_no_component_again(files: Path) -> None:
    first = pool_of(recipe(files, threshold=0.6))
    second = pool_of(recipe(files, "bytes > 400", threshold=0.6))
    assert first.verdicts.fingerprint != second.verdicts.fingerprint
    longer = pool_of(recipe(files, threshold=0.6, keep="first"))
    assert longer.fingerprint != first.fingerprint
    for stage, count in (("signatures", 1), ("components", 1), ("verdicts", 3)):
        assert len(list((files / "work" / stage).iterdir())) == count
    pool_of(recipe(files, threshold=0.6, verify=True))
    pool_of(recipe(files, threshold=0.9))
    for stage, count in (("signatures", 3), ("components", 4), ("verdicts", 5)):
        assert len(list((files / "work" / stage).iterdir())) == count
    assert not list((files / "work").rglob("scratch"))


def digests(work: Path) -> list[tuple[str, str]]:
    return sorted((made.manifest["stage"], made.digest) for made in Workspace(work).artefacts())


def test_workers_ray_and_kills_change_no_byte(
    files: Path,
    ray_session: None,
    two_workers: LocalRunner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settled = recipe(files, threshold=0.6, ngram=3, verify=True)
    size = 60_000
    pool_of(settled, Workspace(files / "one"), unit_bytes=size)
    expected = digests(files / "one")
    for name, runner in (("two", two_workers), ("ray", RayRunner())):
        pool_of(settled, Workspace(files / name), runner, size)
        assert digests(files / name) == expected, name
    for module, name in (
        (text_columns, "_compute"),
        (near_duplicates, "_link_run"),
        (verified_duplicates, "_send_texts"),
        (verdicts, "_choose"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, _Interrupted(getattr(module, name)))
            with pytest.raises(KeyboardInterrupt):
                pool_of(settled, Workspace(files / name), unit_bytes=size)
        pool_of(settled, Workspace(files / name), unit_bytes=size)
        assert digests(files / name) == expected, name


class _Interrupted:
    """A function whose first call is interrupted after it has written its files."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __call__(self, item: Any, state: Any) -> Any:
        self.real(item, state)
        raise KeyboardInterrupt


@pytest.mark.parametrize("order", ["highest", "lowest"])
@pytest.mark.parametrize("column", ["meta.stars", "meta.day", "characters", "e_mail"])
def test_the_best_by_a_column_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, column: str
) -> None:
    """One without a value comes last."""
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 100)
    chance = random.Random(4)
    rows = alike(250, 4)
    for row in rows:
        row |= {"stars": chance.choice([None, "many", 2, 7.5, 30, True, "4", "1e2"])}
        row |= {"day": chance.choice([None, "2020-13-01", "2019-05-06", "2020-01-31 10:00"])}
        if row["text"].strip():
            row["text"] += chance.choice(["", " a@example.org"])
    write_jsonl(tmp_path / "pool" / "0.jsonl", rows)
    pool = pool_of(recipe(tmp_path, threshold=0.6, keep={order: column}), unit_bytes=30_000)
    texts, reasons, stays = fates_of(pool)
    read = [row for unit in pool.units for row in pq.read_table(unit.path()).to_pylist()]

    def rank(at: int) -> float:
        meta = json.loads(read[at]["meta"])
        days = {"2019-05-06": 1, "2020-01-31 10:00": 2}
        stars = meta.get("stars")
        number = {"4": 4, "1e2": 100}.get(stars, stars if type(stars) in (int, float) else None)
        found = {
            "meta.stars": number,
            "meta.day": days.get(meta.get("day", "")),
            "characters": len(texts[at]),
            "e_mail": texts[at].count("@"),
        }[column]
        return -float("inf") if found is None else found if order == "highest" else -found

    chosen = worse = 0
    for at, of in enumerate(stays):
        if of is not None:
            assert reasons[of] is None
            assert rank(of) >= rank(at)
            chosen += 1
            worse += rank(of) > rank(at)
    assert chosen > 50 and worse > 10


@pytest.mark.parametrize("field", ["day", "nosuch", "name"])
def test_a_column_without_values_is_in_the_log(tmp_path: Path, field: str) -> None:
    text = " ".join(WORDS[:60])
    days = ["2019-05-06", "2020-01-31 10:00", None]
    rows = [
        {"id": f"d{k}", "text": f"{text} {k}", "day": day, "name": "x"}
        for k, day in enumerate(days)
    ]
    write_jsonl(tmp_path / "pool" / "0.jsonl", rows)
    settled = recipe(tmp_path, threshold=0.6, keep={"highest": f"meta.{field}"})
    lines: list[str] = []
    settings = CleanSettings.of(settled)
    with closing(LocalRunner(1)) as runner:
        workspace = Workspace(tmp_path / "work")
        corpus = make_corpus(CorpusSettings.of(settled), workspace, runner)
        pool = make_pool(settings, corpus, workspace, runner, lines.append)
    message = f"no document has a number or date in meta.{field}"
    assert [message in line for line in lines].count(True) == (field != "day")
    [unit] = pool.units
    found = [Explanations(settings, pool).repeated(unit, row) for row in range(3)]
    values = [(own.best, own.own) for own in found if own]
    if field == "day":
        assert values == [("2020-01-31", "2019-05-06"), ("2020-01-31", None)]
    else:
        assert values == [(None, None)] * 2


def test_a_wrong_column_has_one_short_message(files: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        Plan.of(recipe(files, keep={"highest": "zzz"}))
    assert str(caught.value) == (
        "clean.dedup.minhash.keep.highest: expected a column of numbers, got 'zzz'; "
        "`penstock rules` lists the columns; a field of the record is meta.NAME"
    )


def test_why_names_the_column(tmp_path: Path) -> None:
    text = " ".join(WORDS[:60])
    stars = {"d0": 3, "d1": 8, "d2": None}
    rows = [{"id": name, "text": f"{text} {name}", "stars": own} for name, own in stars.items()]
    write_jsonl(tmp_path / "pool" / "0.jsonl", rows)
    settled = recipe(tmp_path, threshold=0.6, keep={"highest": "meta.stars"})
    pool = pool_of(settled)
    explanations = Explanations(CleanSettings.of(settled), pool)
    [unit] = pool.units
    found = [explanations.repeated(unit, row) for row in range(3)]
    assert found[1] is None
    assert [(own.id, own.keep, own.best, own.own) for own in found if own] == [
        ("d1", "highest meta.stars", 8.0, 3.0),
        ("d1", "highest meta.stars", 8.0, None),
    ]
    grams = [grams_of(row["text"], 5) for row in rows]
    assert [own.similarity for own in found if own] == [
        jaccard(grams[0], grams[1]),
        jaccard(grams[2], grams[1]),
    ]


def test_the_order_of_files_is_no_matter(files: Path) -> None:
    rng = np.random.default_rng(0)
    settled = recipe(files, threshold=0.6)
    tree = settled.model_dump(mode="json", exclude={"compare"})
    found = set()
    for attempt in range(3):
        names = [f"pool/{number}.jsonl" for number in rng.permutation(3)]
        tree["corpus"] = [{"path": name} for name in names]
        own = Recipe.model_validate({**tree, "directory": files})
        found.add(pool_of(own, Workspace(files / f"work{attempt}")).fingerprint)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("minhash", "key"),
    [
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": 0}, "threshold"),
        ({"ngram": 0}, "ngram"),
        ({"keep": "best"}, "keep"),
        ({"keep": {"highest": "bytes", "lowest": "bytes"}}, "keep"),
        ({"keep": {}}, "keep"),
        ({"keep": {"highest": "corse"}}, "keep.highest"),
        ({"keep": {"lowest": "language"}}, "keep.lowest"),
        ({"keep": {"highest": "cores + 1"}}, "keep.highest"),
        ({"treshold": 0.8}, "treshold"),
    ],
)
def test_wrong_parameters_are_refused(files: Path, minhash: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Plan.of(recipe(files, **minhash))
    assert caught.value.key == f"clean.dedup.minhash.{key}"
