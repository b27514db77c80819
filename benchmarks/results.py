"""Compare every selector with random: verdicts, controls, three metrics, three sizes.

    python benchmarks/results.py --data DIRECTORY [--work runs/results]     # a night, resumes
    python benchmarks/results.py --data DIRECTORY --parts pool,free         # some of its parts
    python benchmarks/results.py --tiny                                     # minutes, made-up data

The directory has ``pool/*.zst``, ``targets/*.jsonl`` and ``labels/dclm_quality.jsonl``. The pool is
cleaned and decontaminated. There are six tasks: three evaluation files, and a fifth by hash of id
of three target files, which no selector sees. Selectors with a target have ARC-Easy and the rest
of OpenBookQA; those two tasks are *aimed* at, the others are apart. The parts, in order:

1. ``pool``, ``free``: every selector, six combinations, controls and ``crisp`` as weights of
   losses, with the pool's shares of sources and with free ones, five seeds fixed beforehand,
   random at up to 8 times the tokens;
2. ``small``: all arms with fewer weights and tokens;
3. ``rate``: a third of the learning rate for the four best arms;
4. ``second``: the six best arms with more weights and tokens, random at up to 8 times;
5. ``third``: the two best arms with still more weights, random at 1 and 2;
6. ``order``: of the arms at the sizes that are asked for with it.

An arm that cannot be made (a selector refuses the data, or a source has too little for its share)
is left out and named with the reason. Finished artefacts are found again, so a stopped run
resumes. After each part its figures, which are between two marks of the page, are replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from results_data import Tasks, split_tasks, write_tiny_data
from results_tables import (
    agreement_table,
    arms_table,
    composition_table,
    describe_size,
    mean_difference,
    metrics_table,
)

from penstock.artefact import Artefact, Workspace
from penstock.errors import PenstockError
from penstock.jobs.build import build_columns
from penstock.jobs.compare import compare
from penstock.jobs.comparison.arms import ArmsAtSize
from penstock.jobs.comparison.results import Comparison
from penstock.jobs.curate import Curated, curate
from penstock.jobs.plan import SELECTED, Plan, recipes_of_arms
from penstock.jobs.selector_training import climb
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.classifiers.classifier import area_under_curve
from penstock.selectors.preselect import PreSelect

MARKS = ("<!-- part: {} -->", "<!-- end of part: {} -->")
"""The lines before and after each part of the page."""

PARTS = ("pool", "free", "small", "rate", "second", "third", "order")

FIRST = "betr"
"""The arm ``selected`` of every comparison."""

TOGETHER: Mapping[str, Mapping[str, float]] = {
    "betr + preselect": {"betr": 0.5, "preselect": 0.5},
    "betr + ingenious": {"betr": 0.7, "ingenious": 0.3},
    "betr + perplexity": {"betr": 0.7, "perplexity": 0.3},
    "dclm + ingenious": {"dclm": 0.7, "ingenious": 0.3},
    "dsir + fineweb-edu": {"dsir": 0.7, "fineweb-edu": 0.3},
    "preselect + ingenious": {"preselect": 0.7, "ingenious": 0.3},
}

WEIGHTED = "crisp as weights"
"""The arm that trains on random's cut, with the importance of `crisp` as weights of losses."""

CONTROLS = ("betr", "dclm", "preselect")
"""Selectors whose means by length and by source are arms, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Model and budget of one part."""

    shape: tuple[int, int, int]
    """Layers, width and heads."""
    tokens: int
    lr: float
    seeds: Sequence[int]
    multiples: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All sizes, and what a tiny run has smaller."""

    small: Size
    first: Size
    second: Size
    third: Size
    batch_tokens: int = 2048
    sequence_length: int = 256
    vocabulary: int = 4096
    clean: Mapping[str, Any] = field(
        default_factory=lambda: {
            "rules": ["gopher"],
            "where": "language == 'en' and language_probability > 0.65",
            "dedup": {"exact": True, "minhash": {}},
        }
    )
    preselect: Mapping[str, Any] = field(default_factory=lambda: {"ladder": True})
    reference_source: str = "wiki_en"
    """The source that `ccnet` reads like, as the published one does Wikipedia."""


FULL = Settings(
    small=Size(shape=(2, 64, 4), tokens=400_000, lr=3e-3, seeds=(1, 2, 3), multiples=(1,)),
    first=Size(
        shape=(2, 128, 4), tokens=800_000, lr=3e-3, seeds=(1, 2, 3, 4, 5), multiples=(1, 2, 4, 8)
    ),
    second=Size(
        shape=(4, 144, 4), tokens=2_000_000, lr=3e-3, seeds=(1, 2, 3), multiples=(1, 2, 4, 8)
    ),
    third=Size(shape=(5, 256, 4), tokens=2_000_000, lr=2e-3, seeds=(1, 2), multiples=(1, 2)),
)

TINY = Settings(
    small=Size(shape=(1, 16, 1), tokens=2_000, lr=1e-2, seeds=(1, 2), multiples=(1,)),
    first=Size(shape=(1, 32, 2), tokens=4_000, lr=1e-2, seeds=(1, 2), multiples=(1, 2, 4)),
    second=Size(shape=(1, 48, 2), tokens=9_000, lr=1e-2, seeds=(1, 2), multiples=(1, 2)),
    third=Size(shape=(2, 48, 2), tokens=9_000, lr=1e-2, seeds=(1, 2), multiples=(1, 2)),
    batch_tokens=512,
    sequence_length=64,
    vocabulary=512,
    clean={"dedup": {"exact": True}},
    preselect={
        "ladder": {"shapes": [[1, 16, 1], [1, 32, 1]], "tokens": [2_000, 6_000, 20_000]},
        "sample": 600,
        "max_characters": 300,
    },
    reference_source="school",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all parts share."""

    data: Path
    work: Path
    tasks: Tasks
    settings: Settings
    runner: LocalRunner
    progress: Callable[[str], None]
    only: Sequence[str] = ()
    """Names of the arms beside :data:`FIRST`; empty for all."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Arms that could not be made, with the reason."""

    @property
    def aimed(self) -> list[str]:
        """Names of the tasks that selectors with a target aim at."""
        return [path.name.partition(".jsonl")[0] for path in self.tasks.aimed]

    @property
    def others(self) -> list[str]:
        """Names of the other tasks."""
        return [path.name.partition(".jsonl")[0] for path in self.tasks.others]

    # -- recipes --------------------------------------------------------------------------------

    def selectors(self, model: str | None) -> dict[str, dict[str, Any]]:
        """Return the selectors, with defaults if any; ``model`` is the ladder's best."""
        target = {"target": [str(path) for path in self.tasks.aim]}
        labels = str(self.data / "labels" / "dclm_quality.jsonl")
        found: dict[str, dict[str, Any]] = {
            "betr": target,
            "preselect": {**target, **self.settings.preselect},
            "dsir": target,
            "dclm": target,
            "got-d": target,
            "crisp": target,
            "fineweb-edu": {"labels": labels},
            "perplexity": {"model": model, "max_characters": 1024},
            "ccnet": {"source": self.settings.reference_source},
            "ingenious": {},
            "kmq": {"quality": "betr"},
            "gist": {"quality": "betr"},
            "semdedup": {},
            "d4": {},
        }
        if model is None:
            del found["preselect"], found["perplexity"]
        named = {name: {"use": name, **spec} for name, spec in found.items()}
        for name in CONTROLS:
            if name in named:
                for by in ("length", "source"):
                    named[f"{name}_by_{by}"] = {"use": "mean_of", "column": name, "by": by}
        return named

    def importance(self, arms: Sequence[str]) -> dict[str, Any]:
        """Return the column of :data:`WEIGHTED`, if that is among the arms."""
        target = [str(path) for path in self.tasks.aim]
        crisp = {"use": "crisp", "gives": "weight", "target": target}
        return {"importance": crisp} if WEIGHTED in arms else {}

    def recipe(
        self,
        size: Size,
        select: Mapping[str, Any],
        arms: Sequence[str],
        shares: str | None,
        lr: float = 1.0,
    ) -> Recipe:
        """Return the recipe of a part.

        Args:
            size: Model and budget.
            select: The selectors.
            arms: Names of selectors, of :data:`TOGETHER` and :data:`WEIGHTED`, beside
                :data:`FIRST` and random.
            shares: ``pool``, or None for free shares.
            lr: Factor of the learning rate.
        """
        own = {name: _arm(name) for name in arms if name != FIRST}
        layers, width, heads = size.shape
        return parse_recipe(
            {
                "seed": 17,
                "work": str(self.work),
                "corpus": [{"path": str(self.data / "pool" / "*.zst")}],
                "clean": dict(self.settings.clean),
                "select": {**select, **self.importance(arms)},
                "budget": {
                    "tokens": size.tokens,
                    "rank": FIRST,
                    **({"shares": shares} if shares else {}),
                },
                "tokenizer": {
                    "train": {"vocab_size": self.settings.vocabulary, "sample_bytes": 8_000_000}
                },
                "shards": {"sequence_length": self.settings.sequence_length},
                "train": {
                    "model": {"layers": layers, "width": width, "heads": heads},
                    "batch_tokens": self.settings.batch_tokens,
                    "lr": size.lr * lr,
                },
                "evaluate": [str(path) for path in (*self.tasks.aimed, *self.tasks.others)],
                "compare": {
                    "arms": {
                        "random": {"budget": {"rank": "random"}},
                        **own,
                    },
                    "seeds": list(size.seeds),
                    "baseline_multiples": list(size.multiples),
                },
            },
            Path(),
        )

    # -- parts ----------------------------------------------------------------------------------

    def ladder(self) -> str | None:
        """Train PreSelect's models; return the best one's directory, None where that fails."""
        try:
            _, selector = self.read_by_ladder()
            return selector.readers[-1]
        except PenstockError as error:
            self.left_out["preselect, perplexity"] = str(error)
            return None

    def read_by_ladder(self) -> tuple[Recipe, PreSelect]:
        """Train PreSelect's models, or find them; return its recipe, and it with the models."""
        select = {"preselect": self.selectors("none")["preselect"]}
        first = {FIRST: self.selectors(None)[FIRST]}
        tree = self.recipe(self.settings.first, first, [], None).model_dump(mode="json")
        tree |= {"select": select, "compare": {}}
        tree["budget"]["rank"] = "preselect"
        own = parse_recipe(tree, Path())
        (column,) = build_columns(own)
        with Workspace.driving(own.work_directory) as workspace:
            climb(
                own,
                column,
                lambda one: curate(one, self.runner).shards,
                workspace,
                self.progress,
                self.runner.close,
            )
        assert isinstance(column.selector, PreSelect)
        return own, column.selector

    def makeable(
        self, select: Mapping[str, Any], arms: Sequence[str], shares: str | None
    ) -> dict[str, Curated]:
        """Cut every arm at the first seed; those that fail are left out and named."""
        found = {}
        for name in (FIRST, *arms):
            own = self.recipe(self.settings.first, select, [name], shares)
            recipes = {arm.name: one for arm, one in reversed(recipes_of_arms(own).items())}
            try:
                plan = Plan.of(recipes[SELECTED if name == FIRST else name])
                found[name] = curate(plan, self.runner, self.progress)
            except PenstockError as error:
                if name == FIRST:
                    raise
                self.left_out[f"{name}, {shares or 'free'} shares"] = str(error)
                self.progress(f"left out: {name}: {error}")
        return found

    def compared(self, recipe: Recipe) -> Comparison:
        """Train the arms of a recipe."""
        return compare(recipe, self.runner, self.progress)

    def best(self, size: ArmsAtSize, count: int) -> list[str]:
        """Return the arms with the best mean on the aimed tasks, without controls and random."""
        means = {
            point.arm: found.value
            for point in size.at_equal_tokens()
            if point.arm != "random"
            and "_by_" not in point.arm
            and (found := mean_difference(size, point, self.aimed))
        }
        ranked = sorted(means, key=lambda name: (means[name], name))[:count]
        return [FIRST if name == SELECTED else name for name in ranked]


def main() -> None:
    """Make all that is missing, and write the page after each part."""
    arguments = _arguments()
    began = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - began:7.1f} s] {line}", file=sys.stderr, flush=True)

    work = arguments.work.resolve()
    data = work / "tiny-data" if arguments.tiny else arguments.data.resolve()
    if arguments.tiny and not (data / "targets").exists():
        write_tiny_data(data)
    bench = Bench(
        data=data,
        work=work,
        tasks=split_tasks(data / "targets", work / "tasks"),
        settings=TINY if arguments.tiny else FULL,
        runner=LocalRunner(),
        progress=progress,
        only=arguments.arms,
    )
    first = bench.settings.first
    first = replace(
        first,
        multiples=arguments.multiples or first.multiples,
        seeds=arguments.seeds or first.seeds,
    )
    bench = replace(bench, settings=replace(bench.settings, first=first))
    for name, lines in _parts(bench, arguments.parts):
        if name not in arguments.parts:  # it was made for another one
            continue
        left = [f"- {arm}: {reason}" for arm, reason in bench.left_out.items()]
        _write(arguments.out, name, [*lines, *(["Left out:", "", *left, ""] if left else [])])
        bench.left_out.clear()
        progress(f"written: {arguments.out}: {name}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="with pool/, targets/ and labels/, as above")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, help="the page; with --tiny one in the work directory")
    parser.add_argument("--tiny", action="store_true", help="on a small made-up pool")
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=PARTS,
        help=f"parts to write, of {','.join(PARTS)}; what they need is made, too",
    )
    parser.add_argument(
        "--arms",
        type=lambda text: text.split(","),
        default=(),
        help=f"arms beside {FIRST} and random; all by default",
    )
    for name, default in (("multiples", "1,2,4,8"), ("seeds", "1,2,3,4,5")):
        parser.add_argument(
            f"--{name}",
            type=lambda text: tuple(map(int, text.split(","))),
            help=f"of the parts pool and free: {default} by default",
        )
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.tiny:
        sys.exit(
            "the data is missing: give --data DIRECTORY with pool/*.zst, targets/*.jsonl of the "
            "benchmarks, and labels/dclm_quality.jsonl, or --tiny; `penstock demo` needs no data"
        )
    if unknown := set(arguments.parts) - set(PARTS):
        sys.exit(f"--parts: {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    arguments.work = arguments.work or Path("runs/tiny" if arguments.tiny else "runs/results")
    page = arguments.work / "results.md" if arguments.tiny else Path("docs/results.md")
    arguments.out = arguments.out or page
    return arguments


def _parts(bench: Bench, wanted: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of each wanted part when it is made."""
    settings, aimed, others = bench.settings, bench.aimed, bench.others
    select = bench.selectors(bench.ladder())
    arms = [name for name in select if name != FIRST]
    arms += [name for name, rank in TOGETHER.items() if set(rank) <= set(select)]
    arms.append(WEIGHTED)
    if unknown := set(bench.only) - {*arms}:
        sys.exit(f"--arms: {', '.join(sorted(unknown))}: expected some of {', '.join(arms)}")
    arms = [name for name in arms if not bench.only or name in bench.only]
    first: dict[str | None, Comparison] = {}
    for part, shares, title in (
        ("pool", "pool", "The pool's shares of sources"),
        ("free", None, "Free shares"),
    ):
        if part not in wanted and (part == "free" or {*wanted} <= {"free"}):
            continue
        # By source and with fixed shares, a control is random.
        own = [name for name in arms if not (shares and name.endswith("_by_source"))]
        made = bench.makeable(select, own, shares)
        kept = [name for name in own if name in made]
        size = first[shares] = bench.compared(bench.recipe(settings.first, select, kept, shares))
        yield (
            part,
            [
                f"### {title}",
                "",
                describe_size(size),
                "",
                *(f"{note}\n" for note in size.notes),
                *arms_table(size, aimed, others),
                "Three metrics, less random's, on the mean of the aimed tasks and of the others:",
                "",
                *metrics_table(size, aimed, others),
                "What the cuts are made of, at the first seed:",
                "",
                *composition_table(size),
                *(_agreed(bench, size.recipe, made) if shares is None else ()),
            ],
        )
    if {*wanted} <= {"pool", "free"}:
        return
    size = first["pool"]
    best = bench.best(size, 6)
    all_arms = [point.arm for point in size.at_equal_tokens() if point.arm in arms]
    sizes: dict[str, ArmsAtSize] = {"first": size}
    for name, title, own, factor, chosen in (
        ("small", "All arms at a smaller size", settings.small, 1.0, [FIRST, *all_arms]),
        ("rate", "A third of the learning rate", settings.first, 1 / 3, best[:4]),
        ("second", "Second size", settings.second, 1.0, best),
        ("third", "Third size", settings.third, 1.0, best[:2]),
    ):
        if name not in wanted:
            continue
        few = own if factor == 1 else _with_few(own)
        own_arms = chosen if FIRST in chosen else chosen[:-1]  # which is an arm of each comparison
        made = bench.recipe(few, select, own_arms, "pool", factor)
        sizes[name] = bench.compared(made)
        yield (
            name,
            [
                f"### {title}",
                "",
                describe_size(sizes[name]),
                "",
                *arms_table(sizes[name], aimed, others, multiplier=factor == 1),
            ],
        )
    if "order" not in wanted:
        return
    tasks = [*aimed, *others]
    yield "order", ["### Order of the arms at two sizes", "", *agreement_table(sizes, tasks)]


def _arm(name: str) -> dict[str, Any]:
    """Return what an arm of this name changes in the recipe."""
    if name != WEIGHTED:
        return {"budget": {"rank": TOGETHER.get(name, name)}}
    return {
        "budget": {"rank": "random"},
        "shards": {"carry": "importance"},
        "train": {"reweight": {"use": "carried", "sample": "document"}},
    }


def _with_few(size: Size) -> Size:
    return Size(
        shape=size.shape, tokens=size.tokens, lr=size.lr, seeds=size.seeds[:2], multiples=(1,)
    )


def _agreed(bench: Bench, recipe: Recipe, made: Mapping[str, Curated]) -> Iterator[str]:
    """Yield the lines of a table: how scorers agree with pages that people called good or bad."""
    areas = dict(_agreement(bench.data, recipe, made))
    yield "Agreement with pages that people called good or bad: the area under the curve."
    yield ""
    yield "| scorer | area under the curve |"
    yield "|---|---|"
    for name, area in sorted(areas.items(), key=lambda one: (-one[1], one[0])):
        yield f"| {name} | {area:.3f} |"
    yield ""


def _agreement(
    data: Path, recipe: Recipe, made: Mapping[str, Curated]
) -> Iterator[tuple[str, float]]:
    path = data / "labels" / "dclm_quality.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    labels = np.array([bool(row["label"]) for row in rows])
    texts = [row["text"] for row in rows]
    documents = pa.record_batch(
        {
            "id": [f"label-{number}" for number in range(len(rows))],
            "text": pa.array(texts, pa.large_string()),
            "source": ["labels"] * len(rows),
        }
    )
    for name, curated in made.items():
        if name not in recipe.select or name not in curated.columns:
            continue
        tree = recipe.model_dump(mode="json", by_alias=True)
        tree["budget"]["rank"], tree["compare"] = name, {}
        columns = {one.name: one for one in build_columns(parse_recipe(tree, Path()))}
        selector = columns[name].selector
        if selector.kind != "scorer":
            continue
        model = curated.columns[name].manifest["inputs"]["model"]
        artefact = Artefact.open(recipe.work_directory / "model" / model[:16])
        if "auc" in artefact.facts and name == "fineweb-edu":  # it has seen these very labels
            yield f"{name}, by five folds", float(artefact.facts["auc"])
            continue
        selector.load(artefact.local() / "state")
        scores = np.nan_to_num(np.asarray(selector.score(documents)), nan=-np.inf)
        yield name, round(area_under_curve(scores, labels), 3)
    words = np.array([len(text.split()) for text in texts], float)
    yield "number of words", round(area_under_curve(words, labels), 3)


def _write(path: Path, part: str, lines: Sequence[str]) -> None:
    """Put a part in its place; a page without it gets it after its other parts, or at its end."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    begin, end = (mark.format(part) for mark in MARKS)
    figures = "\n".join([begin, "", *lines, end]) + "\n"
    if begin in text:
        before, _, rest = text.partition(begin)
        after = rest.partition(end + "\n")[2]
    else:
        ends = [MARKS[1].format(name) + "\n" for name in PARTS]
        place = max((text.index(mark) + len(mark) for mark in ends if mark in text), default=None)
        before = text[:place].rstrip("\n") + "\n\n"
        after = "" if place is None else text[place:]
    path.write_text(before + figures + after, encoding="utf-8")


if __name__ == "__main__":
    main()
