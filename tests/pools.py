"""Small pools, and artefacts that the real stages make of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tokenizers

from penstock.artefact import Artefact, Workspace
from penstock.hashing import hash_documents, mix
from penstock.jobs.curate import Curated
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.columns import Column, make_columns
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.cut import CutSettings, make_cut
from penstock.pipeline.cutting.ordering import OrderedUnit
from penstock.pipeline.cutting.radix import score_of
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.scoring.models import Models
from penstock.pipeline.shards import make_shards
from penstock.pipeline.tokenizer import TokenizerSettings, make_tokenizer
from penstock.pipeline.tokens import TokenStore
from penstock.pipeline.units import UNIT_BYTES as REAL_UNIT_BYTES
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.adapter import as_selector
from penstock.selectors.base import Documents, Fitting
from penstock.storage import AnyPath
from penstock.text_hashes import hash_texts

UNIT_BYTES = 12_000
"""Bytes of a unit: small, so that every pool has several."""

_SENTENCE = (
    "water flows through the gate to turbine and river wheel stone bridge law gravity "
    "energy house winter people night système größe 水力 def return import value"
)
_WORDS = _SENTENCE.split()


def text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(_WORDS) + str(chance.randrange(30)) for _ in range(words))


def documents(count: int, seed: int = 0, longest: int = 120) -> list[dict[str, str]]:
    """Return distinct texts of three sources: most of them web, few of them code."""
    chance = random.Random(seed)
    return [
        {
            "id": f"d{number:04d}",
            "text": f"{number} {text(chance, chance.randint(1, longest))}",
            "source": chance.choice(["web", "web", "web", "wiki", "wiki", "code"]),
        }
        for number in range(count)
    ]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sampler(table: pa.Table) -> Callable[..., pa.Table]:
    """Return a ``Fitting.sample`` that draws all documents of a table."""

    def sample(
        count: int,
        *,
        source: str | None = None,
        characters: int | None = None,
        shortest: int = 0,
        balanced: bool = False,
        most: float = 1.0,
    ) -> pa.Table:
        own = table if source is None else table.filter(pc.equal(table["source"], source))
        own = own.filter(pc.greater_equal(pc.utf8_length(own["text"]), shortest))
        texts = pc.utf8_slice_codeunits(own["text"], 0, characters or 2**30)
        return own.set_column(own.schema.get_field_index("text"), "text", texts)

    return sample


def recipe_of(
    directory: Path, tokens: int = 2_000, rank: Any = "random", length: int = 16, **tree: Any
) -> Recipe:
    """Return a small recipe for ``directory/pool``; ``tree`` is merged over it.

    Keys ``budget`` and ``shards`` are merged, others replaced.
    """
    names = [rank] if isinstance(rank, str) else list(rank)
    plain: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "select": {name: {"use": "test"} for name in names if name != "random"},
        "tokenizer": {"train": {"vocab_size": 384}},
        **tree,
        "budget": {"tokens": tokens, "rank": rank, **tree.get("budget", {})},
        "shards": {"sequence_length": length, **tree.get("shards", {})},
    }
    return parse_recipe(plain, directory)


@dataclass
class Given:
    """A scorer with given scores by id; an id that is not listed gets NaN."""

    scores: Mapping[str, float]

    summary = "given scores"
    paper = "none"
    version = 1

    def identity(self) -> Mapping[str, Any]:
        return {"scores": [[name, repr(float(score))] for name, score in self.scores.items()]}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        return {}

    def score(self, documents: Documents) -> np.ndarray:
        ids = documents.column("id").to_pylist()
        return np.array([self.scores.get(name, np.nan) for name in ids], np.float32)

    def save(self, directory: Path) -> None:
        pass

    def load(self, directory: Path) -> None:
        pass


@dataclass
class Made:
    """The artefacts that were made of a recipe."""

    recipe: Recipe
    pool: Pool
    columns: dict[str, Artefact]
    tokenizer: Artefact
    store: TokenStore
    cut: Artefact

    workspace: Workspace
    runner: Runner

    @property
    def corpus(self) -> Artefact:
        return self.pool.corpus

    def curated(self) -> Curated:
        """Return the artefacts as ``curate`` does, with shards."""
        return Curated(
            recipe=self.recipe,
            pool=self.pool,
            columns=self.columns,
            tokenizer=self.tokenizer,
            cut=self.cut,
            shards=self.shards(),
        )

    def shards(self) -> Artefact:
        return make_shards(
            self.recipe.shards,
            self.cut,
            self.store,
            self.tokenizer,
            self.workspace,
            self.runner,
            self.columns.get(self.recipe.shards.carry or ""),
        )

    def taken(self) -> list[dict[str, Any]]:
        """Return the rows of the cut, in the corpus's order."""
        return [
            row
            for record in self.cut.files
            for row in pq.read_table(self.cut.verified(record)).to_pylist()
        ]


def pool_of(
    recipe: Recipe,
    workspace: Workspace | None = None,
    runner: Runner | None = None,
    unit_bytes: int = REAL_UNIT_BYTES,
) -> Pool:
    """Make the corpus of a recipe, and its pool."""
    runner, workspace = runner or LocalRunner(1), workspace or Workspace(recipe.work_directory)
    corpus = make_corpus(CorpusSettings.of(recipe, unit_bytes), workspace, runner)
    return make_pool(CleanSettings.of(recipe), corpus, workspace, runner).checked()


def make(
    recipe: Recipe,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    runner: Runner | None = None,
    work: AnyPath | None = None,
) -> Made:
    """Make corpus to cut. ``scores`` gives, for each column, the score of each id."""
    runner = runner or LocalRunner(1)
    workspace = Workspace(work or recipe.work_directory)
    pool = pool_of(recipe, workspace, runner, UNIT_BYTES)
    columns = make_columns(
        [
            Column(name=name, selector=as_selector(Given(given)))
            for name, given in (scores or {}).items()
        ],
        Models(pool=pool, workspace=workspace, runner=runner, seed=recipe.seed),
    )
    tokenizer = make_tokenizer(TokenizerSettings.of(recipe), pool, workspace)
    store = TokenStore(pool, tokenizer, workspace)
    cut = make_cut(CutSettings.of(recipe), pool, columns, store, tokenizer, workspace, runner)
    return Made(recipe, pool, columns, tokenizer, store, cut, workspace, runner)


@dataclass(frozen=True)
class Known:
    """A document of the pool, with its tokens by a direct call of the tokenizer."""

    unit: int
    row: int
    id: str
    source: str
    text: str
    tokens: list[int]


def all_documents(pool: Pool, tokenizer: Artefact) -> list[Known]:
    """Return the pool in the order of its corpus, tokenised without the store."""
    model = tokenizers.Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    end = tokenizer.facts["eos"]
    return [
        Known(
            unit.number,
            row,
            entry["id"],
            entry["source"],
            entry["text"],
            [end, *model.encode(entry["text"], add_special_tokens=False).ids, end],
        )
        for unit in pool.units
        for entries in [pq.read_table(unit.path()).to_pylist()]
        for row in unit.numbers().tolist()
        for entry in [entries[row]]
    ]


def hashed(ids: Sequence[str], texts: Sequence[str]) -> pa.Table:
    """Return what draws depend on: the ids and the hashes of the texts."""
    hashes = hash_texts(pa.array(texts, pa.large_string()))
    return pa.table({"id": pa.array(ids, pa.string()), "hash": hashes})


def ties(known: Sequence[Known], seed: int) -> np.ndarray:
    table = hashed([own.id for own in known], [own.text for own in known])
    return hash_documents(table, mix(seed, "tie"))


def brute_force(
    pool: Sequence[Known],
    scores: np.ndarray,
    seed: int,
    quotas: Mapping[str | None, int],
    group: Callable[[str], str | None] = lambda source: None,
) -> dict[tuple[int, int], int]:
    """Return tokens taken of each document, by (unit, row): sort all, fill each quota in turn."""
    tie = ties(pool, seed)
    allowed = np.flatnonzero(~np.isnan(scores)).tolist()
    best = sorted(allowed, key=lambda i: (-scores[i], -int(tie[i]), i))
    left = dict(quotas)
    taken: dict[tuple[int, int], int] = {}
    for index in best:
        known, mine = pool[index], group(pool[index].source)
        if not left.get(mine):
            continue
        size = min(len(known.tokens), left[mine])
        taken[known.unit, known.row] = size
        left[mine] -= size
    return taken


def scores_in_order(ordered: OrderedUnit) -> np.ndarray:
    """Return the scores that documents are ordered by: (n,) float32, NaN where excluded."""
    order, _ = ordered.read()
    return np.where(order.group < 0, np.float32(np.nan), score_of(order.key))
