from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from penstock.trainers.evaluation.examples import Example
from penstock.trainers.evaluation.scores import ExampleScores, Scores
from penstock.trainers.metrics import FILE, MetricsLog

EXAMPLES = [Example(context="q ", choices=("ab", "c")), Example(choices=("de",))]
NATS = [np.array([math.log(4), math.log(4)]), np.array([math.log(2)])]
SCORES = Scores({"arc": ExampleScores.of(EXAMPLES, np.full(2, math.log(16)), NATS)})


def test_an_evaluation_is_a_line_and_scalars(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(SCORES.line(7, 4096))
    (line,) = (tmp_path / FILE).read_text().splitlines()
    assert json.loads(line) == {
        "step": 7,
        "tokens": 4096,
        "evaluation": SCORES.to_json(),
    }
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    } == {
        "evaluation/bits_per_byte/arc": [(7, 0.75)],
        "evaluation/text_bits_per_byte/arc": [(7, pytest.approx(8 / 6))],
        # A half a character against a quarter.
        "evaluation/choice_probability/arc": [(7, pytest.approx(2 / 3))],
        "evaluation/margin/arc": [(7, 1.0)],
        "evaluation/accuracy/arc": [(7, 1.0)],
    }
