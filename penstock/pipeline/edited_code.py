"""Which modules of a user's code were edited since an artefact of the same name was made.

Results are named by code, so after an edit they are made again. Which edit it was is found by
comparing identities: that of now, and those that manifests of finished artefacts have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from penstock.artefact import Artefact, Workspace, canonical
from penstock.errors import ArtefactError
from penstock.redaction import mask_values
from penstock.storage import store_of

__all__ = ["edited_lines", "edited_modules", "made_before", "plain_identity"]


def plain_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as a manifest has it."""
    own: dict[str, Any] = json.loads(canonical(mask_values(dict(identity))))
    return own


def made_before(workspace: Workspace, stage: str) -> Iterator[Artefact]:
    """Yield the finished artefacts of a stage, the last one first.

    None where the work directory is in a store: there it would cost a request for each.
    """
    here = store_of(workspace.root).local(workspace.root)
    if here is None:
        return
    found = [(path.stat().st_mtime_ns, path) for path in here.glob(f"{stage}/*/manifest.json")]
    for _, path in sorted(found, reverse=True):
        try:
            yield Artefact.open(path.parent)
        except ArtefactError:  # of an old one, which nothing reads here
            continue


def edited_modules(own: Mapping[str, Any], before: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the modules that differ from those of the last identity; none if one is the same.

    Args:
        own: Has the identity of its code under ``code``.
        before: Earlier ones, the last one first.
    """
    earlier = list(before)
    if not own.get("code", {}).get("modules") or not earlier or own in earlier:
        return ()
    now, then = dict(own["code"]["modules"]), dict(earlier[0].get("code", {}).get("modules", ()))
    return tuple(sorted(name for name in {*now, *then} if now.get(name) != then.get(name)))


def edited_lines(
    key: str,
    workspace: Workspace,
    stage: str,
    identity: Mapping[str, Any],
    identity_of: Callable[[Mapping[str, Any]], Mapping[str, Any] | None],
    ending: str = "",
) -> Iterator[str]:
    """Yield a line if the code of a plug-in was edited since it made an artefact.

    Args:
        key: The plug-in's in the recipe, as ``clean.rules.mine``.
        workspace: Holds the artefacts.
        stage: Of the artefacts that the plug-in makes.
        identity: Its identity now, with that of its code under ``code``.
        identity_of: Returns the plug-in's identity in the configuration of a finished artefact;
            None for one that another plug-in made.
        ending: Of the line, after ``changed``.
    """
    if not identity.get("code", {}).get("modules"):
        return
    found = (identity_of(one.manifest["config"]) for one in made_before(workspace, stage))
    changed = edited_modules(plain_identity(identity), [own for own in found if own is not None])
    if changed:
        yield f"{key}: the code of {', '.join(changed)} changed{ending}"
