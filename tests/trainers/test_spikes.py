"""Loss spikes, by hand and in the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.trainers.metrics import MetricsLog, StepMetrics
from penstock.trainers.spikes import SpikeWatch, spike_above

BEFORE = [3.0, 2.9, 3.1, 2.8, 3.2] * 10
"""Median 3.0; distances to it 0, 0.1 and 0.2, of which the median is 0.1: 6 × 0.14826 = 0.88956."""


def test_a_spike_lies_six_deviations_above_the_median() -> None:
    assert spike_above(3.89, BEFORE) == 3.0
    assert spike_above(3.889, BEFORE) is None
    assert spike_above(0.0, BEFORE) is None, "below is none"
    assert spike_above(100.0, BEFORE[:49]) is None, "too few before it"
    assert spike_above(100.0, [3.0] * 26 + BEFORE[:24]) is None, "more than half are equal"


def test_only_the_last_hundred_steps_count() -> None:
    """A level that has risen is the level: its median is taken over once the old one has gone."""
    watch = SpikeWatch()
    random = np.random.default_rng(0)
    found = [watch.follow(3.0 + noise) is not None for noise in random.normal(0, 0.1, 300)]
    assert not any(found)
    found = [watch.follow(9.0 + noise) is not None for noise in random.normal(0, 0.1, 200)]
    assert found[:30] == [True] * 30 and not any(found[100:])
    assert watch.count == sum(found)


def line(step: int, loss: float) -> dict[str, object]:
    return StepMetrics(
        step=step,
        tokens=32 * (step + 1),
        loss=loss,
        lr=0.1,
        tokens_per_second=10.0,
        grad_norm=1.0,
        data="0",
        loader_seconds=0.0,
        mfu=0.1,
    ).line()


@pytest.mark.parametrize("resumed", [None, 56, 30])
def test_a_spike_is_in_the_line_in_a_note_and_counted(tmp_path: Path, resumed: int | None) -> None:
    """So it is in a run that resumes after the spike or before it."""
    losses = [*BEFORE, 3.0, 9.0, 9.5, *BEFORE]
    log = MetricsLog(tmp_path)
    for step, loss in enumerate(losses[: resumed and 60]):
        log.write(line(step, loss))
    log.close()
    if resumed is not None:
        log = MetricsLog(tmp_path, resumed)
        for step, loss in enumerate(losses[resumed:], resumed):
            log.write(line(step, loss))
        log.close()
    written = [json.loads(one) for one in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in written if one.get("spike")] == [51, 52]
    assert len(written) == len(losses) and log.spikes.count == 2 and log.last["step"] == 102
    notes = [json.loads(one)["note"] for one in (tmp_path / "notes.jsonl").read_text().splitlines()]
    assert len(notes) == (4 if resumed == 30 else 2)  # repeated steps repeat their notes
    assert "step 51" in notes[0] and "9.0000" in notes[0] and "3.0000" in notes[0]
