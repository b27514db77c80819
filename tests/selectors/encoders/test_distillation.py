"""Distillation: the teacher's geometry, and the same bytes on any threads and workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from penstock.pipeline.runner import LocalRunner, in_order
from penstock.selectors.encoders import distillation
from penstock.selectors.encoders.distillation import distil
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import StaticEncoder, token_ids


def test_the_same_bytes_on_any_threads_and_workers(
    tiny: Path, static: StaticEncoder, sentences: pa.Array
) -> None:
    before = torch.get_num_threads()
    runner = LocalRunner(2)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            teacher = SentenceEncoder(str(tiny))
            again = distil(teacher, sentences, dim=8, spread=in_order(runner))
            assert torch.get_num_threads() == threads
            assert again.table.tobytes() == static.table.tobytes()
            assert again.centre.tobytes() == static.centre.tobytes()
    finally:
        torch.set_num_threads(before)
        runner.close()


def test_the_table_holds_principal_components_of_the_teachers_outputs(
    tiny: Path, static: StaticEncoder, sentences: pa.Array
) -> None:
    """With all dimensions, distances between tokens are the teacher's, but for the weights."""
    teacher = SentenceEncoder(str(tiny))
    full = distil(teacher, sentences, dim=32)
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
