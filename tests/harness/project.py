"""A small project with a scorer that keeps a diary, and ``penstock`` commands run on it."""

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

SCORER = '''\
"""Compute the share of a document's words that the target has; log calls to a file ``diary``."""

import json
import os
import socket
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


class Near:
    summary = "share of words that the target has"
    paper = "none"
    version = 1

    def identity(self):
        return {}

    def fit(self, fitting):
        words = {word for target in fitting.target for word in target.text.split()}
        self.words = sorted(words)
        return {"words": len(words), "sample": fitting.sample(100).num_rows}

    def score(self, documents):
        call = {"first": documents.column("id")[0].as_py(), "pid": os.getpid()}
        call["host"] = socket.gethostname()
        log(call, "begin")
        if (HERE / "slow").exists():
            time.sleep(float((HERE / "slow").read_text()))
        known = set(self.words)
        texts = [text.split() for text in documents.column("text").to_pylist()]
        log(call, "end")
        shares = [sum(word in known for word in words) / len(words) for words in texts]
        return np.array(shares, np.float32)

    def save(self, directory):
        (directory / "words.json").write_text(json.dumps(self.words))

    def load(self, directory):
        self.words = json.loads((directory / "words.json").read_text())


def log(call, event):
    if (HERE / "diary").exists():
        line = json.dumps({**call, "event": event, "at": time.time()}) + "\\n"
        with open(HERE / "diary", "ab", 0) as diary:
            diary.write(line.encode())
'''


@dataclass(frozen=True)
class Project:
    """Files of several kinds with repeats, records that cannot be read, and a fitted scorer."""

    directory: Path
    work: str = "work"
    unit_bytes: int = 6_000
    inputs: Sequence[str] = ()
    target: str = "target.jsonl"

    @property
    def work_directory(self) -> Path:
        return self.directory / self.work

    @property
    def recipe(self) -> str:
        return json.dumps(  # YAML too
            {
                "seed": 5,
                "work": self.work,
                "corpus": [{"path": path} for path in self.inputs],
                "select": {"near": {"use": "scorer:Near", "target": [self.target]}},
                "budget": {"tokens": 20_000, "rank": {"near": 0.8, "random": 0.2}},
                "tokenizer": {"train": {"vocab_size": 384}},
                "shards": {"sequence_length": 32},
            }
        )

    def start(
        self, *arguments: str, on: Callable[[list[str]], list[str]] = list, **environment: str
    ) -> Running:
        """Start ``penstock curate`` with options; ``on`` maps its command to another one."""
        recipe = self.directory / "recipe.yaml"
        recipe.write_text(self.recipe)
        return self.command("curate", str(recipe), "--json", *arguments, on=on, **environment)

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


def make_project(directory: Path, count: int = 900) -> Project:
    """Write a project of about ``count`` documents, 250 bytes each."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = documents(count, longest=60)
    share = count // 6
    bad = [{"id": "bad", "text": 3}, {"id": "lone", "text": "\ud800"}, {"id": "e", "text": " "}]
    write_jsonl(directory / "a.jsonl", rows[: 2 * share])
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
    target = [{"text": rows[index]["text"]} for index in range(0, count, count // 7)]
    write_jsonl(directory / "target.jsonl", target)
    (directory / "scorer.py").write_text(SCORER)
    names = ("a.jsonl", "b.jsonl", "c.jsonl.gz", "d.jsonl.zst", "e.parquet")
    return Project(directory, inputs=names)


@functools.cache
def digest(unit_bytes: int = Project.unit_bytes, inputs: Sequence[str] | None = None) -> str:
    """Return the digest of the project's shards, made by one undisturbed process."""
    with tempfile.TemporaryDirectory() as directory:
        project = replace(make_project(Path(directory)), unit_bytes=unit_bytes)
        project = replace(project, inputs=inputs or project.inputs)
        return project.curate("--workers", "1").digest
