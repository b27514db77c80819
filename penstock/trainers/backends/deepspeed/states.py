"""DeepSpeed's part of a checkpoint.

A checkpoint is written by all workers and read by as many or by others. At the same number of
workers each reads back the file that its rank wrote. At another, rank 0 first converts the files to
DeepSpeed's universal format, which stores every parameter separately; that reads and writes the
whole checkpoint once more. Without ZeRO every worker holds everything, and nothing is converted.

**DeepSpeed unpickles its files.** So while it reads, ``torch.load`` opens only the files of the
checkpoint's signed manifest and those that the conversion wrote, and compares the bytes that it
unpickles (:func:`_only_verified`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import uuid
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from penstock.errors import TrainingError
from penstock.storage import atomic_file, files_under
from penstock.trainers.backends.base import CanonicalState
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.group import Group

__all__ = ["converted", "load_state", "read_state", "save_state"]

TAG = "deepspeed"
"""DeepSpeed's name for its files, and their directory in a checkpoint."""

_RANK = re.compile(r"(?:zero_pp_rank_|offloaded_tensors/rank)(\d+)")


def save_state(engine: Any, directory: Path, rank: int) -> list[str]:
    """Write model and optimiser into ``directory``; every worker must call this.

    Args:
        engine: DeepSpeed's.
        directory: The checkpoint's; rank 0 has made it, or makes it before it calls this.
        rank: This worker.

    Returns:
        Files that this worker wrote, relative to ``directory``.
    """
    engine.save_checkpoint(str(directory), tag=TAG, save_latest=False)
    if rank == 0:
        for script in directory.glob("zero_to_*.py"):  # DeepSpeed's tools, which it has anyway
            script.unlink()
    names = [f"{TAG}/{name}" for name in files_under(directory / TAG)]
    return [name for name in names if _writer(name) == rank]


def load_state(engine: Any, files: VerifiedFiles, group: Group, wrote: int) -> None:
    """Read model and optimiser back; every worker must call this.

    Args:
        engine: DeepSpeed's, which has not trained yet.
        files: Those of the checkpoint.
        group: The workers.
        wrote: Workers that wrote the checkpoint.

    Raises:
        TrainingError: DeepSpeed cannot read it.
    """
    if wrote == group.workers or not _is_partitioned(files):
        with _only_verified(files):
            _load(engine, files.directory)
        return
    scratch = files.directory.parent / f".universal.{uuid.uuid4().hex[:8]}.tmp"
    own = converted(files, scratch) if group.rank == 0 else files
    own, scratch = group.gather((own, scratch))[0]
    with _only_verified(own), _universal(engine):
        _load(engine, scratch)
    group.barrier()
    if group.rank == 0:
        shutil.rmtree(scratch)


def converted(files: VerifiedFiles, scratch: Path) -> VerifiedFiles:
    """Convert a checkpoint of a ZeRO stage to DeepSpeed's universal format, into ``scratch``.

    Returns:
        The files of the checkpoint, and those of the conversion.
    """
    if not _is_partitioned(files):
        return files
    source, target = files.directory / TAG, scratch / TAG
    with _only_verified(files) as written:
        _convert(source, target)
    for name in files_under(target):  # it copies the files that hold no partition
        copied = files.sha256.get(str(source / name))
        if copied is not None:
            written.setdefault(str(target / name), copied)
    return files.adding(written)


def read_state(files: VerifiedFiles) -> CanonicalState:
    """Read the files that :func:`converted` returned, without an engine."""
    directory = files.directory / TAG
    file = min(directory.glob("*mp_rank_00_model_states.pt"))  # stage 3: one of each rank
    with _only_verified(files):
        own = torch.load(file, map_location="cpu", weights_only=False, mmap=True)
    if _is_partitioned(files):
        places = {(Path(one).parent.name, Path(one).stem): Path(one) for one in files.sha256}
        shapes = {name: shape for group in own["param_shapes"] for name, shape in group.items()}

        def read_converted(name: str, kind: str) -> torch.Tensor:
            path = places[name, "fp32" if kind == "weight" else kind]
            with _only_verified(files):
                saved = torch.load(path, map_location="cpu", weights_only=False)
            found = torch.as_tensor(saved["param"] if isinstance(saved, dict) else saved).float()
            return found.flatten()[: shapes[name].numel()].view(shapes[name])  # ZeRO 3: flat

        return CanonicalState(step=_taken(own), read=read_converted)
    optimizer = own["optimizer"]
    states = optimizer.get("optimizer_state_dict", optimizer)["state"]
    numbers = {name: number for number, name in enumerate(_in_groups(own))}
    masters = [one for group in optimizer.get("fp32_groups", ()) for one in group]

    def read(name: str, kind: str) -> torch.Tensor:
        if kind == "weight":
            found = masters[numbers[name]] if masters else own["module"][name]
        else:
            found = states[numbers[name]][kind]
        return torch.as_tensor(found).float()

    return CanonicalState(step=_taken(own), read=read)


@contextlib.contextmanager
def _only_verified(files: VerifiedFiles) -> Iterator[dict[str, str]]:
    """Let ``torch.load`` read verified files only; record what ``torch.save`` writes.

    DeepSpeed calls both in many places, with paths.

    Yields:
        The sha256 of each file that was written within the context, by path. It can be read back.
    """
    written: dict[str, str] = {}
    load, save = torch.load, torch.save

    def load_verified(path: Any, *args: Any, **options: Any) -> Any:
        with files.adding(written).opened(Path(path)) as source:
            # A name of the same bytes, since PyTorch maps no open file into memory.
            named = f"/dev/fd/{source.fileno()}"
            return load(named if options.get("mmap") else source, *args, **options)

    def save_recorded(value: Any, path: Any, *args: Any, **options: Any) -> None:
        name = os.path.abspath(path)
        content = io.BytesIO()
        save(value, content, *args, **options)
        written[name] = hashlib.sha256(content.getbuffer()).hexdigest()
        with atomic_file(Path(name), durable=False) as sink:  # not through a link
            sink.write(content.getbuffer())

    torch.load, torch.save = load_verified, save_recorded  # type: ignore[assignment]
    try:
        yield written
    finally:
        torch.load, torch.save = load, save


def _is_partitioned(files: VerifiedFiles) -> bool:
    """Return whether a ZeRO stage wrote a checkpoint: then its files are those of single ranks."""
    return any(_RANK.search(name) for name in files.names())


def _in_groups(own: dict[str, Any]) -> list[str]:
    """Return parameter names in the order of the optimiser's groups: matrices, then gains."""
    named = {
        weight.data_ptr(): name  # of tied weights one, the first
        for name, weight in reversed(own["module"].items())
        if name not in own["buffer_names"]
    }
    weights = own["module"]
    kept = [name for name in weights if name in set(named.values())]
    return sorted(kept, key=lambda name: weights[name].dim() <= 1)


def _taken(own: dict[str, Any]) -> int:
    """Return the updates that were made; DeepSpeed counts steps that overflowed, too."""
    return int(own["global_steps"]) - int(own.get("skipped_steps", 0))


def _writer(name: str) -> int:
    found = _RANK.search(name)
    return int(found[1]) if found else 0


def _load(engine: Any, directory: Path) -> None:
    loaded, _ = engine.load_checkpoint(str(directory), tag=TAG)
    if loaded is None:
        raise TrainingError(
            "DeepSpeed found no checkpoint of its own",
            file=directory,
            fix="delete the directory to start from the first step",
        )


def _convert(source: Path, target: Path) -> None:
    """Write a checkpoint in DeepSpeed's universal format, where every parameter has its files."""
    from deepspeed.checkpoint.ds_to_universal import main

    target.parent.mkdir(mode=0o700)  # raises where something lies there, such as a link
    target.mkdir()
    # It writes its progress to both, which here are Ray's logs.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(
            Namespace(
                input_folder=str(source),
                output_folder=str(target),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )


@contextlib.contextmanager
def _universal(engine: Any) -> Iterator[None]:
    """Make the engine load the universal format, and repair what DeepSpeed 0.19 does for ZeRO 3.

    It gives every parameter group the settings of the first, so gains would begin to decay. All
    groups share one counter of steps, which each advances: with two groups losses were 0.2 % off
    after ten steps.
    """
    groups = engine.optimizer.param_groups
    settings = [{key: group[key] for key in group if key != "params"} for group in groups]
    engine._config.load_universal_checkpoint = True
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False
    for group, values in zip(engine.optimizer.param_groups, settings):
        group.update(values)
    for state in engine.optimizer.optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()
