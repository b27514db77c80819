"""The tokenizer stage: train or load a tokenizer, and measure it on the pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import InputError
from penstock.node_cache import local_file
from penstock.pipeline.pool import Pool, sample_texts
from penstock.pipeline.units import iter_documents
from penstock.recipe import Recipe, TrainedTokenizer, TrainTokenizer
from penstock.storage import atomic_file, is_uri, sha256_file

__all__ = ["END_OF_TEXT", "TokenizerSettings", "find_tokenizer", "make_tokenizer"]

END_OF_TEXT = "<|endoftext|>"
"""The end-of-text token of a trained tokenizer; it stands before and after every document.

Before it, because nothing is predicted across documents: without it no model would learn how a text
begins, which evaluation tests. After it, so that a model learns to end. It costs one token a
document, 0.2 % of web text."""

_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
"""End-of-text tokens that loaded tokenizers use, in the order they are tried."""

_MEASURED_BYTES = 2**20
"""Bytes of text on which bytes per token are measured, to plan how much to tokenise."""


def find_tokenizer(recipe: Recipe) -> Path | None:
    """Find the file of the tokenizer that a recipe names; None where one is trained.

    Raises:
        InputError: It is neither a file nor a name on the hub that can be reached.
    """
    choice = recipe.tokenizer
    if isinstance(choice, TrainTokenizer):
        return None
    path = recipe.resolve(choice)
    if path.is_dir():
        path = path / "tokenizer.json"
    if path.is_file():
        return local_file(path)
    if is_uri(choice) or choice.startswith((".", "/", "~")) or choice.endswith(".json"):
        raise InputError("no such file", key="tokenizer", file=path, expected="a tokenizer.json")
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(choice, "tokenizer.json"))
    except Exception as error:  # any transport or name error
        raise InputError(
            key="tokenizer",
            file=choice,
            expected="a tokenizer.json, a directory that holds one, or a name on the hub",
            got=f"no answer from the hub ({type(error).__name__})",
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """Settings of the tokenizer stage, from a recipe: training, or the file to load."""

    train: TrainTokenizer | None = None
    """Settings of training; None if there is a file."""
    path: Path | None = None
    """The local ``tokenizer.json`` to load; None where one is trained."""
    seed: int = 0
    """Seed of the texts that are drawn to train on and to measure."""

    @classmethod
    def of(cls, recipe: Recipe) -> TokenizerSettings:
        """Find the file of the tokenizer that a recipe names, on disk or on the hub.

        Raises:
            InputError: As :func:`find_tokenizer`.
        """
        train = recipe.tokenizer if isinstance(recipe.tokenizer, TrainTokenizer) else None
        return cls(train=train, path=find_tokenizer(recipe), seed=recipe.seed)

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint: how it is trained, or the file's sha256."""
        if self.train is not None:
            return self.train.model_dump(mode="json")
        assert self.path is not None
        return {"sha256": sha256_file(self.path)}

    def load(self, pool: Pool) -> tokenizers.Tokenizer:
        """Train the tokenizer on texts of the pool, or load its file.

        Raises:
            InputError: The file is not a tokenizer.
        """
        if self.train is not None:
            train = self.train.train
            return _train(_sample(pool, train.sample_bytes, self.seed, "tokenizer"), train)
        try:
            return tokenizers.Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises bare Exception
            raise InputError(
                f"not a tokenizer.json: {error}", key="tokenizer", file=self.path
            ) from None


def make_tokenizer(settings: TokenizerSettings, pool: Pool, workspace: Workspace) -> Artefact:
    """Find or make the tokenizer of a pool: ``tokenizer.json`` and its measurements.

    A trained one is byte-level BPE, from documents drawn by hash of id and text.

    Raises:
        InputError: A tokenizer was named that cannot be loaded or has no end-of-text token.
    """

    def write(draft: Draft) -> FileRecord:
        tokenizer = settings.load(pool)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        end = _end_of_text(tokenizer)
        sample = list(_sample(pool, _MEASURED_BYTES, settings.seed, "measure"))
        encoded = tokenizer.encode_batch_fast(sample, add_special_tokens=False)
        facts = {
            # Ids may have holes: what a trainer's table must hold is the highest of them.
            "vocab_size": 1 + max(tokenizer.get_vocab().values()),
            "eos": end,
            "bytes_per_token": round(
                sum(len(text.encode()) for text in sample)
                / sum(len(encoding.ids) + 2 for encoding in encoded),
                6,
            ),
        }
        with atomic_file(draft.path / "tokenizer.json") as sink:
            sink.write(tokenizer.to_str().encode())
        return FileRecord.of("tokenizer.json", sink, **facts)

    def work(draft: Draft) -> Artefact:
        if draft.done("tokenizer") is None:
            draft.record("tokenizer", [write(draft)])
        (record,) = draft.done("tokenizer") or ()
        return draft.publish(["tokenizer"], record.facts)

    return workspace.make(
        "tokenizer",
        2,
        settings.config(),
        {"pool": pool.fingerprint, "seed": settings.seed},
        work,
    )


def _sample(pool: Pool, size: int, seed: int, purpose: str) -> Iterator[str]:
    """Draw texts of about ``size`` bytes; the first text where none of a few long ones is drawn."""
    nothing = True
    for text in sample_texts(pool, size, seed, purpose):
        nothing = False
        yield text
    if nothing:
        first = next(unit for unit in pool.units if unit.documents)
        yield next(iter_documents(first, ["text"])).column("text")[0].as_py()


def _train(texts: Iterator[str], settings: TrainedTokenizer) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=settings.vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def _end_of_text(tokenizer: tokenizers.Tokenizer) -> int:
    for token in _ENDS:
        found = tokenizer.token_to_id(token)
        if found is not None:
            return int(found)
    raise InputError(
        "no end-of-text token",
        key="tokenizer",
        expected=f"one of {', '.join(_ENDS)} in its vocabulary",
    )
