"""Distillation: the teacher's geometry, and the same bytes on any threads and workers."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from penstock.artefact import Workspace
from penstock.errors import ArtefactError
from penstock.pipeline.runner import LocalRunner, in_order
from penstock.pipeline.scoring.models import Models
from penstock.selectors.encoders import distillation, embedding
from penstock.selectors.encoders.distillation import TokenVectors, distil, encode_vocabulary
from penstock.selectors.encoders.embedding import make_encoder, vocabulary_identity
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import AGREEMENT, StaticEncoder, token_ids


def test_the_same_bytes_on_any_threads_and_workers(
    tiny: Path, static: StaticEncoder, sentences: pa.Array, two_workers: LocalRunner
) -> None:
    before = torch.get_num_threads()
    spread = in_order(two_workers)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            teacher = SentenceEncoder(str(tiny))
            again = distil(encode_vocabulary(teacher, dim=8, spread=spread), sentences)
            assert torch.get_num_threads() == threads
            assert again.table.tobytes() == static.table.tobytes()
            assert again.centre.tobytes() == static.centre.tobytes()
    finally:
        torch.set_num_threads(before)


def test_the_table_holds_principal_components_of_the_teachers_outputs(
    tiny: Path, static: StaticEncoder, sentences: pa.Array
) -> None:
    """With all dimensions, distances between tokens are the teacher's, but for the weights."""
    teacher = SentenceEncoder(str(tiny))
    full = distil(encode_vocabulary(teacher, dim=32), sentences)
    tokenizer = full.tokenizer
    water, light = tokenizer.token_to_id("water"), tokenizer.token_to_id("light")
    outputs = distillation._encode_tokens(np.array([water, light]), teacher)
    counts = np.bincount(token_ids(tokenizer, sentences)[0], minlength=len(full.table))
    weights = 1e-4 / (1e-4 + (counts + 0.5) / counts.sum())
    assert weights[water] < weights[light]  # "water" occurs 400 times
    ours = full.table / weights[:, None]
    np.testing.assert_allclose(
        np.linalg.norm(ours[water] - ours[light]),
        np.linalg.norm(outputs[0] - outputs[1]),
        rtol=1e-4,
    )
    assert not static.table[[0, 1, 2, 3, 4, 5]].any()  # special and unused tokens


def test_the_centre_is_the_mean_of_the_texts(static: StaticEncoder, sentences: pa.Array) -> None:
    plain = StaticEncoder("plain", static.tokenizer, static.table, np.zeros(8))
    np.testing.assert_allclose(static.centre, plain.encode(sentences).mean(axis=0), atol=1e-6)


def test_saved_token_vectors_give_the_same_bytes(
    tiny: Path, static: StaticEncoder, sentences: pa.Array, tmp_path: Path
) -> None:
    encode_vocabulary(SentenceEncoder(str(tiny)), dim=8).save(tmp_path)
    loaded = TokenVectors.load(tmp_path)
    assert loaded.vectors.dtype == np.float64 and loaded.ids.dtype == np.int64
    again = distil(loaded, sentences)
    assert again.table.tobytes() == static.table.tobytes()
    assert again.centre.tobytes() == static.centre.tobytes()
    assert again.tokenizer.to_str() == static.tokenizer.to_str()
    assert again.name == str(tiny)

    np.save(tmp_path / "ids.npy", loaded.ids[1:])
    with pytest.raises(ArtefactError) as info:
        TokenVectors.load(tmp_path)
    assert info.value.file == str(tmp_path)
    np.save(tmp_path / "ids.npy", loaded.ids + 1000)  # no tokens of the tokenizer
    with pytest.raises(ArtefactError):
        TokenVectors.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtefactError):
        TokenVectors.load(tmp_path)


def test_a_vocabulary_is_encoded_once_for_a_machine(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    teacher = SentenceEncoder(str(tiny))

    def vectors(work: str) -> TokenVectors:
        """Return them for another corpus of a work directory."""
        pool = SimpleNamespace(fingerprint=f"{len(lines)}" * 64)
        with Workspace.driving(tmp_path / work) as workspace:
            models = Models(
                pool=pool,  # type: ignore[arg-type]
                workspace=workspace,
                runner=runner,
                seed=0,
                progress=lines.append,
            )
            return models.vocabulary(teacher)

    runner = LocalRunner(1)
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    try:
        first = vectors("one")
        assert len(lines) == 1
        shutil.rmtree(tmp_path / "cache")
        assert vectors("one").vectors.tobytes() == first.vectors.tobytes()  # the work directory's
        assert len(lines) == 1
        assert vectors("two").vectors.tobytes() == first.vectors.tobytes()
        assert len(lines) == 2  # the cache was deleted
        assert vectors("three").vectors.tobytes() == first.vectors.tobytes()  # the cache's
        assert len(lines) == 2
        monkeypatch.setattr(embedding, "version", lambda name: "another")
        assert vectors("three").vectors.tobytes() == first.vectors.tobytes()
        assert len(lines) == 3  # another version of torch may give other bits
    finally:
        runner.close()
    expected = encode_vocabulary(teacher)
    assert first.vectors.tobytes() == expected.vectors.tobytes()
    assert first.ids.tobytes() == expected.ids.tobytes()


def test_the_identity_of_token_vectors_is_the_teachers_files(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    same = vocabulary_identity(SentenceEncoder(str(copy)))
    assert same == vocabulary_identity(SentenceEncoder(str(tiny))) is not None
    (copy / "modules.json").write_text((copy / "modules.json").read_text() + " ")
    assert vocabulary_identity(SentenceEncoder(str(copy))) != same
    assert vocabulary_identity(SentenceEncoder("nowhere/at-all")) is None


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_adds_a_note_and_changes_no_byte(
    gpu: bool, tiny: Path, sentences: pa.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "gpu_available", lambda: gpu)
    vocabulary = encode_vocabulary(SentenceEncoder(str(tiny)), dim=8)
    lines: list[str] = []
    made = make_encoder(
        "static",
        lambda count, **asked: pa.table({"id": [*"abcdefg"], "text": sentences}),
        0,
        progress=lines.append,
        vocabulary=lambda teacher: vocabulary,
    )
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == gpu
    assert all("sentence@cuda" in note and f" {AGREEMENT:.0%} " in note for note in notes)
    expected = distil(vocabulary, embedding.beginning(sentences))
    assert isinstance(made, StaticEncoder)
    assert made.table.tobytes() == expected.table.tobytes()
    assert made.centre.tobytes() == expected.centre.tobytes()
