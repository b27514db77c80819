"""A model's directory from elsewhere claims more than its files hold.

The attacks: sizes, layers and vocabularies in ``config.json`` that take memory or hours before the
library misses the weights, false headers of safetensors, tables of tokenizers, pipes for files.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from penstock.errors import ArtefactError, BadInput, InputError, TrainingError
from penstock.language_models.model_directory import check_model, check_sentence_model
from penstock.language_models.weight_files import HeaderError, opened_plain, read_header
from penstock.selectors.encoders.distillation import TokenVectors
from penstock.selectors.encoders.static import StaticEncoder
from penstock.trainers.backends.torch import FILE, read_state
from penstock.trainers.modelling.vocabulary import check_tokenizer
from tests.language_models.test_model_directory import change, everything, modules
from tests.selectors.llamas import byte_tokenizer, write_model
from tests.trainers.conftest import recorded

WAYS = [way for way in everything(Path()) if way != "check"]

CLAIMS: list[dict[str, Any]] = [
    {"num_hidden_layers": 3_000},
    {"num_hidden_layers": 10**8},
    {"hidden_size": 10**9},
    {"vocab_size": 2_000_000, "tie_word_embeddings": False},
    {"vocab_size": 10**300},
    {"intermediate_size": 2**20, "hidden_size": 2**20},
    {"num_labels": 5_000_000},
    {"text_config": {"deep": [{"hidden_size": 10**12}]}},
    {"max_position_embeddings": 1e30},
    {"num_attention_heads": 0},
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", byte_tokenizer(["water flows"]))


def refused(model: Path, way: str) -> BadInput:
    """Load a model; the error, after little time and little memory."""
    before = time.process_time()
    with pytest.raises(BadInput) as info:
        everything(model)[way]()
    assert time.process_time() - before < 5
    assert str(info.value).count("\n") == 0
    return info.value


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_a_config_that_claims_more_than_the_weights_is_refused(
    model: Path, claim: dict[str, Any]
) -> None:
    """10⁶ layers took more than a minute of CPU; others took memory or ended in a RuntimeError."""
    change(model / "config.json", **claim)
    assert refused(model, "train.model.hf").file == str(model / "config.json")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_load_a_model_is_bounded(model: Path, way: str) -> None:
    change(model / "config.json", num_hidden_layers=3_000)
    error = refused(model, way)
    assert isinstance(error, InputError)
    assert (error.file, error.got) == (str(model / "config.json"), "more than 1,108 tensors")
    totals = check_model(model, key="k").totals
    assert totals is not None
    (file,) = model.glob("*.safetensors")
    with safe_open(file, framework="np") as opened:
        tensors = [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118
    assert totals.tensors == len(tensors)
    assert totals.numbers == sum(one.size for one in tensors)
    assert totals.bytes == sum(one.nbytes for one in tensors)


def test_a_module_of_sentence_transformers_is_bounded(tmp_path: Path) -> None:
    kind = "sentence_transformers.models.Dense"
    modules(tmp_path, kind)
    activation = "torch.nn.modules.activation.Tanh"
    change(tmp_path / "config.json", in_features=4, out_features=4, activation_function=activation)
    save_file({"linear.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    files = check_sentence_model(tmp_path, key="encoder")
    with files.bounding("encoder"):
        torch.nn.Linear(4, 4)
    with pytest.raises(InputError) as info, files.bounding("encoder"):
        torch.nn.Linear(8_192, 8_192, device="meta")
    assert info.value.key == "encoder"
    change(tmp_path / "config.json", in_features=10**9)
    with pytest.raises(InputError):
        check_sentence_model(tmp_path, key="encoder")


def test_other_threads_and_later_models_are_not_counted(model: Path) -> None:
    sizes = []

    def other() -> None:
        sizes.append(torch.nn.Linear(10_000, 10_000, device="meta").weight.numel())

    with check_model(model, key="k").bounding("k"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    other()
    assert sizes == [10**8, 10**8]


SMALL = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
T5 = {"vocab_size": 30_000, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
SOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("CausalLM", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 4_096}),
    "gpt_neo": ("CausalLM", {**SMALL, "num_layers": 2, "num_heads": 2,
                             "attention_types": [[["global", "local"], 1]]}),
    "bert": ("", {**SMALL, "intermediate_size": 16}),
    "t5": ("", T5),
    "mixtral": ("CausalLM", {**SMALL, "intermediate_size": 16, "num_key_value_heads": 1,
                             "num_local_experts": 200}),
    "qwen2": ("CausalLM", {**SMALL, "intermediate_size": 16, "num_key_value_heads": 1,
                           "max_position_embeddings": 2**24, "rope_theta": 10**9}),
    "mamba": ("CausalLM", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 300}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOUND)
def test_sound_models_of_other_kinds_are_loaded(tmp_path: Path, kind: str) -> None:
    """With a head that the files lack as well."""
    name, settings = SOUND[kind]
    config = transformers.AutoConfig.for_model(kind, **settings)
    made = getattr(transformers, f"AutoModel{f'For{name}' if name else ''}")
    made.from_config(config).base_model.save_pretrained(tmp_path)
    with check_model(tmp_path, key="k").bounding("k"):
        made.from_pretrained(tmp_path, use_safetensors=True)


def far_id(directory: Path) -> Path:
    """Give a token the first id beyond the bound: the library would make a table up to it."""
    path = directory / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["vocab"]["far"] = 2**24
    path.write_text(json.dumps(found))
    return path


def test_tokenizers_of_encoders_and_of_trained_models_are_examined(model: Path) -> None:
    """An id of 3·10⁹ took 11.8 GB in sentence-transformers and in ``train.model.hf``."""
    sound = model.with_name("sound")
    shutil.copytree(model, sound)
    path = far_id(model)
    assert refused(model, "sentence").file == str(path)
    modules(model, "sentence_transformers.models.Transformer")
    assert refused(model, "sentence").file == str(path)
    for pair in ((model, sound), (sound, model)):
        with pytest.raises(InputError) as info:
            check_tokenizer(str(pair[0]), pair[1] / "tokenizer.json")
        assert info.value.file == str(path)


def test_tokenizers_of_artefacts_are_examined(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(["water flows"])
    count = tokenizer.get_vocab_size()
    StaticEncoder("e", tokenizer, np.zeros((count, 2), np.float32), np.zeros(2)).save(tmp_path)
    (tmp_path / "vocabulary.json").write_text('{"teacher": "t"}')
    np.save(tmp_path / "ids.npy", np.arange(2))
    np.save(tmp_path / "vectors.npy", np.zeros((2, 2), np.float32))
    StaticEncoder.load(tmp_path)
    TokenVectors.load(tmp_path)
    far_id(tmp_path)
    for load in (StaticEncoder.load, TokenVectors.load):
        with pytest.raises(ArtefactError) as info:
            load(tmp_path)
        assert info.value.file == str(tmp_path)
        assert f"below {2**24:,}" in info.value.problem


# -- safetensors ------------------------------------------------------------------------------


def weights(entries: Any, data: int, length: int | None = None) -> bytes:
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data)


def tensor(start: int, end: int, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FALSE = {
    "empty": b"",
    "short": b"\x02\0\0",
    "a header of 2⁶³ bytes": weights({}, 0, 2**63),
    "a header beyond the file": weights({}, 0, 3),
    "a header of 100 MB": weights({}, 0, 10**8),
    "not JSON": weights(b"{]", 0),
    "a list": weights(b"[]", 0),
    "deep": weights(b'{"a":' * 10**5, 0),
    "beyond the file": weights({"a": tensor(0, 8)}, 4),
    "bytes left": weights({"a": tensor(0, 8)}, 12),
    "overlap": weights({"a": tensor(0, 8), "b": tensor(4, 12)}, 12),
    "a hole": weights({"a": tensor(0, 8), "b": tensor(12, 20)}, 20),
    "the same bytes": weights({"a": tensor(0, 8), "b": tensor(0, 8)}, 8),
    "shape": weights({"a": tensor(0, 8, [10**9, 10**9])}, 8),
    "overflow": weights({"a": tensor(0, 8, [2**62, 2, 2, 2])}, 8),
    "negative": weights({"a": tensor(0, 8, [-1, -2])}, 8),
    "many dimensions": weights({"a": tensor(0, 8, [2**62] * 10**5)}, 8),
    "backwards": weights({"a": tensor(8, 0)}, 8),
    "a number": weights({"a": 1}, 0),
    "offsets": weights({"a": {**tensor(0, 8), "data_offsets": [0, 4, 8]}}, 8),
    "no shape": weights({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8),
}  # fmt: skip


@pytest.mark.parametrize("content", FALSE.values(), ids=FALSE)
def test_a_false_header_is_refused_with_its_file(model: Path, content: bytes) -> None:
    """The library's error was a foreign one in ``train.model.hf``, and had no file."""
    (file,) = model.glob("*.safetensors")
    file.write_bytes(content)
    error = refused(model, "train.model.hf")
    assert (error.key, error.file) == ("train.model.hf", str(file))
    with pytest.raises(SafetensorError):
        safe_open(file, framework="np")


def test_a_header_is_sound_exactly_where_it_is_for_the_library(tmp_path: Path) -> None:
    """Random ranges and shapes; none that the library takes is refused."""
    random = np.random.default_rng(7)
    found = {True: 0, False: 0}
    path = tmp_path / "a.safetensors"
    for _ in range(500):
        entries, reached = {}, 0
        for name in range(random.integers(0, 4)):
            dtype, width = [("F32", 4), ("U8", 1), ("BF16", 2), ("I64", 8)][random.integers(4)]
            shape = random.integers(0, 4, random.integers(0, 3)).tolist()
            end = reached + int(np.prod(shape)) * width
            entries[str(name)] = tensor(reached, end, shape, dtype)
            reached = end
        if entries and random.random() < 0.5:  # falsify a number
            entry = entries[str(random.integers(len(entries)))]
            numbers = entry["data_offsets" if random.random() < 0.7 else "shape"]
            if numbers:
                numbers[random.integers(len(numbers))] += int(random.integers(-4, 5))
        path.write_bytes(weights(entries, reached + int(random.random() < 0.1)))
        try:
            safe_open(path, framework="np")
            sound = True
        except SafetensorError:
            sound = False
        found[sound] += 1
        try:
            with opened_plain(path) as source:
                assert read_header(source).tensors == len(entries)
                assert source.tell() == 0
            assert sound
        except HeaderError:
            assert not sound
    assert min(found.values()) > 100


def test_a_checkpoint_with_a_false_header_names_its_file(tmp_path: Path) -> None:
    """A foreign error, of any kind that the library raises, ended the run."""
    path = tmp_path / FILE
    path.parent.mkdir()
    save_file({"step": torch.tensor(7)}, path)
    sound = path.read_bytes()
    assert read_state(recorded(tmp_path, [FILE])).step == 7
    save_file({"weight.a": torch.zeros(2)}, path)  # no step
    for content in (*FALSE.values(), sound[:-1], path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(TrainingError) as info:
            read_state(recorded(tmp_path, [FILE]))
        assert info.value.file == str(path)


def test_a_list_of_weight_files_stays_in_its_directory(model: Path) -> None:
    (file,) = model.glob("*.safetensors")
    file.rename(model.parent / "other.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    error = refused(model, "train.model.hf")
    assert (error.file, error.got) == (str(index), "'../other.safetensors'")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_no_file(model: Path, name: str) -> None:
    """Opening it waited for a writer, for ever."""
    (model / name).unlink()
    os.mkfifo(model / name)
    assert refused(model, "train.model.hf").file == str(model / name)


def test_a_config_of_many_megabytes_is_refused(model: Path) -> None:
    (model / "config.json").write_bytes(b"[" + b"[]," * 2**22 + b"0]")
    assert refused(model, "train.model.hf").file == str(model / "config.json")
