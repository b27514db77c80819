"""`penstock rm --unused` keeps what was trained on what the recipes reach, which bytes name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import penstock
from penstock.jobs.unused import find_unused, remove_unused
from penstock.recipe_file import override
from penstock.trainers.spec import RunResult
from tests.pools import documents, write_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trained_here")]

TREE: dict[str, Any] = {
    "seed": 3,
    "corpus": [{"path": "pool"}],
    "budget": {"tokens": 4000, "rank": "random"},
    "tokenizer": {"train": {"vocab_size": 400}},
    "shards": {"sequence_length": 32},
    "evaluate": ["quiz.jsonl"],
    "train": {
        "model": {"layers": 1, "width": 32, "heads": 2},
        "batch_tokens": 1024,
        "backend": "torch",
        "device": "cpu",
        "document_losses": True,
        "checkpoint": {"minutes": None, "at": [1, 2]},
    },
}


def project(at: Path) -> Path:
    write_jsonl(at / "pool" / "a.jsonl", documents(100, longest=60))
    write_jsonl(at / "quiz.jsonl", [{"question": "water flows", "answer": "to the mill"}])
    return at


def trained(at: Path, name: str, **changes: Any) -> tuple[Path, RunResult]:
    path = at / f"{name}.yaml"
    path.write_text(yaml.safe_dump(override(TREE, changes)))
    return path, penstock.train(path, runner="local", workers=1)


def names(found: Any) -> set[str]:
    return {one.name for one in found.unused}


def name_of(directory: Any) -> str:
    return f"{directory.parent.name}/{directory.name}"


def outcomes(result: RunResult) -> set[str]:
    """The run, its evaluation, and the losses of its documents."""
    assert result.document_losses is not None and len(result.evaluations) == 1
    places = [result.path, *result.evaluations.values(), result.document_losses]
    return {name_of(place) for place in places}


def test_a_run_and_what_is_measured_of_it_stay(tmp_path: Path) -> None:
    at = project(tmp_path)
    recipe, result = trained(at, "recipe")
    _, other = trained(at, "other", budget={"tokens": 2000})
    gone = outcomes(other)
    found = remove_unused([recipe])
    assert gone <= names(found) and not outcomes(result) & names(found)
    assert not other.path.exists()
    again = penstock.train(recipe, runner="local", workers=1)
    assert (again.path, again.seconds) == (result.path, result.seconds)  # nothing was trained
    assert again.evaluations == result.evaluations
    assert again.document_losses == result.document_losses


def test_runs_that_are_continued_from_stay(tmp_path: Path) -> None:
    """By a checkpoint, and by the model: each is on other shards than its parent."""
    at = project(tmp_path)
    parent = trained(at, "parent")[1]
    short = {"budget": {"tokens": 2000}}
    digits = parent.path.name
    train = {"continue_from": f"run/{digits}@2", "tokens": 1024}
    branch, branched = trained(at, "branch", train=train, **short)
    assert names(find_unused([branch])) & outcomes(parent) == set()
    tuned_by, tuned = trained(at, "tuned", train={"model": {"hf": f"{parent.path}/model"}}, **short)
    found = names(find_unused([tuned_by]))
    assert not found & (outcomes(parent) | outcomes(tuned))

    # A run that was killed has no manifest, and is gone on with.
    (branched.path / "manifest.json").unlink()
    (parent.path / "manifest.json").unlink()
    found = names(find_unused([branch]))
    assert not found & {f"run/{digits}", name_of(branched.path)}
    left, _ = trained(at, "left", budget={"tokens": 700})  # arms have twice and 4 times as many
    assert {f"run/{digits}", name_of(branched.path)} <= names(find_unused([left]))


def test_losses_that_a_selector_reads_stay(tmp_path: Path) -> None:
    at = project(tmp_path)
    _, result = trained(at, "first")
    select = {"losses": {"use": "document-loss", "run": str(result.path)}}
    recipe = at / "second.yaml"
    second = {"select": select, "budget": {"tokens": 1000, "rank": "losses"}}
    recipe.write_text(yaml.safe_dump(override(TREE, second)))
    penstock.curate(recipe, runner="local", workers=1)
    assert not names(remove_unused([recipe])) & outcomes(result)
    assert penstock.open(recipe).cut.facts["delivered"] == 992
