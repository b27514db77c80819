"""kMQ's rounds: a cluster where the model is behind a reference has more weight after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import SelectorError, UnmadeError
from penstock.jobs.build import build_columns
from penstock.jobs.curate import curate, inspect
from penstock.jobs.selector_training import _behind, find_weights
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.samples import FIT, sample_documents
from penstock.pipeline.scoring.models import Models
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.kmq import refine
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.spec import RunResult
from tests.pools import write_jsonl
from tests.selectors.test_properties import texts, write_encoder

ONE = LocalRunner(1)

pytestmark = pytest.mark.usefixtures("trained_here")


def recipe_of(directory: Path, **refine: Any) -> Recipe:
    refine = {
        "rounds": 2,
        "tokens": 2000,
        "shape": [1, 16, 1],
        "batch_tokens": 128,
        "lr": 0.02,
        "held_out": 5,
        **refine,
    }
    return parse_recipe(
        {
            "seed": 3,
            "corpus": [{"path": "pool"}],
            "select": {"k": {"use": "kmq", "encoder": "encoder/", "clusters": 3, "refine": refine}},
            "budget": {"tokens": 2000, "rank": "k"},
            "tokenizer": {"train": {"vocab_size": 400}},
            "shards": {"sequence_length": 32},
        },
        directory,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("refinement")
    write_jsonl(at / "pool" / "a.jsonl", texts(400))
    write_encoder(at / "encoder")
    return at


def runs_of(recipe: Recipe) -> list[Artefact]:
    found = Workspace(recipe.work_directory).artefacts()
    return [artefact for artefact in found if artefact.manifest["stage"] == "run"]


def test_rounds_give_weights_and_are_found_again(project: Path) -> None:
    recipe = recipe_of(project)
    made = curate(recipe, ONE)
    assert made.cut.facts["delivered"] == 2000 // 32 * 32
    runs = [
        one for one in Workspace(recipe.work_directory).artefacts() if one.path.parent.name == "run"
    ]
    assert len(runs) == 3
    assert all(len(RunResult.of(run).bits_per_byte) == 3 for run in runs)
    # By the tokens that each has seen: the reference, as many as both rounds together.
    trained = {
        (RunResult.of(run).tokens, "hf" in run.manifest["config"]["train"]["model"]): run
        for run in runs
    }
    first, second = trained[2000 // 32 * 32, False], trained[2000 // 32 * 32, True]
    reference = trained[4000 // 32 * 32, False]
    assert second.manifest["config"]["train"]["model"] == {"hf": str(first.path / "model")}

    (column,) = build_columns(recipe)
    with Workspace.driving(recipe.work_directory) as workspace:
        models = Models(pool=made.pool, workspace=workspace, runner=ONE, seed=recipe.seed)

        def cut(own: Recipe) -> Any:
            # Documents of a round are its own, and none of them judges.
            shards = curate(own, ONE).shards
            seen.append(_ids(shards.path))
            return shards

        seen: list[set[str]] = []
        find_weights(recipe, column, cut, models, lambda: None)
    weights = np.array(column.selector.cluster_weights)  # type: ignore[union-attr]
    assert weights.shape == (3,)
    assert weights.sum() == pytest.approx(1)
    one, two = (
        np.array([bits[name] for name in sorted(bits)])
        for bits in (RunResult.of(run).means("bits_per_byte") for run in (first, second))
    )
    usual = RunResult.of(reference).means("bits_per_byte")
    excess = one + two - 2 * np.array([usual[name] for name in sorted(usual)])
    expected = np.exp((excess - excess.max()) / 0.05)
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-9)
    assert len(weights[weights == weights.max()]) == 1, "the rounds did tell clusters apart"
    sample = sample_documents(made.pool, 15, recipe.seed, FIT)
    held_out = set(sample["id"].to_pylist())
    assert len(seen) == 3
    assert not seen[1] & seen[2]
    assert not (seen[0] | seen[1] | seen[2]) & held_out
    again = [
        one for one in Workspace(recipe.work_directory).artefacts() if one.path.parent.name == "run"
    ]
    assert len(again) == 3
    assert inspect(recipe, ONE).cut.digest == made.cut.digest  # type: ignore[union-attr]


def _ids(shards: Any) -> set[str]:
    import pyarrow as pa

    found: set[str] = set()
    for record in ShardSet.open(shards).artefact.named("shard-"):
        with pa.memory_map(str(shards / record.path)) as source:
            column = pa.ipc.open_file(source).read_all()["doc_id"].to_pylist()
        found.update(name for names in column for name in names)
    return found


def test_what_was_not_run_is_not_looked_at(project: Path) -> None:
    curate(recipe_of(project).model_copy(update={"select": {}, "budget": _random()}), ONE)
    other = recipe_of(project, lr=0.03)
    found = inspect(other, ONE)
    assert isinstance(found.lacks, UnmadeError)  # type: ignore[union-attr]
    with pytest.raises(SelectorError, match="refine: expected weights"):
        build_columns(other)[0].selector.identity()


def _random() -> Any:
    return recipe_of(Path()).budget.model_copy(update={"rank": "random"})


def test_a_cluster_is_judged_by_what_it_is_behind_and_not_by_what_it_learns() -> None:
    # The model learned 0.5 and 0.1 bits of two clusters; the reference is 0 and 0.2 bits better.
    signals = _behind(
        {"cluster-00000": 1.5, "cluster-00001": 2.9},
        {"cluster-00000": 1.5, "cluster-00001": 2.7},
        3,
    )
    np.testing.assert_allclose(signals, [0, 0.2, 0.1])  # one without held-out documents: the mean
    weights = refine([1, 1, 1], signals, 0.2 / np.log(3))
    np.testing.assert_allclose(weights, np.array([1, 3, 3**0.5]) / (4 + 3**0.5))
