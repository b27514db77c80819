"""The choice of a back end by ``train.backend``."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from typing import Any

import pytest

from penstock.errors import RecipeError
from penstock.recipe import Train
from penstock.trainers.backends import BACKENDS, find_backend
from penstock.trainers.backends.base import BackendModule


@pytest.mark.parametrize("name", BACKENDS)
def test_a_plain_recipe_starts_with_each(name: str) -> None:
    find_backend(name).check(Train(backend=name))


@pytest.mark.parametrize("name", BACKENDS)
def test_each_has_the_functions_of_the_protocol(name: str) -> None:
    module = find_backend(name)
    for function in (
        "check",
        "resolve_dtype",
        "trajectory",
        "layout",
        "start",
        "converted",
        "read_state",
    ):
        _self, *wanted = inspect.signature(getattr(BackendModule, function)).parameters
        assert [*inspect.signature(getattr(module, function)).parameters] == wanted


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(RecipeError) as info:
        find_backend("pytorch")
    assert (info.value.key, info.value.got) == ("train.backend", "'pytorch'")
    assert "deepspeed, torch" in (info.value.expected or "")
    assert "'torch'" in (info.value.fix or "")


def test_settings_of_deepspeed_are_refused_under_torch() -> None:
    train = Train(backend="torch", deepspeed={"zero_optimization": {"stage": 1}})
    with pytest.raises(RecipeError) as info:
        find_backend("torch").check(train)
    assert (info.value.key, info.value.got) == ("train.deepspeed", "zero_optimization")
    assert "`train.backend: deepspeed`" in (info.value.fix or "")


def test_a_machine_without_deepspeed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == "deepspeed" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(RecipeError) as info:
        find_backend("deepspeed").check(Train())
    assert info.value.key == "train.backend"
    assert "penstock[train]" in str(info.value) and "`train.backend: torch`" in str(info.value)
    assert "\n" not in str(info.value)
    find_backend("torch").check(Train(backend="torch"))


@pytest.mark.slow
def test_the_trainer_is_imported_without_deepspeed_and_ray() -> None:
    """A machine that trains with ``torch`` has neither; checkpoints are read there, too."""
    blocked = "import sys; sys.modules.update(deepspeed=None, ray=None)"
    modules = ("backends.torch", "checkpoints.saving", "run", "worker")
    imports = "; ".join(f"import penstock.trainers.{module}" for module in modules)
    done = subprocess.run([sys.executable, "-c", f"{blocked}; {imports}"], check=False)
    assert done.returncode == 0
