"""A user's function in a session: two workers import it, one journal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import SelectorError
from penstock.jobs.build import build_reweighter
from penstock.recipe import ModelShape, Recipe, Train
from penstock.trainers.spec import RunSpec
from tests.trainers.conftest import train

FUNCTION = """
import numpy as np
def reweight(losses, power=1.0):
    return losses ** power
"""


def recipe(directory: Path, **reweight: object) -> Recipe:
    return Recipe(
        corpus=[{"path": "pool.txt"}],
        budget={"tokens": 1000, "rank": "random"},
        shards={"sequence_length": 32},
        train=Train(
            model=ModelShape(layers=1, width=32, heads=2),
            batch_tokens=256,
            micro_batch=2,
            workers=2,
            reweight=reweight,
        ),
        directory=directory,
    )


def spec(asked: Recipe, shards: Path) -> RunSpec:
    return RunSpec(train=asked.train, shards=shards, seed=1, reweighter=build_reweighter(asked))


def test_a_function_beside_the_recipe(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "weigh_in_session.py").write_text(FUNCTION)
    asked = recipe(tmp_path, use="weigh_in_session:reweight", power=2.0)
    wanted = spec(asked, shards)
    result = train(wanted, Workspace(tmp_path / "work"))
    artefact = Artefact.open(result.path)
    artefact.verify()
    assert [record.path for record in artefact.files if record.path.startswith("weights/")]
    table = pq.read_table(result.path / "weights").to_pandas()
    assert table["position"].tolist() == list(range(37))
    for _, step in table.groupby("step"):
        expected = step["loss"] ** 2 / (step["loss"] ** 2).sum()
        np.testing.assert_allclose(step["weight"], expected, rtol=1e-5)
        assert np.ptp(step["weight"]) > 0
    lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == [256, 512, 768, 1024, 37 * 32]
    assert all(line["weighted_loss"] > line["loss"] - 0.05 for line in lines)
    assert all(0.9 < line["effective_samples"] < 1 for line in lines)

    (tmp_path / "weigh_in_session.py").write_text(FUNCTION + "\nANOTHER = 1\n")
    assert spec(asked, shards).fingerprint != wanted.fingerprint


def test_the_reweighter_is_part_of_a_runs_fingerprint(shards: Path, tmp_path: Path) -> None:
    plain = spec(recipe(tmp_path, use="loss"), shards).fingerprint
    same = spec(recipe(tmp_path, use="loss", strategy="linupper"), shards).fingerprint
    other = spec(recipe(tmp_path, use="loss", strategy="extremes"), shards).fingerprint
    documents = spec(recipe(tmp_path, use="loss", sample="document"), shards).fingerprint
    assert plain == same
    assert len({plain, other, documents}) == 3


def test_a_wrong_parameter_is_refused_before_any_work(tmp_path: Path) -> None:
    from penstock.jobs.curate import curate
    from penstock.pipeline.runner import open_runner

    (tmp_path / "pool.txt").write_text("water flows\n")
    asked = recipe(tmp_path, use="loss", strategi="linupper")
    runner = open_runner("local", 1)
    with pytest.raises(SelectorError, match="train.reweight.strategi"):
        curate(asked, runner)
    runner.close()
    assert not list((tmp_path / "work").glob("corpus/*/manifest.json"))
