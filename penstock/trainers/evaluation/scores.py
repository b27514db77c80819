"""Metrics of an evaluation: a mean with its standard error, and the values of each example.

========================= =====================================================================
``bits_per_byte``         -log2 p of the answer given its question, over the answer's bytes; of
                          the text, where there is no question
``text_bits_per_byte``    -log2 p of question and answer as one text, over all its bytes
``choice_probability``    p of the right choice over the sum of p of all choices, where p is the
                          probability per character, exp(ln p(choice) / characters)
``margin``                bits per byte of the best wrong choice, less those of the right one
``accuracy``              share of examples whose right choice has the fewest bits per byte
========================= =====================================================================

The first two divide one sum by another, so models with different tokenizers can be compared, and a
long answer counts more than a short one. The last three are means over the examples with choices.
Small models are compared by ``bits_per_byte``: at small scale the likelihood of the right answer
ranks training data as well as any metric does, and the other three overtake it later (Magnusson et
al., *DataDecide*, 2025, whose ``norm_correct_prob_per_char`` and ``margin_per_char`` are the model
of the third and the fourth). The bits of a text reward a question's style, too.

A long choice is less likely than a short one whatever its meaning, so accuracy, like the margin,
divides by the length **in bytes**: a length in tokens depends on the words in a tokenizer's
vocabulary (Gao, *Multiple Choice Normalization in LM Evaluation*, 2021; ``acc_norm`` of lm-eval
counts characters, which are bytes in English). ``plain`` is the accuracy without the division.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.columnar import read_parquet
from penstock.errors import ArtefactError
from penstock.storage import atomic_file
from penstock.trainers.evaluation.examples import Example

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "SCHEMA",
    "ExampleScores",
    "Scores",
    "ratio_of_sums",
]

METRICS = ("bits_per_byte", "text_bits_per_byte", "choice_probability", "margin", "accuracy")

LOWER_IS_BETTER = frozenset({"bits_per_byte", "text_bits_per_byte"})

SCHEMA = pa.schema(
    [
        pa.field("bits", pa.float64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("text_bits", pa.float64(), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),
        pa.field("choices", pa.int32(), nullable=False),
        pa.field("choice_probability", pa.float64()),
        pa.field("margin", pa.float64()),
        pa.field("right", pa.bool_()),
        pa.field("plain_right", pa.bool_()),
    ]
)
"""One row an example, in the order of the file. ``bits`` and ``bytes`` are of the answer, or of the
text where there is no question; ``choices`` counts the answer too, and where it is 1 the columns
after it are null."""

_RATIOS = {"bits_per_byte": ("bits", "bytes"), "text_bits_per_byte": ("text_bits", "text_bytes")}
_MEANS = {"choice_probability": "choice_probability", "margin": "margin", "accuracy": "right"}


@dataclass(frozen=True, slots=True)
class ExampleScores:
    """A model's results on the examples of one evaluation."""

    table: pa.Table
    """Rows of :data:`SCHEMA`."""

    @classmethod
    def of(
        cls, examples: Sequence[Example], texts: np.ndarray, choices: Sequence[np.ndarray]
    ) -> ExampleScores:
        """Compute the metrics of each example.

        Args:
            examples: (n,).
            texts, choices: Nats, as :func:`.examples.example_nats` returns them.
        """
        rows = [
            {
                "bits": float(own[example.answer]) / math.log(2),
                "bytes": len(example.choices[example.answer].encode()),
                "text_bits": float(text) / math.log(2),
                "text_bytes": len(example.text.encode()),
                "choices": len(example.choices),
                **(_of_choices(example, own) if len(example.choices) > 1 else {}),
            }
            for example, text, own in zip(examples, texts, choices)
        ]
        return cls(pa.Table.from_pylist(rows, SCHEMA))

    @classmethod
    def read(cls, path: Path) -> ExampleScores:
        """Read a file of :meth:`write`.

        Raises:
            ArtefactError: It is damaged, or of another form.
        """
        table = read_parquet(path)
        if table.schema != SCHEMA:
            raise ArtefactError("not the results of an evaluation", file=path)
        return cls(table)

    def write(self, path: Path) -> None:
        """Write the table as Parquet."""
        with atomic_file(path) as sink:
            pq.write_table(self.table, sink, compression="zstd")

    def terms(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return what a metric is the ratio of: the mean is the sum of one over that of the other.

        Returns:
            Numerators and denominators, (m,) float64 each, of the m examples that the metric is
            defined for: bits and bytes; or values, and ones.
        """
        if metric in _RATIOS:
            values, weights = (_numbers(self.table[name]) for name in _RATIOS[metric])
            return values, weights
        values = _numbers(self.table[_MEANS[metric]].drop_null())
        return values, np.ones(len(values))

    def summary(self) -> dict[str, dict[str, float]]:
        """Compute the metrics that are defined for this evaluation.

        Returns:
            By metric ``mean``, ``stderr`` and ``examples``; of :data:`_RATIOS` ``bytes``, too; of
            the metrics of choices ``chance``, their value when all choices are equally likely; of
            accuracy ``plain`` and ``plain_stderr``, too.
        """
        found = {metric: self._measured(metric) for metric in METRICS}
        return {metric: values for metric, values in found.items() if values["examples"]}

    def _measured(self, metric: str) -> dict[str, float]:
        values, weights = self.terms(metric)
        count = len(values)
        if metric in _RATIOS:
            mean, stderr = ratio_of_sums(values, weights)
            return {
                "mean": mean,
                "stderr": stderr,
                "bytes": int(weights.sum()),
                "examples": count,
            }
        if not count:
            return {"examples": 0}
        sizes = _numbers(self.table["choices"])
        chance = 0.0 if metric == "margin" else float(np.mean(1 / sizes[sizes > 1]))
        if metric == "accuracy":
            plain = float(np.mean(_numbers(self.table["plain_right"].drop_null())))
            mean = float(np.mean(values))
            return {
                "mean": mean,
                "stderr": _binomial(mean, count),
                "plain": plain,
                "plain_stderr": _binomial(plain, count),
                "chance": chance,
                "examples": count,
            }
        mean, stderr = ratio_of_sums(values, weights)
        return {"mean": mean, "stderr": stderr, "chance": chance, "examples": count}


@dataclass(frozen=True, slots=True)
class Scores:
    """Results of a model, by the names of the evaluations."""

    examples: Mapping[str, ExampleScores]

    def to_json(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return :meth:`ExampleScores.summary` by metric and evaluation, for every metric."""
        found = {name: scores.summary() for name, scores in self.examples.items()}
        return {
            metric: {name: own[metric] for name, own in found.items() if metric in own}
            for metric in METRICS
        }

    def line(self, step: int, tokens: int) -> dict[str, Any]:
        """Return the line of ``metrics.jsonl``.

        Args:
            step: The last step that was taken.
            tokens: Tokens trained on until then.
        """
        return {"step": step, "tokens": tokens, "evaluation": self.to_json()}


def ratio_of_sums(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Compute the ratio of two sums and its standard error (Cochran 1977, eq. 6.9).

    Args:
        values, weights: (n,) float64. With weights of 1 the ratio is a mean, and the error that of
            the mean.
    """
    count, total = len(values), float(weights.sum())
    ratio = float(values.sum()) / total
    spread = float(np.square(values - ratio * weights).sum())
    return ratio, math.sqrt(spread * count / (count - 1)) / total if count > 1 else 0.0


def _of_choices(example: Example, nats: np.ndarray) -> dict[str, Any]:
    """Compute the metrics of an example with wrong choices; ``nats`` is (choices,)."""
    characters = np.array([len(choice) for choice in example.choices])
    bits = nats / math.log(2) / [len(choice.encode()) for choice in example.choices]
    likely = -nats / characters
    likely = np.exp(likely - likely.max())
    answer = example.answer
    return {
        "choice_probability": float(likely[answer] / likely.sum()),
        "margin": float(np.delete(bits, answer).min() - bits[answer]),
        # The first of equally likely choices is taken.
        "right": int(np.argmin(bits)) == answer,
        "plain_right": int(np.argmin(nats)) == answer,
    }


def _binomial(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    found: np.ndarray = pc.cast(column, pa.float64()).to_numpy()
    return found
