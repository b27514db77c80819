"""A scorer that crashes its process: the error names the selector and the document."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock.errors import WorkerError
from tests.pools import documents, write_jsonl

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
corpus: [{path: pool.jsonl}]
work: work
select: {good: {use: "crashing:good"}, bad: {use: "crashing:bad"}, slow: {use: "crashing:Slow"}}
budget: {tokens: 2000, rank: {good: 1, bad: 1}}
tokenizer: {train: {vocab_size: 320}}
shards: {sequence_length: 32}
"""

SCORERS = """
import ctypes, os
from penstock.resources import Resources
from penstock.selectors.base import Requirements

def good(texts): return [float(len(text)) for text in texts]

def bad(texts):
    if any("deadly" in text for text in texts):
        os._exit(3)
    return good(texts)

class Slow:
    requirements = Requirements(resources=Resources(slow=True))
    def score(self, documents): return bad(documents["text"].to_pylist())

def segfault(texts): return [ctypes.string_at(1)] * len(texts)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "crashing.py").write_text(SCORERS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    lines = list(documents(60))
    lines[37]["text"] += " deadly"
    write_jsonl(tmp_path / "pool.jsonl", lines)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bad", "slow"])
def test_a_crash_names_the_selector_and_the_document(project: Path, name: str) -> None:
    rank = f"budget.rank={{good: 1, {name}: 1}}"
    with pytest.raises(WorkerError) as caught:
        penstock.curate(project / "recipe.yaml", settings=[rank], workers=2)
    deadly = list(documents(60))[37]["id"]
    assert (caught.value.key, caught.value.file) == (f"select.{name}", f"document {deadly}")
    assert "status 3" in caught.value.problem


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("score", "--column", "good"), ("curate", "--workers", "1", "--runner", "local")]
)
def test_a_segfault_in_the_command_shows_the_python_stack(
    project: Path, command: tuple[str, ...]
) -> None:
    job, *options = command
    given = ["recipe.yaml", *options, "--set", "select.good.use=crashing:segfault"]
    done = subprocess.run(
        [sys.executable, "-m", "penstock", job, *given],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == -11
    assert "crashing.py" in done.stderr and "in segfault" in done.stderr
