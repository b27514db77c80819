"""A run's specification, its name, and its result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Draft, Workspace, canonical, fingerprint
from penstock.display import html_table, text_table
from penstock.errors import InputError
from penstock.recipe import ModelFrom, Train
from penstock.selectors.reweighting import ReweighterPlan
from penstock.storage import AnyPath, sha256_file
from penstock.trainers.evaluation.examples import Evaluation
from penstock.trainers.evaluation.scores import METRICS, ExampleScores
from penstock.trainers.modelling.build import check_tokenizer

__all__ = ["OnMetrics", "RunResult", "RunSpec"]

STAGE = "run"
VERSION = 2

NOT_NAMED = frozenset({"workers", "micro_batch", "cpus", "checkpoint"})
"""Settings of ``train`` that change no batch of a run, only where and how it is computed.

They are not part of its name, so that a stopped run resumes when they are changed.
"""

OnMetrics = Callable[["RunSpec", dict[str, Any]], None]
"""Called with each line of ``metrics.jsonl`` as it is written, in the thread that called
:func:`~penstock.trainers.run.train_all`."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: training settings, shards, seed and evaluations."""

    train: Train
    shards: AnyPath
    seed: int
    evaluations: tuple[Evaluation, ...] = ()
    reweighter: ReweighterPlan | None = None
    """Plan of ``train.reweight``."""

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
            RecipeError: As :func:`~penstock.trainers.modelling.build.check_tokenizer`.
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

    def find(self, workspace: Workspace) -> RunResult | None:
        """Return the finished run, or None."""
        found = workspace.find(STAGE, self.fingerprint)
        return None if found is None else RunResult.of(found)

    def draft(self, workspace: Workspace) -> Draft:
        """Begin the run's artefact."""
        return workspace.draft(STAGE, VERSION, self._config(), self._inputs)

    def _config(self) -> dict[str, Any]:
        train = self.train.model_dump(mode="json", exclude={"seed", "reweight", *NOT_NAMED})
        if train["backend"] == Train.model_fields["backend"].default:
            del train["backend"]  # runs from before there was a choice keep their names
        reweighter = {"reweighter": self.reweighter.identity} if self.reweighter else {}
        return {"train": train, "seed": self.seed, **reweighter}

    @cached_property
    def _inputs(self) -> dict[str, Any]:
        return {
            "shards": Artefact.open(self.shards).digest,
            "evaluations": {item.name: _digest(item) for item in self.evaluations},
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
    example_files: dict[str, str] = field(default_factory=dict)
    """By evaluation, the file of :attr:`path` that :meth:`examples` reads."""
    epochs: dict[str, float] = field(default_factory=dict)
    """Epochs read of each source of the mixture; without one, of all sequences as ``all``."""
    repeated_tokens: int = 0
    """Those of :attr:`tokens` in sequences that had been read before."""
    seconds: float
    """Seconds of training and evaluation, without the start of processes."""

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
    def of(cls, artefact: Artefact) -> RunResult:
        """Read the manifest of a run."""
        facts = artefact.facts
        return cls(
            path=artefact.path,
            tokens=facts["tokens"],
            loss=facts["loss"],
            **{metric: facts[metric] for metric in METRICS},
            example_files=facts["examples"],
            epochs=facts["epochs"],
            repeated_tokens=facts["repeated_tokens"],
            seconds=facts["seconds"],
        )

    def examples(self, evaluation: str) -> ExampleScores:
        """Read the results of each example of an evaluation, for differences between runs.

        Raises:
            ArtefactError: The file is missing, or is not the one that was recorded.
        """
        run = Artefact.open(self.path)
        (record,) = run.named(self.example_files[evaluation])
        return ExampleScores.read(run.verified(record))

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
        return {**asdict(self), "path": str(self.path)}

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


def _digest(evaluation: Evaluation) -> str:
    return hashlib.sha256(canonical(asdict(evaluation))).hexdigest()


def _model_files(train: Train) -> dict[str, str]:
    """Return checksums of the model to continue from, where it is a local directory."""
    if not isinstance(train.model, ModelFrom) or not Path(train.model.hf).is_dir():
        return {}
    files = sorted(path for path in Path(train.model.hf).iterdir() if path.is_file())
    return {path.name: sha256_file(path) for path in files}
