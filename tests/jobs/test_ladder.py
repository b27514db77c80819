"""PreSelect's ladder: trained outside the sample, put in order by the targets, found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import BudgetError, SelectorError, UnmadeError
from penstock.jobs.build import build_columns
from penstock.jobs.curate import Curated, curate
from penstock.jobs.held_out import OutsideSample
from penstock.jobs.selector_training import climb
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.samples import FIT, sample_documents
from penstock.pipeline.scoring.models import Column
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.base import Fitting
from penstock.selectors.losses import CausalModel
from penstock.trainers.spec import RunResult
from tests.pools import documents, hashed, pool_of, write_jsonl

ONE = LocalRunner(1)

pytestmark = pytest.mark.usefixtures("trained_here")


def recipe_of(directory: Path, **ladder: Any) -> Recipe:
    ladder = {
        "shapes": [[1, 16, 1], [1, 48, 2]],
        "tokens": [1000, 12000],
        "batch_tokens": 256,
        "lr": 0.01,
        **ladder,
    }
    return parse_recipe(
        {
            "seed": 3,
            "corpus": [{"path": "pool"}],
            "select": {
                "p": {
                    "use": "preselect",
                    "sample": 150,
                    "max_characters": 100,
                    "ladder": ladder,
                    "target": "targets.jsonl",
                }
            },
            "budget": {"tokens": 2000, "rank": "p"},
            "compare": {
                "arms": {
                    "random": {"budget": {"rank": "random"}},
                    "again": {"budget": {"rank": "p"}},
                }
            },
            "tokenizer": {"train": {"vocab_size": 400}},
            "shards": {"sequence_length": 32},
        },
        directory,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("ladder")
    write_jsonl(at / "pool" / "a.jsonl", documents(500, seed=2))
    rows = documents(60, seed=3, longest=30)
    targets = [{"text": row["text"], "benchmark": row["source"]} for row in rows]
    write_jsonl(at / "targets.jsonl", targets)
    return at


def climbed(recipe: Recipe, workspace: Workspace) -> tuple[Column, list[Curated], list[str]]:
    (column,) = build_columns(recipe)
    cuts: list[Curated] = []
    notes: list[str] = []

    def cut(outside: Recipe) -> Artefact:
        cuts.append(curate(outside, ONE))
        return cuts[-1].shards

    climb(recipe, column, cut, workspace, notes.append, lambda: notes.append("freed"))
    return column, cuts, notes


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def test_a_ladder_is_trained_outside_the_sample_and_put_in_order(project: Path) -> None:
    recipe = recipe_of(project)
    with Workspace.driving(recipe.work_directory) as workspace:
        column, cuts, notes = climbed(recipe, workspace)
    models = column.selector.readers  # type: ignore[union-attr]
    assert len(set(models)) == 4
    results = [RunResult.of(Artefact.open(Path(model).parent)) for model in models]
    bits = [np.mean(list(result.means("bits_per_byte").values())) for result in results]
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < bits[0] - 0.2, "one that learned more is better by far"
    assert sum("bits per byte" in line for line in notes) == 4
    assert notes[0] == "freed", "the CPUs, before the training"
    assert CausalModel(models[-1]).losses(pa.array(["water gate"])).nats > 0

    pool = cuts[0].pool
    sample = sample_documents(pool, 150, recipe.seed, FIT, shortest=100, balanced=True, most=0.75)
    seen = set(sample["id"].to_pylist())
    assert 100 < len(seen) < 200
    (made,) = cuts  # so a longer run reads the sequences of a shorter one, and then others
    ids = {
        name
        for record in made.shards.named("shard-")
        for names in _read(made.shards.path / record.path)["doc_id"].to_pylist()
        for name in names
    }
    assert ids
    assert not ids & seen, "nothing of the sample is learned"

    larger = made.cut.facts["by_source"]
    tokens_of = {name: one["tokens"] for name, one in larger.items()}
    assert set(tokens_of) == {"web", "wiki", "code"}  # of code, all there is
    assert tokens_of["web"] == pytest.approx(tokens_of["wiki"], rel=0.2), "the pool has 3 : 2"

    with Workspace.driving(recipe.work_directory) as workspace:
        again, _, notes = climbed(recipe, workspace)
    assert again.selector.readers == models  # type: ignore[union-attr]
    assert not any("training" in line or line == "freed" for line in notes)


def test_a_ladder_that_cannot_be_made(project: Path, tmp_path: Path) -> None:
    long = recipe_of(project, tokens=[1000, 10**7])
    with Workspace.driving(long.work_directory) as workspace:
        with pytest.raises(BudgetError, match=r"select\.p\.ladder\.tokens: .*budget"):
            climbed(long, workspace)
        (column,) = build_columns(long)
        aimless = Column(name="p", selector=column.selector)
        with pytest.raises(SelectorError, match=r"select\.p\.target: missing"):
            climb(
                long, aimless, lambda own: curate(own, ONE).shards, workspace, print, lambda: None
            )
    other = recipe_of(project, lr=0.02)
    looking = Workspace(other.work_directory, read_only=True)
    with pytest.raises(UnmadeError, match="not made yet"):
        climbed(other, looking)
    with pytest.raises(SelectorError, match="ladder: expected its models"):
        build_columns(other)[0].selector.identity()


def test_a_balanced_cut_has_as_many_bytes_of_each_source(tmp_path: Path) -> None:
    """Of the best scores a cut takes equal bytes, and all of a source that has fewer."""
    chance = np.random.default_rng(4)
    counts = {"large": 4000, "middle": 400, "small": 20}
    names = [name for name, count in counts.items() for _ in range(count)]
    texts = ["x" * size for size in chance.integers(50, 150, len(names)).tolist()]
    table = hashed([str(row) for row in range(len(names))], texts).append_column(
        "source", pa.array(names)
    )
    sizes = np.array([len(text) for text in texts])
    of = {name: int(sizes[np.array(names) == name].sum()) for name in counts}
    scorer = OutsideSample(share=0.25, balanced=True)
    scorer.fit(Fitting(sample=lambda n: None, pool_size=len(names), sources=of))  # type: ignore
    scorer.save(tmp_path)
    other = OutsideSample(share=0.25, balanced=True)
    other.load(tmp_path)
    (batch,) = table.combine_chunks().to_batches()
    scores = other.score(batch)
    np.testing.assert_array_equal(scores, scorer.score(batch))
    assert np.isnan(scores).mean() == pytest.approx(0.25, abs=0.03)
    order = np.argsort(-scores, kind="stable")
    taken = order[: np.searchsorted(np.cumsum(sizes[order]), 25_000)]
    cut = {name: int(sizes[taken][np.array(names)[taken] == name].sum()) for name in counts}
    assert cut["small"] == sizes[(np.array(names) == "small") & ~np.isnan(scores)].sum()
    assert cut["large"] == pytest.approx(cut["middle"], rel=0.3)


def test_outside_sample_keeps_what_it_was_told(project: Path, tmp_path: Path) -> None:
    recipe = recipe_of(project)
    pool = pool_of(recipe)
    scorer = OutsideSample(sample=150)
    scorer.fit(Fitting(sample=lambda n: None, pool_size=pool.kept, seed=recipe.seed))  # type: ignore
    scorer.save(tmp_path)
    other = OutsideSample(sample=150)
    other.load(tmp_path)
    halves = [OutsideSample(sample=150, part=part, parts=2) for part in (0, 1)]
    for half in halves:
        half.load(tmp_path)
    rows = documents(500, seed=2)
    (batch,) = hashed([row["id"] for row in rows], [row["text"] for row in rows]).to_batches()
    scores = other.score(batch)
    np.testing.assert_array_equal(scores, scorer.score(batch))
    one, two = (half.score(batch) for half in halves)
    assert (np.isnan(one) | np.isnan(two)).all()
    np.testing.assert_array_equal(np.where(np.isnan(one), two, one), scores)
    sample = sample_documents(pool, 150, recipe.seed, FIT)
    assert {rows[n]["id"] for n in np.flatnonzero(np.isnan(scores))} == set(
        sample["id"].to_pylist()
    )
