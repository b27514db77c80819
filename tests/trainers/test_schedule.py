from __future__ import annotations

import math

import pytest

from penstock.recipe import ScheduleOf, Train, Uba, Wsd
from penstock.trainers.schedule import cosine, learning_rate, linear, rex, uba, wsd


def test_golden_numbers() -> None:
    assert [rex(z) for z in (0, 0.5, 0.75, 1)] == pytest.approx([1, 2 / 3, 0.4, 0])
    assert [cosine(z) for z in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0])
    assert [linear(z) for z in (0, 0.25, 1)] == [1, 0.75, 0]
    assert [uba(0.5, phi) for phi in (0.5, 1, 5)] == pytest.approx([0.8, 2 / 3, 2 / 7])
    assert [wsd(z, 0.2) for z in (0, 0.8, 0.85, 0.9, 1)] == pytest.approx([1, 1, 0.75, 0.5, 0])


def test_uba_with_phi_2_is_the_cosine_and_a_smaller_phi_keeps_the_rate_higher() -> None:
    points = [number / 50 for number in range(51)]
    assert [uba(z, 2) for z in points] == pytest.approx([cosine(z) for z in points], abs=1e-12)
    for phi in (0.1, 0.5, 5):
        values = [uba(z, phi) for z in points]
        assert values == sorted(values, reverse=True)
        assert (values[0], values[-1]) == pytest.approx((1, 0), abs=1e-12)
        assert uba(0.5, phi) > uba(0.5, phi + 0.1)


def test_parameters_of_a_schedule_come_from_the_recipe() -> None:
    def half_way(schedule: object) -> float:
        train = Train.model_validate({"lr": 1.0, "warmup": 0.0, "schedule": schedule})
        return learning_rate(train, 100)(50)

    assert half_way("uba") == half_way({"uba": {}}) == pytest.approx(0.8)
    assert half_way({"uba": {"phi": 5}}) == pytest.approx(2 / 7)
    assert half_way("wsd") == half_way({"wsd": {}}) == 1
    assert half_way({"wsd": {"decay": 1}}) == pytest.approx(0.5)


def test_wsd_decays_over_a_share_of_all_tokens_to_the_floor() -> None:
    train = Train(lr=1.0, min_lr=0.1, warmup=0.5, schedule=ScheduleOf(wsd=Wsd(decay=0.25)))
    rate = learning_rate(train, 1000)
    assert [rate(tokens) for tokens in (250, 500, 750, 875, 1000)] == pytest.approx(
        [0.5, 1, 1, 0.55, 0.1]
    )


def test_every_schedule_of_the_recipe_ends_at_0() -> None:
    for schedule in ("rex", "uba", "cosine", "linear", "wsd", ScheduleOf(uba=Uba())):
        rate = learning_rate(Train(lr=1.0, warmup=0.1, schedule=schedule), 100)
        assert rate(10) == pytest.approx(1) and rate(100) == pytest.approx(0, abs=1e-12)


def test_the_rate_rises_then_falls_to_the_floor() -> None:
    train = Train(lr=1.0, min_lr=0.1, warmup=0.2, schedule="rex")
    rate = learning_rate(train, 1000)
    assert rate(0) == 0
    assert rate(100) == pytest.approx(0.5)
    assert rate(200) == pytest.approx(1)
    assert rate(600) == pytest.approx(0.1 + 0.9 * 2 / 3)
    assert rate(1000) == pytest.approx(0.1)


def test_no_warmup_starts_at_the_peak() -> None:
    rate = learning_rate(Train(lr=0.5, warmup=0.0, schedule="cosine"), 10)
    assert rate(0) == 0.5
    assert rate(5) == pytest.approx(0.25)
    assert math.isclose(rate(10), 0, abs_tol=1e-12)
