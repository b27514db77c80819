"""Reweighters by name: built in, a function's, a class's, and the same ones on a worker."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import ScoringError, SelectorError
from penstock.recipe import ReweightSpec
from penstock.selectors.registry import available, build_reweighter
from penstock.selectors.reweighting import (
    LossReweighter,
    ScoredBatch,
    TrainingProgress,
    Uds,
    checked_weights,
)
from penstock.selectors.reweighting.planned import PlannedReweighter

BATCH = ScoredBatch(
    losses=np.array([1.0, 2, 4]),
    moment=TrainingProgress(step=7, tokens=70, budget=100),
    features=None,
)


def spec(**keys: object) -> ReweightSpec:
    return ReweightSpec.model_validate(keys)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Writes a module of a name of its own; gives the name."""
    name = "reweighting_" + "".join(c for c in request.node.name if c.isalnum())
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(body: str) -> str:
        (tmp_path / f"{name}.py").write_text(body)
        return name

    yield write
    sys.modules.pop(name, None)


def test_built_in_reweighters_are_listed_and_built() -> None:
    found = {item.name: item for item in available()}
    assert {found[name].kind for name in ("loss", "uds")} == {"reweighter"}
    assert found["loss"].parameters["temperature"] == 0.4 and "Sow" in found["loss"].paper
    made = build_reweighter(spec(use="loss", strategy="extremes", temperature=1))
    assert isinstance(made, LossReweighter) and made.strategy == "extremes"
    assert isinstance(build_reweighter(spec(use="uds")), Uds)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"use": "los"}, "use: expected a reweighter .*'los'; did you mean 'loss'"),
        ({"use": "betr"}, "use: 'betr' is a selector"),
        ({"use": "loss", "temprature": 1}, "temprature: unknown .*did you mean 'temperature'"),
        ({"use": "loss", "warmup": 3}, "warmup: expected a share"),
        ({"use": "uds", "sample": "document"}, "sample: expected sequence"),
        ({"use": "gone_module:reweight"}, "use: no module 'gone_module'"),
        ({"use": "penstock.selectors.betr:Betr"}, "use: expected a Reweighter .*the class Betr"),
    ],
)
def test_a_wrong_name_or_value_is_named_by_its_key(keys: dict, message: str) -> None:
    with pytest.raises(SelectorError, match=rf"^train\.reweight\.{message}"):
        build_reweighter(spec(**keys))


def test_a_reweighter_is_no_selector() -> None:
    from penstock.recipe import SelectorSpec
    from penstock.selectors.registry import build

    with pytest.raises(SelectorError) as info:
        build("x", SelectorSpec(use="loss"))
    assert info.value.key == "select.x.use" and "train.reweight" in str(info.value.fix)


def test_a_function_beside_the_recipe(tmp_path: Path, beside) -> None:
    name = beside("def reweight(losses, power=1):\n    return [one**power for one in losses]\n")
    planned = PlannedReweighter(spec(use=f"{name}:reweight", power=2), [tmp_path])
    made = pickle.loads(pickle.dumps(planned))()
    assert made.requirements.describe is None
    found = checked_weights(made.weights(BATCH), BATCH, "reweight")
    np.testing.assert_allclose(found, np.array([1, 4, 16]) / 21)
    with pytest.raises(SelectorError) as info:
        PlannedReweighter(spec(use=f"{name}:reweight", pow=2), [tmp_path])
    assert info.value.key == "train.reweight.pow"


CLASS = """
import numpy as np
class Mine:
    'Mine.'
    summary, paper, version = 'mine', 'none', 1
    def __init__(self, *, gain=1.0): self.gain, self.seen = gain, 0
    def identity(self): return {'gain': self.gain}
    def is_uniform(self, moment): return False
    def weights(self, batch):
        self.seen += 1
        return batch.losses * self.gain
    def facts(self, moment): return {'seen': self.seen}
    def state(self): return {'seen': np.array(self.seen)}
    def restore(self, state): self.seen = int(state['seen'])
"""


def test_a_class_beside_the_recipe_is_new_for_each_run(tmp_path: Path, beside) -> None:
    name = beside(CLASS)
    planned = PlannedReweighter(spec(use=f"{name}:Mine", gain=2.0), [tmp_path])
    first, second = planned(), planned()
    first.weights(BATCH)
    assert (first.facts(BATCH.moment), second.facts(BATCH.moment)) == ({"seen": 1}, {"seen": 0})
    assert planned.identity["parameters"] == {"gain": 2.0} and planned.identity["code"]


def test_other_code_on_a_worker_is_refused(tmp_path: Path, beside) -> None:
    name = beside(CLASS)
    planned = PlannedReweighter(spec(use=f"{name}:Mine"), [tmp_path])
    before = planned.identity
    beside(CLASS + "changed = 1\n")
    with pytest.raises(ScoringError, match=f"{name}:Mine: this worker's code"):
        planned()
    assert PlannedReweighter(spec(use=f"{name}:Mine"), [tmp_path]).identity != before


def test_identity_holds_parameters_and_code() -> None:
    plain = PlannedReweighter(spec(use="loss")).identity
    assert plain == PlannedReweighter(spec(use="loss", temperature=0.4)).identity
    others = [spec(use="loss", temperature=1), spec(use="loss", sample="document"), spec(use="uds")]
    assert all(PlannedReweighter(other).identity != plain for other in others)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1, 2], "expected 3 weights, one for each sample, got 2"),
        (5.0, r"got an array of shape \(\)"),
        ([[1, 2, 3]], r"got an array of shape \(1, 3\)"),
        ([1, float("nan"), 1], "got nan for sample 1, whose loss is 2"),
        ([1, 1, float("inf")], "got inf for sample 2"),
        ([-0.5, 1, 1], "got -0.5 for sample 0, whose loss is 1"),
        ([0, 0, 0], "positive sum, got 0"),
        (["a", "b", "c"], "expected 3 numbers, got something else"),
        (None, "got"),
    ],
)
def test_bad_weights_are_refused_by_key_and_step(returned: object, message: str) -> None:
    with pytest.raises(ScoringError, match=rf"^train\.reweight: step 7: mine:f: .*{message}"):
        checked_weights(returned, BATCH, "mine:f")


def test_a_function_that_raises_is_named(tmp_path: Path, beside) -> None:
    name = beside("def reweight(losses):\n    return 1 / 0\n")
    made = build_reweighter(spec(use=f"{name}:reweight"), [tmp_path])
    with pytest.raises(ScoringError, match=f"{name}:reweight raised ZeroDivisionError"):
        made.weights(BATCH)


def test_weights_of_any_scale_are_shares() -> None:
    np.testing.assert_allclose(checked_weights([2, 0, 6], BATCH, "f"), [0.25, 0, 0.75])
