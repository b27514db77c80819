"""A small, complete project, and ``penstock curate`` run over it in a process of its own."""

from __future__ import annotations

import functools
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.pools import documents, write_jsonl

ROOT = Path(__file__).resolve().parents[2]

WHOLE = os.environ.get("PENSTOCK_FAULTS") == "all"
"""Whether the long tests run too."""

SCORER = '''\
"""How many of a document's words the target has. Keeps a diary where there is one to write in."""

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
        told = {"first": documents.column("id")[0].as_py(), "pid": os.getpid()}
        told["host"] = socket.gethostname()
        note(told, "begin")
        if (HERE / "slow").exists():
            time.sleep(float((HERE / "slow").read_text()))
        known = set(self.words)
        texts = [text.split() for text in documents.column("text").to_pylist()]
        note(told, "end")
        shares = [sum(word in known for word in words) / len(words) for words in texts]
        return np.array(shares, np.float32)

    def save(self, directory):
        (directory / "words.json").write_text(json.dumps(self.words))

    def load(self, directory):
        self.words = json.loads((directory / "words.json").read_text())


def note(told, event):
    if (HERE / "diary").exists():
        line = json.dumps({**told, "event": event, "at": time.time()}) + "\\n"
        with open(HERE / "diary", "ab", 0) as diary:
            diary.write(line.encode())
'''


@dataclass(frozen=True)
class Done:
    """What a command left."""

    status: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        assert self.status == 0, self.stderr
        (line,) = self.stdout.splitlines()  # whatever libraries had to say
        value: dict[str, Any] = json.loads(line)
        return value

    @property
    def digest(self) -> str:
        return str(self.summary["digest"])


class Running:
    """A command under way, in a process group of its own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._files = [log.with_suffix(".out"), log.with_suffix(".err")]
        with open(self._files[0], "wb") as out, open(self._files[1], "wb") as err:
            self.process = subprocess.Popen(
                command, env=dict(environment), stdout=out, stderr=err, start_new_session=True
            )

    @property
    def told(self) -> str:
        """What it wrote to stderr so far."""
        return self._files[1].read_text()

    def wait(self, seconds: float = 240) -> Done:
        status = self.process.wait(seconds)
        return Done(status, self._files[0].read_text(), self.told)

    def until(self, happened: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait for something to happen while the command runs; gives what it was."""
        end = time.monotonic() + seconds
        while not (what := happened()):
            assert self.process.poll() is None, f"ended before it happened: {self.told}"
            assert time.monotonic() < end, f"it never happened: {self.told}"
            time.sleep(0.003)
        return what

    def kill(self) -> None:
        """SIGKILL to the driver alone; its workers must see to themselves."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def sweep(self) -> None:
        """Nothing of it goes on."""
        alive = [self.process.pid]
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            alive += [child.pid for child in children]
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


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
        """``penstock curate`` with the given options; ``on`` says how a command is run."""
        recipe = self.directory / "recipe.yaml"
        recipe.write_text(self.recipe)
        return self.command("curate", str(recipe), "--json", *arguments, on=on, **environment)

    def curate(self, *arguments: str, **environment: str) -> Done:
        """``penstock curate`` to its end."""
        running = self.start(*arguments, **environment)
        try:
            return running.wait()
        finally:
            running.sweep()

    def command(
        self, *arguments: str, on: Callable[[list[str]], list[str]] = list, **environment: str
    ) -> Running:
        """Any command of Penstock, with small units."""
        return Running(
            on([sys.executable, "-m", "tests.faults.small", *arguments]),
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
        """What the scorer's calls noted."""
        lines = (self.directory / "diary").read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def keep_a_diary(self, slow: float = 0) -> None:
        """Have each call of the scorer noted, and take so many seconds more."""
        (self.directory / "diary").touch()
        (self.directory / "slow").write_text(str(slow))

    def records(self, stage: str) -> list[Path]:
        """Records of the parts of a stage that are committed."""
        return [path for path in self.work_directory.glob(f"{stage}/*/records/*.json")]


def make_project(directory: Path, count: int = 900) -> Project:
    """A project of about ``count`` documents, 250 bytes each."""
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
def digest(unit_bytes: int = Project.unit_bytes) -> str:
    """Of the project's shards, by one process and undisturbed."""
    with tempfile.TemporaryDirectory() as directory:
        project = replace(make_project(Path(directory)), unit_bytes=unit_bytes)
        return project.curate("--workers", "1").digest


@contextmanager
def running(started: Running) -> Iterator[Running]:
    """A command that is not left behind."""
    try:
        yield started
    finally:
        started.sweep()
