"""``penstock`` with units so small that little text has many: no recipe key sets their size."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from penstock.garbage import collection_paused

with collection_paused():
    from penstock.jobs import cli
    from penstock.pipeline.cleaning import verdicts
    from penstock.pipeline.corpus import CorpusSettings
    from penstock.recipe import Recipe

GROUP_DOCUMENTS = 60
"""Documents of a group of units, and of a range of hashes: a million and more elsewhere."""


def shrink_groups() -> None:
    """Judge small groups, so that little text has several."""
    verdicts._GROUP_DOCUMENTS = GROUP_DOCUMENTS
    verdicts._RANGE_DOCUMENTS = GROUP_DOCUMENTS


def main(arguments: Sequence[str], unit_bytes: int) -> None:
    """Run a command of Penstock; nothing but the sizes of units and of their groups differs."""
    settings_of = CorpusSettings.of

    def small(recipe: Recipe) -> CorpusSettings:
        return settings_of(recipe, unit_bytes)

    CorpusSettings.of = small  # type: ignore[method-assign, assignment]
    shrink_groups()
    sys.argv = ["penstock", *arguments]
    cli.main(list(arguments))


if __name__ == "__main__":
    main(sys.argv[1:], int(os.environ["PENSTOCK_TEST_UNIT_BYTES"]))
