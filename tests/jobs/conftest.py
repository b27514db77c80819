"""A project of a user, as it is submitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rewritten import RewrittenPool, rewritten_pool

RECIPE = """\
seed: 3
work: out
corpus:
  - path: pool/web-*.jsonl
  - {path: "hf:saved", text: body}
  - {path: "hf:allenai/c4", subset: en}
  - path: /data/elsewhere.parquet
  - path: s3://bucket/pool.parquet
select:
  betr: {use: betr, target: [targets/arc.jsonl, /data/piqa.jsonl]}
  mine: {use: "my_scorer:score", power: 2}
budget: {tokens: 1000, rank: {betr: 0.5, mine: 0.5}}
tokenizer: tokenizer.json
train: {model: {hf: model}}
evaluate: [targets/arc.eval.jsonl]
compare:
  arms:
    random: {budget: {rank: random}}
    other:
      work: other
      corpus: {path: pool/books.jsonl}
      select: {theirs: {use: "helpers.deep.scorers:score", target: [targets/arc.jsonl]}}
      train: {model: {hf: model}}
      evaluate: [targets/more.eval.jsonl]
"""


@pytest.fixture(scope="session")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> RewrittenPool:
    """A finished recipe with a rewriter, and its true counts."""
    return rewritten_pool(tmp_path_factory.mktemp("rewritten"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with scorers next to it, and data that must stay where it is."""
    here = tmp_path / "project"
    for name in ("pool", "saved", "targets", "model", "helpers/deep", "elsewhere"):
        (here / name).mkdir(parents=True)
    (here / "recipe.yaml").write_text(RECIPE)
    (here / "pool/web-1.jsonl").write_text('{"text": "a"}\n')
    (here / "tokenizer.json").write_text("{}")
    (here / "my_scorer.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    (here / "helpers/__init__.py").touch()
    (here / "helpers/words.txt").write_text("beside the code\n")
    (here / "helpers/deep/__init__.py").touch()
    (here / "helpers/deep/scorers.py").write_text("def score(texts):\n    return [1.0] * 9\n")
    monkeypatch.chdir(here / "elsewhere")
    return here
