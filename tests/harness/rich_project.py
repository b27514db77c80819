"""A small project with something of everything, for runs that are killed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.pools import documents, write_jsonl

UNIT_BYTES = 5_000

SCORERS = '''
import json
from collections import Counter

import numpy as np

PARTS = 4


def words(part, texts):
    return Counter(word for text in texts[part::PARTS] for word in text.split())


class Common:
    """Compute how common words are in the target, less in the pool; fit in parallel."""

    summary, paper, version = "common words", "none", 1

    def identity(self):
        return {}

    def fit(self, fitting):
        texts = fitting.sample(40).column("text").to_pylist()
        counts = Counter()
        for part in fitting.spread(words, range(PARTS), texts):
            counts.subtract(part)
        for target in fitting.target:
            counts.update({word: 40 for word in target.text.split()})
        self.weights = dict(sorted(counts.items()))
        return {"words": len(counts)}

    def score(self, documents):
        texts = documents.column("text").to_pylist()
        found = [[self.weights.get(word, 0) for word in text.split()] for text in texts]
        return np.array([np.mean(numbers or [0]) for numbers in found], np.float32)

    def save(self, directory):
        (directory / "words.json").write_text(json.dumps(list(self.weights)))
        np.save(directory / "weights.npy", np.array(list(self.weights.values())))

    def load(self, directory):
        names = json.loads((directory / "words.json").read_text())
        self.weights = dict(zip(names, np.load(directory / "weights.npy").tolist()))


def length(texts):
    return [float(len(text)) if len(text) > 40 else float("nan") for text in texts]
'''

RECIPE = """
seed: 5
work: work
corpus:
  - path: pool/*
  - {path: lines.txt, per: line}
clean: {max_document_bytes: 4000}
select:
  common: {use: "penstock_faults_scorers:Common", target: target.jsonl}
  length: {use: "penstock_faults_scorers:length"}
budget:
  tokens: 5_000
  rank: {common: 0.7, length: 0.3}
  shares: {wiki: 0.25}
tokenizer: {train: {vocab_size: 384, sample_bytes: 20_000}}
shards: {sequence_length: 32, tokens_per_shard: 1_000}
"""


def make_project(directory: Path) -> Path:
    """Write a pool of four files with something of everything; return the path of its recipe."""
    rows = documents(150, seed=3, longest=60)
    bad = ['{"id": "torn", "text": "wat', json.dumps({"id": "none"}), "\ufeffno json"]
    long = {"id": "long", "text": "water " * 1_000, "source": "web"}
    empty = {"id": "empty", "text": " \n", "source": "web"}
    plain = write_jsonl(directory / "pool" / "a.jsonl", [*rows[:40], long, empty])
    with plain.open("a", encoding="utf-8") as file:
        file.write("\n".join(bad) + "\n")
    frames = [rows[30:60], rows[60:80], rows[80:100]]  # ten of them are in the first file too
    packed = [
        zstandard.compress("".join(json.dumps(row) + "\n" for row in frame).encode())
        for frame in frames
    ]
    (directory / "pool" / "b.jsonl.zst").write_bytes(b"".join(packed))
    table = pa.Table.from_pylist([*rows[100:], rows[0], rows[70]])
    pq.write_table(table, directory / "pool" / "c.parquet", row_group_size=15)
    lines = [row["text"] for row in documents(20, seed=4, longest=20)]
    (directory / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    write_jsonl(directory / "target.jsonl", [{"text": "the river and the wheel of the turbine"}])
    (directory / "penstock_faults_scorers.py").write_text(SCORERS)
    recipe = directory / "recipe.yaml"
    recipe.write_text(RECIPE)
    return recipe
