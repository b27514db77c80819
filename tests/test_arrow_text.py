"""Views of Arrow's texts, UTF-8, white space, and compiled code that follows changes of files."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import compiling
from penstock.arrow_text import decode_utf8, encode_utf8, is_white_space, text_view
from penstock.errors import SelectorError

TEXTS = ["", "water", "é\u0000", "漢字\U0001f600", "", "x" * 1000]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_view_of_a_slice_has_the_slices_texts(kind: pa.DataType) -> None:
    array = pa.array(TEXTS, kind)
    for begin in range(len(TEXTS) + 1):
        for end in range(begin, len(TEXTS) + 1):
            view = text_view(array[begin:end])
            offsets = view.offsets.tolist()
            found = [view.data[a:b].tobytes().decode() for a, b in pairwise(offsets)]
            assert found == TEXTS[begin:end]
            assert view.longest == max([len(text.encode()) for text in found], default=0)
            assert (view.data.dtype, view.offsets.dtype) == (np.uint8, np.int64)
            assert not view.data.flags.writeable and not view.offsets.flags.writeable


def test_an_array_of_nulls_has_a_view() -> None:
    view = text_view(pa.array([None, None], pa.large_string()))
    assert (view.offsets.tolist(), view.longest) == ([0, 0, 0], 0)


def test_other_types_are_refused() -> None:
    with pytest.raises(SelectorError) as info:
        text_view(pa.array([1]))
    assert (info.value.expected, info.value.got) == ("an array of string or large_string", "int64")


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_utf8_decodes_to_the_code_points(text: str) -> None:
    data, at, found = text_view(pa.array([text])).data, 0, []
    while at < len(text.encode()):
        code, at = decode_utf8(data, at)
        found.append(chr(code))
    assert "".join(found) == text
    out, to = np.zeros(len(data), np.uint8), 0
    for character in text:
        to = encode_utf8(ord(character), out, to)
    assert out.tobytes() == text.encode()


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_white_space_is_seven_bytes(kind: type) -> None:
    every = np.arange(256).astype(np.uint8).view(kind)
    assert [chr(byte) for byte in range(256) if is_white_space(every[byte])] == [*"\0\t\n\v\f\r "]


def test_a_kernel_is_compiled_anew_after_a_change_in_a_file_that_it_imports(
    tmp_path: Path,
) -> None:
    """Without the digest in its name, numba's cache returns the loop with the old constant."""
    shutil.copy(str(compiling.__file__), tmp_path)
    (tmp_path / "loop.py").write_text(
        "import helper\nfrom compiling import compiler\nfrom helper import add\n"
        "_compiled = compiler(helper)\n"
        "@_compiled\ndef loop(n):\n    total = 0\n    for i in range(n):\n"
        "        total = add(total)\n    return total\n"
    )

    def run(step: int) -> list[str]:
        (tmp_path / "helper.py").write_text(
            "from compiling import compiler\n_compiled = compiler()\n"
            f"@_compiled\ndef add(value):\n    return value + {step}\n"
        )
        code = "import loop; print(loop.loop(3), sum(loop.loop.stats.cache_hits.values()))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert run(1) == ["3", "0"]
    assert run(1) == ["3", "1"]
    assert run(22) == ["66", "0"]


def test_every_kernel_names_the_files_that_it_is_compiled_with() -> None:
    """Each name imported from another kernel or from hashing is of a module given to compiler."""
    checked = 0
    package = Path(str(compiling.__file__)).parent
    for path in [*package.glob("selectors/kernels/*.py"), *package.glob("rules/**/*.py")]:
        tree = ast.parse(path.read_text())
        given = [
            {argument.id for argument in node.args if isinstance(argument, ast.Name)}
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "compiler"
        ]
        if not given:
            continue
        bodies = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            and "_compiled" in map(ast.unparse, node.decorator_list)
        ]
        used = {
            one.id
            for body in bodies
            for statement in body.body
            for one in ast.walk(statement)
            if isinstance(one, ast.Name)
        }
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("penstock."):
                module = str(node.module).rpartition(".")[2]
                if any(one.name in used for one in node.names):
                    assert module in given[0], (path.name, module)
                    checked += 1
    assert checked >= 6
