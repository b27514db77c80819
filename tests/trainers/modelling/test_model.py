from __future__ import annotations

from pathlib import Path

import pytest
import torch

from penstock.errors import InputError
from penstock.recipe import ModelFrom, ModelShape
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.modelling.build import build_model, load_model
from penstock.trainers.modelling.model import LanguageModel
from tests.packed import collate, row_of

SHAPE = ModelShape(layers=1, width=32, heads=2)


@pytest.fixture(scope="module")
def opened(shards: Path) -> ShardSet:
    return ShardSet.open(shards)


def test_weights_come_from_the_seed_alone(opened: ShardSet) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(123)
    first = build_model(SHAPE, opened, seed=5)
    drawn = torch.rand(1)
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        second = build_model(SHAPE, opened, seed=5)
    finally:
        torch.set_num_threads(threads)
    other = build_model(SHAPE, opened, seed=6)
    pairs = list(zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.causal.lm_head.weight, other.causal.lm_head.weight)
    torch.manual_seed(123)
    assert torch.equal(drawn, torch.rand(1)), "building a model changed the global generator"


def test_input_and_output_embeddings_are_one(opened: ShardSet) -> None:
    causal = build_model(SHAPE, opened, seed=0).causal
    assert causal.lm_head.weight is causal.model.embed_tokens.weight
    assert causal.config.intermediate_size == 96


def test_the_loss_without_logits_equals_that_of_the_logits(opened: ShardSet) -> None:
    model = build_model(SHAPE, opened, seed=0)
    batch = collate([row_of(opened, 0), row_of(opened, 1)])
    short = model(batch)
    model._plain_head = False
    torch.testing.assert_close(model(batch), short)


@pytest.mark.parametrize("plain", [True, False])
def test_labels_may_have_weights(opened: ShardSet, plain: bool) -> None:
    model = build_model(SHAPE, opened, seed=0)
    model._plain_head = plain
    batch = collate([row_of(opened, 0), row_of(opened, 1), row_of(opened, 2)])
    logits = model.logits(batch)
    expected = torch.zeros(batch.labels.shape)
    expected[:, 1:] = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), batch.labels[:, 1:], reduction="none"
    )
    counts = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(0))
    total, nats = model(batch, counts)
    torch.testing.assert_close(total, (expected * counts).sum())
    torch.testing.assert_close(nats, expected.detach())
    seen = {}

    def describe(samples: list[torch.Tensor], head: torch.Tensor | None) -> torch.Tensor:
        seen["logits"] = torch.stack([one if head is None else one @ head.T for one in samples])
        return torch.arange(len(samples))

    late, described = model(batch, tokens=True, describe=describe)
    torch.testing.assert_close(late, expected)
    assert described.tolist() == [0, 1, 2]
    # The logits of a token predict the label after it.
    labelled = torch.nn.functional.pad(batch.labels[:, 1:] != -100, (0, 1))
    torch.testing.assert_close(seen["logits"], (logits * labelled[..., None]).detach())
    wanted = torch.autograd.grad((expected * counts).sum(), list(model.parameters()))
    for found in (total, (late * counts).sum()):
        for mine, theirs in zip(torch.autograd.grad(found, list(model.parameters())), wanted):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_saved_model_can_be_continued(opened: ShardSet, tmp_path: Path) -> None:
    model = build_model(SHAPE, opened, seed=0)
    model.causal.save_pretrained(tmp_path)
    again = build_model(ModelFrom(hf=str(tmp_path)), opened, seed=9)
    pairs = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "weights, to the bit"
    batch = collate([row_of(opened, 0)])
    torch.testing.assert_close(model(batch), again(batch), rtol=1e-6, atol=0)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as info:
        load_model(tmp_path)
    assert (info.value.key, info.value.file) == ("train.model.hf", str(tmp_path))


def test_a_smaller_vocabulary_is_refused(opened: ShardSet, tmp_path: Path) -> None:
    build_model(SHAPE, opened, seed=0).causal.save_pretrained(tmp_path)
    opened = ShardSet(opened.artefact)
    opened.vocab_size = 5000
    with pytest.raises(InputError) as info:
        build_model(ModelFrom(hf=str(tmp_path)), opened, seed=0)
    assert (info.value.key, info.value.got) == ("train.model.hf", "320")
    assert "5000" in (info.value.expected or "")


def test_a_model_that_cannot_keep_documents_apart_is_refused(
    opened: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_model(SHAPE, opened, seed=0).causal.save_pretrained(tmp_path)
    whole = type(build_model(SHAPE, opened, seed=0).causal).forward

    def without_mask(self: object, attention_mask: object = None, **inputs: object) -> object:
        return whole(self, **inputs | {"position_ids": None})

    def load(path: str) -> LanguageModel:
        model = load_model(path)
        monkeypatch.setattr(type(model.causal), "forward", without_mask)
        return model

    monkeypatch.setattr("penstock.trainers.modelling.build.load_model", load)
    with pytest.raises(InputError) as info:
        build_model(ModelFrom(hf=str(tmp_path)), opened, seed=0)
    assert "mask" in info.value.problem
