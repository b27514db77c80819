"""Plans: built once, shared by what is alike, unchanged by the stages that use them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from penstock.artefact import canonical
from penstock.errors import BadInput, InputError, RecipeError, SelectorError
from penstock.jobs import plan as module
from penstock.jobs.curate import curate
from penstock.jobs.plan import Arm, Plan, plan_arms, recipes_of_arms
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from tests.pools import documents, write_jsonl

PARTS = {"corpus", "clean", "rewrite", "columns", "tokenizer", "cut", "shards", "train", "evaluate"}


def recipe_of(directory: Path, **changes: Any) -> Recipe:
    write_jsonl(directory / "pool" / "a.jsonl", documents(150))
    write_jsonl(directory / "target.jsonl", [{"text": "the turbine turns"}])
    write_jsonl(directory / "eval.jsonl", [{"text": "the wheel turns"}])
    tree = {
        "corpus": [{"path": "pool"}],
        "select": {
            "near": {"use": "dsir", "target": ["target.jsonl"], "sample": 100},
            "far": {"use": "dsir", "target": ["target.jsonl"], "sample": 90},
        },
        "budget": {"tokens": 2_000, "rank": "near"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 32},
        "evaluate": ["eval.jsonl"],
        **changes,
    }
    return parse_recipe(tree, directory)


def fingerprints(plan: Plan) -> dict[str, str]:
    """A sha256 of each part. Input files count by name, not by content: the pool is not read."""
    parts: dict[str, Any] = {
        "corpus": [[item.path.name for item in plan.corpus.found.inputs], plan.corpus.config()],
        "clean": plan.clean.config(),
        "rewrite": [rewrite.identity() for rewrite in plan.rewrites],
        "columns": [
            [column.name, dict(column.selector.identity()), list(column.target.hashes)]
            for column in plan.columns
        ],
        "tokenizer": [plan.tokenizer.config(), plan.tokenizer.seed],
        "cut": plan.cut.config(),
        "shards": plan.shards.model_dump(mode="json"),
        "train": [
            plan.train.train.model_dump(mode="json"),
            plan.train.seed,
            plan.train.reweighter and dict(plan.train.reweighter.identity),
        ],
        "evaluate": [file.name for file in plan.evaluate],
    }
    return {name: hashlib.sha256(canonical(config)).hexdigest() for name, config in parts.items()}


def changed_by(before: Plan, **changes: Any) -> set[str]:
    """The parts whose fingerprints differ in a plan of the recipe with other values."""
    tree = before.recipe.model_dump(mode="json")
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(value, dict) else value
    after = fingerprints(before.derive(parse_recipe(tree, before.recipe.directory)))
    return {name for name, own in fingerprints(before).items() if after[name] != own}


def test_each_stage_has_a_part_with_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    plan = Plan.of(recipe_of(tmp_path))
    assert set(fingerprints(plan)) == PARTS
    assert fingerprints(plan) == fingerprints(Plan.of(recipe_of(tmp_path)))
    assert [item.path for item in plan.corpus.found.inputs] == [tmp_path / "pool" / "a.jsonl"]
    assert plan.evaluate == (tmp_path / "eval.jsonl",)
    assert plan.unranked == ["far"]
    with pytest.raises(FrozenInstanceError):
        plan.work = tmp_path  # type: ignore[misc]
    assert changed_by(plan, budget={"tokens": 1_000}) == {"cut"}
    assert changed_by(plan, budget={"rank": "far"}) == {"columns", "cut"}
    assert changed_by(plan, clean={"max_document_bytes": 10}) == {"corpus"}
    assert changed_by(plan, clean={"dedup": {"exact": False}}) == {"clean"}
    assert changed_by(plan, clean={"rules": "c4"}) == {"clean"}
    assert changed_by(plan, clean={"decontaminate": {"action": "audit"}}) == {"clean"}
    assert changed_by(plan, train={"lr": 1e-4}) == {"train"}
    assert changed_by(plan, shards={"tokens_per_shard": 64}) == {"shards"}
    assert changed_by(plan, tokenizer={"train": {"vocab_size": 400}}) == {"tokenizer"}
    assert changed_by(plan, evaluate=["target.jsonl"], select={}, budget={"rank": "random"}) == {
        "clean",
        "evaluate",
        "columns",
        "cut",
    }


def test_arms_build_a_part_again_only_where_they_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: Counter[str] = Counter()

    def counted(name: str) -> Any:
        build = getattr(module, name)

        def call(recipe: Recipe) -> Any:
            built[name] += 1
            return build(recipe)

        call.__qualname__ = name
        return call

    for name in ("build_columns", "build_rewrites", "build_reweighter", "find_evaluation_files"):
        monkeypatch.setattr(module, name, counted(name))
    arms = {f"tokens {n}": {"budget": {"tokens": 1_000 + n}} for n in range(20)}
    arms |= {"random": {"budget": {"rank": "random"}}, "far": {"budget": {"rank": "far"}}}
    plans = plan_arms(recipe_of(tmp_path, compare={"arms": arms, "seeds": [1, 2]}))
    assert len(plans) == 2 * (1 + 22 + 2)
    assert built == {
        "build_columns": 3,
        "build_rewrites": 1,
        "build_reweighter": 1,
        "find_evaluation_files": 1,
    }
    first, other = plans[Arm("selected", 1.0, 1)], plans[Arm("tokens 7", 1.0, 2)]
    assert first.corpus is other.corpus and first.columns[0] is other.columns[0]
    assert (first.cut.seed, other.cut.seed, other.cut.budget.tokens) == (1, 2, 1_007)


def test_an_arm_that_cannot_be_planned_is_named(tmp_path: Path) -> None:
    arms = {
        "random": {"budget": {"rank": "random"}},
        "bad": {"select": {"near": {"sample": "many"}}},
    }
    with pytest.raises(SelectorError) as info:
        plan_arms(recipe_of(tmp_path, compare={"arms": arms}))
    assert str(info.value).startswith("compare.arms.bad")


def test_recipes_of_arms_are_those_of_their_overrides(tmp_path: Path) -> None:
    arms = {"random": {"budget": {"rank": "random"}, "train": {"tokens": 500}}}
    recipe = recipe_of(tmp_path, compare={"arms": arms, "seeds": [5], "baseline_multiples": [1, 2]})
    found = recipes_of_arms(recipe)
    assert list(found) == [Arm("selected", 1, 5), Arm("random", 1, 5), Arm("random", 2, 5)]
    doubled = found[Arm("random", 2, 5)]
    assert (doubled.budget.tokens, doubled.train.tokens) == (4_000, 1_000)
    assert (doubled.draw_seed, doubled.train_seed, doubled.seed) == (5, 5, recipe.seed)


def test_a_plan_that_was_used_is_as_it_was(tmp_path: Path) -> None:
    plan = Plan.of(recipe_of(tmp_path))
    before = {name: repr(value) for name, value in vars(plan.columns[0].selector).items()}
    first = curate(plan, LocalRunner(1))
    after = {name: repr(value) for name, value in vars(plan.columns[0].selector).items()}
    assert before == after
    assert curate(plan, LocalRunner(1)).shards.digest == first.shards.digest


def test_a_plan_reads_nothing_of_the_pool_and_makes_nothing(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    pool = tmp_path / "pool" / "a.jsonl"
    pool.write_bytes(b"\xff not JSON")
    Plan.of(recipe)
    assert not (tmp_path / "work").exists()
    pool.unlink()
    with pytest.raises(InputError) as info:
        Plan.of(recipe)
    assert info.value.key == "corpus.0.path"


def test_a_target_may_not_be_an_evaluation(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as info:
        Plan.of(recipe_of(tmp_path, evaluate=["./target.jsonl"]))
    assert info.value.key == "select.near.target"
    assert info.value.file == str(tmp_path / "target.jsonl")


REFUSED: dict[str, dict[str, Any]] = {
    "train.model.hf": {"train": {"model": {"hf": "{model}"}}},
    "select.near.encoder": {
        "select": {"near": {"use": "betr", "target": ["target.jsonl"], "encoder": "model/"}}
    },
    "select.near.model": {"select": {"near": {"use": "perplexity", "model": "./model"}}},
    "rewrite.again.by.local": {"rewrite": {"again": {"use": "rewire", "by": {"local": "./model"}}}},
    "tokenizer": {"tokenizer": "./model"},
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_model_that_would_be_refused_is_before_any_work(tmp_path: Path, key: str) -> None:
    """It was found behind the whole curation: pickled weights, and a false tokenizer."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "tokenizer.json").write_text("[]")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    if key == "select.near.model":  # which asks for safetensors first
        (model / "pytorch_model.bin").unlink()
        (model / "1.safetensors").touch()
        (model / "adapter_config.json").write_text("{}")
    changes = json.loads(json.dumps(REFUSED[key]).replace("{model}", str(model)))
    with pytest.raises(BadInput) as info:
        Plan.of(recipe_of(tmp_path, **changes))
    assert info.value.key == key
    assert str(info.value.file).startswith(str(model))
