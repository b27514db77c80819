"""Plug-ins of less than a whole protocol, and of the attributes of Penstock 0.1, in the engine."""

from __future__ import annotations

import pickle
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.artefact import Workspace
from penstock.errors import ScoringError, SelectorError
from penstock.jobs.build import build_columns
from penstock.jobs.held_out import OutsideSample
from penstock.pipeline.columns import make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.rewriting.edits import Edit
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.models import Models
from penstock.pipeline.units import iter_documents
from penstock.recipe import ReweightSpec, RewriteSpec, SelectorSpec
from penstock.recipe_file import parse_recipe
from penstock.resources import Resources
from penstock.selectors.adapter import as_reweighter, as_rewriter, as_selector
from penstock.selectors.base import Fitting, Requirements
from penstock.selectors.functions import load_object
from penstock.selectors.registry import build, build_reweighter, build_rewriter
from penstock.selectors.reweighting.base import ScoredBatch, TrainingProgress
from penstock.storage import sha256_file
from tests.pools import pool_of, write_jsonl
from tests.selectors.test_properties import texts, write_encoder

FORMER = '''
import json
from pathlib import Path

import numpy as np
from penstock.resources import Resources


class Near:
    """A scorer with the attributes of Penstock 0.1."""

    summary, paper, version = "near", "none", 3
    wants_target = True
    needs = Resources(cpus=2)
    paths = ("words",)

    def __init__(self, *, words, weight=1.0):
        self.words, self.weight = words, weight
        self.wanted = set()

    def identity(self):
        return {"weight": self.weight}

    def fit(self, fitting):
        self.wanted = set(Path(self.words).read_text().split())
        self.wanted |= {word for one in fitting.target for word in one.text.split()}
        return {"words": len(self.wanted)}

    def score(self, documents):
        texts = documents.column("text").to_pylist()
        found = [sum(text.count(word) for word in self.wanted) for text in texts]
        return np.array(found, np.float32) * self.weight

    def save(self, directory):
        (directory / "words.json").write_text(json.dumps(sorted(self.wanted)))

    def load(self, directory):
        self.wanted = set(json.loads((directory / "words.json").read_text()))


class Spread:
    """A set selector that calls its assignment ``place`` and merges."""

    summary, paper, version = "spread", "none", 1

    def __init__(self, *, encoder, quality=None):
        self.encoder, self.quality, self.partitions = encoder, quality, 3

    def identity(self):
        return {"quality": self.quality}

    def fit(self, fitting):
        return {}

    def place(self, vectors, hashes):
        return (hashes % np.uint64(3)).astype(np.int64)

    def score(self, partition):
        return partition.quality.copy()

    def candidates(self, partition, scores):
        return np.flatnonzero(scores == scores.max())

    def merge(self, candidates, scores):
        return scores + 1000

    def save(self, directory):
        pass

    def load(self, directory):
        pass


class Least:
    """A class with a score and nothing else."""

    def score(self, documents):
        return [float(len(text)) for text in documents.column("text").to_pylist()]
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_jsonl(tmp_path / "pool" / "a.jsonl", texts(90))
    write_jsonl(tmp_path / "target.jsonl", [{"text": "leaf water"}])
    (tmp_path / "extra.txt").write_text("gravity")
    write_encoder(tmp_path / "encoder")
    (tmp_path / "former_plug_ins.py").write_text(FORMER)
    yield tmp_path
    sys.modules.pop("former_plug_ins", None)


def test_classes_of_the_former_protocols_make_columns(project: Path) -> None:
    recipe = parse_recipe(
        {
            "work": "work",
            "corpus": [{"path": "pool"}],
            "select": {
                "near": {
                    "use": "former_plug_ins:Near",
                    "target": "target.jsonl",
                    "words": "./extra.txt",
                    "weight": 2.0,
                },
                "spread": {
                    "use": "former_plug_ins:Spread",
                    "encoder": str(project / "encoder"),
                    "quality": "least",
                },
                "least": {"use": "former_plug_ins:Least"},
            },
            "budget": {"tokens": 400, "rank": {"near": 0.5, "spread": 0.5}},
            "tokenizer": {"train": {"vocab_size": 320}},
        },
        project,
    )
    columns = build_columns(recipe)
    assert [column.name for column in columns] == ["near", "least", "spread"]
    near, least, spread = (column.selector for column in columns)
    assert near.requirements == Requirements(target=True, resources=Resources(cpus=2))
    assert least.requirements == Requirements()
    assert (spread.kind, spread.requirements.quality) == ("set", "least")
    assert spread.requirements.merge is not None
    with closing(LocalRunner(2)) as runner:
        workspace = Workspace(project / "work")
        pool = pool_of(recipe, workspace, runner)
        models = Models(pool=pool, workspace=workspace, runner=runner, seed=recipe.seed)
        made = make_columns(columns, models)
    scores = {
        name: np.concatenate([read_scores(one.path, record) for record in one.files])
        for name, one in made.items()
    }
    known = [
        text
        for unit in pool.units
        for batch in iter_documents(unit)
        for text in batch["text"].to_pylist()
    ]
    words = {"leaf", "water", "gravity"}
    expected = [2 * sum(text.count(word) for word in words) for text in known]
    assert scores["near"].tolist() == expected and max(expected) > 0
    lengths = np.array([len(text) for text in known], np.float32)
    np.testing.assert_array_equal(scores["least"], lengths)
    known = ~np.isnan(scores["spread"])
    raised = scores["spread"][known] - lengths[known]
    assert set(raised.tolist()) == {0.0, 1000.0}, "the best of each partition were merged"


def test_a_changed_file_is_another_selector(project: Path) -> None:
    spec = SelectorSpec(use="former_plug_ins:Least")
    before = build("x", spec, [project])
    assert pickle.loads(pickle.dumps(before)).identity() == before.identity()
    assert before.identity()["class"] == "Least"
    (project / "former_plug_ins.py").write_text(FORMER + "changed = 1\n")
    sys.modules.pop("former_plug_ins")
    assert build("x", spec, [project]).identity() != before.identity()


def test_a_missing_target_of_a_former_plug_in_is_refused(project: Path) -> None:
    tree = {
        "corpus": [{"path": "pool"}],
        "select": {"near": {"use": "former_plug_ins:Near", "words": "./extra.txt"}},
        "budget": {"tokens": 400, "rank": "near"},
    }
    with pytest.raises(SelectorError) as info:
        build_columns(parse_recipe(tree, project))
    assert "select.near.target" in str(info.value)


class WithRequirements:
    """A plug-in of the present form: requirements, and only the methods it needs."""

    @property
    def requirements(self) -> Requirements:
        return Requirements(quality="length", resources=Resources(gpus=1))

    def score(self, documents: pa.RecordBatch) -> np.ndarray:
        return np.zeros(len(documents), np.float32)


def test_requirements_of_a_plug_in_are_taken_whole() -> None:
    selector = as_selector(WithRequirements())
    assert selector.requirements == WithRequirements().requirements
    assert selector.version == 1 and selector.identity()["class"] == "WithRequirements"


@pytest.mark.parametrize("adapt", [as_selector, as_rewriter, as_reweighter])
def test_an_object_without_the_needed_methods_is_refused(adapt: Any) -> None:
    with pytest.raises(SelectorError) as info:
        adapt(object())
    assert info.value.key == "use"


REWRITERS = """
class Edits:
    paths = "words"
    def __init__(self, *, words, gamma=0.5): self.words = words
    def edit(self, texts): return texts

class Asks:
    def requests(self, document): return []
    def assemble(self, document, answers): return None

class Whole(Asks):
    version, replaces = 3, True
    def identity(self): return {"own": 1}
"""


def test_what_a_rewriter_lacks_has_a_default(tmp_path: Path) -> None:
    (tmp_path / "adapted_rewriters.py").write_text(REWRITERS)
    (tmp_path / "a.txt").write_text("a")
    by: Any = {"url": "http://127.0.0.1:1", "model": "m"}

    def built(name: str, by: Any, **parameters: Any) -> Any:
        spec = RewriteSpec(use=f"adapted_rewriters:{name}", by=by, **parameters)
        rewriter, _ = build_rewriter("x", spec, [tmp_path])
        sent = pickle.loads(pickle.dumps(rewriter))
        assert sent.identity() == rewriter.identity()
        return sent

    edits = built("Edits", "none", words="./a.txt", gamma=0.25)
    assert (edits.version, edits.replaces) == (1, True)
    before = edits.identity()
    assert before == {"words": sha256_file(tmp_path / "a.txt"), "gamma": 0.25}
    edit = Edit(name="x", rewriter=edits, share=1.0, seed=0)
    identity = edit.identity()
    assert identity["rewriter"] == "Edits"
    assert [name for name, _ in identity["code"]["modules"]] == ["adapted_rewriters"]
    (tmp_path / "a.txt").write_text("b")
    assert built("Edits", "none", words="./a.txt", gamma=0.25).identity() != before
    asks, whole = built("Asks", by), built("Whole", by)
    assert (asks.version, asks.replaces, asks.identity()) == (1, False, {})
    assert (whole.version, whole.replaces, whole.identity()) == (3, True, {"own": 1})
    assert type(whole).__name__ == "Whole"


PARAMETERS = """
class Plain:
    paths = ("words", "several")

    def __init__(self, *, gamma=0.5, words=None, several=()):
        self.gamma, self.words, self.several = gamma, words, several

    def score(self, documents):
        return [self.gamma] * len(documents)
"""


def test_a_fit_without_save_and_load_is_refused_for_a_plain_class_too() -> None:
    """It failed late, in a worker, by an attribute that was never set."""

    class Fits:
        def fit(self, fitting: Fitting) -> None:
            self.mean = 1.0

        def save(self, directory: Path) -> None: ...

        def score(self, documents: Any) -> list[float]:
            return [self.mean] * len(documents)

    with pytest.raises(SelectorError) as caught:
        as_selector(Fits())
    assert caught.value.key == "use" and "no load" in caught.value.problem
    assert "no save" not in caught.value.problem


def test_errors_of_a_class_name_it_and_its_line(tmp_path: Path) -> None:
    (tmp_path / "tgt_own.py").write_text(
        "class Near:\n    def fit(self, fitting):\n        return 1 / 0\n"
        "    def save(self, directory): ...\n    def load(self, directory): ...\n"
        "    def score(self, documents):\n        import not_there_at_all\n"
    )
    near = build("near", SelectorSpec(use="tgt_own:Near"), [tmp_path])
    for call, line in ((near.fit, 3), (near.score, 7)):
        with pytest.raises(ScoringError) as caught:
            call(None)  # type: ignore[arg-type]
        assert caught.value.problem.startswith("tgt_own:Near raised ")
        assert f"tgt_own.py:{line} in " in caught.value.problem
    assert "not_there_at_all" in str(caught.value.fix)


def test_parameters_of_a_plug_in_without_an_identity_are_in_its_identity(project: Path) -> None:
    (project / "former_plug_ins.py").write_text(PARAMETERS)
    elsewhere = project / "elsewhere"
    (elsewhere / "model").mkdir(parents=True)
    (elsewhere / "extra.txt").write_text("gravity")
    (elsewhere / "model" / "table").write_text("1")

    def identity(directory: Path, **parameters: Any) -> Any:
        spec = SelectorSpec.model_validate({"use": "former_plug_ins:Plain", **parameters})
        return build("x", spec, [directory, project]).identity()

    assert identity(project, gamma=1) != identity(project, gamma=2)
    before = identity(project, words="./extra.txt", several=["./extra.txt", "name"])
    assert str(project) not in str(before)
    assert identity(elsewhere, words="./extra.txt", several=["./extra.txt", "name"]) == before
    (project / "extra.txt").write_text("leaf")
    assert identity(project, words="./extra.txt", several=["./extra.txt", "name"]) != before
    model = identity(elsewhere, words="./model")
    assert str(project) not in str(model)
    assert identity(elsewhere, words="./model@3") != model, "a layer counts"
    (elsewhere / "model" / "table").write_text("2")
    assert identity(elsewhere, words="./model") != model


OLD_IMPORTS = """
import numpy as np
from penstock.hashing import hash_ids, mix
from penstock.resources import Resources
from penstock.selectors.reweighting import Moment
from penstock.selectors.reweighting.base import Moment as SameMoment


class Old:
    summary, paper, version = "old", "none", "2024-05"
    needs = Resources(cpus=3)
    embeds = True

    def identity(self):
        return {}

    def fit(self, fitting):
        fitting.note("fitting")
        return {}

    def score(self, documents):
        return np.zeros(len(documents), np.float32)

    def save(self, directory):
        pass

    def load(self, directory):
        pass


class OldReweighter:
    __slots__ = ()
    version = 1

    def identity(self):
        return {"old": True}

    def is_uniform(self, moment: Moment):
        return moment.step > 3

    def weights(self, batch):
        return np.ones(len(batch.losses))

    def facts(self, moment):
        return {"step": moment.step}

    def state(self):
        return {}

    def restore(self, state):
        assert state == {}


class OldDescriber(OldReweighter):
    __slots__ = ()

    def describe(self, samples, head):
        return samples
"""


def test_a_plug_in_with_the_imports_of_the_former_release(project: Path) -> None:
    (project / "former_plug_ins.py").write_text(OLD_IMPORTS)
    old = build("x", SelectorSpec(use="former_plug_ins:Old"), [project])
    assert old.requirements == Requirements(resources=Resources(cpus=3))
    assert old.version == "2024-05"
    lines: list[str] = []
    old.fit(Fitting(sample=lambda n: pa.table({}), pool_size=0, progress=lines.append))
    assert lines == ["fitting"]


def test_reweighters_of_the_former_release_are_wrapped(project: Path) -> None:
    (project / "former_plug_ins.py").write_text(OLD_IMPORTS)
    spec = ReweightSpec.model_validate({"use": "former_plug_ins:OldReweighter"})
    made = build_reweighter(spec, [project])
    assert made.requirements.describe is None
    assert made.identity() == {"old": True} and made.version == 1
    moment = TrainingProgress(step=4, tokens=0, budget=9)
    assert made.is_uniform(moment) and made.facts(moment) == {"step": 4}
    batch = ScoredBatch(losses=np.zeros(2), moment=moment)
    assert made.weights(batch).tolist() == [1, 1]
    made.restore(made.state())
    describer = load_object("former_plug_ins:OldDescriber", [project])
    assert callable(as_reweighter(describer()).requirements.describe)


def test_built_in_is_known_by_its_base() -> None:
    helper = OutsideSample(sample=9, part=1, parts=2)
    assert as_selector(helper) is helper
    assert (helper.kind, helper.requirements) == ("scorer", Requirements())
    assert OutsideSample(sample=9).identity() == {"sample": 9}
    assert helper.identity() == {"sample": 9, "part": 1, "parts": 2}
    least = type("Least", (), {"score": lambda self, documents: [], "__module__": "penstock.x"})
    assert as_selector(least()).requirements == Requirements()
