"""Losses of documents, against the loss of the batch and against each document read alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer

from penstock.jobs.curate import Curated
from penstock.pipeline.units import iter_documents
from penstock.recipe import ModelShape
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation import documents
from penstock.trainers.evaluation.documents import write_document_losses
from penstock.trainers.evaluation.examples import Example, example_nats
from penstock.trainers.evaluation.run_evaluator import tree_reader
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.model import LanguageModel
from tests.packed import collate, row_of

from .conftest import CONTEXT, log_p


@pytest.fixture(scope="module")
def trained(packed: ShardSet) -> LanguageModel:
    """Wide initial weights, so that losses differ from document to document."""
    model = build_model(ModelShape(layers=2, width=32, heads=2), packed, seed=3).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)
    return model


def losses(model: LanguageModel, shards: ShardSet, path: Path, **share: Any) -> dict[str, Any]:
    share = {"micro_batch": 5, "group": Group(), **share}
    write_document_losses(model, shards, path, **share)
    table = pq.read_table(path)
    assert table.schema.equals(documents.SCHEMA)
    return table.to_pydict()


@pytest.fixture(scope="module")
def found(
    trained: LanguageModel, packed: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return losses(trained, packed, tmp_path_factory.mktemp("found") / "losses.parquet")


def spans(packed: ShardSet) -> list[tuple[str, int, int, list[int]]]:
    """Every span: its document, its offset there, its sequence, its tokens."""
    found = []
    for index in range(len(packed)):
        sequence, owners = row_of(packed, index), packed.documents(index, index + 1)
        edges = [*sequence.starts.tolist(), CONTEXT]
        for number, name in enumerate(owners.ids.to_pylist()):
            tokens = sequence.tokens[edges[number] : edges[number + 1]].tolist()
            found.append((name, int(owners.offsets[number]), index, tokens))
    return found


def test_the_pool_has_the_hard_cases(packed: ShardSet) -> None:
    """Documents in one sequence and in many, several shards, two groups, a span of one token."""
    all_spans = spans(packed)
    counts = np.unique([name for name, *_ in all_spans], return_counts=True)[1]
    assert (counts == 1).sum() >= 10 and counts.max() > 3
    assert len(packed.artefact.named("shard-")) > 10
    begun = [index for name, offset, index, tokens in all_spans if offset == 0]
    assert len(begun) == len(counts), "each document begins once"
    assert any(len(tokens) == 1 for *_, tokens in all_spans)


def test_the_loss_of_a_batch_is_the_sum_of_its_documents(
    trained: LanguageModel, packed: ShardSet, found: dict[str, Any]
) -> None:
    """Within 1e-5 of the loss in training, for each batch and over all of them."""
    total, predicted = 0.0, 0
    for start in range(0, len(packed), 7):
        stop = min(start + 7, len(packed))
        batch = collate([row_of(packed, index) for index in range(start, stop)])
        with torch.no_grad():
            loss = float(trained(batch))
        assert trained.label_nats(batch).double().sum().item() == pytest.approx(loss, rel=1e-5)
        total += loss
        predicted += int((batch.labels != -100).sum())
    assert sum(found["nats"]) == pytest.approx(total, rel=1e-5)
    assert sum(found["tokens"]) == predicted


def test_a_document_has_the_sum_of_its_spans_read_alone(
    trained: LanguageModel, packed: ShardSet, found: dict[str, Any]
) -> None:
    """Each span as an independent text, through the full logits, one at a time: within 1e-5."""
    nats: dict[str, float] = {}
    tokens: dict[str, int] = {}
    for name, _, _, ids in spans(packed):
        nats[name] = nats.get(name, 0.0) - (sum(log_p(trained, ids)) if len(ids) > 1 else 0.0)
        tokens[name] = tokens.get(name, 0) + len(ids) - 1
    assert found["doc_id"] == list(nats), "in the order of the shards, each once"
    assert found["tokens"] == list(tokens.values())
    assert found["nats"] == pytest.approx(list(nats.values()), rel=1e-5)
    ratios = np.array(found["nats"]) / np.array(found["tokens"])
    assert found["loss"] == pytest.approx(ratios, rel=1e-6)
    assert np.std(found["loss"]) > 0.05


def test_a_document_in_one_span_has_the_nats_that_evaluation_computes(
    trained: LanguageModel, packed: ShardSet, curated: Curated, found: dict[str, Any]
) -> None:
    """The text after an end of text, as for bits per byte, and the end of text after it."""
    texts = {
        name: text
        for unit in curated.pool.units
        for batch in iter_documents(unit, ["id", "text"])
        for name, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist())
    }
    tokenizer = Tokenizer.from_file(str(packed.tokenizer))
    reader = tree_reader(trained, Group())
    checked = 0
    for name, nats, count in zip(found["doc_id"], found["nats"], found["tokens"]):
        ids = [0, *tokenizer.encode(texts[name]).ids, 0]
        if count == len(ids) - 1:
            plain = [Example(choices=(texts[name],))]
            (alone,), _ = example_nats(plain, reader, tokenizer, eos=0, context=CONTEXT)
            assert nats == pytest.approx(alone - log_p(trained, ids)[-1], rel=1e-5)
            checked += 1
    assert checked >= 5


@pytest.mark.parametrize("workers", [pytest.param(2, marks=pytest.mark.whole), 3])
def test_ranks_and_chunks_give_the_same_bytes(
    trained: LanguageModel,
    packed: ShardSet,
    found: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """The sums of each rank are recorded first; then rank 0 is given their total."""
    monkeypatch.setattr(documents, "CHUNK_TOKENS", 11 * CONTEXT)
    shares: list[list[torch.Tensor]] = []
    for rank in range(workers):
        shares.append([])
        monkeypatch.setattr(torch.distributed, "all_reduce", shares[rank].append)
        path = tmp_path / f"{rank}.parquet"
        write_document_losses(
            trained,
            packed,
            path,
            micro_batch=5,
            group=Group(rank, workers),
        )
        assert path.exists() == (rank == 0)
    sums = [sum(parts[1:], parts[0].clone()) for parts in zip(*shares)]
    assert len(sums) == -(-len(packed) // 11) > 3
    assert all(any(bool(part.any()) for part in share) for share in shares)
    waiting = iter(sums)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.copy_(next(waiting)))
    # Micro-batches are cut from chunks, so one rank with the same chunks has the same ones.
    alone = losses(trained, packed, tmp_path / "alone.parquet")
    assert losses(trained, packed, tmp_path / "all.parquet", group=Group(0, workers)) == alone
    assert alone["nats"] == pytest.approx(found["nats"], rel=1e-6)


def test_sequences_are_described_by_files_and_documents(packed: ShardSet) -> None:
    text = packed.where([0, 9])
    files = [record.path for record in packed.artefact.named("shard-")]
    assert text.startswith(f"sequences 0, 9 of {files[0]}, {files[1]}, documents '")
    assert repr(packed.documents(0, 1).ids[0].as_py()) in text
    many = packed.where(range(len(packed)))
    assert len(many) < 400 and many.count("…") == 3


def test_documents_of_a_range_are_those_of_its_sequences(packed: ShardSet) -> None:
    apart = [packed.documents(index, index + 1) for index in range(3, 30)]
    whole = packed.documents(3, 30)
    assert whole.ids.to_pylist() == [name for part in apart for name in part.ids.to_pylist()]
    assert np.array_equal(whole.offsets, np.concatenate([part.offsets for part in apart]))
    assert whole.counts.tolist() == [len(row_of(packed, index).starts) for index in range(3, 30)]
