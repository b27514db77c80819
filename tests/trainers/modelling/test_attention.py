"""No token attends to another document, for every model and kind of attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.recipe import ModelFrom, ModelShape
from penstock.trainers.data.batch import Batch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.modelling import attention
from penstock.trainers.modelling.attention import NAME, _has_kernel, span_arguments, span_attention
from penstock.trainers.modelling.build import build_model, recompute_activations
from penstock.trainers.modelling.model import LanguageModel
from tests.packed import PackedSequence, collate

LENGTH = 32
CUTS = [(0, 9, 17), (0, 1, 2, 20), (0,), (0, 16), (0, 5, 10, 15, 31)]
"""Where documents begin in each sequence: of one token, of equal lengths, one document."""


def packed(seed: int = 0) -> list[PackedSequence]:
    random = np.random.default_rng(seed)
    return [
        PackedSequence(random.integers(1, 320, LENGTH).astype(np.uint16), np.array(cuts, np.int32))
        for cuts in CUTS
    ]


def spans(batch: Batch) -> list[tuple[int, int]]:
    return list(pairwise(batch.spans.tolist()))


# The function itself, against PyTorch with a dense mask.


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 4, LENGTH])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_values_and_gradients_are_those_of_a_dense_mask(
    groups: int, window: int | None, scaling: float | None
) -> None:
    batch = collate(packed())
    mask = batch.mask
    if window:
        place = torch.arange(LENGTH)
        mask = mask & (place[:, None] - place < window)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(len(CUTS), heads, LENGTH, 8, generator=generator, requires_grad=True)
        for heads in (4, groups, groups)
    ]
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *inputs, attn_mask=mask, scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    found, weights = span_attention(
        torch.nn.Module(),
        *inputs,
        None,
        scaling=scaling,
        sliding_window=window,
        **span_arguments(batch),
    )
    assert weights is None and found.shape == (len(CUTS), LENGTH, 4, 8)
    torch.testing.assert_close(found, wanted)
    direction = torch.randn(wanted.shape, generator=generator)
    pairs = zip(
        torch.autograd.grad(found, inputs, direction),
        torch.autograd.grad(wanted, inputs, direction),
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


def test_dropout_drops_attention_weights() -> None:
    inputs = [torch.ones(len(CUTS), 2, LENGTH, 4)] * 3
    arguments = span_arguments(collate(packed()))
    torch.manual_seed(0)
    found, _ = span_attention(torch.nn.Module(), *inputs, None, dropout=0.5, **arguments)
    assert not torch.allclose(found, inputs[2].transpose(1, 2))
    kept, _ = span_attention(torch.nn.Module(), *inputs, None, **arguments)
    torch.testing.assert_close(kept, inputs[2].transpose(1, 2))


def test_keywords_that_are_not_implemented_are_refused() -> None:
    inputs = [torch.ones(len(CUTS), 2, LENGTH, 4)] * 3
    arguments = span_arguments(collate(packed()))
    with pytest.raises(NotImplementedError, match="no softcap"):
        span_attention(torch.nn.Module(), *inputs, None, softcap=30.0, **arguments)


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("window", [None, 4])
def test_the_gpu_kernel_is_called_with_its_signature(
    groups: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU only shapes and types can be checked; numbers are in test_gpu.py."""
    pytest.importorskip("torch.nn.attention.varlen", reason="needs PyTorch 2.11")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    _has_kernel.cache_clear()
    with FakeTensorMode():
        inputs = [
            torch.empty(len(CUTS), heads, LENGTH, 8, device="cuda", dtype=torch.bfloat16)
            for heads in (4, groups, groups)
        ]
        ends = torch.empty(16, device="cuda", dtype=torch.int32)
        found, _ = span_attention(
            torch.nn.Module(), *inputs, None, sliding_window=window, cu_seq_lens_q=ends
        )
    _has_kernel.cache_clear()
    assert found.shape == (len(CUTS), LENGTH, 4, 8) and found.dtype == torch.bfloat16


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("window", [None, 4])
def test_the_kernel_of_pytorch_2_11_gets_a_key_for_each_query(
    groups: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That kernel has no ``enable_gqa`` (an H100 fell back to runs for it)."""
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="needs PyTorch 2.11")

    def kernel(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        assert query.shape == key.shape == value.shape and window_size[1] == 0
        wide = None if window_size[0] < 0 else window_size[0] + 1
        return attention._run_by_run(query, key, value, cu_seq_q, 0.0, scale, wide)

    batch = collate(packed())
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(len(CUTS), heads, LENGTH, 8, generator=generator)
        for heads in (4, groups, groups)
    ]
    arguments = {"sliding_window": window, **span_arguments(batch)}
    wanted, _ = span_attention(torch.nn.Module(), *inputs, None, **arguments)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "_fits_kernel", lambda query, dropout: True)
    attention._kernel_parameters.cache_clear()
    found, _ = span_attention(torch.nn.Module(), *inputs, None, **arguments)
    attention._kernel_parameters.cache_clear()
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("window", [None, 4])
def test_the_kernel_gets_heads_of_a_multiple_of_8(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="needs PyTorch 2.11")
    widths = []

    def kernel(query: Any, key: Any, value: Any, spans: Any, *_: Any, **named: Any) -> torch.Tensor:
        widths.append((query.shape[-1], key.shape[-1], value.shape[-1]))
        wide = None if named["window_size"][0] < 0 else named["window_size"][0] + 1
        return attention._run_by_run(query, key, value, spans, 0.0, named["scale"], wide)

    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(len(CUTS), 2, LENGTH, 36, generator=generator) for _ in range(3)]
    arguments = {"sliding_window": window, **span_arguments(collate(packed()))}
    wanted, _ = span_attention(torch.nn.Module(), *inputs, None, **arguments)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "_fits_kernel", lambda query, dropout: True)
    found, _ = span_attention(torch.nn.Module(), *inputs, None, **arguments)
    assert widths == [(40, 40, 40)]
    torch.testing.assert_close(found, wanted)


class _Waits(TorchDispatchMode):
    """Counts operations for whose results a CPU waits if they run on a GPU."""

    names = ("nonzero", "_local_scalar_dense", "masked_select", "is_nonzero", "equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        boolean = name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if name in self.names or boolean:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
def test_no_operation_of_a_step_waits_for_a_gpu(
    counts: bool, tokens: bool, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it is ours: the variable-length kernel is replaced by a plain product."""
    if not model.by_spans:
        pytest.skip("a dense mask")

    def kernel(query: Any, key: Any, value: Any, *_: Any) -> torch.Tensor:
        copies = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(copies, 1) for part in (key, value))
        return (query * key).sum(-1, keepdim=True) * value

    monkeypatch.setattr(attention, "_fits_kernel", lambda query, dropout: True)
    monkeypatch.setattr(attention, "_in_one_kernel", kernel)
    batch = collate(packed())
    weights = torch.ones(batch.input_ids.shape) if counts and not tokens else None
    with _Waits() as waits:
        found = model(batch, weights, tokens=tokens)
        (found[0] if weights is not None else found).sum().backward()
    assert not waits.found


# Whole models: changing one document leaves every other document's logits equal to the bit. The
# batch keeps its shape, so on one machine with one number of threads every number is made by the
# same instructions.


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LENGTH}
    return GPT2LMHeadModel(GPT2Config(vocab_size=320, bos_token_id=0, eos_token_id=0, **sizes))


SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def _grouped() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES))


def _windowed() -> Any:
    """Its layers attend to 20 tokens, more than the trial at the start has."""
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=20))


def _mask_only() -> Any:
    """Passes only a mask on to its attention."""
    from transformers import StableLmConfig, StableLmForCausalLM

    return StableLmForCausalLM(StableLmConfig(**SIZES))


MODELS = {"gpt2": _gpt2, "grouped": _grouped, "windowed": _windowed, "mask-only": _mask_only}


@pytest.fixture(scope="module", params=["ours", *MODELS])
def model(
    request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> LanguageModel:
    opened = ShardSet.open(shards)
    if request.param == "ours":
        return build_model(ModelShape(layers=2, width=32, heads=4), opened, seed=1).eval()
    directory = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MODELS[request.param]().save_pretrained(directory)
    made = build_model(ModelFrom(hf=str(directory)), opened, seed=1).eval()
    assert made.by_spans == (request.param != "mask-only")
    return made


def logits(model: LanguageModel, sequences: Sequence[PackedSequence]) -> torch.Tensor:
    """(n * L, vocabulary)"""
    with torch.inference_mode():
        return model.logits(collate(sequences)).flatten(0, 1)


def test_changing_one_document_leaves_all_others_equal_to_the_bit(model: LanguageModel) -> None:
    sequences = packed()
    before = logits(model, sequences)
    documents = spans(collate(sequences))
    assert len(documents) == 15
    for start, end in documents:
        row, first = divmod(start, LENGTH)
        tokens = sequences[row].tokens.copy()
        tokens[first : first + end - start] = tokens[first : first + end - start] % 319 + 1
        changed = [*sequences]
        changed[row] = PackedSequence(tokens, sequences[row].starts)
        after = logits(model, changed)
        others = torch.ones(len(before), dtype=torch.bool)
        others[start:end] = False
        assert torch.equal(before[others], after[others])
        assert not (before[start:end] == after[start:end]).all(dim=1).any()


def test_no_gradient_crosses_documents(model: LanguageModel) -> None:
    batch = collate(packed())
    inputs = model._inputs(batch)
    embedded = model.causal.get_input_embeddings()(inputs.pop("input_ids")).detach()
    embedded.requires_grad_()
    result = model.causal(inputs_embeds=embedded, use_cache=False, **inputs).logits.flatten(0, 1)
    for start, end in spans(batch):
        (gradient,) = torch.autograd.grad(
            result[start:end].square().sum(), embedded, retain_graph=True
        )
        others = gradient.flatten(0, 1).clone()
        assert others[start:end].abs().sum(dim=1).all()
        others[start:end] = 0
        assert not others.any()


def test_a_document_has_the_logits_that_it_has_alone(model: LanguageModel) -> None:
    sequences = packed()
    together = logits(model, sequences)
    for start, end in spans(collate(sequences)):
        row, first = divmod(start, LENGTH)
        tokens = sequences[row].tokens[first : first + end - start]
        alone = logits(model, [PackedSequence(tokens, np.zeros(1, np.int32))])
        torch.testing.assert_close(together[start:end], alone, rtol=1e-4, atol=1e-5)


def test_without_spans_and_mask_documents_attend_to_each_other(model: LanguageModel) -> None:
    """The result of the tests above if nothing kept documents apart."""
    one, other = packed(0)[0], packed(1)[0]
    mixed = PackedSequence(np.concatenate([other.tokens[:9], one.tokens[9:]]), one.starts)
    batches = [collate([one]), collate([mixed])]
    first, second = (
        model.causal(batch.input_ids, position_ids=batch.positions, use_cache=False).logits
        for batch in batches
    )
    if model.by_spans:
        assert not torch.equal(first[0, 9:], second[0, 9:])
    else:  # transformers finds the documents from positions where there is no mask
        assert torch.equal(first[0, 9:], second[0, 9:])


def test_recomputed_activations_give_the_same_gradients(model: LanguageModel) -> None:
    batch = collate(packed())
    model.train()
    found = []
    for again in (False, True):
        if again:
            recompute_activations(model)
        torch.manual_seed(0)  # for the dropout of gpt2
        loss = model(batch)
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    model.eval()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_exported_model_has_the_same_logits_and_an_attention_of_transformers(
    model: LanguageModel, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model.save(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation != NAME
    ids = collate(packed()).input_ids
    with torch.inference_mode():
        # The exported model attends by a dense mask, which rounds differently.
        ours = model.causal(ids).logits[..., : loaded.config.vocab_size]
        torch.testing.assert_close(loaded(ids).logits, ours, rtol=1e-5, atol=1e-6)
