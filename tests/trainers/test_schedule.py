from __future__ import annotations

import math

import pytest

from penstock.recipe import Train
from penstock.trainers.schedule import LearningRate, cosine, linear, rex


def test_golden_numbers() -> None:
    assert [rex(z) for z in (0, 0.5, 0.75, 1)] == pytest.approx([1, 2 / 3, 0.4, 0])
    assert [cosine(z) for z in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0])
    assert [linear(z) for z in (0, 0.25, 1)] == [1, 0.75, 0]


def test_the_rate_rises_then_falls_to_the_floor() -> None:
    train = Train(lr=1.0, min_lr=0.1, warmup=0.2, schedule="rex")
    rate = LearningRate.of(train, 1000)
    assert rate.at(0) == 0
    assert rate.at(100) == pytest.approx(0.5)
    assert rate.at(200) == pytest.approx(1)
    assert rate.at(600) == pytest.approx(0.1 + 0.9 * 2 / 3)
    assert rate.at(1000) == pytest.approx(0.1)


def test_no_warmup_starts_at_the_peak() -> None:
    rate = LearningRate.of(Train(lr=0.5, warmup=0.0, schedule="cosine"), 10)
    assert rate.at(0) == 0.5
    assert rate.at(5) == pytest.approx(0.25)
    assert math.isclose(rate.at(10), 0, abs_tol=1e-12)
