from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.recipe import ModelShape
from penstock.trainers.data.batch import IGNORED
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.model import LanguageModel
from tests.packed import PackedSequence, collate, row_of


def packed(tokens: list[int], starts: list[int]) -> PackedSequence:
    return PackedSequence(np.array(tokens, np.uint16), np.array(starts, np.int32))


def test_golden() -> None:
    batch = collate([packed([5, 6, 7, 8], [0, 1]), packed([1, 2, 3, 4], [0, 3])])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 2, 3, IGNORED]]
    assert batch.positions.tolist() == [[0, 0, 1, 2], [0, 1, 2, 0]]
    assert batch.spans.dtype == torch.int32 and batch.spans.tolist() == [0, 1, 4, 7, 8]
    assert batch.mask.int().tolist() == [
        [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]],
        [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]],
    ]


@pytest.fixture(scope="module")
def model(shards: Path) -> LanguageModel:
    return build_model(ModelShape(layers=2, width=32, heads=2), ShardSet.open(shards), seed=1)


def logits(model: LanguageModel, sequence: PackedSequence, mask: bool = True) -> torch.Tensor:
    batch = collate([sequence])
    with torch.inference_mode():
        return model.causal(
            input_ids=batch.input_ids,
            attention_mask=batch.mask if mask else torch.ones_like(batch.input_ids),
            position_ids=batch.positions,
            use_cache=False,
        ).logits[0]


def test_no_document_attends_to_another(model: LanguageModel, shards: Path) -> None:
    """Changing any one document leaves the logits of all others equal to the bit.

    Both times the batch has the same shape, so every number is made by the same instructions.
    """
    opened = ShardSet.open(shards)
    boundaries = 0
    for index in range(12):
        sequence = row_of(opened, index)
        ends = [*sequence.starts[1:], len(sequence.tokens)]
        before = logits(model, sequence)
        for start, end in zip(sequence.starts, ends, strict=True):
            tokens = sequence.tokens.copy()
            tokens[start:end] = (tokens[start:end] + 1) % opened.vocab_size
            after = logits(model, PackedSequence(tokens, sequence.starts))
            others = np.ones(len(tokens), bool)
            others[start:end] = False
            assert torch.equal(before[others], after[others])
            assert not torch.equal(before[~others], after[~others])
            boundaries += start > 0
    assert boundaries > 6, "hardly any sequence holds two documents"


def test_without_the_mask_documents_attend_to_each_other(model: LanguageModel) -> None:
    one = packed([1, 2, 3, 4, 5, 6], [0, 3])
    other = packed([9, 2, 3, 4, 5, 6], [0, 3])
    assert not torch.equal(logits(model, one, mask=False)[3:], logits(model, other, mask=False)[3:])


def test_a_document_has_the_logits_that_it_has_alone(model: LanguageModel) -> None:
    together = logits(model, packed([1, 2, 3, 4, 5, 6, 7, 8], [0, 3]))
    alone = logits(model, packed([4, 5, 6, 7, 8], [0]))
    torch.testing.assert_close(together[3:], alone)
