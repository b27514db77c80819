"""A plain function as a scorer: found, imported without harm, called, converted."""

from __future__ import annotations

import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock import own_modules
from penstock.errors import ScoringError, SelectorError
from penstock.pipeline.checking import call_on_documents
from penstock.selectors.base import Documents
from penstock.selectors.functions import FunctionScorer


def documents(*texts: str) -> Documents:
    return pa.record_batch(
        {
            "id": [f"doc-{index}" for index in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "source": ["web"] * len(texts),
        }
    )


@pytest.fixture
def scorer_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Writes a module of a name of its own and gives the scorer of its ``score``."""
    name = "plugin_" + "".join(c for c in request.node.name if c.isalnum())
    monkeypatch.setattr(sys, "path", list(sys.path))

    def make(body: str, **parameters: object) -> FunctionScorer:
        (tmp_path / f"{name}.py").write_text(body)
        return FunctionScorer(f"{name}:score", [tmp_path], parameters)

    yield make
    sys.modules.pop(name, None)


def test_scores_are_float32_and_those_that_are_none_are_nan(scorer_of) -> None:
    scorer = scorer_of(
        "def score(texts):\n"
        "    return [len(texts[0]), None, float('inf'), float('-inf'), float('nan'), 1e300]\n"
    )
    assert scorer.kind == "scorer"
    scores = scorer.score(documents("abc", "", "", "", "", ""))
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [3, np.nan, np.inf, -np.inf, np.nan, np.inf])


@pytest.mark.parametrize(
    "returned",
    ["np.array([1, 2])", "np.array([1, 2], np.float16)", "(n for n in (1, 2))", "[True, 2.0]",
     "torch.tensor([1.0, 2.0])", "[np.float64(1), np.int8(2)]"],
)  # fmt: skip
def test_any_sequence_of_numbers_will_do(scorer_of, returned: str) -> None:
    scorer = scorer_of(
        f"import numpy as np\nimport torch\ndef score(texts):\n    return {returned}\n"
    )
    np.testing.assert_array_equal(scorer.score(documents("a", "b")), np.float32([1, 2]))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0]", "expected 2 scores, one for each text, got 1"),
        ("[[1.0], [2.0]]", r"got \[1.0\] for document doc-0"),
        ("__import__('numpy').ones((2, 1))", r"got an array of shape \(2, 1\)"),
        ("7.0", "got float"),
        ("None", "got NoneType"),
        ("'12'", "got str"),
        ("['1', '2']", "got '1' for document doc-0"),
        ("__import__('numpy').array(['1', '2'], object)", "texts in place of numbers"),
        ("[1.0, object()]", "got <object .* for document doc-1"),
        ("[1.0, {'score': 2.0}]", "got {'score': 2.0} for document doc-1"),
        ("__import__('numpy').array([1 + 2j, 0j])", "got something else"),
    ],
)
def test_anything_but_one_number_a_text_is_refused(scorer_of, returned: str, message) -> None:
    scorer = scorer_of(f"def score(texts):\n    return {returned}\n")
    with pytest.raises(ScoringError, match=message):
        scorer.score(documents("a", "b"))


def test_an_exception_names_the_function_and_the_error(scorer_of) -> None:
    scorer = scorer_of("def score(texts):\n    return [1 / len(t) for t in texts]\n")
    with pytest.raises(ScoringError, match=r":score raised ZeroDiv"):
        scorer.score(documents("a", ""))


def test_an_exit_is_an_error_with_document_and_line(scorer_of) -> None:
    """It was an item that ``called exit``, of a thousand documents."""
    scorer = scorer_of(
        "import sys\ndef score(texts):\n    if 'x' in texts:\n        sys.exit('no model here')\n"
        "    return [1.0] * len(texts)\n"
    )
    given = documents("a", "b", "x", "c")
    with pytest.raises(ScoringError) as caught:
        call_on_documents("select.mine", "unit", given.column("id"), scorer.score, given)
    assert (caught.value.key, caught.value.file) == ("select.mine", "document doc-2")
    assert "SystemExit: no model here" in caught.value.problem
    assert f"{scorer.use.partition(':')[0]}.py:4 in score" in caught.value.problem


def test_a_missing_file_and_package_have_a_fix(
    scorer_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job's directory the file that is beside the module here is missing."""
    reads = scorer_of("def score(texts):\n    return open(__file__ + '.json')\n")
    with pytest.raises(ScoringError) as caught:
        reads.score(documents("a"))
    assert caught.value.fix is None
    job = tmp_path / "working_dir_files" / "_ray_pkg_0"
    job.mkdir(parents=True)
    (job / "reading_in_job.py").write_text("TABLE = open('table.json')\ndef score(t): ...\n")
    monkeypatch.chdir(job)
    with pytest.raises(SelectorError) as at_import:
        FunctionScorer("reading_in_job:score", [job])
    assert "penstock submit" in str(at_import.value.fix) and "paths" in str(at_import.value.fix)
    needs = scorer_of("def score(texts):\n    import not_there_at_all\n")
    with pytest.raises(ScoringError) as caught:
        needs.score(documents("a"))
    assert "not_there_at_all" in str(caught.value.fix) and ".py:2 in score" in caught.value.problem


def test_parameters_are_keywords(scorer_of) -> None:
    scorer = scorer_of("def score(texts, *, by):\n    return [by for _ in texts]\n", by=4)
    assert scorer.score(documents("a")).tolist() == [4]


def test_a_changed_file_is_another_selector_and_is_loaded_anew(scorer_of) -> None:
    one = scorer_of("def score(texts):\n    return [1] * len(texts)\n")
    two = scorer_of("def score(texts):\n    return [2] * len(texts)  # other\n")
    assert one.identity() != two.identity()
    assert (one.score(documents("a"))[0], two.score(documents("a"))[0]) == (1, 2)


def test_pickled_by_name_and_another_file_is_refused(scorer_of, tmp_path: Path) -> None:
    scorer = scorer_of("def score(texts):\n    return [1] * len(texts)\n")
    parcel = pickle.dumps(scorer)
    assert pickle.loads(parcel).score(documents("a")).tolist() == [1]
    next(tmp_path.glob("plugin_*.py")).write_text("def score(texts):\n    return [3]\n#\n")
    with pytest.raises(ScoringError, match="not the one that the run began with"):
        pickle.loads(parcel)


def test_a_neighbour_does_not_stand_in_for_the_standard_library(scorer_of, tmp_path) -> None:
    for library in ("random", "colorsys"):
        (tmp_path / f"{library}.py").write_text("raise RuntimeError('not the library')")
    sys.modules.pop("colorsys", None)
    (tmp_path / "plugin_neighbour.py").write_text("one = 1\n")
    scorer = scorer_of(
        "import random, colorsys\nfrom plugin_neighbour import one\n"
        "def score(texts):\n    return [one for _ in texts]\n"
    )
    assert scorer.score(documents("a")).tolist() == [1]
    assert sys.modules["random"] is random


@pytest.mark.parametrize(
    ("use", "field", "value"),
    [
        ("no_such_module:score", "fix", "put its file beside the recipe or install its package"),
        ("os:getcwd", "fix", "give the scorer's file another name"),
        ("plainly wrong", "got", "'plainly wrong'"),
        ("a-b:score", "got", "'a-b:score'"),
        ("broken:score", "fix", "fix it, or try: python -c 'import broken'"),
        ("leaves:score", "fix", "fix it, or try: python -c 'import leaves'"),
        ("needy:score", "fix", "install it"),
        ("fine:scores", "got", "'scores'"),
        ("fine:CONSTANT", "got", "fine:CONSTANT, a int"),
        ("torch:score", "fix", "rename it"),
    ],
)
def test_load_errors_have_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str, field: str, value: str
) -> None:
    import torch

    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken.py").write_text("def score(:\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "needy.py").write_text("import not_installed_at_all\n")
    (tmp_path / "fine.py").write_text("CONSTANT = 3\ndef score(texts): return [0] * len(texts)\n")
    (tmp_path / "torch.py").write_text("def score(texts): return [0] * len(texts)\n")
    with pytest.raises(SelectorError) as caught:
        FunctionScorer(use, [tmp_path])
    assert (caught.value.key, vars(caught.value)[field]) == ("use", value)
    if use.startswith("broken"):
        assert "(broken.py:1: def score(:)" in caught.value.problem
    assert sys.modules["torch"] is torch
    if use == "torch:score":  # nor is it served to workers
        assert "torch" not in own_modules._served
