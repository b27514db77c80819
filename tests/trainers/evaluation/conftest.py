"""A model of the tiny shards, and shards that the engine packed of documents of any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.jobs.curate import Curated, curate
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import ModelShape
from penstock.recipe_file import parse_recipe
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation.examples import TreeNats
from penstock.trainers.evaluation.run_evaluator import tree_reader
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.model import LanguageModel
from tests.pools import documents, write_jsonl

CONTEXT = 32
READING: dict[str, Any] = {"eos": 0, "context": CONTEXT}


@pytest.fixture(scope="session")
def opened(shards: Path) -> ShardSet:
    return ShardSet.open(shards)


@pytest.fixture(scope="session")
def model(opened: ShardSet) -> LanguageModel:
    return build_model(ModelShape(layers=2, width=32, heads=2), opened, seed=3).eval()


@pytest.fixture(scope="session")
def reader(model: LanguageModel) -> TreeNats:
    return tree_reader(model, Group())


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Two groups in shards of 8 sequences; documents lie in one sequence or in twenty."""
    at = tmp_path_factory.mktemp("curated")
    write_jsonl(at / "pool" / "a.jsonl", documents(160, longest=60))
    recipe = parse_recipe(
        {
            "corpus": [{"path": "pool"}],
            "budget": {"tokens": 10_500, "rank": "random", "shares": {"wiki": 0.25}},
            "tokenizer": {"train": {"vocab_size": 384}},
            "shards": {"sequence_length": CONTEXT, "tokens_per_shard": 8 * CONTEXT},
        },
        at,
    )
    return curate(recipe, LocalRunner(1))


@pytest.fixture(scope="session")
def packed(curated: Curated) -> ShardSet:
    return ShardSet.open(curated.shards.path)


def log_p(model: LanguageModel, ids: list[int]) -> list[float]:
    """ln p of every token but the first, each given those before it: through the full logits."""
    with torch.inference_mode():
        made = model.causal(torch.tensor([ids]), use_cache=False).logits[0]
        logits = made[:, : model.vocabulary].double()
    found = logits.log_softmax(dim=-1)
    return [float(found[place, token]) for place, token in enumerate(ids[1:])]
