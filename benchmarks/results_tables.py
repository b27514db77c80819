"""Tables of ``results.py``: differences from random with their intervals, by task and metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from penstock.artefact import Artefact
from penstock.jobs.comparison.agreement import agreement
from penstock.jobs.comparison.arms import ArmsAtSize, Point
from penstock.jobs.comparison.differences import UNCLEAR, Difference
from penstock.jobs.plan import SELECTED
from penstock.recipe import ModelShape
from penstock.trainers.evaluation.scores import LOWER_IS_BETTER

__all__ = [
    "agreement_table",
    "arms_table",
    "composition_table",
    "describe_size",
    "mean_difference",
    "metrics_table",
    "name_of",
]


def name_of(size: ArmsAtSize, point: Point) -> str:
    """Return the arm's name; of ``selected`` the column that ranks."""
    name = str(size.recipe.budget.rank) if point.arm == SELECTED else point.arm
    return name if point.multiple == 1 else f"{name}, {point.multiple:g} times the tokens"


def mean_difference(
    size: ArmsAtSize, point: Point, tasks: Sequence[str], metric: str = "bits_per_byte"
) -> Difference | None:
    """Return the difference from random on the mean of the tasks that have the metric."""
    found = [size.difference(point, task, metric) for task in tasks if point.measured(task, metric)]
    return Difference.mean(found) if found else None


def describe_size(size: ArmsAtSize) -> str:
    """Describe model, tokens and seeds in one line."""
    recipe, point = size.recipe, size.points[0]
    model = recipe.train.model
    assert isinstance(model, ModelShape)
    return (
        f"{point.tokens:,} tokens an arm, {model.layers} layers of {model.width} ("
        f"{model.parameters:,} weights without embeddings), batches of "
        f"{recipe.train.batch_tokens:,} tokens, learning rate {recipe.train.lr:g}, seeds "
        f"{', '.join(map(str, point.seeds))}."
    )


def arms_table(
    size: ArmsAtSize, aimed: Sequence[str], others: Sequence[str], multiplier: bool = True
) -> Iterator[str]:
    """Yield the lines of a table: each arm's difference on each task, best mean of aimed first."""
    heads = [*aimed, "mean of aimed", *others, "mean of others"]
    heads += [f"multiplier, {aimed[0]}"] if multiplier else []
    random = size.baseline()[0]
    values = ", ".join(f"{task} {random.mean(task):.3f}" for task in (*aimed, *others))
    yield f"Bits per byte of the answer, less random's, ± half of the interval. Random: {values}."
    yield ""
    yield f"| arm | {' | '.join(heads)} |"
    yield f"|---|{'---|' * len(heads)}"
    for point in _sorted(size, aimed):
        cells = []
        for tasks in (aimed, others):
            cells += [_cell(size.difference(point, task), True) for task in tasks]
            cells.append(_cell(mean_difference(size, point, tasks), True))
        if multiplier:
            own = point.multiple == 1
            cells.append(_multiplier_cell(size, point, aimed[0]) if own else "")
        yield f"| {name_of(size, point)} | {' | '.join(cells)} |"
    yield ""


def _multiplier_cell(size: ArmsAtSize, point: Point, task: str) -> str:
    """Return ``2.38 (2.10 to >4)``: the table is too wide for the words of the commands."""
    if point.arm == size.recipe.compare.baseline:
        return ""
    ends = size.multiplier_interval(task, point.arm) or ()
    first, *others = (
        own if isinstance(own, str) else f"{own:.2f}"
        for own in (size.multiplier(task, point.arm), *ends)
    )
    return f"{first} ({' to '.join(others)})" if others else first


def metrics_table(size: ArmsAtSize, aimed: Sequence[str], others: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table of three metrics on the means of aimed and of other tasks."""
    metrics = ("bits_per_byte", "choice_probability", "margin")
    groups = (("aimed", aimed), ("others", others))
    heads = [f"{metric.replace('_', ' ')}, {name}" for name, _ in groups for metric in metrics]
    yield f"| arm | {' | '.join(heads)} |"
    yield f"|---|{'---|' * len(heads)}"
    for point in _sorted(size, aimed):
        cells = [
            _cell(mean_difference(size, point, tasks, metric), metric in LOWER_IS_BETTER)
            for _, tasks in groups
            for metric in metrics
        ]
        yield f"| {name_of(size, point)} | {' | '.join(cells)} |"
    yield ""


def _sorted(size: ArmsAtSize, aimed: Sequence[str]) -> list[Point]:
    """Return the arms and the multiples of random, without random itself."""
    random = size.baseline()[0]
    means = {
        id(point): found.value if (found := mean_difference(size, point, aimed)) else 0.0
        for point in size.shown()
    }
    return sorted(
        (point for point in size.shown() if point is not random), key=lambda one: means[id(one)]
    )


def _cell(found: Difference | None, lower: bool) -> str:
    """Format a difference; bold where it is beyond its errors, with the word where it is worse."""
    if found is None:
        return ""
    text = f"{found.value:+.3f}"
    if found.margin is not None:
        text += f" ± {found.margin:.3f}"
    words = found.words(lower)
    return text if words == UNCLEAR else f"**{text}** {words}"


def composition_table(size: ArmsAtSize) -> Iterator[str]:
    """Yield the lines of a table on the first seed's cuts: documents, lengths and sources."""
    yield "| arm | documents | tokens a document, median | largest sources |"
    yield "|---|---|---|---|"
    for point in size.at_equal_tokens():
        shards = Artefact.open(point.shards[0])
        cut = Artefact.open(
            size.recipe.work_directory / "cut" / shards.manifest["inputs"]["cut"][:16]
        )
        columns = [
            pq.read_table(cut.path / record.path, columns=["tokens"]) for record in cut.files
        ]
        tokens = np.concatenate([np.asarray(table["tokens"]) for table in columns])
        sources = sorted(cut.facts["by_source"].items(), key=lambda one: -one[1]["tokens"])[:3]
        largest = ", ".join(
            f"{source} {100 * tally['tokens'] / cut.facts['delivered']:.0f} %"
            for source, tally in sources
        )
        yield f"| {name_of(size, point)} | {len(tokens):,} | {np.median(tokens):.0f} | {largest} |"
    yield ""


def agreement_table(sizes: Mapping[str, ArmsAtSize], tasks: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table on the order of arms at every two sizes."""
    yield (
        "| sizes | task | arms | pairs in one order | Kendall's tau | pairs beyond errors at both, "
        "in one order |"
    )
    yield "|---|---|---|---|---|---|"
    named = list(sizes.items())
    for number, (first, one) in enumerate(named):
        for second, other in named[number + 1 :]:
            for task in tasks:
                found: dict[str, Any] | None = agreement(one, other, task)
                if found is None:
                    continue
                tau, told = found["kendall_tau"], found["distinguishable"]
                share = f", {told['equally_ordered']:.0%}" if told["pairs"] else ""
                yield (
                    f"| {first}, {second} | {task} | {len(found['arms'])} | "
                    f"{found['equally_ordered']:.0%} of {found['pairs']} | "
                    f"{'' if tau is None else f'{tau:.2f}'} | {told['pairs']}{share} |"
                )
    yield ""
