"""Golden numbers of SELECTORS paragraph 5, worked by hand, and what holds for any losses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.errors import SelectorError
from penstock.selectors.reweighting import LossReweighter, ScoredBatch, TrainingProgress
from penstock.selectors.reweighting.loss import STRATEGIES, standardised
from penstock.selectors.reweighting.schedule import Temperature

BUDGET = 1000


def moment(step: int = 50, tokens: int = 500) -> TrainingProgress:
    return TrainingProgress(step=step, tokens=tokens, budget=BUDGET)


def weights(losses: list[float] | np.ndarray, strategy: str, temperature: float = 1) -> np.ndarray:
    made = LossReweighter(strategy=strategy, temperature=temperature, warmup=0)
    return made.weights(ScoredBatch(losses=np.asarray(losses, float), moment=moment()))


def test_losses_are_put_between_minus_one_and_one() -> None:
    h = standardised(np.array([1.0, 2, 3, 4]))
    np.testing.assert_allclose(h, [-1, -1 / 3, 1 / 3, 1], rtol=1e-15)


@pytest.mark.parametrize(
    ("strategy", "temperature", "expected"),
    [
        ("linupper", 1, [0.1193, 0.2323, 0.3242, 0.3242]),
        ("linupper", 0.4, [0.0326, 0.1727, 0.3973, 0.3973]),
        ("quadratic", 1, [0.1457, 0.3543, 0.3543, 0.1457]),
        # f = (0, 8/9, 8/9, 0): e^(20/9) = 9.2269, over 2 * 10.2269.
        ("quadratic", 0.4, [0.0489, 0.4511, 0.4511, 0.0489]),
        ("extremes", 1, [0.3304, 0.1696, 0.1696, 0.3304]),
        # f = (1, 1/3, 1/3, 1): e^(5/3) = 5.2945, over 2 * 6.2945.
        ("extremes", 0.4, [0.4206, 0.0794, 0.0794, 0.4206]),
        # f = (0, 1/3, 2/3, 1): 1 + 1.3956 + 1.9477 + 2.7183 = 7.0616.
        ("upper", 1, [0.1416, 0.1976, 0.2758, 0.3849]),
        ("uniform", 1, [0.25] * 4),
        ("uniform", 0.4, [0.25] * 4),
    ],
)
def test_golden_weights(strategy: str, temperature: float, expected: list[float]) -> None:
    found = weights([1, 2, 3, 4], strategy, temperature)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5.1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-15)


def at_minus_one(count: int, tails: float = 0.0, block: int | None = None) -> float:
    """The weight of a sample one standard deviation below the mean over the mean weight."""
    random = np.random.default_rng(3)
    made = LossReweighter(temperature=0.4, warmup=0, tails=tails, block=block)
    found = []
    for _ in range(max(20, 8_000 // count)):
        losses = np.append(random.normal(size=count - 1), -1.0)
        found.append(made.weights(ScoredBatch(losses=losses, moment=moment()))[-1] * count)
    return float(np.mean(found))


def test_the_weight_of_a_loss_fades_with_the_batch_unless_bounds_are_quantiles() -> None:
    wide = [at_minus_one(count, 0) for count in (64, 512, 4096)]
    assert wide[0] + 0.04 < wide[1] < wide[2] - 0.03
    close = [at_minus_one(count, 0.077) for count in (64, 512, 4096)]
    assert max(close) - min(close) < 0.03
    h = standardised(np.array([0.0, 1, 2, 3, 100]), 0.25)
    np.testing.assert_allclose(h, [-1, -1, 0, 1, 1])


@pytest.mark.parametrize("count", [8, 64, 512, 4096])
def test_a_block_of_8_weighs_as_published_in_a_batch_of_any_size(count: int) -> None:
    whole = {8: 0.36, 64: 0.48, 512: 0.56, 4096: 0.62}
    assert at_minus_one(count) == pytest.approx(whole[count], abs=0.02)
    random, made = np.random.default_rng(4), LossReweighter(temperature=0.4, warmup=0, block=8)
    found = []
    for _ in range(8_000 // count):
        losses = random.normal(size=count)
        losses[::8] = -1  # one of each block
        own = made.weights(ScoredBatch(losses=losses, moment=moment()))
        assert own.sum() == pytest.approx(1)
        found.append(own[::8].mean() * count)
    assert float(np.mean(found)) == pytest.approx(0.36, abs=0.03)


def test_blocks_are_consecutive_and_nearly_equal() -> None:
    losses = np.array([1.0, 2, 3, 4, 10, 20, 30, 40, 5, 5])
    made = LossReweighter(temperature=0.4, warmup=0, block=4)
    found = made.weights(ScoredBatch(losses=losses, moment=moment()))
    parts = [losses[:5], losses[5:]]  # 2.5 blocks of 4 are two of 5
    expected = np.concatenate([weights(part, "linupper", 0.4) / 2 for part in parts])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Fewer samples than a block are one block.
    few = made.weights(ScoredBatch(losses=losses[:3], moment=moment()))
    np.testing.assert_allclose(few, weights(losses[:3], "linupper", 0.4), rtol=1e-12)
    assert made.identity()["block"] == 4 and "block" not in LossReweighter().identity()
    with pytest.raises(SelectorError) as info:
        LossReweighter(block=1)
    assert info.value.key == "block"


some_losses = st.lists(st.floats(0, 20), min_size=2, max_size=30).map(np.array)


@given(some_losses, st.floats(0.01, 100), st.floats(-5, 5), st.sampled_from(sorted(STRATEGIES)))
def test_weights_do_not_change_with_the_scale_of_losses(
    losses: np.ndarray, scale: float, offset: float, strategy: str
) -> None:
    assume(np.ptp(losses) > 1e-3)
    found = weights(scale * losses + offset, strategy, 0.4)
    np.testing.assert_allclose(found, weights(losses, strategy, 0.4), rtol=1e-6)


@given(some_losses, st.sampled_from(sorted(STRATEGIES)), st.randoms())
def test_weights_belong_to_samples_not_to_places(losses: np.ndarray, strategy: str, random) -> None:
    order = np.array(random.sample(range(len(losses)), len(losses)))
    found = weights(losses, strategy, 0.4)
    np.testing.assert_allclose(weights(losses[order], strategy, 0.4), found[order], rtol=1e-12)
    assert (found > 0).all()


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("losses", [[2.5] * 5, [7.0]])
def test_equal_losses_get_equal_weights(strategy: str, losses: list[float]) -> None:
    np.testing.assert_array_equal(weights(losses, strategy), np.full(len(losses), 1 / len(losses)))


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_high_temperature_is_uniform(strategy: str) -> None:
    np.testing.assert_allclose(weights([1, 2, 9, 4], strategy, 1e9), [0.25] * 4, rtol=1e-8)


def test_linupper_takes_no_notice_of_how_far_an_outlier_is_above_the_middle() -> None:
    found = weights([0, 0.1, 60, 100], "linupper")
    assert found[2] == found[3] > found[1] > found[0]


@pytest.mark.parametrize(
    ("warmup", "last_uniform", "first_weighed"),
    [
        (0.25, moment(1, 249), moment(1, 250)),
        ({"share": 0.25}, moment(1, 249), moment(1, 250)),
        ({"tokens": 30}, moment(9, 29), moment(9, 30)),
        ({"steps": 7}, moment(6, 999), moment(7, 0)),
    ],
)
def test_warmup_is_uniform_to_its_end(
    warmup: object, last_uniform: TrainingProgress, first_weighed: TrainingProgress
) -> None:
    made = LossReweighter(warmup=warmup)
    assert made.is_uniform(last_uniform) and not made.is_uniform(first_weighed)
    losses = np.array([1.0, 2, 3])
    early = made.weights(ScoredBatch(losses=losses, moment=last_uniform))
    late = made.weights(ScoredBatch(losses=losses, moment=first_weighed))
    assert np.ptp(early) == 0 < np.ptp(late)
    assert made.facts(last_uniform) == {} and made.facts(first_weighed) == {"temperature": 0.4}


def test_no_warmup_weighs_the_first_step() -> None:
    assert not LossReweighter(warmup=0).is_uniform(moment(0, 0))
    assert LossReweighter(strategy="uniform", warmup=0).is_uniform(moment(9, 900))


def test_the_temperature_falls_geometrically() -> None:
    made = Temperature.model_validate({"start": 100, "end": 1, "over": {"steps": 4}})
    found = [made.at(moment(step, 0)) for step in range(6)]
    assert found == pytest.approx([100, 31.6228, 10, 3.16228, 1, 1], rel=1e-5)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"strategy": "linuper"}, "strategy"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": {"end": 1}}, "temperature.start"),
        ({"temperature": {"start": -1, "end": 1, "over": 0.1}}, "temperature.start"),
        ({"temperature": {"start": 1, "end": 1, "over": 2}}, "temperature.over"),
        ({"temperature": {"from": 1}}, "temperature.from"),
        ({"warmup": -0.1}, "warmup"),
        ({"warmup": {"steps": 1, "tokens": 2}}, "warmup"),
        ({"warmup": {"tokens": 0.5}}, "warmup.tokens"),
        ({"warmup": True}, "warmup"),
    ],
)
def test_bad_parameters_are_named(keys: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        LossReweighter(**keys)
    assert info.value.key == key


def test_identity_and_protocol() -> None:
    assert LossReweighter().identity() != LossReweighter(temperature=1).identity()
    uniform = LossReweighter(strategy="uniform").identity()
    assert uniform == LossReweighter(strategy="uniform", temperature=3).identity()
