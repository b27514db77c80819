"""PyTorch's threads and GPUs, and the progress bars of transformers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import InputError

__all__ = ["check_gpu", "gpu_available", "no_progress_bars", "one_thread"]

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of a GPU's driver: NVIDIA's, AMD's, Windows' in a Linux guest."""


def gpu_available() -> bool:
    """Return whether PyTorch finds a GPU.

    PyTorch takes seconds to import, so it is not imported where no driver of a GPU is loaded.
    """
    if "torch" not in sys.modules and not any(Path(path).exists() for path in _DRIVERS):
        return False
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def check_gpu(key: str) -> None:
    """Raise InputError for the recipe's ``key`` where PyTorch finds no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            key=key, expected="a GPU that torch can use", got="none", fix="use the CPU"
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit PyTorch and BLAS to one thread: their last bits can depend on the number of threads."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Load models without the progress bars of transformers."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
