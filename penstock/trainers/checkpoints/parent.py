"""The checkpoint of another run, from which a run continues (``train.continue_from``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from penstock.errors import PenstockError, TrainingError
from penstock.hashing import mix
from penstock.trainers.backends.base import CanonicalState
from penstock.trainers.branches import BranchPoint
from penstock.trainers.checkpoints.folder import Committed
from penstock.trainers.checkpoints.manifest import SignedManifest
from penstock.trainers.checkpoints.saving import Cursor
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.data.plan import groups_of
from penstock.trainers.data.position import DataPosition
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group
from penstock.trainers.spec import RunSpec

__all__ = ["ParentCheckpoint", "first_position", "fitting"]


@dataclass(frozen=True, slots=True)
class ParentCheckpoint:
    """A checkpoint of another run, of which every byte was compared with its signed record."""

    files: VerifiedFiles
    cursor: Cursor

    @classmethod
    def open(cls, point: BranchPoint, group: Group, signer: Signer) -> ParentCheckpoint:
        """Read every byte of the checkpoint once, each worker a share; all call this together.

        Raises:
            TrainingError: It is missing or damaged, of a newer format, or was not signed by this
                user and its directory is not trusted.
            RecipeError: It does not exist, as :meth:`BranchPoint.check`.
        """
        point.check()
        found: tuple[Committed, str | TrainingError | None] | None = None
        if group.rank == 0:
            candidate = Committed(point.path, SignedManifest.read(point.path))
            try:
                found = candidate, candidate.manifest.fault(candidate.path, signer)
            except TrainingError as error:
                found = candidate, error
        both = group.gather(found)[0]
        assert both is not None
        candidate, fault = both
        if isinstance(fault, TrainingError):
            raise fault
        share = candidate.fault(group.rank, group.workers)
        fault = fault or next(filter(None, group.gather(share)), None)
        if fault is not None:
            raise TrainingError(
                f"the checkpoint to continue from is damaged ({fault})",
                key="train.continue_from",
                file=point.path,
                fix="choose another step of the run",
            )
        files = VerifiedFiles.of(candidate.path, candidate.files)
        return cls(files, Cursor.read(files))


def first_position(cursor: Cursor, spec: RunSpec, shards: ShardSet) -> tuple[DataPosition, str]:
    """Return where the data of a branch begins, and why, for the user.

    With the shards of the parent, grouped alike, each source's permutation goes on with the first
    sequence that the parent had not read. Else the order begins anew.

    Args:
        cursor: Of the parent's checkpoint.
        spec: The branch.
        shards: Its shards.
    """
    assert spec.parent is not None
    groups = {group.name: group.size for group in groups_of(spec.train, shards)}
    if cursor.shards != shards.artefact.digest:
        why = "other shards"
    elif cursor.position is None:
        why = "the checkpoint is of a version that kept no positions"
    elif cursor.position.groups != groups:
        why = "the shards are grouped otherwise by train.mixture"
    else:
        return cursor.position, "each source goes on where it was"
    order = mix("branch", spec.seed, spec.parent.run, spec.parent.step)
    return DataPosition(order=order), f"the order of the data begins anew ({why})"


def fitting(state: CanonicalState, shapes: Mapping[str, torch.Size], where: str) -> CanonicalState:
    """Return a state whose tensors are compared with the shapes of a model's weights.

    Args:
        state: Of a checkpoint.
        shapes: By the names of the model's parameters.
        where: The checkpoint's directory, for errors.
    """

    def read(name: str, kind: str) -> torch.Tensor:
        try:
            found = state.read(name, kind)
        except PenstockError:
            raise
        except Exception as error:  # each back end has its own for a name that is not there
            if kind != "weight":  # the weight itself was there
                raise _other_optimizer(name, kind, where) from error
            raise _other_model(name, shapes[name], "no such weight", where) from error
        if found.shape != shapes[name]:
            raise _other_model(name, shapes[name], tuple(found.shape), where)
        return found

    return CanonicalState(step=state.step, read=read)


def _other_optimizer(name: str, kind: str, where: str) -> TrainingError:
    return TrainingError(
        f"the run to continue from kept no {kind} of {name}",
        key="train.optimizer",
        file=where,
        expected="the optimizer of that run",
        fix="take train.optimizer of that run's recipe",
    )


def _other_model(name: str, shape: torch.Size, got: object, where: str) -> TrainingError:
    return TrainingError(
        f"the run to continue from has another model ({name})",
        key="train.model",
        file=where,
        expected=f"its model and vocabulary, here of shape {tuple(shape)}",
        got=got,
        fix="take train.model and tokenizer of that run's recipe",
    )
