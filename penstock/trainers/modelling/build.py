"""Models to train: Llama-shaped from scratch, or loaded; and their options.

Initial weights are drawn on the CPU in float32 from the seed alone, so they are the same for any
device and number of threads. PyTorch's normal distribution rounds differently with AVX2: on a CPU
without it weights of standard deviation 0.02 differ by up to 4.1e-8 (docs/lab.md).
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.display import logger_of
from penstock.errors import InputError
from penstock.language_models.model_directory import check_model
from penstock.language_models.trees import Branch, TokenTree, tree_nats
from penstock.recipe import ModelFrom, ModelShape, Train
from penstock.temporary import set_private_caches
from penstock.trainers.data.batch import Batch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.modelling.model import LanguageModel

__all__ = [
    "apply_options",
    "build_model",
    "check_compiler",
    "compile_inner",
    "load_model",
    "recompute_activations",
]

_log = logger_of(__name__)

MLP_MULTIPLES = {0: 16, 512: 128}
"""From each width of a model on, the multiple to which the MLP's width is rounded up: whole AVX-512
registers of float32, and for models worth a GPU whole tiles of its products."""

VOCABULARY_MULTIPLE = 128
"""The rows of the token table and of the head are rounded up to whole tiles of a GPU's products."""

_LARGE_LOGITS = 1024.0
"""Size of logits at which the head is tried; soft caps end at 30 to 50."""

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
"""Layer types for which 16 tokens are a sufficient trial. Others, such as chunked attention, differ
from these only in sequences longer than those that are tried."""


def build_model(model: ModelShape | ModelFrom, shards: ShardSet, seed: int) -> LanguageModel:
    """Build the model of a recipe in float32, for the shards' vocabulary and length.

    Raises:
        InputError: A given model cannot be loaded, its vocabulary is too small, or it cannot keep
            documents apart.
    """
    if isinstance(model, ModelFrom):
        made = load_model(model.hf)
        _check_vocabulary(model.hf, made, shards)
        _keep_apart(model.hf, made, shards)
        made.reads_branches = _reads_branches(model.hf, made, shards)
    else:
        made = LanguageModel(_from_shape(model, shards, seed))
        if shards.vocab_size % VOCABULARY_MULTIPLE:
            made.vocabulary = shards.vocab_size
        made.attend_by_spans(True)
        made.plain_head = made.reads_branches = True
    return made


def load_model(path: str | Path) -> LanguageModel:
    """Load a model saved by transformers; code that comes with it is never run.

    Raises:
        InputError: There is no such model, its weights are no safetensors, or it is not a causal
            language model.
    """
    from transformers import AutoModelForCausalLM

    with check_model(path, key="train.model.hf").bounding("train.model.hf"):
        try:
            causal = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=torch.float32,
                attn_implementation="sdpa",
                trust_remote_code=False,
                use_safetensors=True,
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"cannot be loaded as a causal language model: {reason}",
                key="train.model.hf",
                file=path,
            ) from None
    made = LanguageModel(causal)
    made.plain_head = _has_plain_head(causal)
    return made


def _has_plain_head(causal: Any) -> bool:
    """Return whether a model's logits are its states times the head's matrix, and nothing more.

    Models cap or scale logits, add a bias, or project states first, each by code of its own. So it
    is tried on a few tokens, with the head made so large that a cap would show.
    """
    head = causal.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return False
    ids = torch.arange(min(8, head.weight.shape[0]))[None]
    causal.eval()
    with torch.no_grad():
        largest = float(causal(input_ids=ids, use_cache=False).logits.abs().max())
        if not 0 < largest < math.inf:
            return False
        factor = 2.0 ** max(0, math.ceil(math.log2(_LARGE_LOGITS / largest)))  # exact both ways
        head.weight *= factor
        try:
            expected = causal(input_ids=ids, use_cache=False).logits
            states = causal.base_model(input_ids=ids, use_cache=False)[0]
            found = torch.nn.functional.linear(states, head.weight)
        except RuntimeError as error:  # states of another width
            _log.info("all logits are kept, since: %s", error)
            return False
        finally:
            head.weight /= factor
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


def _from_shape(shape: ModelShape, shards: ShardSet, seed: int) -> Any:
    """Draw a model. The rows of padding come after all is drawn, so they change no weight."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    multiple = next(
        multiple for width, multiple in sorted(MLP_MULTIPLES.items(), reverse=True)
        if shape.width >= width
    )  # fmt: skip
    kind, configuration = LlamaForCausalLM, LlamaConfig
    if shape.qk_norm:
        kind, configuration = Qwen3ForCausalLM, Qwen3Config
    config = configuration(
        vocab_size=shards.vocab_size,
        hidden_size=shape.width,
        intermediate_size=-(-round(shape.width * shape.mlp_ratio) // multiple) * multiple,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads or shape.heads,
        head_dim=shape.width // shape.heads,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        max_position_embeddings=shards.sequence_length,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=shards.eos,
        eos_token_id=shards.eos,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        causal = kind(config)
    if shape.depth_scaled_init:
        with torch.no_grad():
            for layer in causal.model.layers:
                for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    matrix.weight /= math.sqrt(2 * shape.layers)
    _pad_vocabulary(causal)
    return causal


def _pad_vocabulary(causal: Any) -> None:
    """Append rows of zeros to the token table and the head; the configuration stays as it is."""
    table, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    over = -table.num_embeddings % VOCABULARY_MULTIPLE
    if not over:
        return
    tied = head.weight is table.weight
    for module in (table, head):
        padded = torch.nn.functional.pad(module.weight.detach(), (0, 0, 0, over))
        module.weight = torch.nn.Parameter(padded)
    if tied:
        head.weight = table.weight
    table.num_embeddings = head.out_features = table.weight.shape[0]


def _check_vocabulary(name: str, model: LanguageModel, shards: ShardSet) -> None:
    vocabulary = model.causal.get_input_embeddings().num_embeddings
    if vocabulary < shards.vocab_size:
        raise InputError(
            key="train.model.hf",
            file=name,
            expected=f"a vocabulary of at least {shards.vocab_size}, as in the shards",
            got=vocabulary,
            fix="set `tokenizer` to the model's own",
        )


def _keep_apart(name: str, model: LanguageModel, shards: ShardSet) -> None:
    """Choose how this model keeps documents apart: by spans, or else by a mask.

    Models differ in the keywords that they pass on to their attention. So both ways are tried on
    two documents, and spans are used if their logits equal those of the mask.

    Raises:
        InputError: Neither way keeps documents apart.
    """
    batch = _two_documents(shards)
    model.eval()
    expected = _apart(model, batch)
    if expected is None:
        raise InputError(
            "does not honour a block-diagonal attention mask, so packed documents would attend to "
            "each other",
            key="train.model.hf",
            file=name,
            fix="choose a model with ordinary attention",
        )
    config = model.causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds <= _KNOWN_LAYERS:
        try:
            model.attend_by_spans(True)
            found = _apart(model, batch)
        except (NotImplementedError, TypeError, ValueError) as error:
            _log.info("%s: attention by a dense mask, since: %s", name, error)
        else:
            if found is not None and torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
                return
    model.attend_by_spans(False)


def _two_documents(shards: ShardSet) -> Batch:
    """Build two sequences of two documents; the sequences differ in the first document only."""
    length = min(16, shards.sequence_length)
    half = length // 2
    ids = np.stack([np.arange(length) % shards.vocab_size] * 2)
    ids[1, :half] = (ids[0, :half] + 1) % shards.vocab_size
    spans = np.array([0, half, length, length + half, 2 * length], np.int32)
    return Batch.of(ids, spans)


def _apart(model: LanguageModel, batch: Batch) -> torch.Tensor | None:
    """Compute the logits of :func:`_two_documents`; None if the second documents differ."""
    with torch.inference_mode():
        logits = model.logits(batch)
    half = logits.shape[1] // 2
    equal = torch.allclose(logits[0, half:], logits[1, half:], rtol=1e-4, atol=1e-4)
    return logits if equal else None


def _reads_branches(name: str, model: LanguageModel, shards: ShardSet) -> bool:
    """Return whether the model honours the mask and the positions of a tree with branches.

    A model with a sliding window ignores it where a mask is given, so the window must be at least
    as long as the sequences.
    """
    config = model.causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or _KNOWN_LAYERS)
    window = getattr(config, "sliding_window", None) or shards.sequence_length
    if not kinds <= _KNOWN_LAYERS or shards.sequence_length < 2:
        return False
    if window < shards.sequence_length and kinds != {"full_attention"}:
        return False
    half = min(8, shards.sequence_length) // 2
    trunk, other = (np.arange(2 * half + 1) % shards.vocab_size for _ in range(2))
    other[half:] = (trunk[half:] + 1) % shards.vocab_size
    branch = Branch(shared=half - 1, tokens=other[half - 1 :])
    size = len(trunk) - 1
    tree = TokenTree(trunk, [(0, size), (size, 2 * size - half + 1)], [branch])
    alone = [TokenTree(trunk, [(0, size)]), TokenTree(other, [(half - 1, size)])]
    expected = np.concatenate([tree_nats(model, [one], "cpu") for one in alone])
    try:
        found = tree_nats(model, [tree], "cpu")
    except (NotImplementedError, TypeError, ValueError) as error:
        _log.info("%s: each choice is read in a window of its own, since: %s", name, error)
        return False
    return np.allclose(found, expected, rtol=1e-4, atol=1e-4)


def apply_options(model: LanguageModel, train: Train, device: torch.device) -> None:
    """Apply ``train.activation_checkpointing`` and ``train.compile``.

    Raises:
        InputError: The model does not support it, or there is no compiler.
    """
    if train.activation_checkpointing:
        recompute_activations(model)
    if train.compile:
        check_compiler(device)
        compile_inner(model)


def recompute_activations(model: LanguageModel) -> None:
    """Store only the input of each layer and run the layer again for its gradients.

    This uses PyTorch's non-reentrant form, which works under every ZeRO stage as long as all
    weights are trained. The loss is not run again: its gradients come from the forward pass.

    Raises:
        InputError: The model does not support it.
    """
    causal = model.causal
    if not causal.supports_gradient_checkpointing:
        raise InputError(
            f"models of type {causal.config.model_type!r} do not support it",
            key="train.activation_checkpointing",
            fix="leave it out",
        )
    # Renamed in transformers 5; the older name goes in 6.
    renamed = getattr(causal, "activation_checkpointing_enable", None)
    (renamed or causal.gradient_checkpointing_enable)({"use_reentrant": False})


def compile_inner(model: LanguageModel, backend: str = "inductor") -> None:
    """Compile all but the loss with torch.compile, when the model first runs.

    Sizes are dynamic from the start, because micro-batches differ by a sequence and in their number
    of documents; so code is compiled once. Names of weights do not change. On a CPU attention is
    not compiled, because its spans differ in every batch.

    PyTorch unpickles and runs what it finds in its cache, by default ``/tmp/torchinductor_NAME``,
    which another user can make first. So the cache is in this user's own directory.
    """
    set_private_caches()
    model.inner.compile(dynamic=True, backend=backend)


def check_compiler(device: torch.device) -> None:
    """Check the requirements of torch.compile, which would otherwise fail at the first step.

    Raises:
        InputError: A compiler or triton is missing.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"no C++ compiler {compiler!r} on this worker",
            key="train.compile",
            fix="install one, name one in CXX, or leave train.compile out",
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise InputError(
            "no triton on this worker", key="train.compile", fix="run `pip install triton`"
        )
