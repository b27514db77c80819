"""The training section of a recipe, and the types that all its models share.

Where a key takes a mapping or a plain value, the value's own type selects the shape (``shaped``),
so that a mistake is explained for that shape alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from penstock.errors import RecipeError
from penstock.recipe_amounts import TokenCount
from penstock.storage import path_problem

__all__ = [
    "MAPPING",
    "PLAIN",
    "REFERENCE",
    "REST",
    "Checkpoint",
    "Fraction",
    "Location",
    "MixturePhase",
    "Model",
    "ModelFrom",
    "ModelShape",
    "Names",
    "ReweightSpec",
    "ScheduleOf",
    "Train",
    "Uba",
    "Wsd",
    "listed",
    "require",
    "shaped",
]


def require(holds: bool, problem: str = "", **fields: Any) -> None:
    """Check a value of a recipe.

    Raises:
        RecipeError: It does not hold; ``problem`` and ``fields`` are those of the error.
    """
    if not holds:
        raise RecipeError(problem, **fields)


Fraction = Annotated[float, Field(gt=0, le=1)]


def listed(value: Any) -> Any:
    """Wrap a single item in a list."""
    return [value] if isinstance(value, (str, Mapping)) else value


def _well_written(path: str) -> str:
    fault = path_problem(path)
    require(fault is None, fault or "")
    return path


Location = Annotated[str, AfterValidator(_well_written)]
"""A path or a URI."""

Names = Annotated[tuple[Location, ...], BeforeValidator(listed)]
"""Paths or patterns; a single one needs no list."""


def _shape(value: Any) -> str:
    return "<mapping>" if isinstance(value, (Mapping, BaseModel)) else "<plain>"


shaped = Discriminator(_shape)
"""Selects the mapping or the plain value where a key takes either."""

MAPPING, PLAIN = Tag("<mapping>"), Tag("<plain>")


class Model(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


REST = "rest"
"""The name in ``train.mixture`` of all sources that have no share of their own."""


class PlugSpec(BaseModel):
    """A plug-in by name, with the parameters that it declares."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str
    """A built-in or registered name, ``package.module:function`` or ``package.module:Class``."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The plug-in's own keywords."""
        return dict(self.model_extra or {})


class ReweightSpec(PlugSpec):
    """A reweighter by name, with the parameters that it declares."""

    sample: Literal["sequence", "document"] = "sequence"
    """The unit that has a loss and a weight: a packed sequence, or each document's span in one."""


class ModelShape(Model):
    """A Llama-shaped model trained from scratch; with ``qk_norm`` it is Qwen3-shaped."""

    layers: PositiveInt = 4
    width: PositiveInt = 256
    heads: PositiveInt = 4
    mlp_ratio: float = Field(default=8 / 3, gt=0)
    kv_heads: PositiveInt | None = None
    """Heads of keys and values, each shared by as many heads of queries (Ainslie et al. 2023,
    grouped-query attention); as many as ``heads`` if not given."""
    tie_embeddings: bool = True
    """Whether the head is the transposed token table."""
    rope_theta: float = Field(default=10_000.0, gt=1)
    """Base of the rotary position embedding."""
    qk_norm: bool = False
    """Whether queries and keys are normalised in each head (Dehghani et al. 2023)."""
    depth_scaled_init: bool = False
    """Whether the matrices that write to the residual stream begin smaller by the root of twice
    the layers (Radford et al. 2019)."""

    @property
    def parameters(self) -> int:
        """Estimate the weights without embeddings; the MLP's width is not rounded."""
        attention = 2 + 2 * (self.kv_heads or self.heads) / self.heads
        return round(self.layers * self.width**2 * (attention + 3 * self.mlp_ratio))

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelShape:
        require(
            self.width % (2 * self.heads) == 0,
            expected="a width divisible by twice the heads",
            got=f"{self.width} and {self.heads}",
        )
        require(
            self.heads % (self.kv_heads or self.heads) == 0,
            expected="heads divisible by kv_heads",
            got=f"{self.heads} and {self.kv_heads}",
        )
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave keys that came later out at their defaults: names of runs and columns stay."""
        later = ("kv_heads", "tie_embeddings", "rope_theta", "qk_norm", "depth_scaled_init")
        fields = type(self).model_fields
        values: dict[str, Any] = write(self)
        return {
            name: value
            for name, value in values.items()
            if name not in later or value != fields[name].default
        }


class ModelFrom(Model):
    """A causal language model to continue from: a directory or a hub name."""

    hf: str


def _model_shape(value: Any) -> str:
    named = "hf" in value if isinstance(value, Mapping) else isinstance(value, ModelFrom)
    return "<named>" if named else "<shape>"


class MixturePhase(Model):
    """Shares of the sources, up to a point of the budget."""

    weights: dict[str, Annotated[float, Field(ge=0)]]
    until: float | None = Field(default=None, gt=0)
    """Tokens, or a share of the budget where it is below 1; the last phase has none."""

    @model_validator(mode="after")
    def _some_weight(self) -> MixturePhase:
        some = sum(self.weights.values()) > 0
        require(some, f"weights: expected at least one above 0, got {self.weights}")
        whole = self.until is None or self.until < 1 or self.until.is_integer()
        require(whole, f"until: expected whole tokens or a share below 1, got {self.until}")
        return self

    def ends_at(self, budget: int) -> int:
        """Return the tokens of ``budget`` at which the phase ends; all for the last phase."""
        if self.until is None:
            return budget
        return int(self.until) if self.until >= 1 else round(self.until * budget)


def _phases(value: Any) -> Any:
    """Make one phase of weights alone."""
    return [{"weights": value}] if isinstance(value, Mapping) else value


class Uba(Model):
    """A schedule between cosine and constant; see :func:`penstock.trainers.schedule.uba`."""

    phi: float = Field(default=0.5, gt=0)
    """Shape of the decay; 2 is the cosine, a smaller value keeps the rate high for longer."""


class Wsd(Model):
    """Warm-up, a steady rate, and a straight fall at the end."""

    decay: Fraction = 0.2
    """Share of the tokens, at the end, over which the rate falls."""


class ScheduleOf(Model):
    """A schedule with a parameter: ``uba: {phi: 1}`` or ``wsd: {decay: 0.1}``."""

    uba: Uba | None = None
    wsd: Wsd | None = None

    @model_validator(mode="after")
    def _one_is_named(self) -> ScheduleOf:
        one = (self.uba is None) != (self.wsd is None)
        require(one, "expected one of uba and wsd, with its parameter")
        return self


def _several(value: Any) -> Any:
    """Make one number a list of one."""
    return [value] if isinstance(value, (int, float)) else value


class Checkpoint(Model):
    """The interval between checkpoints: minutes or tokens, whichever is due first; and steps."""

    minutes: float | None = Field(default=15.0, gt=0)
    tokens: TokenCount | None = None
    keep: PositiveInt = 2
    """Number of the newest checkpoints that are kept and become part of the run."""
    at: Annotated[tuple[int | float, ...], BeforeValidator(_several)] = ()
    """Steps, or shares of the budget below 1, after which a checkpoint is written that ``keep``
    never removes: pins, from which other runs can continue."""

    @field_validator("at")
    @classmethod
    def _steps_or_shares(cls, pins: tuple[int | float, ...]) -> tuple[int | float, ...]:
        for pin in pins:
            fits = pin >= 1 if isinstance(pin, int) else 0 < pin < 1
            require(fits, f"expected numbers of steps, or shares below 1, got {pin}")
        return pins

    @model_validator(mode="after")
    def _some_interval(self) -> Checkpoint:
        some = self.minutes is not None or self.tokens is not None or self.at != ()
        require(some, "expected minutes, tokens or at; to save none, write `checkpoint: false`")
        return self


REFERENCE = re.compile(r"(?P<run>.*[^@\s])@(?P<step>\d{1,15}|last)")
"""The value of ``train.continue_from``."""


def _switched_off(value: Any) -> Any:
    require(value is False, f"expected minutes, tokens, keep and at, or false, got {value!r}")
    return value


class Train(Model):
    """Model, data order and optimiser of a run on the shards."""

    model: Annotated[
        Annotated[ModelShape, Tag("<shape>")] | Annotated[ModelFrom, Tag("<named>")],
        Discriminator(_model_shape),
    ] = ModelShape()
    tokens: TokenCount | None = None
    """The budget, met to the token; all tokens of the shards once if not given."""
    mixture: Annotated[tuple[MixturePhase, ...], BeforeValidator(_phases)] = ()
    """Shares of the sources named in ``budget.shares``, and of ``rest``; phases in order.
    Without it every sequence is read equally often."""
    batch_tokens: TokenCount = 65_536
    """Tokens of a global batch; rounded down to whole sequences."""
    micro_batch: PositiveInt = 8
    """Sequences in one forward pass of a worker."""
    lr: float = Field(default=3.0e-3, gt=0)
    min_lr: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """Share of the tokens over which the learning rate rises from 0."""
    schedule: Annotated[
        Annotated[Literal["rex", "uba", "cosine", "linear", "wsd"], PLAIN]
        | Annotated[ScheduleOf, MAPPING],
        shaped,
    ] = "rex"
    """The fall of the learning rate after the warm-up, by tokens."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` (Jordan et al. 2024) updates the matrices of the layers, AdamW all else, both with
    ``lr`` and ``weight_decay``; under ``backend: torch``."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)
    activation_checkpointing: bool = False
    """Keep only each layer's input and run the layer again for its gradients: about a third more
    arithmetic for a fraction of the memory."""
    compile: bool = False
    """Compile the model with torch.compile; needs a C++ compiler on the workers."""
    continue_from: str | None = None
    """``RUN@STEP``: begin with weights, optimiser and data of a checkpoint of another run. RUN is
    its name, its directory or a recipe; STEP the steps that it had taken, or ``last``."""
    reweight: ReweightSpec | None = None
    """The reweighter of a global batch's samples; without one, each token counts the same."""
    backend: str = "deepspeed"
    """The library that updates weights and shares gradients: ``deepspeed`` or ``torch``."""
    deepspeed: dict[str, Any] = {}
    """Merged over the DeepSpeed configuration that Penstock writes."""
    dtype: Literal["auto", "bf16", "float32"] = "auto"
    """Type of the weights in a forward pass; masters and moments are float32. ``auto``: bf16 on
    GPUs, float32 on CPUs. The type that was taken is part of a run's name."""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """Where the workers compute. ``gpu``: each on a GPU, for which an autoscaling cluster is asked.
    ``auto``: the same where there are as many as workers, and on CPUs where there is none."""
    workers: PositiveInt = 1
    cpus: PositiveInt = 1
    """CPUs of each worker, and its number of threads where it computes on CPUs."""
    evaluate_every: PositiveInt | None = None
    """Tokens between two evaluations during training; without it the only one is at the end."""
    document_losses: bool = False
    """Read the shards once more with the trained model and write each document's loss."""
    checkpoint: Annotated[
        Annotated[Checkpoint, MAPPING]
        | Annotated[Literal[False], BeforeValidator(_switched_off), PLAIN],
        shaped,
    ] = Checkpoint()
    not_finite: Literal["stop", "skip", "back"] = "stop"
    """After a step whose loss or gradient is not finite: ``stop`` with an error, ``skip`` its
    update, or go ``back`` to the weights of an earlier checkpoint and on with the next batch."""
    max_failures: int = Field(default=0, ge=0)
    """How often a run goes on by itself from its last checkpoint after a worker died or failed."""
    seed: int | None = None
    """Seed of the initial weights and of the order; the recipe's seed if not given."""

    @field_validator("deepspeed")
    @classmethod
    def _whole_layers_are_compiled(
        cls, deepspeed: dict[str, Any], info: ValidationInfo
    ) -> dict[str, Any]:
        zero = deepspeed.get("zero_optimization")
        hooks = isinstance(zero, Mapping) and zero.get("stage") == 3
        require(
            not (info.data.get("compile") and hooks),
            "zero_optimization.stage: expected 0, 1 or 2 beside train.compile, got 3, which hooks "
            "into every layer and leaves nothing to compile",
        )
        return deepspeed

    @field_validator("continue_from")
    @classmethod
    def _a_run_and_a_step(cls, reference: str | None) -> str | None:
        fits = reference is None or REFERENCE.fullmatch(reference) is not None
        require(
            fits,
            f"expected RUN@STEP, such as 0123456789abcdef@400, run/0123456789abcdef@last or "
            f"base.yaml@last, got {reference!r}",
        )
        return reference

    @field_validator("not_finite")
    @classmethod
    def _there_is_a_way_back(cls, policy: str, info: ValidationInfo) -> str:
        saves = info.data.get("checkpoint") is not False
        require(
            policy != "back" or saves,
            "expected stop or skip beside `checkpoint: false`, got back, which needs checkpoints",
        )
        require(
            policy == "stop" or info.data.get("reweight") is None,
            f"expected stop beside train.reweight, got {policy}",
        )
        return policy

    @field_validator("min_lr")
    @classmethod
    def _the_floor_is_below_the_peak(cls, floor: float, info: ValidationInfo) -> float:
        peak = info.data.get("lr", floor)
        require(floor <= peak, f"expected at most lr, {peak:g}, got {floor:g}")
        return floor

    @field_validator("schedule")
    @classmethod
    def _the_decay_follows_the_warmup(
        cls, schedule: str | ScheduleOf, info: ValidationInfo
    ) -> str | ScheduleOf:
        warmup = info.data.get("warmup", 0.0)
        found = schedule.wsd if isinstance(schedule, ScheduleOf) else None
        decay = found.decay if found else Wsd().decay if schedule == "wsd" else 0.0
        require(
            warmup + decay <= 1,
            f"expected warmup and wsd.decay of at most 1 in sum, got {warmup:g} and {decay:g}",
        )
        return schedule

    @field_validator("mixture")
    @classmethod
    def _phases_follow(cls, phases: tuple[MixturePhase, ...]) -> tuple[MixturePhase, ...]:
        ends = [phase.until for phase in phases]
        last_alone = None not in ends[:-1] and ends[-1:] in ([], [None])
        require(last_alone, "expected `until` in every phase but the last")
        return phases
