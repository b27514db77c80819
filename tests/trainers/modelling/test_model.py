from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from penstock.errors import InputError
from penstock.recipe import ModelFrom, ModelShape
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.modelling import build
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
    model.plain_head = False
    torch.testing.assert_close(model(batch), short)


@pytest.mark.parametrize("plain", [True, False])
def test_labels_may_have_weights(opened: ShardSet, plain: bool) -> None:
    model = build_model(SHAPE, opened, seed=0)
    model.plain_head = plain
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
    model.save(tmp_path)
    again = build_model(ModelFrom(hf=str(tmp_path)), opened, seed=9)
    saved = again.state_dict()
    pairs = ((own[: len(saved[name])], saved[name]) for name, own in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in pairs), "weights, to the bit"
    batch = collate([row_of(opened, 0)])
    torch.testing.assert_close(model(batch), again(batch), rtol=1e-6, atol=0)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as info:
        load_model(tmp_path)
    assert (info.value.key, info.value.file) == ("train.model.hf", str(tmp_path))


def test_a_smaller_vocabulary_is_refused(opened: ShardSet, tmp_path: Path) -> None:
    build_model(SHAPE, opened, seed=0).save(tmp_path)
    opened = ShardSet(opened.artefact)
    opened.vocab_size = 5000
    with pytest.raises(InputError) as info:
        build_model(ModelFrom(hf=str(tmp_path)), opened, seed=0)
    assert (info.value.key, info.value.got) == ("train.model.hf", "320")
    assert "5000" in (info.value.expected or "")


def test_a_model_that_cannot_keep_documents_apart_is_refused(
    opened: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_model(SHAPE, opened, seed=0).save(tmp_path)
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


# The head, for families that scale or cap their logits, or have a bias.

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[bool, dict[str, Any]]] = {
    "Qwen3": (True, {"tie_word_embeddings": False}),
    "Mistral": (True, {}),
    "GPTNeoX": (True, {}),
    "OPT": (True, {"word_embed_proj_dim": 16, "ffn_dim": 64}),
    "Gemma3Text": (False, {"final_logit_softcapping": 30.0}),
    "Cohere": (False, {"logit_scale": 0.0625}),
    "Granite": (False, {"logits_scaling": 8.0}),
    "Phi": (False, {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_applies_the_head_where_logits_are_its_product(
    family: str, opened: ShardSet, tmp_path: Path
) -> None:
    """A cap of 30 changes logits of a new model by less than rounding does."""
    plain, settings = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**SIZES | settings)
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(config)
    made.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.plain_head is plain
    assert all(map(torch.equal, made.state_dict().values(), model.causal.state_dict().values()))
    batch = collate([row_of(opened, 0), row_of(opened, 1)])
    logits = model.logits(batch)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(model(batch), expected)


# Rows of padding.


def _unpadded(opened: ShardSet, shape: ModelShape, patch: pytest.MonkeyPatch) -> LanguageModel:
    with patch.context() as here:
        here.setattr(build, "VOCABULARY_MULTIPLE", 1)
        return build_model(shape, opened, seed=0)


@pytest.mark.parametrize("tied", [True, False])
def test_padding_changes_no_loss_and_no_step(
    tied: bool, opened: ShardSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shape = SHAPE.model_copy(update={"tie_embeddings": tied})
    plain, padded = _unpadded(opened, shape, monkeypatch), build_model(shape, opened, seed=0)
    assert plain.causal.lm_head.weight.shape == (320, 32)
    assert padded.causal.lm_head.weight.shape == (384, 32)
    assert torch.equal(padded.causal.lm_head.weight[:320], plain.causal.lm_head.weight)
    batches = [collate([row_of(opened, row), row_of(opened, row + 1)]) for row in range(4)]
    losses = []
    for model in (plain, padded):
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        losses.append([])
        for batch in batches:
            loss = model(batch) / len(batch.labelled)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[0][-1] < losses[0][0] - 0.05
    for table in (padded.causal.lm_head.weight, padded.causal.get_input_embeddings().weight):
        assert not table[320:].any()
    nats = torch.stack([padded.label_nats(batches[0]), plain.label_nats(batches[0])])
    torch.testing.assert_close(nats[0], nats[1], rtol=0, atol=1e-5)
    padded.save(tmp_path)
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert exported.config.vocab_size == 320
    assert exported.get_input_embeddings().weight.shape == (320, 32)
    assert (exported.lm_head.weight is exported.model.embed_tokens.weight) is tied
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        ours = padded.causal(ids).logits[..., :320]
        torch.testing.assert_close(exported(ids).logits, ours, rtol=1e-5, atol=1e-6)


# Shapes.


def test_a_shape_names_key_value_heads_rope_norms_and_an_untied_head(
    opened: ShardSet, tmp_path: Path
) -> None:
    shape = ModelShape(
        layers=2, width=32, heads=4, kv_heads=2, tie_embeddings=False, rope_theta=5e5, qk_norm=True
    )  # fmt: skip
    model = build_model(shape, opened, seed=0)
    config = model.causal.config
    assert (config.model_type, config.num_key_value_heads, config.head_dim) == ("qwen3", 2, 8)
    assert config.rope_parameters["rope_theta"] == 5e5
    layer = model.causal.model.layers[0].self_attn
    assert layer.k_proj.weight.shape == (16, 32) and layer.q_norm.weight.shape == (8,)
    assert model.causal.lm_head.weight is not model.causal.model.embed_tokens.weight
    weights = sum(one.numel() for one in model.causal.model.layers.parameters())
    assert weights == pytest.approx(shape.parameters, rel=0.12)
    model.save(tmp_path)
    batch = collate([row_of(opened, 0)])
    again = build_model(ModelFrom(hf=str(tmp_path)), opened, seed=9)
    torch.testing.assert_close(again(batch), model(batch), rtol=1e-6, atol=0)


def test_matrices_that_write_to_the_residual_stream_begin_smaller(opened: ShardSet) -> None:
    plain = build_model(SHAPE.model_copy(update={"layers": 8}), opened, seed=0)
    shape = SHAPE.model_copy(update={"layers": 8, "depth_scaled_init": True})
    scaled = dict(build_model(shape, opened, seed=0).named_parameters())
    for name, weight in plain.named_parameters():
        factor = 4.0 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
        torch.testing.assert_close(scaled[name] * factor, weight, msg=name)


def test_wide_models_have_mlps_of_whole_tiles(opened: ShardSet) -> None:
    for width, mlp in ((256, 688), (512, 1408)):
        with torch.device("meta"):
            made = build._from_shape(ModelShape(layers=1, width=width, heads=4), opened, seed=0)
        assert made.config.intermediate_size == mlp


def test_later_keys_of_a_shape_change_no_name_at_their_defaults() -> None:
    known = {"layers": 1, "width": 32, "heads": 2, "mlp_ratio": 8 / 3}
    assert SHAPE.model_dump(mode="json") == known
    assert SHAPE.model_copy(update={"qk_norm": True}).model_dump() == known | {"qk_norm": True}
    with pytest.raises(ValueError, match="heads divisible by kv_heads, got 4 and 3"):
        ModelShape(heads=4, kv_heads=3)
