"""The tokenizer stage: train or load a tokenizer, and measure it on the pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import InputError
from penstock.node_cache import local_file
from penstock.panics import panics_as_errors
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner
from penstock.pipeline.samples import sample_texts
from penstock.pipeline.units import iter_documents
from penstock.recipe import Recipe, TrainedTokenizer, TrainTokenizer
from penstock.storage import AnyPath, atomic_file, is_uri, sha256_file
from penstock.tokenization.definition import (
    END_OF_TEXT,
    DeclaredTokens,
    Definition,
    end_of_text,
    hub_file,
)
from penstock.tokenization.fast import find_encoder
from penstock.tokenization.hiding import text_settings, tokenizer_of

__all__ = ["TokenizerSettings", "make_tokenizer", "train_tokenizer"]

_CONFIG = "tokenizer_config.json"

_MEASURED_BYTES = 2**20
"""Bytes of text on which bytes per token are measured, to plan how much to tokenise."""


def _find_tokenizer(recipe: Recipe, choice: str) -> tuple[Path, Path | None]:
    """Find the file of a tokenizer that a recipe names, and its ``tokenizer_config.json``.

    Raises:
        InputError: It is neither a file nor a name on the hub that can be reached, or a directory
            without ``tokenizer.json``.
    """
    path = recipe.resolve(choice)
    if path.is_dir():
        directory, path = path, path / "tokenizer.json"
        if not path.is_file():
            raise InputError(
                "this directory holds no tokenizer.json",
                key="tokenizer",
                file=directory,
                fix="name the directory or the file of a tokenizer of the library `tokenizers`",
            )
    if path.is_file():
        beside: AnyPath = path.parent / _CONFIG
        return local_file(path), local_file(beside) if beside.is_file() else None
    if is_uri(choice) or choice.startswith((".", "/", "~")) or choice.endswith(".json"):
        raise InputError("no such file", key="tokenizer", file=path, expected="a tokenizer.json")
    try:
        return hub_file(choice, "tokenizer.json"), hub_file(choice, _CONFIG, missing_ok=True)
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
    declared: DeclaredTokens = field(default_factory=DeclaredTokens)
    """The control tokens of the ``tokenizer_config.json`` beside it."""
    seed: int = 0
    """Seed of the texts that are drawn to train on and to measure."""

    @classmethod
    def of(cls, recipe: Recipe) -> TokenizerSettings:
        """Find the files of the tokenizer that a recipe names, on disk or on the hub.

        Raises:
            InputError: It is neither a file nor a name on the hub that can be reached, it is
                refused, or its ``tokenizer_config.json`` cannot be read.
        """
        choice = recipe.tokenizer
        if isinstance(choice, TrainTokenizer):
            return cls(train=choice, seed=recipe.seed)
        path, config = _find_tokenizer(recipe, choice)
        declared = DeclaredTokens() if config is None else DeclaredTokens.read(config)
        end_of_text(Definition.read(path), declared)  # raises now, not after the corpus is read
        return cls(path=path, declared=declared, seed=recipe.seed)

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint: how it is trained, or what is read."""
        if self.train is not None:
            return self.train.model_dump(mode="json")
        assert self.path is not None
        return {
            "sha256": sha256_file(self.path),
            "end": self.declared.end,
            "control": list(self.declared.control),
        }

    def load(
        self, pool: Pool, runner: Runner | None = None, sha256: str | None = None
    ) -> Definition:
        """Train the tokenizer on texts of the pool, or read its file.

        Raises:
            InputError: The file is not a tokenizer, or its sha256 is another than the one given.
        """
        if self.train is not None:
            train = self.train.train
            texts = _sample(pool, train.sample_bytes, self.seed, "tokenizer", runner)
            return Definition.of(train_tokenizer(texts, train))
        assert self.path is not None
        return Definition.read(self.path, sha256=sha256)


def make_tokenizer(
    settings: TokenizerSettings, pool: Pool, workspace: Workspace, runner: Runner | None = None
) -> Artefact:
    """Find or make the tokenizer of a pool: ``tokenizer.json`` and its measurements.

    A trained one is byte-level BPE, from documents drawn by hash of id and text. In the file all
    control tokens are flagged special, the end of text too, so that the file alone says what no
    text may give. The manifest names the library that encodes.

    Raises:
        InputError: A tokenizer was named that cannot be loaded, has no end-of-text token, or gives
            it for texts.
    """

    def write(draft: Draft) -> FileRecord:
        definition = settings.load(pool, runner, config.get("sha256"))
        end = end_of_text(definition, settings.declared)
        definition = definition.flag({end, *settings.declared.control})
        of_texts = text_settings(definition, ends=[end])
        sample = list(_sample(pool, _MEASURED_BYTES, settings.seed, "measure", runner))
        with panics_as_errors("tokenizer"):
            encoded = tokenizer_of(of_texts).encode_batch_fast(sample, add_special_tokens=False)
            ids = [encoding.ids for encoding in encoded]
            encoder = find_encoder(of_texts, sample, ids)
        facts = {
            # Ids may have holes: what a trainer's table must hold is the highest of them.
            "vocab_size": 1 + max(definition.vocabulary.values()),
            "eos": definition.vocabulary[end],
            "bytes_per_token": round(
                sum(len(text.encode()) for text in sample) / sum(len(own) + 2 for own in ids), 6
            ),
            "encoder": encoder,
        }
        with atomic_file(draft.path / "tokenizer.json") as sink:
            sink.write(definition.to_str().encode())
        return FileRecord.of("tokenizer.json", sink, **facts)

    def work(draft: Draft) -> Artefact:
        if draft.done("tokenizer") is None:
            draft.record("tokenizer", [write(draft)])
        (record,) = draft.done("tokenizer") or ()
        return draft.publish(["tokenizer"], record.facts)

    config = settings.config()
    return workspace.make(
        "tokenizer",
        3,
        config,
        {"pool": pool.fingerprint, "seed": settings.seed},
        work,
    )


def _sample(pool: Pool, size: int, seed: int, purpose: str, runner: Runner | None) -> Iterator[str]:
    """Draw texts of about ``size`` bytes; the first text where none of a few long ones is drawn."""
    nothing = True
    for text in sample_texts(pool, size, seed, purpose, runner):
        nothing = False
        yield text
    if nothing:
        first = next(unit for unit in pool.units if unit.documents)
        yield next(iter_documents(first, ["text"])).column("text")[0].as_py()


def train_tokenizer(texts: Iterator[str], settings: TrainedTokenizer) -> tokenizers.Tokenizer:
    """Train byte-level BPE on texts."""
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
