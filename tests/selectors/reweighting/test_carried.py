"""Carried weights: w times tokens, and documents without a score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RecipeError, ScoringError, SelectorError
from penstock.jobs.build import build_reweighter as build_for
from penstock.recipe import ReweightSpec
from penstock.recipe_file import parse_recipe
from penstock.selectors.registry import build_reweighter
from penstock.selectors.reweighting import (
    Carried,
    ScoredBatch,
    TrainingProgress,
    checked_weights,
)

MOMENT = TrainingProgress(step=7, tokens=70, budget=100)


def batch(carried: list[float], predicted: list[int]) -> ScoredBatch:
    return ScoredBatch(
        losses=np.full(len(carried), np.nan),
        moment=MOMENT,
        predicted=np.array(predicted),
        carried=np.array(carried, np.float32),
    )


def weights(own: ScoredBatch, **parameters: Any) -> np.ndarray:
    return checked_weights(Carried(**parameters).weights(own), own, "carried")


def test_importance_weights_by_hand() -> None:
    """CRISP's golden: documents of 10, 30 and 20 tokens in clusters of w = .2, 1/3 and 4."""
    found = weights(batch([0.2, 1 / 3, 4], [10, 30, 20]))
    np.testing.assert_allclose(found, np.array([2, 10, 80]) / 92, rtol=1e-6)


@given(st.lists(st.tuples(st.floats(1 / 64, 50, width=32), st.integers(1, 99)), min_size=1))
def test_a_token_counts_its_documents_weight(samples: list[tuple[float, int]]) -> None:
    carried, predicted = [one for one, _ in samples], [tokens for _, tokens in samples]
    found = weights(batch(carried, predicted))
    assert found.sum() == pytest.approx(1)
    per_token = found / predicted
    np.testing.assert_allclose(per_token / per_token[0], np.array(carried) / carried[0], rtol=1e-5)
    equal = weights(batch([2.5] * len(samples), predicted))
    np.testing.assert_allclose(equal, np.array(predicted) / sum(predicted))


def test_documents_without_a_score_count_as_given_and_are_told() -> None:
    own = batch([np.nan, 3.0, 0.0], [10, 10, 20])
    selector = Carried()
    np.testing.assert_allclose(selector.weights(own), [10, 30, 0])
    assert selector.facts(MOMENT) == {"missing_share": 0.25}
    np.testing.assert_allclose(weights(own, missing=0), [0, 1, 0])


@pytest.mark.parametrize("carried", [[-1.0, 2.0], [np.inf, 1.0], [0.0, 0.0]])
def test_scores_that_are_no_weights(carried: list[float]) -> None:
    with pytest.raises(ScoringError) as info:
        weights(batch(carried, [5, 5]))
    assert info.value.key == "train.reweight"


def test_it_weighs_documents_and_scores_no_batch_first() -> None:
    made = build_reweighter(ReweightSpec.model_validate({"use": "carried", "sample": "document"}))
    assert isinstance(made, Carried) and not made.is_uniform(MOMENT)
    assert made.requirements.carried and not made.requirements.losses
    for keys, key in (({}, "sample"), ({"sample": "document", "missing": -1}, "missing")):
        with pytest.raises(SelectorError) as info:
            build_reweighter(ReweightSpec.model_validate({"use": "carried", **keys}))
        assert info.value.key == f"train.reweight.{key}"


def test_a_recipe_says_what_is_carried(tmp_path: Path) -> None:
    tree = {
        "corpus": [{"path": "pool.txt"}],
        "select": {"w": {"use": "crisp"}},
        "budget": {"tokens": 1000, "rank": "random"},
        "train": {"reweight": {"use": "carried", "sample": "document"}},
    }
    with pytest.raises(SelectorError) as info:
        build_for(parse_recipe(tree, tmp_path))
    assert (info.value.key, info.value.fix) == (
        "train.reweight.use",
        "name a selector in shards.carry",
    )
    recipe = parse_recipe({**tree, "shards": {"carry": "w"}}, tmp_path)
    planned = build_for(recipe)
    assert planned is not None and planned.needs_carried
    for wrong in ("v", "random"):
        with pytest.raises(RecipeError) as error:
            parse_recipe({**tree, "shards": {"carry": wrong}}, tmp_path)
        assert error.value.key == "shards.carry"
