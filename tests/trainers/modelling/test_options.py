from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from penstock.errors import InputError
from penstock.recipe import ModelShape, Train
from penstock.trainers.backends.deepspeed.engine import load_deepspeed
from penstock.trainers.data.batch import Batch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.modelling.build import (
    apply_options,
    build_model,
    check_compiler,
    compile_inner,
    recompute_activations,
)
from penstock.trainers.modelling.model import LanguageModel
from tests.packed import collate, row_of

# torch._dynamo warns of what it traces, in PyTorch itself.
pytestmark = pytest.mark.filterwarnings("default")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def opened(shards: Path) -> ShardSet:
    return ShardSet.open(shards)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def built(opened: ShardSet) -> LanguageModel:
    return build_model(ModelShape(layers=1, width=32, heads=2), opened, seed=0)


def batches(opened: ShardSet) -> list[Batch]:
    """Batches of 4, 4, 3 and 2 sequences, with different numbers of documents."""
    rows = [range(0, 4), range(4, 8), range(8, 11), range(11, 13)]
    made = [collate([row_of(opened, index) for index in some]) for some in rows]
    assert len({len(batch.spans) for batch in made}) > 2
    return made


def gradients(model: LanguageModel, batch: Batch) -> list[torch.Tensor]:
    """The loss and its gradients."""
    loss = model(batch)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def test_compiled_code_gives_the_same_losses_and_gradients_and_is_compiled_once(
    opened: ShardSet,
) -> None:
    plain, compiled = built(opened), built(opened)
    counter = CompileCounterWithBackend("aot_eager")
    compile_inner(compiled, backend=counter)
    graphs = []
    for batch in batches(opened):
        for mine, theirs in zip(gradients(compiled, batch), gradients(plain, batch), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        graphs.append(counter.frame_count)
    assert graphs[0] > 0 and set(graphs) == {graphs[0]}, "something was compiled again"
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor_code_gives_the_same_losses(opened: ShardSet) -> None:
    """Forward only and as one graph, which a mask allows: compilation is slow."""
    plain, compiled = built(opened), built(opened)
    compiled.attend_by_spans(False)
    apply_options(compiled, Train(compile=True), CPU)
    with torch.no_grad():
        for batch in batches(opened):
            torch.testing.assert_close(compiled(batch), plain(batch), rtol=1e-5, atol=0)


def test_a_machine_without_a_compiler_is_refused_before_it_begins(
    opened: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError) as info:
        apply_options(built(opened), Train(compile=True), CPU)
    assert info.value.key == "train.compile" and "'no-such-compiler'" in info.value.problem
    monkeypatch.setenv("CXX", "sh")
    check_compiler(CPU)


def test_a_model_that_cannot_recompute_activations_is_refused(opened: ShardSet) -> None:
    model = built(opened)
    model.causal.supports_gradient_checkpointing = False
    with pytest.raises(InputError) as info:
        recompute_activations(model)
    assert info.value.key == "train.activation_checkpointing" and "llama" in info.value.problem


def test_deepspeed_is_imported_with_caches_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: a file ``/tmp/torchinductor_NAME`` of another user ended each run in EEXIST."""
    names = ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR"]
    for name in names:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    package = tmp_path / "deepspeed"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os, types\nops = types.SimpleNamespace()\nfound = dict(os.environ)\n"
    )
    (package / "git_version_info.py").write_text("installed_ops = {}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "deepspeed"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    found = load_deepspeed(CPU).found
    for name in ("deepspeed", "deepspeed.git_version_info"):
        sys.modules.pop(name)
    places = [Path(found[name]) for name in names]
    assert len(set(places)) == 3 and {place.parents[1] for place in places} == {tmp_path / "tmp"}
    assert all(place.parent.stat().st_mode & 0o77 == 0 for place in places)


def test_without_options_nothing_is_applied(opened: ShardSet) -> None:
    model = built(opened)
    apply_options(model, Train(), CPU)
    assert model.inner._compiled_call_impl is None
    assert not model.inner.gradient_checkpointing


def test_compiled_code_is_kept_where_no_other_user_can_put_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch unpickles files of ``/tmp/torchinductor_NAME``, which anyone can make first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.setenv(name, "")
    compiled = []
    inner = SimpleNamespace(compile=lambda **options: compiled.append(options))
    compile_inner(SimpleNamespace(inner=inner))  # type: ignore[arg-type]
    cache = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert compiled and cache.parents[1] == tmp_path
    for directory in (cache, cache.parent):
        assert (directory.stat().st_uid, directory.stat().st_mode & 0o77) == (os.geteuid(), 0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    compile_inner(SimpleNamespace(inner=inner))  # type: ignore[arg-type]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
