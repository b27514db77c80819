"""One process of test_processors: ``train SHARDS`` or ``curate RECIPE WORK``, as JSON on stdout."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.recipe import ModelShape, Train
from penstock.trainers.data.batch import Batch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.model import LanguageModel
from tests.packed import PackedSequence, collate, row_of

THREADS = (1, 2, 4)

SHAPE = ModelShape(layers=2, width=64, heads=4)


def train(shards: str) -> dict[str, Any]:
    """The capability that PyTorch uses, and measurements by number of threads."""
    opened = ShardSet.open(Path(shards))
    found = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        found[threads] = _measurements(opened)
    return {"capability": _capability(), "threads": found}


def curate(recipe: str, work: str) -> dict[str, Any]:
    """The instructions that the libraries use, and the digest of every artefact."""
    import numba
    import threadpoolctl

    from penstock.artefact import Workspace
    from penstock.jobs import curate as module
    from penstock.pipeline.runner import LocalRunner
    from penstock.recipe_file import load_recipe

    loaded = load_recipe(recipe, [f"work={work}"])
    with closing(LocalRunner(1)) as runner:
        module.curate(loaded, runner)
    made = Workspace(loaded.work_directory).artefacts()
    blas = [each for each in threadpoolctl.threadpool_info() if each["internal_api"] == "openblas"]
    return {
        "pytorch": _capability(),
        "openblas": blas[0]["architecture"],
        "numba": numba.config.CPU_NAME,
        "numpy": numpy_features(),
        "artefacts": {f"{each.manifest['stage']}/{each.fingerprint}": each.digest for each in made},
    }


def numpy_features() -> list[str]:
    """The features of this CPU beyond its build's baseline for which NumPy has kernels in use."""
    found: list[str] = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[call-overload]
    return found


def _capability() -> str:
    return torch.backends.cpu.get_cpu_capability().lower()


def _measurements(shards: ShardSet) -> dict[str, Any]:
    model = build_model(SHAPE, shards, seed=1)
    weights = b"".join(weight.detach().numpy().tobytes() for weight in model.parameters())
    batch = collate([row_of(shards, index) for index in range(8)])
    first, again = _train(shards), _train(shards)
    return {
        "digest": hashlib.sha256(weights).hexdigest(),
        "weights": model.causal.lm_head.weight[:4].flatten().tolist(),
        "isolated": _isolated(model, shards),
        "nats": model.label_nats(batch).tolist(),
        "data": [digest for digest, *_ in first],
        "losses": [loss for _, loss, _ in first],
        "repeated": first == again,
    }


def _train(shards: ShardSet) -> list[tuple[str, float, float]]:
    """Digest, loss and gradient norm of every step of three epochs."""
    settings = Train(
        model=SHAPE,
        backend="torch",
        batch_tokens=8 * 32,
        micro_batch=4,
        tokens=3 * shards.tokens,
        lr=3e-3,
    )
    with closing(Engine(settings, shards, 2, Group())) as engine:
        return [(step.data, step.loss, step.grad_norm) for step in engine.run()]


def _isolated(model: LanguageModel, shards: ShardSet) -> bool:
    """Change the first document of a sequence; return whether all other logits keep their bits."""
    sequences = [row_of(shards, index) for index in range(8)]
    number = next(row for row, each in enumerate(sequences) if len(each.starts) > 1)
    end = int(sequences[number].starts[1])
    tokens = sequences[number].tokens.copy()
    tokens[:end] = tokens[:end] % 319 + 1
    changed = [*sequences]
    changed[number] = PackedSequence(tokens, sequences[number].starts)
    before, after = (_logits(model, collate(each)) for each in (sequences, changed))
    others = np.ones(before.shape[:2], bool)
    others[number, :end] = False
    return bool(torch.equal(before[others], after[others])) and not torch.equal(before, after)


def _logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(batch)


if __name__ == "__main__":
    print(json.dumps({"train": train, "curate": curate}[sys.argv[1]](*sys.argv[2:])))
