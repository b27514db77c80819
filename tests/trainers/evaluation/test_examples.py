from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
)

from penstock.errors import InputError
from penstock.language_models.trees import TokenTree
from penstock.recipe import ModelFrom
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation import run_evaluator
from penstock.trainers.evaluation.evaluator import evaluate
from penstock.trainers.evaluation.examples import Evaluation, Example, TreeNats, example_nats
from penstock.trainers.evaluation.run_evaluator import tree_reader
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.model import LanguageModel
from tests.trainers.conftest import VOCABULARY

from .conftest import CONTEXT, READING, log_p

QUESTIONS = [
    Example(context="What flows?\n", choices=("water", "the turbine — 水", "é"), answer=0),
    Example(context="water flows to the ", choices=("turbine", "penstock"), answer=1),
    Example(context="the water " * 12 + "is ", choices=("Ωmega", "a turbine " * 12), answer=0),
]

OTHERS = [
    Example(choices=("water flows " * 20,)),
    Example(choices=("",)),
    Example(context="is a gate?\n", choices=("a gate",)),
    # A choice that begins like the answer, is its beginning, or is equal to it.
    Example(context="q ", choices=("turbine water", "turbine", "turbine water", "tur"), answer=0),
    Example(context="q ", choices=("turbine", "turbine water flows"), answer=0),
    # More choices than a tree holds; one fits the context, though its answer does not.
    Example(context="What flows?\n", choices=tuple(f"{n} gates of a penstock" for n in range(9))),
    Example(context="flows to ", choices=("water " * 30, "me", "the gate"), answer=0),
]


def by_hand(model: LanguageModel, tokenizer: Any, question: Example, choice: str) -> float:
    """Find the boundary by decoding: the first token that adds bytes to the choice."""
    ids = tokenizer.encode(question.context + choice).ids
    before = len(question.context.encode())
    first = next(
        place for place in range(len(ids)) if len(_bytes(tokenizer, ids[: place + 1])) > before
    )
    seen = [0, *ids][-(CONTEXT + 1) :]
    return -sum(log_p(model, seen)[-(len(ids) - first) :])


def text_by_hand(model: LanguageModel, tokenizer: Any, text: str) -> float:
    """Window by window."""
    ids = [0, *tokenizer.encode(text).ids]
    starts = range(0, len(ids) - 1, CONTEXT)
    return -sum(sum(log_p(model, ids[start : start + CONTEXT + 1])) for start in starts)


def _bytes(tokenizer: Any, ids: list[int]) -> str:
    """One character for each byte, as in byte-level BPE."""
    return "".join(tokenizer.id_to_token(one) for one in ids)


def all_nats(examples: Sequence[Example], *how: Any, **options: Any) -> np.ndarray:
    texts, choices = example_nats(examples, *how, **READING, **options)
    assert [len(own) for own in choices] == [len(one.choices) for one in examples]
    return np.concatenate([texts, *choices])


@pytest.mark.parametrize("branches", [True, False])
def test_parity_with_one_text_and_one_choice_at_a_time(
    model: LanguageModel, reader: TreeNats, tokenizer: Any, branches: bool
) -> None:
    examples = QUESTIONS + OTHERS
    expected = [text_by_hand(model, tokenizer, one.text) for one in examples]
    expected += [
        by_hand(model, tokenizer, one, choice)
        if one.context
        else text_by_hand(model, tokenizer, choice)
        for one in examples
        for choice in one.choices
    ]
    found = all_nats(examples, reader, tokenizer, branches=branches)
    assert found == pytest.approx(expected, rel=1e-6)
    long = [
        len(tokenizer.encode(QUESTIONS[2].context + choice).ids) for choice in QUESTIONS[2].choices
    ]
    assert long[0] > CONTEXT, "a question that loses its beginning"
    assert len(tokenizer.encode(QUESTIONS[2].choices[1]).ids) > CONTEXT, (
        "a choice that loses its beginning"
    )


class Counted:
    """A reader that keeps the trees it is given."""

    def __init__(self) -> None:
        self.trees: list[TokenTree] = []

    def __call__(self, trees: Sequence[TokenTree]) -> np.ndarray:
        self.trees += trees
        return np.ones(sum(len(tree.parts) for tree in trees))


def test_a_question_is_read_once_for_its_choices(tokenizer: Any) -> None:
    question = "the water flows to the turbine through "
    quiz = Example(context=question, choices=("a gate", "the penstock", "night", "it"), answer=2)
    shared, alone = Counted(), Counted()
    example_nats([quiz], shared, tokenizer, **READING)
    example_nats([quiz], alone, tokenizer, **READING, branches=False)
    assert len(shared.trees) == 1 and len(alone.trees) == 4
    lines = [tokenizer.encode(question + choice).ids for choice in quiz.choices]
    before = len(tokenizer.encode(question).ids)
    # Each wrong choice reads at most one token of the question again.
    own = sum(len(line) - (before - 1) + 1 for line in lines)
    assert shared.trees[0].length <= before + own < sum(tree.length for tree in alone.trees)
    assert sum(tree.length for tree in alone.trees) == sum(len(line) for line in lines)


@pytest.mark.parametrize("seed", range(3))
def test_generated_questions_have_the_losses_of_separate_windows(
    reader: TreeNats, tokenizer: Any, seed: int
) -> None:
    draw = random.Random(seed)
    words = ["the", "water", "flows", "é", "水", "turbine", "penstock", "a", "Ω", "to"]

    def text(most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, most)))

    examples = []
    for _ in range(30):
        choices = tuple(text(8) for _ in range(draw.randint(1, 6)))
        context = draw.choice(["", text(12) + " ", text(30) + "\n", text(2) + "\n"])
        choices = choices if context else choices[:1]
        examples.append(
            Example(context=context, choices=choices, answer=draw.randrange(len(choices)))
        )
    together = all_nats(examples, reader, tokenizer)
    alone = all_nats(examples, reader, tokenizer, branches=False)
    assert together == pytest.approx(alone, rel=1e-5)


SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "num_hidden_layers": 2}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, **SIZES}


@pytest.mark.parametrize(
    ("config", "branches"),
    [
        (LlamaConfig(**SMALL, num_key_value_heads=1), True),
        # Positions of GPT-2 are learnt, and its head is the model's own.
        (GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64), True),
        (MistralConfig(**SMALL, num_key_value_heads=1, sliding_window=CONTEXT), True),
        # A mask replaces the window of such a model, so it reads each choice alone.
        (MistralConfig(**SMALL, num_key_value_heads=1, sliding_window=CONTEXT // 4), False),
    ],
)
def test_models_of_other_kinds(
    opened: ShardSet, tokenizer: Any, tmp_path: Any, config: PretrainedConfig, branches: bool
) -> None:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded = build_model(ModelFrom(hf=str(tmp_path)), opened, 1).eval()
    assert loaded.reads_branches is branches
    examples = QUESTIONS[:2] + OTHERS[2:5]
    reader = tree_reader(loaded, Group())
    expected = all_nats(examples, reader, tokenizer, branches=False)
    assert all_nats(examples, reader, tokenizer, branches=branches) == pytest.approx(
        expected, rel=1e-5
    )
    if not branches:
        assert all_nats(examples, reader, tokenizer) != pytest.approx(expected, rel=1e-5)


def test_the_space_before_a_choice_is_scored_only_within_the_first_token_of_the_choice(
    model: LanguageModel, reader: TreeNats, tokenizer: Any
) -> None:
    """`Ġthe` is one token; before `water` the space is a token of its own."""
    merged = Example(context="to ", choices=("the",))
    apart = Example(context="to ", choices=("water",))
    tokens = [tokenizer.encode(one.text).tokens for one in (merged, apart)]
    assert [own[-1] for own in tokens] == ["Ġthe", "water"] and tokens[1][-2] == "Ġ"
    _, ((first,), (second,)) = example_nats([merged, apart], reader, tokenizer, **READING)
    ids = [[0, *tokenizer.encode(text).ids] for text in ("to the", "to water")]
    assert first == pytest.approx(-log_p(model, ids[0])[-1], rel=1e-6)
    assert second == pytest.approx(-log_p(model, ids[1])[-1], rel=1e-6)


def test_trimmed_offsets_give_the_same(reader: TreeNats, tokenizer: Any) -> None:
    """GPT-2 and similar tokenizers trim white space from offsets."""
    from tokenizers import Tokenizer, processors

    trimmed = Tokenizer.from_str(tokenizer.to_str())
    trimmed.post_processor = processors.ByteLevel(trim_offsets=True)
    assert trimmed.encode("a b").offsets != tokenizer.encode("a b").offsets
    ours, theirs = (all_nats(QUESTIONS, reader, one) for one in (tokenizer, trimmed))
    assert np.array_equal(ours, theirs)


def test_a_choice_without_tokens_is_refused(reader: TreeNats) -> None:
    from tokenizers import Tokenizer, models

    letters = Tokenizer(models.BPE({"<eos>": 0, "i": 1, "s": 2}, []))
    with pytest.raises(InputError) as info:
        all_nats([Example(context="is ", choices=("水",))], reader, letters)
    assert info.value.key == "evaluate" and "'水'" in info.value.problem


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_small_batches_and_many_ranks_give_the_same(
    model: LanguageModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    examples = QUESTIONS + OTHERS
    together = all_nats(examples, tree_reader(model, Group()), tokenizer)
    monkeypatch.setattr(run_evaluator, "BATCH_TOKENS", 40)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total)
    passes: list[int] = []

    def share(rank: int, workers: int) -> np.ndarray:
        def counting(trees: Any) -> torch.Tensor:
            passes[-1] += 1
            return model(trees)

        passes.append(0)
        return all_nats(examples, tree_reader(counting, Group(rank, workers)), tokenizer)

    alone = share(0, 1)
    assert together == pytest.approx(alone, rel=1e-6)
    shares = [share(rank, workers) for rank in range(workers)]
    assert sum(bool(part.any()) for part in shares) > 1
    assert sum(shares) == pytest.approx(alone, rel=1e-12)
    assert set(passes[1:]) == {-(-passes[0] // workers)}, "a pass may be a collective operation"


def test_the_name_of_the_end_of_text_is_ordinary_text(reader: TreeNats, opened: ShardSet) -> None:
    """Of one token, the text would have one loss; its 13 characters have several."""
    alone, longer = (
        evaluate([Evaluation.of_texts("x", text)], reader, opened.tokenizer, **READING)
        for text in ("a", "a<|endoftext|>")
    )
    bits = [float(scores.examples["x"].table["bits"][0].as_py()) for scores in (alone, longer)]
    assert bits[1] - bits[0] > 4 * bits[0]


def test_no_text_of_an_evaluation_gives_the_end(tmp_path: Any) -> None:
    """As in the shards, also where the tokenizer has the end without the flag `special`."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain = Tokenizer(models.BPE({letter: n for n, letter in enumerate(sorted(alphabet))}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.add_tokens([AddedToken("</s>", special=False, normalized=False)])
    end = plain.token_to_id("</s>")
    plain.save(str(tmp_path / "tokenizer.json"))
    text = "a </s> b"
    assert end in plain.encode(text).ids
    kept = Counted()
    examples = (Example(context="q ", choices=(text, "c")), Example(choices=(text,)))
    given = Evaluation(name="web", examples=examples)
    for branches in (True, False):
        evaluate([given], kept, tmp_path / "tokenizer.json", eos=end, context=64, branches=branches)
    assert len(kept.trees) == 5
    for tree in kept.trees:
        assert tree.inputs[0] == end
        assert end not in [*tree.inputs[1:], *tree.targets]


def test_an_evaluation_without_text_is_refused(reader: TreeNats, opened: ShardSet) -> None:
    with pytest.raises(InputError) as info:
        evaluate([Evaluation.of_texts("none", "")], reader, opened.tokenizer, **READING)
    assert (info.value.key, info.value.file) == ("evaluate", "none")


def test_hostile_choices_are_read_in_linear_time(tokenizer: Any) -> None:
    """A thousand choices as long as the context: no tree is longer than two contexts."""
    context = 64
    quiz = Example(context="q ", choices=tuple("ab" * 40 + str(n) for n in range(1000)))
    kept = Counted()
    example_nats([quiz], kept, tokenizer, eos=0, context=context)
    assert max(tree.length for tree in kept.trees) <= 2 * context
    assert sum(tree.length for tree in kept.trees) <= 1010 * context
