"""Libraries and models that the parts of a recipe need, and that are on this machine or are not.

Missing modules are tested in ``tests/test_extras.py``, in processes that can import none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from penstock import extras
from penstock.errors import BadInput
from penstock.jobs.build import build_columns, build_rewrites
from penstock.jobs.checking.findings import Finding
from penstock.jobs.checking.libraries import missing_libraries
from penstock.jobs.curate import curate
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.encoders import sentence
from penstock.selectors.encoders.embedding import encoder_needs
from penstock.selectors.registry import built_in
from tests.pools import write_jsonl
from tests.selectors.llamas import byte_tokenizer, write_model
from tests.selectors.test_properties import texts, write_encoder

MINILM = "all-MiniLM-L6-v2"


def recipe_of(directory: Path, selector: dict[str, Any], **keys: Any) -> Recipe:
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "select": {"near": selector},
        "budget": {"tokens": 160, "rank": "near"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    return parse_recipe({**tree, **keys}, directory)


def findings_of(recipe: Recipe) -> list[Finding]:
    return list(missing_libraries(recipe, build_columns(recipe), build_rewrites(recipe)))


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pool" / "a.jsonl", texts(60))
    write_jsonl(tmp_path / "aim.jsonl", [{"text": "water and soil"}])
    write_encoder(tmp_path / "encoder")
    return tmp_path


@pytest.fixture
def without_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No package has the model, and nothing was fetched from the hub."""
    monkeypatch.setattr(sentence, "_OFFLINE", {})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("without_models")
@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize(
    ("selector", "parameter", "model"),
    [
        ({"use": "betr", "target": "aim.jsonl"}, "encoder", MINILM),
        ({"use": "kmq", "encoder": "sentence"}, "encoder", MINILM),
        ({"use": "got-d", "target": "aim.jsonl", "encoder": "a/b@cuda"}, "encoder", "a/b"),
        ({"use": "perplexity", "model": "c/d"}, "model", "c/d"),
    ],
)
def test_a_model_that_is_not_here_is_named(
    pool: Path,
    monkeypatch: pytest.MonkeyPatch,
    selector: dict[str, Any],
    parameter: str,
    model: str,
    offline: bool,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    (found,) = findings_of(recipe_of(pool, selector))
    level = "error" if offline else "warning"
    assert (found.level, found.kind) == (level, "missing_model")
    assert found.key == f"select.near.{parameter}" and f"the model {model} " in found.text
    assert ("pip install 'penstock[offline]'" in found.text) == (model == MINILM)


@pytest.mark.usefixtures("without_models")
def test_a_model_that_was_fetched_before_is_here(pool: Path, tmp_path: Path) -> None:
    recipe = recipe_of(pool, {"use": "perplexity", "model": "c/d"})
    assert [one.kind for one in findings_of(recipe)] == ["missing_model"]
    cached = tmp_path / "hub" / "models--c--d"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cached / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    assert findings_of(recipe) == []


@pytest.mark.usefixtures("without_models")
def test_encoders_and_models_in_directories_need_no_hub(pool: Path) -> None:
    encoder = str(pool / "encoder")
    assert findings_of(recipe_of(pool, {"use": "kmq", "encoder": encoder})) == []
    assert encoder_needs(encoder).modules == {}
    assert encoder_needs(f"{pool}@2").modules == {"encoders": ("torch", "transformers")}


def test_a_rewriters_model_has_its_needs(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(pool / "model", byte_tokenizer(["water"] * 9))
    rewrite = {"again": {"use": "rewire", "by": {"local": str(pool / "model")}}}
    recipe = recipe_of(pool, {"use": "kmq", "encoder": str(pool / "encoder")}, rewrite=rewrite)
    assert findings_of(recipe) == []
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "transformers")
    (found,) = findings_of(recipe)
    assert (found.level, found.key) == ("error", "rewrite.again.use")
    assert "pip install 'penstock[encoders]'" in found.text


def test_what_was_made_before_needs_nothing(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`curate` finds the column, and imports faiss for another one only."""
    recipe = recipe_of(pool, {"use": "kmq", "clusters": 2, "encoder": str(pool / "encoder")})
    with monkeypatch.context() as without:
        without.setattr(extras, "_is_installed", lambda module: module != "faiss")
        found = [(one.level, one.key) for one in findings_of(recipe)]
        assert found == [("error", "select.near.use")]
        with pytest.raises(BadInput):
            curate(recipe, LocalRunner(1))
    curate(recipe, LocalRunner(1))
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "faiss")
    curate(recipe, LocalRunner(1))
    assert [(one.level, one.key) for one in findings_of(recipe)] == [("warning", "select.near.use")]


OWN_SET = """
import numpy as np
class Mine:
    partitions = 2
    def assign(self, vectors, hashes): return hashes[:, 0] % 2
    def score(self, partition): return np.zeros(len(partition.hashes), np.float32)
"""


def test_a_set_selector_of_ones_own_needs_its_encoder(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pool / "library_set.py").write_text(OWN_SET)
    recipe = recipe_of(pool, {"use": "library_set:Mine"})
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "sentence_transformers")
    (found,) = [one for one in findings_of(recipe) if one.level == "error"]
    assert (found.kind, found.key) == ("missing_library", "select.near.use")
    assert "pip install 'penstock[encoders]'" in found.text
    with pytest.raises(BadInput) as caught:
        curate(recipe, LocalRunner(1))
    assert (caught.value.key, str(caught.value)) == ("select.near.use", found.text)
    assert not (pool / "work").exists()


def test_a_set_selector_of_ones_own_by_an_encoder_in_a_directory_needs_nothing(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = f"    encoder = {str(pool / 'encoder')!r}\n"
    (pool / "library_own_encoder.py").write_text(OWN_SET + named)
    recipe = recipe_of(pool, {"use": "library_own_encoder:Mine"})
    monkeypatch.setattr(extras, "_is_installed", lambda module: False)
    assert findings_of(recipe) == []


def test_models_that_are_trained_first_need_the_extra_train(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder = {"shapes": [[1, 32, 2]], "tokens": [1000, 2000]}
    recipe = recipe_of(pool, {"use": "preselect", "target": "aim.jsonl", "ladder": ladder})
    assert findings_of(recipe) == []
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "tensorboard")
    (found,) = findings_of(recipe)
    assert (found.level, found.key) == ("error", "select.near.use")
    assert "pip install 'penstock[train]'" in found.text


def test_parts_that_import_a_library_state_it() -> None:
    """Of every built-in selector: each module belongs to the extra that it is stated with."""
    found = {name: one.imports for name, one in built_in("selector").items()}
    assert {"betr", "kmq", "crisp", "gist", "semdedup", "d4"} == {n for n in found if found[n]}
    for imports in found.values():
        for extra, modules in imports.items():
            assert set(modules) <= set(extras.EXTRAS[extra])
