"""Files that selectors, encoders and tokenizers read after they were hashed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from penstock.artefact import Workspace
from penstock.errors import InputError
from penstock.pipeline.checking import check_identity
from penstock.pipeline.columns import Column, make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.models import Models
from penstock.pipeline.tokenizer import TokenizerSettings, make_tokenizer
from penstock.recipe import Train
from penstock.selectors.adapter import as_selector
from penstock.selectors.base import Documents, Fitting
from penstock.storage import sha256_file
from penstock.trainers.spec import RunSpec, _model_files
from tests.pools import UNIT_BYTES, documents, pool_of, recipe_of, write_jsonl


class FromFile:
    """Scores by a number in a file, which each unit reads."""

    paths = ("file",)
    version = 1
    attacks: ClassVar[dict[str, Callable[[], object]]] = {}

    def __init__(self, file: str) -> None:
        self.file = file

    def identity(self) -> Mapping[str, Any]:
        return {"file": sha256_file(Path(self.file))}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        self.attacks.get("fit", bool)()
        return {"number": float(Path(self.file).read_text())}

    def save(self, directory: Path) -> None: ...

    def load(self, directory: Path) -> None: ...

    def score(self, documents: Documents) -> np.ndarray:
        number = float(Path(self.file).read_text())
        self.attacks.get("score", bool)()
        return np.full(len(documents), number)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(150, seed=2))
    return pool_of(recipe_of(tmp_path), Workspace(tmp_path / "work"), LocalRunner(1), UNIT_BYTES)


@pytest.mark.parametrize("when", ["fit", "score"])
def test_a_file_of_a_selector_that_changes_is_told_and_nothing_is_kept(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Attack: the file is replaced after it was hashed, and put back: what was made of the other
    one stays under the name of the first."""
    file = tmp_path / "number"
    file.write_text("1")

    def made() -> dict[str, Any]:
        column = Column(name="own", selector=as_selector(FromFile(str(file))))
        models = Models(
            pool=pool, workspace=Workspace(tmp_path / "work"), runner=LocalRunner(1), seed=1
        )
        return dict(make_columns([column], models))

    monkeypatch.setitem(FromFile.attacks, when, lambda: file.write_text("2"))
    with pytest.raises(InputError) as info:
        made()
    assert info.value.key == "select.own"
    assert info.value.file == "file"
    monkeypatch.undo()
    file.write_text("1")
    column = made()["own"]
    scores = np.concatenate([read_scores(column.path, record) for record in column.files])
    assert set(scores.tolist()) == {1.0}


def test_a_tokenizer_that_changes_after_it_was_hashed(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: the file is replaced between its hash and its reading."""
    trained = make_tokenizer(
        TokenizerSettings.of(recipe_of(tmp_path)), pool, Workspace(tmp_path / "work")
    )
    file = tmp_path / "mine.json"
    content = trained.verified(trained.files[0]).read_text()
    file.write_text(content)
    settings = TokenizerSettings.of(recipe_of(tmp_path, tokenizer="mine.json"))
    load = TokenizerSettings.load

    def attacked(own: TokenizerSettings, *arguments: Any) -> Any:
        file.write_text(content + "\n")
        return load(own, *arguments)

    monkeypatch.setattr(TokenizerSettings, "load", attacked)
    with pytest.raises(InputError) as info:
        make_tokenizer(settings, pool, Workspace(tmp_path / "work"))
    assert (info.value.key, info.value.file) == ("tokenizer", str(file))

    def put_back(own: TokenizerSettings, *arguments: Any) -> Any:
        file.write_text(content + "\n")
        try:
            return load(own, *arguments)
        finally:
            file.write_text(content)

    file.write_text(content)
    monkeypatch.setattr(TokenizerSettings, "load", put_back)
    with pytest.raises(InputError) as info:
        make_tokenizer(settings, pool, Workspace(tmp_path / "work"))
    assert (info.value.key, info.value.file) == ("tokenizer", str(file))


def test_the_file_that_differs_is_named() -> None:
    before = {"encoder": {"a.bin": "1", "b.bin": "2"}, "size": 3}
    check_identity(before, dict(before), "select.near")
    for now, name in (
        ({**before, "encoder": {"a.bin": "1", "b.bin": "3"}}, "b.bin"),
        ({**before, "encoder": {"a.bin": "1"}}, "b.bin"),
        ({**before, "encoder": {**before["encoder"], "c.bin": "1"}}, "c.bin"),  # type: ignore[dict-item]
        ({**before, "size": 4}, "size"),
    ):
        with pytest.raises(InputError) as info:
            check_identity(before, now, "select.near")
        assert (info.value.key, info.value.file) == ("select.near", name)


def test_a_model_to_continue_from_that_changes_is_not_published(tmp_path: Path) -> None:
    """Attack: its weights are replaced while a run loads them."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"first")
    train = Train.model_validate({"model": {"hf": str(tmp_path)}})
    spec = RunSpec(train=train, shards=tmp_path, seed=1)
    spec.__dict__["_inputs"] = {"model": _model_files(train)}  # of the shards, too, which are none
    spec.check_model()
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError) as info:
        spec.check_model()
    assert (info.value.key, info.value.file) == ("train.model.hf", "model.safetensors")
