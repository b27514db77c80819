"""Penstock: decide which documents a language model is trained on, and prove that it paid.

The front door: a recipe in, a result out, in a script or a notebook::

    import penstock

    curated = penstock.curate("recipe.yaml", progress=print)
    curated.summary()["tokens"]

Names are imported when they are first used, so ``import penstock`` loads neither PyTorch, Ray nor
numba (``Backend`` needs PyTorch). A selector, a rewriter, a reweighter or a trainer back end
implements a protocol of this module; docs/plugins.md says what may change in them.
docs/architecture.md shows how the packages work together.

::

    penstock/
      jobs/              the front door, the command line, Ray jobs, comparison, report, demo
      pipeline/          corpus -> columns -> cut -> shards
      rules/             documents -> statistics -> verdicts
      selectors/         documents -> a column of scores
      trainers/          shards -> a trained model under a token budget
      personal_data/     personal data and secrets in texts: counts, masks
      language_models/   readers of causal models, for selectors and evaluation
      tokenization/      tokenizers for texts: no text gives the id of a control token
      artefact/          the result of a stage: data files and a manifest
      storage/           files on disk and in stores such as S3
      columnar/          Arrow and Parquet files, validated before a value is used

      recipe.py          models of a recipe's keys; recipe_cleaning.py, recipe_training.py
      recipe_file.py     YAML to a validated recipe, and the messages
      recipe_yaml.py     YAML to plain data, in bounded time and memory
      errors.py          the exception tree
      panics.py          panics of libraries in Rust as errors
      extras.py          optional libraries, and the extra that installs each
      lease.py           one driver at a time for a work directory
      node_cache.py      copies of remote files, and what is made once for a machine
      opening.py         files to read, by no link that another user made to a private one
      temporary.py       this user's own directory in the temporary directory
      activity.py        steps under way and documents done, for progress lines
      calls.py           the call of a plug-in under way in a worker, for crashes
      cluster.py         the connection to Ray; the number of CPUs
      ray_token.py       the token of a Ray cluster, found as Ray finds it
      ray_job.py         the id of the Ray Job that this process drives
      own_modules.py     modules beside a recipe, without their directory in sys.path
      own_sources.py     their sources, read once: what is hashed is what runs
      plugin_code.py     identity of users' code: local modules by contents, packages by version
      examined_source.py the hash of a source, and what it imports
      testing.py         check_scorer: properties of a scorer of one's own
      plugin_frames.py   errors of users' code, with the lines of their own files
      resources.py       CPUs, GPUs and memory of a worker
      hashing.py         random numbers as hashes of (seed, id); checksums of sequences
      array_files.py     .npy files whose header claims no more than they hold
      fasttext_file.py   files of fastText's models as arrays
      arrow_text.py      texts of Arrow arrays for compiled loops
      machine_words.py   eight bytes of text at a time, for compiled loops
      blake2b.py         BLAKE2b of many texts at a time
      text_hashes.py     128-bit hashes of texts, as they are and normalised
      compiling.py       numba, with a cache that sees changes in imported files and is safe
      garbage.py         pauses of garbage collection while modules are imported
      compiled_code.py   private caches of PyTorch and Triton, set before these read them
      display.py         tables of results in notebooks
      __main__.py        python -m penstock
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from penstock import compiled_code, extras  # noqa: F401  before PyTorch is imported
from penstock.errors import (
    ArtefactError,
    BadInput,
    BudgetError,
    CompletionError,
    Failure,
    InputError,
    JobError,
    LeaseError,
    PenstockError,
    RecipeError,
    ScoringError,
    SelectorError,
    StorageError,
    TrainingError,
    UnmadeError,
    WorkerError,
)

if TYPE_CHECKING:
    from penstock.jobs.api import clean, compare, curate, export, open, train
    from penstock.jobs.looking import diff, sample, why
    from penstock.recipe import Recipe
    from penstock.recipe_file import load_recipe
    from penstock.selectors.base import Scorer, SetSelector
    from penstock.selectors.plain import PlainScorer
    from penstock.selectors.reweighting import Reweighter
    from penstock.selectors.rewriting import Rewriter
    from penstock.trainers.backends.base import Backend

__version__ = "0.1.0"

__all__ = [
    "ArtefactError",
    "Backend",
    "BadInput",
    "BudgetError",
    "CompletionError",
    "Failure",
    "InputError",
    "JobError",
    "LeaseError",
    "PenstockError",
    "PlainScorer",
    "Recipe",
    "RecipeError",
    "Reweighter",
    "Rewriter",
    "Scorer",
    "ScoringError",
    "SelectorError",
    "SetSelector",
    "StorageError",
    "TrainingError",
    "UnmadeError",
    "WorkerError",
    "clean",
    "compare",
    "curate",
    "diff",
    "export",
    "load_recipe",
    "open",
    "sample",
    "train",
    "why",
]

_LAZY = {
    "Backend": "penstock.trainers.backends.base",
    "Recipe": "penstock.recipe",
    "Reweighter": "penstock.selectors.reweighting",
    "Rewriter": "penstock.selectors.rewriting",
    "PlainScorer": "penstock.selectors.plain",
    "Scorer": "penstock.selectors.base",
    "SetSelector": "penstock.selectors.base",
    "clean": "penstock.jobs.api",
    "compare": "penstock.jobs.api",
    "curate": "penstock.jobs.api",
    "diff": "penstock.jobs.looking",
    "export": "penstock.jobs.api",
    "load_recipe": "penstock.recipe_file",
    "open": "penstock.jobs.api",
    "sample": "penstock.jobs.looking",
    "train": "penstock.jobs.api",
    "why": "penstock.jobs.looking",
}
"""The module of each name that is imported when it is first used (PEP 562)."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    with extras.named():
        value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
