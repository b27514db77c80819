"""Results of runs that were not trained, with values for each example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from penstock.trainers.evaluation.scores import METRICS, SCHEMA, ExampleScores
from penstock.trainers.spec import RunResult

BYTES = (10, 20, 30, 40)


@dataclass(frozen=True, kw_only=True)
class GivenRun(RunResult):
    """A run whose answers' bits per byte are given; those of examples differ."""

    tables: dict[str, ExampleScores]

    def examples(self, evaluation: str) -> ExampleScores:
        return self.tables[evaluation]


def run_of(
    tokens: int, bits: dict[str, float], choices: bool = False, right: float = 0.5
) -> GivenRun:
    """Return a run with these bits per byte by evaluation, and its metrics of choices."""
    tables = {}
    for name, value in bits.items():
        rows = [
            {
                "bits": (value + (1 if number % 2 else -1) / size) * size,
                "bytes": size,
                "text_bits": 3.0 * size,
                "text_bytes": 2 * size,
                "choices": 2 if choices else 1,
                **(
                    {
                        "choice_probability": right + 0.1 * (number % 2),
                        "margin": right - 0.5,
                        "right": number < 4 * right,
                        "plain_right": True,
                    }
                    if choices
                    else {}
                ),
            }
            for number, size in enumerate(BYTES)
        ]
        tables[name] = ExampleScores(pa.Table.from_pylist(rows, SCHEMA))
    found = {name: table.summary() for name, table in tables.items()}
    return GivenRun(
        path=Path("run"),
        tokens=tokens,
        loss=1.0,
        seconds=1.0,
        tables=tables,
        **{
            metric: {name: own[metric] for name, own in found.items() if metric in own}
            for metric in METRICS
        },
    )
