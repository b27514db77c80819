"""Prepare the demo's directory: its text, and a recipe for it.

Sizes are such that the whole comparison, 12 runs, takes minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from penstock.jobs.demo.gather import gather
from penstock.storage import atomic_file

__all__ = ["RECIPE", "prepare"]

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

budget:
  tokens: 270_000
  rank: betr

tokenizer: {train: {vocab_size: 4096, sample_bytes: 4_000_000}}
shards: {sequence_length: 256}

train:
  model: {layers: 2, width: 128, heads: 4}
  batch_tokens: 2048
  micro_batch: 8
  lr: 3.0e-3
  schedule: rex

evaluate: [text/stdlib.held_out.jsonl]

compare:
  arms: {random: {budget: {rank: random}}}
  seeds: [1, 2, 3]
"""


def prepare(directory: Path, progress: Callable[[str], None]) -> Path:
    """Gather the text and write the recipe; existing ones are kept.

    Returns:
        The recipe's path.
    """
    recipe = directory / "recipe.yaml"
    if recipe.exists():
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
