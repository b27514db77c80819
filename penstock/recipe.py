"""What the user asked for: one YAML file, validated before any work starts.

Every model is frozen and refuses unknown keys, naming the nearest valid one. Values are checked
here as far as they can be without reading data; a selector checks its own parameters when it is
built, which is also before any work. Relative paths are relative to the recipe's directory.

Where a key takes one of two shapes, the value itself says which (see ``_shaped``), so that a
mistake is explained in the shape that was meant and in no other.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from penstock.errors import RecipeError, StorageError, did_you_mean
from penstock.storage import Place, fault_of, is_uri, place

__all__ = [
    "REST",
    "Budget",
    "Clean",
    "Compare",
    "CorpusSource",
    "Recipe",
    "ReweightSpec",
    "RewriteSpec",
    "SelectorSpec",
    "Shards",
    "Tokenizer",
    "Train",
]

REST = "rest"
"""What ``train.mixture`` calls all sources together that have no share of their own."""

Fraction = Annotated[float, Field(gt=0, le=1)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (str, Mapping)) else value


def _well_written(path: str) -> str:
    if fault := fault_of(path):
        raise ValueError(fault)
    return path


Location = Annotated[str, AfterValidator(_well_written)]
"""A path or a URI."""

Names = Annotated[tuple[Location, ...], BeforeValidator(_listed)]
"""Paths or patterns; one may stand without a list."""


def _shape(value: Any) -> str:
    return "<mapping>" if isinstance(value, (Mapping, BaseModel)) else "<plain>"


_shaped = Discriminator(_shape)
"""Tells the mapping from the plain value where a key takes either."""

_MAPPING, _PLAIN = Tag("<mapping>"), Tag("<plain>")


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class LiteralSource(_Model):
    """``source: {name: web}``: the same source for every document of these files."""

    name: str


class CorpusSource(_Model):
    """Files of the pool, and the columns to read from them."""

    path: Location
    """A path, a glob, or ``hf:`` and the name or directory of a Hugging Face dataset."""
    text: str = "text"
    id: str = "id"
    """A document without one is named by a hash of its text."""
    source: Annotated[Annotated[str, _PLAIN] | Annotated[LiteralSource, _MAPPING], _shaped] = (
        "source"
    )
    """A column, or a literal; plain text has no columns, so a file's name is its source."""
    per: Literal["file", "line"] = "file"
    """What is a document in a plain-text file."""
    split: str = "train"
    """Of a Hugging Face dataset."""
    subset: str | None = None
    """The configuration of a Hugging Face dataset."""


class Dedup(_Model):
    exact: bool = True
    """Drop all but one of the documents whose normalised texts are equal."""


class Clean(_Model):
    """What is taken out of the pool before anything is scored."""

    dedup: Dedup = Dedup()
    max_document_bytes: PositiveInt = 64 * 2**20
    """A longer document is quarantined: it would be a unit of its own."""
    keep_dropped: bool = False
    """Whether dropped documents are written out with their text, beside the rule."""


class SelectorSpec(BaseModel):
    """A selector by name, its target files, and whatever parameters it declares itself."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str
    """A built-in or registered name, or ``package.module:function``."""
    target: Names = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """The selector's own keywords."""
        return dict(self.model_extra or {})


def _plain_word(name: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_]+", name):
        raise ValueError(f"expected a name of letters, digits and _, got {name!r}")
    return name


class RewriteSpec(BaseModel):
    """A rewriter by name, the model that answers it, and whatever parameters it declares itself."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str
    """A built-in or registered name, or ``package.module:Class``."""
    by: dict[str, Any]
    """``{url: ..., model: ...}`` of an OpenAI-compatible server, ``{vllm: model}`` on GPUs of the
    workers, or ``{local: directory}``."""
    share: Fraction = 1.0
    """Of the documents that are rewritten, drawn by hash of id."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The rewriter's own keywords."""
        return dict(self.model_extra or {})


class ReweightSpec(BaseModel):
    """A reweighter by name, and whatever parameters it declares itself."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str
    """A built-in or registered name, or ``package.module:function``."""
    sample: Literal["sequence", "document"] = "sequence"
    """What has a loss and a weight: a packed sequence, or each document's span in one."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The reweighter's own keywords."""
        return dict(self.model_extra or {})


class Gumbel(_Model):
    temperature: float = Field(gt=0)


class GumbelDraw(_Model):
    """Sampling without replacement with probabilities proportional to exp(score/temperature)."""

    gumbel: Gumbel


class Budget(_Model):
    """How many tokens are taken, and by what order."""

    tokens: PositiveInt
    rank: Annotated[Annotated[str, _PLAIN] | Annotated[dict[str, float], _MAPPING], _shaped]
    """One selector's name, ``random``, or weights over the quantiles of several columns."""
    draw: Annotated[
        Annotated[Literal["top"], _PLAIN] | Annotated[GumbelDraw, _MAPPING], _shaped
    ] = "top"
    shares: dict[str, Fraction] = {}
    """Fixed shares of the tokens by source; the other sources compete for the rest."""
    allow_short: bool = False
    """Deliver the whole pool when it holds fewer tokens than asked, instead of failing."""
    seed: int | None = None
    """Of random ranks, ties and Gumbel noise; the recipe's seed if not given."""

    @field_validator("rank")
    @classmethod
    def _weights_are_positive(cls, rank: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(rank, dict):
            if not rank:
                raise ValueError("expected a name or at least one weight, got {}")
            for name, weight in rank.items():
                if not weight > 0:
                    raise ValueError(f"expected a positive weight for {name!r}, got {weight}")
        return rank

    @field_validator("shares")
    @classmethod
    def _shares_fit(cls, shares: dict[str, float]) -> dict[str, float]:
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"expected shares of at most 1 in sum, got {sum(shares.values()):g}")
        return shares

    @property
    def ranks(self) -> dict[str, float]:
        """The columns that rank documents, with their weights."""
        return {self.rank: 1.0} if isinstance(self.rank, str) else dict(self.rank)


class TrainedTokenizer(_Model):
    vocab_size: int = Field(default=8192, ge=320, le=2**31 - 1)
    sample_bytes: PositiveInt = 16 * 2**20
    """Text it is trained on, drawn from the pool by hash of id."""


class TrainTokenizer(_Model):
    train: TrainedTokenizer


Tokenizer = Annotated[Annotated[TrainTokenizer, _MAPPING] | Annotated[Location, _PLAIN], _shaped]


class Shards(_Model):
    """The shape of what a trainer reads."""

    sequence_length: int = Field(default=512, ge=8)
    """Tokens of a packed sequence."""
    tokens_per_shard: PositiveInt = 16 * 2**20
    """A shard file's size, about; also the cap of one record batch."""


class ModelShape(_Model):
    """A Llama-shaped model trained from scratch."""

    layers: PositiveInt = 4
    width: PositiveInt = 256
    heads: PositiveInt = 4
    mlp_ratio: float = Field(default=8 / 3, gt=0)

    @property
    def parameters(self) -> int:
        """Weights without the embedding, rounding of the MLP's width left out."""
        return round(self.layers * self.width**2 * (4 + 3 * self.mlp_ratio))

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelShape:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"expected a width divisible by twice the heads, got {self.width} and {self.heads}"
            )
        return self


class ModelFrom(_Model):
    """A causal language model to continue from: a directory or a hub name."""

    hf: str


def _model_shape(value: Any) -> str:
    named = "hf" in value if isinstance(value, Mapping) else isinstance(value, ModelFrom)
    return "<named>" if named else "<shape>"


class MixturePhase(_Model):
    """Shares of the sources, up to a point of the budget."""

    weights: dict[str, Annotated[float, Field(ge=0)]]
    until: float | None = Field(default=None, gt=0)
    """Tokens, or a share of the budget where it is below 1; the last phase has none."""

    @model_validator(mode="after")
    def _some_weight(self) -> MixturePhase:
        if not sum(self.weights.values()) > 0:
            raise ValueError(f"weights: expected at least one above 0, got {self.weights}")
        if self.until is not None and self.until >= 1 and not self.until.is_integer():
            raise ValueError(f"until: expected whole tokens or a share below 1, got {self.until}")
        return self

    def ends_at(self, budget: int) -> int:
        """Tokens of ``budget`` after which the next phase begins; of the last, all."""
        if self.until is None:
            return budget
        return int(self.until) if self.until >= 1 else round(self.until * budget)


def _phases(value: Any) -> Any:
    """Weights alone are one phase."""
    return [{"weights": value}] if isinstance(value, Mapping) else value


class Uba(_Model):
    phi: float = Field(default=0.5, gt=0)
    """How early the rate falls; 2 is the cosine, less holds it high for longer."""


class Wsd(_Model):
    decay: Fraction = 0.2
    """Share of the tokens, the last ones, over which the rate falls."""


class ScheduleOf(_Model):
    """A schedule with a parameter: ``uba: {phi: 1}`` or ``wsd: {decay: 0.1}``."""

    uba: Uba | None = None
    wsd: Wsd | None = None

    @model_validator(mode="after")
    def _one_is_named(self) -> ScheduleOf:
        if (self.uba is None) == (self.wsd is None):
            raise ValueError("expected one of uba and wsd, with its parameter")
        return self


class Checkpoint(_Model):
    """How often a run saves what it can go on from: at whichever of the two is due first."""

    minutes: float | None = Field(default=15.0, gt=0)
    tokens: PositiveInt | None = None
    keep: PositiveInt = 2
    """The newest ones; they become part of the run."""

    @model_validator(mode="after")
    def _some_interval(self) -> Checkpoint:
        if self.minutes is None and self.tokens is None:
            raise ValueError("expected minutes or tokens; to save none, write `checkpoint: false`")
        return self


def _switched_off(value: Any) -> Any:
    if value is not False:
        raise ValueError(f"expected minutes, tokens and keep, or false, got {value!r}")
    return value


class Train(_Model):
    """What is trained on the shards, and how."""

    model: Annotated[
        Annotated[ModelShape, Tag("<shape>")] | Annotated[ModelFrom, Tag("<named>")],
        Discriminator(_model_shape),
    ] = ModelShape()
    tokens: PositiveInt | None = None
    """The budget, met to the token; all tokens of the shards once if not given."""
    mixture: Annotated[tuple[MixturePhase, ...], BeforeValidator(_phases)] = ()
    """Shares of the sources that have one in ``budget.shares``, and of ``rest``; phases in order.
    Without it every sequence is read equally often."""
    batch_tokens: PositiveInt = 65_536
    """Tokens of a global batch; rounded down to whole sequences."""
    micro_batch: PositiveInt = 8
    """Sequences that one worker puts through the model at once."""
    lr: float = Field(default=3.0e-3, gt=0)
    min_lr: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """Share of the tokens over which the learning rate rises from 0."""
    schedule: Annotated[
        Annotated[Literal["rex", "uba", "cosine", "linear", "wsd"], _PLAIN]
        | Annotated[ScheduleOf, _MAPPING],
        _shaped,
    ] = "rex"
    """How the rate falls after the warm-up, by tokens."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)
    activation_checkpointing: bool = False
    """Whether each layer keeps its input only and is run again for its gradients: about a third
    more work for a fraction of the memory."""
    compile: bool = False
    """Whether torch.compile makes code for the model first; needs a C++ compiler on the workers."""
    reweight: ReweightSpec | None = None
    """Who gives each sample of a global batch its weight; without, each token counts the same."""
    deepspeed: dict[str, Any] = {}
    """Merged over the DeepSpeed configuration that Penstock writes."""
    workers: PositiveInt = 1
    cpus: PositiveInt = 1
    """CPUs of each worker: as many threads where it computes on them."""
    evaluate_every: PositiveInt | None = None
    """Tokens between two evaluations during training; without it there is one, at the end."""
    document_losses: bool = False
    """Read the shards once more with the trained model and write each document's loss."""
    checkpoint: Annotated[
        Annotated[Checkpoint, _MAPPING]
        | Annotated[Literal[False], BeforeValidator(_switched_off), _PLAIN],
        _shaped,
    ] = Checkpoint()
    seed: int | None = None
    """Of the initial weights and of the order; the recipe's seed if not given."""

    @field_validator("deepspeed")
    @classmethod
    def _whole_layers_are_compiled(
        cls, deepspeed: dict[str, Any], info: ValidationInfo
    ) -> dict[str, Any]:
        zero = deepspeed.get("zero_optimization")
        if info.data.get("compile") and isinstance(zero, Mapping) and zero.get("stage") == 3:
            raise ValueError(
                "zero_optimization.stage: expected 0, 1 or 2 beside train.compile, got 3, which "
                "hooks into every layer and leaves nothing to compile"
            )
        return deepspeed

    @field_validator("min_lr")
    @classmethod
    def _the_floor_is_below_the_peak(cls, floor: float, info: ValidationInfo) -> float:
        peak = info.data.get("lr", floor)
        if floor > peak:
            raise ValueError(f"expected at most lr, {peak:g}, got {floor:g}")
        return floor

    @field_validator("schedule")
    @classmethod
    def _the_decay_follows_the_warmup(
        cls, schedule: str | ScheduleOf, info: ValidationInfo
    ) -> str | ScheduleOf:
        warmup = info.data.get("warmup", 0.0)
        found = schedule.wsd if isinstance(schedule, ScheduleOf) else None
        decay = found.decay if found else Wsd().decay if schedule == "wsd" else 0.0
        if warmup + decay > 1:
            raise ValueError(
                f"expected warmup and wsd.decay of at most 1 in sum, got {warmup:g} and {decay:g}"
            )
        return schedule

    @field_validator("mixture")
    @classmethod
    def _phases_follow(cls, phases: tuple[MixturePhase, ...]) -> tuple[MixturePhase, ...]:
        ends = [phase.until for phase in phases]
        if None in ends[:-1] or ends[-1:] not in ([], [None]):
            raise ValueError("expected `until` in every phase but the last")
        return phases


class Compare(_Model):
    """Which arms are trained against each other, how often and at which budgets."""

    arms: dict[str, dict[str, Any]] = {"random": {"budget": {"rank": "random"}}}
    """Named overrides of this recipe; the recipe itself is the arm ``selected``."""
    seeds: tuple[int, ...] = (1, 2, 3)
    baseline: str = "random"
    """The arm whose tokens the multiplier counts."""
    baseline_multiples: tuple[float, ...] = (1, 2, 4)
    """Budgets at which the baseline is trained, in multiples of ``budget.tokens``."""
    parallel: PositiveInt | None = None
    """Runs at a time; by default as many as there are CPUs for their workers."""

    @field_validator("seeds")
    @classmethod
    def _some_seed(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"expected at least one seed, each once, got {list(seeds)}")
        return seeds

    @field_validator("baseline_multiples")
    @classmethod
    def _multiples_begin_at_one(cls, multiples: tuple[float, ...]) -> tuple[float, ...]:
        if multiples[:1] != (1,) or any(b <= a for a, b in itertools.pairwise(multiples)):
            raise ValueError(f"expected rising numbers that begin with 1, got {list(multiples)}")
        return multiples

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> Compare:
        if self.baseline not in self.arms:
            raise ValueError(f"expected a baseline of {sorted(self.arms)}, got {self.baseline!r}")
        if "selected" in self.arms:
            raise ValueError("the arm 'selected' is the recipe itself; give yours another name")
        return self


class Recipe(_Model):
    """A whole recipe; see the README for an annotated one."""

    seed: int = 0
    work: Location = "work"
    corpus: Annotated[tuple[CorpusSource, ...], BeforeValidator(_listed)]
    clean: Clean = Clean()
    rewrite: dict[Annotated[str, AfterValidator(_plain_word)], RewriteSpec] = {}
    """Rewriters, one after another; what one adds has its key as source."""
    select: dict[str, SelectorSpec] = {}
    budget: Budget
    tokenizer: Tokenizer = TrainTokenizer(train=TrainedTokenizer())
    shards: Shards = Shards()
    train: Train = Train()
    evaluate: Names = ()
    compare: Compare = Compare()
    directory: Path = Field(default=Path("."), exclude=True)
    """Where the recipe lies; relative paths start here. Not a key of the file."""

    @field_validator("corpus")
    @classmethod
    def _some_source(cls, corpus: tuple[CorpusSource, ...]) -> tuple[CorpusSource, ...]:
        # Not `min_length`, which also complains where the only entry has a mistake of its own.
        if not corpus:
            raise ValueError("expected at least one entry with a path, got none")
        return corpus

    @model_validator(mode="after")
    def _rank_names_exist(self) -> Recipe:
        known = [*self.select, "random"]
        for name in self.budget.ranks:
            if name not in known:
                raise ValueError(f"budget.rank: no column {name!r}{did_you_mean(name, known)}")
        if "random" in self.select:
            raise ValueError("select.random: the name is taken by the uniform draw; rename it")
        return self

    @model_validator(mode="after")
    def _mixed_sources_have_shares(self) -> Recipe:
        known = [*self.budget.shares, REST]
        for name in {name for phase in self.train.mixture for name in phase.weights}:
            if name not in known:
                raise ValueError(
                    f"train.mixture: expected sources that have a share in budget.shares, or "
                    f"{REST!r} for all others, got {name!r}{did_you_mean(name, known)}"
                )
        return self

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> Recipe:
        budget, before = self.train.tokens or self.budget.tokens, 0
        for number, phase in enumerate(self.train.mixture):
            if (end := phase.ends_at(budget)) <= before or (phase.until and end >= budget):
                raise ValueError(
                    f"train.mixture.{number}.until: expected more than {before:,} tokens, where "
                    f"the phase begins, and less than the budget of {budget:,}, got "
                    f"{phase.until:g}, which is {end:,}"
                )
            before = end
        return self

    @model_validator(mode="after")
    def _a_batch_holds_a_sequence(self) -> Recipe:
        batch, length = self.train.batch_tokens, self.shards.sequence_length
        if batch < length:
            raise ValueError(
                f"train.batch_tokens: expected at least one sequence of {length} tokens "
                f"(shards.sequence_length), got {batch}"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_have_files(self) -> Recipe:
        if self.train.evaluate_every and not self.evaluate:
            raise ValueError("train.evaluate_every: expected files under `evaluate`, got none")
        return self

    def resolve(self, path: str) -> Place:
        """A path of the recipe as an absolute one, or a URI as the place it names."""
        return place(path if is_uri(path) else self.directory / Path(path).expanduser())

    @property
    def work_directory(self) -> Place:
        """Where artefacts go.

        Raises:
            RecipeError: It is a URI of a store that cannot be used from here.
        """
        try:
            return self.resolve(self.work)
        except StorageError as error:
            raise RecipeError(f"work: {error}") from None

    @property
    def draw_seed(self) -> int:
        """The seed of ranks, ties and noise in the cut."""
        return self.seed if self.budget.seed is None else self.budget.seed

    @property
    def train_seed(self) -> int:
        """The seed of initial weights and data order."""
        return self.seed if self.train.seed is None else self.train.seed

    def to_yaml(self) -> str:
        """The recipe as a file that loads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
