"""Which artefacts of a work directory are made of which, by their manifests.

Most inputs are fingerprints. Those of runs, and of what is measured of runs, are digests of bytes,
so that equal shards or models need no second training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.artefact import Artefact, canonical

__all__ = ["closure", "texts_in"]

_MODEL = "model/"
"""Where the files of a run's model are."""

_TOKENS = "tokens"

_OUTCOMES = ("run", "evaluation", "document_losses", "export")
"""Stages of what is made of shards, or of a run of them, kept with them."""


def closure(used: set[str], texts: set[str], artefacts: Mapping[str, Artefact]) -> set[str]:
    """Return the names of what used artefacts are made of, and of what is kept with them.

    Args:
        used: Names of artefacts, ``stage/`` and 16 digits, that are used.
        texts: Names of the texts of corpora, by which tokens are kept.
        artefacts: The finished artefacts of the work directory, by name.

    Returns:
        The names of finished artefacts that are used, of all that they are made of, of what is made
        of their shards and runs, and of the runs that runs continue from, finished or not.
    """
    called: dict[str, set[str]] = {}
    for name, one in artefacts.items():
        for own in _names_of(one):
            called.setdefault(own, set()).add(name)
    nothing: frozenset[str] = frozenset()
    inputs = {name: set(texts_in(one.manifest["inputs"])) for name, one in artefacts.items()}
    needs: dict[str, set[str]] = {}
    trained_on: dict[str, set[str]] = {}
    for name, one in artefacts.items():
        own = one.manifest["inputs"]
        needs[name] = {
            other
            for text in {*inputs[name], *_references(one)}
            for other in called.get(text, nothing)
        }
        needs[name] |= _parents(one)
        if one.manifest["stage"] in _OUTCOMES:
            given = [own[key] for key in ("shards", "model") if isinstance(own.get(key), str)]
            trained_on[name] = {other for text in given for other in called.get(text, nothing)}
    found = {name for name in used if name in artefacts}
    while True:
        more = {one for name in found for one in needs.get(name, nothing)}
        more |= {name for name, of in trained_on.items() if of & found}
        for name, one in artefacts.items():
            if one.manifest["stage"] == _TOKENS and inputs[name] & texts and needs[name] & found:
                more.add(name)
        if more <= found:
            return found
        found |= more


def _names_of(artefact: Artefact) -> Iterator[str]:
    """Yield what manifests of others call an artefact by.

    Stages name artefacts by fingerprint. Runs, and what is measured of them, by bytes: the digest
    of the shards, that of a run's model, or the sha256 of the model's files.
    """
    stage = artefact.manifest["stage"]
    yield artefact.fingerprint
    if stage == "shards":
        yield artefact.digest
    elif stage == "run":
        yield artefact.digest_of(_MODEL)
        yield _model_name({one.path[len(_MODEL) :]: one.sha256 for one in artefact.named(_MODEL)})
    elif stage == "document_losses":
        yield from (record.sha256 for record in artefact.files)


def _references(artefact: Artefact) -> Iterator[str]:
    """Yield what an artefact is made of that is not a text of its inputs."""
    model = artefact.manifest["inputs"].get("model")
    if isinstance(model, Mapping) and model:  # files of ``train.model.hf``
        yield _model_name(model)
    identity = artefact.manifest["config"].get("identity")
    if isinstance(identity, Mapping) and isinstance(identity.get("run"), str):
        yield identity["run"]  # of the selector ``document_loss``


def _model_name(files: Mapping[str, Any]) -> str:
    return canonical(sorted(files.items())).decode()


def _parents(artefact: Artefact) -> set[str]:
    """Return the name of the run that a run continues from, finished or not."""
    if artefact.manifest["stage"] != "run":
        return set()
    parent = artefact.manifest["config"].get("continue_from")
    return {f"run/{parent['run']}"} if isinstance(parent, Mapping) and "run" in parent else set()


def texts_in(tree: Any) -> Iterator[str]:
    """Yield all texts in plain data."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, (Mapping, list)):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from texts_in(value)
