"""A recipe with a rewriter, so that there are verdicts before it and after it, and its true counts.

The counts are computed from the artefacts' files alone: a document has the last verdict that judged
it, or is one of which the rewriter left nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import penstock
from penstock.artefact import Artefact
from penstock.jobs.curate import Curated
from penstock.pipeline.units import generations
from tests.pools import documents, write_jsonl

__all__ = ["RewrittenPool", "rewritten_pool"]

_REWRITER = """\
import re
import pyarrow as pa

class Tidy:
    version = 1
    replaces = True

    def identity(self):
        return {}

    def edit(self, texts):
        return pa.array([self.one(text) for text in texts.to_pylist()], pa.large_string())

    def one(self, text):
        if "emptied" in text:
            return " "
        return re.sub("mark[0-9]+ ?", "", text)

def length(texts):
    return [float(len(text) % 97) for text in texts]

def digits(texts):
    return [float(sum(c.isdigit() for c in text) % 31) for text in texts]
"""

_RECIPE: dict[str, Any] = {
    "work": "out",
    "seed": 3,
    "unit_bytes": 2**16,
    "corpus": [{"path": "pool.jsonl"}],
    "clean": {
        "rules": {"gopher_quality": {"min_words": 8, "min_stop_words": 0, "max_word_length": 30}},
        "where": "bytes < 700",
    },
    "rewrite": {"tidy": {"use": "tidy_of_tests:Tidy", "by": "none"}},
    "select": {
        "length": {"use": "tidy_of_tests:length"},
        "digits": {"use": "tidy_of_tests:digits"},
    },
    "budget": {"tokens": 9_000, "rank": {"length": 0.7, "digits": 0.3}},
    "tokenizer": {"train": {"vocab_size": 384}},
    "shards": {"sequence_length": 16},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrittenPool:
    """A finished recipe with a rewriter, and what its files say of each document."""

    path: Path
    """The recipe."""
    curated: Curated
    dropped: dict[str, str]
    """By the id of each document that is dropped, the first reason of its last verdict."""
    bytes: dict[str, int]
    """By id, bytes of the text that this verdict judged."""
    earlier: set[str]
    """The ids of those that the last verdict did not judge."""
    alone: Counter[str]
    """By rule, the documents that fail it, whatever else they fail."""

    @property
    def by_reason(self) -> Counter[str]:
        return Counter(self.dropped.values())


def rewritten_pool(directory: Path) -> RewrittenPool:
    """Curate some 400 documents: some are dropped before the rewriter, after it, or emptied."""
    rows = documents(400, seed=11)
    equal = [one for one in rows if 150 < len(one["text"]) < 600][:6]
    copies = [{**equal[n % 2], "id": f"before{n}"} for n in range(7)]
    marked = [{**one, "text": f"mark{n} {one['text']}", "id": f"after{n}"}
              for n, one in enumerate(equal[1:5])]  # fmt: skip
    # A document with a copy before the rewriter, and itself one after it.
    marked += [{**marked[3], "id": "after4"}]
    short = [{"id": f"short{n}", "source": "web", "text": f"{n} one two three mark1 mark2 mark3 "
              "mark4 mark5"} for n in range(5)]  # fmt: skip
    gone = [{"id": f"gone{n}", "source": "wiki", "text": f"{n} is emptied by the rewriter of "
             "this recipe and so it has no text"} for n in range(3)]  # fmt: skip
    write_jsonl(directory / "pool.jsonl", [*rows, *copies, *marked, *short, *gone])
    with (directory / "pool.jsonl").open("a") as sink:
        sink.write('{"id": "broken", "text": 7}\n')
    (directory / "tidy_of_tests.py").write_text(_REWRITER)
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(_RECIPE))
    curated = penstock.curate(path, runner="local", workers=1)
    return _read(path, curated)


def _read(path: Path, curated: Curated) -> RewrittenPool:
    dropped: dict[str, str] = {}
    size: dict[str, int] = {}
    judged: set[str] = set()
    alone: Counter[str] = Counter()
    second, first = generations(curated.corpus)
    verdicts = Artefact.open(
        curated.pool.verdicts.path.parent / second.manifest["inputs"]["pool"][:16]
    )
    for corpus, made in ((first, verdicts), (second, curated.pool.verdicts)):
        tables = [
            pq.read_table(corpus.path / record.path, columns=["id", "bytes"])
            for record in corpus.named("rows-")
        ]
        table = pa.concat_tables(tables)
        reasons = pa.concat_tables(
            pa.ipc.open_file(made.path / record.path).read_all()
            for record in made.named("reasons-")
        )
        judged = set(table["id"].to_pylist())
        for name, count, code in zip(*table.to_pydict().values(), reasons["reason"].to_pylist()):
            size[name] = count
            dropped.pop(name, None)
            if code:
                dropped[name] = made.facts["reasons"][code - 1]
        for record in made.named("verdicts-"):
            bits = pq.read_table(made.path / record.path)
            rules = made.facts["rules"]["gopher_quality"]
            for bit, rule in enumerate(rules):
                own = sum(value >> bit & 1 for value in bits["gopher_quality"].to_pylist())
                alone[f"gopher_quality: {rule}"] += own
    for record in second.named("dropped-"):
        for one in pq.read_table(second.path / record.path).to_pylist():
            dropped[one["id"]] = one["rule"]
    return RewrittenPool(
        path=path,
        curated=curated,
        dropped=dropped,
        bytes=size,
        earlier=dropped.keys() - judged,
        alone=+alone,
    )
