"""The models of a recipe: one YAML file, validated before any work starts.

Every model is frozen and refuses unknown keys. Values are checked here as far as that is possible
without reading data; a selector checks its own parameters when it is built, which is also before
any work. Relative paths are relative to the recipe's directory.

:mod:`penstock.recipe_cleaning`, :mod:`penstock.recipe_training` and
:mod:`penstock.recipe_comparing` have the models of ``clean``, ``train`` and ``compare``, which this
module exports too.
"""

from __future__ import annotations

import codecs
import re
import warnings
from fractions import Fraction as Fractional
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from penstock.display import encodable
from penstock.errors import RecipeError, StorageError, did_you_mean
from penstock.recipe_amounts import Amount, share_of
from penstock.recipe_cleaning import Clean, Decontaminate, Dedup, KeepBest
from penstock.recipe_comparing import Compare, Rung
from penstock.recipe_draw import DrawOf, Uniform, check_draw
from penstock.recipe_training import (
    MAPPING,
    PLAIN,
    REST,
    Checkpoint,
    Fraction,
    Location,
    MixturePhase,
    Model,
    ModelFrom,
    ModelShape,
    Names,
    PlugSpec,
    ReweightSpec,
    ScheduleOf,
    Train,
    Uba,
    Wsd,
    listed,
    require,
    shaped,
)
from penstock.storage import AnyPath, as_path, is_uri

__all__ = [
    "REST",
    "Budget",
    "Checkpoint",
    "Clean",
    "Compare",
    "CorpusSource",
    "Decontaminate",
    "Dedup",
    "KeepBest",
    "MixturePhase",
    "ModelFrom",
    "ModelShape",
    "Recipe",
    "ReweightSpec",
    "RewriteSpec",
    "Rung",
    "ScheduleOf",
    "SelectorSpec",
    "Shards",
    "Tokenizer",
    "Train",
    "Uba",
    "Wsd",
]


class LiteralSource(Model):
    """``source: {name: web}``: the same source for every document of these files."""

    name: str


class CorpusSource(Model):
    """Files of the pool, and the columns to read from them."""

    path: Location
    """A path, a glob, or ``hf:`` and the name or directory of a Hugging Face dataset."""
    text: str = "text"
    id: str = "id"
    """The column of ids; without one a document gets a hash of its text as id."""
    source: Annotated[Annotated[str, PLAIN] | Annotated[LiteralSource, MAPPING], shaped] = "source"
    """A column, or a literal; of files without columns (text, Markdown, HTML) it is by default the
    last name of ``path`` before a wildcard."""
    fields: dict[str, str | int | float | bool] = {}
    """Fields of all records of these files, for those that have none of that name. Directories
    named ``key=value`` add theirs."""
    format: Literal["text"] | None = None
    """``text`` reads files of any ending (``.rst``, ``.py``) as plain text, as ``.txt`` is read."""
    per: Literal["file", "line"] = "file"
    """The unit of a plain-text file that is a document."""
    extract: Literal["resiliparse", "trafilatura", "none"] = "resiliparse"
    """How HTML, in web archives and files, becomes text; ``none`` keeps the source."""
    encoding: str = "utf-8"
    """Of CSV, TSV, Markdown and plain text: one in which ASCII characters are those bytes."""
    split: str = "train"
    """The split of a Hugging Face dataset."""
    subset: str | None = None
    """The configuration of a Hugging Face dataset."""
    revision: str | None = None
    """The commit, branch or tag of a dataset on the hub, also as ``hf:NAME@REVISION``."""

    @field_validator("encoding")
    @classmethod
    def _has_ascii(cls, name: str) -> str:
        expected = "the name of an encoding that Python knows, as windows-1252 or gb18030"
        try:
            own = codecs.lookup(name).name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes
                same = _ASCII.decode(name) == _ASCII.decode("ascii")
        except UnicodeError:
            same = False
        except (LookupError, ValueError):
            raise RecipeError(expected=expected, got=repr(name)) from None
        require(
            same,
            "lines and columns are found by their ASCII bytes, which are others in this encoding",
            expected=f"{expected}, in which ASCII characters are those bytes",
            got=repr(name),
            fix=f"convert the files: iconv -f {own} -t utf-8",
        )
        return own


_ASCII = bytes(range(128)) + b"\\x41 \\u0041 +AGE- ~{VW~} \x1b$B!!\x1b(B .xn--bcher-kva. -"
"""ASCII that is another text in UTF-7, HZ, ISO 2022, IDNA, Punycode and the escapes of Python."""


class SelectorSpec(PlugSpec):
    """A selector: its name, its target files, and the parameters that it declares."""

    target: Names = ()


def _plain_word(name: str) -> str:
    plain = re.fullmatch("[A-Za-z0-9_]+", name) is not None
    require(plain, expected="a name of letters, digits and _", got=repr(name))
    return name


class RewriteSpec(PlugSpec):
    """A rewriter: its name, the model that answers it, and the parameters that it declares."""

    by: Annotated[Annotated[Literal["none"], PLAIN] | Annotated[dict[str, Any], MAPPING], shaped]
    """``{url: ..., model: ...}`` of an OpenAI-compatible server, ``{vllm: model}`` on GPUs of the
    workers, or ``{local: directory}``; ``none`` for a rewriter that needs no model."""
    share: Fraction = 1.0
    """Share of the documents that are rewritten, drawn by hash of id."""


class Budget(Model):
    """The number of tokens to take, and the order in which documents are taken."""

    tokens: Amount
    """A number, also as ``20M`` or ``1.5B``; or ``5%`` of the kept text of the pool, by bytes."""
    rank: Annotated[Annotated[str, PLAIN] | Annotated[dict[str, float], MAPPING], shaped]
    """One selector's name, ``random``, or weights over the quantiles of several columns."""
    draw: Annotated[
        Annotated[Literal["top"], PLAIN] | Annotated[DrawOf, MAPPING],
        shaped,
        BeforeValidator(check_draw),
    ] = "top"
    """The highest scores, or a draw by chance. With ``rank: random`` all documents are equal, so
    that it changes nothing."""
    shares: Annotated[
        Annotated[Literal["pool"], PLAIN] | Annotated[dict[str, Fraction], MAPPING], shaped
    ] = {}
    """Fixed shares of the tokens by source; the other sources compete for the rest. ``pool``: those
    of all sources in the kept text, by bytes."""
    allow_short: bool = False
    """Deliver the whole pool where it holds fewer tokens than the budget, instead of failing."""
    seed: int | None = None
    """Seed of random ranks, ties and Gumbel noise; the recipe's by default."""

    @field_validator("rank")
    @classmethod
    def _weights_are_positive(cls, rank: str | dict[str, float]) -> str | dict[str, float]:
        require(rank != {}, expected="a name or at least one weight", got="{}")
        for name, weight in rank.items() if isinstance(rank, dict) else ():
            require(weight > 0, expected=f"a positive weight for {name!r}", got=weight)
        return rank

    @model_validator(mode="after")
    def _bound_is_a_score(self) -> Budget:
        uniform = self.uniform
        if uniform is not None and uniform.above is not None and len(self.ranks) > 1:
            raise RecipeError(
                key="draw.uniform.above",
                expected="a `rank` of one column, whose scores it bounds",
                got=f"a mixture of {', '.join(self.ranks)}, which has quantiles",
                fix="use draw: {uniform: {keep: 0.3}}",
            )
        return self

    @field_validator("shares")
    @classmethod
    def _shares_fit(cls, shares: str | dict[str, float]) -> str | dict[str, float]:
        total = sum(shares.values()) if isinstance(shares, dict) else 1
        require(total <= 1 + 1e-9, expected="shares of at most 1 in sum", got=f"{total:g}")
        return shares

    @property
    def count(self) -> int | None:
        """The number of tokens; None of a share of the pool, which is known after cleaning."""
        return self.tokens if isinstance(self.tokens, int) else None

    def resolve(self, pool_bytes: int, bytes_per_token: float) -> Budget:
        """Return the budget with a number of tokens.

        Args:
            pool_bytes: UTF-8 bytes of the kept text.
            bytes_per_token: As the tokenizer's artefact has measured it.
        """
        share = share_of(self.tokens)
        if share is None:
            return self
        tokens = int(share * pool_bytes / Fractional(repr(bytes_per_token)))
        return self.model_copy(update={"tokens": tokens})

    @property
    def named_shares(self) -> dict[str, float]:
        """The shares that the recipe gives by source."""
        return self.shares if isinstance(self.shares, dict) else {}

    @property
    def temperature(self) -> float | None:
        """The temperature of a Gumbel draw."""
        drawn = self.draw.gumbel if isinstance(self.draw, DrawOf) else None
        return None if drawn is None else drawn.temperature

    @property
    def uniform(self) -> Uniform | None:
        """The bound of a uniform draw from the best; None where all documents are equal."""
        drawn = self.draw.uniform if isinstance(self.draw, DrawOf) else None
        return None if self.rank == "random" else drawn

    @property
    def ranks(self) -> dict[str, float]:
        """The weight of each column that ranks documents."""
        return {self.rank: 1.0} if isinstance(self.rank, str) else dict(self.rank)


class TrainedTokenizer(Model):
    """A byte-level BPE tokenizer that is trained on the pool."""

    vocab_size: int = Field(default=8192, ge=320, le=2**31 - 1)
    sample_bytes: PositiveInt = 16 * 2**20
    """UTF-8 bytes of text to train on, drawn from the pool by hash of id."""


class TrainTokenizer(Model):
    """``tokenizer: {train: {...}}``, the other shape than a file's name."""

    train: TrainedTokenizer


Tokenizer = Annotated[Annotated[TrainTokenizer, MAPPING] | Annotated[Location, PLAIN], shaped]


class Shards(Model):
    """The shape of the shards that a trainer reads."""

    sequence_length: int = Field(default=512, ge=8)
    """Tokens of a packed sequence."""
    tokens_per_shard: PositiveInt = 16 * 2**20
    """Tokens of a shard file, about; also the cap of one record batch."""
    carry: str | None = None
    """A selector whose score each document carries into the shards, for ``train.reweight``."""


class Recipe(Model):
    """A whole recipe; docs/recipe.md annotates one."""

    seed: int = 0
    work: Location = "work"
    corpus: Annotated[tuple[CorpusSource, ...], BeforeValidator(listed)]
    unit_bytes: Annotated[int, Field(ge=2**16, le=2**30)] | None = None
    """Bytes of text of a unit, the unit of parallel work; by default a 16th of the pool's, from
    16 MiB to 64 MiB (:func:`penstock.pipeline.corpus.unit_bytes_for`)."""
    clean: Clean = Clean()
    rewrite: dict[Annotated[str, AfterValidator(_plain_word)], RewriteSpec] = {}
    """Rewriters, in the order of the file; documents that one adds have its key as source."""
    select: dict[str, SelectorSpec] = {}
    budget: Budget
    tokenizer: Tokenizer = TrainTokenizer(train=TrainedTokenizer())
    shards: Shards = Shards()
    train: Train = Train()
    evaluate: Names = ()
    compare: Compare = Compare()
    directory: Path = Field(default=Path("."), exclude=True)
    """The recipe's directory, where relative paths start. Not a key of the file."""

    @field_validator("corpus")
    @classmethod
    def _some_source(cls, corpus: tuple[CorpusSource, ...]) -> tuple[CorpusSource, ...]:
        # Not `min_length`, which also reports an error where the only entry is invalid.
        require(corpus != (), expected="at least one entry with a path", got="none")
        return corpus

    @model_validator(mode="after")
    def _rank_names_exist(self) -> Recipe:
        known = [*self.select, "random"]
        named = [("budget.rank", name, known) for name in self.budget.ranks]
        if self.shards.carry is not None:
            named.append(("shards.carry", self.shards.carry, [*self.select]))
        for key, name, columns in named:
            if name not in columns:
                raise RecipeError(
                    f"no column {name!r}",
                    key=key,
                    fix=did_you_mean(name, columns).removeprefix("; "),
                )
        require(
            "random" not in self.select,
            "the name is taken by the uniform draw",
            key="select.random",
            fix="rename it",
        )
        return self

    @model_validator(mode="after")
    def _mixed_sources_have_shares(self) -> Recipe:
        if self.budget.shares == "pool":
            return self  # its sources are known after cleaning
        known = [*self.budget.shares, REST]
        for name in {name for phase in self.train.mixture for name in phase.weights}:
            if name not in known:
                raise RecipeError(
                    key="train.mixture",
                    expected="sources that have a share in budget.shares, or "
                    f"{REST!r} for all others",
                    got=repr(name),
                    fix=did_you_mean(name, known).removeprefix("; "),
                )
        return self

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> Recipe:
        budget, before = self.train.tokens or self.budget.count, 0
        if budget is None:
            require(
                not self.train.mixture,
                key="train.mixture",
                expected="a number in budget.tokens or train.tokens, of which its phases are parts",
                got=f"the share {self.budget.tokens} of the pool",
            )
            return self
        for number, phase in enumerate(self.train.mixture):
            if (end := phase.ends_at(budget)) <= before or (phase.until and end >= budget):
                raise RecipeError(
                    key=f"train.mixture.{number}.until",
                    expected=f"more than {before:,} tokens, where the phase begins, and less than "
                    f"the budget of {budget:,}",
                    got=f"{phase.until:g}, which is {end:,}",
                )
            before = end
        return self

    @model_validator(mode="after")
    def _rungs_have_a_factor(self) -> Recipe:
        require(
            self.budget.count is not None or not self.compare.rungs,
            key="compare.rungs",
            expected="a number in budget.tokens, of which those of rungs are multiples",
            got=f"the share {self.budget.tokens} of the pool",
        )
        return self

    @model_validator(mode="after")
    def _a_batch_holds_a_sequence(self) -> Recipe:
        batch, length = self.train.batch_tokens, self.shards.sequence_length
        require(
            batch >= length,
            key="train.batch_tokens",
            expected=f"at least one sequence of {length} tokens (shards.sequence_length)",
            got=batch,
        )
        return self

    @model_validator(mode="after")
    def _evaluations_have_files(self) -> Recipe:
        require(
            not self.train.evaluate_every or self.evaluate != (),
            key="train.evaluate_every",
            expected="files under `evaluate`",
            got="none",
        )
        return self

    def resolve(self, path: str) -> AnyPath:
        """Return a path of the recipe as an absolute path, or a URI as a path in its store."""
        return as_path(path if is_uri(path) else self.directory / Path(path).expanduser())

    @property
    def work_directory(self) -> AnyPath:
        """The directory of the artefacts.

        Raises:
            RecipeError: It is a URI of a store that cannot be used, or its name is not UTF-8.
        """
        try:
            work = self.resolve(self.work)
        except StorageError as error:
            raise RecipeError(
                error.problem, key="work", file=error.file, got=error.got, fix=error.fix
            ) from None
        unicode = encodable(str(work)) == str(work)  # no file of Arrow can be written elsewhere
        require(unicode, key="work", file=work, expected="a name in UTF-8", fix="give another")
        return work

    @property
    def draw_seed(self) -> int:
        """The seed of ranks, ties and noise in the cut."""
        return self.seed if self.budget.seed is None else self.budget.seed

    @property
    def train_seed(self) -> int:
        """The seed of initial weights and data order."""
        return self.seed if self.train.seed is None else self.train.seed

    def to_yaml(self) -> str:
        """Return the text of a recipe file that loads back to an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
