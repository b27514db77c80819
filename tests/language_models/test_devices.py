"""GPUs: PyTorch is asked, and imported only where a driver is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock.language_models import devices


@pytest.mark.parametrize("found", [False, True])
def test_pytorch_says_whether_there_is_a_gpu(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_available=lambda: found)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(devices, "_DRIVERS", ())  # imported already, so it costs nothing
    assert devices.gpu_available() is found


def test_pytorch_is_imported_only_where_a_driver_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch.py"
    package.write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(devices, "_DRIVERS", (str(tmp_path / "none"),))
    assert not devices.gpu_available()
    assert "torch" not in sys.modules
    monkeypatch.setattr(devices, "_DRIVERS", (str(tmp_path / "none"), str(package)))
    assert devices.gpu_available()
    assert sys.modules.pop("torch").__file__ == str(package)


def test_a_driver_without_pytorch_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # its import fails
    assert devices.gpu_available() is False
