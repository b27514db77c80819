"""A dataset from elsewhere declares plain types, by which `datasets` calls nothing of pyarrow's.

The attacks: the name of any function of pyarrow as the type of a column, in each place from which
`datasets` takes types.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from penstock.errors import InputError
from penstock.pipeline.reading.dataset_types import check_declared
from penstock.pipeline.reading.readers import read_batches
from penstock.recipe import CorpusSource

EVIL = "log_memory_allocations"
SPEC = CorpusSource(path="hf:data")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record calls of a function of pyarrow that no type names."""
    calls: list[str] = []
    monkeypatch.setitem(pa.__dict__, EVIL, lambda: calls.append(EVIL) or pa.string())
    return calls


def read(directory: Path) -> list[dict[str, Any]]:
    batches = list(read_batches(directory, SPEC))
    return [row for batch in batches for row in batch.documents.to_pylist()]


def refused(directory: Path, called: list[str]) -> InputError:
    with pytest.raises(InputError) as info:
        read(directory)
    assert called == []
    return info.value


def lines(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "own.jsonl").write_text('{"text": "own", "n": 1}\n')


FEATURES = [{"name": "text", "dtype": "string"}, {"name": "n", "dtype": EVIL}]

YAML: dict[str, tuple[Any, str]] = {
    "a scalar": (FEATURES, "features[1].dtype"),
    "a list": ([{"name": "n", "list": EVIL}], "features[0].list"),
    "a sequence": ([{"name": "n", "sequence": {"dtype": EVIL}}], "features[0].sequence.dtype"),
    "a large list": ([{"name": "n", "large_list": EVIL}], "features[0].large_list"),
    "a struct": ([{"name": "n", "struct": FEATURES}], "features[0].struct[1].dtype"),
    "a list of structs": ([{"name": "n", "list": FEATURES}], "features[0].list[1].dtype"),
    "under dtype": (
        [{"name": "n", "dtype": {"array2_d": {"shape": [1, 1], "dtype": EVIL}}}],
        "features[0].dtype.array2_d.dtype",
    ),
    "an inner feature over the list's": (
        [{"name": "n", "list": "string", "feature": {"_type": "Value", "dtype": EVIL}}],
        "features[0].feature.dtype",
    ),
    "a feature by a key": (
        [{"name": "n", "dtype": {"features": {}}}],
        "features[0].dtype.features",
    ),
    "a feature by a name": (
        [{"name": "n", "dtype": {"value": {"_type": "InitVar", "dtype": "string"}}}],
        "features[0].dtype.value._type",
    ),
}


@pytest.mark.parametrize(
    ("name", "where", "case"),
    [
        *(("README.md", "dataset_info", case) for case in YAML),
        ("README.md", "configs", "a scalar"),
        (".huggingface.yaml", "dataset_info", "a list"),
        (".huggingface.yaml", "configs", "a struct"),
    ],
)
def test_a_header_names_no_function(
    name: str, where: str, case: str, tmp_path: Path, called: list[str]
) -> None:
    features, key = YAML[case]
    lines(tmp_path)
    if where == "configs":
        found = [{"config_name": "default", "data_files": "*.jsonl", "features": features}]
    else:
        found = [{"config_name": "default", "features": features}]
    text = yaml.safe_dump({where: found}, sort_keys=False)
    (tmp_path / name).write_text(f"---\n{text}---\n" if name == "README.md" else text)
    error = refused(tmp_path, called)
    assert (error.file, error.key) == (str(tmp_path / name), _without_index(f"{where}[0].{key}"))


def _without_index(key: str) -> str:
    return key.replace("[", ".").replace("]", "")


def value(name: str) -> dict[str, str]:
    return {"dtype": name, "_type": "Value"}


JSON: dict[str, tuple[Any, str]] = {
    "a scalar": ({"n": value(EVIL)}, "n.dtype"),
    "a list": ({"n": {"feature": value(EVIL), "_type": "List"}}, "n.feature.dtype"),
    "a large list": ({"n": {"feature": value(EVIL), "_type": "LargeList"}}, "n.feature.dtype"),
    "an old list": ({"n": [value(EVIL)]}, "n[0].dtype"),
    "a struct": ({"n": {"a": value("int64"), "b": value(EVIL)}}, "n.b.dtype"),
    "a column named _type": ({"_type": value(EVIL)}, "_type.dtype"),
    "an array": ({"n": {"shape": [1, 1], "dtype": EVIL, "_type": "Array2D"}}, "n.dtype"),
    "a feature": ({"n": {"dtype": "string", "_type": "PandasArrayExtensionDtype"}}, "n._type"),
}


@pytest.mark.parametrize("case", JSON)
def test_the_description_of_a_saved_dataset_names_no_function(
    case: str, tmp_path: Path, called: list[str]
) -> None:
    import datasets

    features, key = JSON[case]
    data = tmp_path / "ds"
    both = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})})
    both.save_to_disk(str(data))
    info = data / "train" / "dataset_info.json"
    found = json.loads(info.read_text())
    info.write_text(json.dumps(found | {"features": features}))
    error = refused(data, called)
    assert (error.file, error.key) == (str(info), _without_index(f"features.{key}"))

    info.write_text(json.dumps(found | {"post_processed": {"features": features}}))
    assert refused(data, called).key == _without_index(f"post_processed.features.{key}")


def test_an_old_description_names_no_function(tmp_path: Path, called: list[str]) -> None:
    lines(tmp_path)
    path = tmp_path / "dataset_infos.json"
    path.write_text(json.dumps({"default": {"features": {"n": value(EVIL)}}}))
    error = refused(tmp_path, called)
    assert (error.file, error.key) == (str(path), "default.features.n.dtype")


def arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "a.arrow": arrow,
    "a.parquet": pq.write_table,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_metadata_of_a_schema_names_no_function(
    name: str, tmp_path: Path, called: list[str]
) -> None:
    metadata = json.dumps({"info": {"features": {"n": value(EVIL)}}})
    table = pa.table({"text": ["own"]}).replace_schema_metadata({"huggingface": metadata})
    WRITERS[name](table, tmp_path / name)
    error = refused(tmp_path, called)
    assert (error.file, error.key) == (str(tmp_path / name), "info.features.n.dtype")


@pytest.mark.parametrize("name", WRITERS)
def test_an_extension_type_names_no_function(name: str, tmp_path: Path, called: list[str]) -> None:
    """Arrow has `datasets` make the type of such a field, whoever reads the schema."""
    field = pa.field(
        "n",
        pa.list_(pa.list_(pa.string())),
        metadata={
            "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
            "ARROW:extension:metadata": json.dumps([[1, 1], EVIL]),
        },
    )
    schema = pa.schema([pa.field("text", pa.string()), field])
    WRITERS[name](pa.Table.from_pydict({"text": ["own"], "n": [[["a"]]]}, schema), tmp_path / name)
    with pytest.raises((InputError, ValueError)):
        read(tmp_path)
    assert called == []


SCALARS = [
    "null",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "date32",
    "date64",
    "time32[s]",
    "time64[ns]",
    "timestamp[s]",
    "timestamp[us, tz=Europe/Berlin]",
    "duration[ms]",
    "binary",
    "large_binary",
    "large_string",
    "string_view",
    "binary_view",
    "fixed_size_binary[3]",
    "decimal128(10, 2)",
    "decimal256(40, 3)",
]


def sound() -> tuple[Any, dict[str, list[Any]]]:
    """Return features of every kind that `datasets` can write, and a row for them."""
    import datasets

    of = datasets.Value
    pairs: list[tuple[str, Any, Any]] = [
        ("text", of("string"), "own"),
        ("label", datasets.ClassLabel(names=["dtype", EVIL]), 1),
        ("large", datasets.LargeList(of("int32")), [1, 2]),
        ("fixed", datasets.List(of("float32"), length=2), [0.5, 1.5]),
        ("array", datasets.Array2D(shape=(1, 2), dtype="int64"), [[1, 2]]),
        ("dtype", {"dtype": of("bool"), "list": of("int8")}, {"dtype": True, "list": 1}),
        ("features", [{"a": of("string"), "b": [of("uint64")]}], [{"a": "x", "b": [3]}]),
        ("image", datasets.Image(), {"bytes": b"no picture", "path": "private.png"}),
        ("sound", datasets.Audio(sampling_rate=16_000), None),
        *((name, of(name), None) for name in SCALARS),
    ]
    features = datasets.Features({name: feature for name, feature, _ in pairs})
    return features, {name: [example] for name, _, example in pairs}


def test_sound_datasets_of_every_type_are_read(tmp_path: Path) -> None:
    """Pictures and sound are declared and not decoded: these are none."""
    import datasets

    features, row = sound()
    made = datasets.Dataset.from_dict(row, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "parquet").mkdir()
    made.to_parquet(str(tmp_path / "parquet" / "a.parquet"))
    infos = datasets.info.DatasetInfosDict({"default": datasets.DatasetInfo(features=features)})
    infos.write_to_directory(str(tmp_path / "parquet"))
    assert EVIL in (tmp_path / "parquet" / "README.md").read_text()
    for name in ("saved", "parquet"):
        (found,) = read(tmp_path / name)
        assert found["text"] == "own"


def test_declarations_that_datasets_writes_are_plain() -> None:
    import datasets

    features, _ = sound()
    features["both"] = datasets.Translation(languages=["en", "de"])
    features["more"] = datasets.TranslationVariableLanguages(languages=["en", "de"])
    features["json"] = datasets.Json()
    features["video"] = [datasets.Video()]
    check_declared({"features": features.to_dict()}, "a")
    check_declared({"features": features._to_yaml_list()}, "a", yaml=True)
    old = {"feature": value("double"), "length": -1, "id": None, "_type": "Sequence"}
    check_declared({"features": {"n": old, "m": value("float")}}, "a")
