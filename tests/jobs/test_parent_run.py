"""``train.continue_from`` with a recipe, a directory and a name, by ``penstock.train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import penstock
from penstock.errors import RecipeError, UnmadeError
from penstock.recipe_file import override
from tests.pools import documents, write_jsonl

pytestmark = pytest.mark.usefixtures("trained_here")

TREE: dict[str, Any] = {
    "seed": 3,
    "corpus": [{"path": "pool"}],
    "budget": {"tokens": 4000, "rank": "random"},
    "tokenizer": {"train": {"vocab_size": 400}},
    "shards": {"sequence_length": 32},
    "train": {
        "model": {"layers": 1, "width": 32, "heads": 2},
        "batch_tokens": 1024,
        "backend": "torch",
        "device": "cpu",
        "checkpoint": {"minutes": None, "at": [1, 2]},
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("parent")
    write_jsonl(at / "pool" / "a.jsonl", documents(100, longest=60))
    return at


def write(project: Path, name: str, **train: Any) -> Path:
    changes = {"train": train, "work": f"{train.pop('work', 'work')}"}
    path = project / name
    path.write_text(yaml.safe_dump(override(TREE, changes)))
    return path


def lines(run: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_recipe_names_its_run(project: Path) -> None:
    base = write(project, "base.yaml")
    half = write(project, "half.yaml", lr=1e-3, tokens=2048, continue_from="base.yaml@2")
    with pytest.raises(UnmadeError) as unmade:
        penstock.train(half, runner="local", workers=1)
    assert f"{project}/base.yaml" in (unmade.value.fix or "")
    parent = penstock.train(base, runner="local", workers=1)
    branch = penstock.train(half, runner="local", workers=1)
    assert branch.path != parent.path and branch.tokens == 2048
    assert [line["data"] for line in lines(branch.path)][:1] == [lines(parent.path)[2]["data"]]
    for reference in (f"{parent.path.name}@2", f"work/run/{parent.path.name}@2"):
        same = write(project, "same.yaml", lr=1e-3, tokens=2048, continue_from=reference)
        assert penstock.train(same, runner="local", workers=1).path == branch.path
    further = write(
        project, "further.yaml", tokens=1024, continue_from="half.yaml@last", work="elsewhere"
    )
    assert penstock.train(further, runner="local", workers=1).tokens == 1024


@pytest.mark.parametrize("reference", ["base.yaml", "base.yaml@", "@4", "a@-1", "a@b"])
def test_a_reference_without_run_or_step_is_refused(project: Path, reference: str) -> None:
    with pytest.raises(RecipeError) as info:
        penstock.load_recipe(write(project, "wrong.yaml", continue_from=reference))
    assert info.value.key == "train.continue_from"


@pytest.mark.parametrize(
    ("train", "key"),
    [
        ({"checkpoint": {"at": [0]}}, "train.checkpoint.at"),
        ({"checkpoint": {"at": 1.5}}, "train.checkpoint.at"),
        ({"checkpoint": False, "not_finite": "back"}, "train.not_finite"),
        ({"reweight": {"use": "loss"}, "not_finite": "skip"}, "train.not_finite"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    project: Path, train: dict[str, Any], key: str
) -> None:
    with pytest.raises(RecipeError) as info:
        penstock.load_recipe(write(project, "wrong.yaml", **train))
    assert info.value.key == key
