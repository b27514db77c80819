"""`penstock rm --unused` keeps what `penstock why` compares; `penstock clean` makes it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import penstock
from penstock.jobs.cli import main
from penstock.jobs.listing import list_artefacts
from penstock.jobs.unused import remove_unused
from tests.pools import documents, write_jsonl

pytestmark = pytest.mark.slow

RECIPE = """\
work: work
corpus: [{path: pool.jsonl}]
clean:
  rules: {gopher_quality: {min_words: 20, min_stop_words: null}}
  dedup: {minhash: {}}
  decontaminate: {ngram: 13}
evaluate: [held_out.jsonl]
budget: {tokens: 1_000, rank: random}
tokenizer: {train: {vocab_size: 384}}
shards: {sequence_length: 32}
"""
EVIDENCE = {"statistics", "signatures", "components", "overlaps"}


def why(recipe: Path, name: str, *more: str) -> dict[str, object]:
    done = CliRunner().invoke(main, ["why", str(recipe), name, "--json", *more])
    assert done.exit_code == 0, done.output
    (fate,) = json.loads(done.stdout.splitlines()[-1])["fates"]
    assert isinstance(fate, dict)
    return fate


def test_why_has_its_values_after_unused_artefacts_are_deleted(tmp_path: Path) -> None:
    rows = documents(60)
    rows[3]["text"] = "water wheel of the mill"
    write_jsonl(tmp_path / "pool.jsonl", rows)
    write_jsonl(tmp_path / "held_out.jsonl", [{"text": "and be it a text of eight words or so"}])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    for settings in ((), ("clean.rules.gopher_quality.min_words=10", "budget.tokens=500")):
        penstock.curate(penstock.load_recipe(recipe, settings), runner="local", workers=1)
    before = why(recipe, rows[3]["id"])
    first = next(one for one in before["rules"] if one["fails"])  # type: ignore[attr-defined]
    assert (first["value"], first["threshold"]) == (5, 20)

    removed = {one.name.partition("/")[0] for one in remove_unused([recipe]).unused}
    assert {"verdicts", "cut"} <= removed
    assert not removed & EVIDENCE
    assert {row["stage"] for row in list_artefacts(str(tmp_path / "work"))} >= EVIDENCE
    assert why(recipe, rows[3]["id"]) == before

    shutil.rmtree(tmp_path / "work" / "statistics")
    lost = why(recipe, rows[3]["id"])
    rule = next(one for one in lost["rules"] if one["rule"] == first["rule"])  # type: ignore[attr-defined]
    assert rule == {**first, "value": None}
    assert lost["not_kept"]["columns"] == ["statistics"]  # type: ignore[index]
    assert f"penstock clean {recipe}" in lost["not_kept"]["fix"]  # type: ignore[index]
    done = CliRunner().invoke(main, ["clean", str(recipe), "--runner", "local"])
    assert done.exit_code == 0, done.output
    assert why(recipe, rows[3]["id"]) == before
