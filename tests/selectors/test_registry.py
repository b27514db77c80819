"""Names to selectors."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import SelectorError
from penstock.recipe import SelectorSpec
from penstock.selectors import registry
from penstock.selectors.base import Fitting
from penstock.selectors.registry import available, build
from tests.fasttext_reference import collapsed, train


def spec(**keys: object) -> SelectorSpec:
    return SelectorSpec.model_validate(keys)


def test_all_built_in_selectors_are_described() -> None:
    found = {item.name: item for item in available()}
    assert {"betr", "fasttext"} <= set(found)
    assert found["betr"].parameters["top_share"] == 0.1
    assert "Mizrahi" in found["betr"].paper and found["betr"].summary


def test_listing_selectors_imports_nothing_heavy() -> None:
    code = (
        "import sys; from penstock.selectors.registry import available; available()\n"
        "heavy = {'torch', 'faiss', 'sentence_transformers', 'transformers', 'fasttext', 'ray'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"use": "bert"}, "select.x.use"),
        ({"use": "betr", "top_shar": 1}, "select.x.top_shar"),
        ({"use": "betr", "top_share": 3},
         "select.x.top_share"),
        ({"use": "fasttext"}, "select.x.model"),
        ({"use": "fasttext", "model": "gone.bin"},
         "select.x.model"),
        ({"use": "gone_module:score"}, "select.x.use"),
    ],
)  # fmt: skip
def test_a_wrong_name_or_value_is_named_by_its_key(keys: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        build("x", spec(**keys))
    assert info.value.key == key


def test_a_function_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_the_recipe.py").write_text(
        "def score(texts, scale=1):\n    return [scale * len(text) for text in texts]\n"
    )
    scorer = build("x", spec(use="beside_the_recipe:score", scale=2), [tmp_path])
    assert scorer.kind == "scorer"
    batch = pa.record_batch({"id": ["a"], "text": ["four"], "source": ["s"]})
    assert scorer.score(batch).tolist() == [8]
    with pytest.raises(SelectorError) as info:
        build("x", spec(use="beside_the_recipe:score", scal=2), [tmp_path])
    assert info.value.key == "select.x.scal"


def test_registered_classes_and_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registered_plugin.py").write_text(
        "class Own:\n"
        "    summary, paper, version = 'mine', 'none', 1\n"
        "    def __init__(self, *, depth=3): self.depth = depth\n"
        "    def identity(self): return {}\n"
        "    def fit(self, fitting): return {}\n"
        "    def score(self, documents): return None\n"
        "    def save(self, directory): pass\n"
        "    def load(self, directory): pass\n"
        "class Half: pass\n"
        "def score(texts):\n    'By a function.'\n    return [0] * len(texts)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint(name, f"registered_plugin:{thing}", registry.GROUP)
        for name, thing in (("own", "Own"), ("half", "Half"), ("plain", "score"), ("bad", "no"))
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    found = {item.name: item for item in available()}
    assert found["own"].summary == "mine" and found["own"].parameters == {"depth": 3}
    assert found["plain"].summary == "By a function."
    assert "cannot be imported" in found["bad"].summary
    assert build("x", spec(use="own", depth=4)).plug.depth == 4
    assert build("x", spec(use="plain")).use == "registered_plugin:score"
    with pytest.raises(SelectorError, match="expected a Scorer"):
        build("x", spec(use="half"))
    with pytest.raises(SelectorError) as info:
        build("x", spec(use="own", dept=4))
    assert info.value.key == "select.x.dept"


def test_a_ready_fasttext_model_is_found_beside_the_recipe(tmp_path: Path) -> None:
    texts = [f"{word} {word} text" for word in ["good", "bad"] * 40]
    model = train(texts, [True, False] * 40, lr=0.5, dim=4, epoch=20, bucket=1000, seed=1)
    model.save_model(str(tmp_path / "model.bin"))
    scorer = build("x", spec(use="fasttext", model="model.bin"), [tmp_path])
    facts = scorer.fit(Fitting(sample=lambda n: pa.table({}), pool_size=0))
    assert facts["bucket"] == 1000
    batch = pa.record_batch(
        {
            "id": ["a", "b", "c"],
            "text": pa.array(["good good", "bad bad", " \n"], pa.large_string()),
            "source": ["s"] * 3,
        }
    )
    scores = scorer.score(batch)
    assert scores.dtype == np.float32 and scores[0] > 0.9 > 0.1 > scores[1]
    assert np.isnan(scores[2])
    expected = collapsed(model).score(batch.column("text"))
    np.testing.assert_array_equal(scores[:2], expected[:2])
    (tmp_path / "fitted").mkdir()
    scorer.save(tmp_path / "fitted")
    again = build("x", spec(use="fasttext", model="model.bin"), [tmp_path])
    again.load(tmp_path / "fitted")
    np.testing.assert_array_equal(again.score(batch), scores)
    assert str(tmp_path) not in str(scorer.identity())
