"""What a person sees while work goes on, and at its end: lines, bars and tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import rich.console
import rich.markup
import rich.table

from penstock.jobs.curate import Curated, said_of
from penstock.jobs.excerpts import excerpt, first_taken, some_left
from penstock.jobs.progress import follow_in_log, follow_on_terminal
from penstock.jobs.report import source_shares

if TYPE_CHECKING:  # they import PyTorch, which curating does not need
    from penstock.jobs.compare import Comparison
    from penstock.trainers.spec import OnMetrics, RunResult

__all__ = ["Console"]


class Console:
    """Progress on a terminal, plain log lines where there is none; always on stderr.

    Tables go to stdout, so that ``--json``'s last line is alone on it.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._err = rich.console.Console(stderr=True, highlight=False)
        self._out = rich.console.Console(highlight=False, stderr=quiet)
        self._start = time.monotonic()

    def progress(self, line: str) -> None:
        """One thing that happened."""
        elapsed = time.monotonic() - self._start
        self._err.print(rich.markup.escape(f"[{elapsed:7.1f} s] {line}"), soft_wrap=True)

    def say(self, line: str = "") -> None:
        """One line of the result."""
        self._out.print(rich.markup.escape(line), soft_wrap=True)

    def training(self) -> AbstractContextManager[OnMetrics]:
        """Follow runs: gives the callback that training reports its steps to."""
        if self._err.is_terminal:
            return follow_on_terminal(self._err, self.progress)
        return follow_in_log(self.progress)

    def curated(self, curated: Curated) -> None:
        """The accounting of a curated dataset."""
        summary = curated.summary()
        documents, tokens = summary["documents"], summary["tokens"]
        added = f", {documents['added']:,} added" if "added" in documents else ""
        dropped = ", ".join(f"{count:,} {rule}" for rule, count in documents["dropped_by"].items())
        self.say(
            f"{documents['read']:,} documents read{added}: {documents['kept']:,} kept, "
            f"{documents['dropped']:,} dropped{f' ({dropped})' if dropped else ''}, "
            f"{documents['quarantined']:,} quarantined"
        )
        for name, made in summary.get("rewrites", {}).items():
            self.say(said_of(name, made))
        if documents["quarantined"]:
            self.say(f"quarantined records, with their errors: {curated.corpus.path}/quarantine-*")
        if documents["dropped"]:
            what = "with their text" if curated.recipe.clean.keep_dropped else "with the rule"
            self.say(f"dropped documents, {what}: {curated.corpus.path}/dropped-*")
        if rate := summary.get("filter_rate"):
            self.say(
                f"BETR's law for {rate['flops']:.1e} FLOPs (6 x weights x tokens) keeps "
                f"{rate['law']:.2%} of the pool's tokens; this budget keeps {rate['budget']:.2%}"
            )
        self.say(f"{tokens['delivered']:,} of {tokens['requested']:,} tokens delivered")
        rows = [
            (
                row["source"],
                f"{100 * row['pool']:.1f} %",
                f"{100 * row['cut']:.1f} %",
                f"{row['documents']:,}",
            )
            for row in source_shares(curated)
        ]
        self.table(("source", "of the pool", "of the cut", "documents"), rows)
        self.say(f"shards  {summary['shards']}")
        self.say(f"digest  {summary['digest']}")

    def fate(self, fate: dict[str, Any]) -> None:
        """What is known of a document."""
        self.say(f"{fate['id']} ({fate['source']}): {fate['fate']}; {fate['why']}")
        for name, own in fate.get("scores", {}).items():
            if own["score"] is None:
                self.say(f"  score in {name}: none, so it is never taken")
            else:
                above = f"higher than {own['quantile']:.1%} of the documents"
                self.say(f"  score in {name}: {own['score']:.6g}, {above}")
        for key in ("file", "parent", "unit", "row", "tokens"):
            if fate.get(key) is not None:
                self.say(f"  {key}: {fate[key]}")
        if "sequences" in fate:
            first, last = fate["sequences"]
            self.say(f"  sequences: {first:,} to {last:,}, in {', '.join(fate['shards'])}")
        if "text" in fate:
            self.say(f"  text: {excerpt(fate['text'])}")

    def trained(self, result: RunResult) -> None:
        """What a run spent and reached."""
        self.say(f"{result.tokens:,} tokens, loss {result.loss:.4f}")
        if result.repeated_tokens:
            epochs = ", ".join(f"{name} {count:.2f}" for name, count in result.epochs.items())
            self.say(f"{result.repeated_tokens:,} of them read before; epochs: {epochs}")
        self.judged(result)

    def judged(self, result: RunResult) -> None:
        """What a run scored, with standard errors over examples."""
        for name, bits in result.bits_per_byte.items():
            line = f"{name}: {bits['mean']:.4f} ± {bits['stderr']:.4f} bits per byte"
            if accuracy := result.accuracy.get(name):
                line += (
                    f", {accuracy['mean']:.1%} ± {accuracy['stderr']:.1%} right by likelihood per "
                    f"byte ({accuracy['plain']:.1%} by likelihood, {accuracy['chance']:.1%} by "
                    "chance)"
                )
            self.say(line)

    def compared(self, comparison: Comparison) -> None:
        """The arms at equal tokens, and the multiplier."""
        if len(comparison.recipe.compare.seeds) == 1:
            self.say("one seed does not tell a difference from chance: see compare.seeds")
        for target in comparison.targets:
            rows = []
            judged = comparison.at_equal_tokens()[0].accuracy(target) is not None
            for point in [*comparison.at_equal_tokens(), *comparison.baseline()[1:]]:
                ahead = point.arm != comparison.recipe.compare.baseline
                multiplier = comparison.multiplier(target, point.arm) if ahead else ""
                rows.append(
                    (
                        point.arm if point.multiple == 1 else f"{point.arm} {point.multiple:g}x",
                        f"{point.tokens:,}",
                        _with_spread(point.mean(target), point.std(target), ".4f"),
                        *([_percent(point.accuracy(target))] if judged else []),
                        f"{multiplier:.2f}" if isinstance(multiplier, float) else multiplier,
                    )
                )
            names = ["arm", "tokens", "bits per byte", "token multiplier"]
            if judged:
                names.insert(3, "accuracy")
            self.table(names, rows, title=target)

    def looked(self, curated: Curated, count: int = 3) -> None:
        """What the cut takes first, and some of what it leaves."""
        for title, looks in (
            ("Taken first", first_taken(curated, count)),
            ("Left", some_left(curated, count)),
        ):
            self.say(f"\n{title}:")
            for look in looks:
                self.say(f"  {look.id} ({look.source})")
                self.say(f"    {look.excerpt()}")

    def table(
        self, names: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None
    ) -> None:
        """A table; the first column is words, the others are numbers."""
        table = rich.table.Table(title=title, title_justify="left")
        for number, name in enumerate(names):
            words = number == 0 or name == "state"
            table.add_column(name, justify="left" if words else "right", no_wrap=number > 0)
        for row in rows:
            table.add_row(*(rich.markup.escape(cell) for cell in row))
        width = None if self._out.is_terminal else 120
        self._out.print(table, width=width)

    def fail(self, message: str) -> None:
        """An error, on stderr, whole."""
        print(f"penstock: {message}", file=sys.stderr)


def _percent(accuracy: dict[str, Any] | None) -> str:
    return _with_spread(accuracy["mean"], accuracy["std"], ".1%") if accuracy else ""


def _with_spread(mean: float, spread: float | None, form: str) -> str:
    return f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"
