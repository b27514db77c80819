"""Prepare the demo's directory: its text, and a recipe for it.

The text is documentation of the installed packages and of the standard library.

Synthetic text would prove little, and a download does not run everywhere, so the demo reads files
of every Python installation. The *pool* is the documentation of the installed packages: docstrings,
comments of Python and C sources, READMEs, licences and other prose. The *target* is the docstrings
of the standard library, split by module: one half as examples for selection, the other held out for
evaluation. Three guarantees:

* the same installation and seed give the same bytes;
* no line of :data:`~penstock.jobs.demo.pieces.TELLING` or more characters of the held-out half
  occurs in the other half or in the pool (packages contain copies of the standard library:
  setuptools has distutils, multiprocess is multiprocessing), and no shorter docstring of it occurs
  as a whole;
* the files read are capped, not the time, so that a slow machine gathers the same text: 160 MB of
  files take 20 s on one core and give 46 MB of text, about 11 million tokens.

All arms have the pool's shares of sources, one is a control by length, and each has five seeds.
Random is also trained on twice the tokens; it needed 1.47 times as many when it was last measured.
With 2,048 tokens in the vocabulary a step takes 0.55 of the CPU time that it takes with 4,096, so
that 20 runs take less than 15 did (docs/lab.md).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sysconfig
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
import zstandard

from penstock.errors import InputError, StorageError
from penstock.jobs.demo.library import limited, split_library
from penstock.jobs.demo.packages import fair_share, package_files, read_pool
from penstock.jobs.demo.pieces import Piece
from penstock.storage import atomic_file
from penstock.temporary import check_own_directory, is_trusted

__all__ = ["DURATION", "RECIPE", "Count", "Gathered", "Limits", "gather", "prepare"]

RECIPE = """\
# Written by `penstock demo`. Does it pay to aim at the standard library's documentation?
seed: 17
work: work

corpus:
  - path: text/pool/*.jsonl.zst

select:
  betr:
    use: betr
    target: [text/stdlib.aim.jsonl]
  by_length: {use: mean_of, column: betr, by: length}   # a control: what its lengths alone gain

budget:
  tokens: 270_000
  rank: betr
  shares: pool                     # all arms have one mixture of sources

tokenizer: {train: {vocab_size: 2048, sample_bytes: 4_000_000}}
shards: {sequence_length: 256}

train:
  model: {layers: 2, width: 128, heads: 4}
  batch_tokens: 2048
  micro_batch: 8
  lr: 3.0e-3
  schedule: rex

evaluate: [text/stdlib.held_out.jsonl]

compare:
  arms:
    random: {budget: {rank: random}}
    by_length: {budget: {rank: by_length}}
  seeds: [1, 2, 3, 4, 5]           # three do not tell small differences from chance
  baseline_multiples: [1, 2]       # ">2" where random needs more
"""


DURATION = "the demo trains 20 models of 393,216 weights: under 10 minutes on two free cores"
"""The first line that the demo prints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of what is read and written."""

    read_bytes: int = 160_000_000
    """Bytes to read of package files; a package is cut only if all larger ones are cut, too."""
    document_chars: int = 4096
    """Characters above which a file is divided, between docstrings or paragraphs if possible."""
    min_chars: int = 200
    """Characters below which a document is left out of the pool."""
    example_chars: int = 2048
    """The limit ``document_chars`` for an example of the target."""
    aim_bytes: int = 1_000_000
    """UTF-8 bytes of the examples for selection."""
    held_out_bytes: int = 400_000
    """UTF-8 bytes of the half for evaluation: every run of the comparison reads all of it."""


class Count(NamedTuple):
    """Documents and the UTF-8 bytes of their texts."""

    documents: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The files of the gathered text, and their sizes."""

    pool: tuple[Path, ...]
    """JSON lines ``id, source, text``, zstd, one file for each kind."""
    aim: Path
    """JSON lines ``id, benchmark, text``: the examples for selection."""
    held_out: Path
    """JSON lines ``id, benchmark, text``: the half for evaluation."""
    pool_count: Count
    aim_count: Count
    held_out_count: Count
    packages: int
    """Packages that gave at least one document to the pool."""
    copies: dict[str, int]
    """Pieces left out of ``pool`` and of ``aim`` because they repeat the held-out half."""
    unread: int
    """Files that are not UTF-8, or not Python though named so."""


def gather(
    directory: Path,
    *,
    seed: int = 0,
    packages: Sequence[Path] | None = None,
    library: Path | None = None,
    limits: Limits | None = None,
) -> Gathered:
    """Write the pool and both halves of the target into ``directory``.

    Args:
        directory: Gets ``pool/KIND.jsonl.zst``, ``stdlib.aim.jsonl``, ``stdlib.held_out.jsonl``.
        seed: Seed of the split by module, and of the draw where there is too much.
        packages: Directories of installed packages; those of this Python if not given.
        library: The standard library's directory; this Python's if not given.
        limits: Limits of what is read and written.

    Raises:
        InputError: There is no text there.
    """
    limits = limits or Limits()
    here = {name: Path(path) for name, path in sysconfig.get_paths().items()}
    if library is None:
        library = here["stdlib"]
    if packages is None:
        packages = list(dict.fromkeys((here["purelib"], here["platlib"])))

    counts: Counter[str] = Counter()
    collecting = gc.isenabled()
    gc.disable()  # syntax trees are large and have no cycles
    try:
        target = split_library(library, seed, limits.example_chars)
        files = fair_share(package_files(packages), limits.read_bytes, seed)
        sizes = (limits.document_chars, limits.min_chars)
        pool = read_pool(files, target.unseen, *sizes, counts)
    finally:
        if collecting:
            gc.enable()
    if not counts["packages"]:
        raise InputError(
            file=", ".join(map(str, packages)),
            expected="installed packages with documentation",
            got="none",
            fix="run the demo in the environment in which Penstock is installed",
        )
    written: dict[Path, Count] = {}
    for kind, documents in pool.items():
        path = directory / "pool" / f"{kind}.jsonl.zst"
        if documents:
            written[path] = _write(path, documents, source=kind)
        else:  # the file of an earlier gathering would be read with this one
            path.unlink(missing_ok=True)
    aim, held_out = directory / "stdlib.aim.jsonl", directory / "stdlib.held_out.jsonl"
    to_aim_at = limited(target.aim, limits.aim_bytes, seed)
    to_judge_by = limited(target.held_out, limits.held_out_bytes, seed)
    return Gathered(
        pool=tuple(written),
        aim=aim,
        held_out=held_out,
        pool_count=Count(*map(sum, zip(*written.values()))),
        aim_count=_write(aim, to_aim_at, benchmark="stdlib"),
        held_out_count=_write(held_out, to_judge_by, benchmark="stdlib"),
        packages=counts["packages"],
        copies={"pool": counts["copies"], "aim": target.copies},
        unread=target.unread + counts["unread"],
    )


def _write(path: Path, documents: Sequence[Piece], **label: str) -> Count:
    """Write JSON lines ``id``, the label, ``text``; with zstd where the path ends in ``.zst``."""
    size = 0
    with contextlib.ExitStack() as stack:
        sink: Any = stack.enter_context(atomic_file(path))
        if path.suffix == ".zst":
            compressor = zstandard.ZstdCompressor(level=3)
            sink = stack.enter_context(compressor.stream_writer(sink, closefd=False))
        for document in documents:
            record = {"id": document.name, **label, "text": document.text}
            sink.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            size += len(document.text.encode())
    return Count(documents=len(documents), bytes=size)


def prepare(directory: Path, progress: Callable[[str], None]) -> Path:
    """Gather the text and write the recipe; existing ones are kept.

    Returns:
        The recipe's path.

    Raises:
        StorageError: Another user can have made the directory, or what is in it.
        InputError: The recipe there is not the demo's.
    """
    recipe = directory / "recipe.yaml"
    fix = "give --directory a new directory of your own"
    for path in (directory, directory / "text", recipe):
        if os.path.lexists(path) and not is_trusted(path.lstat().st_uid):
            raise StorageError("belongs to another user", file=path, fix=fix)
    if directory.exists():
        check_own_directory(directory, fix)
    if recipe.exists():
        with open(recipe, "rb") as file:
            first = file.readline(len(RECIPE))
        if first != RECIPE.encode().splitlines(keepends=True)[0]:
            raise InputError("a recipe that `penstock demo` did not write", file=recipe, fix=fix)
        progress(f"{recipe}: found; delete {directory} to begin anew")
        return recipe
    progress("gathering the documentation of the installed packages ...")
    text = gather(directory / "text", seed=int(yaml.safe_load(RECIPE)["seed"]))
    progress(
        f"pool: {text.pool_count.documents:,} documents, {text.pool_count.bytes:,} bytes from "
        f"{text.packages} packages; target: {text.aim_count.documents:,} docstrings to aim at, "
        f"{text.held_out_count.documents:,} held out"
    )
    with atomic_file(recipe) as sink:
        sink.write(RECIPE.encode())
    return recipe
