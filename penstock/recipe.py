"""What the user asked for: one YAML file, validated before any work starts.

Every model is frozen and refuses unknown keys, naming the nearest valid one. Values are checked
here as far as they can be without reading data; a selector checks its own parameters when it is
built, which is also before any work. Relative paths are relative to the recipe's directory.

Where a key takes one of two shapes, the value itself says which (see ``_shaped``), so that a
mistake is explained in the shape that was meant and in no other.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from penstock.errors import RecipeError

__all__ = [
    "Budget",
    "Clean",
    "Compare",
    "CorpusSource",
    "Recipe",
    "SelectorSpec",
    "Shards",
    "Tokenizer",
    "Train",
    "load_recipe",
    "override",
    "parse_recipe",
]

Fraction = Annotated[float, Field(gt=0, le=1)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (str, Mapping)) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
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

    path: str
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


Tokenizer = Annotated[Annotated[TrainTokenizer, _MAPPING] | Annotated[str, _PLAIN], _shaped]


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


class Train(_Model):
    """What is trained on the shards, and how."""

    model: Annotated[
        Annotated[ModelShape, Tag("<shape>")] | Annotated[ModelFrom, Tag("<named>")],
        Discriminator(_model_shape),
    ] = ModelShape()
    batch_tokens: PositiveInt = 65_536
    """Tokens of a global batch; rounded down to whole sequences."""
    micro_batch: PositiveInt = 8
    """Sequences that one worker puts through the model at once."""
    lr: float = Field(default=3.0e-3, gt=0)
    min_lr: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """Share of the tokens over which the learning rate rises from 0."""
    schedule: Literal["rex", "cosine", "linear"] = "rex"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)
    deepspeed: dict[str, Any] = {}
    """Merged over the DeepSpeed configuration that Penstock writes."""
    workers: PositiveInt = 1
    seed: int | None = None
    """Of the initial weights and of the order; the recipe's seed if not given."""


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
    work: str = "work"
    corpus: Annotated[tuple[CorpusSource, ...], BeforeValidator(_listed)]
    clean: Clean = Clean()
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
                raise ValueError(
                    f"budget.rank: expected one of {known}, got {name!r}{_nearest(name, known)}"
                )
        if "random" in self.select:
            raise ValueError("select.random: the name is taken by the uniform draw; rename it")
        return self

    def resolve(self, path: str) -> Path:
        """A path of the recipe as an absolute one."""
        return (self.directory / Path(path).expanduser()).absolute()

    @property
    def work_directory(self) -> Path:
        """Where artefacts go."""
        if re.match(r"[A-Za-z][\w+.-]*://", self.work):
            raise RecipeError(
                f"work: expected a local directory, got {self.work}; mount the store, or give a "
                "directory that all machines share"
            )
        return self.resolve(self.work)

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


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: The YAML file.
        settings: ``key.path=value`` overrides; values are YAML.

    Raises:
        RecipeError: The file is missing or not YAML, or a key or value is wrong.
    """
    path = Path(path)
    try:
        tree = _read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; expected a recipe in YAML") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}:{_yaml_problem(error)}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: expected a mapping of recipe keys, got {type(tree).__name__}")
    for setting in settings:
        tree = override(tree, _setting(setting))
    return parse_recipe(tree, path.parent, where=str(path))


def parse_recipe(tree: Mapping[str, Any], directory: Path, where: str = "recipe") -> Recipe:
    """Validate a recipe given as plain data.

    Raises:
        RecipeError: One line for each problem: the key, what was expected, the fix.
    """
    recipe = _validated(tree, directory, where)
    plain = recipe.model_dump(mode="json")
    for arm, changes in recipe.compare.arms.items():
        _validated(override(plain, changes), directory, f"{where}: compare.arms.{arm}")
    return recipe


def _validated(tree: Mapping[str, Any], directory: Path, where: str) -> Recipe:
    if "directory" in tree:
        raise RecipeError(f"{where}: directory: not a key of a recipe; remove it")
    try:
        return Recipe.model_validate({**tree, "directory": directory.absolute()})
    except ValidationError as error:
        lines = dict.fromkeys(_explain(problem) for problem in _telling(error.errors()))
        raise RecipeError("\n".join(f"{where}: {line}" for line in lines)) from None


def override(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``tree`` with ``changes`` merged in, mapping by mapping; neither argument is changed.

    A change to ``None`` takes the key away, so that a weight or a default can be undone.
    """
    merged = dict(tree)
    for key, value in changes.items():
        below = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = override(below, value)
        else:
            merged[key] = value
    return merged


def _setting(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not sign or not all(names):
        raise RecipeError(f"--set {text}: expected key.path=value, as in budget.tokens=1_000_000")
    try:
        tree: Any = _read_yaml(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: the value: {_yaml_problem(error)}") from None
    for name in reversed(names):
        tree = {name: tree}
    return dict(tree)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as people write it: ``3e-3`` is a number, and no key may be given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in getattr(node, "value", ()):
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            if key.value in lines:
                problem = (
                    f"the key {key.value!r} was already given in line {lines[key.value]}; "
                    "remove one of them"
                )
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader: builds plain data only


def _yaml_problem(error: yaml.YAMLError) -> str:
    """``line: what is wrong``, without the excerpt that YAML adds."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f" not YAML: {' '.join(str(error).split())}"
    context = getattr(error, "context", None)
    problem = ", ".join(part for part in (getattr(error, "problem", None), context) if part)
    return f"{mark.line + 1}: {problem}"


_BRANCH = re.compile(r"<\w+>|\[key\]")
"""An entry of a pydantic location that names a shape or a mapping's key, not a key of ours."""


def _names(problem: Any) -> list[Any]:
    """The keys that lead to a pydantic problem."""
    return [part for part in problem["loc"] if not _BRANCH.fullmatch(str(part))]


def _telling(problems: Sequence[Any]) -> list[Any]:
    """The problems without the missing keys that a misspelt one explains."""
    misspelt = [_names(problem) for problem in problems if problem["type"] == "extra_forbidden"]
    meant = [
        [*above, near]
        for *above, name in misspelt
        for near in difflib.get_close_matches(str(name), _keys_at(above), n=1)
    ]
    return [
        problem
        for problem in problems
        if problem["type"] != "missing" or _names(problem) not in meant
    ]


def _explain(problem: Any) -> str:
    """One line for one pydantic problem, in the words of the recipe."""
    names = _names(problem)
    key = ".".join(str(part) for part in names)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(names[:-1])
        if names[-1] in known:
            return f"{key}: cannot stand beside the other keys here; remove it or them"
        return f"{key}: unknown key{_nearest(str(names[-1]), known)}"
    if problem["type"] == "missing":
        return f"{key}: missing; it is required"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    expected = message.removeprefix("Input should be ")
    for theirs, ours in _WORDS.items():
        expected = re.sub(theirs, ours, expected)
    return f"{key}: expected {expected}, got {problem['input']!r}"


_WORDS = {
    "a valid tuple": "a list",
    "a valid dictionary": "a mapping",
    "a valid ": "a ",
    "a integer": "an integer",
    "^greater": "a number greater",
    "^less": "a number less",
    "^Keys should be strings": "a string as key",
    ", (got|unable|unexpected) .*": "",
    " or instance of .*": "",
}
"""Pydantic's words and ours."""


def _keys_at(names: Sequence[Any]) -> list[str]:
    """The valid keys of the mapping at a place in the recipe, over all branches of a union."""
    models: list[Any] = [Recipe]
    for name in names:
        below: list[Any] = []
        for model in models:
            if isinstance(name, int):
                below.append(model)
            elif name in getattr(model, "model_fields", {}):
                below.extend(_models_in(model.model_fields[name].annotation))
            elif isinstance(model, type) and model in (SelectorSpec,):
                below.append(model)
        models = below or models
    keys = {key for model in models for key in model.model_fields}
    return sorted(keys - {"directory"})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _nearest(name: str, known: Sequence[str]) -> str:
    """`` (did you mean …?)`` where a known name is near, else the known names."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; expected one of {', '.join(known)}" if known else ""
