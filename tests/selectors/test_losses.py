"""Losses of documents: parity with transformers, windows, batches, and models that are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from penstock.errors import InputError, SelectorError
from penstock.language_models.causal import load_causal_model
from penstock.language_models.devices import one_thread
from penstock.selectors.losses import CausalModel, read_losses
from tests.selectors.llamas import CONTEXT, VOCABULARY, byte_tokenizer, write_model

LESSON = "water flows down the penstock and turns the turbine under the old grey dam"


def tokenizer() -> Any:
    return byte_tokenizer([LESSON] * 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"), tokenizer())


def documents() -> list[str]:
    """Short ones, one of exactly a window, long ones, and unusual ones."""
    random = np.random.default_rng(3)
    texts = [
        " ".join(random.choice(LESSON.split(), int(count))) for count in random.integers(1, 90, 14)
    ]
    return [
        *texts,
        texts[0],
        "",
        " ",
        "a",
        "<|endoftext|>",
        "\u0000\u200b\U0001f600 e\u0301 \ud7ff",
        "漢字かな交じり文" * 8,
        "x" * 200,
    ]


def array(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def transformers_nats(directory: Path, texts: list[str], window: int, stride: int) -> np.ndarray:
    """Compute losses naively by transformers: one call for each window, with labels masked."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    reader = Tokenizer.from_file(str(directory / "tokenizer.json"))
    reader.encode_special_tokens = True
    nats = []
    for text in texts:
        ids = [0, *reader.encode(text, add_special_tokens=False).ids]
        total, done, begin = 0.0, 1, 0
        while done < len(ids):
            end = min(begin + window + 1, len(ids))
            labels = torch.tensor([ids[begin:end]])
            labels[0, : done - begin] = -100
            with one_thread(), torch.inference_mode():
                loss = causal(input_ids=torch.tensor([ids[begin:end]]), labels=labels).loss
            total += float(loss) * (end - done)
            done, begin = end, begin + stride
        nats.append(total)
    return np.array(nats)


@pytest.mark.parametrize(
    ("window", "stride"), [(CONTEXT, CONTEXT), (CONTEXT, 20), (16, 7), (1900, 512)]
)
def test_parity_with_transformers_own_loss(model: Path, window: int, stride: int) -> None:
    losses = CausalModel(str(model), window=window, stride=stride).losses(array(documents()))
    # Published settings shrink to the context, which is read once.
    expected = transformers_nats(
        model, documents(), min(window, CONTEXT), min(stride, window, CONTEXT)
    )
    np.testing.assert_allclose(losses.nats, expected, rtol=1e-6, atol=1e-9)
    assert losses.nats.std() > 1  # losses differ, so agreement means something


def test_a_stride_gives_more_context_and_lower_losses_only_to_long_texts(model: Path) -> None:
    texts = documents()
    whole = CausalModel(str(model)).losses(array(texts))
    strided = CausalModel(str(model), stride=CONTEXT // 4).losses(array(texts))
    long = whole.tokens > CONTEXT
    assert 2 < long.sum() < len(texts) - 2
    np.testing.assert_array_equal(whole.nats[~long], strided.nats[~long])
    # Of one token repeated, every context is alike: there only the last bits may differ.
    varied = long & [text != "x" * 200 for text in texts]
    assert (abs(whole.nats - strided.nats)[varied] > 1e-3).all()


def test_characters_and_tokens_are_counted(model: Path) -> None:
    texts = ["é" * 10, "ab", ""]
    losses = CausalModel(str(model)).losses(array(texts))
    assert losses.characters.tolist() == [10, 2, 0]
    assert losses.tokens.tolist() == [20, 2, 0]  # bytes that were never merged
    assert losses.nats[2] == 0
    np.testing.assert_allclose(losses.nats_per_token[:2], losses.nats[:2] / [20, 2])
    assert np.isnan(losses.nats_per_token[2])


def test_a_document_is_read_alone_whatever_comes_before_it(model: Path) -> None:
    texts = documents()
    order = np.random.default_rng(1).permutation(len(texts))
    reader = CausalModel(str(model))
    together = reader.losses(array(texts)).nats
    shuffled = reader.losses(array([texts[row] for row in order])).nats
    alone = np.concatenate([reader.losses(array([text])).nats for text in texts])
    assert together.tobytes() == alone.tobytes()
    assert together[order].tobytes() == shuffled.tobytes()
    assert together[0] == together[14]  # a duplicate


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit(model: Path, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        nats = CausalModel(str(model)).losses(array(documents())).nats
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert nats.tobytes() == CausalModel(str(model)).losses(array(documents())).nats.tobytes()


@pytest.mark.parametrize("tokens", [1, 64, 200, 100_000])
@pytest.mark.parametrize("stride", [512, 7])
def test_batches_agree_with_one_at_a_time(model: Path, tokens: int, stride: int) -> None:
    alone = CausalModel(str(model), stride=stride).losses(array(documents()))
    batched = CausalModel(str(model), stride=stride, batch_tokens=tokens)
    losses = batched.losses(array(documents()))
    np.testing.assert_allclose(losses.nats, alone.nats, rtol=1e-6, atol=1e-9)
    assert losses.tokens.tolist() == alone.tokens.tolist()


def test_padding_is_masked_in_a_model_that_would_see_it(tmp_path: Path) -> None:
    """GPT-2 has a table of positions, which the reference would overrun with a token more."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(4)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=40, n_embd=16, n_layer=2, n_head=2, bos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert CausalModel(str(tmp_path)).losses(array(documents())).tokens.max() > 40
    alone = CausalModel(str(tmp_path), window=39).losses(array(documents())).nats
    batched = CausalModel(str(tmp_path), window=39, batch_tokens=300).losses(array(documents()))
    np.testing.assert_allclose(batched.nats, alone, rtol=1e-6, atol=1e-9)
    expected = transformers_nats(tmp_path, documents(), 39, 39)
    np.testing.assert_allclose(alone, expected, rtol=1e-6, atol=1e-9)


def test_logits_in_pieces_and_whole_are_the_same(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CausalModel(str(model)).losses(array(documents())).nats
    monkeypatch.setattr("penstock.language_models.causal.PIECE", 3 * VOCABULARY)
    pieces = CausalModel(str(model)).losses(array(documents())).nats
    assert whole.tobytes() == pieces.tobytes()


def test_an_end_of_text_in_a_document_is_letters(model: Path) -> None:
    losses = CausalModel(str(model)).losses(array(["<|endoftext|>"]))
    assert losses.tokens[0] > 1


def test_a_text_begins_with_the_token_of_the_config(tmp_path: Path) -> None:
    nats = {}
    for name, begin in {
        "begin": {"bos_token_id": 7, "eos_token_id": 0},
        "end": {"bos_token_id": None, "eos_token_id": 7},
        "ends": {"bos_token_id": None, "eos_token_id": [7, 9]},
        "other": {"bos_token_id": 0, "eos_token_id": 7},
    }.items():
        directory = write_model(tmp_path / name, tokenizer(), **begin)
        nats[name] = CausalModel(str(directory)).losses(array(["the dam"])).nats[0]
    assert nats["begin"] == nats["end"] == nats["ends"] != nats["other"]
    nothing = write_model(tmp_path / "neither", tokenizer(), bos_token_id=None, eos_token_id=None)
    with pytest.raises(InputError) as info:
        CausalModel(str(nothing)).losses(array(["the dam"]))
    assert (info.value.key, info.value.got) == ("model", "neither")


def test_no_text_gives_an_end_of_the_config(tmp_path: Path) -> None:
    own = tokenizer()
    end = own.token_to_id("<|endoftext|>")
    settings = json.loads(own.to_str())
    settings["added_tokens"][0]["special"] = False
    plain = own.from_str(json.dumps(settings))
    text = "the <|endoftext|> dam"
    assert end in plain.encode(text).ids
    directory = write_model(tmp_path / "named", plain, bos_token_id=None, eos_token_id=[7, end])
    loaded = load_causal_model(str(directory), key="model", device="cpu", dtype="float32")
    (ids,) = loaded.token_ids([text])
    assert ids[0] == 7 and end not in ids[1:]
    assert plain.decode(ids[1:].tolist()) == text


def test_no_documents(model: Path) -> None:
    losses = CausalModel(str(model)).losses(pa.array([], pa.large_string()))
    assert losses.nats.shape == losses.nats_per_token.shape == (0,)
    chunks = pa.chunked_array([array(["the dam"]), array(["old"])])
    assert CausalModel(str(model)).losses(chunks).nats.shape == (2,)


def test_a_loaded_model_pickles_as_its_name(model: Path) -> None:
    reader = CausalModel(str(model), stride=20)
    nats = reader.losses(array(documents())).nats
    carried = pickle.dumps(reader)
    assert len(carried) < 1000
    assert pickle.loads(carried).losses(array(documents())).nats.tobytes() == nats.tobytes()


def test_reading_in_parallel_releases_the_model(model: Path) -> None:
    texts = documents() * 5  # more than one item of work
    reader = CausalModel(str(model))
    whole = reader.losses(array(texts))
    seen = []

    def spread(function: Any, items: Any, shared: Any = None) -> Any:
        for item in items:
            seen.append(len(item))
            yield function(item, pickle.loads(pickle.dumps(shared)))

    chunks = pa.chunked_array([array(texts[:50]), array(texts[50:])])
    read = read_losses(chunks, reader, spread)
    assert len(seen) > 1 and sum(seen) == len(texts)
    for name in ("nats", "tokens", "characters"):
        assert getattr(read, name).tobytes() == getattr(whole, name).tobytes()
    assert reader._loaded is None
    assert read_losses(array([]), reader, spread).nats.shape == (0,)


def test_bfloat16_is_near(model: Path) -> None:
    exact = CausalModel(str(model)).losses(array(documents())).nats
    near = CausalModel(str(model), dtype="bfloat16").losses(array(documents())).nats
    assert (near != exact).any()
    np.testing.assert_allclose(near, exact, rtol=0.05)


def no_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def no_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "missing"),
    [(no_config, "config.json"), (no_tokenizer, "tokenizer.json"), (pickled, "*.safetensors")],
)
def test_a_directory_that_is_no_model_is_refused_before_any_work(
    model: Path, tmp_path: Path, spoil: Callable[[Path], None], missing: str
) -> None:
    shutil.copytree(model, tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    with pytest.raises(SelectorError) as info:
        CausalModel(str(tmp_path / "spoilt"), key="models")
    assert info.value.key == "models"
    assert str(info.value.got) == f"{tmp_path / 'spoilt'}, which has no {missing}"


def truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_architecture(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (directory / "config.json").write_text(json.dumps(config))


def no_architecture(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "no such type"}')


def not_json(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")


def diverged(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"][:] = torch.nan
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def another_tokenizer(directory: Path) -> None:
    made = tokenizer()
    made.add_tokens([f"word{number}" for number in range(VOCABULARY)])
    made.save(str(directory / "tokenizer.json"))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (truncated, "not safetensors that can be used"),
        (no_architecture, "a causal language model with safetensors and a tokenizer.json"),
        (not_json, "a causal language model with safetensors and a tokenizer.json"),
        (other_architecture, "a causal language model"),
        (diverged, "a model whose losses are finite numbers"),
        (another_tokenizer, "the model's own tokenizer"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(
    model: Path, tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    shutil.copytree(model, tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    with pytest.raises(InputError) as info:
        CausalModel(str(tmp_path / "spoilt")).losses(array(["the dam"]))
    assert info.value.key == "model"
    assert (info.value.expected or info.value.problem).startswith(expected)


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"name": ""}, "model"),
        ({"name": 3}, "model"),
        ({"name": "/no/such/model"}, "model"),
        ({"name": "./runs/x"}, "model"),
        ({"window": 0}, "window"),
        ({"stride": 0}, "stride"),
        ({"device": "tpu"}, "device"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_bad_parameters(model: Path, parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError, match=f"^{key}: "):
        CausalModel(**{"name": str(model), **parameters})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error(model: Path) -> None:
    with pytest.raises(InputError) as info:
        CausalModel(str(model), device="cuda").losses(array(["the dam"]))
    assert (info.value.key, info.value.got) == ("device", "none")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_agrees(model: Path) -> None:
    exact = CausalModel(str(model)).losses(array(documents())).nats
    on_gpu = CausalModel(str(model), device="cuda")
    nats = on_gpu.losses(array(documents())).nats
    np.testing.assert_allclose(nats, exact, rtol=1e-5)
    assert nats.tobytes() == on_gpu.losses(array(documents())).nats.tobytes()
