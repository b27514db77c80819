"""GOT-D: scores are minus the calibrated gradient, for documents of the sample and others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors.base import Fitting, Target
from penstock.selectors.encoders.static import StaticEncoder
from penstock.selectors.got_d import GotD
from tests.selectors.kernels.test_kmeans import Spectrum, fitting_of
from tests.selectors.test_properties import TOPICS, write_encoder


@pytest.fixture(autouse=True)
def one_thread_at_a_time() -> Iterator[None]:
    with threadpool_limits(1):
        yield


SMALL: dict[str, Any] = {"encoder": "spectrum", "tolerance": 1e-9, "iterations": 20_000}


def texts(count: int = 60) -> list[str]:
    random = np.random.default_rng(2)
    parts = random.dirichlet([0.5] * 4, size=count)
    return ["".join(one * round(300 * part) for one, part in zip("abcd", row)) for row in parts]


def aimed(examples: list[str], pool: list[str] | None = None, **others: Any) -> Fitting:
    targets = [Target(benchmark="t", text=text) for text in examples]
    return fitting_of(pool or texts(), target=targets, **others)


def documents(own: list[str]) -> pa.RecordBatch:
    count = len(own)
    return pa.record_batch(
        {
            "id": [f"d{row}" for row in range(count)],
            "text": pa.array(own, pa.large_string()),
            "source": ["s"] * count,
        }
    )


def gradients(pool: list[str], examples: list[str], eps: float) -> np.ndarray:
    """Solve the whole problem at once, by scipy's logsumexp: (n,) float64."""
    x, y = (
        Spectrum().encode(pa.array(own, pa.large_string())).astype(float)
        for own in (pool, examples)
    )
    costs = ((x[:, None] - y) ** 2).sum(axis=2)
    eps *= costs.mean()
    g = np.zeros(len(y))
    for _ in range(300):
        f = -eps * logsumexp((g - costs) / eps - np.log(len(y)), axis=1)
        g = -eps * logsumexp((f[:, None] - costs) / eps - np.log(len(x)), axis=0)
    f = -eps * logsumexp((g - costs) / eps - np.log(len(y)), axis=1)
    return f - (f.sum() - f) / (len(f) - 1)


def test_scores_are_minus_the_gradient_of_the_whole_pool() -> None:
    pool, examples = texts(), ["aaab", "aab", "cd", "c"]
    selector = GotD(**SMALL)
    facts = selector.fit(aimed(examples))
    assert (facts["sample"], facts["examples"], facts["of"]) == (60, 4, 4)
    expected = gradients(pool, examples, 0.05)
    scores = selector.score(documents(pool))
    np.testing.assert_allclose(scores, -expected, atol=1e-3)
    assert facts["gradient"]["least"] == pytest.approx(expected.min(), abs=1e-3)
    assert facts["gradient"]["largest"] == pytest.approx(expected.max(), abs=1e-3)
    # What is nearest to an example that few documents are near to comes first.
    assert scores.max() > 0.1 > -0.1 > scores.min()


def test_an_example_that_the_pool_is_full_of_attracts_less() -> None:
    """By distance to the nearest example, a and b would be equal."""
    pool = ["a" * 20] * 30 + ["b" * 20] * 3 + ["cd" * 10] * 7
    selector = GotD(**SMALL)
    selector.fit(aimed(["a", "b"], pool))
    a, b, other = selector.score(documents(["a", "b", "cd"])).tolist()
    assert b > a + 0.5 and b > other
    again = GotD(**SMALL)
    again.fit(aimed(["a", "b"], ["a" * 20] * 20 + ["b" * 20] * 20))
    a, b = again.score(documents(["a", "b"])).tolist()
    assert a == pytest.approx(b, abs=1e-6)


def test_documents_outside_the_sample_and_without_a_token() -> None:
    selector = GotD(**SMALL)
    selector.fit(aimed(["aaab", "cd"]))
    own = ["ab", "", " \n", "\u4e2d", "dddd", "ab"]
    scores = selector.score(documents(own))
    assert np.isnan(scores).tolist() == [False, True, True, True, False, False]
    assert scores[0] == scores[5] > scores[4]
    for row, text in enumerate(own):  # a score depends on its document alone
        assert selector.score(documents([text])).tobytes() == scores[row : row + 1].tobytes()


def test_examples_are_drawn_by_hash_and_told() -> None:
    examples = ["a" * count + "b" for count in range(1, 30)] + ["\u4e2d"]
    fitting = aimed(examples, seed=1)
    facts = GotD(**SMALL, examples=10).fit(fitting)
    assert facts["of"] == 30 and facts["examples"] + facts["without_a_token"] == 10
    backwards = aimed(examples[::-1], seed=1)
    first, second = GotD(**SMALL, examples=10), GotD(**SMALL, examples=10)
    first.fit(fitting)
    second.fit(backwards)
    np.testing.assert_allclose(
        first.score(documents(texts())), second.score(documents(texts())), atol=1e-6
    )


def test_too_few_iterations_are_told() -> None:
    lines: list[str] = []
    facts = GotD(encoder="spectrum", iterations=1).fit(aimed(["a", "b"], progress=lines.append))
    assert facts["iterations"] == 1 and facts["error"] > 1e-3
    assert any("raise eps or iterations" in line for line in lines)


@pytest.mark.parametrize(
    ("examples", "pool", "key"), [(["\u4e2d"], ["a", "b"], "target"), (["a"], ["a"], "sample")]
)
def test_nothing_to_solve_for(examples: list[str], pool: list[str], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        GotD(**SMALL).fit(aimed(examples, pool))
    assert info.value.key == key


def test_save_and_load(tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder")
    static = StaticEncoder.load(tmp_path / "encoder")
    pool = [" ".join(words.split()[at::3]) for words in TOPICS.values() for at in range(3)]
    fitting = fitting_of(
        pool,
        target=[Target(benchmark="t", text=text) for text in pool[:2]],
        encoder={"e": static}.__getitem__,
    )
    selector = GotD(encoder="e")
    selector.fit(fitting)
    selector.save(tmp_path)
    loaded = GotD(encoder="e")
    with pytest.raises(SelectorError):
        loaded.save(tmp_path)
    loaded.load(tmp_path)
    assert loaded.score(documents(pool)).tobytes() == selector.score(documents(pool)).tobytes()
    numbers = json.loads((tmp_path / "got_d.json").read_text())
    for wrong in ({"eps": 0.0}, {"centre": float("nan")}, {"factor": "1"}):
        (tmp_path / "got_d.json").write_text(json.dumps({**numbers, **wrong}))
        with pytest.raises(ArtefactError) as info:
            GotD(encoder="e").load(tmp_path)
        assert info.value.file
    (tmp_path / "got_d.json").write_text(json.dumps(numbers))
    np.save(tmp_path / "potentials.npy", np.zeros(3))
    with pytest.raises(ArtefactError):
        GotD(encoder="e").load(tmp_path)


@pytest.mark.parametrize("key", ["eps", "sample", "examples", "tolerance", "iterations"])
def test_parameters_are_checked_when_it_is_built(key: str) -> None:
    with pytest.raises(SelectorError) as info:
        GotD(**{key: 0})
    assert info.value.key == key
