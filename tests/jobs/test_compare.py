"""The token multiplier worked out by hand, and which recipes the arms are."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BudgetError, RecipeError, TrainingError
from penstock.jobs import compare as compare_module
from penstock.jobs.compare import compare, curate_arms
from penstock.jobs.comparison.announcing import TimeEstimate, describe_runs
from penstock.jobs.comparison.arms import token_multiplier
from penstock.jobs.console import Console
from penstock.jobs.curate import curate as curating
from penstock.jobs.plan import Arm, Plan, as_compared, plan_arms
from penstock.jobs.report.page import write_comparison
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Compare, ModelFrom, Recipe
from penstock.trainers.evaluation.scores import METRICS
from penstock.trainers.spec import RunResult
from tests.jobs.comparison.runs import run_of
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
    noise: float = 0.0
    """What the selected arm's seeds differ by, beside what all arms share."""

    def curate(self, plan: Plan, runner: object, **_: object) -> Any:
        self.recipes.append(plan.recipe)
        tokens = plan.recipe.budget.tokens // 16 * 16
        return SimpleNamespace(
            recipe=plan.recipe,
            shards=SimpleNamespace(path=Path(f"shards-{len(self.recipes)}")),
            tokenizer=SimpleNamespace(facts={"bytes_per_token": 4.0}),
            cut=SimpleNamespace(
                facts={"delivered": tokens, "requested": plan.recipe.budget.tokens}
            ),
            pool=SimpleNamespace(bytes=400_000, by_source={"web": {}, "wiki": {}}),
        )

    def run_spec(self, settings: object, shards: Path, evaluations: object) -> Recipe:
        return self.recipes[int(shards.name.removeprefix("shards-")) - 1]

    def train_all(self, specs: Sequence[Recipe], *_: object, **__: object) -> list[RunResult]:
        """Random falls by 0.1 with each doubling; selected is as random at 2x."""
        results: list[RunResult] = []
        for recipe in specs:
            seed, selected = recipe.train_seed, recipe.budget.rank == "s"
            bits = 2.0 - 0.1 * math.log2(recipe.budget.tokens / 1_000) + 0.01 * seed
            bits -= selected * (0.1 + self.noise * (seed - 2))
            right = 0.25 * seed
            results.append(run_of(recipe.budget.tokens, {"arc": bits}, self.judged, right))
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


@pytest.mark.parametrize(
    ("noise", "words", "half"), [(0.0, "better than", 0.0), (0.5, "not distinguishable from", 1.3)]
)
def test_the_conclusion_has_verdict_difference_seeds_and_multiplier(
    tmp_path: Path, spied: Spied, noise: float, words: str, half: float
) -> None:
    spied.noise = noise
    comparison = compare(recipe(tmp_path), NoRunner())  # type: ignore[arg-type]
    found = re.fullmatch(
        r"arc: at 1,000 tokens, selected is ([a-z ]+) random \((-\d\.\d+) ± (\d\.\d+) bits per "
        r"byte, 3 seeds\); random needs (.+) times as many tokens to equal it \(.*: (.+)\)\.",
        comparison.conclusion("arc"),
    )
    assert found and found[1] == words
    assert float(found[2]) == pytest.approx(-0.1, abs=1e-4)
    assert float(found[3]) == pytest.approx(half, rel=0.05, abs=1e-4)
    assert f"{found[4]} ({found[5]})" == comparison.shown_multiplier(
        comparison.point("selected"), "arc"
    )


def test_the_runs_and_their_tokens_are_told_before_anything_is_read(
    tmp_path: Path, spied: Spied
) -> None:
    told: list[tuple[str, int]] = []
    mine = recipe(tmp_path)
    compare(mine, NoRunner(), lambda line: told.append((line, len(spied.recipes))))  # type: ignore[arg-type]
    line, curated = told[0]
    assert curated == 0
    assert "12 runs" in line and "24,000 in all" in line
    for point in ("selected 3 × 1,000", "random 2x 3 × 2,000", "random 4x 3 × 4,000"):
        assert point in line
    of_pool = describe_runs({Arm("selected", 1.0, 1): recipe_with_share(tmp_path)})
    assert "share" in of_pool and "in all" not in of_pool


def recipe_with_share(directory: Path) -> Recipe:
    return recipe_of(directory, "5%", "random")  # type: ignore[arg-type]


def test_the_time_is_told_once_from_the_speed_of_a_run() -> None:
    """Steps of 100 tokens at 50 tokens a second: 4 runs of 10,000, two at a time."""

    def spec(name: str, width: int = 8) -> Any:
        model = SimpleNamespace(width=width)
        return SimpleNamespace(fingerprint=name, tokens=10_000, train=SimpleNamespace(model=model))

    specs = [spec("a"), spec("b"), spec("c"), spec("d"), spec("large", 16)]
    told: list[str] = []
    followed: list[int] = []
    estimate = TimeEstimate(
        specs=specs,
        parallel=2,
        progress=told.append,
        follow=lambda spec, line: followed.append(line["tokens"]),
    )
    for step in range(1, 51):
        speed = 1.0 if step == 1 else 50.0  # the first step warms up
        estimate(specs[0], {"tokens": 100 * step, "loss": 2.0, "tokens_per_second": speed})
        assert len(told) == (100 * (step - 1) >= 50 * 10), "after ten seconds of steps"
    assert followed == [100 * step for step in range(1, 51)]
    assert "at 50 tokens/s" in told[0] and "39,400 tokens of 4 runs" in told[0]
    assert "0:06:34" in told[0]
    short = TimeEstimate(
        specs=specs[:1], parallel=1, progress=told.append, follow=lambda spec, line: None
    )
    for step in range(1, 101):
        short(specs[0], {"tokens": 100 * step, "loss": 2.0, "tokens_per_second": 5_000.0})
    assert len(told) == 1, "nothing is left"


def test_the_accounting_names_its_arm_and_seed(
    tmp_path: Path,
    spied: Spied,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = compare(recipe(tmp_path, seeds=[7, 8]), NoRunner())  # type: ignore[arg-type]
    assert found.selected_arm == "arm selected, seed 7"
    assert found.selected.recipe.train_seed == 7
    documents = {"read": 1, "kept": 1, "dropped": 0, "quarantined": 0, "dropped_by": {}}
    stub = SimpleNamespace(
        summary=lambda: {
            "documents": documents,
            "tokens": {"requested": 32, "delivered": 32},
            "shards": "there",
            "digest": "d1",
        },
        corpus=None,
        cut=SimpleNamespace(facts={"requested": 32, "delivered": 32, "groups": [0]}),
        shards=SimpleNamespace(facts={"sequence_length": 16}),
        source_shares=list,
    )
    monkeypatch.setattr(Console, "accounted", lambda *_: None)
    Console().curated(stub, found.selected_arm)  # type: ignore[arg-type]
    shown = capsys.readouterr().out.splitlines()
    for value in ("there", "d1"):
        (line,) = (line for line in shown if line.endswith(f"  {value}"))
        assert found.selected_arm in line


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
    assert {"accuracy", "margin"}.isdisjoint(plain.summary()["arms"]["selected"])
    Console().compared(plain)
    assert "accuracy" not in capsys.readouterr().out
    spied.judged = True
    comparison = compare(recipe(tmp_path), NoRunner())  # type: ignore[arg-type]
    found = comparison.summary()["arms"]["random"]["accuracy"]["arc"]
    assert found["values"] == pytest.approx([0.25, 0.5, 0.75])
    assert (found["mean"], found["std"]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert set(METRICS) < set(comparison.summary()["arms"]["selected"])
    Console().compared(comparison)
    told = capsys.readouterr().out
    assert "accuracy" in told and "50.0% ± 25.0%" in told


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
    assert "±" not in told.out
    verdict = comparison.summary()["verdict"]["selected"]["arc"]
    assert (verdict["interval"], verdict["words"]) == (None, "not distinguishable")
    assert comparison.summary()["token_multiplier_interval"] == {"arc": None}


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
    made, left_out = curate_arms(plan_arms(recipe), LocalRunner(1))
    assert left_out == []
    curated = {arm.name: own for arm, own in made.items()}
    assert curated["random"].pool.kept > curated["selected"].pool.kept
    assert curated["random"].tokenizer.fingerprint == curated["selected"].tokenizer.fingerprint
    assert curated["other"].tokenizer.fingerprint != curated["selected"].tokenizer.fingerprint
    assert curated["other"].tokenizer.facts["vocab_size"] == 400


# -- verdicts, rungs and multiples ------------------------------------------------------------


@pytest.mark.parametrize(("noise", "words"), [(0.01, "better"), (0.1, "not distinguishable")])
def test_a_verdict_is_of_differences_by_seed(
    tmp_path: Path, spied: Spied, noise: float, words: str
) -> None:
    """The selected arm is better by 0.1 on the mean of three seeds, ± noise."""
    spied.noise = noise
    comparison = compare(recipe(tmp_path), NoRunner())  # type: ignore[arg-type]
    summary = comparison.summary()
    assert list(summary["verdict"]) == ["selected"]
    found = summary["verdict"]["selected"]["arc"]
    half = 4.527 * noise / 3**0.5  # all examples differ equally
    assert found["difference"] == pytest.approx(-0.1)
    assert found["interval"] == pytest.approx([-0.1 - half, -0.1 + half], rel=1e-3)
    assert found["words"] == words
    low, high = summary["token_multiplier_interval"]["arc"]
    if words == "better":
        # 0.1 bits are a doubling.
        assert [low, high] == pytest.approx([2 ** (1 - 10 * half), 2 ** (1 + 10 * half)], rel=1e-3)
    else:
        assert (low, high) == ("<1", ">4")
    stderr = summary["arms"]["selected"]["bits_per_byte"]["arc"]["stderr"]
    spread = summary["arms"]["selected"]["bits_per_byte"]["arc"]["std"]
    assert stderr["seeds"] == pytest.approx(spread / 3**0.5)
    assert stderr["examples"] > 0


def test_another_metric_gives_verdicts_and_the_multiplier(tmp_path: Path, spied: Spied) -> None:
    with pytest.raises(RecipeError) as info:
        compare(recipe(tmp_path, metric="margin"), NoRunner())  # type: ignore[arg-type]
    assert info.value.key == "compare.metric" and not spied.recipes
    mine = recipe(tmp_path, metric="choice_probability")
    question = {"question": "What turns?", "answer": "A wheel.", "choices": ["A wheel.", "Ice."]}
    write_jsonl(tmp_path / "arc.jsonl", [question])
    spied.judged = True
    summary = compare(mine, NoRunner()).summary()  # type: ignore[arg-type]
    assert summary["metric"] == "choice_probability"
    assert summary["verdict"]["selected"]["arc"]["words"] == "not distinguishable"
    assert summary["token_multiplier"]["arc"] == 1.0  # equal at equal tokens


def test_metrics_are_those_of_evaluations() -> None:
    assert get_args(Compare.model_fields["metric"].annotation) == METRICS


@pytest.mark.parametrize(
    ("comparison", "key"),
    [
        ({"baseline_multiples": [1, 17]}, "compare.baseline_multiples"),
        ({"rungs": [{"model": {"layers": 1}, "tokens": 9, "arms": ["rnd"]}]}, "compare"),
        ({"rungs": [{"model": {"layers": 1}, "tokens": 0}]}, "compare.rungs.0.tokens"),
        ({"metric": "perplexity"}, "compare.metric"),
    ],
)
def test_what_a_comparison_refuses(tmp_path: Path, comparison: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError) as info:
        recipe(tmp_path, **comparison)
    assert str(info.value.key).startswith(key)


RUNGS = [
    {"model": {"layers": 1, "width": 64, "heads": 2}, "tokens": 3_000, "lr": 0.001},
    {"model": {"layers": 2, "width": 64, "heads": 2}, "tokens": 500, "arms": [], "seeds": [1, 9]},
]


def test_rungs_are_the_arms_at_other_sizes(tmp_path: Path, spied: Spied) -> None:
    arms = {
        "random": {"budget": {"rank": "random"}},
        "slow": {"train": {"lr": "1e-3", "tokens": 2_000}, "budget": {"tokens": 2_000}},
    }
    mine = recipe(tmp_path, arms=arms, rungs=RUNGS, baseline_multiples=[1, 2], seeds=[1, 2])
    comparison = compare(mine, NoRunner())  # type: ignore[arg-type]
    rungs = [
        (own.budget.tokens, own.train.tokens, own.train.model.layers, own.train.lr, own.train_seed)  # type: ignore[union-attr]
        for own in spied.recipes[8:]
    ]
    # The third of the recipe's rate is a third at the rung, too, and twice the budget twice.
    assert [row[:3] for row in rungs] == [
        *[(3_000, None, 1)] * 4,
        *[(6_000, 6_000, 1)] * 2,
        *[(500, None, 2)] * 4,
    ]
    assert [row[3] for row in rungs] == pytest.approx(
        [*[0.001] * 4, *[0.001 / 3] * 2, *[0.003] * 4]
    )
    assert [row[4] for row in rungs] == [1, 2, 1, 2, 1, 2, 1, 9, 1, 9]
    summary = comparison.summary()
    sizes = [(size["tokens"], size["seeds"], size["weights"]) for size in summary["rungs"]]
    shapes = [mine.train.model, *(rung.model for rung in mine.compare.rungs)]
    assert sizes == [
        (1_000, [1, 2], shapes[0].parameters),  # type: ignore[union-attr]
        (3_000, [1, 2], shapes[1].parameters),  # type: ignore[union-attr]
        (500, [1, 9], shapes[2].parameters),  # type: ignore[union-attr]
    ]
    assert list(summary["rungs"][2]["arms"]) == ["selected", "random"]
    first, second, third = summary["agreement"]["arc"]
    assert [own["rungs"] for own in (first, second, third)] == [[0, 1], [0, 2], [1, 2]]
    assert (first["arms"], first["pairs"]) == (["selected", "random", "slow"], 3)
    assert (first["equally_ordered"], first["kendall_tau"]) == (1.0, 1.0)
    assert first["distinguishable"] == {"pairs": 3, "equally_ordered": 1.0}
    assert (second["arms"], second["pairs"]) == (["selected", "random"], 1)


def test_orders_that_differ_are_counted(
    tmp_path: Path, spied: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Selected wins at the recipe's size and loses at the rung; `other` is between."""
    train_all = spied.train_all

    def turned(specs: Sequence[Recipe], *_: object, **__: object) -> list[RunResult]:
        worse = {"s": 0.2, "random": 0.0}
        return [
            run_of(own.budget.tokens, {"arc": 1.0 + worse[str(own.budget.rank)]})
            if own.budget.tokens == 3_000
            else run
            for own, run in zip(specs, train_all(specs))
        ]

    monkeypatch.setattr(compare_module, "train_all", turned)
    comparison = compare(recipe(tmp_path, rungs=RUNGS[:1]), NoRunner())  # type: ignore[arg-type]
    (found,) = comparison.summary()["agreement"]["arc"]
    assert (found["equally_ordered"], found["kendall_tau"]) == (0.0, -1.0)
    assert found["distinguishable"] == {"pairs": 1, "equally_ordered": 0.0}
    assert comparison.rungs[0].summary()["verdict"]["selected"]["arc"]["words"] == "worse"


@pytest.mark.parametrize("short", [False, True])
def test_a_multiple_that_the_pool_cannot_fill_is_left_out_and_named(
    tmp_path: Path, short: bool, monkeypatch: pytest.MonkeyPatch, spied: Spied
) -> None:
    """No run repeats text to reach a multiple, also where `train.tokens` would allow it."""
    monkeypatch.setattr(compare_module, "curate", curating)
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(100, seed=5))
    write_jsonl(tmp_path / "arc.jsonl", [{"question": "What turns?", "answer": "A wheel."}])
    mine = recipe_of(
        tmp_path,
        4_000,
        budget={"allow_short": short},
        train={"tokens": 4_000},
        evaluate=["arc.jsonl"],
        compare={"seeds": [1, 2], "baseline_multiples": [1, 2, 8, 16]},
    )
    lines: list[str] = []
    made, left_out = curate_arms(plan_arms(mine), LocalRunner(1), lines.append)
    assert {(arm.name, arm.multiple) for arm in made} == {
        ("selected", 1.0),
        ("random", 1.0),
        ("random", 2.0),
    }
    assert [(own.multiple, own.tokens) for own in left_out] == [(8, 32_000), (16, 64_000)]
    held = made[next(iter(made))].pool.bytes
    assert held < 8 * 4_000 * 4 and "the pool" in left_out[0].reason
    assert [line for line in lines if line.startswith("left out: random at 8x, 32,000 tokens")]
    if short:
        return
    monkeypatch.setattr(compare_module, "run_spec", lambda settings, *_: settings)
    monkeypatch.setattr(
        compare_module,
        "train_all",
        lambda specs, *_, **__: [run_of(1, {"arc": 2.0 + 0.01 * own.seed}) for own in specs],
    )
    comparison = compare(mine, LocalRunner(1))
    assert [one["multiple"] for one in comparison.summary()["arms"]["random"]["left_out"]] == [
        8,
        16,
    ]
    assert sum(note.startswith("Left out: random at") for note in comparison.notes) == 2
    # The page has the verdict, and that so small a proof is below every validated scale.
    files = write_comparison(comparison)
    page = next(file for file in files if file.name == "report.html").read_bytes().decode()
    assert json.loads(files[0].read_bytes()) == json.loads(json.dumps(comparison.summary()))
    for words in ("not distinguishable", "below every validated scale", "Left out: random at 8x"):
        assert words in page


def test_a_rung_that_the_pool_cannot_fill_is_an_error(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(60, seed=5))
    rung = {"model": {"layers": 1, "width": 64, "heads": 2}, "tokens": 90_000}
    mine = recipe_of(tmp_path, 500, compare={"seeds": [1], "rungs": [rung]})
    with pytest.raises(BudgetError) as info:
        curate_arms(plan_arms(mine), LocalRunner(1))
    assert info.value.key == "compare.rungs.0.budget.tokens"
