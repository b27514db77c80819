"""The code behind a plug-in is part of what its columns are named by, and is the code that ran."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock
from penstock.errors import ScoringError, SelectorError, UnmadeError
from penstock.jobs.curate import PartiallyCurated
from penstock.jobs.plan import TrainSettings
from penstock.jobs.sample import Sample, sample_documents
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.rewriting.edits import Edit
from penstock.plugin_code import PluginCode, absent_packages, code_notes, code_of, describe_code
from penstock.recipe import ReweightSpec, RewriteSpec, SelectorSpec, Train
from penstock.selectors.functions import FunctionScorer
from penstock.selectors.registry import build, build_rewriter, built_in
from penstock.selectors.reweighting.planned import PlannedReweighter
from tests.pools import documents, write_jsonl

ROOT = Path(__file__).resolve().parents[1]

FILES = {
    "code_scorer.py": """
import numpy as np
from code_helper import factor
from code_base import Base
from code_stars import *
try:
    import code_optional
except ImportError:
    code_optional = None

def score(texts):
    from code_package.deep import shift  # when it is called, in a worker
    return [len(text) * factor + shift for text in texts]

class Mine(Base):
    def score(self, documents):
        return np.full(len(documents), factor, np.float32)

class Other(Base):
    pass
""",
    "code_helper.py": "factor = 2\n",
    "code_stars.py": "unused = 1\n",
    "code_base.py": "class Base:\n    def score(self, documents): return [0.0] * len(documents)\n",
    "code_package/__init__.py": "",
    "code_package/deep.py": "from . import values\nfrom .values import shift\n",
    "code_package/values.py": "shift = 1\n",
    "code_unrelated.py": "x = 1\n",
    "code_editor.py": """
from code_helper import factor
class Upper:
    version, replaces = 1, True
    def identity(self): return {}
    def edit(self, texts): return texts
class Asks:
    version, replaces = 1, False
    def identity(self): return {}
    def requests(self, document): return []
    def assemble(self, document, answers): return None
def reweight(losses): return losses * factor
""",
}

MODULES = [
    "code_base", "code_helper", "code_package", "code_package.deep", "code_package.values",
    "code_scorer", "code_stars",
]  # fmt: skip


@pytest.fixture(autouse=True)
def undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("penstock.own_modules._served", {})
    monkeypatch.setattr("penstock.own_sources._sources", {})
    yield
    for name in set(sys.modules) - before:
        if name.startswith("code_"):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def identity(project: Path, use: str = "code_scorer:Mine") -> dict[str, Any]:
    return dict(build("x", SelectorSpec(use=use), [project]).identity())


@pytest.mark.parametrize("use", ["code_scorer:Mine", "code_scorer:score"])
def test_the_identity_has_the_local_modules_and_the_packages(project: Path, use: str) -> None:
    code = identity(project, use)["code"]
    assert [name for name, _ in code["modules"]] == MODULES
    assert code["packages"] == [["code_optional", "not installed"], ["numpy", np.__version__]]
    assert set(code) == {"modules", "packages"}
    assert all(len(digest) == 64 for _, digest in code["modules"])


@pytest.mark.parametrize("use", ["code_scorer:Mine", "code_scorer:score", "code_editor:reweight"])
@pytest.mark.parametrize(
    ("file", "text", "uses"),
    [
        ("code_scorer.py", FILES["code_scorer.py"] + "more = 1\n", "scorer"),
        ("code_helper.py", "factor = 3\n", "all"),
        ("code_base.py", FILES["code_base.py"].replace("0.0", "1.0"), "scorer"),
        ("code_package/values.py", "shift = 2\n", "scorer"),
        ("code_package/__init__.py", "x = 1\n", "scorer"),
        ("code_optional.py", "x = 1\n", "scorer"),
        ("code_stars.py", "unused = 2\n", "scorer"),
        ("code_unrelated.py", "x = 2\n", "none"),
        ("code_helper.py", "# A comment.\nfactor = (\n    2  # two\n)\n", "none"),
        ("code_package/deep.py", "\nfrom . import (values)\nfrom .values import (shift,)", "none"),
    ],
)
def test_an_edit_gives_another_identity_and_a_comment_does_not(
    project: Path, use: str, file: str, text: str, uses: str
) -> None:
    def found() -> Any:
        if use.endswith("reweight"):
            return PlannedReweighter(ReweightSpec(use=use), [project]).identity
        return identity(project, use)

    before = found()
    (project / file).write_text(text)
    expected = uses == "all" or (uses == "scorer" and "scorer" in use)
    assert (found() != before) == expected


@pytest.mark.parametrize("one", ["1", "1.0", "True", "'1'", "b'1'"])
def test_constants_that_are_equal_or_look_alike_differ(project: Path, one: str) -> None:
    before = identity(project)
    others = {"1", "1.0", "True", "'1'", "b'1'"} - {one}
    (project / "code_helper.py").write_text(f"factor = {one}\n")
    mine = identity(project)
    for other in others:
        (project / "code_helper.py").write_text(f"factor = {other}\n")
        assert identity(project) not in (mine, before)


def test_a_long_expression_has_an_identity(project: Path) -> None:
    (project / "code_helper.py").write_text("factor = " + " + ".join(["1"] * 900) + "\n")
    before = identity(project)
    (project / "code_helper.py").write_text("factor = " + " + ".join(["1"] * 899 + ["2"]) + "\n")
    assert identity(project) != before


def test_an_edited_helper_is_imported_again_with_its_identity(project: Path) -> None:
    """As in a notebook: one process, a file is edited between two runs."""
    one = FunctionScorer("code_scorer:score", [project])
    assert one.called(["abc"]) == [7]
    (project / "code_helper.py").write_text("factor = 5\n")
    two = FunctionScorer("code_scorer:score", [project])
    assert two.called(["abc"]) == [16]
    assert two.identity() != one.identity()


def test_two_recipes_of_one_process_have_each_its_own_helper(project: Path) -> None:
    other = project / "other"
    other.mkdir()
    for name in ("code_scorer.py", "code_base.py", "code_stars.py"):
        (other / name).write_text(FILES[name])
    (other / "code_package").symlink_to(project / "code_package")
    (other / "code_helper.py").write_text("factor = 3\n")
    one = FunctionScorer("code_scorer:score", [project])
    two = FunctionScorer("code_scorer:score", [other])
    assert (one.called(["abc"]), two.called(["abc"])) == ([7], [10])
    again = FunctionScorer("code_scorer:score", [project])
    assert again.called(["abc"]) == [7]
    assert again.identity() == one.identity() != two.identity()


def test_an_unchanged_module_is_imported_once(project: Path) -> None:
    """Instances of two of its classes can be sent to workers together."""
    uses = ["code_scorer:Mine", "code_scorer:Other"]
    built = [build("x", SelectorSpec(use=use), [project]) for use in uses]
    assert [one.identity() for one in pickle.loads(pickle.dumps(built))] == [
        one.identity() for one in built
    ]


def test_an_edit_within_a_second_is_seen_behind_compiled_code(project: Path) -> None:
    """Python itself takes the compiled code of a file of the same size and second for current."""
    script = (
        "import sys; from penstock.selectors.functions import FunctionScorer\n"
        "one = FunctionScorer('code_scorer:score', [sys.argv[1]])\n"
        "print(one.called(['abc'])[0], dict(one.code.modules)['code_helper'])"
    )
    found = []
    helper = project / "code_helper.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for factor in (2, 3):
        helper.write_text(f"factor = {factor}\n")
        os.utime(helper, (1_700_000_000, 1_700_000_000))
        subprocess.run([sys.executable, "-c", "import code_helper"], cwd=project, check=True)
        run = [sys.executable, "-c", script, str(project)]
        found.append(subprocess.check_output(run, env=environment, text=True).split())
    (first, was), (second, now) = found
    assert (first, second, was != now) == ("7", "10", True)


def test_a_module_edited_after_python_imported_it_is_refused(project: Path) -> None:
    sys.path.insert(0, str(project))
    importlib.import_module("code_helper")
    before = code_of(importlib.import_module("code_base").Base)
    (project / "code_base.py").write_text("class Base: pass\n")
    with pytest.raises(SelectorError) as caught:
        code_of(sys.modules["code_base"].Base)
    assert (caught.value.key, caught.value.file) == ("use", str(project / "code_base.py"))
    assert before.modules.keys() == {"code_base"}


@pytest.mark.parametrize("use", ["code_scorer:Mine", "code_scorer:score"])
def test_a_worker_with_other_code_is_refused(project: Path, use: str) -> None:
    built = build("x", SelectorSpec(use=use), [project])
    sent = pickle.dumps(built)
    assert pickle.loads(sent).identity() == built.identity()
    (project / "code_helper.py").write_text("factor = 4\n")
    build("x", SelectorSpec(use=use), [project])  # this process is now a worker with other code
    with pytest.raises(ScoringError, match="module code_helper is not the one"):
        pickle.loads(sent)


def test_a_worker_with_other_packages_is_refused() -> None:
    code = PluginCode(("tests.pools",), code_of(documents).modules, {"numpy": "1.0"})
    with pytest.raises(ScoringError) as caught:
        code.check()
    assert (caught.value.expected, caught.value.got) == ("1.0", np.__version__)


@pytest.mark.parametrize("name", ["Upper", "Asks"])
def test_the_code_of_a_rewriter_is_part_of_its_identity(project: Path, name: str) -> None:
    def found() -> Edit | Rewrite:
        by: Any = {"url": "http://127.0.0.1:1", "model": "m"} if name == "Asks" else "none"
        spec = RewriteSpec(use=f"code_editor:{name}", by=by)
        rewriter, completions = build_rewriter("x", spec, [project])
        own: Any = {"name": "x", "rewriter": rewriter, "share": 1.0, "seed": 0}
        return Rewrite(**own, completions=completions) if completions else Edit(**own)

    before = found()
    assert [pair[0] for pair in before.identity()["code"]["modules"]] == [
        "code_editor",
        "code_helper",
    ]
    sent = pickle.dumps(before)
    assert pickle.loads(sent).identity() == before.identity()
    (project / "code_helper.py").write_text("factor = 3\n")
    assert found().identity() != before.identity()
    with pytest.raises(ScoringError, match="code_helper"):
        pickle.loads(sent)


def test_code_of_penstocks_own_is_left_to_its_versions() -> None:
    own = Edit(name="x", rewriter=built_in("rewriter")["mask"](), share=1.0, seed=0)
    assert (own.code, "code" in own.identity()) == (PluginCode(()), False)


@pytest.mark.parametrize("first", [True, False])
def test_a_module_named_as_one_of_pythons_counts_by_its_file(project: Path, first: bool) -> None:
    """A directory of PYTHONPATH comes before Python's own library, a recipe's behind it."""
    (project / "wave.py").write_text("factor = 2\n")
    (project / "code_helper.py").write_text("import wave\nfactor = getattr(wave, 'factor', 5)\n")
    if first:
        sys.path.insert(0, str(project))
    before = sys.modules.pop("wave", None)
    try:
        built = FunctionScorer("code_scorer:score", [project])
        assert built.called(["abc"]) == [7 if first else 16]
        assert ("wave" in built.code.modules) == first
        assert not {"os", "sys", "importlib", "numpy"} & built.code.modules.keys()
    finally:
        del sys.modules["wave"]
        if before is not None:
            sys.modules["wave"] = before


def test_a_package_that_is_imported_in_a_function_and_absent_is_named(project: Path) -> None:
    """But not ``code_optional``, which is imported within ``try``."""
    (project / "code_helper.py").write_text("factor = 2\ndef f(): import code_absent.deep\n")
    assert absent_packages(FunctionScorer("code_scorer:score", [project]).code) == ["code_absent"]


def test_dynamic_imports_are_named(project: Path) -> None:
    (project / "code_helper.py").write_text(
        "import importlib, re\nfrom importlib import import_module\n"
        "factor = importlib.import_module('math').floor(2.5)\n"
        "def f(model):\n    model.eval(), re.compile('x')\n"
        "    exec('x = 1')\n    __import__('os')\n"
    )
    found = identity(project)
    assert found["code"]["uncovered"] == [
        "code_helper: __import__", "code_helper: exec", "code_helper: import_module",
    ]  # fmt: skip
    first, *others = code_notes("select.x", found, kept=True)
    assert describe_code(found["code"]) in first and len(others) == 3


RECIPE = """
corpus: [{path: pool.jsonl}]
work: work
clean: {rules: {mine: {use: "code_scorer:drop"}}}
rewrite: {up: {use: "code_editor:Upper", by: none}}
select: {x: {use: "code_scorer:Mine"}, y: {use: "code_scorer:score"}}
budget: {tokens: 2000, rank: {x: 1, y: 1}}
tokenizer: {train: {vocab_size: 320}}
shards: {sequence_length: 32}
"""


@pytest.mark.slow
def test_what_is_not_made_yet_after_an_edit_names_the_modules(project: Path) -> None:
    write_jsonl(project / "pool.jsonl", documents(150))
    (project / "recipe.yaml").write_text(RECIPE)
    recipe, without = project / "recipe.yaml", ["clean.rules={}", "rewrite={}"]
    penstock.curate(recipe, settings=without, workers=1)
    (project / "code_helper.py").write_text("factor = 3\n")
    opened = penstock.open(recipe, settings=without)
    with pytest.raises(UnmadeError, match=r"select\.x: .* code_helper "):
        opened.documents()
    assert isinstance(opened, PartiallyCurated)
    with pytest.raises(UnmadeError, match=r"select\.x: .* code_helper "):
        sample_documents(opened, 3, Sample(near_cut=True))


@pytest.mark.parametrize("use", ["code_editor:reweight", "loss"])
def test_a_training_names_the_code_of_its_reweighter(project: Path, use: str) -> None:
    strategy = {"strategy": "linupper"} if use == "loss" else {}
    planned = PlannedReweighter(ReweightSpec(use=use, **strategy), [project])
    found = TrainSettings(train=Train(), seed=0, reweighter=planned).code_lines()
    expected = [] if use == "loss" else ["train.reweight: made by code_editor, code_helper"]
    assert [line.partition(" (code ")[0] for line in found] == expected
    assert TrainSettings(train=Train(), seed=0, reweighter=None).code_lines() == []


@pytest.mark.slow
def test_an_edited_helper_scores_again_and_a_comment_keeps_the_columns(project: Path) -> None:
    (project / "recipe.yaml").write_text(RECIPE)
    scorer = project / "code_scorer.py"
    scorer.write_text(scorer.read_text() + "def drop(texts): return [factor > 9] * len(texts)\n")
    write_jsonl(project / "pool.jsonl", documents(150))

    def curate() -> tuple[dict[str, str], list[str]]:
        lines: list[str] = []
        curated = penstock.curate(project / "recipe.yaml", progress=lines.append, workers=1)
        return {name: one.fingerprint for name, one in curated.columns.items()}, lines

    first, lines = curate()
    assert not any("kept, made by" in line for line in lines)
    (project / "code_helper.py").write_text("# Two.\nfactor = 2\n")
    second, lines = curate()
    assert second == first
    kept = [line.partition(": ")[0] for line in lines if "kept, made by" in line]
    assert kept == ["clean.rules.mine", "rewrite.up", "clean.rules.mine", "select.x", "select.y"]
    (project / "code_helper.py").write_text("factor = 3\n")
    with pytest.raises(UnmadeError, match=r"clean\.rules\.mine: .* code_helper "):
        penstock.open(project / "recipe.yaml")
    third, lines = curate()
    changed = [line.partition(":")[0] for line in lines if ": the code of code_helper " in line]
    assert changed == ["clean.rules.mine", "rewrite.up", "select.x", "select.y"]
    assert not third.keys() ^ first.keys() and not set(third.values()) & set(first.values())
    assert not any("kept, made by" in line for line in lines)
    curated = penstock.open(project / "recipe.yaml")
    assert curated.columns["x"].facts["code"].startswith("code_base, code_helper, ")
