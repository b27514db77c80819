"""Output of the commands: progress lines and bars on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import rich.table

from penstock.artefact import Artefact
from penstock.display import numbered
from penstock.jobs.column_warnings import describe_constant
from penstock.jobs.compared_values import describe_values
from penstock.jobs.curate import Curated
from penstock.jobs.progress import follow_in_log, follow_on_terminal
from penstock.jobs.progress_lines import ProgressLines
from penstock.jobs.reasons import describe_reasons
from penstock.jobs.report.excerpts import excerpt, first_taken, some_left
from penstock.jobs.rewritings import describe_rewriting
from penstock.jobs.stage_lines import describe_overlap, describe_rewrite
from penstock.jobs.terminal import LineConsole, write_json
from penstock.pipeline.cleaning.quarantine import quarantined_by_file
from penstock.pipeline.pool import pools_of
from penstock.pipeline.units import generations
from penstock.recipe import Recipe
from penstock.storage import AnyPath

if TYPE_CHECKING:  # they import PyTorch, which curating does not need
    from penstock.jobs.clean import Cleaned
    from penstock.jobs.comparison.results import Comparison
    from penstock.jobs.export import Exported
    from penstock.trainers.spec import RunResult

__all__ = ["Console"]


_SHORT, _NAMES, _WIDE = 16, 32, 200
"""Characters of a cell that is not wrapped, of the first column at least, and of a table that goes
to a file or a pipe."""

_FILES = 3
"""Files of a quarantine in a line, those with most records."""


class Console:
    """Progress as bars on a terminal and as log lines elsewhere; results as lines and tables.

    Args:
        json_to: A stream for the JSON object of the result, which is alone there: all other lines
            are written to stderr. None for no JSON.
    """

    def __init__(self, json_to: IO[str] | None = None) -> None:
        self._err = LineConsole(stderr=True, highlight=False)
        self._out = LineConsole(highlight=False, stderr=json_to is not None)
        self._json_to = json_to
        self._progress = ProgressLines(self._err)

    def working(self, name: str) -> AbstractContextManager[None]:
        """Print a line where the work inside is silent for three seconds."""
        return self._progress.working(name)

    def asking(self) -> AbstractContextManager[None]:
        """Print no line of :meth:`working` inside, while a question waits for its answer."""
        return self._progress.asking()

    def progress(self, line: str) -> None:
        """Print an event with the seconds since the start."""
        self._progress.write(line)

    def write(self, line: str = "") -> None:
        """Print a line of the result."""
        self._progress.end_status()
        self._out.write_line(line)

    def text(self, lines: str) -> None:
        """Print a text of our own that has several lines, and an empty line before it."""
        for line in ("", *lines.split("\n")):
            self.write(line)

    def result(self, value: dict[str, Any]) -> None:
        """Print the result as JSON, if that is wanted."""
        if self._json_to:
            self._progress.end_status()
            write_json(value, self._json_to)

    def follow(self, job: Callable[..., Any], recipe: Recipe | Path, **running: Any) -> Any:
        """Run a job that trains, with bars on a terminal and log lines elsewhere."""
        following = follow_in_log(self.progress)
        if self._err.is_terminal:
            following = follow_on_terminal(self._err, self.progress, self._progress.heard)
        with self._progress.beside_bars(), following as on_metrics:
            return job(recipe, progress=self.progress, on_metrics=on_metrics, **running)

    def exported(self, exported: Exported) -> None:
        """Print where an export is, and its sizes."""
        made = exported.summary()
        counts = f"{numbered(made['documents'], 'document')}, {made['tokens']:,} tokens"
        self.write(f"{made['format']}: {counts}, {made['bytes']:,} bytes in {made['out']}")

    def curated(self, curated: Curated, arm: str = "") -> None:
        """Print the accounting of a curated dataset, and of which arm of a comparison it is."""
        if arm:
            self.write(f"{arm}:")
        summary = curated.summary()
        documents, tokens = summary["documents"], summary["tokens"]
        self.accounted(documents, curated.corpus)
        for name, made in summary.get("rewrites", {}).items():
            self.write(describe_rewrite(name, made))
        if documents["dropped"]:
            paths = ", ".join(str(pool.verdicts.path) for pool in pools_of(curated.pool))
            self.write(f"the reason of each dropped document: {paths}")
        if rate := summary.get("filter_rate"):
            self.write(
                f"this budget takes the best {rate['budget']:.2%} of the pool's tokens; for a "
                "model of this size on so many tokens the paper of BETR found the best "
                f"{rate['law']:.2%} to be most useful"
            )
        self.write(
            f"{tokens['delivered']:,} of {tokens['requested']:,} tokens delivered"
            f"{_short_of(curated)}"
        )
        rows = [
            (
                row["source"],
                f"{100 * row['pool']:.1f} %",
                f"{100 * row['cut']:.1f} %",
                f"{row['documents']:,}",
            )
            for row in curated.source_shares()
        ]
        self.table(("source", "of the pool", "of the cut", "documents"), rows)
        of = f" of {arm}" if arm else ""
        self.write(f"shards{of}  {summary['shards']}")
        self.write(f"digest{of}  {summary['digest']}")

    def cleaned(self, cleaned: Cleaned) -> None:
        """Print what each rule excludes, and the documents nearest to its threshold."""
        documents = cleaned.pool.documents
        for own in cleaned.rules:
            if own.nearest:
                self.write(f"{own.rule}, at {own.limit} {own.threshold:g}:")
            for near in own.nearest:
                fate = "fails" if near.fails else "passes"
                self.write(f"  {near.value:.6g} {fate}: {near.id}: {near.text}")
        rows = [
            (
                own.rule,
                "" if own.threshold is None else f"at {own.limit} {own.threshold:g}",
                *(f"{count:,}" for count in (own.alone, own.first, own.only)),
            )
            for own in cleaned.rules
        ]
        others = documents["dropped_by"].keys() - {own.rule for own in cleaned.rules}
        rows += [
            (name, "", "", f"{documents['dropped_by'][name]:,}", "") for name in sorted(others)
        ]
        if rows:
            self.table(("rule", "limit", "alone", "first", "only"), rows)
        for name, count in cleaned.abstained.items():
            self.write(
                f"{name}: rules for words were not applied to {numbered(count, 'document')}, "
                "in scripts without spaces between words"
            )
        for found in cleaned.overlaps:
            self.write(describe_overlap(found.overlap))
            for name, overlap in found.largest:
                self.write(f"  {overlap.share:.1%} of {name}: example {overlap.example:,}")
        self.accounted(documents, cleaned.pool.corpus)

    def accounted(self, documents: Mapping[str, Any], corpus: Artefact) -> None:
        """Print how many records were read, and how many documents kept and dropped, and why."""
        added = f", {documents['added']:,} added" if "added" in documents else ""
        most = sorted(documents["dropped_by"].items(), key=lambda own: (-own[1], own[0]))
        dropped = ", ".join(f"{count:,} {rule}" for rule, count in most)
        self.write(
            f"{numbered(documents['read'], 'record')} read{added}: {documents['kept']:,} kept, "
            f"{documents['dropped']:,} dropped{f' ({dropped})' if dropped else ''}, "
            f"{documents['quarantined']:,} quarantined"
        )
        if unknown := documents["dropped_by"].get("where: unknown"):
            self.write(
                f"{unknown:,} of them are dropped because a value that clean.where names is "
                "missing or of another kind: a field of meta (in CSV and TSV all are texts: write "
                "number(meta.NAME) to compare numbers), or the language of a text without letters; "
                "`penstock why` prints the values of a document"
            )
        if documents["quarantined"]:
            *_, read = generations(corpus)  # rewriters quarantine nothing
            self.write(f"quarantined records, with their errors: {read.path}/quarantine-*")
            some = next(one for one in read.named("quarantine-") if one.bytes)
            with open(read.verified(some), encoding="utf-8") as lines:
                first = json.loads(lines.readline())
            self.write(f"the first of them: {first['file']}, {first['place']}: {first['error']}")
            if len(counts := quarantined_by_file(read)) > 1:
                self.write(_by_file(counts, documents["quarantined"]))

    def fate(self, fate: dict[str, Any], all_rules: bool = False) -> None:
        """Print the record of one document, with the rules that it fails, or with all."""
        source = "" if fate["source"] is None else f" ({fate['source']})"
        name = fate["id"] or f"{fate['file']}, {fate['place']}"
        found = f", found by its text {fate['found']}" if "found" in fate else ""
        self.write(f"{name}{source}: {fate['fate']}; {fate['why']}{found}")
        for line in describe_rewriting(fate):
            self.write(f"  {line}")
        self._scores(fate)
        for own in fate.get("overlaps", ()):
            share = f"{own['share']:.1%} of the words"
            self.write(f"  overlaps with {own['file']}: {share}, example {own['example']:,}")
        for line in describe_values(fate, all_rules):
            self.write(f"  {line}")
        if fate.get("file") is not None:
            place = f", {fate['place']}" if fate.get("place") else ""
            self.write(f"  file: {fate['file']}{place}")
        for key in ("parent", "unit", "row", "tokens"):
            if fate.get(key) is not None:
                self.write(f"  {key}: {fate[key]}")
        if "sequences" in fate:
            rows = zip(fate["shards"], fate["shard_rows"])
            places = ", ".join(f"{_span('row', *own)} of {name}" for name, own in rows)
            self.write(f"  in {places}, from 0; {_span('sequence', *fate['sequences'])} of all")
        for own in fate.get("training_losses", ()):
            loss = "none" if own["loss"] is None else f"{own['loss']:.4f} nats a token"
            tokens = numbered(own["tokens"], "predicted token")
            self.write(f"  training loss: {loss}, of {tokens}, in {own['run'] or 'a deleted run'}")
        if "text" in fate:
            label = "record" if fate["fate"] == "quarantined" else "text"
            self.write(f"  {label}: {excerpt(fate['text'])}")

    def _scores(self, fate: dict[str, Any]) -> None:
        """Print the scores of a document, and what they mean."""
        for name, own in fate.get("scores", {}).items():
            if own["score"] is None:
                because = fate.get("reasons", {}).get(name, {}).get("unscored")
                why = f" ({because})" if because else ""
                self.write(f"  score in {name}: none, so it is never taken{why}")
            else:
                above = f"higher than {own['quantile']:.1%} of the documents with a score"
                self.write(f"  score in {name}: {own['score']:.6g}, {above}")
            if "equal" in own:
                self.write(f"    {describe_constant(own['equal'], own['score'])}")
            if reasons := fate.get("reasons", {}).get(name):
                for line in describe_reasons(reasons):
                    self.write(f"    {line}")

    def sampled(self, document: dict[str, Any]) -> None:
        """Print a document that was drawn: what happened to it, and the beginning of its text."""
        parts = [document["fate"]]
        if "rule" in document:
            parts.append(f"rule {document['rule']}")
        if "error" in document:
            parts.append(f"{document['place']}: {document['error']}")
        if "tokens" in document:
            parts.append(f"{document['tokens']:,} tokens")
        if order := document.get("ordered_by"):
            parts.append(f"{order['name']} {order['score']:.6g}")
        for name, score in document.get("scores", {}).items():
            parts.append(f"no score in {name}" if score is None else f"{name} {score:.6g}")
        self.write(f"{document['id']} ({document['source']}): {', '.join(parts)}")
        self.write(f"    {self._out.fitted(excerpt(document['text'], 1000), 3, indent=4)}")

    def trained(self, result: RunResult) -> None:
        """Print the tokens, the loss and the evaluations of a run, with standard errors."""
        self.write(f"{result.tokens:,} tokens, loss {result.loss:.4f}")
        if result.repeated_tokens:
            epochs = ", ".join(f"{name} {count:.2f}" for name, count in result.epochs.items())
            self.write(f"{result.repeated_tokens:,} of them read before; epochs: {epochs}")
        for name, bits in result.bits_per_byte.items():
            line = f"{name}: {bits['mean']:.4f} ± {bits['stderr']:.4f} bits per byte"
            text = result.text_bits_per_byte[name]
            if text["bytes"] != bits["bytes"]:
                line += f" of the answers ({text['mean']:.4f} of questions and answers)"
            self.write(line)
            if accuracy := result.accuracy.get(name):
                chosen, margin = result.choice_probability[name], result.margin[name]
                self.write(
                    f"  {accuracy['mean']:.1%} ± {accuracy['stderr']:.1%} right by likelihood per "
                    f"byte ({accuracy['plain']:.1%} by likelihood, {accuracy['chance']:.1%} by "
                    f"chance); probability of the right choice {chosen['mean']:.4f} ± "
                    f"{chosen['stderr']:.4f} ({chosen['chance']:.4f} by chance), margin "
                    f"{margin['mean']:+.4f} ± {margin['stderr']:.4f} bits per byte"
                )
        self.write(f"run  {result.path}")

    def compared(self, comparison: Comparison) -> None:
        """Print the arms with verdicts and multipliers, the other metrics, rungs and notes."""
        from penstock.jobs.comparison.results import AGREEMENT, HEADINGS

        points, metric = comparison.shown(), comparison.metric
        baseline = comparison.recipe.compare.baseline
        arms = [point.label for point in points]

        def table(title: str, **columns: list[str]) -> None:
            named = {HEADINGS.get(name, name): own for name, own in columns.items() if any(own)}
            if named:
                self.table(["arm", *named], list(zip(arms, *named.values())), title=title)

        for target in comparison.targets:
            metrics = {
                name: [comparison.shown_metric(point, target, name) for point in points]
                for name in comparison.metrics
            }
            own = metrics.pop(metric)
            multipliers = [comparison.shown_multiplier(point, target) for point in points]
            verdicts = [comparison.shown_verdict(point, target) for point in points]
            tokens = [f"{point.tokens:,}" for point in points]
            table(target, tokens=tokens, **{metric: own, "token multiplier": multipliers})
            table(f"{target}, less {baseline}", verdict=verdicts)
            table(f"{target}, other metrics", **metrics)
        if rows := comparison.agreement_rows():
            self.table(AGREEMENT, rows, title="order of the arms at two sizes")
        for note in comparison.notes:
            self.write(note)

    def excerpts(self, curated: Curated, count: int = 3) -> None:
        """Print the first documents that the cut takes, and some that it leaves."""
        for title, found in (
            ("Taken first", first_taken(curated, count)),
            ("Left", some_left(curated, count)),
        ):
            self.text(f"{title}:")
            for document in found:
                self.write(f"  {document.id} ({document.source})")
                self.write(f"    {document.excerpt()}")

    def written(self, files: Iterable[AnyPath]) -> None:
        """Print the names of files."""
        for file in files:
            self.write(f"written  {file}")

    def table(
        self,
        names: Sequence[str],
        rows: Sequence[Sequence[str]],
        title: str | None = None,
        fits: bool = False,
    ) -> None:
        """Print a table; the first column is text, the others are numbers.

        Args:
            names: The headings.
            rows: A text for each heading.
            title: Above the table.
            fits: On a terminal that is too narrow for it, print each row as a block of lines.
        """
        table = rich.table.Table(title=title, title_justify="left")
        for number, name in enumerate(names):
            text = number == 0 or name == "state"
            cells = [name, *(row[number] for row in rows)]
            longest = max(map(len, cells))
            table.add_column(
                name,
                justify="left" if text else "right",
                no_wrap=number > 0 and longest <= _SHORT,
                overflow="fold",  # nothing is cut off on a narrow terminal
                min_width=0 if number else min(longest, _NAMES),
            )
        for row in rows:
            table.add_row(*map(self._out.shown, row))
        self._progress.end_status()
        if not self._out.is_terminal:
            self._out.width = _WIDE
        elif fits and not self._out.has_room(table):
            self._blocks(names, rows)
            return
        self._out.print(table)

    def _blocks(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print the first cell of each row, and below it the others with their headings."""
        for first, *others in rows:
            cells = ", ".join(f"{name} {own}" for name, own in zip(names[1:], others) if own)
            self._out.write_block(first, cells)


def _short_of(curated: Curated) -> str:
    """Say that the pool is exhausted, where more is missing than the rest of a sequence a share."""
    facts = curated.cut.facts
    rounding = curated.shards.facts["sequence_length"] * len(facts["groups"])
    if facts["requested"] - facts["delivered"] < rounding:
        return ""
    above = ", or are above their share" if len(facts["groups"]) > 1 else ""
    return f": all that may be taken; others have no score{above} (budget.allow_short)"


def _span(noun: str, first: int, last: int) -> str:
    """Return one number or the first and the last, with their noun."""
    return f"{noun} {first:,}" if first == last else f"{noun}s {first:,} to {last:,}"


def _by_file(counts: Counter[str], quarantined: int) -> str:
    """Describe how many records of which files are quarantined: the three files with most."""
    first = sorted(counts.items(), key=lambda own: (-own[1], own[0]))
    shown = ", ".join(f"{file} {count:,}" for file, count in first[:_FILES])
    rest = sum(count for _, count in first[_FILES:])
    others = numbered(len(first) - _FILES, "other file")
    counted = counts.total()
    of = "" if counted == quarantined else f" (of the first {counted:,})"
    return f"by file{of}: {shown}" + (f", and {rest:,} in {others}" if rest else "")
