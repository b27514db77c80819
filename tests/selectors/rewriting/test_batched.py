"""vLLM in the process: its parameters, its absence, and its answers where there is a GPU."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest

from penstock.errors import SelectorError
from penstock.recipe import RewriteSpec
from penstock.selectors.registry import build_rewriter
from penstock.selectors.rewriting import Request, Sampling, VllmModel
from tests.selectors.llamas import byte_tokenizer, write_model

GREEDY = Sampling(temperature=0, top_p=1, max_tokens=8)

THERE = importlib.util.find_spec("vllm") is not None


def test_requires_gpus_and_loads_at_the_first_request() -> None:
    model = VllmModel(model="some/model", gpus=2)
    assert model.requirements.resources.gpus == 2
    assert pickle.loads(pickle.dumps(model)).identity() == {"model": "some/model"}
    assert list(model.answers([])) == []


@pytest.mark.skipif(THERE, reason="vLLM is installed")
def test_its_absence_is_told() -> None:
    asked = [(0, Request(user="x", sampling=GREEDY), 1)]
    with pytest.raises(SelectorError) as info:
        list(VllmModel(model="some/model").answers(asked))
    assert info.value.key == "vllm"


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ({"vllm": "m", "gpus": 0}, "gpus"),
        ({"vllm": "m", "gpu": 1}, "gpu"),
        ({"vllm": "m", "local": "d"}, "vllm"),
        ({"vllm": ""}, "vllm"),
    ],
)
def test_mistakes(by: dict[str, object], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        build_rewriter("r", RewriteSpec(use="rewire", by=by))
    assert info.value.key == f"rewrite.r.by.{key}"


@pytest.mark.gpu
@pytest.mark.skipif(not THERE, reason="vLLM is not installed: it needs an NVIDIA GPU")
def test_greedy_answers_are_those_of_transformers(tmp_path: Path) -> None:
    from penstock.selectors.rewriting import LocalModel

    training_texts = ["water flows to the gate and the wheel turns"] * 40
    directory = write_model(
        tmp_path / "model",
        byte_tokenizer(training_texts),
        training_texts=training_texts,
        hidden_size=64,
        max_position_embeddings=128,
    )
    asked = [
        (row, Request(user=text, sampling=GREEDY), row)
        for row, text in enumerate(["water flows", "the gate", "x" * 4000])
    ]
    here = dict(LocalModel(model=str(directory), device="cuda").answers(asked))
    there = dict(VllmModel(model=str(directory), max_length=128).answers(asked))
    assert there.keys() == here.keys()
    assert [there[row].text for row in (0, 1)] == [here[row].text for row in (0, 1)]
    assert there[2].error and here[2].error
