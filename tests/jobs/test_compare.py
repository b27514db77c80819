"""The token multiplier worked out by hand, and which recipes the arms are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RecipeError, TrainingError
from penstock.jobs import compare as compare_module
from penstock.jobs.compare import compare, curate_arms, token_multiplier
from penstock.jobs.console import Console
from penstock.jobs.plan import Plan, as_compared, plan_arms
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import ModelFrom, Recipe
from penstock.trainers.spec import RunResult
from tests.pools import documents, recipe_of, write_jsonl

BASELINE = [(100, 2.0), (200, 1.6), (400, 1.4)]


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        (1.8, 2**0.5),  # half of the way down, half of the way in log tokens
        (1.6, 2.0),
        (1.5, 2**1.5),
        (1.4, 4.0),
        (1.9, 2**0.25),
    ],
)
def test_the_multiplier_is_read_off_in_log_tokens(reached: float, expected: float) -> None:
    assert token_multiplier(BASELINE, 100, reached) == pytest.approx(expected, rel=1e-12)


def test_outside_what_was_measured_it_is_a_bound() -> None:
    assert token_multiplier(BASELINE, 100, 1.39) == ">4"
    assert token_multiplier(BASELINE, 100, 2.01) == "<1"
    assert token_multiplier(BASELINE, 80, 1.0) == ">5"
    assert token_multiplier([(100, 2.0)], 100, 1.9) == ">1"


def test_equal_at_equal_tokens_is_one() -> None:
    assert token_multiplier(BASELINE, 100, 2.0) == 1.0
    assert token_multiplier(BASELINE, 200, 2.0) == "<0.5"


def test_the_first_crossing_counts_where_the_baseline_rises_again() -> None:
    bumpy = [(100, 2.0), (200, 1.6), (400, 1.9), (800, 1.5)]
    assert token_multiplier(bumpy, 100, 1.8) == pytest.approx(2**0.5)
    assert token_multiplier(bumpy, 100, 1.55) == pytest.approx(4 * 2**0.875)


@given(
    st.lists(st.floats(0.5, 3), min_size=2, max_size=5, unique=True),
    st.floats(0.5, 3),
)
def test_a_baseline_interpolated_at_the_multiplier_gives_what_was_reached(
    falling: list[float], reached: float
) -> None:
    values = sorted(falling, reverse=True)
    baseline = [(100 * 2**power, value) for power, value in enumerate(values)]
    found = token_multiplier(baseline, 100, reached)
    if isinstance(found, str):
        assert (found[0] == "<") == (reached > values[0])
        assert found[0] == "<" or reached < values[-1]
        return
    position = min(max(math.log2(found), 0), len(values) - 1)
    low = min(int(position), len(values) - 2)
    share = position - low
    assert values[low] + share * (values[low + 1] - values[low]) == pytest.approx(reached)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_that_diverged_is_never_a_bound(bad: float) -> None:
    """NaN compares as neither above nor below: it would come out as ``>4``."""
    with pytest.raises(TrainingError, match="a run diverged"):
        token_multiplier(BASELINE, 100, bad)
    with pytest.raises(TrainingError, match="a run diverged"):
        token_multiplier([(100, 2.0), (200, bad), (400, 1.4)], 100, 1.8)


# -- the arms ---------------------------------------------------------------------------------


@dataclass
class Spied:
    """Every recipe that was curated, and a run for each, without training."""

    recipes: list[Recipe] = field(default_factory=list)
    judged: bool = False
    """Whether the file of examples has choices."""

    def curate(self, plan: Plan, runner: object, **_: object) -> Any:
        self.recipes.append(plan.recipe)

        class Shards:
            path = Path(f"shards-{len(self.recipes)}")

        class Curated:
            recipe = plan.recipe
            shards = Shards
            tokenizer = None

        return Curated

    def run_spec(self, settings: object, shards: Path, evaluations: object) -> Recipe:
        return self.recipes[int(shards.name.removeprefix("shards-")) - 1]

    def train_all(self, specs: Sequence[Recipe], *_: object, **__: object) -> list[RunResult]:
        """Random falls by 0.1 with each doubling; selected is as random at 2x."""
        results = []
        for recipe in specs:
            bits = 2.0 - 0.1 * math.log2(recipe.budget.tokens / 1_000)
            bits -= 0.1 * (recipe.budget.rank == "s")
            results.append(
                RunResult(
                    path=Path("run"),
                    tokens=recipe.budget.tokens,
                    loss=1.0,
                    bits_per_byte={"arc": {"mean": bits + 0.01 * recipe.train_seed}},
                    accuracy={"arc": {"mean": 0.25 + 0.1 * recipe.train_seed}}
                    if self.judged
                    else {},
                    seconds=1.0,
                )
            )
        return results


class NoRunner:
    name = "none"
    slots = 1

    def close(self) -> None:
        pass


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Spied:
    spy = Spied()
    for name in ("curate", "run_spec", "train_all"):
        monkeypatch.setattr(compare_module, name, getattr(spy, name))
    return spy


def recipe(directory: Path, **comparison: Any) -> Recipe:
    write_jsonl(directory / "arc.jsonl", [{"question": "What turns?", "answer": "A wheel."}])
    write_jsonl(directory / "pool" / "a.jsonl", [{"text": "a wheel turns"}])
    (directory / "lengths.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    return recipe_of(
        directory,
        1_000,
        "s",
        select={"s": {"use": "lengths:score"}},
        evaluate=["arc.jsonl"],
        compare={"seeds": [1, 2, 3], **comparison},
    )


def test_each_arm_is_the_recipe_with_its_overrides_and_its_seeds(
    tmp_path: Path, spied: Spied
) -> None:
    arms = {
        "random": {"budget": {"rank": "random"}},
        "drawn": {"budget": {"draw": {"gumbel": {"temperature": 0.5}}}, "train": {"lr": "1e-3"}},
    }
    mine = recipe(tmp_path, arms=arms, baseline_multiples=[1, 1.005])
    compare(mine, NoRunner())  # type: ignore[arg-type]
    found = [
        (r.budget.rank, r.budget.draw == "top", r.budget.tokens, r.draw_seed, r.train_seed)
        for r in spied.recipes
    ]
    assert found == [
        (*arm, seed, seed)
        for arm in [
            ("s", True, 1_000),
            ("random", True, 1_000),
            ("s", False, 1_000),
            ("random", True, 1_005),
        ]
        for seed in (1, 2, 3)
    ]
    drawn = spied.recipes[6]
    assert drawn.train.lr == 1e-3
    assert spied.recipes[0].train == mine.train.model_copy(update={"seed": 1})
    for arm in spied.recipes:
        # What all arms share must have the same fingerprints.
        assert (arm.seed, arm.corpus, arm.clean, arm.tokenizer, arm.directory) == (
            mine.seed,
            mine.corpus,
            mine.clean,
            mine.tokenizer,
            mine.directory,
        )


def test_the_summary_gives_means_deviations_and_the_multiplier(
    tmp_path: Path, spied: Spied
) -> None:
    comparison = compare(recipe(tmp_path), NoRunner())  # type: ignore[arg-type]
    summary = comparison.summary()
    assert list(summary["arms"]) == ["selected", "random"]
    selected = summary["arms"]["selected"]["bits_per_byte"]["arc"]
    assert selected["values"] == pytest.approx([1.91, 1.92, 1.93])
    assert selected["mean"] == pytest.approx(1.92)
    assert selected["std"] == pytest.approx(0.01)
    multiples = summary["arms"]["random"]["multiples"]
    assert [(m["multiple"], m["tokens"]) for m in multiples] == [(1, 1_000), (2, 2_000), (4, 4_000)]
    assert summary["token_multiplier"]["arc"] == pytest.approx(2.0)


def test_accuracy_is_shown_where_there_is_any(
    tmp_path: Path, spied: Spied, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = compare(recipe(tmp_path), NoRunner())  # type: ignore[arg-type]
    assert "accuracy" not in plain.summary()["arms"]["selected"]
    Console().compared(plain)
    assert "accuracy" not in capsys.readouterr().out
    spied.judged = True
    comparison = compare(recipe(tmp_path), NoRunner())  # type: ignore[arg-type]
    found = comparison.summary()["arms"]["random"]["accuracy"]["arc"]
    assert found["values"] == pytest.approx([0.35, 0.45, 0.55])
    assert (found["mean"], found["std"]) == (pytest.approx(0.45), pytest.approx(0.1))
    Console().compared(comparison)
    told = capsys.readouterr().out
    assert "accuracy" in told and "45.0% ± 10.0%" in told


def test_an_arm_that_is_no_recipe_is_named(tmp_path: Path, spied: Spied) -> None:
    for wrong, key in [
        ({"budget": {"rnak": "random"}}, "compare.arms.bad.budget.rnak"),
        ({"budget": 7}, "compare.arms.bad.budget"),
        ({"budget": {"tokens": -1}}, "compare.arms.bad.budget.tokens"),
    ]:
        arms = {"random": {"budget": {"rank": "random"}}, "bad": wrong}
        with pytest.raises(RecipeError) as info:
            compare(recipe(tmp_path, arms=arms), NoRunner())  # type: ignore[arg-type]
        assert info.value.key == key
    assert not spied.recipes, "work was started on a recipe that is wrong"


def test_a_comparison_needs_something_to_judge_by(tmp_path: Path, spied: Spied) -> None:
    with pytest.raises(RecipeError) as info:
        compare(recipe_of(tmp_path, 1_000), NoRunner())  # type: ignore[arg-type]
    assert info.value.key == "evaluate"


def test_one_seed_has_no_spread(
    tmp_path: Path, spied: Spied, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare(recipe(tmp_path, seeds=[1]), NoRunner())  # type: ignore[arg-type]
    assert comparison.summary()["arms"]["random"]["bits_per_byte"]["arc"]["std"] is None
    Console().compared(comparison)
    told = capsys.readouterr()
    assert "±" not in told.out and "one seed does not tell" in told.out + told.err


def test_a_model_directory_that_is_not_there_is_told_before_any_work(
    tmp_path: Path, spied: Spied
) -> None:
    mine = recipe(tmp_path)
    wrong = mine.train.model_copy(update={"model": ModelFrom(hf="/no/such/model")})
    with pytest.raises(RecipeError, match=r"train\.model\.hf: /no/such/model: no such directory"):
        compare(mine.model_copy(update={"train": wrong}), NoRunner())  # type: ignore[arg-type]
    assert not spied.recipes


def test_a_report_is_of_the_first_seed_that_was_compared(tmp_path: Path) -> None:
    mine = recipe(tmp_path).model_copy(update={"seed": 17})
    assert (mine.draw_seed, as_compared(mine).draw_seed) == (17, 1)


def test_arms_with_other_pools_share_the_recipes_tokenizer(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(300, seed=5))
    recipe = recipe_of(
        tmp_path,
        clean={"where": "words > 40"},
        compare={
            "arms": {
                "random": {"clean": {"where": None}},
                "other": {"clean": {"where": None}, "tokenizer": {"train": {"vocab_size": 400}}},
            },
            "seeds": [1],
            "baseline_multiples": [1],
        },
    )
    made = curate_arms(plan_arms(recipe), LocalRunner(1))
    curated = {arm.name: own for arm, own in made.items()}
    assert curated["random"].pool.kept > curated["selected"].pool.kept
    assert curated["random"].tokenizer.fingerprint == curated["selected"].tokenizer.fingerprint
    assert curated["other"].tokenizer.fingerprint != curated["selected"].tokenizer.fingerprint
    assert curated["other"].tokenizer.facts["vocab_size"] == 400
