"""The plug-ins in examples/ run, and have the properties that curating relies on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import penstock
from penstock.jobs.cli import main
from penstock.pipeline.grouped import read_scores
from penstock.recipe import ReweightSpec
from penstock.selectors.reweighting.base import Reweighter, ScoredBatch, TrainingProgress
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.testing import check_scorer
from tests.pools import documents, write_jsonl
from tests.selectors.llamas import byte_tokenizer, write_model
from tests.selectors.test_properties import texts, write_encoder

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

RECIPE = """
corpus: [{path: pool.jsonl}]
work: work
clean: {rules: {stubs: {use: "own_rule:drop", phrases: ["coming soon"]}}}
rewrite: {unwrapped: {use: "own_rewriter:Unwrap", by: none}}
select:
  explains: {use: "my_scorer:score"}
  unusual: {use: "own_class:Unusual", words: 50}
  apart: {use: "own_set_here:Apart", parts: 2}
budget: {tokens: 2000, rank: {explains: 1, unusual: 1, apart: 1}, allow_short: true}
tokenizer: {train: {vocab_size: 320}}
shards: {sequence_length: 32}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_model(directory, byte_tokenizer([row["text"] for row in documents(60)]))
    return directory


def test_the_scorers_have_the_properties_of_a_scorer() -> None:
    with pytest.warns(UserWarning, match="all scores of these texts are 0"):
        assert np.isnan(check_scorer("my_scorer:score", directory=EXAMPLES)).any()
    scores = check_scorer("own_class:Unusual", directory=EXAMPLES, words=20)
    assert np.isfinite(scores).all() and scores.std() > 0


def test_the_function_with_a_model_prefers_what_the_model_finds_easy(model: Path) -> None:
    short = [row["text"][:200] for row in documents(12)]
    scores = check_scorer(
        "own_model:score", short, directory=EXAMPLES, processes=False, model_directory=str(model)
    )
    assert np.isfinite(scores).all() and (scores < 0).all()


def test_all_of_them_in_one_recipe(tmp_path: Path) -> None:
    for file in EXAMPLES.glob("*.py"):
        shutil.copy(file, tmp_path)
    text = (EXAMPLES / "own_set.py").read_text()
    write_encoder(tmp_path / "encoder")
    requirements = (
        "    @property\n    def requirements(self):\n"
        "        from penstock.selectors.base import Requirements\n"
        f"        return Requirements(encoder={str(tmp_path / 'encoder')!r})\n\n    @property\n"
        "    def partitions"
    )
    # The default encoder is distilled from a model that not every machine has.
    (tmp_path / "own_set_here.py").write_text(
        text.replace("    @property\n    def partitions", requirements)
    )
    rows = texts(150)
    rows[3]["text"] = "More about this is coming soon."
    rows[4]["text"] = "A line that was\nbroken at a width.\n\nAnother paragraph.\n"
    write_jsonl(tmp_path / "pool.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    curated = penstock.curate(tmp_path / "recipe.yaml", workers=1)
    assert curated.pool.documents["dropped_by"]["stubs"] == 1
    assert curated.corpus.facts["rewrites"]["unwrapped"]["changed"] == 1
    apart = curated.columns["apart"]
    scores = np.concatenate([read_scores(apart.path, record) for record in apart.files])
    assert np.nanmax(scores) == 1 and np.nanmin(scores) > 0 and len(np.unique(scores)) > 70
    assert all("code" in column.facts for column in curated.columns.values())


def test_the_reweighter_weighs_by_the_losses() -> None:
    moment = TrainingProgress(step=0, tokens=0, budget=1)
    spec = ReweightSpec.model_validate({"use": "own_reweighter:reweight", "power": 0.5})
    own: Reweighter = PlannedReweighter(spec, [EXAMPLES])()
    batch = ScoredBatch(moment=moment, losses=np.array([1.0, 4.0, 9.0]))
    assert own.weights(batch).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("use", "parameters"),
    [
        ("own_class:Unusual", {"words": 10_000}),
        ("own_model:score", {"model_directory": "required", "tokens": 256}),
        ("own_set:Apart", {"parts": 1}),
        ("own_rewriter:Unwrap", {"width": 80}),
        ("own_reweighter:reweight", {"power": 0.5}),
    ],
)
def test_the_command_selectors_describes_a_class_of_ones_own(
    use: str, parameters: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES)
    done = CliRunner().invoke(main, ["selectors", use, "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout.splitlines()[-1])["selectors"]
    assert (found["name"], found["parameters"]) == (use, parameters)
    kinds = {"own_rewriter": "rewriter", "own_reweighter": "reweighter"}
    assert found["kind"] == kinds.get(use.partition(":")[0], "selector")
    assert found["summary"] and f"Code: {use.partition(':')[0]} (code " in found["doc"]


def test_a_module_that_is_not_there_is_named() -> None:
    done = CliRunner().invoke(main, ["selectors", "no_such_module:Class"])
    assert done.exit_code == 2
