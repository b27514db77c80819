from __future__ import annotations

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from penstock.trainers.evaluation.choices import Accuracy
from penstock.trainers.evaluation.evaluator import Score, Scores
from penstock.trainers.metrics import FILE, MetricsLog

SCORES = Scores(
    bits_per_byte={"arc": Score(mean=1.5, stderr=0.1, bytes=9, examples=3)},
    accuracy={
        "arc": Accuracy(mean=0.25, stderr=0.2, plain=0.5, plain_stderr=0.3, chance=0.25, examples=3)
    },
)


def test_an_evaluation_is_a_line_and_scalars(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(SCORES.line(7, 4096))
    (line,) = (tmp_path / FILE).read_text().splitlines()
    assert json.loads(line) == {
        "step": 7,
        "tokens": 4096,
        "evaluation": SCORES.to_json(),
        "saved": False,
    }
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    } == {
        "evaluation/bits_per_byte/arc": [(7, 1.5)],
        "evaluation/accuracy/arc": [(7, 0.25)],
    }
