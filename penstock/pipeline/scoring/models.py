"""The model and embeddings stages: fitted selectors and encoders of a pool, and its vectors.

A model's fingerprint has the selector's identity and version, the pool, the target files and the
seed. So columns that differ in name alone share a model, and all selectors of a pool share its
encoders. An encoder does not depend on labels: with another `source` nothing is embedded anew. The
token vectors that a static encoder is distilled from depend on the teacher alone. They are a
separate artefact, which all pools of a work directory share, and are encoded once for a machine
(:func:`penstock.node_cache.made_tree`).

Vectors of the pool are made in one pass over the text for all selectors. A unit's vectors are int16
on the lattice (:func:`penstock.selectors.encoders.lattice.on_lattice`), half the size of float32
and exact in every product; rows without a token are zero.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock import extras, node_cache
from penstock.activity import count_documents, step
from penstock.artefact import Artefact, Draft, FileRecord, Workspace, canonical, fingerprint
from penstock.columnar import read_batch
from penstock.pipeline.checking import call_plugin, check_identity, check_sum
from penstock.pipeline.plug_in_checks import check_facts
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner, in_order
from penstock.pipeline.samples import FIT, sample_documents
from penstock.pipeline.scoring.parts import Joined, UnitPart, fill_parts
from penstock.pipeline.units import Unit, iter_documents
from penstock.selectors.base import Encoder, Fitting, Selector, Targets
from penstock.selectors.encoders.distillation import TokenVectors, encode_vocabulary
from penstock.selectors.encoders.embedding import (
    CHARACTERS,
    DISTILLED,
    beginning,
    contents_of,
    embed,
    load_encoder,
    make_encoder,
    vocabulary_identity,
)
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.storage import AnyPath, atomic_file

__all__ = ["Column", "Models", "make_embeddings", "read_vectors"]

_STATE = "state"
"""Directory of a model that belongs to the selector."""

_FACTS = "facts.json"
"""The facts that the fit returned, beside the state: so a model always has a file."""

_VERSION = 4

_ENCODER = 2
"""Version of encoders."""

_VOCABULARY = 1
"""Version of token vectors."""

_HELD_BYTES = 2**28
"""Bytes of a sample that is held for the next selector, at most: 100,000 beginnings of pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A selector of the recipe, with its targets."""

    name: str
    selector: Selector
    target: Targets = field(default_factory=Targets)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Paths of a user's class, by the parameter that holds them; to name a file that changed."""

    @property
    def quality(self) -> str | None:
        """The column that this one depends on, if any."""
        return self.selector.requirements.quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Finds or makes the models of a pool."""

    pool: Pool
    workspace: Workspace
    runner: Runner
    seed: int
    progress: Callable[[str], None] = lambda line: None
    _samples: dict[Any, pa.Table] = field(default_factory=dict, repr=False, compare=False)
    """The last sample, by the arguments of :meth:`_sample`: selectors often ask for the same."""

    def fitted(self, column: Column) -> Artefact:
        """Find or fit a selector: its fitted state as data files, and the facts of the fit."""
        selector = column.selector

        def fit_and_save(state: Path) -> Mapping[str, Any]:
            # A copy is fitted: workers load the model's files only, no other state of this process.
            fitted = copy.deepcopy(selector)
            with extras.named(key="use"), step(f"fitting select.{column.name}"):
                facts = fitted.fit(self.fitting(column))
            fitted.save(state)
            return facts

        identity = dict(selector.identity())

        def fit(state: Path) -> Mapping[str, Any]:
            key = f"select.{column.name}"
            facts = check_facts(key, call_plugin(key, None, fit_and_save, state))
            check_identity(identity, selector.identity(), f"select.{column.name}")
            return facts

        return self._make("model", _VERSION, *self._named(column), fit)

    def name_of(self, column: Column) -> str:
        """Return the fingerprint of a selector's model, whether it is made or not."""
        return fingerprint("model", _VERSION, *self._named(column))

    def _named(self, column: Column) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the configuration and the inputs of a selector's model."""
        selector = column.selector
        identity = dict(selector.identity())
        return (
            {"identity": identity, "version": selector.version, "seed": self.seed},
            {"pool": self.pool.fingerprint, "target": list(column.target.hashes)},
        )

    def encoder(self, name: str) -> Artefact:
        """Find or make the encoder of this name for the pool."""

        def fit(state: Path) -> Mapping[str, Any]:
            with step(f"making encoder {name}"):
                encoder = make_encoder(
                    name,
                    self._sample,
                    self.seed,
                    spread=in_order(self.runner),
                    progress=self.progress,
                    vocabulary=self.vocabulary,
                )
            encoder.save(state)
            check_identity(contents, contents_of(name), f"encoder {name}")
            return {"encoder": encoder.name}

        contents = contents_of(name)
        config = {"encoder": contents, "version": _ENCODER, "seed": self.seed}
        # Labels are no part of a sample's texts, and only a distilled encoder reads a sample.
        inputs = {"sample": self.pool.sampled if name == DISTILLED else None}
        return self._make("model", _VERSION, config, inputs, fit)

    def vocabulary(self, teacher: SentenceEncoder) -> TokenVectors:
        """Find or make the token vectors of a teacher."""
        spread = in_order(self.runner)

        def encode(directory: Path) -> None:
            self.progress(f"encoding the vocabulary of {teacher.name}, once for this machine")
            encode_vocabulary(teacher, spread=spread).save(directory)
            check_identity(identity, vocabulary_identity(teacher), teacher.name)

        identity = vocabulary_identity(teacher)
        if identity is None:
            return encode_vocabulary(teacher, spread=spread)
        key = hashlib.sha256(canonical(["vocabulary", _VOCABULARY, identity])).hexdigest()

        def copy_or_encode(state: Path) -> Mapping[str, Any]:
            shutil.copytree(
                node_cache.made_tree(key, encode),
                state,
                ignore=shutil.ignore_patterns(".*"),
                dirs_exist_ok=True,
            )
            return {"teacher": teacher.name}

        made = self._make("vocabulary", _VOCABULARY, identity, {}, copy_or_encode)
        return TokenVectors.load(made.local() / _STATE)

    def load(self, column: Column, model: Artefact) -> None:
        column.selector.load(model.local() / _STATE)

    def load_encoder(self, name: str) -> Encoder:
        return load_encoder(self.encoder(name).local() / _STATE)

    def fitting(self, column: Column) -> Fitting:
        """Return what the fit of a column's selector receives."""
        return Fitting(
            sample=self._sample,
            pool_size=self.pool.kept,
            sources={name: tally["bytes"] for name, tally in self.pool.by_source.items()},
            target=column.target.examples,
            seed=self.seed,
            encoder=cache(self.load_encoder),
            spread=in_order(self.runner),
            progress=lambda line: self.progress(f"{column.name}: {line}"),
        )

    def _sample(self, count: int, **asked: Any) -> pa.Table:
        # Not by the column's name: a model serves every column of the same identity.
        key = count, *sorted(asked.items())
        sample = self._samples.get(key)
        self._samples.clear()
        if sample is None:
            sample = sample_documents(self.pool, count, self.seed, FIT, self.runner, **asked)
        if sample.nbytes <= _HELD_BYTES:
            self._samples[key] = sample
        return sample

    def _make(
        self,
        stage: str,
        version: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        fit: Callable[[Path], Mapping[str, Any]],
    ) -> Artefact:
        def work(draft: Draft) -> Artefact:
            if draft.done("model") is None:
                draft.record("model", _fit_files(draft, fit))
            facts, *_ = draft.files(["model"])
            return draft.publish(["model"], facts.facts)

        return self.workspace.make(stage, version, config, inputs, work)


def _fit_files(draft: Draft, fit: Callable[[Path], Mapping[str, Any]]) -> list[FileRecord]:
    """Fit into an empty directory, and record the files that are written there."""
    state = draft.staging() / _STATE
    shutil.rmtree(state, ignore_errors=True)  # files of a killed attempt
    state.mkdir()
    facts = fit(state)
    names = sorted(
        f"{_STATE}/{path.relative_to(state).as_posix()}"
        for path in state.rglob("*")
        if path.is_file()
    )
    with atomic_file(draft.path / _FACTS) as sink:
        sink.write(canonical(dict(facts)))
    own = replace(FileRecord.of(_FACTS, sink), facts=dict(facts))  # a fact may be called ``path``
    return [own, *draft.adopt(names)]


_EMBEDDINGS = 2
"""Version of embeddings."""


def make_embeddings(name: str, models: Models) -> Artefact:
    """Find or make the vectors of a pool under an encoder."""
    encoder = models.encoder(name)
    config = {"characters": CHARACTERS}
    inputs = {"texts": models.pool.texts, "encoder": encoder.fingerprint}

    def work(draft: Draft) -> Artefact:
        units = {unit.name: unit for unit in models.pool.units}
        before = encoder.manifest["config"]["encoder"]  # its files are read by each worker
        draft.checks.append(lambda: check_identity(before, contents_of(name), f"encoder {name}"))
        if any(draft.done(part) is None for part in units):
            loaded = models.load_encoder(name)
            state, needs = (loaded, draft.path), loaded.resources
            if needs.slow:
                fill_parts(
                    draft,
                    models.runner,
                    _embed_part,
                    _join_vectors,
                    models.pool.units,
                    state,
                    lambda line: models.progress(f"embedded {line}"),
                    needs,
                )
            else:
                draft.fill(
                    models.runner.run,
                    _embed_unit,
                    units,
                    state,
                    lambda unit, _: models.progress(
                        f"embedded {unit.documents:,} documents of {unit.name}"
                    ),
                    keep_state=True,
                    needs=needs,
                )
        records = draft.files(units)
        embedded = sum(record.facts["documents"] for record in records)
        check_sum(
            f"{draft.path}", ("documents of the pool", models.pool.kept), {"embedded": embedded}
        )
        width = max((record.facts["width"] for record in records), default=0)
        return draft.publish(
            units, {"encoder": encoder.facts["encoder"], "documents": embedded, "width": width}
        )

    return models.workspace.make("embeddings", _EMBEDDINGS, config, inputs, work)


def read_vectors(embeddings: AnyPath, record: FileRecord) -> np.ndarray:
    """Map a unit's vectors, after comparing the checksum: (n, d) int16, not copied."""
    vectors = read_batch(record.verified(embeddings)).column("vector")
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)


def _embed_unit(unit: Unit, state: tuple[Encoder, AnyPath]) -> FileRecord:
    encoder, directory = state
    batches = [
        embed(beginning(documents.column("text")), encoder)
        for documents in iter_documents(unit, ("text",))
    ]
    vectors = np.concatenate(batches) if batches else np.empty((0, 1), np.int16)
    return _write_vectors(directory, f"{unit.name}.arrow", vectors)


def _embed_part(part: UnitPart, state: tuple[Encoder, AnyPath]) -> FileRecord:
    encoder, directory = state
    texts = part.read(("text",)).column("text")
    vectors = embed(beginning(texts), encoder)
    count_documents(len(texts), texts.nbytes)
    return _write_vectors(directory, f"scratch/parts/{part.name}.arrow", vectors)


def _join_vectors(item: Joined, directory: AnyPath) -> FileRecord:
    blocks = [read_vectors(directory, record) for record in item.files]
    vectors = np.concatenate(blocks) if blocks else np.empty((0, 1), np.int16)
    return _write_vectors(directory, f"{item.unit.name}.arrow", vectors)


def _write_vectors(directory: AnyPath, name: str, vectors: np.ndarray) -> FileRecord:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    batch = pa.record_batch({"vector": rows})
    with atomic_file(directory / name) as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    return FileRecord.of(name, sink, documents=len(vectors), width=vectors.shape[1])
