"""A run's specification, its name, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Draft, Workspace, fingerprint
from penstock.display import html_table, text_table
from penstock.errors import InputError
from penstock.recipe import ModelFrom, Train
from penstock.selectors.reweighting import ReweighterPlan
from penstock.storage import AnyPath, sha256_file
from penstock.trainers.backends import find_backend
from penstock.trainers.branches import BranchPoint
from penstock.trainers.evaluation.artefacts import (
    evaluation_of,
    evaluations_of,
    losses_of,
    read_examples,
)
from penstock.trainers.evaluation.examples import Evaluation
from penstock.trainers.evaluation.scores import METRICS, ExampleScores
from penstock.trainers.modelling.vocabulary import check_tokenizer

__all__ = ["OnMetrics", "RunResult", "RunSpec"]

STAGE = "run"
VERSION = 2

NOT_NAMED = frozenset(
    {
        "activation_checkpointing",
        "checkpoint",
        "compile",
        "cpus",
        "device",
        "document_losses",
        "evaluate_every",
        "max_failures",
        "micro_batch",
        "not_finite",
        "workers",
    }
)
"""Settings of ``train`` that change no batch of a run, only where and how it is computed, or what
is measured of it.

They are not part of its name, so that a stopped run resumes when they are changed. The other ones,
the *trajectory*, are. The back end divides its own settings likewise
(:meth:`.backends.base.BackendModule.trajectory`).
"""

_FORMER = {"activation_checkpointing": False, "compile": False, "evaluate_every": None}
"""Settings that were named, by their defaults: a run in float32 with these keeps its name."""

OnMetrics = Callable[["RunSpec", dict[str, Any]], None]
"""Called with each line of ``metrics.jsonl`` as it is written, in the thread that called
:func:`~penstock.trainers.run.train_all`."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: training settings, shards and seed; and what is measured of its model."""

    train: Train
    shards: AnyPath
    seed: int
    evaluations: tuple[Evaluation, ...] = ()
    """Not part of the run's name, as ``train.document_losses`` is not."""
    reweighter: ReweighterPlan | None = None
    """Plan of ``train.reweight``."""
    parent: BranchPoint | None = None
    """The checkpoint of ``train.continue_from``; part of the name by run and step."""

    @cached_property
    def tokens(self) -> int:
        """Return the budget; if none is given, every token of the shards once."""
        return self.train.tokens or int(Artefact.open(self.shards).facts["tokens"])

    @cached_property
    def fingerprint(self) -> str:
        """Return the name of the run's artefact."""
        return fingerprint(STAGE, VERSION, self._config(), self._inputs)

    def check_tokenizer(self) -> None:
        """Compare the shards' tokenizer with that of the model to continue from, if there is one.

        Raises:
            RecipeError: As :func:`~penstock.trainers.modelling.vocabulary.check_tokenizer`.
        """
        if isinstance(self.train.model, ModelFrom):
            shards = Artefact.open(self.shards)
            (record,) = shards.named("tokenizer/tokenizer.json")
            check_tokenizer(self.train.model.hf, shards.verified(record))

    def check_model(self) -> None:
        """Check that the model to continue from is the one that the run is named by.

        Raises:
            InputError: A file of it was changed, added or deleted since it was hashed.
        """
        before, now = self._inputs["model"], _model_files(self.train)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise InputError(
                    "changed since its bytes were hashed",
                    key="train.model.hf",
                    file=name,
                    fix="leave the model as it is while it is read, and run again",
                )

    def resolved(self, *, gpus: bool) -> RunSpec:
        """Return the specification with ``train.dtype`` resolved, by which a run is named.

        One with ``auto`` is named as if it were trained on CPUs, unless ``train.device`` is
        ``gpu``.

        Args:
            gpus: The workers of the run are to compute on GPUs.

        Raises:
            RecipeError: Settings of the back end contradict ``train.dtype``.
        """
        dtype = find_backend(self.train.backend).resolve_dtype(self.train, gpus=gpus)
        if dtype == self.train.dtype:
            return self
        return replace(self, train=self.train.model_copy(update={"dtype": dtype}))

    def run(self, workspace: Workspace) -> Artefact | None:
        """Return the finished run, whether its model was evaluated or not; or None."""
        return workspace.find(STAGE, self.fingerprint)

    def find(self, workspace: Workspace) -> RunResult | None:
        """Return the finished run with all that is to be measured of it, or None."""
        run = self.run(workspace)
        if run is None:
            return None
        if self.train.document_losses and losses_of(run).find(workspace) is None:
            return None
        found = {}
        for item in self.evaluations:
            artefact = evaluation_of(run, item).find(workspace)
            if artefact is None:
                return None
            found[item.name] = artefact
        return RunResult.of(run, found)

    def merged(self, other: RunSpec) -> RunSpec:
        """Return the specification of the same run that measures what either measures of it."""
        known = {item.examples for item in self.evaluations}
        more = (item for item in other.evaluations if item.examples not in known)
        losses = self.train.document_losses or other.train.document_losses
        return replace(
            self,
            evaluations=(*self.evaluations, *more),
            train=self.train.model_copy(update={"document_losses": losses}),
        )

    def draft(self, workspace: Workspace) -> Draft:
        """Begin the run's artefact."""
        return workspace.draft(STAGE, VERSION, self._config(), self._inputs)

    def _config(self) -> dict[str, Any]:
        others = {"seed", "reweight", "dtype", "continue_from", *NOT_NAMED}
        train = {**self.train.model_dump(mode="json", exclude=others), **_FORMER}
        backend = find_backend(self.train.backend)
        train |= backend.trajectory(self.train)
        dtype = backend.resolve_dtype(self.train, gpus=self.train.device == "gpu")
        if dtype != "float32":
            train["dtype"] = dtype
        for key in ("backend", "optimizer"):
            if train[key] == Train.model_fields[key].default:
                del train[key]  # runs from before there was a choice keep their names
        reweighter = {"reweighter": self.reweighter.identity} if self.reweighter else {}
        assert (self.parent is None) == (self.train.continue_from is None), "it is not resolved"
        parent = self.parent
        named = {"continue_from": {"run": parent.run, "step": parent.step}} if parent else {}
        return {"train": train, "seed": self.seed, **reweighter, **named}

    @cached_property
    def _inputs(self) -> dict[str, Any]:
        return {
            "shards": Artefact.open(self.shards).digest,
            "model": _model_files(self.train),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run."""

    path: AnyPath
    tokens: int
    """Tokens trained on."""
    loss: float
    """Loss of the last step, in nats per predicted token."""
    bits_per_byte: dict[str, dict[str, float]]
    """By evaluation, of the answers given their questions, or of the texts where there is none:
    ``mean``, ``stderr`` over examples, ``bytes`` and ``examples``. For all metrics see
    :mod:`penstock.trainers.evaluation.scores`."""
    text_bits_per_byte: dict[str, dict[str, float]] = field(default_factory=dict)
    """By evaluation, of question and answer as one text; as :attr:`bits_per_byte`."""
    choice_probability: dict[str, dict[str, float]] = field(default_factory=dict)
    """By evaluation with choices: ``mean``, ``stderr``, ``chance`` and ``examples``."""
    margin: dict[str, dict[str, float]] = field(default_factory=dict)
    """By evaluation with choices, in bits per byte; as :attr:`choice_probability`."""
    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    """By evaluation with choices: ``mean`` and ``stderr`` where the likelihood of a choice
    is divided by its bytes, ``plain`` and ``plain_stderr`` where not, ``chance``, ``examples``."""
    evaluations: dict[str, AnyPath] = field(default_factory=dict)
    """Directories of the evaluations' artefacts, by evaluation."""
    document_losses: AnyPath | None = None
    """Directory of the artefact with the losses of documents, if they were read."""
    epochs: dict[str, float] = field(default_factory=dict)
    """Epochs read of each source of the mixture; without one, of all sequences as ``all``."""
    repeated_tokens: int = 0
    """Those of :attr:`tokens` in sequences that had been read before."""
    seconds: float
    """Seconds of training, without the start of processes."""

    def __repr__(self) -> str:
        return text_table("RunResult", (f"  {name}: {value}" for name, value in self._rows()))

    def _repr_html_(self) -> str:
        return html_table("RunResult", (), self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("tokens", f"{self.tokens:,}"),
            ("loss", f"{self.loss:.4f}"),
            *(
                (name, f"{bits['mean']:.4f} bits per byte")
                for name, bits in self.bits_per_byte.items()
            ),
            ("model", str(self.model)),
        ]

    @classmethod
    def of(cls, run: Artefact, evaluations: Mapping[str, Artefact] | None = None) -> RunResult:
        """Read the manifests of a run and of evaluations of its model; by default of all."""
        evaluations = evaluations_of(run) if evaluations is None else evaluations
        metrics: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in METRICS}
        for name, artefact in evaluations.items():
            for metric, values in artefact.facts["metrics"].items():
                metrics[metric][name] = values
        facts = run.facts
        losses = losses_of(run).find(Workspace(run.path.parent.parent, read_only=True))
        return cls(
            path=run.path,
            tokens=facts["tokens"],
            loss=facts["loss"],
            evaluations={name: artefact.path for name, artefact in evaluations.items()},
            document_losses=None if losses is None else losses.path,
            epochs=facts["epochs"],
            repeated_tokens=facts["repeated_tokens"],
            seconds=facts["seconds"],
            **metrics,
        )

    def examples(self, evaluation: str) -> ExampleScores:
        """Read the results of each example of an evaluation, for differences between runs.

        Raises:
            ArtefactError: The file is missing, or is not the one that was recorded.
        """
        return read_examples(self.evaluations[evaluation])

    @property
    def model(self) -> AnyPath:
        """Return the directory that ``AutoModelForCausalLM.from_pretrained`` reads."""
        return self.path / "model"

    def means(self, metric: str) -> dict[str, float]:
        """Return the mean of a metric by evaluation."""
        found: dict[str, dict[str, float]] = getattr(self, metric)
        return {name: values["mean"] for name, values in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        evaluations = {name: str(path) for name, path in self.evaluations.items()}
        losses = None if self.document_losses is None else str(self.document_losses)
        paths = {"path": str(self.path), "evaluations": evaluations, "document_losses": losses}
        return {**asdict(self), **paths}

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock train --json`` prints."""
        return {
            "run": str(self.path),
            "tokens": self.tokens,
            "loss": self.loss,
            "epochs": self.epochs,
            "repeated_tokens": self.repeated_tokens,
            **{metric: self.means(metric) for metric in METRICS if metric != "accuracy"},
            "accuracy": self.accuracy,
        }


def _model_files(train: Train) -> dict[str, str]:
    """Return checksums of the model to continue from, where it is a local directory."""
    if not isinstance(train.model, ModelFrom) or not Path(train.model.hf).is_dir():
        return {}
    files = sorted(path for path in Path(train.model.hf).iterdir() if path.is_file())
    return {path.name: sha256_file(path) for path in files}
