"""A small project with every feature of a recipe for text, and ``penstock`` commands on it."""

from __future__ import annotations

import functools
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.harness import ROOT
from tests.harness.commands import Done, Running
from tests.pools import documents, write_jsonl

SCORERS = '''\
import json
import os
import socket
import time
from collections import Counter
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PARTS = 4


def words(part, texts):
    return Counter(word for text in texts[part::PARTS] for word in text.split())


class Near:
    """Compute how common words are in the target, less in the pool; fit in parallel.

    Calls are logged to a file ``diary``, where there is one.
    """

    summary, paper, version = "words of the target", "none", 1

    def identity(self):
        return {}

    def fit(self, fitting):
        texts = fitting.sample(100).column("text").to_pylist()
        counts = Counter()
        for part in fitting.spread(words, range(PARTS), texts):
            counts.subtract(part)
        for target in fitting.target:
            counts.update({word: 40 for word in target.text.split()})
        self.weights = dict(sorted(counts.items()))
        return {"words": len(counts)}

    def score(self, documents):
        call = {"first": documents.column("id")[0].as_py(), "pid": os.getpid()}
        call["host"] = socket.gethostname()
        log(call, "begin")
        if (HERE / "slow").exists():
            time.sleep(float((HERE / "slow").read_text()))
        texts = documents.column("text").to_pylist()
        found = [[self.weights.get(word, 0) for word in text.split()] for text in texts]
        log(call, "end")
        return np.array([np.mean(numbers or [0]) for numbers in found], np.float32)

    def save(self, directory):
        (directory / "words.json").write_text(json.dumps(list(self.weights)))
        np.save(directory / "weights.npy", np.array(list(self.weights.values())))

    def load(self, directory):
        names = json.loads((directory / "words.json").read_text())
        self.weights = dict(zip(names, np.load(directory / "weights.npy").tolist()))


def log(call, event):
    if (HERE / "diary").exists():
        line = json.dumps({**call, "event": event, "at": time.time()}) + "\\n"
        with open(HERE / "diary", "ab", 0) as diary:
            diary.write(line.encode())


def length(texts):
    return [float(len(text)) if len(text) > 40 else float("nan") for text in texts]
'''

CLEAN = {
    "rules": {"gopher_quality": {"min_words": 4, "min_stop_words": None}},
    "where": "words < 58",
    "dedup": {"minhash": {"threshold": 0.7, "ngram": 3}},
    "decontaminate": {"files": ["held-out.jsonl"]},
}

INPUTS = ("a.jsonl", "b.jsonl", "c.jsonl.gz", "d.jsonl.zst", "e.parquet")


@dataclass(frozen=True)
class Project:
    """Files of several kinds with repeats, records that cannot be read, and two scorers."""

    directory: Path
    work: str = "work"
    unit_bytes: int = 6_000
    tokens: int = 20_000
    inputs: Sequence[str] = INPUTS
    target: str = "target.jsonl"
    by_line: bool = True
    """A file of one document a line is an input too."""
    cleaned: bool = False
    """Every way of cleaning drops some documents."""
    length: bool = False
    """A second column, by a function, is a part of the ranking."""

    @property
    def work_directory(self) -> Path:
        return self.directory / self.work

    @property
    def recipe(self) -> Path:
        """The recipe's file, as JSON, which is YAML too."""
        corpus: list[dict[str, str]] = [{"path": path} for path in self.inputs]
        near = {"use": "penstock_faults_scorers:Near", "target": [self.target]}
        length = {"use": "penstock_faults_scorers:length"}
        plain = {
            "seed": 5,
            "work": self.work,
            "corpus": corpus + [{"path": "lines.txt", "per": "line"}] * self.by_line,
            "clean": {"max_document_bytes": 4_000, **(CLEAN if self.cleaned else {})},
            "select": {"near": near, **({"length": length} if self.length else {})},
            "budget": {
                "tokens": self.tokens,
                "rank": {"near": 0.7, ("length" if self.length else "random"): 0.3},
                "shares": {"wiki": 0.25},
            },
            "tokenizer": {"train": {"vocab_size": 384, "sample_bytes": 20_000}},
            "shards": {"sequence_length": 32, "tokens_per_shard": 1_000},
        }
        path = self.directory / "recipe.yaml"
        path.write_text(json.dumps(plain))
        return path

    def start(
        self, *arguments: str, on: Callable[[list[str]], list[str]] = list, **environment: str
    ) -> Running:
        """Start ``penstock curate`` with options; ``on`` maps its command to another one."""
        return self.command("curate", str(self.recipe), "--json", *arguments, on=on, **environment)

    def curate(self, *arguments: str, **environment: str) -> Done:
        """Run ``penstock curate`` to its end."""
        running = self.start(*arguments, **environment)
        try:
            return running.wait()
        finally:
            running.sweep()

    def command(
        self, *arguments: str, on: Callable[[list[str]], list[str]] = list, **environment: str
    ) -> Running:
        """Start a command of Penstock, with small units."""
        return Running(
            on([sys.executable, "-m", "tests.harness.small", *arguments]),
            {
                **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
                "PYTHONPATH": str(ROOT),
                "RAY_AUTH_MODE": "disabled",
                "PENSTOCK_TEST_UNIT_BYTES": str(self.unit_bytes),
                **environment,
            },
            self.directory / f"log-{time.monotonic_ns()}",
        )

    def diary(self) -> list[dict[str, Any]]:
        """Return the events of the scorer's calls."""
        lines = (self.directory / "diary").read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def keep_a_diary(self, slow: float = 0) -> None:
        """Log each call of the scorer, and let it take ``slow`` seconds longer."""
        (self.directory / "diary").touch()
        (self.directory / "slow").write_text(str(slow))

    def records(self, stage: str) -> list[Path]:
        """Return the records of the committed parts of a stage."""
        return [path for path in self.work_directory.glob(f"{stage}/*/records/*.json")]

    def scored(self) -> int:
        """Count the committed units of columns that have documents."""
        records = [json.loads(path.read_bytes()) for path in self.records("columns")]
        return sum(own["facts"]["documents"] > 0 for [own] in records)


def make_project(directory: Path, count: int = 900, **settings: Any) -> Project:
    """Write a project of about ``count`` documents, 250 bytes each, with settings of the recipe."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = documents(count, longest=60)
    share = count // 6
    bad = [{"id": "bad", "text": 3}, {"id": "lone", "text": "\ud800"}, {"id": "e", "text": " "}]
    long = {"id": "long", "text": "water " * 1_000, "source": "web"}
    write_jsonl(directory / "a.jsonl", [*rows[: 2 * share], long])
    with open(directory / "a.jsonl", "a") as file:
        file.write('{"id": "torn", "text": "wat\n\ufeffno json\n')
    write_jsonl(directory / "b.jsonl", [*rows[2 * share : 3 * share], *bad, *rows[: share // 3]])
    plain = "".join(json.dumps(row) + "\n" for row in rows[3 * share : 4 * share]).encode()
    (directory / "c.jsonl.gz").write_bytes(gzip.compress(plain, mtime=0))
    lines = [json.dumps(row) + "\n" for row in rows[4 * share : 5 * share]]
    compressor = zstandard.ZstdCompressor()
    frames = [
        compressor.compress("".join(lines[i : i + 40]).encode()) for i in range(0, len(lines), 40)
    ]
    (directory / "d.jsonl.zst").write_bytes(b"".join(frames))
    pq.write_table(
        pa.Table.from_pylist(rows[5 * share :]), directory / "e.parquet", row_group_size=40
    )
    texts = [row["text"] for row in documents(20, seed=4, longest=20)]
    (directory / "lines.txt").write_text("\n".join(texts), encoding="utf-8")
    target = [{"text": rows[index]["text"]} for index in range(0, count, count // 7)]
    write_jsonl(directory / "target.jsonl", target)
    write_jsonl(directory / "held-out.jsonl", [{"text": rows[n]["text"]} for n in (8, 31, 77)])
    if settings.get("cleaned"):
        near = [{"id": f"near-{n}", "text": rows[n]["text"] + " again"} for n in range(1, share, 2)]
        write_jsonl(directory / "near.jsonl", near)
        settings["inputs"] = (*INPUTS, "near.jsonl")
    (directory / "penstock_faults_scorers.py").write_text(SCORERS)
    return Project(directory, **settings)


@functools.cache
def digest(
    unit_bytes: int = Project.unit_bytes,
    inputs: Sequence[str] = INPUTS,
    by_line: bool = True,
    cleaned: bool = False,
) -> str:
    """Return the digest of the project's shards, made by one undisturbed process."""
    with tempfile.TemporaryDirectory() as directory:
        project = make_project(Path(directory), cleaned=cleaned)
        inputs = project.inputs if cleaned else inputs
        project = replace(project, unit_bytes=unit_bytes, inputs=inputs, by_line=by_line)
        return project.curate("--workers", "1").digest
