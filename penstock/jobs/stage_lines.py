"""Lines for people on what a stage of ``curate`` made, one for each event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.artefact import Artefact
from penstock.display import numbered, shortened
from penstock.pipeline.cleaning.fates import FileOverlap
from penstock.pipeline.pool import Pool
from penstock.recipe import Budget

__all__ = ["describe_cut", "describe_draw", "describe_overlap", "describe_rewrite"]


def describe_overlap(overlap: FileOverlap) -> str:
    """Describe in one line how many documents hold copies of the examples of a file."""
    holding = numbered(overlap.documents, "document holds", "documents hold")
    line = (
        f"{overlap.file}: {holding} one of {numbered(overlap.examples, 'example')} or a part of one"
    )
    if not overlap.unchecked:
        return line
    return f"{line}; {numbered(overlap.unchecked, 'example is', 'examples are')} too short to tell"


def describe_cut(cut: Artefact, pool: Pool, budget: Budget) -> Iterator[str]:
    """Describe a cut: what it takes, how, and the sources whose share is less than a sequence."""
    taken = cut.facts
    if budget.count is None:
        yield (
            f"budget.tokens: {budget.tokens} of {pool.bytes:,} bytes of kept text are "
            f"{taken['requested']:,} tokens"
        )
    drawn = describe_draw(cut, budget)
    yield (
        f"{numbered(taken['documents'], 'document')}, {taken['delivered']:,} tokens taken"
        f"{drawn and f', {drawn}'}"
    )
    names = [own["source"] for own in taken["groups"] if own["source"] and not own["tokens"]]
    if names:
        share = sum(pool.by_source[name]["bytes"] for name in names) / pool.bytes
        yield (
            f"budget.shares: no sequence for {numbered(len(names), 'source')} with {share:.2%} of "
            f"the text: {shortened(names)}"
        )


def describe_draw(cut: Artefact, budget: Budget) -> str:
    """Describe the documents that the draw ``uniform`` drew from; empty for another draw."""
    if budget.uniform is None:
        return ""
    groups = cut.facts["drawn_from"]
    documents = numbered(sum(group["documents"] for group in groups), "document")
    each = " of each source with a share, and of the others" if len(groups) > 1 else ""
    words = f"drawn at random from the {documents} of {budget.uniform.words}{each}"
    lowest = groups[0]["lowest"]
    one_score = len(groups) == 1 and len(budget.ranks) == 1 and lowest is not None
    return f"{words} (score {lowest:.4g} and higher)" if one_score else words


def describe_rewrite(name: str, made: Mapping[str, Any]) -> str:
    """Describe in one line how many texts a rewriter made."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in made["rejected"].items())
    changed = f", {made['changed']:,} of them changed" if "changed" in made else ""
    return (
        f"{name}: {numbered(made['accepted'], 'text')} from "
        f"{numbered(made['documents'], 'document')}{changed}; "
        f"{sum(made['rejected'].values()):,} rejected{f' ({reasons})' if reasons else ''}"
    )
