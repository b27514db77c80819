"""Targets: files of tokenizers and models that come from elsewhere."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import tokenizers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import LlamaConfig, LlamaForCausalLM

from penstock.language_models.model_directory import check_model
from penstock.language_models.weight_files import HeaderError, opened_plain, read_header
from penstock.rules.languages import Languages
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.tokenization import examining
from penstock.tokenization.definition import DeclaredTokens, Definition, end_of_text
from penstock.tokenization.hiding import text_settings, tokenizer_of
from tests.fasttext_reference import zeroed_malloc
from tests.fuzz.child import Target
from tests.fuzz.seeds import written

__all__ = ["TARGETS"]

_SAMPLE = ["Some words of a text.", "größe 日本 \U0001f600", "", "a" * 500]


def _tokenizer(content: bytes, files: Path) -> None:
    """Read a tokenizer; where it needs a trial, that is too slow to be made each time."""
    path = files / "tokenizer.json"
    path.write_bytes(content)
    with mock.patch.object(examining, "_tried", return_value="not tried here"):
        definition = Definition.read(path)
    end = end_of_text(definition, DeclaredTokens())
    encoder = tokenizer_of(text_settings(definition.flag({end}), ends=[end]))
    for text in _SAMPLE:
        try:
            ids = encoder.encode(text, add_special_tokens=False).ids
        except Exception:  # an unknown character, without a token for it
            continue
        assert definition.vocabulary[end] not in ids


def _tokenizer_config(content: bytes, files: Path) -> None:
    path = files / "tokenizer_config.json"
    path.write_bytes(content)
    DeclaredTokens.read(path)


def _tokenizers() -> Sequence[bytes]:
    made: list[bytes] = []
    models: list[Any] = [
        tokenizers.models.BPE(
            {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3, "<unk>": 4}, [("a", "b")]
        ),
        tokenizers.models.WordPiece({"a": 0, "##b": 1, "<|endoftext|>": 2, "[UNK]": 3}),
        tokenizers.models.Unigram([("<unk>", 0.0), ("<|endoftext|>", -1.0), ("a", -1.0)], 0, False),
    ]
    for model in models:
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.normalizer = tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.NFC(), tokenizers.normalizers.Replace("  ", " ")]
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
            tokenizers.Regex(r"\p{L}+| ?[^\s\p{L}]+|\s+(?!\S)|\s+"), "isolated"
        )
        tokenizer.add_special_tokens(["<|endoftext|>", "<|x|>"])
        made.append(tokenizer.to_str().encode())
    return made


def _fasttext_files(quantised: bool) -> Sequence[bytes]:
    import fasttext

    with tempfile.TemporaryDirectory() as name:
        lines = Path(name, "lines.txt")
        words = [f"w{number % 37} x{number % 11}" for number in range(400)]
        lines.write_text("".join(f"__label__{n % 2} {word}\n" for n, word in enumerate(words)))
        settings = {"dim": 4, "epoch": 1, "thread": 1, "verbose": 0, "bucket": 300}
        with zeroed_malloc():
            models = [
                fasttext.train_supervised(str(lines), wordNgrams=2, **settings),
                fasttext.train_supervised(str(lines), loss="hs", minn=2, maxn=3, **settings),
            ]
        if quantised:
            for model in models:
                model.quantize(input=str(lines), cutoff=300, qnorm=True, verbose=0)
        paths = [Path(name, f"{number}.bin") for number in range(len(models))]
        left = iter(models)
        return written(lambda path: next(left).save_model(str(path)), paths)


def _fasttext_scores(content: bytes, files: Path) -> None:
    path = files / "model.bin"
    path.write_bytes(content)
    scores = CollapsedFastText.from_file(path).score(pa.array(_SAMPLE, pa.large_string()))
    assert len(scores) == len(_SAMPLE)


def _languages(content: bytes, files: Path) -> None:
    path = files / "model"
    path.write_bytes(content)
    found = Languages.of(str(path)).compute(pa.array(_SAMPLE, pa.large_string()))
    probabilities = found.column(1).drop_null().to_numpy()
    assert bool(np.isfinite(probabilities).all())


def _saved_classifier(content: bytes, files: Path) -> None:
    """A directory that ``save`` wrote, of which one file has other bytes."""
    which, _, own = content.partition(b"\n")
    for number, (name, sound) in enumerate(_classifier().items()):
        (files / name).write_bytes(own if which == b"%d" % number else sound)
    CollapsedFastText.load(files).score(pa.array(_SAMPLE))


def _safetensors(content: bytes, files: Path) -> None:
    """What the library takes is taken; what it may refuse is refused by its own error alone."""
    path = files / "model.safetensors"
    path.write_bytes(content)
    try:
        with safe_open(path, framework="np") as opened:
            sound = sum(1 for _ in opened.keys())  # noqa: SIM118
    except SafetensorError:
        sound = None
    try:
        with opened_plain(path) as source:
            tensors = read_header(source).tensors
    except HeaderError:
        assert sound is None, "a sound file is refused"
    else:
        assert sound in (None, tensors)


def _weights() -> Sequence[bytes]:
    arrays: dict[str, Any] = {"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.int8)}
    return [save(arrays), save({**arrays, "é": np.ones((), np.int64)}, {"format": "pt"})]


def _model_config(content: bytes, files: Path) -> None:
    """A Llama's directory, of which the config has other bytes; it is built on no device."""
    (files / "config.json").write_bytes(content)
    (files / "model.safetensors").write_bytes(_weights()[0])
    bounds = check_model(files, key="k")
    with bounds.bounding("k"), torch.device("meta"):
        config = LlamaConfig.from_pretrained(files)
        LlamaForCausalLM(config)


_CONFIG = {
    "model_type": "llama", "vocab_size": 30, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 48,
    "head_dim": 8, "eos_token_id": [0, 1], "rope_theta": 10000.0, "tie_word_embeddings": True,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
}  # fmt: skip


@functools.cache
def _classifier() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "model.bin")
        path.write_bytes(_fasttext_files(False)[0])
        CollapsedFastText.from_file(path).save(name)
        path.unlink()
        return {one.name: one.read_bytes() for one in sorted(Path(name).iterdir())}


TARGETS = [
    Target("tokenizer", _tokenizer, _tokenizers),
    Target(
        "config-of-tokenizer",
        _tokenizer_config,
        lambda: [json.dumps({"eos_token": {"content": "x"}, "pad_token": "y"}).encode()],
    ),
    Target("fasttext-scores", _fasttext_scores, lambda: _fasttext_files(False)[:1]),
    Target("fasttext-languages", _languages, lambda: _fasttext_files(False)),
    Target("fasttext-quantised", _languages, lambda: _fasttext_files(True)),
    Target(
        "saved-classifier",
        _saved_classifier,
        lambda: [b"%d\n%s" % pair for pair in enumerate(_classifier().values())],
    ),
    Target("safetensors", _safetensors, _weights),
    Target("model-config", _model_config, lambda: [json.dumps(_CONFIG).encode()]),
]
"""A target is found by the beginning of its name."""
