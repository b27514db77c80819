"""UDS against the definition: whole logits, PyTorch's own transform, distances one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.errors import SelectorError
from penstock.selectors.reweighting import ScoredBatch, TrainingProgress, Uds
from penstock.selectors.reweighting.uds import FEATURES, nuclear_norm, transform

MOMENT = TrainingProgress(step=0, tokens=0, budget=1)


def batch(features: np.ndarray) -> ScoredBatch:
    return ScoredBatch(
        losses=np.ones(len(features)), moment=MOMENT, features=features.astype(np.float32)
    )


def features(*rows: tuple[float, list[float]]) -> np.ndarray:
    """(utility, the first coordinates of the projection), the others 0."""
    found = np.zeros((len(rows), FEATURES))
    for row, (utility, projected) in enumerate(rows):
        found[row, 0] = utility
        found[row, 1 : 1 + len(projected)] = projected
    return found


def test_golden_nuclear_norm() -> None:
    assert nuclear_norm(torch.diag(torch.tensor([3.0, 4.0]))).item() == pytest.approx(7, rel=1e-6)


def test_states_and_head_have_the_features_of_their_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randn(24, 6, generator=generator) for _ in range(3)]
    samples[1][5:] = 0
    head = torch.randn(200, 6, generator=generator)
    uds = Uds(seed=3)
    assert uds.requirements.describe is not None
    short = uds.describe(samples, head)
    whole = uds.describe([sample @ head.T for sample in samples], None)
    assert short.shape == (3, FEATURES)
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-2)
    for row, sample in zip(short, samples):
        singular = np.linalg.svd((sample @ head.T).numpy(), compute_uv=False)
        assert row[0].item() == pytest.approx(singular.sum(), rel=1e-4)


def test_the_projection_is_a_subsampled_randomised_fourier_transform() -> None:
    size, coordinates = 50, 7
    matrix = transform(size, coordinates, seed=5)
    # Its first row of the identity is the signs' first, at frequency 0 for all.
    signs = np.sign(matrix[0])
    assert np.ptp(signs) == 0
    draws = np.random.Philox(key=5).random_raw(2 * size)
    signs = np.where(draws[:size] >> np.uint64(63), -1.0, 1.0)
    picked = np.argsort(draws[size:], kind="stable")[:coordinates]
    x = np.random.default_rng(1).normal(size=size)
    expected = np.fft.fft(signs * x).real[picked] * np.sqrt(size / coordinates)
    np.testing.assert_allclose(x @ matrix, expected, rtol=1e-4, atol=1e-4)
    assert not np.array_equal(matrix, transform(size, coordinates, seed=6))


def test_distances_survive_the_projection_about() -> None:
    """The real part keeps half of the energy; 8 x 128 numbers keep it to a few per cent."""
    random = np.random.default_rng(0)
    length, words = 64, 512
    left, right = transform(length, 8, 1), transform(words, 128, 2)
    ratios = []
    for _ in range(40):
        x = random.normal(size=(length, words))
        ratios.append(np.sum((left.T @ x @ right) ** 2) / np.sum(x**2))
    # Plain sums: each side multiplies the energy by its size, the real part halves it.
    assert np.mean(ratios) == pytest.approx(length * words / 4, rel=0.35)
    assert np.std(ratios) / np.mean(ratios) < 0.1


def test_utility_decides_while_nothing_is_remembered() -> None:
    uds = Uds(share=0.5)
    found = uds.weights(batch(features((1, [9]), (4, [0]), (3, [0]), (2, [50]))))
    np.testing.assert_array_equal(found, [0, 0.5, 0.5, 0])


def test_diversity_is_the_mean_distance_to_the_memory() -> None:
    uds = Uds(share=0.5, alpha=0.1)
    uds.weights(batch(features((5, [3, 4]), (0, [100]))))
    assert uds.state()["memory"].shape == (1, 1024)
    uds.weights(batch(features((5, [0, 0]), (0, [100]))))
    # To (3, 4) and (0, 0): (0, 0) is at 2.5 on average, (6, 8) at 5 and 10, so at 7.5.
    close = batch(features((1.0, [0, 0]), (0.49, [6, 8])))
    np.testing.assert_array_equal(uds.weights(close), [1, 0])
    again = Uds(share=0.5, alpha=0.1)
    again.restore({"memory": features((0, [3, 4]), (0, [0, 0]))[:, 1:]})
    far = batch(features((1.0, [0, 0]), (0.51, [6, 8])))
    np.testing.assert_array_equal(again.weights(far), [0, 1])


def test_identical_samples_tie_and_the_first_is_taken() -> None:
    uds = Uds(share=0.3)
    uds.restore({"memory": np.random.default_rng(0).normal(size=(9, 1024))})
    same = np.repeat(features((2, [1, 2, 3])), 3, axis=0)
    np.testing.assert_array_equal(uds.weights(batch(same)), [1, 0, 0])


def test_the_memory_is_first_in_first_out_and_travels() -> None:
    uds = Uds(share=0.9, memory=3)
    for value in range(5):
        uds.weights(batch(features((1, [value]))))
    assert uds.state()["memory"][:, 0].tolist() == [2, 3, 4]
    other = Uds(share=0.9, memory=3)
    other.restore(uds.state())
    for one in (uds, other):
        one.weights(batch(features((1, [9]))))
    np.testing.assert_array_equal(uds.state()["memory"], other.state()["memory"])


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"share": 1}, "share"),
        ({"alpha": -1}, "alpha"),
        ({"memory": 0}, "memory"),
    ],
)
def test_bad_parameters_are_named(keys: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Uds(**keys)
    assert info.value.key == key
