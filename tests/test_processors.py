"""Results on other processors: kernels of another instruction set, and other numbers of threads.

One processor stands for several: environment variables make PyTorch, NumPy, OpenBLAS and numba use
the instructions of an older one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import WHOLE
from tests.pools import write_jsonl
from tests.processors import numpy_features
from tests.selectors.test_properties import texts, write_encoder
from tests.trainers.conftest import shards, tokenizer  # noqa: F401

pytestmark = pytest.mark.slow

CAPABILITIES = ("default", "avx2", "avx512")
"""Values of ATEN_CPU_CAPABILITY, each with the instructions of those before it."""


def result(command: list[str], **environment: str) -> dict[str, Any]:
    """The JSON object on the last line of a Python process."""
    done = subprocess.run(
        [sys.executable, *command],
        check=False,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@cache
def native() -> str:
    """The capability that PyTorch chooses here; it would crash with a greater one."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    command = [sys.executable, "-c", code]
    return subprocess.check_output(command, env=environment, text=True).strip().lower()


VARIABLE = "ATEN_CPU_CAPABILITY"


def supported() -> tuple[str, ...]:
    """The capabilities of this CPU; none where PyTorch's kernels are not those of x86."""
    return CAPABILITIES[: CAPABILITIES.index(native()) + 1] if native() in CAPABILITIES else ()


# Training: tokens and their order are equal everywhere, losses up to rounding.


@pytest.fixture(scope="module")
def trained(shards: Path) -> Callable[[str], dict[str, Any]]:  # noqa: F811
    """Measurements by capability, each made once, in a process of its own."""

    @cache
    def measure(name: str) -> dict[str, Any]:
        capability = native() if name == "greatest" else name
        if capability not in supported():
            pytest.skip(f"this CPU has {native()}, not {capability}")
        command = ["-m", "tests.processors", "train", str(shards)]
        found = result(command, OMP_WAIT_POLICY="passive", **{VARIABLE: capability})
        assert found["capability"].lower() == capability
        return dict(found["threads"])

    return measure


@pytest.mark.parametrize("threads", ["1", "2", "4"])
@pytest.mark.parametrize(
    "capability", ["default", pytest.param("avx2", marks=pytest.mark.whole), "greatest"]
)
def test_training_on_another_processor(
    trained: Callable[[str], dict[str, Any]], capability: str, threads: str
) -> None:
    found, expected = trained(capability)[threads], trained("default")["1"]
    one = trained(capability)["1"]
    assert len(expected["losses"]) == 14 and np.ptp(expected["losses"]) > 0.5, "it learns nothing"
    # Exact: order of the data, isolation of documents, a second run, weights for any threads.
    assert found["data"] == expected["data"]
    assert found["isolated"] and found["repeated"]
    assert found["digest"] == one["digest"]
    # Up to rounding: losses, and initial weights (standard deviation 0.02) across capabilities.
    np.testing.assert_allclose(found["weights"], expected["weights"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found["nats"], expected["nats"], rtol=2e-6)
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)


# Curation: one digest everywhere.


def newer(*levels: str) -> str:
    """Names of all NumPy features beyond the baseline, or those of some levels, to disable."""
    return " ".join(name for name in numpy_features() if not levels or name.startswith(levels))


SETTINGS: dict[str, Mapping[str, str]] = {
    "default": {
        "OPENBLAS_CORETYPE": "Prescott",
        "NUMBA_CPU_NAME": "generic",
        "NPY_DISABLE_CPU_FEATURES": newer(),
    },
    "avx2": {
        "OPENBLAS_CORETYPE": "Haswell",
        "NUMBA_CPU_NAME": "haswell",
        "NPY_DISABLE_CPU_FEATURES": newer("AVX512", "X86_V4"),
    },
    "avx512": {"OPENBLAS_CORETYPE": "SkylakeX", "NUMBA_CPU_NAME": "skylake-avx512"},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier for a target, and k-means with draws from its clusters."""
    at = tmp_path_factory.mktemp("processors")
    write_jsonl(at / "pool" / "a.jsonl", texts(600))
    write_jsonl(at / "target.jsonl", [{"text": row["text"]} for row in texts(30, seed=5)[::3]])
    write_encoder(at / "encoder")
    recipe = {
        "corpus": [{"path": "pool"}],
        "select": {
            "near": {"use": "betr", "encoder": "encoder/", "target": "target.jsonl"},
            "spread": {"use": "kmq", "encoder": "encoder/", "clusters": 5, "quality": "near"},
        },
        "budget": {"tokens": 6000, "rank": {"near": 0.5, "spread": 0.5}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"sequence_length": 32},
    }
    (at / "recipe.yaml").write_text(json.dumps(recipe))
    return at / "recipe.yaml"


def test_curation_has_one_digest_on_all_processors(recipe: Path, tmp_path: Path) -> None:
    """Every artefact, from the corpus to the shards, with the kernels of several processors.

    The ordinary suite compares this processor, whose kernels other tests compile, and the oldest.
    """
    if len(supported()) < 2:
        pytest.skip(f"this CPU has {native()}, which leaves nothing to compare")

    def curated(name: str, **environment: str) -> dict[str, Any]:
        command = ["-m", "tests.processors", "curate", str(recipe), str(tmp_path / name)]
        return result(command, **environment)

    found = {"here": curated("here")}
    for capability in supported() if WHOLE else supported()[:1]:
        settings = SETTINGS[capability]
        made = found[capability] = curated(capability, **settings, **{VARIABLE: capability})
        assert made["pytorch"] == capability
        assert made["numba"] == settings["NUMBA_CPU_NAME"]
    stages = {name.split("/")[0] for name in found["here"]["artefacts"]}
    assert {"corpus", "model", "columns", "cut", "shards"} <= stages
    for library in ("pytorch", "openblas", "numba", "numpy"):
        assert len({str(each[library]) for each in found.values()}) > 1, library
    for capability, each in found.items():
        assert each["artefacts"] == found["here"]["artefacts"], capability
