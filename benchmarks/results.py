"""Compare each selector with random at equal tokens, and scorers with labels of people.

    python benchmarks/results.py --data DIRECTORY [--work runs/results] [--tokens 800_000]

The directory has ``pool/*.zst``, ``targets/*.jsonl`` and ``labels/dclm_quality.jsonl``. Arms are
cut from one pool, trained at equal tokens over three seeds, and evaluated in bits per byte on
benchmarks that no selector read. Selectors with a target have ARC-Easy and OpenBookQA. PreSelect's
models are a ladder that is trained here. Finished artefacts are found again, so a stopped run can
be resumed.

The figures replace those between the two marks in ``docs/results.md``; the text around them stays.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Workspace
from penstock.jobs.build import build_columns
from penstock.jobs.compare import Comparison, Point, compare
from penstock.jobs.curate import Curated, curate
from penstock.jobs.plan import SELECTED
from penstock.jobs.selector_training import climb
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.classifiers.classifier import area_under_curve
from penstock.selectors.preselect import PreSelect

BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"

AIM = ("arc_easy.train.jsonl", "openbookqa.train.jsonl")
JUDGES = ("arc_easy.eval.jsonl", "lambada.eval.jsonl", "piqa.eval.jsonl")

TOGETHER: Mapping[str, Mapping[str, float]] = {
    "betr + preselect": {"betr": 0.5, "preselect": 0.5},
    "betr + ingenious": {"betr": 0.7, "ingenious": 0.3},
}


def main() -> None:
    """Make all that is missing, and write the page."""
    arguments = _arguments()
    began = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - began:7.1f} s] {line}", file=sys.stderr, flush=True)

    runner = LocalRunner()
    ladder = _recipe(arguments, {"preselect": _preselect()}, {"rank": "preselect"})
    started = time.monotonic()
    models = _climb(ladder, runner, progress)
    progress(f"the ladder is there after {time.monotonic() - started:.0f} s")
    recipe = _recipe(arguments, _selectors(arguments.data, models[-1]), {"rank": "betr"})
    made = {name: curate(_ranked(recipe, name), runner, progress) for name in recipe.select}
    agreement = dict(_agreement(arguments.data, recipe, made))
    comparison = compare(recipe, runner, progress)
    page = "\n".join(
        [
            *_settings(arguments, recipe),
            *_worth(comparison),
            *_composition(comparison, recipe),
            *_agreed(agreement),
        ]
    )
    _write(arguments.out, page)
    print(json.dumps({"arms": comparison.summary()["arms"], "auc": agreement}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="with pool/, targets/ and labels/, as above")
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--tokens", type=int, default=800_000, help="of each arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    if arguments.data is None:
        sys.exit(
            "the data is missing: give --data DIRECTORY with pool/*.zst, targets/*.jsonl of the "
            "benchmarks, and labels/dclm_quality.jsonl; `penstock demo` needs no data"
        )
    return arguments


def _recipe(
    arguments: argparse.Namespace, select: Mapping[str, Any], budget: Mapping[str, Any]
) -> Recipe:
    targets = arguments.data.resolve() / "targets"
    aimed = {
        name: {**spec, "target": [str(targets / file) for file in AIM]}
        if spec.pop("aims", False)
        else spec
        for name, spec in select.items()
    }
    arms: dict[str, Any] = {"random": {"budget": {"rank": "random"}}}
    arms |= {name: {"budget": {"rank": name}} for name in select if name != budget["rank"]}
    if len(select) > 1:
        arms |= {name: {"budget": {"rank": dict(rank)}} for name, rank in TOGETHER.items()}
    return parse_recipe(
        {
            "seed": 17,
            "work": str(arguments.work.resolve()),
            "corpus": [{"path": str(arguments.data.resolve() / "pool" / "*.zst")}],
            "select": aimed,
            "budget": {"tokens": arguments.tokens, **budget},
            "tokenizer": {"train": {"vocab_size": 4096, "sample_bytes": 8_000_000}},
            "shards": {"sequence_length": 256},
            "train": {
                "model": {"layers": 2, "width": 128, "heads": 4},
                "batch_tokens": 2048,
                "lr": 3e-3,
            },
            "evaluate": [str(targets / file) for file in JUDGES],
            "compare": {"arms": arms, "seeds": arguments.seeds, "baseline_multiples": [1, 2]},
        },
        Path(),
    )


def _preselect() -> dict[str, Any]:
    return {"use": "preselect", "aims": True, "ladder": True, "sample": 12_000}


def _selectors(data: Path, model: str) -> dict[str, Any]:
    """Return the selectors, with defaults if any; the language model is the ladder's best."""
    labels = str(data.resolve() / "labels" / "dclm_quality.jsonl")
    return {
        "betr": {"use": "betr", "aims": True},
        "preselect": _preselect(),
        "dsir": {"use": "dsir", "aims": True},
        "got-d": {"use": "got-d", "aims": True},
        "crisp": {"use": "crisp", "aims": True},
        "dclm": {"use": "dclm", "aims": True},
        "fineweb-edu": {"use": "fineweb-edu", "labels": labels},
        "perplexity": {"use": "perplexity", "model": model, "max_characters": 1024},
        "ccnet": {"use": "ccnet", "aims": True},
        "ingenious": {"use": "ingenious"},
        "kmq": {"use": "kmq", "quality": "betr"},
        "gist": {"use": "gist", "quality": "betr"},
        "semdedup": {"use": "semdedup"},
        "d4": {"use": "d4"},
    }


def _climb(recipe: Recipe, runner: LocalRunner, progress: Any) -> tuple[str, ...]:
    (column,) = build_columns(recipe)
    with Workspace.driving(recipe.work_directory) as workspace:
        climb(
            recipe,
            column,
            lambda own: curate(own, runner).shards,
            workspace,
            progress,
            runner.close,
        )
    assert isinstance(column.selector, PreSelect)
    return column.selector.readers


def _ranked(recipe: Recipe, name: str) -> Recipe:
    tree = recipe.model_dump(mode="json", by_alias=True)
    tree["budget"]["rank"] = name
    return parse_recipe(tree, Path())


# The page.


def _settings(arguments: argparse.Namespace, recipe: Recipe) -> Iterator[str]:
    train = recipe.train
    yield (
        f"{recipe.budget.tokens // 256 * 256:,} tokens an arm, seeds "
        f"{', '.join(map(str, recipe.compare.seeds))}; {train.model.layers} layers of "  # type: ignore[union-attr]
        f"{train.model.width}, batches of {train.batch_tokens:,} tokens, learning rate "  # type: ignore[union-attr]
        f"{train.lr:g}. Bits per byte, lower is better: mean ± standard deviation over seeds, and "
        "the difference from random, seed by seed, ± its standard error; in bold where that is "
        "more than twice its standard error."
    )


def _worth(comparison: Comparison) -> Iterator[str]:
    targets = comparison.targets
    yield ""
    yield f"| arm | {' | '.join(targets)} |"
    yield f"|---|{'---|' * len(targets)}"
    random = comparison.point(comparison.recipe.compare.baseline)
    points = sorted(
        comparison.at_equal_tokens(), key=lambda point: point.mean(comparison.targets[0])
    )
    for point in [*points, *comparison.baseline()[1:]]:
        name = _name(point, comparison)
        cells = [_cell(point, random, target) for target in targets]
        yield f"| {name} | {' | '.join(cells)} |"


def _name(point: Point, comparison: Comparison) -> str:
    name = str(comparison.recipe.budget.rank) if point.arm == SELECTED else point.arm
    return name if point.multiple == 1 else f"{name}, {point.multiple:g} times the tokens"


def _cell(point: Point, random: Point, target: str) -> str:
    cell = f"{point.mean(target):.3f} ± {point.bits(target)['std']:.3f}"
    if point is random:
        return cell
    apart = [
        own - other
        for own, other in zip(point.bits(target)["values"], random.bits(target)["values"])
    ]
    mean = statistics.fmean(apart)
    if len(apart) < 2:
        return f"{cell} ({mean:+.3f})"
    error = statistics.stdev(apart) / len(apart) ** 0.5
    difference = f"{mean:+.3f} ± {error:.3f}"
    return f"{cell} ({f'**{difference}**' if abs(mean) > 2 * error else difference})"


def _composition(comparison: Comparison, recipe: Recipe) -> Iterator[str]:
    """Yield the lines of a table on the first seed's cuts: documents, lengths and sources."""
    yield ""
    yield "What the cuts are made of, at the first seed:"
    yield ""
    yield "| arm | documents | tokens a document, median | largest sources |"
    yield "|---|---|---|---|"
    cuts = {}
    for point in comparison.at_equal_tokens():
        shards = Artefact.open(point.shards[0])
        cut = recipe.work_directory / "cut" / shards.manifest["inputs"]["cut"][:16]
        cuts[_name(point, comparison)] = Artefact.open(cut)
    for name, cut in sorted(cuts.items()):
        sizes = np.concatenate(
            [np.asarray(_column(cut, record.path, "tokens")) for record in cut.files]
        )
        delivered = cut.facts["delivered"]
        sources = sorted(cut.facts["by_source"].items(), key=lambda one: -one[1]["tokens"])[:3]
        largest = ", ".join(
            f"{source} {100 * tally['tokens'] / delivered:.0f} %" for source, tally in sources
        )
        yield f"| {name} | {len(sizes):,} | {np.median(sizes):.0f} | {largest} |"


def _column(artefact: Artefact, path: str, name: str) -> pa.ChunkedArray:
    import pyarrow.parquet as pq

    return pq.read_table(artefact.path / path, columns=[name])[name]


def _agreement(
    data: Path, recipe: Recipe, made: Mapping[str, Curated]
) -> Iterator[tuple[str, float]]:
    """Yield the area under the curve of each scorer, on pages that people labelled good or bad."""
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
        (column,) = [one for one in _columns(recipe, name) if one.name == name]
        if column.selector.kind == "set":
            continue
        model = curated.columns[name].manifest["inputs"]["model"]
        artefact = Artefact.open(recipe.work_directory / "model" / model[:16])
        if "auc" in artefact.facts and name == "fineweb-edu":  # it has seen these very labels
            yield f"{name}, by five folds", float(artefact.facts["auc"])
            continue
        column.selector.load(artefact.local() / "state")
        scores = np.nan_to_num(np.asarray(column.selector.score(documents)), nan=-np.inf)
        yield name, round(area_under_curve(scores, labels), 3)
    words = np.array([len(text.split()) for text in texts], float)
    yield "number of words", round(area_under_curve(words, labels), 3)


def _columns(recipe: Recipe, name: str) -> Sequence[Any]:
    tree = recipe.model_dump(mode="json", by_alias=True)
    tree["budget"]["rank"] = name
    return build_columns(parse_recipe(tree, Path()))


def _agreed(agreement: Mapping[str, float]) -> Iterator[str]:
    yield ""
    yield (
        "Agreement with 261 Common Crawl pages that people called good or bad: the area under the "
        "curve, known to 0.03."
    )
    yield ""
    yield "| scorer | area under the curve |"
    yield "|---|---|"
    for name, area in sorted(agreement.items(), key=lambda one: -one[1]):
        yield f"| {name} | {area:.3f} |"


def _write(path: Path, figures: str) -> None:
    """Put the figures in their place; a page without one gets them at its end."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    before, found, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if found else ""
    path.write_text(
        f"{before if found else text + chr(10)}{BEGIN}\n{figures}\n\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
