"""Numbers of tokens with letters, and shares of the pool."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.errors import RecipeError
from penstock.jobs.plan import Plan, plan_arms
from penstock.recipe import Recipe
from penstock.recipe_amounts import share_of
from penstock.recipe_file import load_recipe, parse_recipe
from tests.pools import documents, write_jsonl


def recipe(directory: Path = Path(), **keys: Any) -> Recipe:
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool.jsonl"}],
        "budget": {"tokens": 2_000, "rank": "random"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 32},
    }
    return parse_recipe({**tree, **keys}, directory)


def budget(tokens: object) -> Recipe:
    return recipe(budget={"tokens": tokens, "rank": "random"})


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("20M", 20_000_000), ("20 m", 20_000_000), ("1.5B", 1_500_000_000), ("2_000K", 2_000_000),
        ("0.001M", 1_000), ("3T", 3 * 10**12), ("20_000", 20_000), (20_000, 20_000),
    ],
)  # fmt: skip
def test_a_letter_is_the_same_integer(written: object, tokens: int) -> None:
    own = budget(written)
    assert own.budget.tokens == tokens
    assert own == budget(tokens)


@pytest.mark.parametrize(
    ("written", "share"),
    [("5%", "5%"), ("5.0 %", "5%"), ("100%", "100%"), ("0.5%", "0.5%"), ("12.50%", "12.5%")],
)
def test_a_share_has_one_form(written: str, share: str) -> None:
    own = budget(written)
    assert own.budget.tokens == share
    assert own.budget.count is None
    assert load_back(own) == own


def load_back(own: Recipe) -> Recipe:
    import yaml

    return parse_recipe(yaml.safe_load(own.to_yaml()), own.directory)


def test_shares_are_exact() -> None:
    assert share_of("0.7%") == Fraction(7, 1000)
    assert share_of(5) is None


@pytest.mark.parametrize(
    "written",
    ["1.2345K", "M", "5G", "-5M", "0", "0%", "101%", "%", "5%%", "five", "", "1e6M", -5, 0, 0.5],
)
def test_other_values_name_the_key(written: object) -> None:
    with pytest.raises(RecipeError) as raised:
        budget(written)
    assert raised.value.key == "budget.tokens"
    assert raised.value.expected


@pytest.mark.parametrize(
    ("written", "share"),
    [("5pct", "5%"), ("5 percent", "5%"), ("0.5 per cent", "0.5%"), (0.05, "5%"), ("five", None)],
)
def test_an_error_names_the_form_of_a_share(written: object, share: str | None) -> None:
    with pytest.raises(RecipeError) as raised:
        budget(written)
    assert "5%" in (raised.value.expected or "")
    assert (raised.value.fix or "").endswith(share or "")
    with pytest.raises(RecipeError) as raised:  # no share may be given here
        recipe(train={"tokens": "5pct"})
    assert "%" not in (raised.value.expected or "")


def test_the_other_counts_take_letters() -> None:
    own = recipe(
        train={"tokens": "1.5M", "batch_tokens": "4K"},
        compare={"rungs": [{"model": {"layers": 1, "width": 64, "heads": 1}, "tokens": "1K"}]},
    )
    assert (own.train.tokens, own.train.batch_tokens) == (1_500_000, 4_000)
    assert own.compare.rungs[0].tokens == 1_000


def test_what_needs_a_number_says_so() -> None:
    share = {"budget": {"tokens": "5%", "rank": "random", "shares": {"web": 0.5}}}
    with pytest.raises(RecipeError) as raised:
        recipe(**share, train={"mixture": [{"until": 0.5, "weights": {"web": 1}},
                                           {"weights": {"rest": 1}}]})  # fmt: skip
    assert raised.value.key == "train.mixture"
    rung = {"model": {"layers": 1, "width": 64, "heads": 1}, "tokens": 1_000}
    with pytest.raises(RecipeError) as raised:
        recipe(**share, compare={"rungs": [rung]})
    assert raised.value.key == "compare.rungs"


def test_arms_are_all_shares_or_all_numbers(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", documents(60))
    arms = {"random": {"budget": {"rank": "random"}}, "more": {"budget": {"tokens": "10%"}}}
    with pytest.raises(RecipeError) as raised:
        plan_arms(recipe(tmp_path, compare={"arms": arms}))
    assert raised.value.key == "compare.arms.more.budget.tokens"


@pytest.mark.slow
def test_a_share_and_its_number_are_one_cut(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", documents(300))
    (tmp_path / "r.yaml").write_text(
        "corpus: [{path: pool.jsonl}]\nbudget: {tokens: 12.5%, rank: random}\n"
        "tokenizer: {train: {vocab_size: 384}}\nshards: {sequence_length: 32}\n"
    )
    lines: list[str] = []
    share = penstock.curate(tmp_path / "r.yaml", runner="local", workers=1, progress=lines.append)
    per_token = Fraction(repr(share.tokenizer.facts["bytes_per_token"]))
    expected = int(Fraction(125, 1000) * share.pool.bytes / per_token)
    assert share.cut.facts["requested"] == expected
    assert share.cut.facts["delivered"] == expected // 32 * 32
    number = penstock.curate(
        load_recipe(tmp_path / "r.yaml", [f"budget.tokens={expected}"]), runner="local", workers=1
    )
    assert number.cut.fingerprint == share.cut.fingerprint
    assert number.shards.digest == share.shards.digest
    assert any("12.5%" in line and f"{expected:,}" in line for line in lines)


@pytest.mark.slow
def test_arms_of_a_share_have_equal_tokens(tmp_path: Path) -> None:
    """Also one that cleans otherwise, and so has another pool; a multiple is exact."""
    from contextlib import closing

    from penstock.jobs.compare import curate_arms
    from penstock.pipeline.runner import open_runner

    write_jsonl(tmp_path / "pool.jsonl", documents(300))
    own = recipe(
        tmp_path,
        budget={"tokens": "10%", "rank": "random"},
        compare={
            "arms": {
                "random": {"budget": {"rank": "random"}},
                "clean": {"clean": {"where": "bytes > 200"}},
            },
            "seeds": [1],
            "baseline_multiples": [1, 2],
        },
    )
    with closing(open_runner("local", 1)) as runner:
        curated, left_out = curate_arms(plan_arms(own), runner, lambda line: None, lambda: None)
    assert left_out == []
    requested = {
        (arm.name, arm.multiple): one.cut.facts["requested"] for arm, one in curated.items()
    }
    base = requested["selected", 1.0]
    assert requested == {
        ("selected", 1.0): base, ("random", 1.0): base, ("clean", 1.0): base,
        ("random", 2.0): 2 * base,
    }  # fmt: skip
    pools = {one.pool.bytes for one in curated.values()}
    assert len(pools) == 2


def test_a_plan_keeps_the_share(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", documents(60))
    plan = Plan.of(recipe(tmp_path, budget={"tokens": "10%", "rank": "random"}))
    assert plan.cut.budget.count is None
    assert plan.with_tokens(640).cut.config()["budget"]["tokens"] == 640
